//! A peer as this node knows it: what is heard of it now, and what is remembered.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::net::SocketAddr;
use std::time::{Duration, SystemTime};

use twinshare_transport::identity::PeerId;

use super::target::Candidate;
use crate::api::wire::{Peer, PeerRef, PeerSource};
use crate::config::NodeName;
use crate::discovery::{DiscoveredPeer, Seen};
use crate::registry::PeerRecord;

/// A peer met so lately counts as online where its beacons do not reach.
const ONLINE_FOR: Duration = Duration::from_secs(60);

/// A peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct KnownPeer {
    pub(crate) id: PeerId,
    pub(crate) name: NodeName,
    /// Best first.
    pub(crate) addresses: Vec<SocketAddr>,
    pub(crate) last_seen: Option<SystemTime>,
    pub(crate) online: bool,
    pub(crate) sources: Vec<PeerSource>,
    /// What it announces: a hint.
    pub(crate) workspaces: Vec<String>,
    pub(crate) workspaces_total: Option<u64>,
    /// When this node first met it: proved by its key, unlike its name. `None` if it has only been heard.
    pub(crate) first_met: Option<SystemTime>,
    /// Another peer of the same name that was met before this one. This one may pretend to be it.
    pub(crate) namesake: Option<PeerId>,
}

impl KnownPeer {
    /// True if it is worth asking without being named: it is there, or the user added it.
    pub(crate) fn is_expected(&self) -> bool {
        self.online || self.sources.contains(&PeerSource::Manual)
    }

    pub(crate) fn candidate(&self) -> Candidate {
        Candidate { peer: self.id, name: Some(self.name.clone()) }
    }

    /// How other documents name it.
    pub(crate) fn reference(&self) -> PeerRef {
        PeerRef { id: self.id.to_string(), short_id: self.id.short(), name: Some(self.name.to_string()) }
    }

    /// All of it for the API.
    pub(crate) fn document(&self) -> Peer {
        Peer {
            id: self.id.to_string(),
            short_id: self.id.short(),
            name: Some(self.name.to_string()),
            addresses: self.addresses.iter().map(SocketAddr::to_string).collect(),
            last_seen_at: self.last_seen.map(Into::into),
            online: self.online,
            sources: self.sources.clone(),
            workspaces: self.workspaces.clone(),
            workspaces_total: self.workspaces_total,
            name_of: self.namesake.map(|other| other.short()),
        }
    }
}

/// What is heard and what is remembered, as peers; those online first, then by name.
///
/// Of a peer that is both, what it says now counts, and the addresses at which it was heard come first: where it was
/// met before may be another network. One that was heard to go has gone, however lately it was met before that.
pub(crate) fn merge(seen: &Seen, remembered: Vec<PeerRecord>, now: SystemTime) -> Vec<KnownPeer> {
    let mut all: BTreeMap<PeerId, KnownPeer> =
        seen.peers.iter().map(|peer| (peer.peer, from_heard(peer))).collect();
    for record in remembered {
        match all.entry(record.peer) {
            Entry::Occupied(heard) => heard.into_mut().add_remembered(record),
            Entry::Vacant(unheard) => {
                let gone = seen.gone.get(&record.peer).copied();
                unheard.insert(from_record(record, gone, now));
            }
        }
    }
    let mut all: Vec<_> = all.into_values().collect();
    note_namesakes(&mut all);
    all.sort_by(|a, b| (!a.online, &a.name, a.id).cmp(&(!b.online, &b.name, b.id)));
    all
}

/// Notes of each peer who had its name before it. Of those that share a name the one that was met first keeps it: a
/// stranger can take any name, and cannot have been here earlier.
fn note_namesakes(all: &mut [KnownPeer]) {
    // The case of letters is easily overlooked.
    let key = |peer: &KnownPeer| peer.name.as_str().to_lowercase();
    let mut first: BTreeMap<String, (SystemTime, PeerId)> = BTreeMap::new();
    for peer in all.iter() {
        if let Some(met) = peer.first_met {
            let at = (met, peer.id);
            first.entry(key(peer)).and_modify(|first| *first = at.min(*first)).or_insert(at);
        }
    }
    for peer in all {
        peer.namesake = first.get(&key(peer)).map(|(_, id)| *id).filter(|id| *id != peer.id);
    }
}

fn from_heard(peer: &DiscoveredPeer) -> KnownPeer {
    KnownPeer {
        id: peer.peer,
        name: peer.name.clone(),
        addresses: peer.addresses.clone(),
        last_seen: Some(peer.heard),
        online: true,
        sources: vec![PeerSource::Multicast],
        workspaces: peer.workspaces.iter().map(ToString::to_string).collect(),
        workspaces_total: Some(peer.workspaces_total.into()),
        first_met: None,
        namesake: None,
    }
}

fn from_record(record: PeerRecord, gone: Option<SystemTime>, now: SystemTime) -> KnownPeer {
    let met_again = record.last_seen.filter(|met| gone.is_none_or(|gone| gone < *met));
    let since_met = met_again.and_then(|met| now.duration_since(met).ok());
    KnownPeer {
        id: record.peer,
        sources: vec![source(&record)],
        name: record.name,
        addresses: record.addresses,
        last_seen: record.last_seen,
        online: since_met.is_some_and(|since| since < ONLINE_FOR),
        workspaces: Vec::new(),
        workspaces_total: None,
        first_met: Some(record.first_seen),
        namesake: None,
    }
}

fn source(record: &PeerRecord) -> PeerSource {
    if record.host.is_some() { PeerSource::Manual } else { PeerSource::Remembered }
}

impl KnownPeer {
    fn add_remembered(&mut self, record: PeerRecord) {
        self.sources.push(source(&record));
        self.first_met = Some(record.first_seen);
        self.last_seen = self.last_seen.max(record.last_seen);
        let elsewhere = record.addresses.into_iter().filter(|address| !self.addresses.contains(address));
        let elsewhere: Vec<_> = elsewhere.collect();
        self.addresses.extend(elsewhere);
    }
}

#[cfg(test)]
mod tests {
    use twinshare_transport::identity::PublicKey;

    use super::*;

    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
    }

    fn heard(key: u8, name: &str, address: &str) -> DiscoveredPeer {
        let public_key = PublicKey([key; 32]);
        DiscoveredPeer {
            peer: public_key.peer_id(),
            public_key,
            name: name.parse().unwrap(),
            addresses: vec![address.parse().unwrap()],
            workspaces: vec!["demo".parse().unwrap()],
            workspaces_total: 3,
            since: at(0),
            heard: at(1000),
        }
    }

    fn met(key: u8, name: &str, addresses: &[&str], host: Option<&str>, last_seen: u64) -> PeerRecord {
        PeerRecord {
            peer: PublicKey([key; 32]).peer_id(),
            name: name.parse().unwrap(),
            addresses: addresses.iter().map(|address| address.parse().unwrap()).collect(),
            host: host.map(str::to_owned),
            public_key: None,
            first_seen: at(0),
            last_seen: Some(at(last_seen)),
        }
    }

    fn seen(heard: &[DiscoveredPeer]) -> Seen {
        Seen { peers: heard.into(), ..Seen::default() }
    }

    #[test]
    fn a_peer_that_was_heard_to_go_is_not_online() {
        #[track_caller]
        fn check(met_at: u64, gone: Option<u64>, online: bool) {
            let record = met(1, "anna", &["10.0.0.1:7"], None, met_at);
            let gone = gone.map(|second| (record.peer, at(second))).into_iter().collect();
            let seen = Seen { gone: std::sync::Arc::new(gone), ..Seen::default() };
            let all = merge(&seen, vec![record], at(1000));
            assert_eq!(all[0].online, online, "met at {met_at}, gone at {gone:?}", gone = seen.gone);
        }
        check(990, None, true);
        check(990, Some(995), false);
        // Met again where its beacons do not reach.
        check(990, Some(980), true);
        check(900, Some(980), false);
        check(900, None, false);
    }

    #[test]
    fn what_is_said_now_counts_more_than_what_is_remembered() {
        let heard = [heard(1, "zoe", "10.0.0.1:7")];
        let remembered = vec![
            met(1, "old name", &["10.9.9.9:7", "10.0.0.1:7"], Some("zoe.local"), 900),
            met(2, "bob", &["10.0.0.2:7"], None, 980),
            met(3, "anna", &["10.0.0.3:7"], None, 100),
            met(4, "carl", &["10.0.0.4:7"], Some("carl"), 100),
        ];
        let all = merge(&seen(&heard), remembered, at(1000));
        let names: Vec<_> =
            all.iter().map(|peer| (peer.name.as_str(), peer.online, peer.is_expected())).collect();
        let expected =
            [("bob", true, true), ("zoe", true, true), ("anna", false, false), ("carl", false, true)];
        assert_eq!(names, expected);
        let zoe = all[1].document();
        assert_eq!(zoe.addresses, ["10.0.0.1:7", "10.9.9.9:7"]);
        assert_eq!(zoe.sources, [PeerSource::Multicast, PeerSource::Manual]);
        assert_eq!((zoe.workspaces, zoe.workspaces_total), (vec!["demo".to_owned()], Some(3)));
        assert_eq!(zoe.last_seen_at.map(|at| at.0), Some(1000));
    }

    #[test]
    fn whoever_was_met_first_keeps_a_name() {
        #[track_caller]
        fn check(heard: &[DiscoveredPeer], remembered: &[(u8, &str, u64)], expected: &[(u8, u8)]) {
            let record = |(key, name, first): &(u8, &str, u64)| PeerRecord {
                first_seen: at(*first),
                ..met(*key, name, &[], None, 900)
            };
            let all = merge(&seen(heard), remembered.iter().map(record).collect(), at(1000));
            let taken = all.iter().filter_map(|peer| Some((peer.id, peer.namesake?)));
            let mut taken: Vec<_> = taken.collect();
            let id = |key: u8| PublicKey([key; 32]).peer_id();
            let mut expected: Vec<_> = expected.iter().map(|(peer, first)| (id(*peer), id(*first))).collect();
            taken.sort();
            expected.sort();
            assert_eq!(taken, expected, "{remembered:?}");
        }
        check(&[heard(1, "anna", "10.0.0.1:7")], &[(2, "bob", 10)], &[]);
        check(&[heard(1, "anna", "10.0.0.1:7")], &[(2, "anna", 10)], &[(1, 2)]);
        check(&[heard(1, "Anna", "10.0.0.1:7")], &[(1, "anna", 10)], &[]);
        check(&[heard(1, "Anna", "10.0.0.1:7")], &[(1, "carl", 30), (2, "anna", 20)], &[(1, 2)]);
        check(&[], &[(1, "anna", 30), (2, "anna", 20), (3, "anna", 25)], &[(1, 2), (3, 2)]);
        // Two strangers of one name: neither is known, so neither takes the other's.
        check(&[heard(1, "anna", "10.0.0.1:7"), heard(2, "anna", "10.0.0.2:7")], &[], &[]);
    }
}
