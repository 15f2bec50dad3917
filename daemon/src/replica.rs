//! Replicas from the node's side: made, watched, found again and ended.
//!
//! The node never serves a mount itself. It writes down what a replica is ([`spec`]), starts the process that serves
//! it ([`process`]) and steers that process over a socket ([`control`]). When it starts it finds the processes that
//! still serve, and starts those that should and do not; while it runs it does the same for one that dies.
//!
//! What the node knows of a replica is on disk before anything is mounted, and is removed after it was unmounted, so
//! a node that dies at any instant leaves nothing that its successor does not know of. Whoever makes, serves, repairs
//! or ends a replica holds the [claim](claims) on its mount point meanwhile.

use std::collections::{BTreeSet, HashMap};
use std::convert::Infallible;
use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use twinshare_fs::replica::layout;
use twinshare_transport::client::Remote;
use twinshare_transport::identity::PeerId;

use crate::api::replica_control::{BoxFuture, ReplicaControl, ReplicaError, ReplicaSpec};
use crate::api::wire::{PeerRef, ProgressUnit, Replica, ReplicaKind, ReplicaRoot, ReplicaState, UnixTime};
use crate::home::Home;
use crate::operation::Task;

mod claims;
pub mod control;
mod place;
pub mod process;
mod remotes;
mod roster;
mod served;
pub mod spec;
mod supervisor;
#[cfg(test)]
mod testing;

use claims::Claim;
use control::{Failure, Request};
use spec::Spec;
use supervisor::{Reports, Stopped, Supervisor};

/// Replicas of one node at most: each holds descriptors, threads and a mount.
pub const REPLICAS_MAX: usize = 256;

/// How long the origin may take to freeze a snapshot: the walk of some million files on a slow disk.
const SNAPSHOT_WITHIN: Duration = Duration::from_secs(180);

/// How long a process may take from the order to an answering mount.
const ATTACH_WITHIN: Duration = Duration::from_secs(60);

/// How long ending a replica is waited for, below the time a client of the API waits for its answer.
const END_WITHIN: Duration = Duration::from_secs(25);

/// Between two looks at a replica that is no longer mounted but still used elsewhere.
const LEFT_POLL: Duration = Duration::from_secs(2);

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
    this: Weak<Self>,
    connections: Arc<dyn Connections>,
    supervisor: Arc<Supervisor>,
    /// What is known, by id. Held for map operations only and never across an `.await`.
    known: Mutex<HashMap<String, Known>>,
}

/// What is known of a replica.
#[derive(Clone)]
struct Known {
    spec: Spec,
    /// Nothing before its manifest was there for the first time.
    roots: Vec<ReplicaRoot>,
}

impl fmt::Debug for Replicas {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Replicas").field("known", &self.known().len()).finish_non_exhaustive()
    }
}

impl Replicas {
    /// Knows the replicas in `home`; [`resume`](Self::resume) serves them again.
    pub fn new(home: Home, connections: Arc<dyn Connections>) -> Arc<Self> {
        let specs = spec::load_all(&home.replicas()).into_iter();
        let known = specs.map(|spec| {
            let roots = load_roots(&home, &spec.id);
            (spec.id.clone(), Known { spec, roots })
        });
        let known = known.collect();
        let supervisor = Supervisor::new(home.clone());
        Arc::new_cyclic(|this| Self {
            home,
            this: this.clone(),
            connections,
            supervisor,
            known: Mutex::new(known),
        })
    }

    /// Finds the processes that still serve, repairs the mounts of those that died, and starts them again; removes
    /// what is left of replicas that were ended. All of it in the background, within a Tokio runtime.
    pub fn resume(&self) {
        let specs: Vec<Spec> = self.known().values().map(|known| known.spec.clone()).collect();
        for spec in specs {
            if spec.ended {
                self.known().remove(&spec.id);
                self.remove_when_left(spec);
            } else {
                self.supervisor.keep_serving(spec);
            }
        }
    }

    /// Tells the processes where a peer is now, and tries again what could not be served for want of it. Bounded by
    /// the time a process may take to answer.
    pub async fn peer_moved(&self, peer: PeerId, addresses: Vec<SocketAddr>) {
        let moved: Vec<Spec> = {
            let mut known = self.known();
            let of_peer = known.values_mut().map(|known| &mut known.spec);
            let affected = of_peer.filter(|spec| spec.peer == peer && spec.addresses != addresses);
            affected
                .map(|spec| {
                    spec.addresses.clone_from(&addresses);
                    spec.clone()
                })
                .collect()
        };
        for spec in &moved {
            self.supervisor.update(spec);
            if let Err(error) = self.save(spec).await {
                tracing::warn!(replica = spec.id, %error, "the peer's new address cannot be kept");
            }
        }
        self.supervisor.hurry();
        let processes: BTreeSet<String> = moved.into_iter().map(|spec| spec.process).collect();
        let request = Request::Addresses { peer, addresses };
        let mut telling = tokio::task::JoinSet::new();
        for process in processes {
            let (supervisor, request) = (self.supervisor.clone(), request.clone());
            telling.spawn(async move { supervisor.tell(&process, &request).await });
        }
        while telling.join_next().await.is_some() {}
    }

    fn known(&self) -> std::sync::MutexGuard<'_, HashMap<String, Known>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn find(&self, id: &str) -> Result<Known, ReplicaError> {
        self.known().get(id).cloned().ok_or_else(|| ReplicaError::NoSuchReplica(id.into()))
    }

    async fn save(&self, spec: &Spec) -> std::io::Result<()> {
        let (directory, spec) = (self.home.replica(&spec.id), spec.clone());
        blocking(move || spec.save(&directory)).await
    }

    async fn make(&self, wanted: ReplicaSpec, task: &Task) -> Result<Replica, ReplicaError> {
        let mount_point = self.place(&wanted).await?;
        let claim = tokio::select! {
            claim = self.supervisor.claims.claim(&mount_point) => claim,
            () = task.cancelled() => return Err(ReplicaError::Cancelled),
        };
        if let Some(there) = self.mounted_at(&mount_point) {
            return self.again(&wanted, there, claim, task).await;
        }
        let exists = self.check(&mount_point).await?;
        task.step("asking for a snapshot", None, ProgressUnit::Steps);
        let remote = self.connections.remote(wanted.peer, &wanted.addresses);
        let snapshot = tokio::select! {
            snapshot = remote.open_snapshot(&wanted.workspace, None, SNAPSHOT_WITHIN) => snapshot?,
            () = task.cancelled() => return Err(ReplicaError::Cancelled),
        };
        let id = new_id();
        let spec = Spec {
            version: spec::VERSION,
            process: Spec::process_for(wanted.kind, &id),
            id,
            kind: wanted.kind,
            peer: wanted.peer,
            peer_name: wanted.peer_name.clone().unwrap_or_else(|| wanted.peer.short()),
            addresses: wanted.addresses.clone(),
            workspace: wanted.workspace.clone(),
            snapshot: snapshot.id.to_string(),
            mount_point,
            made_mount_point: !exists,
            replica_directory: (wanted.kind == ReplicaKind::Clone).then(layout::new_name),
            when_gone: wanted.when_gone,
            created_at: UnixTime::now(),
            ended: false,
        };
        task.step("mounting", None, ProgressUnit::Steps);
        self.begin(spec, &claim, task).await
    }

    /// Where it is to be mounted.
    async fn place(&self, wanted: &ReplicaSpec) -> Result<PathBuf, ReplicaError> {
        let directory = wanted.directory.clone().unwrap_or_else(|| place::default(&self.home, wanted));
        let asked = directory.clone();
        said(move || place::resolve(&asked))
            .await
            .map_err(|reason| ReplicaError::Directory { directory, reason })
    }

    /// Checks that something can be mounted there; true if the directory exists.
    async fn check(&self, mount_point: &Path) -> Result<bool, ReplicaError> {
        let (home, directory) = (self.home.clone(), mount_point.to_owned());
        let checked = said(move || place::check(&home, &directory)).await;
        checked.map_err(|reason| ReplicaError::Directory { directory: mount_point.to_owned(), reason })
    }

    /// Writes the replica down and has it served; undoes all of it when that fails or is cancelled.
    async fn begin(&self, spec: Spec, claim: &Claim, task: &Task) -> Result<Replica, ReplicaError> {
        self.write_down(&spec).await?;
        let serving = self.supervisor.serve(&spec, claim);
        let cancelled = async {
            task.cancelled().await;
            claim.stop().cancel();
            std::future::pending::<Infallible>().await
        };
        let served = tokio::select! {
            served = serving => served,
            never = cancelled => match never {},
        };
        match served {
            Ok(()) => {
                self.note_roots(&spec.id).await;
                self.show(&spec.id).await
            }
            Err(failure) => {
                if let Err(left) = self.end(spec.clone()).await {
                    tracing::warn!(replica = spec.id, error = %left, "an attempt cannot be undone");
                }
                Err(from_failure(failure, &spec))
            }
        }
    }

    async fn write_down(&self, spec: &Spec) -> Result<(), ReplicaError> {
        {
            let mut known = self.known();
            if known.len() >= REPLICAS_MAX {
                let why = format!("there are {REPLICAS_MAX} mounts and clones already");
                return Err(ReplicaError::Unsupported(why));
            }
            known.insert(spec.id.clone(), Known { spec: spec.clone(), roots: Vec::new() });
        }
        let (directory, saved) = (self.home.replica(&spec.id), spec.clone());
        let written = blocking(move || {
            std::fs::create_dir(&directory)?;
            saved.save(&directory)?;
            // After the spec: whatever is made is known.
            std::fs::create_dir_all(&saved.mount_point)
        });
        if let Err(error) = written.await {
            let removed = self.end(spec.clone()).await;
            tracing::debug!(replica = spec.id, ?removed, "what was made for it before the disk failed");
            return Err(disk("it cannot be written down", error));
        }
        Ok(())
    }

    /// Learns what the replica's process found out about it.
    async fn note_roots(&self, id: &str) {
        let (home, of) = (self.home.clone(), id.to_owned());
        let roots = blocking(move || Ok(load_roots(&home, &of))).await.unwrap_or_default();
        if let Some(known) = self.known().get_mut(id) {
            known.roots = roots;
        }
    }

    /// Asked for once more: the view that is there is what was asked for; anything else is in the way.
    async fn again(
        &self,
        wanted: &ReplicaSpec,
        there: Spec,
        claim: Claim,
        task: &Task,
    ) -> Result<Replica, ReplicaError> {
        if (there.kind, there.peer, &there.workspace) != (wanted.kind, wanted.peer, &wanted.workspace) {
            return Err(ReplicaError::Directory {
                directory: there.mount_point,
                reason: format!("{}/{} is there already; unmount it first", there.peer_name, there.workspace),
            });
        }
        let spec = Spec { addresses: wanted.addresses.clone(), ..there };
        let (supervisor, serving) = (self.supervisor.clone(), spec.clone());
        // In a task of its own, which goes on: whoever gives up waiting has no business undoing what others use.
        let serving = tokio::spawn(async move { supervisor.serve(&serving, &claim).await });
        let served = tokio::select! {
            served = serving => served.unwrap_or_else(|died| Err(Failure::Other(died.to_string()))),
            () = task.cancelled() => return Err(ReplicaError::Cancelled),
        };
        served.map_err(|failure| from_failure(failure, &spec))?;
        self.note_roots(&spec.id).await;
        self.show(&spec.id).await
    }

    fn mounted_at(&self, mount_point: &Path) -> Option<Spec> {
        let known = self.known();
        known.values().map(|known| &known.spec).find(|spec| spec.mount_point == mount_point).cloned()
    }

    async fn show(&self, id: &str) -> Result<Replica, ReplicaError> {
        let known = self.find(id)?;
        let reports = self.supervisor.reports(&known.spec.process).await;
        Ok(self.document(&known, &reports))
    }

    async fn show_all(&self, kind: ReplicaKind) -> Vec<Replica> {
        let mut all: Vec<Known> =
            self.known().values().filter(|known| known.spec.kind == kind).cloned().collect();
        all.sort_by(|a, b| (a.spec.created_at, &a.spec.id).cmp(&(b.spec.created_at, &b.spec.id)));
        let mut asking = tokio::task::JoinSet::new();
        let processes: BTreeSet<String> = all.iter().map(|known| known.spec.process.clone()).collect();
        for process in processes {
            let supervisor = self.supervisor.clone();
            asking.spawn(async move { (supervisor.reports(&process).await, process) });
        }
        let mut reports = HashMap::new();
        while let Some(asked) = asking.join_next().await {
            if let Ok((answer, process)) = asked {
                reports.insert(process, answer);
            }
        }
        let of = |known: &Known| reports.get(&known.spec.process).unwrap_or(&Reports::Silent);
        all.iter().map(|known| self.document(known, of(known))).collect()
    }

    /// What the API shows; `reports` are all of its process's.
    fn document(&self, known: &Known, reports: &Reports) -> Replica {
        let Known { spec, roots } = known;
        let report = match reports {
            Reports::Told(reports) => reports.iter().find(|report| report.id == spec.id),
            Reports::Absent | Reports::Silent => None,
        };
        let pid = self.supervisor.pid(&spec.process);
        let (state, detail) = match (report, self.supervisor.trouble(&spec.id)) {
            (Some(_), _) => (ReplicaState::Mounted, None),
            (None, _) if self.supervisor.is_starting(&spec.id) => (ReplicaState::Starting, None),
            (None, Some(trouble)) => (ReplicaState::Failed, Some(trouble)),
            (None, None) if matches!(reports, Reports::Silent) => {
                let number = pid.map(|pid| format!(" (pid {pid})")).unwrap_or_default();
                (ReplicaState::Failed, Some(format!("its process{number} does not answer")))
            }
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
            pid,
            created_at: spec.created_at,
            roots: roots.clone(),
            progress: report.map(|report| report.progress.clone()),
            left_out: report.and_then(|report| report.left_out.clone()),
        }
    }

    /// Unmounts and forgets. A view's cached data goes with it; a clone's directory goes when nothing else is in it.
    /// To be called under its claim.
    async fn end(&self, spec: Spec) -> Result<(), ReplicaError> {
        let stopped = self.supervisor.stop(&spec).await.map_err(|failure| from_failure(failure, &spec))?;
        let spec = Spec { ended: true, ..spec };
        // From here on a node that is started anew goes on removing, and does not mount it again.
        if let Err(error) = self.save(&spec).await {
            tracing::debug!(replica = spec.id, %error, "its end cannot be noted");
        }
        if stopped == Stopped::Leaving {
            self.known().remove(&spec.id);
            self.remove_when_left(spec);
            return Ok(());
        }
        let (home, gone) = (self.home.clone(), spec.clone());
        blocking(move || place::remove(&home, &gone))
            .await
            .map_err(|error| disk("what is left of it cannot be removed", error))?;
        self.known().remove(&spec.id);
        Ok(())
    }

    /// Removes what is left of a replica that has been unmounted, as soon as nothing is served from it any more.
    fn remove_when_left(&self, spec: Spec) {
        let (home, supervisor) = (self.home.clone(), self.supervisor.clone());
        tokio::spawn(async move {
            if spec.kind == ReplicaKind::View {
                place::remove_mount_point(&spec);
            }
            while supervisor.detach(&spec).await != Ok(Stopped::Over) {
                tokio::time::sleep(LEFT_POLL).await;
            }
            let id = spec.id.clone();
            if let Err(error) = blocking(move || place::remove(&home, &spec)).await {
                tracing::warn!(replica = id, %error, "what is left of it cannot be removed");
            }
        });
    }

    /// Ends a replica, whatever is being done with it.
    async fn interrupt_and_end(self: Arc<Self>, id: String) -> Result<(), ReplicaError> {
        let mount_point = self.find(&id)?.spec.mount_point;
        self.supervisor.claims.interrupt(&mount_point);
        let _claim = self.supervisor.claims.claim(&mount_point).await;
        let spec = self.find(&id)?.spec;
        self.end(spec).await
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
        Box::pin(async move {
            let this = self.this.upgrade().ok_or_else(|| failed("the node is stopping".into()))?;
            // In a task of its own: whoever asked may hang up, and half an end would be worse than none.
            let ending = tokio::spawn(this.interrupt_and_end(id.to_owned()));
            match tokio::time::timeout(END_WITHIN, ending).await {
                Ok(ended) => ended.unwrap_or_else(|died| Err(failed(died.to_string()))),
                Err(_) => Err(failed("it is still being unmounted; look again in a moment".into())),
            }
        })
    }
}

fn load_roots(home: &Home, id: &str) -> Vec<ReplicaRoot> {
    spec::load_roots(&home.replica(id)).unwrap_or_else(|error| {
        tracing::warn!(replica = id, %error, "its roots cannot be told");
        Vec::new()
    })
}

/// Runs what blocks; a panic in it is a reason too.
async fn said<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, String> + Send + 'static,
) -> Result<T, String> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|died| Err(died.to_string()))
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
        Failure::Cancelled => ReplicaError::Cancelled,
        Failure::Directory(reason) => ReplicaError::Directory { directory, reason },
        Failure::Unreachable(why) => ReplicaError::Unreachable(why),
        Failure::Refused(why) => ReplicaError::Refused(why),
        Failure::Unsupported(what) => ReplicaError::Unsupported(what),
        Failure::Leaving => failed(failure.to_string()),
        Failure::Other(what) => failed(what),
    }
}
