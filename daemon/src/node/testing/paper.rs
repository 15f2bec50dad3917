//! A node for tests of what lies above it, with replicas that exist on paper only.

use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use tempfile::TempDir;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use twinshare_transport::client::Client;
use twinshare_transport::identity::Identity;
use twinshare_transport::protocol::Hello;

use crate::api::replica_control::{BoxFuture, ReplicaControl, ReplicaError, ReplicaSpec};
use crate::api::wire::{Keep, PeerRef, ProgressUnit, Replica, ReplicaKind, ReplicaState, UnixTime, WhyFound};
use crate::config::Config;
use crate::discovery::Seen;
use crate::home::Home;
use crate::node::{Node, Peers};
use crate::operation::{Operations, Task};
use crate::registry::Registry;
use crate::replica::control::{CachePruned, CacheReport, PinReport, PinnedPath};
use crate::share::Shares;

/// A replica that is mounted nowhere.
pub(crate) fn replica(id: &str, kind: ReplicaKind) -> Replica {
    Replica {
        id: id.to_owned(),
        kind,
        workspace: "demo".to_owned(),
        peer: PeerRef { id: "peer".to_owned(), short_id: "peer".to_owned(), name: None },
        directory: format!("/nowhere/{id}"),
        state: ReplicaState::Mounted,
        detail: None,
        when_gone: "wait=10s".to_owned(),
        snapshot: None,
        pid: None,
        created_at: UnixTime(0),
        plain: false,
        was_there: false,
        roots: Vec::new(),
        progress: None,
        following: None,
        left_out: None,
        changed: None,
        reading: Vec::new(),
        settling: None,
        receipt: None,
    }
}

/// Replicas in memory. Their workspace's name decides how an attempt ends: `refused`, `hangs` (until cancelled),
/// anything else becomes a replica. One called `busy` cannot be detached; `panics` panics. One that starts is mounted
/// the second time somebody asks about it.
#[derive(Debug, Default)]
pub(crate) struct PaperReplicas(Mutex<Vec<Replica>>);

impl PaperReplicas {
    pub(crate) fn of(replicas: impl IntoIterator<Item = Replica>) -> Self {
        Self(Mutex::new(replicas.into_iter().collect()))
    }

    fn find(&self, id: &str) -> Result<Replica, ReplicaError> {
        let all = self.0.lock().unwrap();
        all.iter().find(|r| r.id == id).cloned().ok_or_else(|| ReplicaError::NoSuchReplica(id.to_owned()))
    }
}

impl ReplicaControl for PaperReplicas {
    fn attach<'a>(&'a self, spec: ReplicaSpec, task: Task) -> BoxFuture<'a, Result<Replica, ReplicaError>> {
        Box::pin(async move {
            task.step("asking the peer", None, ProgressUnit::Steps);
            match spec.workspace.as_str() {
                "refused" => return Err(ReplicaError::Refused("not shared with you".to_owned())),
                "hangs" => {
                    task.cancelled().await;
                    return Err(ReplicaError::Cancelled);
                }
                _ => {}
            }
            let mut made = replica(&spec.workspace, spec.kind);
            made.when_gone = spec.when_gone.to_string();
            made.peer.id = spec.peer.to_string();
            self.0.lock().unwrap().push(made.clone());
            Ok(made)
        })
    }

    fn list(&self, kind: ReplicaKind) -> BoxFuture<'_, Vec<Replica>> {
        let all = self.0.lock().unwrap().iter().filter(|r| r.kind == kind).cloned().collect();
        Box::pin(async { all })
    }

    fn status<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<Replica, ReplicaError>> {
        assert_ne!(id, "panics", "asked to");
        let found = self.find(id);
        for replica in self.0.lock().unwrap().iter_mut().filter(|replica| replica.id == id) {
            if replica.state == ReplicaState::Starting {
                replica.state = ReplicaState::Mounted;
            }
        }
        Box::pin(async { found })
    }

    fn settle<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<Replica, ReplicaError>> {
        let found = self.find(id);
        Box::pin(async move {
            let replica = found?;
            if id == "busy" {
                let users = vec!["bash (pid 4711) in src/".to_owned()];
                return Err(ReplicaError::Busy { directory: replica.directory.into(), users });
            }
            Ok(Replica { state: ReplicaState::Settled, ..replica })
        })
    }

    fn hold<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<Replica, ReplicaError>> {
        self.status(id)
    }

    /// A link wherever it is asked, but for `none`.
    fn account<'a>(
        &'a self,
        id: &'a str,
        _root: u32,
        path: &'a str,
    ) -> BoxFuture<'a, Result<Option<WhyFound>, ReplicaError>> {
        let found = self.find(id).map(|_| (path != "none").then_some(WhyFound::Symlink));
        Box::pin(async { found })
    }

    /// Seven bytes are missing wherever it is asked, but for `none`.
    fn resolve<'a>(
        &'a self,
        id: &'a str,
        path: &'a str,
        _keep: Option<Keep>,
    ) -> BoxFuture<'a, Result<Option<u64>, ReplicaError>> {
        let found = self.find(id).map(|_| (path != "none").then_some(7));
        Box::pin(async { found })
    }

    fn cache(&self) -> BoxFuture<'_, Option<CacheReport>> {
        Box::pin(async { None })
    }

    /// Whatever is asked, one file goes.
    fn prune(&self, _unused_s: u64) -> BoxFuture<'_, Result<(CachePruned, CachePruned), ReplicaError>> {
        let one = CachePruned { files: 1, bytes: 4096, is_done: true };
        Box::pin(async move { Ok((one, CachePruned { files: 0, bytes: 0, ..one })) })
    }

    fn pins<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<Vec<PinReport>, ReplicaError>> {
        let found = self.find(id).map(|_| Vec::new());
        Box::pin(async { found })
    }

    /// Anything can be pinned, but for `none`, which is not there, and `huge`.
    fn pin<'a>(
        &'a self,
        id: &'a str,
        pin: PinnedPath,
    ) -> BoxFuture<'a, Result<Option<Vec<PinReport>>, ReplicaError>> {
        let found = self.find(id);
        Box::pin(async move {
            found?;
            match pin.path.as_str() {
                "none" => Ok(None),
                "huge" => Err(ReplicaError::NoRoom("it is huge".into())),
                _ => Ok(Some(vec![PinReport { pin, kept: Some([2, 1, 3000, 1000]) }])),
            }
        })
    }

    fn unpin<'a>(&'a self, id: &'a str, pin: PinnedPath) -> BoxFuture<'a, Result<bool, ReplicaError>> {
        let found = self.find(id).map(|_| pin.path != "none");
        Box::pin(async { found })
    }

    fn detach<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<(), ReplicaError>> {
        let found = self.find(id);
        Box::pin(async move {
            let replica = found?;
            if id == "busy" {
                let users = vec!["bash (pid 4711) in src/".to_owned()];
                return Err(ReplicaError::Busy { directory: replica.directory.into(), users });
            }
            self.0.lock().unwrap().retain(|r| r.id != id);
            Ok(())
        })
    }
}

/// A node of nothing but what the API needs, in a directory of its own.
pub(crate) struct Fixture {
    pub(crate) node: Arc<Node>,
    pub(crate) directory: TempDir,
}

pub(crate) async fn node(replicas: PaperReplicas) -> Fixture {
    let directory = tempfile::tempdir().unwrap();
    let home = Home::isolated(&directory.path().join("home"));
    home.prepare().unwrap();
    let registry = Registry::open(home.registry()).await.unwrap();
    let identity = Identity::generate().unwrap();
    let client = Client::new(&identity, Hello::new("test")).unwrap();
    let (_, seen) = tokio::sync::watch::channel(Seen::default());
    let shares = Shares::open(home.clone(), registry.clone(), "test".parse().unwrap()).await.unwrap();
    let node = Arc::new(Node {
        life: "test".to_owned(),
        home,
        config: Config::default(),
        peer: identity.peer_id(),
        listening: "127.0.0.1:1".parse().unwrap(),
        started: (UnixTime::now(), Instant::now()),
        peers: Arc::new(Peers::new(identity.peer_id(), client, registry.clone(), seen)),
        registry,
        shares: Arc::new(shares),
        replicas: Arc::new(replicas),
        operations: Operations::new("test"),
        asked: Notify::new(),
        ready: AtomicBool::new(true),
        stopping: CancellationToken::new(),
    });
    Fixture { node, directory }
}
