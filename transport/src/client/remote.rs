//! Everything about one known peer.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use quinn::Connection;
use tokio::sync::watch;
use tokio::time::Instant;
use twinshare_fs::manifest::SnapshotId;
use twinshare_fs::origin::{Availability, Origin};

use super::link::Link;
use super::origin::RemoteOrigin;
use super::{CallError, Client, call, within};
use crate::identity::PeerId;
use crate::protocol::{Hello, Offer, OpenSnapshot, Request, SnapshotInfo};

/// Everything about one peer: its addresses, the connection to it, whether it answers. Cheap to clone; clones share
/// all of it, and the connection ends with the last of them, of the origins made from it and of their reads.
///
/// The calls below wait for a connection where there is none, up to their deadline, and are cancel-safe: dropping one
/// cancels it at the peer too.
#[derive(Clone)]
pub struct Remote {
    link: Arc<Link>,
}

impl fmt::Debug for Remote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Remote").field("peer", &self.peer()).finish_non_exhaustive()
    }
}

impl Remote {
    /// Knows `peer` under `addresses`. Connects when something is asked of it, not before. Must be called within a
    /// Tokio runtime.
    pub fn new(client: &Client, peer: PeerId, addresses: Vec<SocketAddr>) -> Self {
        Self { link: Arc::new(Link::new(client, peer, addresses)) }
    }

    /// The peer.
    pub fn peer(&self) -> PeerId {
        self.link.peer()
    }

    /// Where it may be found from now on. While it is gone they are tried at once; while it is connected, only where
    /// the address in use is not among them, and it is left only for one that answers.
    pub fn set_addresses(&self, addresses: Vec<SocketAddr>) {
        self.link.set_addresses(addresses);
    }

    /// Whether it answers at present, and news of it. Reachable until the first failure; once something has been asked
    /// of it, kept up to date without further requests.
    pub fn availability(&self) -> watch::Receiver<Availability> {
        self.link.availability()
    }

    /// Who it says it is.
    pub async fn hello(&self, deadline: Duration) -> Result<Hello, CallError> {
        self.call(deadline, async |connection| {
            call::hello(connection, self.link.client().introduction()).await
        })
        .await
    }

    /// The workspaces it offers to this node.
    pub async fn catalogue(&self, deadline: Duration) -> Result<Vec<Offer>, CallError> {
        self.call(deadline, async |connection| call::catalogue(connection).await).await
    }

    /// A snapshot of `workspace`: of this moment, or `at` again. Freezing a large tree can take the peer minutes.
    pub async fn open_snapshot(
        &self,
        workspace: &str,
        at: Option<SnapshotId>,
        deadline: Duration,
    ) -> Result<SnapshotInfo, CallError> {
        let request = Request::OpenSnapshot(OpenSnapshot { workspace: workspace.into(), at });
        self.call(deadline, async |connection| call::open_snapshot(connection, &request).await).await
    }

    /// The content of a snapshot. Its reads fail at once while the peer is gone, and end with an error when nothing
    /// has come for 30 seconds; a peer that answers nothing at all is noticed within five.
    pub fn origin(&self, snapshot: SnapshotId) -> Arc<dyn Origin> {
        Arc::new(RemoteOrigin::new(Arc::clone(&self.link), snapshot))
    }

    async fn call<T>(
        &self,
        deadline: Duration,
        call: impl AsyncFnOnce(&Connection) -> Result<T, CallError>,
    ) -> Result<T, CallError> {
        let end = Instant::now() + deadline;
        let connection = self.link.connection_within(deadline).await?;
        let left = end.saturating_duration_since(Instant::now());
        match within(left, call(&connection)).await {
            Err(CallError::Deadline(_)) => Err(CallError::Deadline(deadline)),
            Err(error) => {
                self.link.notice_end_of(&connection).await;
                Err(error)
            }
            answer => answer,
        }
    }
}
