//! Finding the other nodes of a network without a server.
//!
//! Every node sends beacons to a multicast group on each of its interfaces: one at once and two more shortly after
//! that ask who else is there, then one about every ten seconds, and one that says goodbye. Whoever is asked answers
//! at once, but at most once a second however many ask. A node that is not heard for three intervals is gone.
//!
//! # A beacon
//!
//! A UDP datagram of at most 1,200 bytes to port 37777 of 239.255.37.77 or ff12::7477:696e:7368, with a hop limit of 1:
//!
//! | bytes | what |
//! |---|---|
//! | 4 | `TWB` and the version, 1 |
//! | 32 | the sender's Ed25519 public key, whose hash is its peer id |
//! | 64 | its signature of the rest, in the context `twinshare beacon 1` |
//! | rest | a zstd frame of at most 16 KiB unpacked: a JSON object |
//!
//! The object has `kind` (`announce`, `query`, `goodbye`), `sent_ms` (milliseconds since 1970, larger in each beacon
//! of a sender, so that old ones are recognised), `name`, `port` (QUIC, on the address the datagram comes from),
//! `workspaces` (names of those that everyone may see, as far as they fit), `workspaces_total` and `catalogue` (a
//! hash of all their names). Fields that a node does not know are ignored.
//!
//! # What it is worth
//!
//! A beacon is a hint and never trust: it says where somebody may be found who then has to prove who it is. Anybody on
//! the network can send any number of them, so everything is bounded: datagrams a second by source and in all before
//! any signature is checked, the memory one unpacks to, peers in all and by address, addresses of a peer. Text is
//! neutralised. Replayed beacons are ignored for as long as the peer is remembered; after that they make it appear
//! where it is not, for 35 seconds.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::sync::{mpsc, oneshot, watch};
use twinshare_transport::identity::{Identity, PeerId, PublicKey};

mod beacon;
mod interfaces;
mod limit;
mod pace;
mod socket;
mod table;
mod task;

#[cfg(test)]
mod tests;

pub use interfaces::{InterfaceState, InterfaceStatus};
pub use socket::{GROUP_V4, GROUP_V6};

use crate::config::{DiscoveryConfig, NodeName};
use crate::workspace::WorkspaceName;
use beacon::Beacon;
use task::{Order, Task};

/// How long a goodbye may take.
const STOP_DEADLINE: Duration = Duration::from_secs(1);

/// What a node says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Announcement {
    /// What it is called.
    pub name: NodeName,
    /// The port on which it listens (QUIC, UDP).
    pub port: u16,
    /// The workspaces that everyone may see.
    pub workspaces: Vec<WorkspaceName>,
}

/// A node that was heard. Nothing of it is proven but that the holder of the key said so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiscoveredPeer {
    /// Who.
    pub peer: PeerId,
    /// The key whose hash the id is.
    pub public_key: PublicKey,
    /// How it calls itself.
    pub name: NodeName,
    /// Where it says it listens (QUIC, UDP), best first; never empty.
    pub addresses: Vec<SocketAddr>,
    /// Workspaces it says everyone may see, as far as they fit into a beacon.
    pub workspaces: Vec<WorkspaceName>,
    /// How many it says there are.
    pub workspaces_total: u32,
    /// Since when it is there.
    pub since: SystemTime,
    /// When it was last heard. Changes without notice to those who watch.
    pub heard: SystemTime,
}

/// Who signed a datagram that is a beacon this node would believe; accepts any bytes. The door through which beacons
/// are examined without a network.
pub fn sender(datagram: &[u8]) -> Option<PeerId> {
    Beacon::decode(datagram).ok().map(|(key, _)| key.peer_id())
}

/// What discovery knows at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// The peers that are there, by name.
    pub peers: Arc<[DiscoveredPeer]>,
    /// Those that were there lately and said goodbye or fell silent, and since when they are gone.
    pub gone: Arc<HashMap<PeerId, SystemTime>>,
    /// The interfaces of this host, and which are used.
    pub interfaces: Arc<[InterfaceStatus]>,
}

/// Discovery at work. Dropping it ends it without a goodbye.
#[derive(Debug)]
pub struct Discovery {
    announcement: watch::Sender<Announcement>,
    orders: mpsc::Sender<Order>,
    seen: watch::Receiver<Seen>,
}

/// Orders that wait at most; one more request to ask adds nothing to those.
const ORDERS_WAITING_MAX: usize = 4;

impl Discovery {
    /// Starts announcing and listening. An interface that cannot be used is reported in [`Seen`], not here: it may
    /// come back. Must be called within a Tokio runtime.
    pub fn start(config: &DiscoveryConfig, identity: &Identity, announcement: Announcement) -> Self {
        let (orders, ordered) = mpsc::channel(ORDERS_WAITING_MAX);
        let (publish, seen) = watch::channel(Seen::default());
        let (announcement, announced) = watch::channel(announcement);
        let task = Task::new(config.clone(), identity.clone(), announced, publish);
        tokio::spawn(task.run(ordered));
        Self { announcement, orders, seen }
    }

    /// Who is there, and news of it. Notified when a peer comes, changes or goes, or an interface does.
    pub fn seen(&self) -> watch::Receiver<Seen> {
        self.seen.clone()
    }

    /// From now on says this; the others hear it at once.
    pub fn announce(&self, announcement: Announcement) {
        self.announcement.send_if_modified(|said| {
            let changed = *said != announcement;
            *said = announcement;
            changed
        });
    }

    /// Asks who is there, as at the start: answers come within a tenth of a second, mostly.
    pub fn ask(&self) {
        let _ = self.orders.try_send(Order::Ask);
    }

    /// Says goodbye and ends, within a second.
    pub async fn stop(self) {
        let (done, stopped) = oneshot::channel();
        let farewell = async {
            if self.orders.send(Order::Stop(done)).await.is_ok() {
                let _ = stopped.await;
            }
        };
        let _ = tokio::time::timeout(STOP_DEADLINE, farewell).await;
    }
}
