//! The reads of one inode that wait for blocks.
//!
//! What arrives for a read is kept here, so that it needs neither the disk nor luck.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::inode::{Failure, News, Source};

/// All of them.
#[derive(Debug, Default)]
pub(super) struct Waiters {
    waiting: Vec<Waiter>,
    next: u64,
}

#[derive(Debug)]
struct Waiter {
    id: u64,
    first: u64,
    sources: Vec<Option<Source>>,
    missing: usize,
    failure: Option<Failure>,
    progress: Instant,
    wake: Arc<Notify>,
}

impl Waiter {
    fn slot(&mut self, block: u64) -> Option<&mut Option<Source>> {
        self.sources.get_mut(block.checked_sub(self.first)? as usize).filter(|slot| slot.is_none())
    }

    fn fill(&mut self, block: u64, source: Source) {
        let Some(slot) = self.slot(block) else { return };
        *slot = Some(source);
        self.missing -= 1;
        self.progress = Instant::now();
        if self.missing == 0 {
            self.wake.notify_one();
        }
    }
}

impl Waiters {
    /// Adds a read of the blocks from `first` on, of which `sources` are here already.
    pub(super) fn add(
        &mut self,
        first: u64,
        sources: Vec<Option<Source>>,
        progress: Instant,
        wake: Arc<Notify>,
    ) -> u64 {
        let id = self.next;
        self.next += 1;
        let missing = sources.iter().filter(|source| source.is_none()).count();
        self.waiting.push(Waiter { id, first, sources, missing, failure: None, progress, wake });
        id
    }

    /// A block has come.
    pub(super) fn hand_out(&mut self, block: u64, bytes: &Bytes) {
        self.waiting.iter_mut().for_each(|waiter| waiter.fill(block, Source::Memory(bytes.clone())));
    }

    /// The disk is the truth about these blocks now.
    pub(super) fn on_disk(&mut self, blocks: &Range<u64>) {
        for waiter in &mut self.waiting {
            let end = waiter.first + waiter.sources.len() as u64;
            for block in blocks.start.max(waiter.first)..blocks.end.min(end) {
                waiter.fill(block, Source::Disk);
            }
        }
    }

    /// Whoever waits for a block learns why it does not come.
    pub(super) fn fail(&mut self, block: u64, failure: &Failure) {
        for waiter in &mut self.waiting {
            if waiter.slot(block).is_some() {
                waiter.failure = Some(failure.clone());
                waiter.wake.notify_one();
            }
        }
    }

    /// What a waiter finds; its failure is told once.
    pub(super) fn news(&mut self, id: u64) -> News {
        let Some(at) = self.waiting.iter().position(|waiter| waiter.id == id) else {
            return News::Failed(Failure::Broken("it was served already".into()));
        };
        let waiter = &mut self.waiting[at];
        if waiter.missing == 0 {
            let sources = std::mem::take(&mut waiter.sources);
            self.waiting.swap_remove(at);
            return News::Here(sources.into_iter().flatten().collect());
        }
        match waiter.failure.take() {
            Some(failure) => News::Failed(failure),
            None => News::NothingSince(waiter.progress),
        }
    }

    /// When a block last arrived for a waiter.
    pub(super) fn progress(&self, id: u64) -> Option<Instant> {
        self.waiting.iter().find(|waiter| waiter.id == id).map(|waiter| waiter.progress)
    }

    /// Removes a waiter that gave up.
    pub(super) fn forget(&mut self, id: u64) {
        self.waiting.retain(|waiter| waiter.id != id);
    }
}
