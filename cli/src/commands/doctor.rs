//! `twinshare doctor`

use std::process::ExitCode;

use clap::Args;
use twinshare_daemon::api::wire::{Check, CheckState, List};
use twinshare_daemon::client::ClientError;
use twinshare_daemon::home::Home;
use twinshare_daemon::node::examine_without_node;

use crate::error::Result;
use crate::node;
use crate::output::{Format, colours, line};
use crate::text::shown;

/// Find out what keeps the node from working, or from working well.
///
/// Looks and changes nothing. Without a running node, what needs none is checked. The exit code is 1 if something does
/// not work.
#[derive(Debug, Args)]
#[command(before_help = "Examples:
  twinshare doctor")]
pub(crate) struct Doctor {
    #[command(flatten)]
    format: Format,
}

impl Doctor {
    pub(crate) fn run(self) -> Result {
        let checks = node::wait(async { Ok(List::from(examine().await?)) })?;
        self.format.print(&checks, |checks| checks.items.iter().try_for_each(people))?;
        let failed = checks.items.iter().any(|check| check.state == CheckState::Fail);
        Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
    }
}

async fn examine() -> Result<Vec<Check>> {
    match node::client()?.doctor().await {
        Err(ClientError::NotRunning { .. }) => {
            let mut found = examine_without_node(&Home::from_environment()?).await;
            found.push(no_node());
            Ok(found)
        }
        answer => Ok(answer?),
    }
}

fn no_node() -> Check {
    Check {
        name: "node".to_owned(),
        state: CheckState::Warn,
        message: "the node is not running, so its port and its discovery were not checked".to_owned(),
        fix: Some("twinshare p2p start".to_owned()),
    }
}

fn people(check: &Check) -> Result<()> {
    let (word, colour) = match check.state {
        CheckState::Ok => ("ok  ", 32),
        CheckState::Warn => ("warn", 33),
        CheckState::Fail => ("FAIL", 31),
    };
    let word = if colours() { format!("\x1b[{colour}m{word}\x1b[0m") } else { word.to_owned() };
    line(format!("{word}  {:<12}  {}", shown(&check.name), shown(&check.message)))?;
    match &check.fix {
        Some(fix) => line(format!("      {:<12}  {}", "", shown(fix))),
        None => Ok(()),
    }
}
