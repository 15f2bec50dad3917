//! The seam between the API and whatever makes, watches and ends replicas.
//!
//! The handlers know replicas through [`ReplicaControl`] alone: they resolve names and parse options, and hand a
//! [`ReplicaSpec`] over. What a replica's process is, and how it is found again after a restart, lies behind it.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::pin::Pin;

use twinshare_transport::client::CallError;
use twinshare_transport::identity::PeerId;

use crate::api::wire::{Keep, Replica, ReplicaKind, WhyFound};
use crate::config::WhenGone;
use crate::operation::Task;
use crate::replica::control::{CachePruned, CacheReport, PinReport, PinnedPath};

/// A boxed future: the trait is used as an object, so that tests need no second node.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// What to make.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReplicaSpec {
    /// A view (mount) or a clone.
    pub kind: ReplicaKind,
    /// Whose workspace.
    pub peer: PeerId,
    /// What the peer calls itself.
    pub peer_name: Option<String>,
    /// Where the peer was last reached, best first.
    pub addresses: Vec<SocketAddr>,
    /// The workspace's name at the peer.
    pub workspace: String,
    /// The mount point asked for, absolute; without one, the default place of the kind.
    pub directory: Option<PathBuf>,
    /// Whether a clone stays mounted when it is complete and nobody uses it.
    pub keep_mounted: bool,
    /// Whether a settled clone's environments keep the paths of their origin.
    pub keep_paths: bool,
    /// Whether a clone is fetched without being mounted.
    pub plain: bool,
    /// What a read does while the peer is away.
    pub when_gone: WhenGone,
}

/// Makes, lists and ends replicas.
///
/// All methods answer within a bound of their own: [`attach`](Self::attach) while it makes progress, the others
/// within a few seconds even if a replica's process hangs.
pub trait ReplicaControl: fmt::Debug + Send + Sync + 'static {
    /// Makes a replica and returns when its mount answers.
    ///
    /// Reports through `task`, and watches [`Task::cancelled`]: it then undoes what it began and returns
    /// [`ReplicaError::Cancelled`]. Dropping the future has to leave nothing behind either, but may take longer.
    fn attach<'a>(&'a self, spec: ReplicaSpec, task: Task) -> BoxFuture<'a, Result<Replica, ReplicaError>>;

    /// All replicas of a kind, by creation. A process that does not answer in time is listed without progress.
    fn list(&self, kind: ReplicaKind) -> BoxFuture<'_, Vec<Replica>>;

    /// One replica with its progress and, once it has settled, with all that was edited in it.
    fn status<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<Replica, ReplicaError>>;

    /// Has a clone become an ordinary directory, now; returns it as it is then. One that has settled stays so.
    fn settle<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<Replica, ReplicaError>>;

    /// Keeps a replica mounted for a moment, for somebody who is about to use it; returns it as it is then.
    fn hold<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<Replica, ReplicaError>>;

    /// What is known of the file or directory at `path` below one of its roots; `None` where there is none.
    fn account<'a>(
        &'a self,
        id: &'a str,
        root: u32,
        path: &'a str,
    ) -> BoxFuture<'a, Result<Option<WhyFound>, ReplicaError>>;

    /// Decides which version is kept of the file at `path` below a clone's workspace, or only tells how many bytes of it
    /// never came; `None` where there is no such file.
    fn resolve<'a>(
        &'a self,
        id: &'a str,
        path: &'a str,
        keep: Option<Keep>,
    ) -> BoxFuture<'a, Result<Option<u64>, ReplicaError>>;

    /// What the views' process tells of its cache; nothing where none runs.
    fn cache(&self) -> BoxFuture<'_, Option<CacheReport>>;

    /// Evicts what of views is neither open nor pinned and was not used for so many seconds; also removes, and tells apart,
    /// what views left that are gone.
    fn prune(&self, unused_s: u64) -> BoxFuture<'_, Result<(CachePruned, CachePruned), ReplicaError>>;

    /// How far the pins of a view are.
    fn pins<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<Vec<PinReport>, ReplicaError>>;

    /// Keeps a path of a view here; all pins of the view then, or `None` where nothing lies there.
    fn pin<'a>(
        &'a self,
        id: &'a str,
        pin: PinnedPath,
    ) -> BoxFuture<'a, Result<Option<Vec<PinReport>>, ReplicaError>>;

    /// Removes a pin of a view; false where there is no such pin.
    fn unpin<'a>(&'a self, id: &'a str, pin: PinnedPath) -> BoxFuture<'a, Result<bool, ReplicaError>>;

    /// Unmounts plainly, never lazily, and forgets the replica. What was fetched for a view or an unfinished clone goes
    /// with it, and a directory that was made for it, if nothing else is in it. A settled clone's directory stays.
    fn detach<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<(), ReplicaError>>;
}

fn by(users: &[String]) -> String {
    if users.is_empty() { String::new() } else { format!(" by {}", users.join(", ")) }
}

/// Why a replica could not be made, shown or ended.
#[derive(Debug, thiserror::Error)]
pub enum ReplicaError {
    /// No replica has this id.
    #[error("there is no replica {0}")]
    NoSuchReplica(String),
    /// The mount point cannot be used.
    #[error("{} cannot be used: {reason}", directory.display())]
    Directory {
        /// The one asked for or chosen.
        directory: PathBuf,
        /// What is wrong with it, and what would do.
        reason: String,
    },
    /// Somebody works in it.
    #[error("{} is in use{}", directory.display(), by(users))]
    Busy {
        /// The mount point.
        directory: PathBuf,
        /// Who, as far as can be seen: `bash (pid 4711) in src/`.
        users: Vec<String>,
    },
    /// Not everything of it is here.
    #[error("{} is not complete: {why}", directory.display())]
    Incomplete {
        /// The mount point.
        directory: PathBuf,
        /// How much is here, and what is in the way.
        why: String,
    },
    /// Nothing can be decided about a file.
    #[error("{path}: {why}")]
    NothingToDecide {
        /// The file, below its workspace.
        path: String,
        /// Why.
        why: String,
    },
    /// It cannot be pinned: the cache or the disk is too small.
    #[error("it cannot be pinned: {0}")]
    NoRoom(String),
    /// The peer was asked, and did not answer as it should.
    #[error(transparent)]
    Call(#[from] CallError),
    /// The peer did not answer.
    #[error("the peer cannot be reached: {0}")]
    Unreachable(String),
    /// The peer answered no.
    #[error("the peer refused: {0}")]
    Refused(String),
    /// This machine cannot do it; the text says what is missing.
    #[error("this machine cannot do it: {0}")]
    Unsupported(String),
    /// The operation was cancelled, and what it had begun is undone.
    #[error("cancelled")]
    Cancelled,
    /// Anything else, with its cause.
    #[error("{what}")]
    Failed {
        /// What could not be done, and the last words of the replica's process where it has any.
        what: String,
        /// Why.
        #[source]
        source: Option<Box<dyn std::error::Error + Send + Sync>>,
    },
}
