//! `twinshare p2p start`

use std::process::ExitCode;

use clap::Args;
use twinshare_daemon::client::Client;
use twinshare_daemon::home::{Home, HomeError};
use twinshare_daemon::node::{StartError, start_detached};

use crate::error::Result;
use crate::node;
use crate::output::line;
use crate::text::shown;

/// Start this machine's node.
///
/// Returns when the node is ready: it can be used from then on, others on the network see it, and mounts and clones from
/// before are mounted again, apart from those that take longer than five seconds because their peer is away. It runs
/// in the background until `twinshare p2p stop`, also after this terminal is closed. A node that runs already is left
/// alone.
///
/// The directories in `TWINSHARE_HOME` must be closed to others (`chmod 700`); those that are missing are made so.
#[derive(Debug, Args)]
#[command(before_help = "Examples:
  twinshare p2p start
  TWINSHARE_HOME=/srv/second twinshare p2p start     A second node, with a home of its own")]
pub(crate) struct Start {
    /// Be the node, in the foreground, and log to standard error
    ///
    /// For service managers and for looking at its log. Ends on SIGTERM or Ctrl-C.
    #[arg(long)]
    foreground: bool,
}

impl Start {
    pub(crate) fn run(self) -> Result {
        let home = Home::from_environment()?;
        match self.foreground {
            true => twinshare_daemon::node::run(&home)?,
            false => node::wait(start(&home))?,
        }
        Ok(ExitCode::SUCCESS)
    }
}

async fn start(home: &Home) -> Result<()> {
    match start_detached(home).await {
        Ok(_) => {}
        Err(StartError::Home(HomeError::Running { pid })) => {
            return line(format!("the node is already running (pid {pid})"));
        }
        Err(error) => return Err(error.into()),
    }
    let status = Client::new(home.api_socket()).node().await?;
    line(format!("node {} started (id {}, pid {})", shown(&status.name), status.short_id, status.pid))?;
    line(format!("reached at {}", status.listen_addresses.join(", ")))
}
