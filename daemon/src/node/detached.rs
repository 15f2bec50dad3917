//! Starts a node in the background: this program again, in a session of its own, until it answers.

use std::fs::OpenOptions;
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use tokio::process::{Child, Command};

use crate::client::{Client, ClientError};
use crate::home::{Home, HomeError};
use crate::log;

/// How long a node may take until it answers: opening the registry after a crash reads all of it.
pub const READY_WITHIN: Duration = Duration::from_secs(30);

/// Between two attempts to reach the new node.
const READY_POLL: Duration = Duration::from_millis(10);

/// Lines of the node's log that an error quotes at most.
const LOG_LINES: usize = 12;

/// Why no node came up.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The home cannot be used, or a node runs on it already.
    #[error(transparent)]
    Home(#[from] HomeError),
    /// This program could not be started again.
    #[error("the node could not be started: {0}")]
    Spawn(#[source] io::Error),
    /// The node ended before it was ready.
    #[error("the node ended while it started ({status}); its log {} ends with:\n{}", log.display(), lines.join("\n"))]
    Ended {
        /// How it ended.
        status: ExitStatus,
        /// Its log.
        log: PathBuf,
        /// The last lines it wrote.
        lines: Vec<String>,
    },
    /// The node runs and does not answer. It was ended again.
    #[error("the node did not answer within {} seconds; its log {} ends with:\n{}",
        READY_WITHIN.as_secs(), log.display(), lines.join("\n"))]
    Silent {
        /// Its log.
        log: PathBuf,
        /// The last lines it wrote.
        lines: Vec<String>,
    },
    /// Something answers on the node's socket, but not as a node does.
    #[error("the new node cannot be used: {0}")]
    Client(#[source] ClientError),
}

/// Starts a node on `home` in the background and returns its process once it answers.
///
/// It runs in a session of its own, so neither the terminal nor its closing reaches it, and writes to the home's log.
/// Not cancel-safe: a future that is dropped leaves the node starting.
pub async fn start_detached(home: &Home) -> Result<u32, StartError> {
    home.prepare()?;
    if let Some(pid) = home.running()? {
        return Err(HomeError::Running { pid }.into());
    }
    let log = home.log();
    let log_bytes = std::fs::metadata(&log).map_or(0, |found| found.len());
    let mut child = spawn(home).map_err(StartError::Spawn)?;
    let client = Client::new(home.api_socket());
    let ready = tokio::select! {
        ready = tokio::time::timeout(READY_WITHIN, answers(&client)) => ready,
        status = child.wait() => {
            let lines = log::last_lines(&log, log_bytes, LOG_LINES).unwrap_or_default();
            return Err(StartError::Ended { status: status.map_err(StartError::Spawn)?, log, lines });
        }
    };
    match ready {
        Ok(pid) => pid.map_err(StartError::Client),
        Err(_elapsed) => {
            child.kill().await.map_err(StartError::Spawn)?;
            let lines = log::last_lines(&log, log_bytes, LOG_LINES).unwrap_or_default();
            Err(StartError::Silent { log, lines })
        }
    }
}

/// Waits until the node behind `client` is ready, and returns its process.
async fn answers(client: &Client) -> Result<u32, ClientError> {
    loop {
        match client.node().await {
            Ok(node) => return Ok(node.pid),
            Err(ClientError::NotRunning { .. }) => tokio::time::sleep(READY_POLL).await,
            Err(error) => return Err(error),
        }
    }
}

fn spawn(home: &Home) -> io::Result<Child> {
    let log = OpenOptions::new().append(true).create(true).mode(0o600).open(home.log())?;
    let mut command = std::process::Command::new(std::env::current_exe()?);
    command.args(["p2p", "start", "--foreground"]);
    command.envs(home.variables());
    command.current_dir("/").stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
    new_session(&mut command);
    Command::from(command).spawn()
}

#[expect(unsafe_code, reason = "the standard library has no stable way to start a program in a new session")]
fn new_session(command: &mut std::process::Command) {
    let setsid = || rustix::process::setsid().map(drop).map_err(io::Error::from);
    // SAFETY: between fork and exec only async-signal-safe functions may be called. `setsid` is one (POSIX.1-2024,
    // section 2.4.3), and turning its error number into an `io::Error` neither allocates nor locks.
    unsafe { command.pre_exec(setsid) };
}
