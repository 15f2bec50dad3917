//! Replicas from the node's side: made, watched, found again and ended.
//!
//! The node never serves a mount itself. It writes down what a replica is ([`spec`]), starts the process that serves
//! it ([`process`]) and steers that process over a socket ([`control`]). When it starts it finds the processes that
//! still serve, and starts those that should and do not; while it runs it does the same for one that dies.
//!
//! What the node knows of a replica is on disk before anything is mounted, and is removed after it was unmounted, so
//! a node that dies at any instant leaves nothing that its successor does not know of.

use std::collections::HashMap;
use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use twinshare_transport::client::Remote;
use twinshare_transport::identity::PeerId;

use crate::api::replica_control::{BoxFuture, ReplicaControl, ReplicaError, ReplicaSpec};
use crate::api::wire::{PeerRef, ProgressUnit, Replica, ReplicaKind, ReplicaRoot, ReplicaState, UnixTime};
use crate::home::Home;
use crate::operation::Task;

pub mod control;
mod place;
pub mod process;
mod served;
pub mod spec;
mod supervisor;

use control::{ANSWER_WITHIN, Failure, Report, Request};
use spec::Spec;
use supervisor::Supervisor;

/// Replicas of one node at most: each holds descriptors, threads and a mount.
pub const REPLICAS_MAX: usize = 256;

/// How long the origin may take to freeze a snapshot: the walk of some million files on a slow disk.
const SNAPSHOT_WITHIN: Duration = Duration::from_secs(180);

/// How long a process may take from the order to an answering mount.
const ATTACH_WITHIN: Duration = Duration::from_secs(60);

/// Name of a process's log in its state directory.
const LOG: &str = "log";

/// Where the node's connections to its peers come from.
pub trait Connections: Send + Sync + 'static {
    /// The connection to `peer`, which was last found at `addresses`.
    fn remote(&self, peer: PeerId, addresses: &[SocketAddr]) -> Remote;
}

/// All replicas of a node.
pub struct Replicas {
    home: Home,
    connections: Arc<dyn Connections>,
    supervisor: Arc<Supervisor>,
    /// What is known, by id. Held for map operations only and never across an `.await`.
    specs: Mutex<HashMap<String, Spec>>,
}

impl fmt::Debug for Replicas {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Replicas").field("known", &self.specs().len()).finish_non_exhaustive()
    }
}

impl Replicas {
    /// Knows the replicas in `home`; [`resume`](Self::resume) serves them again.
    pub fn new(home: Home, connections: Arc<dyn Connections>) -> Self {
        let specs =
            spec::load_all(&home.replicas()).into_iter().map(|spec| (spec.id.clone(), spec)).collect();
        let supervisor = Supervisor::new(home.clone());
        Self { home, connections, supervisor, specs: Mutex::new(specs) }
    }

    /// Finds the processes that still serve, repairs the mounts of those that died, and starts them again. Returns
    /// when each replica is served or its failure is known. Concurrent; bounded by the time one attach may take.
    pub async fn resume(&self) {
        let specs: Vec<Spec> = self.specs().values().cloned().collect();
        let mut starting = tokio::task::JoinSet::new();
        for spec in specs {
            let supervisor = self.supervisor.clone();
            starting.spawn(async move { supervisor.serve(&spec).await.map_err(|failure| (spec, failure)) });
        }
        while let Some(started) = starting.join_next().await {
            if let Ok(Err((spec, failure))) = started {
                tracing::warn!(replica = spec.id, workspace = spec.workspace, %failure, "cannot be served");
            }
        }
    }

    /// Tells the processes where a peer is now.
    pub async fn peer_moved(&self, peer: PeerId, addresses: Vec<SocketAddr>) {
        let of_peer: Vec<Spec> = {
            let mut specs = self.specs();
            let affected = specs.values_mut().filter(|spec| spec.peer == peer && spec.addresses != addresses);
            affected
                .map(|spec| {
                    spec.addresses.clone_from(&addresses);
                    spec.clone()
                })
                .collect()
        };
        for spec in of_peer {
            let directory = self.home.replica(&spec.id);
            let saved = spec.clone();
            let saved = tokio::task::spawn_blocking(move || saved.save(&directory)).await;
            if let Ok(Err(error)) = saved {
                tracing::warn!(replica = spec.id, %error, "the peer's new address cannot be kept");
            }
            let request = Request::Addresses { peer, addresses: addresses.clone() };
            // A process that does not answer learns the address when it is started again.
            let _ = control::ask(&self.home, spec.process(), &request, ANSWER_WITHIN).await;
        }
    }

    fn specs(&self) -> std::sync::MutexGuard<'_, HashMap<String, Spec>> {
        self.specs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn spec(&self, id: &str) -> Result<Spec, ReplicaError> {
        self.specs().get(id).cloned().ok_or_else(|| ReplicaError::NoSuchReplica(id.into()))
    }

    async fn make(&self, wanted: ReplicaSpec, task: &Task) -> Result<Replica, ReplicaError> {
        let mount_point = match &wanted.directory {
            Some(directory) => directory.clone(),
            None => place::default(&self.home, &wanted),
        };
        if let Some(there) = self.mounted_at(&mount_point) {
            return self.again(&wanted, there).await;
        }
        if self.specs().len() >= REPLICAS_MAX {
            return Err(ReplicaError::Unsupported(format!(
                "there are {REPLICAS_MAX} mounts and clones already"
            )));
        }
        task.step("asking for a snapshot", None, ProgressUnit::Steps);
        let remote = self.connections.remote(wanted.peer, &wanted.addresses);
        let snapshot = tokio::select! {
            snapshot = remote.open_snapshot(&wanted.workspace, None, SNAPSHOT_WITHIN) => snapshot?,
            () = task.cancelled() => return Err(ReplicaError::Cancelled),
        };
        let made_mount_point = prepare(&mount_point, wanted.kind).await?;
        let spec = Spec {
            id: new_id(),
            kind: wanted.kind,
            peer: wanted.peer,
            peer_name: wanted.peer_name.clone().unwrap_or_else(|| wanted.peer.short()),
            addresses: wanted.addresses.clone(),
            workspace: wanted.workspace.clone(),
            snapshot: snapshot.id.to_string(),
            mount_point,
            made_mount_point,
            when_gone: wanted.when_gone,
            created_at: UnixTime::now(),
        };
        task.step("mounting", None, ProgressUnit::Steps);
        self.begin(spec, task).await
    }

    /// Writes the replica down and has it served; undoes all of it when that fails or is cancelled.
    async fn begin(&self, spec: Spec, task: &Task) -> Result<Replica, ReplicaError> {
        let directory = self.home.replica(&spec.id);
        let saved = spec.clone();
        blocking(move || {
            std::fs::create_dir(&directory)?;
            saved.save(&directory)
        })
        .await
        .map_err(|error| disk("what is known of the replica cannot be kept", error))?;
        self.specs().insert(spec.id.clone(), spec.clone());
        let served = tokio::select! {
            served = self.supervisor.serve(&spec) => served.map_err(|failure| from_failure(failure, &spec)),
            () = task.cancelled() => Err(ReplicaError::Cancelled),
        };
        match served {
            Ok(()) => self.show(&spec.id).await,
            Err(error) => {
                if let Err(left) = self.end(&spec).await {
                    tracing::warn!(replica = spec.id, error = %left, "an attempt cannot be undone");
                }
                Err(error)
            }
        }
    }

    /// Asked for once more: the view that is there is what was asked for; anything else is in the way.
    async fn again(&self, wanted: &ReplicaSpec, there: Spec) -> Result<Replica, ReplicaError> {
        if (there.kind, there.peer, &there.workspace) == (wanted.kind, wanted.peer, &wanted.workspace) {
            self.supervisor.serve(&there).await.map_err(|failure| from_failure(failure, &there))?;
            return self.show(&there.id).await;
        }
        Err(ReplicaError::Directory {
            directory: there.mount_point,
            reason: format!("{}/{} is there already; unmount it first", there.peer_name, there.workspace),
        })
    }

    fn mounted_at(&self, mount_point: &Path) -> Option<Spec> {
        self.specs().values().find(|spec| spec.mount_point == mount_point).cloned()
    }

    async fn show(&self, id: &str) -> Result<Replica, ReplicaError> {
        let spec = self.spec(id)?;
        let reports = self.supervisor.reports(spec.process()).await;
        Ok(self.document(&spec, reports.as_deref()))
    }

    async fn show_all(&self, kind: ReplicaKind) -> Vec<Replica> {
        let mut specs: Vec<Spec> = self.specs().values().filter(|spec| spec.kind == kind).cloned().collect();
        specs.sort_by(|a, b| (a.created_at, &a.id).cmp(&(b.created_at, &b.id)));
        let mut asking = tokio::task::JoinSet::new();
        let processes: std::collections::BTreeSet<String> =
            specs.iter().map(|spec| spec.process().to_owned()).collect();
        for process in processes {
            let supervisor = self.supervisor.clone();
            asking.spawn(async move { (supervisor.reports(&process).await, process) });
        }
        let mut reports = HashMap::new();
        while let Some(Ok((answer, process))) = asking.join_next().await {
            reports.insert(process, answer);
        }
        let of = |spec: &Spec| reports.get(spec.process()).and_then(|answer| answer.as_deref());
        specs.iter().map(|spec| self.document(spec, of(spec))).collect()
    }

    /// What the API shows; `reports` are all of its process's, `None` when that does not answer.
    fn document(&self, spec: &Spec, reports: Option<&[Report]>) -> Replica {
        let report = reports.and_then(|reports| reports.iter().find(|report| report.id == spec.id));
        let (state, detail) = match (report, self.supervisor.trouble(&spec.id)) {
            (Some(_), _) => (ReplicaState::Mounted, None),
            (None, Some(trouble)) => (ReplicaState::Failed, Some(trouble)),
            (None, None) if reports.is_some() => (ReplicaState::Stopped, None),
            (None, None) if self.supervisor.is_starting(&spec.id) => (ReplicaState::Starting, None),
            (None, None) => (ReplicaState::Stopped, None),
        };
        Replica {
            id: spec.id.clone(),
            kind: spec.kind,
            workspace: spec.workspace.clone(),
            peer: PeerRef {
                id: spec.peer.to_string(),
                short_id: spec.peer.short(),
                name: Some(spec.peer_name.clone()),
            },
            directory: spec.mount_point.to_string_lossy().into_owned(),
            state,
            detail,
            when_gone: spec.when_gone.to_string(),
            snapshot: Some(spec.snapshot.clone()),
            pid: self.supervisor.pid(spec.process()),
            created_at: spec.created_at,
            roots: report.map_or_else(|| self.roots_of(spec), |report| report.roots.clone()),
            progress: report.map(|report| report.progress.clone()),
            left_out: report.and_then(|report| report.left_out.clone()),
        }
    }

    /// The one root that is known of a replica that is not served.
    fn roots_of(&self, spec: &Spec) -> Vec<ReplicaRoot> {
        let local = spec.mount_point.to_string_lossy().into_owned();
        vec![ReplicaRoot { origin: String::new(), local }]
    }

    /// Unmounts and forgets. A view's cached data goes with it; a clone's directory goes when nothing else is in it.
    async fn end(&self, spec: &Spec) -> Result<(), ReplicaError> {
        self.supervisor.stop(spec).await.map_err(|failure| from_failure(failure, spec))?;
        let (home, gone) = (self.home.clone(), spec.clone());
        blocking(move || place::remove(&home, &gone))
            .await
            .map_err(|error| disk("what is left of it cannot be removed", error))?;
        self.specs().remove(&spec.id);
        Ok(())
    }
}

impl ReplicaControl for Replicas {
    fn attach<'a>(&'a self, spec: ReplicaSpec, task: Task) -> BoxFuture<'a, Result<Replica, ReplicaError>> {
        Box::pin(async move { self.make(spec, &task).await })
    }

    fn list(&self, kind: ReplicaKind) -> BoxFuture<'_, Vec<Replica>> {
        Box::pin(self.show_all(kind))
    }

    fn status<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<Replica, ReplicaError>> {
        Box::pin(self.show(id))
    }

    fn detach<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<(), ReplicaError>> {
        Box::pin(async move { self.end(&self.spec(id)?).await })
    }
}

async fn prepare(mount_point: &Path, kind: ReplicaKind) -> Result<bool, ReplicaError> {
    let directory = mount_point.to_owned();
    let prepared = tokio::task::spawn_blocking(move || place::prepare(&directory, kind)).await;
    prepared
        .unwrap_or_else(|died| Err(died.to_string()))
        .map_err(|reason| ReplicaError::Directory { directory: mount_point.to_owned(), reason })
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> std::io::Result<T> + Send + 'static,
) -> std::io::Result<T> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|died| Err(std::io::Error::other(died)))
}

/// 64 random bits: short enough to be read out, and no two in one home.
fn new_id() -> String {
    // The standard library keys its hasher from the system's random numbers.
    format!("{:016x}", RandomState::new().hash_one(()))
}

fn failed(what: String) -> ReplicaError {
    ReplicaError::Failed { what, source: None }
}

fn disk(what: &str, error: std::io::Error) -> ReplicaError {
    ReplicaError::Failed { what: what.into(), source: Some(Box::new(error)) }
}

fn from_failure(failure: Failure, spec: &Spec) -> ReplicaError {
    let directory: PathBuf = spec.mount_point.clone();
    match failure {
        Failure::NoSuchReplica => ReplicaError::NoSuchReplica(spec.id.clone()),
        Failure::Busy(users) => ReplicaError::Busy { directory, users },
        Failure::Directory(reason) => ReplicaError::Directory { directory, reason },
        Failure::Unreachable(why) => ReplicaError::Unreachable(why),
        Failure::Refused(why) => ReplicaError::Refused(why),
        Failure::Unsupported(what) => ReplicaError::Unsupported(what),
        Failure::Other(what) => failed(what),
    }
}
