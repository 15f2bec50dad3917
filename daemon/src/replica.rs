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
use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use twinshare_transport::client::Remote;
use twinshare_transport::identity::PeerId;

use crate::api::replica_control::{BoxFuture, ReplicaControl, ReplicaError, ReplicaSpec};
use crate::api::wire::{Keep, Replica, ReplicaKind, ReplicaRoot, WhyFound};
use crate::home::Home;
use crate::operation::Task;

mod caching;
mod claims;
pub mod control;
mod ending;
mod making;
mod pace;
mod place;
pub mod process;
mod relocated;
mod remotes;
mod roster;
mod served;
mod settled;
mod showing;
pub mod spec;
mod supervisor;
#[cfg(test)]
mod testing;

use control::{CachePruned, CacheReport, Failure, PinReport, PinnedPath, Request};
use settled::Settled;
use spec::Spec;
use supervisor::Supervisor;

/// Replicas of one node at most: each holds descriptors, threads and a mount.
pub const REPLICAS_MAX: usize = 256;

/// How long a process may take from the order to an answering mount.
const ATTACH_WITHIN: Duration = Duration::from_secs(60);

/// How long ending a replica is waited for, below the time a client of the API waits for its answer.
const END_WITHIN: Duration = Duration::from_secs(25);

/// Between two looks at replicas that are being served again.
const RESUMED_POLL: Duration = Duration::from_millis(20);

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
    /// Once it is an ordinary directory.
    settled: Option<Settled>,
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
            let (roots, settled) = (load_roots(&home, &spec.id), settled::of(&home, &spec.id));
            (spec.id.clone(), Known { spec, roots, settled })
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
        let all: Vec<Known> = self.known().values().cloned().collect();
        for Known { spec, settled, .. } in all {
            if spec.ended {
                self.known().remove(&spec.id);
                self.remove_when_left(spec);
            } else if settled.is_none() {
                self.supervisor.keep_serving(spec);
            }
        }
    }

    /// Returns when each replica is served, or could not be at the first try.
    pub async fn resumed(&self) {
        while !self.is_resumed() {
            tokio::time::sleep(RESUMED_POLL).await;
        }
    }

    /// True when nothing is being served for the first time.
    pub fn is_resumed(&self) -> bool {
        let ids: Vec<String> = self.known().keys().cloned().collect();
        !ids.iter().any(|id| self.supervisor.is_starting(id))
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

    fn settle<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<Replica, ReplicaError>> {
        Box::pin(self.settle_now(id))
    }

    fn hold<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<Replica, ReplicaError>> {
        Box::pin(self.hold_mounted(id))
    }

    fn account<'a>(
        &'a self,
        id: &'a str,
        root: u32,
        path: &'a str,
    ) -> BoxFuture<'a, Result<Option<WhyFound>, ReplicaError>> {
        Box::pin(async move {
            let spec = self.find(id)?.spec;
            let request = Request::Account { id: id.to_owned(), root, path: path.to_owned() };
            let told = self.supervisor.account(&spec, &request).await;
            told.map_err(|failure| from_failure(failure, &spec))
        })
    }

    fn resolve<'a>(
        &'a self,
        id: &'a str,
        path: &'a str,
        keep: Option<Keep>,
    ) -> BoxFuture<'a, Result<Option<u64>, ReplicaError>> {
        Box::pin(async move {
            let spec = self.find(id)?.spec;
            let request = Request::Resolve { id: id.to_owned(), path: path.to_owned(), keep };
            self.supervisor.resolve(&spec, &request).await.map_err(|failure| match failure {
                Failure::NothingToDecide(why) => ReplicaError::NothingToDecide { path: path.to_owned(), why },
                failure => from_failure(failure, &spec),
            })
        })
    }

    fn cache(&self) -> BoxFuture<'_, Option<CacheReport>> {
        Box::pin(self.cache_report())
    }

    fn prune(&self, unused_s: u64) -> BoxFuture<'_, Result<(CachePruned, CachePruned), ReplicaError>> {
        Box::pin(self.prune_cache(unused_s))
    }

    fn pins<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<Vec<PinReport>, ReplicaError>> {
        Box::pin(self.pins_of(id))
    }

    fn pin<'a>(
        &'a self,
        id: &'a str,
        pin: PinnedPath,
    ) -> BoxFuture<'a, Result<Option<Vec<PinReport>>, ReplicaError>> {
        Box::pin(self.pin_path(id, pin))
    }

    fn unpin<'a>(&'a self, id: &'a str, pin: PinnedPath) -> BoxFuture<'a, Result<bool, ReplicaError>> {
        Box::pin(self.unpin_path(id, pin))
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

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> std::io::Result<T> + Send + 'static,
) -> std::io::Result<T> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|died| Err(std::io::Error::other(died)))
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
        Failure::Incomplete(why) => ReplicaError::Incomplete { directory, why },
        Failure::Cancelled => ReplicaError::Cancelled,
        Failure::Directory(reason) => ReplicaError::Directory { directory, reason },
        Failure::Unreachable(why) => ReplicaError::Unreachable(why),
        Failure::Refused(why) => ReplicaError::Refused(why),
        Failure::Unsupported(what) => ReplicaError::Unsupported(what),
        Failure::Leaving | Failure::Settled | Failure::NothingToDecide(_) => failed(failure.to_string()),
        Failure::Other(what) => failed(what),
    }
}
