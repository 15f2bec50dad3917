//! `twinshare mount`

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use twinshare_daemon::api::wire::{MountRequest, Replica};
use twinshare_daemon::client::Client;

use crate::error::Result;
use crate::interrupts::Interrupts;
use crate::node;
use crate::output::{Format, line, note};
use crate::progress;
use crate::text::shown;

/// See somebody's workspace as a folder.
///
/// Nothing is copied first: names, sizes and times are there at once, contents are fetched when they are read.
#[derive(Debug, Args)]
#[command(before_help = "Examples:
  twinshare mount demo
  twinshare mount anna/demo /mnt/demo --when-gone wait=60s")]
pub(crate) struct Mount {
    /// The workspace; the peer is needed only where several offer one of that name
    #[arg(value_name = "[PEER/]NAME")]
    workspace: String,
    /// Where it appears: a directory that is empty or does not exist; without it, `~/twinshare/peers/PEER/NAME`
    directory: Option<PathBuf>,
    #[command(flatten)]
    when_gone: WhenGone,
    #[command(flatten)]
    format: Format,
}

/// What a reader waits for once the peer is gone.
#[derive(Debug, Args)]
pub(crate) struct WhenGone {
    /// What a program waits for that reads something not fetched yet while the peer is away
    ///
    /// `fail`: for nothing; `wait`: until the peer is back; `wait=10s`: for so long. Without it, as the node's
    /// configuration says.
    #[arg(long, value_name = "fail|wait|wait=TIME")]
    pub(crate) when_gone: Option<String>,
}

impl Mount {
    pub(crate) fn run(self) -> Result {
        let directory = self.directory.as_deref().map(node::absolute).transpose()?;
        let request =
            MountRequest { workspace: self.workspace, directory, when_gone: self.when_gone.when_gone };
        let view = node::wait(async { mount(&node::client()?, &request, &mut Interrupts::listen()?).await })?;
        self.format.print(&view, |view| line(shown(&view.directory)))?;
        note_left_out(&view)?;
        Ok(ExitCode::SUCCESS)
    }
}

/// Says beside the output that something is missing, where that is known already.
pub(crate) fn note_left_out(replica: &Replica) -> Result<()> {
    let Some(left_out) = &replica.left_out else { return Ok(()) };
    let directory = shown(&replica.directory);
    note(format!(
        "{} of the peer's files and directories are left out; `twinshare workspace show {directory}` says which and why",
        left_out.total
    ))
}

/// Mounts a view and waits until it can be used.
pub(crate) async fn mount(
    client: &Client,
    request: &MountRequest,
    interrupts: &mut Interrupts,
) -> Result<Replica> {
    let begun = interrupts.end(async { Ok(client.mount(request).await?) }).await?;
    progress::follow(client, begun, interrupts).await
}
