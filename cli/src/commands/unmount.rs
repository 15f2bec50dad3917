//! `twinshare unmount`

use std::process::ExitCode;

use clap::Args;
use twinshare_daemon::api::wire::{ReplicaKind, ReplicaState};

use crate::error::{Error, Kind, Result};
use crate::node;
use crate::output::line;
use crate::replicas::{Found, find};
use crate::text::shown;

/// End a mount.
///
/// A mount that is in use stays; the message names the programs that use it.
#[derive(Debug, Args)]
#[command(before_help = "Examples:
  twinshare unmount demo
  twinshare unmount /mnt/demo")]
pub(crate) struct Unmount {
    /// `[PEER/]NAME` or the directory of the mount
    #[arg(value_name = "NAME|DIR")]
    name: String,
}

impl Unmount {
    pub(crate) fn run(self) -> Result {
        node::wait(async {
            let client = node::client()?;
            let replica = match find(&client, &self.name, Found::is_mount).await? {
                Found::Replica(replica) if replica.kind == ReplicaKind::View => replica,
                Found::Replica(replica) if replica.state == ReplicaState::Settled => {
                    let message = format!(
                        "there is nothing to unmount: {} is an ordinary directory, of a clone that has settled",
                        shown(&replica.directory)
                    );
                    return Err(Error::new(Kind::Usage, message)
                        .hint("it can be used, moved and deleted as any other"));
                }
                Found::Replica(replica) => {
                    let command = format!(
                        "`twinshare workspace rm {}` ends it and deletes what was fetched of it",
                        shown(&replica.directory)
                    );
                    return Err(self.not_a_mount("clone").hint(command));
                }
                Found::Workspace(_) => return Err(self.not_a_mount("workspace of this machine")),
            };
            node::leave_directory()?;
            client.unmount(&replica.id).await?;
            line(format!("{} is unmounted", shown(&replica.directory)))
        })?;
        Ok(ExitCode::SUCCESS)
    }

    fn not_a_mount(&self, what: &str) -> Error {
        Error::new(Kind::Usage, format!("{} is a {what}, not a mount", shown(&self.name)))
    }
}
