//! What is believed about the disk: which files are complete there, and how much of all files.
//!
//! When the disk turns out to have lost something it had taken, nothing of it can be believed any more: a new ledger
//! takes its place, and each file's extent map is read again before the file is used. Whoever still holds the old one
//! counts into it without harm.

use std::ops::{Add, Neg, Sub};
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering::Relaxed};

use super::inodes::Marks;
use crate::manifest::EntryIndex;

/// One state of belief.
#[derive(Debug)]
pub(super) struct Ledger {
    /// How often the disk lost something before.
    pub(super) generation: u64,
    /// Inodes known to be complete: their extent maps need not be read again.
    complete: Marks,
    /// Inodes whose blocks on the disk are in the amount.
    counted: Marks,
    here: Sum,
    gone: Sum,
    stored: AtomicI64,
    /// The part of both that files have which were removed. It is true whatever the disk does.
    forgotten: [Sum; 2],
    /// What lay on the disk at the start has been counted.
    pub(super) is_counted: AtomicBool,
}

/// Some files, blocks and bytes; a difference may be negative.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Amount {
    pub(super) files: i64,
    pub(super) blocks: i64,
    pub(super) bytes: i64,
}

/// What one file adds to the sums of all, beyond what follows from the manifest alone: there, holes are here from the
/// start, everything else is missing, and nothing is gone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Share {
    /// What is here.
    pub(super) here: Amount,
    /// What will never be here, and is no part of the whole: it was cut off or removed.
    pub(super) gone: Amount,
    /// Bytes that it takes on the disk for blocks that came from the origin.
    pub(super) stored: i64,
}

#[derive(Debug, Default)]
struct Sum {
    files: AtomicI64,
    blocks: AtomicI64,
    bytes: AtomicI64,
}

impl Sum {
    fn of(amount: Amount) -> Self {
        let sum = Self::default();
        sum.add(amount);
        sum
    }

    fn add(&self, amount: Amount) {
        self.files.fetch_add(amount.files, Relaxed);
        self.blocks.fetch_add(amount.blocks, Relaxed);
        self.bytes.fetch_add(amount.bytes, Relaxed);
    }

    fn amount(&self) -> Amount {
        let of = |number: &AtomicI64| number.load(Relaxed);
        Amount { files: of(&self.files), blocks: of(&self.blocks), bytes: of(&self.bytes) }
    }
}

impl Ledger {
    /// An empty one, for a manifest of `entries` entries.
    pub(super) fn new(entries: u32) -> Self {
        Self::with(0, entries, [Amount::default(); 2])
    }

    /// The one that follows this one, after the disk lost something.
    pub(super) fn next(&self, entries: u32) -> Self {
        let forgotten = [self.forgotten[0].amount(), self.forgotten[1].amount()];
        Self::with(self.generation + 1, entries, forgotten)
    }

    fn with(generation: u64, entries: u32, forgotten: [Amount; 2]) -> Self {
        Self {
            generation,
            complete: Marks::new(entries),
            counted: Marks::new(entries),
            here: Sum::of(forgotten[0]),
            gone: Sum::of(forgotten[1]),
            stored: AtomicI64::new(0),
            forgotten: forgotten.map(Sum::of),
            is_counted: AtomicBool::new(false),
        }
    }

    /// How much of all files is here.
    pub(super) fn here(&self) -> Amount {
        self.here.amount()
    }

    /// How much of what the manifest has is no longer wanted.
    pub(super) fn gone(&self) -> Amount {
        self.gone.amount()
    }

    /// A file has so much more, or less.
    pub(super) fn add(&self, share: Share) {
        self.here.add(share.here);
        self.gone.add(share.gone);
        self.stored.fetch_add(share.stored, Relaxed);
    }

    /// Bytes that what came from the origin takes on the disk, as far as it has been counted.
    pub(super) fn stored(&self) -> u64 {
        self.stored.load(Relaxed).max(0).cast_unsigned()
    }

    /// Adds what of an inode was found on the disk, the first time it is found.
    pub(super) fn add_found(&self, inode: EntryIndex, share: Share) {
        if self.counted.set(inode) {
            self.add(share);
        }
    }

    /// True for an inode of which something was found on the disk, or made here.
    pub(super) fn has_found(&self, inode: EntryIndex) -> bool {
        self.counted.is_set(inode)
    }

    /// A file was removed, and will never come back.
    pub(super) fn add_forgotten(&self, share: Share) {
        self.add(share);
        self.forgotten[0].add(share.here);
        self.forgotten[1].add(share.gone);
    }

    /// Notes that an inode is complete.
    pub(super) fn set_complete(&self, inode: EntryIndex) {
        self.complete.set(inode);
    }

    /// Notes that an inode is no longer complete. Its `data` is held, so that nobody looks at its file meanwhile.
    pub(super) fn clear_complete(&self, inode: EntryIndex) {
        self.complete.clear(inode);
    }

    /// True when an inode is known to be complete.
    pub(super) fn is_complete(&self, inode: EntryIndex) -> bool {
        self.complete.is_set(inode)
    }
}

impl Add for Amount {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            files: self.files.wrapping_add(other.files),
            blocks: self.blocks.wrapping_add(other.blocks),
            bytes: self.bytes.wrapping_add(other.bytes),
        }
    }
}

impl Neg for Amount {
    type Output = Self;

    fn neg(self) -> Self {
        Self {
            files: self.files.wrapping_neg(),
            blocks: self.blocks.wrapping_neg(),
            bytes: self.bytes.wrapping_neg(),
        }
    }
}

impl Sub for Amount {
    type Output = Self;

    fn sub(self, other: Self) -> Self {
        self + -other
    }
}

impl Sub for Share {
    type Output = Self;

    fn sub(self, other: Self) -> Self {
        let stored = self.stored.wrapping_sub(other.stored);
        Self { here: self.here - other.here, gone: self.gone - other.gone, stored }
    }
}
