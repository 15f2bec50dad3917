//! What a replica counts for its status.

use std::collections::VecDeque;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use super::lock;
use super::status::{DemandWaits, ErrorLine, FetchedBytes, LISTED_MAX};
use crate::origin::Class;

/// Powers of two of microseconds in the histogram of waits; the last one is half an hour.
const BUCKETS: usize = 32;

/// Errors logged within [`LOGGED_WITHIN`] at most: an origin can cause as many as it likes.
const LOGGED_MAX: u32 = 20;
const LOGGED_WITHIN: Duration = Duration::from_secs(60);

/// Numbers that only grow, and short lists. Nothing here is waited for.
#[derive(Debug, Default)]
pub(super) struct Counters {
    /// Files of the manifest; those with several names count once.
    pub(super) files: AtomicU64,
    /// Everything has been fetched.
    pub(super) hydrated: watch::Sender<bool>,
    /// What is left free on a disk that has no more, in bytes; 0 while it has.
    pub(super) short_of_space: AtomicU64,
    fetched: [AtomicU64; 3],
    waiting: AtomicU64,
    failed: AtomicU64,
    longest_us: AtomicU64,
    waits: [AtomicU64; BUCKETS],
    lists: Mutex<Lists>,
}

#[derive(Debug, Default)]
struct Lists {
    stale: Vec<String>,
    stale_total: u64,
    errors: VecDeque<(Instant, u64, String)>,
    logged: Logged,
}

/// How much has been logged lately.
#[derive(Debug, Default)]
struct Logged {
    since: Option<Instant>,
    lines: u32,
    left_out: u64,
}

impl Logged {
    /// True when one more line may be logged; with it goes how many were not.
    fn may_log(&mut self, now: Instant) -> Option<u64> {
        if self.since.is_none_or(|since| now.saturating_duration_since(since) >= LOGGED_WITHIN) {
            (self.since, self.lines) = (Some(now), 0);
        }
        if self.lines >= LOGGED_MAX {
            self.left_out += 1;
            return None;
        }
        self.lines += 1;
        Some(std::mem::take(&mut self.left_out))
    }
}

impl Counters {
    /// Verified bytes arrived.
    pub(super) fn fetched(&self, class: Class, bytes: u64) {
        self.fetched[class as usize].fetch_add(bytes, Relaxed);
    }

    pub(super) fn fetched_bytes(&self) -> FetchedBytes {
        let of = |class| self.fetched[class as usize].load(Relaxed);
        FetchedBytes { demand: of(Class::Demand), read_ahead: of(Class::ReadAhead), bulk: of(Class::Bulk) }
    }

    /// A read begins to wait.
    pub(super) fn wait(&self) -> Wait<'_> {
        self.waiting.fetch_add(1, Relaxed);
        Wait { counters: self, began: Instant::now(), served: false }
    }

    fn served(&self, after: Duration) {
        let us = after.as_micros().min(u128::from(u64::MAX)) as u64;
        let bucket = (u64::BITS - us.leading_zeros()) as usize;
        self.waits[bucket.min(BUCKETS - 1)].fetch_add(1, Relaxed);
        self.longest_us.fetch_max(us, Relaxed);
    }

    pub(super) fn demand(&self) -> DemandWaits {
        let waits: Vec<u64> = self.waits.iter().map(|bucket| bucket.load(Relaxed)).collect();
        let longest_us = self.longest_us.load(Relaxed);
        let at = |share| percentile(&waits, share).min(longest_us);
        DemandWaits {
            waiting: self.waiting.load(Relaxed),
            served: waits.iter().sum(),
            failed: self.failed.load(Relaxed),
            p50_us: at(50),
            p90_us: at(90),
            p99_us: at(99),
            longest_us,
        }
    }

    /// Lists a file that changed at the origin. The caller takes care that each comes once.
    pub(super) fn stale(&self, path: String) {
        let mut lists = lock(&self.lists);
        lists.stale_total += 1;
        if lists.stale.len() < LISTED_MAX {
            lists.stale.push(path);
        }
    }

    pub(super) fn stale_files(&self) -> (Vec<String>, u64) {
        let lists = lock(&self.lists);
        (lists.stale.clone(), lists.stale_total)
    }

    /// Lists something that went wrong, and logs it unless much was logged lately. The same thing again is only counted.
    pub(super) fn error(&self, text: String) {
        let mut lists = lock(&self.lists);
        if let Some((at, times, last)) = lists.errors.back_mut()
            && *last == text
        {
            (*at, *times) = (Instant::now(), *times + 1);
            return;
        }
        if lists.errors.len() >= LISTED_MAX {
            lists.errors.pop_front();
        }
        let now = Instant::now();
        lists.errors.push_back((now, 1, text.clone()));
        let may_log = lists.logged.may_log(now);
        drop(lists);
        match may_log {
            Some(0) => tracing::warn!("{text}"),
            Some(left_out) => tracing::warn!(left_out, "{text}"),
            None => {}
        }
    }

    pub(super) fn errors(&self) -> Vec<ErrorLine> {
        let now = Instant::now();
        let line = |(at, times, text): &(Instant, u64, String)| ErrorLine {
            ago_ms: now.saturating_duration_since(*at).as_millis() as u64,
            times: *times,
            text: text.clone(),
        };
        lock(&self.lists).errors.iter().map(line).collect()
    }
}

/// A read that waits; counted as failed unless it says otherwise. One that was given up by its caller counts as
/// failed too.
pub(super) struct Wait<'c> {
    counters: &'c Counters,
    began: Instant,
    served: bool,
}

impl Wait<'_> {
    /// It got what it waited for.
    pub(super) fn served(mut self) {
        self.served = true;
    }
}

impl Drop for Wait<'_> {
    fn drop(&mut self) {
        self.counters.waiting.fetch_sub(1, Relaxed);
        match self.served {
            true => self.counters.served(self.began.elapsed()),
            false => _ = self.counters.failed.fetch_add(1, Relaxed),
        }
    }
}

/// The upper end of the bucket that holds the given share (in a hundred) of all waits.
fn percentile(waits: &[u64], share: u64) -> u64 {
    let total: u64 = waits.iter().sum();
    let mut seen = 0;
    for (bucket, count) in waits.iter().enumerate() {
        seen += count;
        if seen > 0 && seen * 100 >= total * share {
            return (1 << bucket) - 1;
        }
    }
    0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_are_told_to_a_factor_of_two() {
        let counters = Counters::default();
        assert_eq!(counters.demand(), DemandWaits::default());
        for _ in 0..98 {
            counters.served(Duration::from_micros(900));
        }
        counters.served(Duration::from_millis(40));
        counters.served(Duration::from_secs(3));
        let demand = counters.demand();
        assert_eq!((demand.served, demand.p50_us, demand.p90_us), (100, 1023, 1023));
        assert_eq!((demand.p99_us, demand.longest_us), (65_535, 3_000_000));
    }

    #[test]
    fn a_wait_that_is_dropped_has_failed() {
        let counters = Counters::default();
        counters.wait().served();
        drop(counters.wait());
        let waits = counters.demand();
        assert_eq!((waits.waiting, waits.served, waits.failed), (0, 1, 1));
    }

    #[test]
    fn a_flood_of_errors_does_not_flood_the_log() {
        let (mut logged, now) = (Logged::default(), Instant::now());
        for _ in 0..LOGGED_MAX {
            assert_eq!(logged.may_log(now), Some(0));
        }
        assert_eq!((logged.may_log(now), logged.may_log(now + LOGGED_WITHIN / 2)), (None, None));
        assert_eq!(logged.may_log(now + LOGGED_WITHIN), Some(2));
        assert_eq!(logged.may_log(now + LOGGED_WITHIN), Some(0));
    }

    #[test]
    fn failed_waits_never_count_below_none() {
        let counters = Counters::default();
        let wait = counters.wait();
        std::thread::scope(|scope| {
            let watch = scope.spawn(|| {
                while counters.demand().waiting > 0 {
                    assert_eq!(counters.demand().failed, 0);
                }
            });
            (0..10_000).for_each(|_| counters.wait().served());
            wait.served();
            watch.join().unwrap();
        });
    }

    #[test]
    fn lists_are_bounded_and_repeats_counted() {
        let counters = Counters::default();
        for i in 0..2 * LISTED_MAX {
            counters.stale(format!("{i}"));
            counters.error(format!("{i}"));
            counters.error(format!("{i}"));
        }
        let errors = counters.errors();
        assert_eq!(errors.len(), LISTED_MAX);
        assert_eq!((errors[0].text.as_str(), errors[0].times), ("100", 2));
        let (stale, total) = counters.stale_files();
        assert_eq!((stale.len(), total), (LISTED_MAX, 2 * LISTED_MAX as u64));
    }
}
