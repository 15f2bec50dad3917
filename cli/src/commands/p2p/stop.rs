//! `twinshare p2p stop`

use std::process::ExitCode;

use clap::Args;
use twinshare_daemon::client::ClientError;
use twinshare_daemon::home::Home;
use twinshare_daemon::node::{StopError, stop_detached};

use crate::error::Result;
use crate::node;
use crate::output::line;

/// Stop this machine's node.
///
/// What is shared cannot be reached by others until it is started again. Mounts, and the programs that run in them,
/// are left alone.
#[derive(Debug, Args)]
#[command(before_help = "Examples:
  twinshare p2p stop")]
pub(crate) struct Stop {}

impl Stop {
    pub(crate) fn run(self) -> Result {
        node::wait(stop())?;
        Ok(ExitCode::SUCCESS)
    }
}

async fn stop() -> Result<()> {
    match stop_detached(&Home::from_environment()?).await {
        Ok(()) => line("node stopped"),
        Err(StopError::Client(ClientError::NotRunning { .. })) => line("the node is not running"),
        Err(error) => Err(error.into()),
    }
}
