//! Keeps replica processes running: starts them, gives them orders, notices when they end, repairs what they leave.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use tokio::process::Command;
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use twinshare_fs::fuse::{self, UnmountError};

use super::claims::{Claim, Claims};
use super::control::{self, ANSWER_WITHIN, Answer, Failure, PROTOCOL, Report, Request};
use super::settled;
use super::spec::Spec;
use super::{ATTACH_WITHIN, LOG};
use crate::api::replica_control::BoxFuture;
use crate::api::wire::WhyFound;
use crate::home::Home;

mod repair;

/// How long a new process may take until its socket answers.
const START_WITHIN: Duration = Duration::from_secs(10);

/// Between two looks at a socket that does not answer yet.
const START_POLL: Duration = Duration::from_millis(5);

/// How long a process may take to unmount, or to say why it does not.
const DETACH_WITHIN: Duration = Duration::from_secs(20);

/// Between two orders to give up an attempt: the first may have overtaken the order that it cancels.
const CANCEL_AGAIN: Duration = Duration::from_millis(200);

/// Starts and watches the processes of one node.
///
/// Everything that changes what is mounted is done under the [`Claim`] on its mount point.
pub(super) struct Supervisor {
    home: Home,
    this: Weak<Self>,
    pub(super) claims: Claims,
    /// One start at a time for each process, by its directory: two requests must not start the same one twice.
    starts: Claims,
    /// Held for map operations only and never across an `.await`.
    state: Mutex<State>,
    /// Rung when a peer is heard of again: what could not be served for want of it may be now.
    hurry: Arc<Notify>,
}

#[derive(Default)]
struct State {
    processes: HashMap<String, Process>,
    /// Replicas that should be served, by id.
    wanted: HashMap<String, Spec>,
    /// Those of them that are being attached now.
    starting: HashSet<String>,
    /// Those that are tried again and again until they are served.
    repaired: HashSet<String>,
    /// What keeps a wanted replica from being served.
    trouble: HashMap<String, String>,
    /// When each process died.
    deaths: HashMap<String, Vec<Instant>>,
}

#[derive(Clone, Copy)]
struct Process {
    pid: u32,
    protocol: u32,
}

/// What a process tells about its replicas.
pub(super) enum Reports {
    /// These are mounted and served.
    Told(Vec<Report>),
    /// It does not run.
    Absent,
    /// It runs and does not answer.
    Silent,
}

/// How a replica was stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stopped {
    /// Nothing of it is left.
    Over,
    /// It is no longer mounted, but copies of the mount are still served from its data.
    Leaving,
}

impl Supervisor {
    pub(super) fn new(home: Home) -> Arc<Self> {
        Arc::new_cyclic(|this| Self {
            home,
            this: this.clone(),
            claims: Claims::default(),
            starts: Claims::default(),
            state: Mutex::default(),
            hurry: Arc::default(),
        })
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The process that serves, while it is known.
    pub(super) fn pid(&self, process: &str) -> Option<u32> {
        self.state().processes.get(process).map(|process| process.pid)
    }

    /// What keeps a replica from being served.
    pub(super) fn trouble(&self, id: &str) -> Option<String> {
        self.state().trouble.get(id).cloned()
    }

    /// True while a replica is being attached, or is about to be for the first time since its process ended or the node
    /// started.
    pub(super) fn is_starting(&self, id: &str) -> bool {
        let state = self.state();
        state.starting.contains(id) || (state.repaired.contains(id) && !state.trouble.contains_key(id))
    }

    /// True for what should be served.
    pub(super) fn is_wanted(&self, id: &str) -> bool {
        self.state().wanted.contains_key(id)
    }

    /// What the process tells about its replicas.
    pub(super) async fn reports(&self, process: &str) -> Reports {
        match control::ask(&self.home, process, &Request::Status, ANSWER_WITHIN).await {
            Ok(Answer::Status(reports)) => Reports::Told(reports),
            Err(error) if is_absent(&error) => Reports::Absent,
            Ok(_) | Err(_) => Reports::Silent,
        }
    }

    /// What a process tells of one file.
    pub(super) async fn account(&self, spec: &Spec, request: &Request) -> Result<Option<WhyFound>, Failure> {
        let other = |what: String| Err(Failure::Other(format!("the replica process {what}")));
        match control::ask(&self.home, &spec.process, request, ANSWER_WITHIN).await {
            Ok(Answer::Account(found)) => Ok(found.map(|found| *found)),
            Ok(Answer::Failed(failure)) => Err(failure),
            Ok(_) => other("answered something else".into()),
            Err(error) => other(format!("does not answer: {error}")),
        }
    }

    /// Has a process decide about one file.
    pub(super) async fn resolve(&self, spec: &Spec, request: &Request) -> Result<Option<u64>, Failure> {
        let other = |what: String| Err(Failure::Other(format!("the replica process {what}")));
        match control::ask(&self.home, &spec.process, request, ANSWER_WITHIN).await {
            Ok(Answer::Resolved(missing)) => Ok(missing),
            Ok(Answer::Failed(failure)) => Err(failure),
            Ok(_) => other("answered something else".into()),
            Err(error) => other(format!("does not answer: {error}")),
        }
    }

    /// Tells a process where a peer is now. One that does not answer learns it when it is started again.
    pub(super) async fn tell(&self, process: &str, request: &Request) {
        if let Err(error) = control::ask(&self.home, process, request, ANSWER_WITHIN).await {
            tracing::debug!(process, %error, "a replica process does not take an order");
        }
    }

    /// Has a replica served: by the process that does so already, or by a new one. Returns when its mount answers. When
    /// the claim is to be given up meanwhile, the attempt is cancelled; whether something of it is left,
    /// [`stop`](Self::stop) finds out.
    pub(super) async fn serve(&self, spec: &Spec, claim: &Claim) -> Result<(), Failure> {
        let _starting = Starting::begin(self, spec);
        let served = self.serve_until(spec, claim.stop()).await.and_then(|pid| self.note_served(spec, pid));
        let served = match served {
            // A small one may have come to its end before this.
            Err(_) if settled::of(&self.home, &spec.id).is_some() => Err(Failure::Settled),
            served => served,
        };
        match &served {
            Ok(()) => {}
            Err(Failure::Settled) => self.has_settled(&spec.id),
            Err(failure) => drop(self.state().trouble.insert(spec.id.clone(), failure.to_string())),
        }
        served
    }

    /// There is nothing to serve any more.
    fn has_settled(&self, id: &str) {
        let mut state = self.state();
        state.wanted.remove(id);
        state.repaired.remove(id);
        state.trouble.remove(id);
    }

    /// From here on the end of the process is the end of the replica. That it has ended already, nobody told those who
    /// were attaching.
    fn note_served(&self, spec: &Spec, pid: u32) -> Result<(), Failure> {
        let mut state = self.state();
        if state.processes.get(&spec.process).is_none_or(|process| process.pid != pid) {
            let log = log_path(&self.home, &spec.process);
            return Err(Failure::Other(format!(
                "the replica process died at once; its log is {}",
                log.display()
            )));
        }
        state.starting.remove(&spec.id);
        state.repaired.remove(&spec.id);
        state.trouble.remove(&spec.id);
        Ok(())
    }

    /// Returns the process that serves it.
    async fn serve_until(&self, spec: &Spec, stop: &CancellationToken) -> Result<u32, Failure> {
        let mut serving = std::pin::pin!(self.serve_once(spec, stop));
        tokio::select! {
            served = &mut serving => return served,
            () = stop.cancelled() => {}
        }
        // Until the order has come to its end, it could still be carried out behind the back of whoever stops it.
        loop {
            let detach = self.detach(spec);
            tokio::select! {
                _ = &mut serving => return Err(Failure::Cancelled),
                _ = detach => {}
            }
            tokio::select! {
                _ = &mut serving => return Err(Failure::Cancelled),
                () = tokio::time::sleep(CANCEL_AGAIN) => {}
            }
        }
    }

    async fn serve_once(&self, spec: &Spec, stop: &CancellationToken) -> Result<u32, Failure> {
        let request = Request::Attach(Box::new(spec.clone()));
        match self.order(spec, &request, stop).await {
            // A process that had just decided to end took the order with it; the next one has all its life before it.
            Err(error) if is_absent(&error) => self.order(spec, &request, stop).await,
            answered => answered,
        }
        .map_err(|error| {
            let log = log_path(&self.home, &spec.process);
            Failure::Other(format!("the replica process broke off ({error}); its log is {}", log.display()))
        })?
    }

    async fn order(
        &self,
        spec: &Spec,
        request: &Request,
        stop: &CancellationToken,
    ) -> io::Result<Result<u32, Failure>> {
        let Process { pid, protocol } = self.ensure_process(&spec.process).await?;
        if stop.is_cancelled() {
            return Ok(Err(Failure::Cancelled));
        }
        if protocol != PROTOCOL {
            let why = "its process is of another version of twinshare: unmount it, and mount it again";
            return Ok(Err(Failure::Other(why.into())));
        }
        let (mut line, asked) = control::connect(&self.home, &spec.process).await?;
        if asked != pid {
            // It has ended, and another one is there already.
            return Err(io::ErrorKind::ConnectionReset.into());
        }
        match line.ask(request, ATTACH_WITHIN).await? {
            Answer::Done => Ok(Ok(pid)),
            Answer::Failed(failure) => Ok(Err(failure)),
            _ => Err(io::ErrorKind::InvalidData.into()),
        }
    }

    /// Has the replica's process do something that ends with the replica's mount, or keeps it. `None` where no process
    /// serves it.
    pub(super) async fn order_served(&self, spec: &Spec, request: &Request) -> Option<Result<(), Failure>> {
        match control::ask(&self.home, &spec.process, request, DETACH_WITHIN).await {
            Ok(Answer::Done) => Some(Ok(())),
            Ok(Answer::Failed(Failure::NoSuchReplica)) => None,
            Ok(Answer::Failed(failure)) => Some(Err(failure)),
            Ok(_) => Some(Err(Failure::Other("the replica process answered something else".into()))),
            Err(error) if is_absent(&error) => None,
            // It goes on with what it was told to do.
            Err(error) if error.kind() == io::ErrorKind::TimedOut => Some(Ok(())),
            Err(error) => Some(Err(Failure::Other(format!("the replica process does not answer: {error}")))),
        }
    }

    /// Unmounts a replica, undoing an attempt to attach it, and no longer wants it served. To be called under its claim.
    pub(super) async fn stop(&self, spec: &Spec) -> Result<Stopped, Failure> {
        let stopped = self.detach(spec).await?;
        if stopped == Stopped::Over {
            self.sweep(spec).await?;
        }
        let mut state = self.state();
        state.wanted.remove(&spec.id);
        state.trouble.remove(&spec.id);
        Ok(stopped)
    }

    /// Has the replica's process unmount it.
    pub(super) async fn detach(&self, spec: &Spec) -> Result<Stopped, Failure> {
        let request = Request::Detach { id: spec.id.clone() };
        match control::ask(&self.home, &spec.process, &request, DETACH_WITHIN).await {
            Ok(Answer::Done | Answer::Failed(Failure::NoSuchReplica)) => Ok(Stopped::Over),
            Ok(Answer::Failed(Failure::Leaving)) => Ok(Stopped::Leaving),
            Ok(Answer::Failed(failure)) => Err(failure),
            Ok(_) => Err(Failure::Other("the replica process answered something else".into())),
            Err(error) if is_absent(&error) => Ok(Stopped::Over),
            Err(error) => Err(Failure::Other(format!("the replica process does not answer: {error}"))),
        }
    }

    /// Unmounts what a process that died has left of a replica. Touches nothing that is served.
    async fn sweep(&self, spec: &Spec) -> Result<(), Failure> {
        let (mount_point, roots) = (spec.mount_point.clone(), self.home.replica(&spec.id).join("roots"));
        let swept = tokio::task::spawn_blocking(move || sweep(mount_point, &roots)).await;
        swept.unwrap_or_else(|died| Err(Failure::Other(died.to_string())))
    }

    /// Makes sure that the process called `key` runs, answers and is watched.
    async fn ensure_process(&self, key: &str) -> io::Result<Process> {
        let directory = self.home.replica(key);
        let _one_at_a_time = self.starts.claim(&directory).await;
        match self.watch(key).await {
            Err(error) if is_absent(&error) => {}
            watched => return watched,
        }
        let child = self.spawn(key)?;
        let pid = child.id();
        self.reap(key.to_owned(), child);
        tracing::info!(process = key, pid, "replica process started");
        let deadline = Instant::now() + START_WITHIN;
        loop {
            match self.watch(key).await {
                Err(error) if is_absent(&error) && Instant::now() < deadline => {
                    tokio::time::sleep(START_POLL).await;
                }
                Err(error) => {
                    let log = log_path(&self.home, key);
                    let why =
                        format!("the replica process did not start ({error}); its log is {}", log.display());
                    return Err(io::Error::other(why));
                }
                watched => return watched,
            }
        }
    }

    fn spawn(&self, key: &str) -> io::Result<tokio::process::Child> {
        let directory = self.home.replica(key);
        std::fs::create_dir_all(&directory)?;
        let log = File::options().create(true).append(true).open(directory.join(LOG))?;
        // The running executable, whatever has been installed in its place since.
        let mut command = Command::new("/proc/self/exe");
        command
            .arg0("twinshare")
            .args(["replica", key])
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .kill_on_drop(false);
        // The home is found as the node found its own: by the environment, which is inherited.
        command.spawn()
    }

    /// Waits for a child, so that it does not stay as a zombie.
    fn reap(&self, key: String, mut child: tokio::process::Child) {
        tokio::spawn(async move {
            if let Ok(status) = child.wait().await {
                tracing::info!(process = key, %status, "replica process ended");
            }
        });
    }

    /// Watches the process through a connection of its own, which ends with it; also one that an earlier node started.
    async fn watch(&self, key: &str) -> io::Result<Process> {
        let (mut line, pid) = control::connect(&self.home, key).await?;
        let known = self.state().processes.get(key).filter(|known| known.pid == pid).copied();
        if let Some(process) = known {
            return Ok(process);
        }
        let protocol = match line.ask(&Request::Hello, ANSWER_WITHIN).await {
            Ok(Answer::Hello { protocol }) => protocol,
            // It does not know the question.
            Ok(_) => 0,
            Err(error) => return Err(error),
        };
        let process = Process { pid, protocol };
        self.state().processes.insert(key.into(), process);
        let (this, key) = (self.this.clone(), key.to_owned());
        tokio::spawn(async move {
            // The process says nothing unasked: whatever comes is its end.
            let _ = line.receive::<Answer>().await;
            if let Some(this) = this.upgrade() {
                this.ended(key, pid).await;
            }
        });
        Ok(process)
    }
}

/// A replica that is being attached, for whoever asks meanwhile.
struct Starting<'s>(&'s Supervisor, String);

impl<'s> Starting<'s> {
    fn begin(supervisor: &'s Supervisor, spec: &Spec) -> Self {
        let mut state = supervisor.state();
        state.wanted.insert(spec.id.clone(), spec.clone());
        state.starting.insert(spec.id.clone());
        drop(state);
        Self(supervisor, spec.id.clone())
    }
}

impl Drop for Starting<'_> {
    fn drop(&mut self) {
        self.0.state().starting.remove(&self.1);
    }
}

/// Unmounts what is dead of the workspace and its companions. Blocks.
fn sweep(mount_point: PathBuf, roots: &Path) -> Result<(), Failure> {
    let roots = std::fs::read_dir(roots).into_iter().flatten().flatten().map(|entry| entry.path());
    for path in [mount_point].into_iter().chain(roots) {
        match fuse::sweep_dead(&path) {
            Ok(true) => tracing::info!(path = %path.display(), "a dead mount was removed"),
            Ok(false) => {}
            Err(UnmountError::Busy { holders, .. }) => {
                return Err(Failure::Busy(holders.iter().map(ToString::to_string).collect()));
            }
            Err(error @ UnmountError::Refused { .. }) => return Err(Failure::Other(error.to_string())),
        }
    }
    Ok(())
}

fn log_path(home: &Home, key: &str) -> PathBuf {
    home.replica(key).join(LOG)
}

/// True when nobody listens on the socket, or whoever did has ended: the process does not run.
fn is_absent(error: &io::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionRefused, ConnectionReset, NotFound, UnexpectedEof};
    matches!(error.kind(), NotFound | ConnectionRefused | ConnectionReset | BrokenPipe | UnexpectedEof)
}

#[cfg(test)]
mod tests;
