//! Keeps replica processes running: starts them, notices when they end, repairs what they leave, starts them again.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::path::Path;
use std::process::Stdio;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use tokio::process::Command;
use twinshare_fs::fuse;

use super::control::{self, ANSWER_WITHIN, Answer, Failure, Report, Request};
use super::spec::Spec;
use super::{ATTACH_WITHIN, LOG};
use crate::api::replica_control::BoxFuture;
use crate::home::Home;

/// How long a new process may take until its socket answers.
const START_WITHIN: Duration = Duration::from_secs(10);

/// Between two looks at a socket that does not answer yet.
const START_POLL: Duration = Duration::from_millis(5);

/// The pause before the first new start of a process that died; it doubles with each further death.
const RESTART_AFTER: Duration = Duration::from_millis(200);

/// Deaths within [`DEATHS_WITHIN`] after which a replica is left alone and shown as failed.
const DEATHS_MAX: usize = 5;

/// The span over which deaths are counted.
const DEATHS_WITHIN: Duration = Duration::from_secs(600);

/// Starts and watches the processes of one node.
pub(super) struct Supervisor {
    home: Home,
    this: Weak<Self>,
    /// Held for map operations only and never across an `.await`.
    state: Mutex<State>,
    /// One start at a time for each process: two requests must not start the same one twice.
    starting: Mutex<HashMap<String, Arc<tokio::sync::Mutex<()>>>>,
}

#[derive(Default)]
struct State {
    processes: HashMap<String, Process>,
    /// Replicas that should be served, by id.
    wanted: HashMap<String, Spec>,
    /// What keeps a wanted replica from being served.
    trouble: HashMap<String, String>,
    deaths: HashMap<String, Vec<Instant>>,
}

struct Process {
    pid: u32,
}

impl Supervisor {
    pub(super) fn new(home: Home) -> Arc<Self> {
        Arc::new_cyclic(|this| Self {
            home,
            this: this.clone(),
            state: Mutex::default(),
            starting: Mutex::default(),
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

    /// True while a replica is wanted and not known to be served or to fail.
    pub(super) fn is_starting(&self, id: &str) -> bool {
        self.state().wanted.contains_key(id)
    }

    /// What the process tells about its replicas; `None` when it does not run or does not answer.
    pub(super) async fn reports(&self, process: &str) -> Option<Vec<Report>> {
        match control::ask(&self.home, process, &Request::Status, ANSWER_WITHIN).await {
            Ok(Answer::Status(reports)) => Some(reports),
            Ok(Answer::Done | Answer::Failed(_)) | Err(_) => None,
        }
    }

    /// Has a replica served: by the process that does so already, or by a new one. Returns when its mount answers.
    pub(super) async fn serve(&self, spec: &Spec) -> Result<(), Failure> {
        self.state().wanted.insert(spec.id.clone(), spec.clone());
        let served = self.serve_once(spec).await;
        let mut state = self.state();
        match &served {
            Ok(()) => drop(state.trouble.remove(&spec.id)),
            Err(failure) => drop(state.trouble.insert(spec.id.clone(), failure.to_string())),
        }
        served
    }

    async fn serve_once(&self, spec: &Spec) -> Result<(), Failure> {
        let request = Request::Attach(Box::new(spec.clone()));
        match self.order(spec, &request).await {
            // A process that had just decided to end took the order with it; the next one has all its life before it.
            Err(error) if is_absent(&error) => self.order(spec, &request).await,
            answered => answered,
        }
        .map_err(|error| {
            let log = log_path(&self.home, spec.process());
            Failure::Other(format!("the replica process broke off ({error}); its log is {}", log.display()))
        })?
    }

    async fn order(&self, spec: &Spec, request: &Request) -> io::Result<Result<(), Failure>> {
        self.ensure_process(spec.process()).await?;
        match control::ask(&self.home, spec.process(), request, ATTACH_WITHIN).await? {
            Answer::Done => Ok(Ok(())),
            Answer::Failed(failure) => Ok(Err(failure)),
            Answer::Status(_) => Err(io::ErrorKind::InvalidData.into()),
        }
    }

    /// Unmounts a replica and no longer wants it served.
    pub(super) async fn stop(&self, spec: &Spec) -> Result<(), Failure> {
        let request = Request::Detach { id: spec.id.clone() };
        match control::ask(&self.home, spec.process(), &request, ATTACH_WITHIN).await {
            Ok(Answer::Done | Answer::Failed(Failure::NoSuchReplica)) => {}
            Ok(Answer::Failed(failure)) => return Err(failure),
            Ok(Answer::Status(_)) => {
                return Err(Failure::Other("the replica process answered something else".into()));
            }
            Err(error) if is_absent(&error) => {}
            Err(error) => {
                return Err(Failure::Other(format!("the replica process does not answer: {error}")));
            }
        }
        self.sweep(spec).await;
        let mut state = self.state();
        state.wanted.remove(&spec.id);
        state.trouble.remove(&spec.id);
        state.deaths.remove(&spec.id);
        Ok(())
    }

    /// Unmounts what a process that died has left of a replica. Touches nothing that is served.
    async fn sweep(&self, spec: &Spec) {
        let mut paths = vec![spec.mount_point.clone()];
        let roots = self.home.replica(&spec.id).join("roots");
        for entry in std::fs::read_dir(roots).into_iter().flatten().flatten() {
            paths.push(entry.path());
        }
        for path in paths {
            let at = path.clone();
            match tokio::task::spawn_blocking(move || fuse::sweep_dead(&at)).await {
                Ok(Ok(true)) => tracing::info!(path = %path.display(), "a dead mount was removed"),
                Ok(Ok(false)) => {}
                Ok(Err(error)) => {
                    tracing::warn!(path = %path.display(), %error, "a dead mount cannot be removed")
                }
                Err(error) => {
                    tracing::warn!(path = %path.display(), %error, "a dead mount cannot be looked at")
                }
            }
        }
    }

    /// Makes sure that the process called `key` runs, answers and is watched.
    async fn ensure_process(&self, key: &str) -> io::Result<()> {
        let one = self
            .starting
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .entry(key.into())
            .or_default()
            .clone();
        let _one = one.lock().await;
        if control::connect(&self.home, key).await.is_ok() {
            return self.watch(key).await;
        }
        let child = self.spawn(key)?;
        let pid = child.id();
        self.reap(key.to_owned(), child);
        tracing::info!(process = key, pid, "replica process started");
        let deadline = tokio::time::Instant::now() + START_WITHIN;
        while control::connect(&self.home, key).await.is_err() {
            if tokio::time::Instant::now() > deadline {
                let log = log_path(&self.home, key);
                return Err(io::Error::other(format!(
                    "the replica process did not start; its log is {}",
                    log.display()
                )));
            }
            tokio::time::sleep(START_POLL).await;
        }
        self.watch(key).await
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
    async fn watch(&self, key: &str) -> io::Result<()> {
        if self.state().processes.contains_key(key) {
            return Ok(());
        }
        let (mut line, pid) = control::connect(&self.home, key).await?;
        self.state().processes.insert(key.into(), Process { pid });
        let (this, key) = (self.this.clone(), key.to_owned());
        tokio::spawn(async move {
            // The process says nothing unasked: whatever comes is its end.
            let _ = line.receive::<Answer>().await;
            if let Some(this) = this.upgrade() {
                this.ended(key).await;
            }
        });
        Ok(())
    }

    /// Serves again what the process that ended has left dead. What was unmounted by hand stays unmounted.
    fn ended(self: Arc<Self>, key: String) -> BoxFuture<'static, ()> {
        Box::pin(async move {
            let wanted: Vec<Spec> = {
                let mut state = self.state();
                state.processes.remove(&key);
                state.wanted.values().filter(|spec| spec.process() == key).cloned().collect()
            };
            for spec in wanted {
                let at = spec.mount_point.clone();
                if !tokio::task::spawn_blocking(move || is_dead(&at)).await.unwrap_or(false) {
                    self.state().wanted.remove(&spec.id);
                    continue;
                }
                let Some(pause) = self.count_death(&spec) else { continue };
                tokio::time::sleep(pause).await;
                if let Err(failure) = self.serve(&spec).await {
                    tracing::warn!(replica = spec.id, %failure, "cannot be served again");
                }
            }
        })
    }

    /// How long to wait before the next start; `None` when there have been too many.
    fn count_death(&self, spec: &Spec) -> Option<Duration> {
        let now = Instant::now();
        let mut state = self.state();
        let deaths = state.deaths.entry(spec.id.clone()).or_default();
        deaths.retain(|at| now.duration_since(*at) < DEATHS_WITHIN);
        deaths.push(now);
        let count = deaths.len();
        if count > DEATHS_MAX {
            let trouble = format!(
                "its process died {count} times in {} minutes; its log is {}",
                DEATHS_WITHIN.as_secs() / 60,
                log_path(&self.home, spec.process()).display()
            );
            state.trouble.insert(spec.id.clone(), trouble);
            return None;
        }
        Some(RESTART_AFTER * 2u32.pow(count as u32 - 1))
    }
}

fn log_path(home: &Home, key: &str) -> std::path::PathBuf {
    home.replica(key).join(LOG)
}

/// True when something is mounted there that nobody serves.
fn is_dead(at: &Path) -> bool {
    rustix::fs::statfs(at).is_err_and(|errno| errno == rustix::io::Errno::NOTCONN)
}

/// True when nobody listens on the socket, or whoever did has ended: the process does not run.
fn is_absent(error: &io::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionRefused, ConnectionReset, NotFound, UnexpectedEof};
    matches!(error.kind(), NotFound | ConnectionRefused | ConnectionReset | BrokenPipe | UnexpectedEof)
}
