//! `twinshare unmount`

use std::process::ExitCode;

use clap::Args;
use twinshare_daemon::api::wire::ReplicaKind;

use crate::error::{Error, Kind, Result};
use crate::node;
use crate::output::line;
use crate::replicas::find_replica;
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
            let replica = find_replica(&client, &self.name).await?;
            if replica.kind == ReplicaKind::Clone {
                let message = format!("{} is a clone, not a mount", shown(&self.name));
                let command = format!("`twinshare workspace rm {}` forgets it", shown(&replica.directory));
                return Err(Error::new(Kind::Usage, message).hint(command));
            }
            client.unmount(&replica.id).await?;
            line(format!("{} is unmounted", shown(&replica.directory)))
        })?;
        Ok(ExitCode::SUCCESS)
    }
}
