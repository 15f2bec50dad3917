//! `twinshare replica`: a process that serves mounts.

use std::process::ExitCode;

use clap::Args;
use twinshare_daemon::home::Home;
use twinshare_daemon::replica::process;

use crate::error::Result;

/// Serve mounts. Started by the node, which it outlives.
#[derive(Debug, Args)]
pub(crate) struct Replica {
    /// What it serves: the id of a clone, or all views.
    id: String,
}

impl Replica {
    pub(crate) fn run(self) -> Result {
        let home = Home::from_environment()?;
        process::run(&home, &self.id)?;
        Ok(ExitCode::SUCCESS)
    }
}
