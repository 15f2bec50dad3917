//! The two nodes of the demonstration, and how they end.

use std::fs;
use std::io::{self, Write};
use std::net::UdpSocket;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};
use twinshare_daemon::client::Client;
use twinshare_daemon::home::Home;
use twinshare_daemon::node::{StartError, start_detached};

use crate::error::{Error, Kind, Result};
use crate::text::shown;

/// How long discovery may take: a node asks at once when it starts, and its neighbours answer.
const DISCOVERED_WITHIN: Duration = Duration::from_secs(15);

/// How long each step of the end may take before it is forced.
const ENDED_WITHIN: Duration = Duration::from_secs(10);

/// Lines shown of each log when something went wrong.
const LOG_LINES: usize = 15;

/// Between two looks.
const POLL: Duration = Duration::from_millis(5);

/// Two nodes, started or not.
pub(super) struct Nodes {
    base: PathBuf,
    homes: [Home; 2],
    /// The first, which shares.
    pub(super) anna: Client,
    /// The second, which mounts.
    pub(super) bob: Client,
    /// Both starting. A start that is interrupted would leave a node behind that nobody knows.
    starting: Option<JoinHandle<std::result::Result<Instant, StartError>>>,
}

impl Nodes {
    /// Two nodes with homes in `base`, which nobody else can see.
    pub(super) fn new(base: &Path) -> Result<Self> {
        let port = free_port()?;
        let homes = [home(base, "anna", port)?, home(base, "bob", port)?];
        let [anna, bob] = homes.each_ref().map(|home| Client::new(home.api_socket()));
        Ok(Self { base: base.into(), homes, anna, bob, starting: None })
    }

    /// Starts both. Returns when the second answered for the first time.
    pub(super) async fn start(&mut self) -> Result<Instant> {
        let homes = self.homes.clone();
        let starting = self.starting.insert(tokio::spawn(async move {
            for home in &homes {
                start_detached(home).await?;
            }
            Ok(Instant::now())
        }));
        let started = starting.await.map_err(std::io::Error::from)?;
        self.starting = None;
        Ok(started?)
    }

    /// The second node's `TWINSHARE_HOME`.
    pub(super) fn home_of_bob(&self) -> PathBuf {
        directory(&self.base, "bob")
    }

    /// Waits until the second node sees the first.
    pub(super) async fn discover(&self) -> Result<()> {
        let seen = async {
            while !self.bob.peers().await?.iter().any(|peer| peer.online) {
                sleep(POLL).await;
            }
            Ok(())
        };
        timeout(DISCOVERED_WITHIN, seen).await.unwrap_or_else(|_| {
            let message = format!("bob did not discover anna within {} s", DISCOVERED_WITHIN.as_secs());
            Err(Error::new(Kind::Failure, message).hint("does the loopback interface pass multicast?"))
        })
    }

    /// Unmounts, stops both nodes and waits until nothing of them is left. Every step is taken, whatever came of the
    /// one before; what went wrong, first things first.
    pub(super) async fn end(&mut self) -> Vec<Error> {
        if let Some(starting) = self.starting.take() {
            // Its outcome has been reported, or does not matter any more.
            let _ = starting.await;
        }
        let unmounted = timeout(ENDED_WITHIN, self.unmount()).await;
        for client in [&self.bob, &self.anna] {
            // One that does not answer is ended below.
            let _ = client.stop_node().await;
        }
        let ended = end_processes(&self.base).await;
        let late = || Err(Error::new(Kind::Failure, "the mount could not be ended"));
        let steps = [unmounted.unwrap_or_else(|_| late()), ended, self.nothing_is_mounted()];
        steps.into_iter().filter_map(Result::err).collect()
    }

    fn nothing_is_mounted(&self) -> Result<()> {
        match mounts_below(&self.base)?.first() {
            None => Ok(()),
            Some(mount) => Err(Error::new(Kind::Failure, format!("{mount} is still mounted"))
                .hint(format!("`fusermount3 -u {mount}`, then remove {}", self.base.display()))),
        }
    }

    /// The last lines of every log, on standard error.
    pub(super) fn tell_logs(&self) {
        for home in &self.homes {
            let replicas = fs::read_dir(home.replicas()).into_iter().flatten().flatten();
            let logs = [home.log()].into_iter().chain(replicas.map(|replica| replica.path().join("log")));
            for log in logs {
                let Ok(text) = fs::read(&log) else { continue };
                let text = String::from_utf8_lossy(&text);
                let lines: Vec<_> = text.lines().rev().take(LOG_LINES).map(shown).collect();
                // Nobody is left to tell if standard error is gone.
                let _ = writeln!(io::stderr(), "{}:", log.display());
                for line in lines.iter().rev() {
                    let _ = writeln!(io::stderr(), "    | {line}");
                }
            }
        }
    }

    /// Also ends a mount that was interrupted while it was made. One that is in use gets a moment: the program that
    /// used it has just ended.
    async fn unmount(&self) -> Result<()> {
        let Ok(operations) = self.bob.operations().await else { return Ok(()) };
        for operation in operations.into_iter().filter(|operation| !operation.state.is_final()) {
            let cancelled = self.bob.cancel_operation(&operation.id).await?;
            self.bob.follow_operation(cancelled, |_| {}).await?;
        }
        for view in self.bob.mounts().await? {
            while let Err(error) = self.bob.unmount(&view.id).await.map_err(Error::from) {
                match error.kind() {
                    Kind::Busy => sleep(POLL).await,
                    Kind::NotFound => break,
                    _ => return Err(error),
                }
            }
        }
        Ok(())
    }
}

/// Waits until every process that was started with a home in `base` has ended, and kills those that do not.
async fn end_processes(base: &Path) -> Result<()> {
    let ended = async {
        while !processes(base)?.is_empty() {
            sleep(POLL).await;
        }
        Ok(())
    };
    match timeout(ENDED_WITHIN, ended).await {
        Ok(ended) => ended,
        Err(_) => {
            for pid in processes(base)? {
                // It may have ended just now.
                let _ = kill_process(pid, Signal::KILL);
            }
            Err(Error::new(Kind::Failure, "a process of the demonstration did not end and was killed"))
        }
    }
}

/// The processes whose environment names something in `base`, which is a name that exists only once.
fn processes(base: &Path) -> Result<Vec<Pid>> {
    let wanted = base.as_os_str().as_bytes();
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let entry = entry?;
        let Some(pid) = entry.file_name().to_str().and_then(|name| Pid::from_raw(name.parse().ok()?)) else {
            continue;
        };
        // Other users' environments cannot be read; an ended process has none.
        let environment = fs::read(entry.path().join("environ")).unwrap_or_default();
        if environment.windows(wanted.len()).any(|part| part == wanted) {
            found.push(pid);
        }
    }
    Ok(found)
}

fn directory(base: &Path, name: &str) -> PathBuf {
    base.join(format!("{name}-node"))
}

/// A home with a configuration that keeps the node on the loopback interface.
fn home(base: &Path, name: &str, discovery_port: u16) -> Result<Home> {
    let home = Home::isolated(&directory(base, name));
    home.prepare()?;
    let listen = "listen:\n  address: 127.0.0.1\n  port: 0";
    let discovery = format!("discovery:\n  port: {discovery_port}\n  interfaces: [lo]");
    fs::write(home.config_file(), format!("name: {name}\n{listen}\n{discovery}\n"))?;
    Ok(home)
}

/// A port for discovery that nobody uses, so that other nodes on this machine are neither seen nor disturbed.
fn free_port() -> Result<u16> {
    Ok(UdpSocket::bind("0.0.0.0:0")?.local_addr()?.port())
}

/// Mounts in a directory.
fn mounts_below(base: &Path) -> Result<Vec<String>> {
    let table = fs::read_to_string("/proc/self/mountinfo")?;
    let start = format!("{}/", base.display());
    let places = table.lines().filter_map(|line| line.split(' ').nth(4));
    Ok(places.filter(|place| place.starts_with(&start)).map(str::to_owned).collect())
}
