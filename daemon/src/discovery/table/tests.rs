//! Who is known, who is forgotten, and what a stranger can fill: in virtual time.

use super::*;

struct Bench {
    table: PeerTable,
    start: Instant,
}

fn key(number: u16) -> PublicKey {
    let mut key = [0; 32];
    key[..2].copy_from_slice(&number.to_be_bytes());
    PublicKey(key)
}

fn clock(seconds: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
}

impl Bench {
    fn new() -> Self {
        Self { table: PeerTable::default(), start: Instant::now() }
    }

    fn at(&self, seconds: u64) -> Instant {
        self.start + Duration::from_secs(seconds)
    }

    fn hear(&mut self, seconds: u64, number: u16, source: &str, change: impl FnOnce(&mut Beacon)) -> Heard {
        let mut beacon = Beacon {
            kind: Kind::Announce,
            // One socket's beacons are never another's.
            sent_ms: 1_000_000 + seconds * 1000 + u64::from(source == B),
            name: "anna".parse().unwrap(),
            port: 7,
            workspaces: vec![],
            workspaces_total: 0,
            catalogue: 0,
        };
        change(&mut beacon);
        let now = self.at(seconds);
        self.table.hear(key(number), beacon, source.parse().unwrap(), now, clock(seconds))
    }

    fn expire(&mut self, seconds: u64) -> bool {
        self.table.expire(self.at(seconds), clock(seconds))
    }

    #[track_caller]
    fn check_gone(&self, expected: &[(u16, u64)]) {
        let expected = expected.iter().map(|(number, since)| (key(*number).peer_id(), clock(*since)));
        assert_eq!(self.table.gone(), expected.collect());
    }

    #[track_caller]
    fn check(&self, expected: &[(u16, &[&str])]) {
        let peers = self.table.peers();
        let found: Vec<_> = peers
            .iter()
            .map(|peer| (peer.peer, peer.addresses.iter().map(SocketAddr::to_string).collect::<Vec<_>>()))
            .collect();
        let mut expected: Vec<_> = expected
            .iter()
            .map(|(number, at)| {
                (key(*number).peer_id(), at.iter().map(|at| at.to_string()).collect::<Vec<_>>())
            })
            .collect();
        expected.sort();
        assert_eq!(found, expected);
    }
}

const A: &str = "10.0.0.1:999";
const B: &str = "[fe80::1%3]:999";

#[test]
fn a_peer_is_where_it_was_heard_last() {
    let mut bench = Bench::new();
    assert_eq!(bench.hear(0, 1, A, |_| {}), Heard::Changed);
    assert_eq!(bench.hear(10, 1, A, |_| {}), Heard::Same);
    assert_eq!(bench.hear(10, 1, B, |_| {}), Heard::Changed);
    bench.check(&[(1, &["[fe80::1%3]:7", "10.0.0.1:7"])]);
    assert_eq!(bench.hear(20, 1, B, |beacon| beacon.port = 8), Heard::Changed);
    bench.check(&[(1, &["[fe80::1%3]:8", "[fe80::1%3]:7", "10.0.0.1:7"])]);
    // It left the first network; the port it had before is forgotten with it.
    assert!(bench.expire(10 + EXPIRES_AFTER.as_secs()));
    bench.check(&[(1, &["[fe80::1%3]:8"])]);
    let peer = &bench.table.peers()[0];
    assert_eq!(peer.since, SystemTime::UNIX_EPOCH);
    assert_eq!(peer.heard, SystemTime::UNIX_EPOCH + Duration::from_secs(20));
}

#[test]
fn a_silent_peer_is_gone_after_three_beacons() {
    let mut bench = Bench::new();
    bench.hear(0, 1, A, |_| {});
    assert_eq!(bench.table.next_expiry(), Some(bench.at(35)));
    assert!(!bench.expire(34));
    assert!(bench.expire(35));
    bench.check(&[]);
    assert_eq!(bench.table.next_expiry(), None);
    assert_eq!(bench.hear(36, 1, A, |beacon| beacon.sent_ms = 1_000_000), Heard::Ignored);
    assert_eq!(bench.hear(37, 1, A, |_| {}), Heard::Changed);
    bench.check(&[(1, &["10.0.0.1:7"])]);
}

#[test]
fn a_goodbye_is_final_for_what_was_sent_before() {
    let mut bench = Bench::new();
    let goodbye = |beacon: &mut Beacon| beacon.kind = Kind::Goodbye;
    assert_eq!(bench.hear(0, 1, A, goodbye), Heard::Ignored);
    bench.hear(0, 1, A, |_| {});
    assert_eq!(bench.hear(5, 1, B, goodbye), Heard::Changed);
    bench.check(&[]);
    assert_eq!(bench.hear(5, 1, A, |_| {}), Heard::Ignored);
    assert_eq!(bench.hear(4, 1, A, |_| {}), Heard::Ignored);
    assert_eq!(bench.hear(5, 1, A, goodbye), Heard::Ignored);
    assert_eq!(bench.hear(6, 1, A, |_| {}), Heard::Changed);
    bench.check(&[(1, &["10.0.0.1:7"])]);
    // Long after, nothing is left of it.
    bench.hear(7, 1, A, goodbye);
    bench.expire(7 + REMEMBERED_FOR.as_secs());
    assert!(bench.table.entries.is_empty());
}

#[test]
fn who_is_gone_is_known_until_they_come_back() {
    let mut bench = Bench::new();
    bench.hear(0, 1, A, |_| {});
    bench.hear(0, 2, B, |_| {});
    bench.check_gone(&[]);
    bench.hear(5, 1, A, |beacon| beacon.kind = Kind::Goodbye);
    bench.check_gone(&[(1, 5)]);
    bench.expire(40);
    bench.check_gone(&[(1, 5), (2, 40)]);
    bench.hear(41, 1, A, |_| {});
    bench.check_gone(&[(2, 40)]);
}

#[test]
fn old_beacons_are_not_believed() {
    let mut bench = Bench::new();
    bench.hear(10, 1, A, |_| {});
    assert_eq!(bench.hear(10, 1, A, |_| {}), Heard::Ignored);
    // Overtaken on the way over another interface: heard, but what it says is older.
    let rename = |beacon: &mut Beacon| (beacon.name, beacon.sent_ms) = ("old".parse().unwrap(), 1_009_000);
    assert_eq!(bench.hear(10, 1, B, rename), Heard::Changed);
    assert_eq!(bench.table.peers()[0].name.as_str(), "anna");
    assert_eq!(bench.hear(10, 1, "10.9.9.9:1", |beacon| beacon.sent_ms = 1_007_999), Heard::Ignored);
    assert_eq!(bench.hear(11, 1, A, |beacon| beacon.sent_ms = u64::MAX), Heard::Same);
    assert_eq!(bench.hear(12, 1, A, |beacon| beacon.sent_ms = u64::MAX), Heard::Ignored);
}

#[test]
fn a_copy_from_elsewhere_moves_nobody() {
    let mut bench = Bench::new();
    bench.hear(10, 1, A, |_| {});
    bench.hear(11, 1, A, |_| {});
    for forged in 1..=8 {
        for sent_ms in [1_010_000, 1_011_000] {
            let copy = |beacon: &mut Beacon| beacon.sent_ms = sent_ms;
            assert_eq!(bench.hear(11, 1, &format!("10.0.0.6{forged}:1"), copy), Heard::Ignored);
        }
    }
    bench.check(&[(1, &["10.0.0.1:7"])]);
}

#[test]
fn news_is_told_from_routine() {
    let mut bench = Bench::new();
    bench.hear(0, 1, A, |_| {});
    assert_eq!(bench.hear(1, 1, A, |beacon| beacon.catalogue = 1), Heard::Changed);
    assert_eq!(bench.hear(2, 1, A, |beacon| beacon.catalogue = 1), Heard::Same);
    let query = |beacon: &mut Beacon| (beacon.kind, beacon.catalogue) = (Kind::Query, 1);
    assert_eq!(bench.hear(3, 1, A, query), Heard::Same);
}

#[test]
fn one_address_cannot_fill_the_table() {
    let mut bench = Bench::new();
    for number in 0..100 {
        bench.hear(0, number, A, |_| {});
    }
    assert_eq!(bench.table.peers().len(), PEERS_PER_ADDRESS_MAX);
    assert_eq!(bench.hear(0, 200, B, |_| {}), Heard::Changed);
}

#[test]
fn a_full_table_keeps_those_it_has() {
    let mut bench = Bench::new();
    let address = |number: u16| format!("10.1.{}.{}:1", number >> 8, number & 255);
    for number in 0..PEERS_MAX as u16 {
        assert_eq!(bench.hear(0, number, &address(number), |_| {}), Heard::Changed);
    }
    assert_eq!(bench.hear(0, 600, &address(600), |_| {}), Heard::Ignored);
    bench.hear(1, 0, &address(0), |beacon| beacon.kind = Kind::Goodbye);
    assert_eq!(bench.hear(1, 600, &address(600), |_| {}), Heard::Changed);
    assert_eq!(bench.table.peers().len(), PEERS_MAX);
}

#[test]
fn a_peers_addresses_are_bounded() {
    let mut bench = Bench::new();
    for number in 0..50 {
        bench.hear(number, 1, &format!("10.0.0.{number}:1"), |_| {});
    }
    let addresses = &bench.table.peers()[0].addresses;
    assert_eq!((addresses.len(), addresses[0].to_string().as_str()), (ADDRESSES_MAX, "10.0.0.49:7"));
}
