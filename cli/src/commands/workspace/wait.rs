//! `twinshare workspace wait`

use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Args;
use twinshare_daemon::api::wire::{Replica, ReplicaState, SettlingStage};
use twinshare_daemon::client::Client;

use crate::error::{Error, Kind, Result};
use crate::interrupts::Interrupts;
use crate::node;
use crate::output::{Format, line};
use crate::progress;
use crate::replicas::clone;
use crate::text::{shown, span};

use super::edits;
use super::status::in_words;

/// Between two looks at the clone.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// For how long one that nobody is seen in is waited for to settle, once it is complete.
const SETTLES_WITHIN: Duration = Duration::from_secs(10);

/// Wait until everything of a clone is here.
///
/// Returns when it needs its peer no more: it is an ordinary directory then, or will be when those who use it leave.
/// Ctrl-C ends the waiting, not the fetching.
#[derive(Debug, Args)]
#[command(before_help = "Examples:
  twinshare workspace wait demo
  twinshare workspace wait ~/twinshare/demo --timeout 600")]
pub(crate) struct Wait {
    /// `[PEER/]NAME` or directory of a clone
    #[arg(value_name = "NAME|DIR")]
    name: String,
    /// Give up after so many seconds
    #[arg(long, value_name = "SECONDS")]
    timeout: Option<u64>,
    #[command(flatten)]
    format: Format,
}

impl Wait {
    pub(crate) fn run(self) -> Result {
        let complete = node::wait(async {
            let client = node::client()?;
            let mut interrupts = Interrupts::listen()?;
            interrupts.end(self.complete(&client)).await
        })?;
        self.format.print(&complete, |clone| {
            line(format!("{} is {}", shown(&clone.directory), in_words(clone)))?;
            edits::print(clone, edits::SOME)
        })?;
        Ok(ExitCode::SUCCESS)
    }

    async fn complete(&self, client: &Client) -> Result<Replica> {
        let id = clone(client, &self.name).await?.id;
        node::leave_directory()?;
        complete(client, &id, self.timeout.map(Duration::from_secs)).await
    }
}

/// Waits, showing how much is here, until a clone needs its peer no more, or for so long.
pub(super) async fn complete(client: &Client, id: &str, patience: Option<Duration>) -> Result<Replica> {
    let began = Instant::now();
    let (bar, mut complete_since) = (progress::bytes_bar(), None);
    loop {
        let now = client.clone_status(id).await?;
        progress::show_bytes(&bar, now.progress.as_ref(), &in_words(&now));
        if let Some(why) = stuck(&now) {
            bar.finish_and_clear();
            let message =
                format!("{} is complete, and no ordinary directory yet: {why}", shown(&now.directory));
            return Err(Error::new(Kind::Failure, message).hint("it is tried again every minute"));
        }
        if is_over(&now, &mut complete_since) {
            bar.finish_and_clear();
            return Ok(now);
        }
        if let Some(patience) = patience.filter(|patience| began.elapsed() >= *patience) {
            bar.finish_and_clear();
            let directory = shown(&now.directory);
            let message = format!("{directory} is not complete after {}: {}", span(patience), in_words(&now));
            return Err(Error::new(Kind::Failure, message).hint("it goes on in the background"));
        }
        if now.state == ReplicaState::Failed {
            bar.finish_and_clear();
            let message = format!("{} is {}", shown(&now.directory), in_words(&now));
            return Err(Error::new(Kind::Failure, message).hint("`twinshare doctor` may say more"));
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// True when there is nothing to wait for any more.
fn is_over(clone: &Replica, complete_since: &mut Option<Instant>) -> bool {
    if clone.state == ReplicaState::Settled {
        return true;
    }
    let Some(settling) = &clone.settling else { return false };
    // A plain one is of no use before it has settled.
    if settling.stage == SettlingStage::Hydrating || clone.plain {
        return false;
    }
    let is_in_the_way = !settling.users.is_empty() || settling.detail.is_some();
    let since = *complete_since.get_or_insert_with(Instant::now);
    is_in_the_way || !settling.by_itself || since.elapsed() >= SETTLES_WITHIN
}

/// Why a plain clone of which everything is here could not become an ordinary directory.
fn stuck(clone: &Replica) -> Option<String> {
    let settling =
        clone.settling.as_ref().filter(|_| clone.plain && clone.state == ReplicaState::Hydrating)?;
    let detail = settling.detail.as_ref().filter(|_| settling.stage != SettlingStage::Hydrating)?;
    Some(shown(detail).to_string())
}
