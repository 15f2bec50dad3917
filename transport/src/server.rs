//! The side that answers: accepts connections, lets one seam admit each request, and serves any origin.

use std::fmt;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;

use twinshare_fs::manifest::SnapshotId;
use twinshare_fs::origin::Origin;

use crate::identity::{Identity, PeerId};
use crate::protocol::{Hello, Offer, Refusal, Request, SnapshotInfo};

/// What a [`Service`] returns: a future that yields the answer or the reason why there is none.
pub type Reply<'a, T> = Pin<Box<dyn Future<Output = Result<T, Refusal>> + Send + 'a>>;

/// Who asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Caller {
    /// The peer, proven by its handshake.
    pub peer: PeerId,
    /// Where its packets come from at present.
    pub address: SocketAddr,
}

/// What a node offers to its peers. The server decides nothing by itself: this trait does.
///
/// The futures are dropped when the peer cancels the request, its connection ends or the server's own limit for the
/// request has passed; whatever must not be left half done belongs into a task of its own.
pub trait Service: Send + Sync + 'static {
    /// The one seam: called for every request, with its whole content, before anything else is done for it. The other
    /// methods are called only for requests that passed. Must not block.
    fn admit(&self, caller: &Caller, request: &Request) -> Result<(), Refusal>;

    /// Who this node is; `theirs` is how the caller introduced itself (a hint, not a proof). Must not block.
    fn hello(&self, caller: &Caller, theirs: &Hello) -> Hello;

    /// The workspaces this caller may know of; at most [`crate::protocol::OFFERS_MAX`] are sent.
    fn catalogue<'a>(&'a self, caller: &'a Caller) -> Reply<'a, Vec<Offer>>;

    /// Freezes a snapshot of `workspace`, or with `at` makes sure that one still is.
    fn open_snapshot<'a>(
        &'a self,
        caller: &'a Caller,
        workspace: &'a str,
        at: Option<SnapshotId>,
    ) -> Reply<'a, SnapshotInfo>;

    /// What serves a snapshot to this caller.
    fn origin<'a>(&'a self, caller: &'a Caller, snapshot: SnapshotId) -> Reply<'a, Arc<dyn Origin>>;
}

/// A listening node. Dropping it ends all its connections at once.
pub struct Server {}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server").finish_non_exhaustive()
    }
}

impl Server {
    /// Listens on `address` (UDP) and serves until it is shut down. Must be called within a Tokio runtime.
    pub fn bind(identity: &Identity, address: SocketAddr, service: Arc<dyn Service>) -> io::Result<Self> {
        let _ = (identity, address, service);
        todo!()
    }

    /// The address it listens on, with the port that was chosen where none was given.
    pub fn local_address(&self) -> SocketAddr {
        todo!()
    }

    /// Ends every connection of `peer`: after its grants have changed, it has to ask again.
    pub fn disconnect(&self, peer: &PeerId) {
        let _ = peer;
        todo!()
    }

    /// Accepts nothing more, tells all peers, and waits (at most a second) until they have heard.
    pub async fn shutdown(&self) {
        todo!()
    }
}
