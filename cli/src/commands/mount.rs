//! `twinshare mount`

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use twinshare_daemon::api::wire::{MountRequest, Replica, ReplicaKind, ReplicaState};
use twinshare_daemon::client::Client;

use super::workspace::full_name;
use crate::error::Result;
use crate::interrupts::Interrupts;
use crate::node;
use crate::output::{Format, line, note};
use crate::progress;
use crate::text::{ago, date, shown};

/// See somebody's workspace as a folder.
///
/// Nothing is copied first: names, sizes and times are there at once, contents are fetched when they are read. A mount that is
/// there already is left as it is, and told of; JSON then has `was_there`.
#[derive(Debug, Args)]
#[command(before_help = "Examples:
  twinshare mount demo
  twinshare mount anna/demo /mnt/demo --when-gone wait=60s")]
pub(crate) struct Mount {
    #[command(flatten)]
    wanted: Wanted,
}

/// What is wanted of a peer, for a mount as for a clone.
#[derive(Debug, Args)]
pub(crate) struct Wanted {
    /// The workspace; the peer is needed only where several offer one of that name
    #[arg(value_name = "[PEER/]NAME")]
    pub(crate) workspace: String,
    /// Where it appears: a directory that is empty or does not exist
    ///
    /// Without it, a mount is at `~/twinshare/peers/PEER/NAME` and a clone at `~/twinshare/NAME`; where another peer's
    /// is there already, the peer's short id is added.
    directory: Option<PathBuf>,
    /// What a program waits for that reads something not fetched yet while the peer is away
    ///
    /// `fail`: for nothing; `wait`: until the peer is back; `wait=10s`: for so long. Without it, as the node's
    /// configuration says.
    #[arg(long, value_name = "fail|wait|wait=TIME")]
    pub(crate) when_gone: Option<String>,
    #[command(flatten)]
    pub(crate) format: Format,
}

impl Wanted {
    /// The directory as the node takes it.
    pub(crate) fn directory(&self) -> Result<Option<String>> {
        self.directory.as_deref().map(node::absolute).transpose()
    }
}

impl Mount {
    pub(crate) fn run(self) -> Result {
        let directory = self.wanted.directory()?;
        let Wanted { workspace, when_gone, format, .. } = self.wanted;
        let request = MountRequest { workspace, directory, when_gone };
        let view = node::wait(async { mount(&node::client()?, &request, &mut Interrupts::listen()?).await })?;
        format.print(&view, |view| line(shown(&view.directory)))?;
        note_was_there(&view)?;
        note_left_out(&view)?;
        Ok(ExitCode::SUCCESS)
    }
}

/// Says beside the output that what was asked for was there already, and what to do for a newer one.
pub(crate) fn note_was_there(replica: &Replica) -> Result<()> {
    if !replica.was_there {
        return Ok(());
    }
    let directory = shown(&replica.directory);
    let newer = match (replica.kind, replica.state) {
        (ReplicaKind::View, _) => {
            return note(format!(
                "it was there already; `twinshare workspace status {directory}` says as of when it shows {}",
                shown(&full_name(replica)),
            ));
        }
        (ReplicaKind::Clone, ReplicaState::Settled) => "choose another directory".to_owned(),
        (ReplicaKind::Clone, _) => format!("`twinshare workspace rm {directory}` first"),
    };
    note(format!(
        "it was there already, and shows {} as it was on {} ({}); for a newer one, {newer}",
        shown(&full_name(replica)),
        date(replica.created_at),
        ago(replica.created_at),
    ))
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
