//! Whether a connection's link is what its answers wait for, and slow enough for compression to pay.
//!
//! Compressing one stream delivers at most 0.33 GB/s of content, so it can only win where the link takes less than that;
//! and only while writers do wait: where the disk or the processor is the bottleneck, it would make things worse. Both are
//! looked at in turns of a quarter of a second, so a connection whose link stops being the bottleneck, also *because* of
//! compression, goes back to sending content as it is.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// How long a turn lasts at least.
const TURN: Duration = Duration::from_millis(250);

/// Links that take less are slow: with half of what one core compresses, a gigabit Ethernet (118 MB/s) is, ten are not.
const SLOW_BYTES_PER_SECOND: f64 = 160e6;

/// The share of a turn that writers must have waited, all of them together.
const WAITED_SHARE: f64 = 0.5;

/// What a connection's writers have seen. The lock is held for a few additions.
#[derive(Debug, Default)]
pub(crate) struct Pace {
    turn: Mutex<Option<Turn>>,
}

#[derive(Clone, Copy, Debug)]
struct Turn {
    started: Instant,
    bytes: usize,
    waited: Duration,
    /// What the turn before has found.
    is_slow: bool,
}

impl Pace {
    /// Takes note of a write that ended `now`.
    pub(crate) fn wrote(&self, bytes: usize, waited: Duration, now: Instant) {
        let mut turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        let current = turn.get_or_insert(Turn::new(now - waited, false));
        current.bytes += bytes;
        current.waited += waited;
        let lasted = now.saturating_duration_since(current.started);
        if lasted >= TURN {
            *current = Turn::new(now, current.found_slow(lasted));
        }
    }

    /// What the last full turn has found; false before the first.
    pub(crate) fn is_slow(&self) -> bool {
        self.turn.lock().unwrap_or_else(PoisonError::into_inner).is_some_and(|turn| turn.is_slow)
    }
}

impl Turn {
    fn new(started: Instant, is_slow: bool) -> Self {
        Self { started, bytes: 0, waited: Duration::ZERO, is_slow }
    }

    fn found_slow(&self, lasted: Duration) -> bool {
        let lasted = lasted.as_secs_f64();
        self.bytes as f64 / lasted < SLOW_BYTES_PER_SECOND
            && self.waited.as_secs_f64() / lasted > WAITED_SHARE
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is found after `writes` of 64 KiB, each of which waited and was followed by a pause.
    #[track_caller]
    fn check(writes: u32, waited_us: u64, pause_us: u64, expected: bool) {
        let pace = Pace::default();
        let mut now = Instant::now();
        for _ in 0..writes {
            let waited = Duration::from_micros(waited_us);
            now += waited;
            pace.wrote(65536, waited, now);
            now += Duration::from_micros(pause_us);
        }
        assert_eq!(pace.is_slow(), expected, "{writes} writes, {waited_us} µs each, {pause_us} µs apart");
    }

    #[test]
    fn a_link_is_slow_when_it_is_slow_and_waited_for() {
        check(1000, 5000, 0, true); // 13 MB/s, all of it waiting
        check(1000, 550, 0, true); // 119 MB/s
        check(1000, 200, 0, false); // 328 MB/s
        check(1000, 100, 5000, false); // 13 MB/s, but the link is not what it waits for
        check(1, 200_000, 0, false); // not a turn yet
        check(1, 300_000, 0, true);
    }

    #[test]
    fn a_link_that_is_no_longer_waited_for_is_slow_no_more() {
        let pace = Pace::default();
        let start = Instant::now();
        pace.wrote(65536, TURN, start + TURN);
        assert!(pace.is_slow());
        pace.wrote(65536, Duration::ZERO, start + 2 * TURN);
        assert!(!pace.is_slow());
    }
}
