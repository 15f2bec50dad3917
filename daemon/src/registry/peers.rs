//! Peers this node has met, so that they are found again where their beacons do not reach.

use std::net::SocketAddr;
use std::time::SystemTime;

use rusqlite::{OptionalExtension, Row, params};
use twinshare_transport::identity::{PeerId, PublicKey};

use super::columns::{parsed_at, peer_at, public_key_at, seconds, time, time_at};
use super::{RegistryError, Tables};
use crate::config::NodeName;

/// Peers remembered at most; beyond it, the one that has not been seen for longest and was not added by the user is
/// forgotten.
pub const PEERS_MAX: u32 = 1000;

/// Addresses remembered of a peer at most, the best first.
const ADDRESSES_MAX: usize = 8;

/// What is remembered of a peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerRecord {
    /// Who.
    pub peer: PeerId,
    /// How it calls itself.
    pub name: NodeName,
    /// Where it was last reached, best first.
    pub addresses: Vec<SocketAddr>,
    /// As which host the user added it, where it was not met otherwise.
    pub host: Option<String>,
    /// The key whose hash its id is, where it was seen.
    pub public_key: Option<PublicKey>,
    /// When it was first met or added.
    pub first_seen: SystemTime,
    /// When it was last met.
    pub last_seen: Option<SystemTime>,
}

/// A meeting with a peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sighting {
    /// Who.
    pub peer: PeerId,
    /// How it calls itself.
    pub name: NodeName,
    /// Where it proved to be: remembered before those of earlier meetings.
    pub addresses: Vec<SocketAddr>,
    /// The host by which the user added it; `None` leaves what is remembered.
    pub host: Option<String>,
    /// Its key; `None` leaves what is remembered.
    pub public_key: Option<PublicKey>,
}

fn record(row: &Row<'_>) -> rusqlite::Result<PeerRecord> {
    let addresses: String = row.get("addresses")?;
    Ok(PeerRecord {
        peer: peer_at(row, "peer")?,
        name: parsed_at(row, "name")?,
        addresses: addresses.lines().filter_map(|address| address.parse().ok()).collect(),
        host: row.get("host")?,
        public_key: public_key_at(row, "public_key")?,
        first_seen: time_at(row, "first_seen")?,
        last_seen: row.get::<_, Option<i64>>("last_seen")?.map(time),
    })
}

impl Tables {
    /// Remembers that a peer was met. Only for peers that proved who they are: a beacon is not a meeting.
    pub fn meet_peer(&mut self, sighting: &Sighting, now: SystemTime) -> Result<(), RegistryError> {
        let before = self.peer(sighting.peer)?.map(|peer| peer.addresses).unwrap_or_default();
        let elsewhere = before.iter().filter(|address| !sighting.addresses.contains(address));
        let addresses = sighting.addresses.iter().chain(elsewhere).take(ADDRESSES_MAX);
        let addresses: Vec<_> = addresses.map(SocketAddr::to_string).collect();
        self.connection.execute(
            "INSERT INTO peers (peer, name, addresses, host, public_key, first_seen, last_seen)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?6)
             ON CONFLICT (peer) DO UPDATE SET
                 name = excluded.name,
                 addresses = excluded.addresses,
                 host = coalesce(excluded.host, host),
                 public_key = coalesce(excluded.public_key, public_key),
                 last_seen = excluded.last_seen",
            params![
                sighting.peer.0,
                sighting.name.as_str(),
                addresses.join("\n"),
                sighting.host,
                sighting.public_key.map(|key| key.0),
                seconds(now)
            ],
        )?;
        self.connection.execute(
            "DELETE FROM peers WHERE peer IN (
                 SELECT peer FROM peers WHERE host IS NULL ORDER BY last_seen
                 LIMIT max(0, (SELECT count(*) FROM peers) - ?1))",
            [PEERS_MAX],
        )?;
        Ok(())
    }

    /// All peers, the one met last first.
    pub fn peers(&self) -> Result<Vec<PeerRecord>, RegistryError> {
        let mut query =
            self.connection.prepare_cached("SELECT * FROM peers ORDER BY last_seen DESC, peer")?;
        let rows = query.query_map([], record)?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    /// One peer.
    pub fn peer(&self, peer: PeerId) -> Result<Option<PeerRecord>, RegistryError> {
        let mut query = self.connection.prepare_cached("SELECT * FROM peers WHERE peer = ?1")?;
        Ok(query.query_row([peer.0], record).optional()?)
    }
}
