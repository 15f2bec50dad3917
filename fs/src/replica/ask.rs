//! Blocks of one inode that have been asked for together.

use std::ops::Range;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

use tokio::sync::Notify;
use tokio::time::Instant;

use super::lock;
use crate::origin::Class;

/// How far behind the next delivery of a less urgent ask a wanted block may lie and still be waited for: 4 MiB, which
/// the kernel at most reads ahead itself. Beyond it, the ask is given up and the block asked for again, urgently.
const NEAR_BLOCKS: u64 = 64;

/// The identity and the urgency of an ask.
#[derive(Debug)]
pub(super) struct Ask {
    class: Class,
    /// The block it will bring next.
    next: AtomicU64,
    /// When it was made or sent, or when the origin last answered it. A leaf lock.
    heard: Mutex<Instant>,
    given_up: AtomicBool,
    wake: Notify,
}

impl Ask {
    /// An ask for `ranges`, which are in ascending order.
    pub(super) fn new(class: Class, ranges: &[Range<u64>]) -> Self {
        let next = ranges.first().map_or(0, |range| range.start);
        Self {
            class,
            next: AtomicU64::new(next),
            heard: Mutex::new(Instant::now()),
            given_up: AtomicBool::new(false),
            wake: Notify::new(),
        }
    }

    /// Tells that blocks below `end` have come.
    pub(super) fn advanced(&self, end: u64) {
        self.next.fetch_max(end, Relaxed);
        *lock(&self.heard) = Instant::now();
    }

    /// Tells that it has been sent: from now on the origin may be late.
    pub(super) fn sent(&self) {
        *lock(&self.heard) = Instant::now();
    }

    /// Since when nothing has been heard.
    pub(super) fn heard(&self) -> Instant {
        *lock(&self.heard)
    }

    /// The block it will bring next.
    pub(super) fn next(&self) -> u64 {
        self.next.load(Relaxed)
    }

    /// True when nobody waited for it when it was sent.
    pub(super) fn is_unhurried(&self) -> bool {
        self.class < Class::Demand
    }

    /// True when somebody who waits for `block` had better not wait for this ask. One in bulk may itself wait behind
    /// others, so it is always far.
    pub(super) fn is_far_from(&self, block: u64) -> bool {
        self.is_bulk() || block >= self.next().saturating_add(NEAR_BLOCKS)
    }

    /// True when it is for what nobody is known to want soon.
    pub(super) fn is_bulk(&self) -> bool {
        self.class == Class::Bulk
    }

    /// Ends the request behind it.
    pub(super) fn give_up(&self) {
        self.given_up.store(true, Relaxed);
        self.wake.notify_one();
    }

    /// Returns once it is [given up](Self::give_up).
    pub(super) async fn given_up(&self) {
        while !self.given_up.load(Relaxed) {
            self.wake.notified().await;
        }
    }
}
