//! One inode of a replica in memory: which of its blocks are here, which are coming, and who waits for them.
//!
//! A block is **on disk**, a **hole** of the origin's file, **held** (arrived, verified, not on the disk yet),
//! **asked** for, or missing. The methods here only move blocks between these states; fetching and storing is done by
//! whoever calls them.

use std::collections::BTreeMap;
use std::fs::File;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU32};
use std::sync::{Arc, Mutex, MutexGuard};

use bytes::Bytes;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::block_set::BlockSet;
use super::ledger::{Amount, Ledger};
use super::lock;
use super::sequence::Sequence;
use super::{ReadError, ask::Ask};
use crate::digest::{BLOCK_BYTES, BlockIndex, block_count};
use crate::manifest::{Entry, EntryIndex, is_hole};

/// A regular file of the snapshot, shared by all its names.
///
/// Locks, each taken only while none below it in this list is held: `disk`, `blocks`, then whatever the scheduler and
/// the writer lock inside their own calls. `disk` is taken by threads that may block, never by tasks; the others are
/// held for a few instructions.
#[derive(Debug)]
pub(super) struct Inode {
    pub(super) index: EntryIndex,
    pub(super) size: u64,
    /// The place of its first digest.
    pub(super) digests_at: u64,
    holes: Box<[Range<u64>]>,
    /// Blocks that are never fetched.
    pub(super) hole_blocks: u64,
    /// Open handles.
    pub(super) opens: AtomicU32,
    /// Set by every use.
    pub(super) used: AtomicBool,
    /// The same, for its descriptor.
    pub(super) file_used: AtomicBool,
    /// Held while its file is looked for or made.
    pub(super) disk: Mutex<()>,
    blocks: Mutex<Blocks>,
}

/// What changes about an inode.
#[derive(Debug)]
pub(super) struct Blocks {
    /// The ledger for which the file's extent map has been read; `None` before: nothing else in here means anything
    /// then.
    ledger: Option<Arc<Ledger>>,
    present: BlockSet,
    coming: BTreeMap<u64, Coming>,
    waiters: Vec<Waiter>,
    next_waiter: u64,
    pub(super) sequence: Sequence,
    /// The open file, unless it is not there yet or was closed to make room.
    pub(super) file: Option<Arc<File>>,
    /// Until when the origin need not be asked again for what it no longer has.
    pub(super) stale_until: Option<Instant>,
    /// Counted in the ledger as a resident file.
    complete: bool,
}

/// A block on its way.
#[derive(Clone, Debug)]
enum Coming {
    Asked(Arc<Ask>),
    Held(Bytes),
}

/// Where the bytes of a block are to be had at once.
#[derive(Clone, Debug)]
pub(super) enum Source {
    Disk,
    Hole,
    Memory(Bytes),
}

/// What became of an ask.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Failure {
    /// Asking again may help, after a pause.
    Broken(String),
    /// The origin is there and cannot serve now: asking again may help, after a pause.
    Busy(String),
    /// Asking again is right, now: the ask was given up in favour of a more urgent one, or for another file's fault.
    Again,
    /// That is the answer.
    Final(ReadError),
}

/// A read that waits for blocks. What arrives for it is kept here, so that it needs neither the disk nor luck.
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
}

/// What a read finds.
#[derive(Debug)]
pub(super) enum Plan {
    /// Everything is on the disk.
    Disk,
    /// Everything is here, block by block.
    Here(Vec<Source>),
    /// Something is missing, or coming.
    Missing,
}

/// A waiter's news.
#[derive(Debug)]
pub(super) enum News {
    Here(Vec<Source>),
    Failed(Failure),
    /// Nothing since the instant at which the last of its blocks arrived.
    NothingSince(Instant),
}

impl Inode {
    /// The inode whose first name is `entry`.
    pub(super) fn new(entry: &Entry<'_>) -> Self {
        let size = entry.size();
        let holes = if entry.has_extra() { entry.extra().holes } else { Vec::new() };
        Self {
            index: entry.index(),
            size,
            digests_at: entry.blocks().start,
            hole_blocks: hole_blocks(&holes, size).0,
            holes: holes.into(),
            opens: AtomicU32::new(0),
            used: AtomicBool::new(true),
            file_used: AtomicBool::new(true),
            disk: Mutex::new(()),
            blocks: Mutex::new(Blocks {
                ledger: None,
                present: BlockSet::empty(block_count(size)),
                coming: BTreeMap::new(),
                waiters: Vec::new(),
                next_waiter: 0,
                sequence: Sequence::default(),
                file: None,
                stale_until: None,
                complete: false,
            }),
        }
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Blocks> {
        lock(&self.blocks)
    }

    /// How many blocks it has.
    pub(super) fn block_count(&self) -> u64 {
        block_count(self.size)
    }

    /// True where the origin's file has a hole: zeros that are never fetched.
    pub(super) fn is_hole(&self, block: u64) -> bool {
        !self.holes.is_empty() && is_hole(&self.holes, BlockIndex(block), self.size)
    }

    /// Bytes of the blocks in `range`.
    pub(super) fn bytes_of(&self, range: &Range<u64>) -> u64 {
        BlockIndex(range.end).offset().min(self.size) - BlockIndex(range.start).offset().min(self.size)
    }

    /// Where the blocks in `range` are to be had.
    pub(super) fn plan(&self, blocks: &Blocks, range: Range<u64>) -> Plan {
        if blocks.present.contains_all(range.clone()) {
            return Plan::Disk;
        }
        let sources: Option<Vec<_>> = range.map(|block| self.source(blocks, block)).collect();
        sources.map_or(Plan::Missing, Plan::Here)
    }

    fn source(&self, blocks: &Blocks, block: u64) -> Option<Source> {
        if blocks.present.contains(block) {
            return Some(Source::Disk);
        }
        match blocks.coming.get(&block) {
            Some(Coming::Held(bytes)) => Some(Source::Memory(bytes.clone())),
            Some(Coming::Asked(_)) => None,
            None => self.is_hole(block).then_some(Source::Hole),
        }
    }

    /// Registers a read that waits for `range`; `wake` is notified when there is news.
    ///
    /// A read that joins others has waited for as long as the origin has been silent towards them: the kernel lets one
    /// read of a page in after the other, and each would wait anew.
    pub(super) fn wait_for(&self, blocks: &mut Blocks, range: Range<u64>, wake: Arc<Notify>) -> u64 {
        let sources: Vec<_> = range.clone().map(|block| self.source(blocks, block)).collect();
        let progress = blocks.heard(range.clone()).unwrap_or_else(Instant::now);
        let id = blocks.next_waiter;
        blocks.next_waiter += 1;
        blocks.waiters.push(Waiter {
            id,
            first: range.start,
            missing: sources.iter().filter(|source| source.is_none()).count(),
            sources,
            failure: None,
            progress,
            wake,
        });
        id
    }

    /// The blocks in `range` that are neither here nor asked for.
    pub(super) fn missing(&self, blocks: &Blocks, range: Range<u64>) -> Vec<Range<u64>> {
        let missing = range.filter(|block| {
            !blocks.present.contains(*block) && !blocks.coming.contains_key(block) && !self.is_hole(*block)
        });
        runs(missing)
    }
}

/// Blocks of a file of `size` bytes that lie wholly in one of `holes`, and their bytes.
pub(super) fn hole_blocks(holes: &[Range<u64>], size: u64) -> (u64, u64) {
    let within = |hole: &Range<u64>| {
        let first = block_count(hole.start);
        let end = if hole.end == size { block_count(size) } else { BlockIndex::containing(hole.end).0 };
        let bytes = BlockIndex(end).offset().min(size).saturating_sub(BlockIndex(first).offset());
        (end.saturating_sub(first), bytes)
    };
    holes.iter().map(within).fold((0, 0), |sum, hole| (sum.0 + hole.0, sum.1 + hole.1))
}

/// Ascending numbers as ranges.
fn runs(numbers: impl Iterator<Item = u64>) -> Vec<Range<u64>> {
    let mut runs: Vec<Range<u64>> = Vec::new();
    for number in numbers {
        match runs.last_mut() {
            Some(run) if run.end == number => run.end += 1,
            _ => runs.push(number..number + 1),
        }
    }
    runs
}

impl Blocks {
    /// True once the file's extent map has been read in this generation of the ledger.
    pub(super) fn is_loaded(&self, generation: u64) -> bool {
        self.ledger.as_ref().is_some_and(|ledger| ledger.generation == generation)
    }

    /// Takes what was found on the disk for `ledger`. What is coming still comes.
    pub(super) fn load(&mut self, inode: &Inode, present: BlockSet, ledger: Arc<Ledger>) {
        self.present = present;
        self.complete = self.has_all(inode);
        if self.complete {
            ledger.set_complete(inode.index);
        }
        ledger.add_found(inode.index, self.amount(inode));
        self.ledger = Some(ledger);
    }

    /// What is on the disk.
    fn amount(&self, inode: &Inode) -> Amount {
        let (present, blocks) = (self.present.present(), inode.block_count());
        let short = match blocks.checked_sub(1) {
            Some(last) if self.present.contains(last) => BlockIndex(blocks).offset() - inode.size,
            _ => 0,
        };
        Amount { files: self.complete.into(), blocks: present, bytes: present * BLOCK_BYTES - short }
    }

    fn has_all(&self, inode: &Inode) -> bool {
        self.present.present() + inode.hole_blocks >= inode.block_count()
    }

    /// True when every block that can come is on the disk.
    pub(super) fn is_complete(&self) -> bool {
        self.complete
    }

    /// Marks blocks as asked for. They must have been [missing](Inode::missing).
    pub(super) fn ask(&mut self, ranges: &[Range<u64>], ask: &Arc<Ask>) {
        for block in ranges.iter().cloned().flatten() {
            self.coming.insert(block, Coming::Asked(ask.clone()));
        }
    }

    /// Since when nothing has been heard of some block in `range` that others wait for. Asks nobody waited for do not
    /// count: they may stand behind others at the origin, and are sent again if need be.
    fn heard(&self, range: Range<u64>) -> Option<Instant> {
        let asked = self.coming.range(range).filter_map(|(_, coming)| match coming {
            Coming::Asked(ask) if !ask.is_unhurried() => Some(ask.heard()),
            Coming::Asked(_) | Coming::Held(_) => None,
        });
        asked.min()
    }

    /// The asks nobody waited for when they were sent that hold blocks in `range`: each with its first block there, which
    /// is the one it will bring soonest.
    fn unhurried(&self, range: Range<u64>) -> Vec<(Arc<Ask>, u64)> {
        let mut asks: Vec<(Arc<Ask>, u64)> = Vec::new();
        for (block, coming) in self.coming.range(range) {
            if let Coming::Asked(ask) = coming
                && ask.is_unhurried()
                && !asks.iter().any(|(other, _)| Arc::ptr_eq(other, ask))
            {
                asks.push((ask.clone(), *block));
            }
        }
        asks
    }

    /// Those of them that are so far from their block in `range` that asking anew is faster.
    pub(super) fn too_slow_for(&self, range: Range<u64>) -> Vec<Arc<Ask>> {
        let slow = self.unhurried(range).into_iter().filter(|(ask, block)| ask.is_far_from(*block));
        slow.map(|(ask, _)| ask).collect()
    }

    /// The asks nobody waited for when they were sent that hold blocks in `range`, and how far they have come.
    pub(super) fn unhurried_asks(&self, range: Range<u64>) -> Vec<(Arc<Ask>, u64)> {
        let asks = self.unhurried(range).into_iter();
        asks.map(|(ask, _)| (ask.clone(), ask.next())).collect()
    }

    /// The blocks of an ask that lie in `range` are missing again: somebody asks for them with more urgency. The others
    /// are still expected from it.
    pub(super) fn take_over(&mut self, ask: &Arc<Ask>, range: Range<u64>) {
        let taken: Vec<u64> = self
            .coming
            .range(range)
            .filter(|(_, coming)| coming.is_from(ask))
            .map(|(block, _)| *block)
            .collect();
        taken.iter().for_each(|block| drop(self.coming.remove(block)));
    }

    /// Takes verified blocks that `ask` brought and hands them to whoever waits. Returns those that were still
    /// expected from it, as ranges; they are held until [`stored`](Self::stored) or [`dropped`](Self::dropped).
    pub(super) fn deliver(
        &mut self,
        ask: &Arc<Ask>,
        blocks: impl Iterator<Item = (BlockIndex, Bytes)>,
    ) -> Vec<Range<u64>> {
        let mut taken = Vec::new();
        for (BlockIndex(block), bytes) in blocks {
            match self.coming.get_mut(&block) {
                Some(coming @ Coming::Asked(_)) if coming.is_from(ask) => {
                    *coming = Coming::Held(bytes.clone());
                }
                _ => continue,
            }
            taken.push(block);
            self.hand_out(block, &bytes);
        }
        runs(taken.into_iter())
    }

    fn hand_out(&mut self, block: u64, bytes: &Bytes) {
        for waiter in &mut self.waiters {
            let Some(slot) = waiter.slot(block) else { continue };
            *slot = Some(Source::Memory(bytes.clone()));
            waiter.missing -= 1;
            waiter.progress = Instant::now();
            if waiter.missing == 0 {
                waiter.wake.notify_one();
            }
        }
    }

    /// Ends what is left of an ask: its blocks are missing again, and whoever waits for one learns why.
    pub(super) fn fail(&mut self, ask: &Arc<Ask>, failure: &Failure) {
        let failed: Vec<u64> =
            self.coming.iter().filter(|(_, coming)| coming.is_from(ask)).map(|(block, _)| *block).collect();
        for block in failed {
            self.coming.remove(&block);
            for waiter in &mut self.waiters {
                if waiter.slot(block).is_some() {
                    waiter.failure = Some(failure.clone());
                    waiter.wake.notify_one();
                }
            }
        }
    }

    /// Held blocks are on the disk now, as far as can be known.
    pub(super) fn stored(&mut self, inode: &Inode, range: Range<u64>) {
        self.dropped(range.clone());
        let before = self.amount(inode);
        self.present.insert(range);
        self.complete = self.has_all(inode);
        let after = self.amount(inode);
        let Some(ledger) = &self.ledger else { return };
        if self.complete {
            ledger.set_complete(inode.index);
        }
        ledger.add(Amount {
            files: after.files - before.files,
            blocks: after.blocks - before.blocks,
            bytes: after.bytes - before.bytes,
        });
    }

    /// Held blocks are held no more. Whoever waited for them has them.
    pub(super) fn dropped(&mut self, range: Range<u64>) {
        for block in range {
            if matches!(self.coming.get(&block), Some(Coming::Held(_))) {
                self.coming.remove(&block);
            }
        }
    }

    /// What a waiter finds; its failure is told once.
    pub(super) fn news(&mut self, id: u64) -> News {
        let Some(at) = self.waiters.iter().position(|waiter| waiter.id == id) else {
            return News::Failed(Failure::Broken("it was served already".into()));
        };
        let waiter = &mut self.waiters[at];
        if waiter.missing == 0 {
            let sources = std::mem::take(&mut waiter.sources);
            self.waiters.swap_remove(at);
            return News::Here(sources.into_iter().flatten().collect());
        }
        match waiter.failure.take() {
            Some(failure) => News::Failed(failure),
            None => News::NothingSince(waiter.progress),
        }
    }

    /// When a block last arrived for a waiter.
    pub(super) fn progress(&self, id: u64) -> Option<Instant> {
        self.waiters.iter().find(|waiter| waiter.id == id).map(|waiter| waiter.progress)
    }

    /// Removes a waiter that gave up.
    pub(super) fn forget(&mut self, id: u64) {
        self.waiters.retain(|waiter| waiter.id != id);
    }
}

impl Coming {
    fn is_from(&self, ask: &Arc<Ask>) -> bool {
        matches!(self, Self::Asked(from) if Arc::ptr_eq(from, ask))
    }
}

#[cfg(test)]
#[expect(clippy::single_range_in_vec_init, reason = "hole maps of one hole")]
mod tests {
    use super::*;

    #[test]
    fn holes_count_by_whole_blocks_and_end_with_the_file() {
        const B: u64 = BLOCK_BYTES;
        let check = |holes: &[Range<u64>], size, expected| {
            assert_eq!(hole_blocks(holes, size), expected, "{holes:?}")
        };
        check(&[], 5 * B, (0, 0));
        check(&[0..5 * B], 5 * B, (5, 5 * B));
        check(&[0..4 * B + 7], 4 * B + 7, (5, 4 * B + 7));
        check(&[1..2 * B], 5 * B, (1, B));
        check(&[1..B], 5 * B, (0, 0));
        check(&[1..B - 1], B, (0, 0));
        check(&[4 * B..4 * B + 7], 4 * B + 7, (1, 7));
        check(&[4 * B + 1..4 * B + 7], 4 * B + 7, (0, 0));
        check(&[0..B, 3 * B..4 * B + 7], 4 * B + 7, (3, 2 * B + 7));
    }
}
