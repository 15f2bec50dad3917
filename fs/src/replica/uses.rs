//! When each file of a view was last used: what is evicted first follows from it.
//!
//! Four bytes an entry, and no list that a read would have to lock: whoever looks for the oldest goes through all of
//! them, a few milliseconds for a million. A time of nothing stands for a file of which nothing is stored.

use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use crate::clock;
use crate::manifest::EntryIndex;

/// Last uses, in seconds since 1970.
#[derive(Debug)]
pub(super) struct Uses {
    seconds: Box<[AtomicU32]>,
}

impl Uses {
    /// For a manifest of `entries` entries.
    pub(super) fn new(entries: u32) -> Self {
        Self { seconds: (0..entries).map(|_| AtomicU32::new(0)).collect() }
    }

    /// A file of which something is stored is used now.
    pub(super) fn touch(&self, file: EntryIndex) {
        if let Some(seconds) = self.at(file)
            && seconds.load(Relaxed) != 0
        {
            seconds.store(now(), Relaxed);
        }
    }

    /// Something of the file is stored, and was last used at `second`. What is known already is later.
    pub(super) fn found(&self, file: EntryIndex, second: u32) {
        if let Some(seconds) = self.at(file) {
            seconds.fetch_max(second.max(1), Relaxed);
        }
    }

    /// Nothing of the file is stored any more.
    pub(super) fn evicted(&self, file: EntryIndex) {
        if let Some(seconds) = self.at(file) {
            seconds.store(0, Relaxed);
        }
    }

    /// The files of which something may be stored, with their last uses.
    pub(super) fn all(&self) -> impl Iterator<Item = (u32, EntryIndex)> {
        let files = self.seconds.iter().zip(0..);
        files
            .map(|(seconds, index)| (seconds.load(Relaxed), EntryIndex(index)))
            .filter(|(second, _)| *second > 0)
    }

    fn at(&self, file: EntryIndex) -> Option<&AtomicU32> {
        self.seconds.get(file.0 as usize)
    }
}

/// This second.
pub(super) fn now() -> u32 {
    second_of(clock::now().sec)
}

/// A time of the clock as it is kept here: those before 1970 and after 2106 as the nearest.
pub(super) fn second_of(seconds: i64) -> u32 {
    u32::try_from(seconds.max(1)).unwrap_or(u32::MAX)
}
