//! The side that asks: first contact with an address, and everything about one known peer.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use twinshare_fs::manifest::SnapshotId;
use twinshare_fs::origin::{Availability, Origin};

use crate::identity::{Identity, PeerId};
use crate::protocol::{Hello, Offer, Refusal, SnapshotInfo};

/// Why a call to a peer failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// Nothing answers, or what answered went away; worth trying again.
    #[error("the peer cannot be reached: {0}")]
    Unreachable(String),
    /// Somebody else answers at the address.
    #[error("expected peer {expected}, but {found} answers there")]
    OtherPeer {
        /// Who should have answered.
        expected: PeerId,
        /// Who did.
        found: PeerId,
    },
    /// It answers, and says no.
    #[error("refused: {0}")]
    Refused(Refusal),
    /// It did not answer in time.
    #[error("the peer did not answer within {} s", .0.as_secs_f32())]
    Deadline(Duration),
    /// What it sent breaks the protocol, or it speaks another version of it.
    #[error("the peer does not speak this protocol: {0}")]
    Invalid(String),
}

/// Who answered at an address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Greeting {
    /// The peer, proven by its handshake.
    pub peer: PeerId,
    /// The address it answered at.
    pub address: SocketAddr,
    /// How it introduced itself.
    pub hello: Hello,
}

/// This node's side of all its outgoing connections: one UDP socket. Cheap to clone; clones share it.
#[derive(Clone, Debug)]
pub struct Client {}

impl Client {
    /// Opens the socket; `hello` is how this node introduces itself. Must be called within a Tokio runtime.
    pub fn new(identity: &Identity, hello: Hello) -> io::Result<Self> {
        let _ = (identity, hello);
        todo!()
    }

    /// First contact: says hello to whoever answers first at `addresses`, or only to `expected`. Cancel-safe.
    pub async fn greet(
        &self,
        addresses: &[SocketAddr],
        expected: Option<PeerId>,
        deadline: Duration,
    ) -> Result<Greeting, CallError> {
        let _ = (addresses, expected, deadline);
        todo!()
    }
}

/// Everything about one peer: its addresses, the connection to it, whether it answers. Cheap to clone; clones share
/// all of it, and the connection ends with the last of them and of the origins made from it.
#[derive(Clone, Debug)]
pub struct Remote {}

impl Remote {
    /// Knows `peer` under `addresses`. Connects when something is asked of it, not before.
    pub fn new(client: &Client, peer: PeerId, addresses: Vec<SocketAddr>) -> Self {
        let _ = (client, peer, addresses);
        todo!()
    }

    /// The peer.
    pub fn peer(&self) -> PeerId {
        todo!()
    }

    /// Where it may be found from now on; where they differ from those of before, they are tried at once.
    pub fn set_addresses(&self, addresses: Vec<SocketAddr>) {
        let _ = addresses;
        todo!()
    }

    /// Whether it answers at present, and news of it. Reachable until the first failure.
    pub fn availability(&self) -> watch::Receiver<Availability> {
        todo!()
    }

    /// Who it says it is. Cancel-safe, as are the calls below.
    pub async fn hello(&self, deadline: Duration) -> Result<Hello, CallError> {
        let _ = deadline;
        todo!()
    }

    /// The workspaces it offers to this node.
    pub async fn catalogue(&self, deadline: Duration) -> Result<Vec<Offer>, CallError> {
        let _ = deadline;
        todo!()
    }

    /// A snapshot of `workspace`: of this moment, or `at` again. Freezing a large tree can take the peer minutes.
    pub async fn open_snapshot(
        &self,
        workspace: &str,
        at: Option<SnapshotId>,
        deadline: Duration,
    ) -> Result<SnapshotInfo, CallError> {
        let _ = (workspace, at, deadline);
        todo!()
    }

    /// The content of a snapshot.
    pub fn origin(&self, snapshot: SnapshotId) -> Arc<dyn Origin> {
        let _ = snapshot;
        todo!()
    }
}
