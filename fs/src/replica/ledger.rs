//! What is believed about the disk: which files are complete there, and how much of all files.
//!
//! When the disk turns out to have lost something it had taken, nothing of it can be believed any more: a new ledger
//! takes its place, and each file's extent map is read again before the file is used. Whoever still holds the old one
//! counts into it without harm.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

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
    files: AtomicU64,
    blocks: AtomicU64,
    bytes: AtomicU64,
    /// What lay on the disk at the start has been counted.
    pub(super) is_counted: AtomicBool,
}

/// How much of all files is here.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Amount {
    pub(super) files: u64,
    pub(super) blocks: u64,
    pub(super) bytes: u64,
}

impl Ledger {
    /// An empty one, for a manifest of `entries` entries.
    pub(super) fn new(generation: u64, entries: u32) -> Self {
        Self {
            generation,
            complete: Marks::new(entries),
            counted: Marks::new(entries),
            files: AtomicU64::new(0),
            blocks: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            is_counted: AtomicBool::new(false),
        }
    }

    /// All that has been added.
    pub(super) fn amount(&self) -> Amount {
        let of = |number: &AtomicU64| number.load(Relaxed);
        Amount { files: of(&self.files), blocks: of(&self.blocks), bytes: of(&self.bytes) }
    }

    /// Something is here that was not.
    pub(super) fn add(&self, amount: Amount) {
        self.files.fetch_add(amount.files, Relaxed);
        self.blocks.fetch_add(amount.blocks, Relaxed);
        self.bytes.fetch_add(amount.bytes, Relaxed);
    }

    /// Adds what of an inode was found on the disk, the first time it is found.
    pub(super) fn add_found(&self, inode: EntryIndex, amount: Amount) {
        if self.counted.set(inode) && amount.blocks > 0 {
            self.add(amount);
        }
    }

    /// Notes that an inode is complete.
    pub(super) fn set_complete(&self, inode: EntryIndex) {
        self.complete.set(inode);
    }

    /// True when an inode is known to be complete.
    pub(super) fn is_complete(&self, inode: EntryIndex) -> bool {
        self.complete.is_set(inode)
    }
}
