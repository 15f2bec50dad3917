//! The task behind [`Discovery`](super::Discovery): it waits for packets, orders and times, and puts the state
//! machines to work.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use tokio::sync::{mpsc, oneshot, watch};
use twinshare_transport::identity::Identity;

use super::beacon::{Beacon, Kind, catalogue_hash, claimed_key};
use super::interfaces::{self, InterfaceState};
use super::limit::Limit;
use super::pace::{JITTER, Pace};
use super::socket::{GroupSocket, Packet, Place};
use super::table::{Heard, PeerTable};
use super::{Announcement, Seen};
use crate::config::DiscoveryConfig;

/// Datagrams that wait to be looked at, at most; then the sockets wait, and the kernel drops.
const PACKETS_WAITING_MAX: usize = 64;

/// Answers to one query are spread over this time, so that a hundred nodes do not answer in one instant.
const ANSWER_SPREAD: Duration = Duration::from_millis(50);

/// What the task is told to do.
#[derive(Debug)]
pub(super) enum Order {
    /// To ask who is there.
    Ask,
    /// To say goodbye and end; the sender is told when that is done.
    Stop(oneshot::Sender<()>),
}

/// Owns the sockets and all state; ends when it is told to, or when nobody can tell it anything any more.
pub(super) struct Task {
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

impl Task {
    pub(super) fn new(
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

    pub(super) async fn run(mut self, mut orders: mpsc::Receiver<Order>) {
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
        if self.table.expire(Instant::now(), SystemTime::now()) {
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
        let (peers, gone) = (self.table.peers().into(), Arc::new(self.table.gone()));
        self.publish.send_if_modified(|seen| {
            (seen.peers, seen.gone) = (peers, gone);
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
