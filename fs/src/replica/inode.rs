//! One inode of a replica in memory: which of its blocks are here, which are coming, and who waits for them.
//!
//! The bytes below an inode's *remote length* come from the origin unless they are here; at and beyond it everything is
//! local, and the disk is the truth. The remote length only shrinks, and is the length of the origin's file or a
//! multiple of a block, so no block is cut in two.
//!
//! A block below it is **on disk**, a **hole** of the origin's file, **held** (arrived, verified, not on the disk yet),
//! **asked** for, or missing. Of a hole, too, the disk is the truth as soon as there is a file that may be written to:
//! what was written into it is there, and the rest reads as zeros. The methods here only move blocks between these states; fetching and
//! storing is done by whoever calls them.

use std::ops::Range;
use std::sync::atomic::{
    AtomicBool, AtomicU32, AtomicU64,
    Ordering::{Acquire, Release},
};
use std::sync::{Arc, Mutex, MutexGuard};

use bytes::Bytes;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::ReadError;
use super::block_set::BlockSet;
use super::blocks::Blocks;
use super::coming::Coming;
use super::key::InodeKey;
use super::ledger::{Amount, Share};
use super::lock;
use super::state::State;
use crate::digest::{BlockIndex, block_count};
use crate::git::{self, Shown};
use crate::manifest::{Entry, EntryIndex, Manifest, is_hole};

/// Stands for the entry of a file made here: no manifest has so many.
const NO_ENTRY: EntryIndex = EntryIndex(u32::MAX);

/// A regular file, shared by all its names.
///
/// Locks, each taken only while none below it in this list is held: `data`, `blocks`, then whatever the scheduler and
/// the writer lock inside their own calls. `data` is taken by threads that may block, never by tasks; the others are
/// held for a few instructions.
#[derive(Debug)]
pub(super) struct Inode {
    pub(super) key: InodeKey,
    /// Its first name in the manifest, by which the origin knows it. A file made here has one that no manifest has.
    pub(super) index: EntryIndex,
    /// Length of the origin's file.
    pub(super) origin_bytes: u64,
    /// The place of its first digest.
    pub(super) digests_at: u64,
    /// Its content is made here and never fetched, whatever the origin's is.
    pub(super) is_ours: bool,
    holes: Box<[Range<u64>]>,
    /// Blocks wholly in holes, and their bytes.
    hole_blocks: (u64, u64),
    /// The remote length.
    remote: AtomicU64,
    /// The length of the file, once it has been loaded.
    size: AtomicU64,
    /// Open handles.
    pub(super) opens: AtomicU32,
    /// Reads that rely on the blocks that were on the disk when they began: they are not evicted meanwhile.
    pub(super) readers: AtomicU32,
    /// The last use that its file's times tell, in seconds since 1970; see [`super::uses`].
    pub(super) use_saved: AtomicU32,
    /// Somebody opened it for writing, and it was open ever since.
    pub(super) is_open_for_writing: AtomicBool,
    /// All its names are gone; it lives on as long as it is open.
    pub(super) is_removed: AtomicBool,
    /// Something is known about it that is nowhere else, so it stays in memory.
    pub(super) is_kept: AtomicBool,
    /// Set by every use.
    pub(super) used: AtomicBool,
    /// The same, for its descriptor.
    pub(super) file_used: AtomicBool,
    /// Held while its file is looked for, made, written to or cut, and while what is known about it is changed along.
    pub(super) data: Mutex<()>,
    blocks: Mutex<Blocks>,
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

/// What a read finds.
#[derive(Debug)]
pub(super) enum Plan {
    /// Everything is on the disk.
    Disk,
    /// Everything is here, block by block.
    Here(Vec<Source>),
    /// Something is missing, or coming.
    Missing,
    /// The disk lost some of it, which was written here.
    Lost,
}

/// A waiter's news.
#[derive(Debug)]
pub(super) enum News {
    Here(Vec<Source>),
    Failed(Failure),
    /// Nothing since the instant at which the last of its blocks arrived.
    NothingSince(Instant),
}

/// What was found of an inode on the disk.
#[derive(Debug)]
pub(super) struct Found {
    /// Length of the file.
    pub(super) size: u64,
    /// What it says about itself.
    pub(super) state: Option<State>,
    /// Its remote length, which may be lower than what it says.
    pub(super) remote: u64,
    /// The blocks below it that are here.
    pub(super) present: BlockSet,
    /// There is a file that may have been written to, also where the origin's has holes.
    pub(super) holes_on_disk: bool,
}

impl Inode {
    /// The inode whose first name is `entry`.
    pub(super) fn new(manifest: &Manifest, entry: &Entry<'_>) -> Self {
        let holes = if entry.has_extra() { entry.extra().holes } else { Vec::new() };
        let key = InodeKey::Entry(entry.index());
        let new = Self::of(key, entry.index(), entry.size(), entry.blocks().start, holes);
        Self { is_ours: is_ours(manifest, entry), ..new }
    }

    /// A file made here.
    pub(super) fn local(number: u64) -> Self {
        Self::of(InodeKey::Local(number), NO_ENTRY, 0, 0, Vec::new())
    }

    fn of(
        key: InodeKey,
        index: EntryIndex,
        origin_bytes: u64,
        digests_at: u64,
        holes: Vec<Range<u64>>,
    ) -> Self {
        let hole_blocks = hole_blocks(&holes, origin_bytes);
        let blocks = Blocks::unseen(origin_bytes, hole_blocks);
        Self {
            key,
            index,
            origin_bytes,
            digests_at,
            is_ours: false,
            holes: holes.into(),
            hole_blocks,
            remote: AtomicU64::new(origin_bytes),
            size: AtomicU64::new(origin_bytes),
            opens: AtomicU32::new(0),
            readers: AtomicU32::new(0),
            use_saved: AtomicU32::new(0),
            is_open_for_writing: AtomicBool::new(false),
            is_removed: AtomicBool::new(false),
            is_kept: AtomicBool::new(false),
            used: AtomicBool::new(true),
            file_used: AtomicBool::new(true),
            data: Mutex::new(()),
            blocks: Mutex::new(blocks),
        }
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Blocks> {
        lock(&self.blocks)
    }

    /// Bytes below this come from the origin unless they are here. It only shrinks, while `data` is held.
    pub(super) fn remote(&self) -> u64 {
        self.remote.load(Acquire)
    }

    /// The remote length has shrunk. `data` is held.
    pub(super) fn set_remote(&self, remote: u64) {
        self.remote.store(remote, Release);
    }

    /// The length of the file. Nothing before it has been loaded.
    pub(super) fn size(&self) -> u64 {
        self.size.load(Acquire)
    }

    /// The file has another length now, or will in a moment. `data` is held.
    pub(super) fn set_size(&self, size: u64) {
        self.size.store(size, Release);
    }

    /// How many blocks lie below the remote length.
    pub(super) fn remote_blocks(&self) -> u64 {
        block_count(self.remote())
    }

    /// True when the manifest has holes for it.
    pub(super) fn has_holes(&self) -> bool {
        !self.holes.is_empty()
    }

    /// The holes of the origin's file.
    pub(super) fn holes(&self) -> &[Range<u64>] {
        &self.holes
    }

    /// Blocks wholly in holes, and their bytes.
    pub(super) fn hole_blocks(&self) -> (u64, u64) {
        self.hole_blocks
    }

    /// True where the origin's file has a hole: zeros that are never fetched.
    pub(super) fn is_hole(&self, block: u64) -> bool {
        self.has_holes() && is_hole(&self.holes, BlockIndex(block), self.origin_bytes)
    }

    /// Bytes of the blocks in `range` of the origin's file.
    pub(super) fn bytes_of(&self, range: &Range<u64>) -> u64 {
        let end_of = |block| BlockIndex(block).offset().min(self.origin_bytes);
        end_of(range.end) - end_of(range.start)
    }

    /// The holes of the origin's file that reach into `range`, as the blocks wholly inside them.
    pub(super) fn holes_in(&self, range: Range<u64>) -> impl Iterator<Item = Range<u64>> {
        let first = self.holes.partition_point(|hole| hole.end <= BlockIndex(range.start).offset());
        let end = BlockIndex(range.end).offset();
        let reaching = self.holes[first..].iter().take_while(move |hole| hole.start < end);
        reaching.map(|hole| blocks_inside(hole, self.origin_bytes)).filter(|blocks| !blocks.is_empty())
    }

    /// Where the blocks in `range` are to be had.
    pub(super) fn plan(&self, blocks: &Blocks, range: Range<u64>) -> Plan {
        if blocks.is_lost(range.clone()) {
            return Plan::Lost;
        }
        if blocks.present.contains_all(range.start..range.end.min(blocks.present.blocks())) {
            return Plan::Disk;
        }
        let sources: Option<Vec<_>> = range.map(|block| self.source(blocks, block)).collect();
        sources.map_or(Plan::Missing, Plan::Here)
    }

    fn source(&self, blocks: &Blocks, block: u64) -> Option<Source> {
        if blocks.is_on_disk(block) {
            return Some(Source::Disk);
        }
        match blocks.coming.get(&block) {
            Some(Coming::Held(bytes)) => Some(Source::Memory(bytes.clone())),
            Some(Coming::Asked(_)) => None,
            None if !self.is_hole(block) => None,
            None if blocks.holes_on_disk => Some(Source::Disk),
            None => Some(Source::Hole),
        }
    }

    /// Registers a read that waits for `range`; `wake` is notified when there is news.
    ///
    /// A read that joins others has waited for as long as the origin has been silent towards them: the kernel lets one
    /// read of a page in after the other, and each would wait anew.
    pub(super) fn wait_for(&self, blocks: &mut Blocks, range: Range<u64>, wake: Arc<Notify>) -> u64 {
        let sources: Vec<_> = range.clone().map(|block| self.source(blocks, block)).collect();
        let progress = blocks.heard(range.clone()).unwrap_or_else(Instant::now);
        blocks.waiters.add(range.start, sources, progress, wake)
    }

    /// True for a block whose content is the origin's alone: it is neither on the disk nor a hole.
    pub(super) fn is_missing(&self, blocks: &Blocks, block: u64) -> bool {
        !blocks.is_on_disk(block) && !self.is_hole(block)
    }

    /// The blocks in `range` that are neither here nor asked for.
    pub(super) fn missing(&self, blocks: &Blocks, range: Range<u64>) -> Vec<Range<u64>> {
        let all = self.all_missing(blocks, range);
        runs(all.filter(|block| !blocks.coming.contains_key(block)))
    }

    /// The missing blocks in `range`. Costs nothing for what is a hole, or here, in long stretches.
    fn all_missing(&self, blocks: &Blocks, range: Range<u64>) -> impl Iterator<Item = u64> {
        let end = range.end.min(blocks.present.blocks());
        let next = move |from| self.next_missing(&blocks.present, from..end);
        std::iter::successors(next(range.start), move |block| next(block + 1))
    }

    /// The first block in `range` that is missing where these are present.
    pub(super) fn next_missing(&self, present: &BlockSet, range: Range<u64>) -> Option<u64> {
        let (mut from, end) = (range.start, range.end.min(present.blocks()));
        for hole in self.holes_in(from..end) {
            if let Some(block) = present.first_absent(from..hole.start.min(end)) {
                return Some(block);
            }
            from = from.max(hole.end);
        }
        present.first_absent(from..end)
    }

    /// The first blocks from `from` on that are not on the disk, `count` at most; `None` when all are.
    pub(super) fn first_missing(&self, blocks: &Blocks, from: u64, count: u64) -> Option<Range<u64>> {
        let end = blocks.present.blocks();
        let start = self.next_missing(&blocks.present, from..end)?;
        let past = (start..end.min(start + count)).find(|block| !self.is_missing(blocks, *block));
        Some(start..past.unwrap_or(end.min(start + count)))
    }

    /// What it adds to the sums of all files once it is removed.
    pub(super) fn share_removed(&self) -> Share {
        let (holes, hole_bytes) = self.hole_blocks;
        let blocks = block_count(self.origin_bytes);
        let whole = Amount { files: 1, blocks: blocks as i64, bytes: self.origin_bytes as i64 };
        let from_start =
            Amount { files: (blocks == holes).into(), blocks: holes as i64, bytes: hole_bytes as i64 };
        match self.key {
            InodeKey::Entry(_) => Share { here: -from_start, gone: whole, stored: 0 },
            InodeKey::Local(_) => Share::default(),
        }
    }
}

/// True for a file whose content is made here, whatever the origin's is: it is here from the start.
pub(super) fn is_ours(manifest: &Manifest, file: &Entry<'_>) -> bool {
    matches!(git::shown(manifest, file), Ok(Shown::Config(_)))
}

/// Blocks of a file of `size` bytes that lie wholly in `hole`.
fn blocks_inside(hole: &Range<u64>, size: u64) -> Range<u64> {
    let end = if hole.end >= size { block_count(size) } else { BlockIndex::containing(hole.end).0 };
    block_count(hole.start)..end
}

/// Blocks of a file of `size` bytes that lie wholly in one of `holes`, and their bytes.
pub(super) fn hole_blocks(holes: &[Range<u64>], size: u64) -> (u64, u64) {
    let within = |hole: &Range<u64>| {
        let Range { start, end } = blocks_inside(hole, size);
        let bytes = BlockIndex(end).offset().min(size).saturating_sub(BlockIndex(start).offset());
        (end.saturating_sub(start), bytes)
    };
    let reaching = holes.iter().take_while(|hole| hole.start < size);
    reaching.map(within).fold((0, 0), |sum, hole| (sum.0 + hole.0, sum.1 + hole.1))
}

/// Ascending numbers as ranges.
pub(super) fn runs(numbers: impl Iterator<Item = u64>) -> Vec<Range<u64>> {
    let mut runs: Vec<Range<u64>> = Vec::new();
    for number in numbers {
        match runs.last_mut() {
            Some(run) if run.end == number => run.end += 1,
            _ => runs.push(number..number + 1),
        }
    }
    runs
}

#[cfg(test)]
#[expect(clippy::single_range_in_vec_init, reason = "hole maps of one hole")]
mod tests {
    use super::*;
    use crate::digest::BLOCK_BYTES;

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
