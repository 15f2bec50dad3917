//! `twinshare shell`

use clap::Args;
use twinshare_daemon::api::wire::RunRequest;

use super::run::run;
use crate::error::Result;

/// Open a shell in a workspace, separated from this machine.
///
/// As `twinshare run`, with your login shell as the command.
#[derive(Debug, Args)]
#[command(before_help = "Examples:
  twinshare shell demo
  twinshare shell ~/twinshare/demo/src")]
pub(crate) struct Shell {
    /// Show your home directory in it, read-only
    #[arg(long)]
    home: bool,
    /// `[PEER/]NAME` of a workspace, or a directory in one
    #[arg(value_name = "[PEER/]NAME|DIR")]
    workspace: String,
}

impl Shell {
    pub(crate) fn run(self) -> Result {
        run(RunRequest { workspace: self.workspace, command: Vec::new(), home: self.home, shell: true })
    }
}
