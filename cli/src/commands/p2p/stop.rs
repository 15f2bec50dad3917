//! `twinshare p2p stop`

use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use tokio::time::{sleep, timeout};
use twinshare_daemon::client::{Client, ClientError};
use twinshare_daemon::home::Home;

use crate::error::{Error, Kind, Result};
use crate::node;
use crate::output::line;

/// How long a node may take to end: it tells its peers, and waits for nobody.
const STOPPED_WITHIN: Duration = Duration::from_secs(30);

/// Between two looks.
const POLL: Duration = Duration::from_millis(20);

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
    let home = Home::from_environment()?;
    match Client::new(home.api_socket()).stop_node().await {
        Ok(()) => {}
        Err(ClientError::NotRunning { .. }) => return line("the node is not running"),
        Err(error) => return Err(error.into()),
    }
    let ended = async {
        while home.running()?.is_some() {
            sleep(POLL).await;
        }
        Ok(())
    };
    match timeout(STOPPED_WITHIN, ended).await {
        Ok(ended) => ended.and_then(|()| line("node stopped")),
        Err(_) => {
            let seconds = STOPPED_WITHIN.as_secs();
            Err(Error::new(Kind::Failure, format!("the node did not end within {seconds} seconds"))
                .hint(format!("its log may say why: {}", home.log().display())))
        }
    }
}
