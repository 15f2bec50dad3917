//! Who is connected, and how often.
//!
//! One lock, held for a few map operations and never across an await.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use quinn::Connection;

use super::request::Work;
use crate::identity::PeerId;
use crate::outlet::Outlet;

/// Connections of all peers at most. One costs some 50 KiB, and up to 16 MiB while it reads.
const CONNECTIONS_MAX: usize = 256;

/// Connections from one address at most: keys cost nothing to make, addresses do.
const CONNECTIONS_PER_ADDRESS_MAX: usize = 64;

/// Connections of one peer at most: its node and each of its mounted replicas have one, and after an outage the old
/// ones linger until they time out.
const CONNECTIONS_PER_PEER_MAX: usize = 16;

/// The peers that are connected. Cheap to clone; clones share it.
#[derive(Clone, Default)]
pub(super) struct Peers {
    table: Arc<Mutex<Table>>,
}

#[derive(Default)]
struct Table {
    peers: HashMap<PeerId, Peer>,
    addresses: HashMap<IpAddr, usize>,
    total: usize,
}

struct Peer {
    connections: Vec<Connection>,
    work: Arc<Work>,
}

/// A connection's place in the table; dropping it leaves.
pub(super) struct Place {
    peers: Peers,
    peer: PeerId,
    connection: usize,
    /// The address it was counted under, which migration does not change.
    address: IpAddr,
    work: Arc<Work>,
    outlet: Arc<Outlet>,
}

impl Peers {
    /// Takes a place for a connection, where there is one.
    pub(super) fn enter(&self, peer: PeerId, connection: &Connection) -> Option<Place> {
        let address = super::canonical(connection.remote_address()).ip();
        let mut table = self.lock();
        if !table.has_room(&peer, address) {
            return None;
        }
        table.total += 1;
        *table.addresses.entry(address).or_default() += 1;
        let entry = table.peers.entry(peer).or_insert_with(Peer::new);
        entry.connections.push(connection.clone());
        let work = Arc::clone(&entry.work);
        let outlet = Arc::new(Outlet::new(connection));
        Some(Place { peers: self.clone(), peer, connection: connection.stable_id(), address, work, outlet })
    }

    /// The connections of one peer.
    pub(super) fn connections(&self, peer: &PeerId) -> Vec<Connection> {
        self.lock().peers.get(peer).map(|peer| peer.connections.clone()).unwrap_or_default()
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        // No holder can panic between two changes that belong together.
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Table {
    fn has_room(&self, peer: &PeerId, address: IpAddr) -> bool {
        let of_peer = self.peers.get(peer).map_or(0, |peer| peer.connections.len());
        let of_address = self.addresses.get(&address).copied().unwrap_or(0);
        self.total < CONNECTIONS_MAX
            && of_peer < CONNECTIONS_PER_PEER_MAX
            && (of_address < CONNECTIONS_PER_ADDRESS_MAX || address.is_loopback())
    }

    fn leave(&mut self, place: &Place) {
        self.total = self.total.saturating_sub(1);
        if let Some(count) = self.addresses.get_mut(&place.address) {
            *count -= 1;
            if *count == 0 {
                self.addresses.remove(&place.address);
            }
        }
        if let Some(peer) = self.peers.get_mut(&place.peer) {
            peer.connections.retain(|connection| connection.stable_id() != place.connection);
            if peer.connections.is_empty() {
                self.peers.remove(&place.peer);
            }
        }
    }
}

impl Peer {
    fn new() -> Self {
        Self { connections: Vec::new(), work: Arc::new(Work::for_peer()) }
    }
}

impl Place {
    /// What the peer may have in the making, over all its connections.
    pub(super) fn work(&self) -> &Work {
        &self.work
    }

    /// What the connection's answers share while they are written.
    pub(super) fn outlet(&self) -> Arc<Outlet> {
        Arc::clone(&self.outlet)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.peers.lock().leave(self);
    }
}
