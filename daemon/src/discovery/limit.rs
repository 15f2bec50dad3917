//! How many datagrams are looked at, before any cryptography is spent on them.

use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;
use std::time::{Duration, Instant};

/// Sources told apart. Further ones share; an address that floods takes at most those with it that share its place.
const SOURCES: usize = 256;

/// A source may send this many at once: every kind of beacon of a dozen nodes on one host,
const PER_SOURCE_BURST: u32 = 40;
/// and this many a second from then on.
const PER_SOURCE_RATE: u32 = 8;

/// All sources together: checking 400 signatures takes 2 % of a core.
const TOTAL_BURST: u32 = 400;
const TOTAL_RATE: u32 = 400;

/// Decides which datagrams are looked at.
#[derive(Debug)]
pub(super) struct Limit {
    sources: Vec<Bucket>,
    total: Bucket,
    /// Random, so that nobody can choose an address to share a place with.
    place: RandomState,
}

impl Limit {
    pub(super) fn new(now: Instant) -> Self {
        let sources = vec![Bucket::full(PER_SOURCE_BURST, PER_SOURCE_RATE, now); SOURCES];
        Self { sources, total: Bucket::full(TOTAL_BURST, TOTAL_RATE, now), place: RandomState::new() }
    }

    /// True when a datagram from `source` may be looked at now.
    pub(super) fn admits(&mut self, source: IpAddr, now: Instant) -> bool {
        let place = self.place.hash_one(source) as usize % SOURCES;
        self.sources[place].take(now) && self.total.take(now)
    }
}

/// A token bucket in units of one token a second.
#[derive(Clone, Debug)]
struct Bucket {
    /// Time's worth of tokens that are left.
    left: Duration,
    full: Duration,
    token: Duration,
    filled: Instant,
}

impl Bucket {
    fn full(burst: u32, per_second: u32, now: Instant) -> Self {
        let token = Duration::from_secs(1) / per_second;
        Self { left: token * burst, full: token * burst, token, filled: now }
    }

    fn take(&mut self, now: Instant) -> bool {
        let passed = now.saturating_duration_since(self.filled);
        self.filled = self.filled.max(now);
        self.left = self.left.saturating_add(passed).min(self.full);
        match self.left.checked_sub(self.token) {
            Some(left) => {
                self.left = left;
                true
            }
            None => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(number: u32) -> IpAddr {
        IpAddr::V4(number.into())
    }

    #[test]
    fn a_source_is_limited_and_recovers() {
        let start = Instant::now();
        let mut limit = Limit::new(start);
        let mut admitted = |at| (0..1000).filter(|_| limit.admits(source(1), at)).count() as u32;
        assert_eq!(admitted(start), PER_SOURCE_BURST);
        assert_eq!(admitted(start + Duration::from_secs(1)), PER_SOURCE_RATE);
        assert_eq!(admitted(start + Duration::from_secs(3600)), PER_SOURCE_BURST);
    }

    #[test]
    fn all_sources_together_are_limited() {
        let start = Instant::now();
        let mut limit = Limit::new(start);
        let admitted = (0..100_000).filter(|number| limit.admits(source(*number), start)).count() as u32;
        assert_eq!(admitted, TOTAL_BURST);
    }

    #[test]
    fn one_source_leaves_room_for_others() {
        let start = Instant::now();
        let mut limit = Limit::new(start);
        let flood = (0..100_000).filter(|_| limit.admits(source(1), start)).count() as u32;
        assert_eq!(flood, PER_SOURCE_BURST);
        let admitted = (2..52).filter(|number| limit.admits(source(*number), start)).count();
        assert!(admitted >= 45, "{admitted}");
    }
}
