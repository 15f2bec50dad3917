//! Finding the other nodes of a network without a server.
//!
//! Every node sends beacons to a multicast group on each of its [interfaces]: one at once and two more shortly after
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
use std::hash::{BuildHasher, RandomState};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use tokio::sync::{mpsc, oneshot, watch};
use twinshare_transport::identity::{Identity, PeerId, PublicKey};

mod beacon;
mod interfaces;
mod limit;
mod pace;
mod socket;
mod table;

#[cfg(test)]
mod tests;

pub use interfaces::{InterfaceState, InterfaceStatus};
pub use socket::{GROUP_V4, GROUP_V6};

use crate::config::{DiscoveryConfig, NodeName};
use crate::workspace::WorkspaceName;
use beacon::{Beacon, Kind, catalogue_hash, claimed_key};
use limit::Limit;
use pace::{JITTER, Pace};
use socket::{GroupSocket, Packet, Place};
use table::{Heard, PeerTable};

/// Datagrams that wait to be looked at, at most; then the sockets wait, and the kernel drops.
const PACKETS_WAITING_MAX: usize = 64;

/// Answers to one query are spread over this time, so that a hundred nodes do not answer in one instant.
const ANSWER_SPREAD: Duration = Duration::from_millis(50);

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

#[derive(Debug)]
enum Order {
    Ask,
    Stop(oneshot::Sender<()>),
}

impl Discovery {
    /// Starts announcing and listening. An interface that cannot be used is reported in [`Seen`], not here: it may
    /// come back. Must be called within a Tokio runtime.
    pub fn start(config: &DiscoveryConfig, identity: &Identity, announcement: Announcement) -> Self {
        let (orders, ordered) = mpsc::channel(ORDERS_WAITING_MAX);
        let (publish, seen) = watch::channel(Seen::default());
        let (announcement, announced) = watch::channel(announcement);
        let actor = Actor::new(config.clone(), identity.clone(), announced, publish);
        tokio::spawn(actor.run(ordered));
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

/// The task behind [`Discovery`]: owns the sockets and all state.
struct Actor {
    config: DiscoveryConfig,
    identity: Identity,
    announcement: watch::Receiver<Announcement>,
    publish: watch::Sender<Seen>,
    table: PeerTable,
    limit: Limit,
    pace: Pace,
    sockets: HashMap<Place, GroupSocket>,
    packets: mpsc::Sender<Packet>,
    arrived: mpsc::Receiver<Packet>,
    /// `sent_ms` of the last beacon.
    sent_ms: u64,
    dice: RandomState,
    rolled: u64,
}

impl Actor {
    fn new(
        config: DiscoveryConfig,
        identity: Identity,
        announcement: watch::Receiver<Announcement>,
        publish: watch::Sender<Seen>,
    ) -> Self {
        let (packets, arrived) = mpsc::channel(PACKETS_WAITING_MAX);
        let now = Instant::now();
        Self {
            config,
            identity,
            announcement,
            publish,
            table: PeerTable::default(),
            limit: Limit::new(now),
            pace: Pace::new(now),
            sockets: HashMap::new(),
            packets,
            arrived,
            sent_ms: 0,
            dice: RandomState::new(),
            rolled: 0,
        }
    }

    async fn run(mut self, mut orders: mpsc::Receiver<Order>) {
        loop {
            let wake = self.table.next_expiry().map_or(self.pace.next(), |at| at.min(self.pace.next()));
            tokio::select! {
                order = orders.recv() => match order {
                    Some(Order::Ask) => self.pace.ask(Instant::now()),
                    Some(Order::Stop(done)) => {
                        self.send(Kind::Goodbye);
                        let _ = done.send(());
                        return;
                    }
                    None => return,
                },
                Ok(()) = self.announcement.changed() => self.pace.hurry(Instant::now(), Duration::ZERO),
                Some(packet) = self.arrived.recv() => self.hear(&packet),
                () = tokio::time::sleep_until(wake.into()) => self.tick().await,
            }
        }
    }

    /// Does what is due.
    async fn tick(&mut self) {
        if self.table.expire(Instant::now()) {
            self.publish(true);
        }
        if self.pace.next() > Instant::now() {
            return;
        }
        self.follow_interfaces().await;
        let jitter = JITTER.as_secs_f64() * (2.0 * self.roll() - 1.0);
        if let Some(kind) = self.pace.due(Instant::now(), jitter) {
            self.send(kind);
        }
    }

    fn hear(&mut self, packet: &Packet) {
        let now = Instant::now();
        if claimed_key(&packet.bytes).is_none_or(|key| key == self.identity.public_key())
            || !self.limit.admits(packet.source.ip(), now)
        {
            return;
        }
        let (key, beacon) = match Beacon::decode(&packet.bytes) {
            Ok(read) => read,
            Err(error) => {
                tracing::debug!(source = %packet.source, %error, "a beacon was refused");
                return;
            }
        };
        let asks = beacon.kind == Kind::Query;
        match self.table.hear(key, beacon, packet.source, now, SystemTime::now()) {
            Heard::Ignored => return,
            Heard::Changed => self.publish(true),
            Heard::Same => self.publish(false),
        }
        if asks {
            let delay = ANSWER_SPREAD.mul_f64(self.roll());
            self.pace.hurry(now, delay);
        }
    }

    /// Sends one beacon on every socket, each with a number of its own, since one that came twice is not believed.
    fn send(&mut self, kind: Kind) {
        let Announcement { name, port, workspaces } = self.announcement.borrow_and_update().clone();
        let workspaces_total = u32::try_from(workspaces.len()).unwrap_or(u32::MAX);
        let catalogue = catalogue_hash(&workspaces);
        let mut beacon = Beacon { kind, sent_ms: 0, name, port, workspaces, workspaces_total, catalogue };
        for (place, socket) in &self.sockets {
            self.sent_ms = unix_ms().max(self.sent_ms + 1);
            beacon.sent_ms = self.sent_ms;
            if let Err(error) = socket.send(&beacon.encode(&self.identity)) {
                tracing::debug!(interface = place.interface(), %error, "a beacon could not be sent");
            }
        }
    }

    /// Opens and closes sockets as interfaces come and go.
    async fn follow_interfaces(&mut self) {
        let listed = tokio::task::spawn_blocking(interfaces::list).await;
        let found = match listed {
            Ok(Ok(found)) => found,
            Ok(Err(error)) => {
                tracing::warn!(%error, "the network interfaces cannot be listed");
                return;
            }
            // The runtime is shutting down.
            Err(_) => return,
        };
        let (used, mut statuses) = interfaces::choose(&found, &self.config.interfaces);
        let places: Vec<_> = used.iter().flat_map(Place::of).collect();
        self.sockets.retain(|place, _| places.contains(place));
        let is_news = places.iter().any(|place| !self.sockets.contains_key(place));
        for interface in &used {
            let problem = self.open(interface);
            if let (Some(status), Some(problem)) =
                (statuses.iter_mut().find(|status| status.name == interface.name), problem)
            {
                (status.state, status.reason) = (InterfaceState::Failed, Some(problem));
            }
        }
        if is_news {
            self.pace.ask(Instant::now());
        }
        let interfaces: Arc<[_]> = statuses.into();
        self.publish.send_if_modified(|seen| {
            let changed = seen.interfaces != interfaces;
            seen.interfaces = interfaces;
            changed
        });
    }

    /// Opens the sockets of an interface that are missing; says what is wrong where it ends up with none.
    fn open(&mut self, interface: &interfaces::Interface) -> Option<String> {
        let mut problem = "it has no usable address".to_owned();
        for place in Place::of(interface) {
            if self.sockets.contains_key(&place) {
                continue;
            }
            match GroupSocket::open(&place, self.config.port, self.packets.clone()) {
                Ok(socket) => drop(self.sockets.insert(place, socket)),
                Err(error) => {
                    tracing::debug!(?place, %error, "a discovery socket could not be opened");
                    problem = error.to_string();
                }
            }
        }
        let is_open = self.sockets.keys().any(|place| place.interface() == interface.name);
        (!is_open).then_some(problem)
    }

    /// Shows the peers as they are now; wakes those who watch only for news.
    fn publish(&self, is_news: bool) {
        let peers = self.table.peers().into();
        self.publish.send_if_modified(|seen| {
            seen.peers = peers;
            is_news
        });
    }

    /// A number from 0 to 1 that others cannot foretell well enough to make nodes speak at once.
    fn roll(&mut self) -> f64 {
        self.rolled += 1;
        self.dice.hash_one(self.rolled) as f64 / u64::MAX as f64
    }
}

fn unix_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
