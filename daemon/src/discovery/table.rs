//! Who is there: a state machine without a clock.
//!
//! Everything in a beacon is somebody's claim, and anyone on the network can make any number of identities. So the
//! table is bounded, one address can fill only a part of it, and peers that are known are never pushed out by new
//! ones.

use std::collections::{HashMap, VecDeque};
use std::net::{IpAddr, SocketAddr, SocketAddrV6};
use std::time::{Duration, Instant, SystemTime};

use twinshare_transport::identity::{PeerId, PublicKey};

use super::DiscoveredPeer;
use super::beacon::{Beacon, Kind};
use super::pace::{INTERVAL, JITTER};

/// Peers at most, those that said goodbye lately included; new ones are ignored when it is full.
const PEERS_MAX: usize = 512;

/// Peers at one address at most: several nodes on one host are few.
const PEERS_PER_ADDRESS_MAX: usize = 16;

/// Addresses of one peer at most.
const ADDRESSES_MAX: usize = 8;

/// A peer is gone when three of its beacons are missing.
const EXPIRES_AFTER: Duration = Duration::from_secs(3 * (INTERVAL.as_secs() + JITTER.as_secs()) + 2);

/// How long a peer that is gone is remembered, so that its old beacons do not bring it back.
const REMEMBERED_FOR: Duration = Duration::from_secs(10 * 60);

/// Beacons remembered of a peer: all that it can send within [`OVERTAKING_MS`].
const RECENT_MAX: usize = 128;

/// Beacons sent at once on several interfaces may overtake each other by so much.
const OVERTAKING_MS: u64 = 2000;

/// What a beacon did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Heard {
    /// What is known has changed.
    Changed,
    /// Nothing is new, except that the peer is still there.
    Same,
    /// Not believed: old, or beyond a bound.
    Ignored,
}

/// Who is there.
#[derive(Debug, Default)]
pub(super) struct PeerTable {
    entries: HashMap<PeerId, Entry>,
}

#[derive(Debug)]
struct Entry {
    key: PublicKey,
    beacon: Beacon,
    places: Vec<Place>,
    since: SystemTime,
    heard: Instant,
    heard_at: SystemTime,
    /// The largest `sent_ms` of its beacons.
    newest_ms: u64,
    /// Those of its last beacons, wherever they came from.
    recent_ms: VecDeque<u64>,
    /// Since when it is gone: it said goodbye, or was silent for too long.
    gone: Option<SystemTime>,
}

/// An address at which a peer was heard.
#[derive(Debug)]
struct Place {
    address: SocketAddr,
    heard: Instant,
    sent_ms: u64,
}

impl PeerTable {
    /// Takes in a beacon whose signature is valid and which came from `source`.
    pub(super) fn hear(
        &mut self,
        key: PublicKey,
        beacon: Beacon,
        source: SocketAddr,
        now: Instant,
        clock: SystemTime,
    ) -> Heard {
        let peer = key.peer_id();
        let address = with_port(source, beacon.port);
        let heard = match self.entries.get_mut(&peer) {
            Some(entry) => entry.hear(beacon, address, now, clock),
            None => self.meet(peer, key, beacon, address, now, clock),
        };
        debug_assert!(self.entries.len() <= PEERS_MAX);
        heard
    }

    fn meet(
        &mut self,
        peer: PeerId,
        key: PublicKey,
        beacon: Beacon,
        address: SocketAddr,
        now: Instant,
        clock: SystemTime,
    ) -> Heard {
        if beacon.kind == Kind::Goodbye || !self.has_room_for(address.ip()) {
            return Heard::Ignored;
        }
        let sent_ms = beacon.sent_ms;
        let places = vec![Place { address, heard: now, sent_ms }];
        let entry = Entry {
            key,
            beacon,
            places,
            since: clock,
            heard: now,
            heard_at: clock,
            newest_ms: sent_ms,
            recent_ms: [sent_ms].into(),
            gone: None,
        };
        self.entries.insert(peer, entry);
        Heard::Changed
    }

    /// True when one more peer at this address may be taken in; a peer that is gone makes room.
    fn has_room_for(&mut self, address: IpAddr) -> bool {
        let here = |entry: &&Entry| entry.places.iter().any(|place| place.address.ip() == address);
        if self.entries.values().filter(here).count() >= PEERS_PER_ADDRESS_MAX {
            return false;
        }
        if self.entries.len() < PEERS_MAX {
            return true;
        }
        let gone = self.entries.iter().filter(|(_, entry)| entry.gone.is_some());
        match gone.min_by_key(|(_, entry)| entry.heard).map(|(peer, _)| *peer) {
            Some(peer) => self.entries.remove(&peer).is_some(),
            None => false,
        }
    }

    /// Lets go of what was not heard for too long; true if that changed who is there, or where.
    pub(super) fn expire(&mut self, now: Instant, clock: SystemTime) -> bool {
        self.entries.retain(|_, entry| entry.is_there() || now < entry.heard + REMEMBERED_FOR);
        self.entries.values_mut().filter(|entry| entry.is_there()).fold(false, |changed, entry| {
            let before = entry.places.len();
            entry.places.retain(|place| now < place.heard + EXPIRES_AFTER);
            entry.gone = entry.places.is_empty().then_some(clock);
            changed | (entry.places.len() != before)
        })
    }

    /// When [`expire`](Self::expire) has something to do next.
    pub(super) fn next_expiry(&self) -> Option<Instant> {
        let live = self.entries.values().filter(|entry| entry.is_there());
        live.flat_map(|entry| &entry.places).map(|place| place.heard + EXPIRES_AFTER).min()
    }

    /// Those that are there, by name.
    pub(super) fn peers(&self) -> Vec<DiscoveredPeer> {
        let live = self.entries.iter().filter(|(_, entry)| entry.is_there());
        let mut peers: Vec<_> = live.map(|(peer, entry)| entry.show(*peer)).collect();
        peers.sort_by(|a, b| (&a.name, a.peer).cmp(&(&b.name, b.peer)));
        peers
    }

    /// Those that were there and are gone, and since when.
    pub(super) fn gone(&self) -> HashMap<PeerId, SystemTime> {
        self.entries.iter().filter_map(|(peer, entry)| Some((*peer, entry.gone?))).collect()
    }
}

impl Entry {
    fn is_there(&self) -> bool {
        self.gone.is_none()
    }

    fn hear(&mut self, beacon: Beacon, address: SocketAddr, now: Instant, clock: SystemTime) -> Heard {
        if self.is_old(&beacon, address) {
            return Heard::Ignored;
        }
        let was_gone = self.gone.is_some();
        self.newest_ms = self.newest_ms.max(beacon.sent_ms);
        self.recent_ms.push_front(beacon.sent_ms);
        self.recent_ms.truncate(RECENT_MAX);
        self.gone = (beacon.kind == Kind::Goodbye).then_some(clock);
        if self.gone.is_some() {
            self.heard = now;
            self.places.clear();
            return if was_gone { Heard::Same } else { Heard::Changed };
        }
        if was_gone {
            self.since = clock;
        }
        (self.heard, self.heard_at) = (now, clock);
        let moved = self.is_at(address, beacon.sent_ms, now);
        // What overtook this beacon says what is newer.
        let is_newest = beacon.sent_ms >= self.newest_ms;
        let news = is_newest && !same_content(&self.beacon, &beacon);
        if is_newest {
            self.beacon = beacon;
        }
        if was_gone || moved || news { Heard::Changed } else { Heard::Same }
    }

    /// True for what was heard before, and for what was sent before something that was heard. A node numbers what it
    /// sends on each interface anew, so a beacon that was heard already and comes from another place is somebody
    /// else's copy.
    fn is_old(&self, beacon: &Beacon, address: SocketAddr) -> bool {
        let place = self.places.iter().find(|place| place.address == address);
        let again = place.is_some_and(|place| beacon.sent_ms <= place.sent_ms)
            || self.recent_ms.contains(&beacon.sent_ms);
        let before_goodbye = self.gone.is_some() && beacon.sent_ms <= self.newest_ms;
        again || before_goodbye || beacon.sent_ms.saturating_add(OVERTAKING_MS) < self.newest_ms
    }

    /// Notes that it was heard at `address`; true if that is new.
    fn is_at(&mut self, address: SocketAddr, sent_ms: u64, now: Instant) -> bool {
        if let Some(place) = self.places.iter_mut().find(|place| place.address == address) {
            (place.heard, place.sent_ms) = (now, sent_ms);
            return false;
        }
        // First: where it appeared last is where it most likely is.
        self.places.insert(0, Place { address, heard: now, sent_ms });
        self.places.truncate(ADDRESSES_MAX);
        true
    }

    fn show(&self, peer: PeerId) -> DiscoveredPeer {
        DiscoveredPeer {
            peer,
            public_key: self.key,
            name: self.beacon.name.clone(),
            addresses: self.places.iter().map(|place| place.address).collect(),
            workspaces: self.beacon.workspaces.clone(),
            workspaces_total: self.beacon.workspaces_total,
            since: self.since,
            heard: self.heard_at,
        }
    }
}

/// The address of `source` with another port; its scope, which link-local addresses need, stays.
fn with_port(source: SocketAddr, port: u16) -> SocketAddr {
    match source {
        SocketAddr::V4(_) => SocketAddr::new(source.ip(), port),
        SocketAddr::V6(v6) => SocketAddrV6::new(*v6.ip(), port, 0, v6.scope_id()).into(),
    }
}

fn same_content(a: &Beacon, b: &Beacon) -> bool {
    (&a.name, a.port, a.catalogue, a.workspaces_total, &a.workspaces)
        == (&b.name, b.port, b.catalogue, b.workspaces_total, &b.workspaces)
}

#[cfg(test)]
mod tests;
