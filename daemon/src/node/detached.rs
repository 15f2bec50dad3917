//! A node in the background, from outside: started as this program again in a session of its own, and stopped.

use std::fs::OpenOptions;
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use tokio::process::{Child, Command};

use super::STOP_WITHIN;
use crate::client::{Client, ClientError};
use crate::home::{Home, HomeError};
use crate::log;

/// How long a node may take until it is ready: opening the registry after a crash reads all of it, and mounts from before
/// are given some seconds.
pub const READY_WITHIN: Duration = Duration::from_secs(30);

/// Between two looks at whether a node has come up, or has gone.
const POLL: Duration = Duration::from_millis(10);

/// How long a node may take to be gone once it was told to stop: the bound it keeps itself, and some air.
const GONE_WITHIN: Duration = STOP_WITHIN.saturating_add(Duration::from_secs(5));

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

/// Why a node was not stopped.
#[derive(Debug, thiserror::Error)]
pub enum StopError {
    /// The home cannot be looked at.
    #[error(transparent)]
    Home(#[from] HomeError),
    /// No node runs, or it cannot be told.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// It was told, and is still there.
    #[error("the node (pid {pid}) was told to stop and is still there; `kill {pid}` ends it, mounts stay")]
    StillThere {
        /// Its process.
        pid: u32,
    },
}

/// Starts a node on `home` in the background and returns its process once it is ready. One that is just stopping is
/// waited for.
///
/// It runs in a session of its own, so neither the terminal nor its closing reaches it, and writes to the home's log.
/// Not cancel-safe: a future that is dropped leaves the node starting.
pub async fn start_detached(home: &Home) -> Result<u32, StartError> {
    let program = std::env::current_exe().map_err(StartError::Spawn)?;
    start_program(home, &program, &["p2p", "start", "--foreground"]).await
}

/// Tells the node on `home` to stop and returns when it is gone, so that another one may start. Cancel-safe.
pub async fn stop_detached(home: &Home) -> Result<(), StopError> {
    let client = Client::new(home.api_socket());
    client.stop_node().await?;
    let gone = async {
        while home.running()?.is_some() {
            tokio::time::sleep(POLL).await;
        }
        Ok(())
    };
    match tokio::time::timeout(GONE_WITHIN, gone).await {
        Ok(gone) => gone,
        Err(_elapsed) => Err(StopError::StillThere { pid: home.running()?.unwrap_or_default() }),
    }
}

async fn start_program(home: &Home, program: &Path, arguments: &[&str]) -> Result<u32, StartError> {
    home.prepare()?;
    let client = Client::new(home.api_socket());
    tokio::time::timeout(GONE_WITHIN, free(home, &client)).await.unwrap_or_else(|_| still_running(home))?;
    let log = home.log();
    let log_bytes = std::fs::metadata(&log).map_or(0, |found| found.len());
    let mut child = spawn(home, program, arguments).map_err(StartError::Spawn)?;
    let ready = tokio::select! {
        ready = tokio::time::timeout(READY_WITHIN, answers(&client)) => ready,
        status = child.wait() => {
            // Where another start was first, its node is what was asked for, once it is ready.
            tokio::time::timeout(READY_WITHIN, free(home, &client)).await.unwrap_or_else(|_| still_running(home))?;
            let lines = log::last_lines(&log, log_bytes, LOG_LINES).unwrap_or_default();
            return Err(StartError::Ended { status: status.map_err(StartError::Spawn)?, log, lines });
        }
    };
    match ready {
        Ok(answered) => answered.map_err(StartError::Client)?,
        Err(_elapsed) => {
            child.kill().await.map_err(StartError::Spawn)?;
            let lines = log::last_lines(&log, log_bytes, LOG_LINES).unwrap_or_default();
            return Err(StartError::Silent { log, lines });
        }
    }
    match (home.running()?, child.id()) {
        (Some(pid), Some(own)) if pid != own => {
            // Of two starts at once the other made the node. This one's must be gone before anybody can stop that one:
            // it would take its place.
            child.kill().await.map_err(StartError::Spawn)?;
            Err(HomeError::Running { pid }.into())
        }
        (running, own) => Ok(running.or(own).unwrap_or_default()),
    }
}

/// Returns when no node runs on `home`; an error as soon as one answers that means to go on.
async fn free(home: &Home, client: &Client) -> Result<(), HomeError> {
    while let Some(pid) = home.running()? {
        if client.health().await.is_ok_and(|health| health.status == "ready") {
            return Err(HomeError::Running { pid });
        }
        tokio::time::sleep(POLL).await;
    }
    Ok(())
}

fn still_running(home: &Home) -> Result<(), HomeError> {
    match home.running()? {
        Some(pid) => Err(HomeError::Running { pid }),
        None => Ok(()),
    }
}

/// Waits until the node behind `client` is ready.
async fn answers(client: &Client) -> Result<(), ClientError> {
    loop {
        match client.health().await {
            Ok(health) if health.status != "starting" => return Ok(()),
            Ok(_) | Err(ClientError::NotRunning { .. }) => tokio::time::sleep(POLL).await,
            Err(error) => return Err(error),
        }
    }
}

fn spawn(home: &Home, program: &Path, arguments: &[&str]) -> io::Result<Child> {
    let log = OpenOptions::new().append(true).create(true).mode(0o600).open(home.log())?;
    let mut command = std::process::Command::new(program);
    command.args(arguments).envs(home.variables());
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

#[cfg(test)]
mod tests {
    use rustix::process::{Pid, Signal, getsid, kill_process, test_kill_process};

    use super::*;

    /// Set for the process that is the node of a test.
    const CHILD: &str = "TWINSHARE_TEST_CHILD";

    /// How this test binary runs [`node_of_a_test`] and nothing else.
    const AS_NODE: [&str; 3] = ["--exact", "node::detached::tests::node_of_a_test", "--nocapture"];

    /// Not a test by itself: the process that the others start.
    #[test]
    fn node_of_a_test() {
        let home = Home::from_environment().ok().filter(|home| home.state().join(CHILD).exists());
        if let Some(Err(error)) = home.map(|home| crate::node::run(&home)) {
            eprintln!("error: {error}");
            std::process::exit(1);
        }
    }

    struct Bench {
        _directory: tempfile::TempDir,
        home: Home,
    }

    /// A test that fails leaves no node behind.
    impl Drop for Bench {
        fn drop(&mut self) {
            if let Ok(Some(left)) = self.home.running() {
                let _ = kill_process(pid(left), Signal::KILL);
            }
        }
    }

    fn bench(config: &str) -> Bench {
        let directory = tempfile::tempdir().unwrap();
        let home = Home::isolated(&directory.path().join("home"));
        home.prepare().unwrap();
        std::fs::write(home.config_file(), config).unwrap();
        std::fs::write(home.state().join(CHILD), "").unwrap();
        Bench { _directory: directory, home }
    }

    const LOOPBACK: &str = "name: anna\nlisten: {address: 127.0.0.1, port: 0}\ndiscovery: {enabled: false}\n";

    async fn start(home: &Home) -> Result<u32, StartError> {
        start_program(home, &std::env::current_exe().unwrap(), &AS_NODE).await
    }

    fn pid(number: u32) -> Pid {
        Pid::from_raw(number.try_into().unwrap()).unwrap()
    }

    async fn until(mut condition: impl FnMut() -> bool) {
        let held = async {
            while !condition() {
                tokio::time::sleep(POLL).await;
            }
        };
        tokio::time::timeout(GONE_WITHIN, held).await.expect("the condition holds in time");
    }

    #[tokio::test]
    async fn a_node_runs_in_the_background_until_it_is_stopped() {
        let bench = bench(LOOPBACK);
        let node = start(&bench.home).await.unwrap();
        assert_ne!(node, std::process::id());
        assert_eq!(getsid(Some(pid(node))).unwrap(), pid(node), "it leads a session of its own");
        let error = start(&bench.home).await.unwrap_err();
        assert!(matches!(error, StartError::Home(HomeError::Running { pid }) if pid == node), "{error}");

        stop_detached(&bench.home).await.unwrap();
        let error = stop_detached(&bench.home).await.unwrap_err();
        assert!(matches!(error, StopError::Client(ClientError::NotRunning { .. })), "{error}");

        let again = start(&bench.home).await.unwrap();
        kill_process(pid(again), Signal::TERM).unwrap();
        until(|| bench.home.running().unwrap().is_none() && test_kill_process(pid(again)).is_err()).await;
        let log = std::fs::read_to_string(bench.home.log()).unwrap();
        assert_eq!(log.matches("the node is ready").count(), 2, "{log}");
        assert_eq!(log.matches("the node has stopped").count(), 2, "{log}");
    }

    #[tokio::test]
    async fn a_stopping_node_is_waited_for() {
        let bench = bench(LOOPBACK);
        let first = start(&bench.home).await.unwrap();
        Client::new(bench.home.api_socket()).stop_node().await.unwrap();
        let second = start(&bench.home).await.unwrap();
        assert_ne!(first, second);
        stop_detached(&bench.home).await.unwrap();
    }

    #[tokio::test]
    async fn of_several_starts_at_once_one_makes_the_node() {
        let bench = bench(LOOPBACK);
        let starts = (0..4).map(|_| {
            let home = bench.home.clone();
            tokio::spawn(async move { start(&home).await })
        });
        let starts: Vec<_> = starts.collect();
        let mut pids = Vec::new();
        for start in starts {
            match start.await.unwrap() {
                Ok(pid) | Err(StartError::Home(HomeError::Running { pid })) => pids.push(pid),
                Err(other) => panic!("{other}"),
            }
        }
        assert_eq!(pids, [bench.home.running().unwrap().unwrap(); 4]);
        // None of the others comes up now that it could.
        stop_detached(&bench.home).await.unwrap();
    }

    #[tokio::test]
    async fn a_start_that_fails_says_why() {
        let bench = bench("nmae: anna\n");
        let error = start(&bench.home).await.unwrap_err();
        let StartError::Ended { lines, .. } = &error else { panic!("{error}") };
        assert!(lines.iter().any(|line| line.contains("nmae")), "{error}");
        assert!(error.to_string().contains("node.log"), "{error}");
    }
}
