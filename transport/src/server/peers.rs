//! Who is connected, and how often.
//!
//! One lock, held for a few map operations and never across an await.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use quinn::Connection;

use super::request::Work;
use crate::identity::PeerId;
use crate::outlet::{Budget, Outlet};

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
    /// What their connections share of the memory for unacknowledged bytes.
    budget: Arc<Budget>,
}

#[derive(Default)]
struct Table {
    peers: HashMap<PeerId, Peer>,
    addresses: HashMap<IpAddr, Address>,
    total: usize,
}

/// What comes from one address, or one IPv6 network: whoever has one of its addresses has all.
struct Address {
    connections: usize,
    work: Arc<Work>,
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
    peer_work: Arc<Work>,
    address_work: Arc<Work>,
    outlet: Arc<Outlet>,
}

impl Peers {
    /// Takes a place for a connection, where there is one.
    pub(super) fn enter(&self, peer: PeerId, connection: &Connection) -> Option<Place> {
        let address = counted(super::canonical(connection.remote_address()).ip());
        let mut table = self.lock();
        if !table.has_room(&peer, address) {
            return None;
        }
        table.total += 1;
        let origin = table.addresses.entry(address).or_insert_with(Address::new);
        origin.connections += 1;
        let address_work = Arc::clone(&origin.work);
        let entry = table.peers.entry(peer).or_insert_with(Peer::new);
        entry.connections.push(connection.clone());
        let peer_work = Arc::clone(&entry.work);
        let outlet = Arc::new(Outlet::new(connection, Arc::clone(&self.budget)));
        let (peers, connection) = (self.clone(), connection.stable_id());
        Some(Place { peers, peer, connection, address, peer_work, address_work, outlet })
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
        let of_address = self.addresses.get(&address).map_or(0, |origin| origin.connections);
        self.total < CONNECTIONS_MAX
            && of_peer < CONNECTIONS_PER_PEER_MAX
            && (of_address < CONNECTIONS_PER_ADDRESS_MAX || address.is_loopback())
    }

    fn leave(&mut self, place: &Place) {
        self.total = self.total.saturating_sub(1);
        if let Some(origin) = self.addresses.get_mut(&place.address) {
            origin.connections -= 1;
            if origin.connections == 0 {
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

impl Address {
    fn new() -> Self {
        Self { connections: 0, work: Arc::new(Work::for_address()) }
    }
}

/// The address under which `address` is counted: of IPv6, the network of 64 bits.
fn counted(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => address,
        IpAddr::V6(v6) if v6.is_loopback() => address,
        IpAddr::V6(v6) => Ipv6Addr::from_bits(v6.to_bits() & !u128::from(u64::MAX)).into(),
    }
}

impl Place {
    /// What the peer may have in the making, over all its connections.
    pub(super) fn peer_work(&self) -> &Work {
        &self.peer_work
    }

    /// What its address may have, over all peers there.
    pub(super) fn address_work(&self) -> &Work {
        &self.address_work
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_network_of_ipv6_is_one_address() {
        let check = |address: &str, expected: &str| {
            let counted = counted(address.parse().unwrap());
            assert_eq!(counted, expected.parse::<IpAddr>().unwrap(), "{address}");
        };
        check("192.0.2.7", "192.0.2.7");
        check("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::");
        check("fe80::1:2", "fe80::");
        check("::1", "::1");
    }
}
