//! What is known of an inode's blocks and of its file, and how that changes.
//!
//! Each change tells the ledger, so that the sums of all files stay true.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use tokio::time::Instant;

use super::ReadError;
use super::block_set::BlockSet;
use super::coming::Coming;
use super::inode::{Failure, Found, Inode, hole_blocks};
use super::ledger::{Amount, Ledger, Share};
use super::sequence::Sequence;
use super::state::State;
use super::waiters::Waiters;
use crate::clock;
use crate::digest::{BLOCK_BYTES, BlockIndex, block_count};
use crate::manifest::Mtime;

/// What the disk gives a file in; all common filesystems do so by default.
const STORED_UNIT: u64 = 4096;

/// What changes about an inode.
#[derive(Debug)]
pub(super) struct Blocks {
    /// The ledger for which the file's extent map has been read; `None` before: nothing else in here means anything
    /// then.
    ledger: Option<Arc<Ledger>>,
    /// Of the blocks below the remote length; holes are not in it.
    pub(super) present: BlockSet,
    pub(super) coming: BTreeMap<u64, Coming>,
    pub(super) waiters: Waiters,
    pub(super) sequence: Sequence,
    /// The open file, unless it is not there yet or was closed to make room.
    pub(super) file: Option<Arc<File>>,
    /// What was written into holes is on the disk, and only there.
    pub(super) holes_on_disk: bool,
    /// What it says about itself; an ordinary file says nothing.
    pub(super) state: Option<State>,
    /// How far the disk knows that.
    pub(super) saved: Saved,
    /// Blocks written here that the disk may have lost: the next look at the extent map tells.
    doubted: Vec<Range<u64>>,
    /// Blocks written here that the disk lost.
    lost: BTreeSet<u64>,
    /// The disk lost something written here, and nobody has been told.
    pub(super) is_loss_untold: bool,
    /// Blocks of holes below the remote length, and their bytes.
    holes: (u64, u64),
    /// Until when the origin need not be asked again for what it no longer has.
    pub(super) stale_until: Option<Instant>,
    /// Every block that can come is on the disk.
    is_complete: bool,
}

/// How much of a file's state the disk has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Saved {
    /// All of it.
    All,
    /// Not the last times.
    AllButTimes,
    /// Not the remote length: before the file grows again it must be there, or old content would come back.
    NotEvenLength,
}

impl Blocks {
    /// Of an inode nobody has looked at, with so many blocks of holes and bytes in them.
    pub(super) fn unseen(origin_bytes: u64, holes: (u64, u64)) -> Self {
        Self {
            ledger: None,
            present: BlockSet::empty(block_count(origin_bytes)),
            coming: BTreeMap::new(),
            waiters: Waiters::default(),
            sequence: Sequence::default(),
            file: None,
            holes_on_disk: false,
            state: None,
            saved: Saved::All,
            doubted: Vec::new(),
            lost: BTreeSet::new(),
            is_loss_untold: false,
            holes,
            stale_until: None,
            is_complete: false,
        }
    }

    /// True once the file's extent map has been read in this generation of the ledger.
    pub(super) fn is_loaded(&self, generation: u64) -> bool {
        self.ledger.as_ref().is_some_and(|ledger| ledger.generation == generation)
    }

    /// Takes what was found on the disk for `ledger`. What is coming still comes. `data` is held.
    pub(super) fn load(&mut self, inode: &Inode, found: Found, ledger: Arc<Ledger>) {
        let was_loaded = self.ledger.is_some();
        let remote = if was_loaded { found.remote.min(inode.remote()) } else { found.remote };
        if self.saved == Saved::All {
            self.saved = match found.state {
                Some(state) if state.remote_bytes > remote => Saved::NotEvenLength,
                _ => Saved::All,
            };
            self.state = found.state.map(|state| State { remote_bytes: remote, ..state });
        }
        self.present = found.present;
        self.present.cut(block_count(remote));
        for hole in inode.holes_in(0..block_count(remote)) {
            self.present.remove(hole);
        }
        self.holes_on_disk = found.holes_on_disk;
        inode.set_remote(remote);
        inode.set_size(found.size);
        self.holes = hole_blocks(inode.holes(), remote);
        self.lost_again(inode);
        self.is_complete = self.has_all();
        if self.is_complete {
            ledger.set_complete(inode.index);
        }
        ledger.add_found(inode.index, self.share(inode));
        self.ledger = Some(ledger);
        self.keep(inode);
    }

    /// What the disk lost of what was written here is not fetched: it would be other content.
    fn lost_again(&mut self, inode: &Inode) {
        let end = self.present.blocks();
        let doubted = std::mem::take(&mut self.doubted).into_iter().flatten();
        let doubted = doubted.chain(std::mem::take(&mut self.lost)).filter(|block| *block < end);
        let lost: BTreeSet<u64> = doubted.filter(|block| inode.is_missing(self, *block)).collect();
        for block in &lost {
            self.present.insert(*block..block + 1);
        }
        self.lost = lost;
    }

    /// True when the disk lost some of these blocks, which were written here.
    pub(super) fn is_lost(&self, range: Range<u64>) -> bool {
        !self.lost.is_empty() && self.lost.range(range).next().is_some()
    }

    /// The disk may have lost these blocks, which were written here: the next look at the extent map tells.
    pub(super) fn doubt(&mut self, inode: &Inode, ranges: Vec<Range<u64>>) {
        self.doubted.extend(ranges);
        self.is_loss_untold = true;
        self.keep(inode);
    }

    /// True once its file has been looked at: it has a state or is an ordinary one.
    pub(super) fn is_seen(&self) -> bool {
        self.ledger.is_some()
    }

    /// Gives the times of a file with a state, as `set` does it with the present time. True when they are to be written
    /// to the disk at once: once a second is enough, since what follows is written when the file is synchronised or
    /// closed.
    pub(super) fn note_times(&mut self, inode: &Inode, set: impl FnOnce(&mut State, Mtime)) -> bool {
        let Some(state) = &mut self.state else { return false };
        let (before, now) = (state.ctime, clock::now());
        set(state, now);
        if self.saved == Saved::All {
            self.saved = Saved::AllButTimes;
        }
        self.keep(inode);
        before.sec != now.sec
    }

    /// Notes whether there is something about the inode that is nowhere else.
    pub(super) fn keep(&self, inode: &Inode) {
        let is_kept = self.saved != Saved::All
            || self.is_loss_untold
            || !self.doubted.is_empty()
            || !self.lost.is_empty();
        inode.is_kept.store(is_kept, Relaxed);
    }

    /// What the inode adds to the sums of all files.
    fn share(&self, inode: &Inode) -> Share {
        let blocks = block_count(inode.origin_bytes);
        let (holes, hole_bytes) = inode.hole_blocks();
        let has_content = blocks > holes;
        let content = Amount {
            files: 0,
            blocks: (blocks - holes) as i64,
            bytes: (inode.origin_bytes - hole_bytes) as i64,
        };
        if self.state.is_none() || inode.is_ours {
            // An ordinary file counts as what it once was: nothing of it is missing.
            return Share { here: Amount { files: has_content.into(), ..content }, ..Share::default() };
        }
        let (present, remote) = (self.present.present(), inode.remote());
        let short = match self.present.blocks().checked_sub(1) {
            Some(last) if self.present.contains(last) => BlockIndex(last + 1).offset() - remote,
            _ => 0,
        };
        let here = Amount {
            files: (self.is_complete && has_content).into(),
            blocks: present as i64 - (holes - self.holes.0) as i64,
            bytes: (present * BLOCK_BYTES - short) as i64 - (hole_bytes - self.holes.1) as i64,
        };
        let gone = Amount {
            files: 0,
            blocks: (blocks - self.present.blocks()) as i64,
            bytes: (inode.origin_bytes - remote) as i64,
        };
        let stored = (present * BLOCK_BYTES - short).next_multiple_of(STORED_UNIT);
        Share { here, gone, stored: stored.cast_signed() }
    }

    fn has_all(&self) -> bool {
        self.present.present() + self.holes.0 >= self.present.blocks()
    }

    /// Makes a change, and tells the ledger.
    fn change(&mut self, inode: &Inode, change: impl FnOnce(&mut Self)) {
        let before = self.share(inode);
        change(self);
        self.is_complete = self.has_all();
        self.keep(inode);
        let Some(ledger) = &self.ledger else { return };
        if self.is_complete {
            ledger.set_complete(inode.index);
        }
        ledger.add(self.share(inode) - before);
    }

    /// True when every block that can come is on the disk.
    pub(super) fn is_complete(&self) -> bool {
        self.is_complete
    }

    /// Blocks that are here, holes among them, of those that come from the origin.
    pub(super) fn here(&self) -> (u64, u64) {
        (self.present.present() + self.holes.0, self.present.blocks())
    }

    /// True for blocks that were stored or written here, and for all beyond the remote length.
    pub(super) fn is_on_disk(&self, block: u64) -> bool {
        block >= self.present.blocks() || self.present.contains(block)
    }

    /// Blocks are on the disk now, as far as can be known: fetched ones, or such as were written here, all of each.
    /// `data` is held.
    pub(super) fn stored(&mut self, inode: &Inode, range: Range<u64>) {
        let range = range.start..range.end.min(self.present.blocks());
        if range.is_empty() {
            return;
        }
        self.change(inode, |blocks| {
            blocks.cancel(&range);
            let mut at = range.start;
            for hole in inode.holes_in(range.clone()) {
                if hole.start > at {
                    blocks.present.insert(at..hole.start.min(range.end));
                }
                at = at.max(hole.end);
            }
            if at < range.end {
                blocks.present.insert(at..range.end);
            }
            blocks.lost.retain(|lost| !range.contains(lost));
        });
    }

    /// All of it that is on the disk is taken from it; returns which blocks that is, and how much of the disk. What is
    /// coming still comes. `data` is held, and nobody [relies](super::evict::Reliance) on what is there.
    pub(super) fn evict(&mut self, inode: &Inode) -> (BlockSet, u64) {
        let stored = self.share(inode).stored;
        let mut present = BlockSet::empty(self.present.blocks());
        if let Some(ledger) = &self.ledger {
            ledger.clear_complete(inode.index);
        }
        self.change(inode, |blocks| std::mem::swap(&mut blocks.present, &mut present));
        (present, stored.max(0).cast_unsigned())
    }

    /// What was taken from the disk is there after all. `data` is held.
    pub(super) fn put_back(&mut self, inode: &Inode, present: BlockSet) {
        self.change(inode, |blocks| blocks.present = present);
    }

    /// The file was cut off: the remote length is `remote` now, a multiple of a block. `data` is held.
    pub(super) fn cut(&mut self, inode: &Inode, remote: u64) {
        self.change(inode, |blocks| {
            let count = block_count(remote);
            blocks.cancel(&(count..u64::MAX));
            blocks.present.cut(count);
            blocks.lost.retain(|lost| *lost < count);
            inode.set_remote(remote);
            blocks.holes = hole_blocks(inode.holes(), remote);
            blocks.saved = Saved::NotEvenLength;
            if let Some(state) = &mut blocks.state {
                state.remote_bytes = remote;
            }
        });
    }

    /// It is an ordinary file now. `data` is held.
    pub(super) fn became_local(&mut self, inode: &Inode) {
        self.change(inode, |blocks| {
            blocks.cancel(&(0..u64::MAX));
            blocks.present.cut(0);
            blocks.doubted.clear();
            blocks.lost.clear();
            inode.set_remote(0);
            blocks.holes = (0, 0);
            (blocks.state, blocks.saved) = (None, Saved::All);
        });
    }

    /// It is gone for good: nothing of it is wanted any more.
    pub(super) fn forgotten(&mut self, inode: &Inode) {
        let coming: Vec<u64> = std::mem::take(&mut self.coming).into_keys().collect();
        for block in coming {
            self.waiters.fail(block, &Failure::Final(ReadError::NoSuchFile));
        }
        self.saved = Saved::All;
        self.is_loss_untold = false;
        self.doubted.clear();
        self.lost.clear();
        self.keep(inode);
        if let Some(ledger) = self.ledger.take() {
            ledger.add(Share::default() - self.share(inode));
        }
    }
}
