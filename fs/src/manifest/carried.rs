//! What stayed as it was from one snapshot of a workspace to a later one.
//!
//! An entry is *carried* when it lies under the same path in both, its metadata says the same, and its stamps prove
//! that nothing happened to it in between: it is the same version of the same inode. What is known of the content of
//! a carried file, and what is kept of it, holds for the later snapshot as well. A directory is carried by itself,
//! with the number of its entries, whatever became of them; an entry whose directory was renamed lies under another
//! path and is not carried. Roots keep their indices and are never among what is carried, and where the roots are not
//! the same ones in the same order nothing is.
//!
//! Manifest order is the order of paths, so what is carried has the same order in both: it is a list of runs, ascending
//! on both sides, and either side finds the other by binary search. A tree of which one file changed has some runs more
//! than there are directories above that file.

use std::path::Path;

use serde::{Deserialize, Serialize};

use super::walk::{MANIFEST_FILE, STAMPS_FILE};
use super::{EntryIndex, Manifest, ManifestError};
use crate::origin::stamps::Stamps;

mod compare;

/// Consecutive entries of the later manifest that are consecutive entries of the earlier one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CarriedRun {
    /// The first in the later manifest.
    pub new: EntryIndex,
    /// The first in the earlier one.
    pub old: EntryIndex,
    /// How many, at least one.
    pub len: u32,
}

/// The entries that are carried from one manifest to a later one. 12 bytes a run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Carried {
    /// Ascending and apart on both sides; none continues the one before it.
    runs: Vec<CarriedRun>,
}

impl Carried {
    /// Takes runs that somebody else claims, of a manifest of `new_entries` entries and an earlier one of
    /// `old_entries`. Refuses what is empty, out of bounds, not ascending or overlapping on either side; runs that
    /// continue each other become one.
    pub fn new(
        runs: impl IntoIterator<Item = CarriedRun>,
        new_entries: u32,
        old_entries: u32,
    ) -> Result<Self, ManifestError> {
        let mut carried = Self::default();
        for run in runs {
            carried.push(run)?;
        }
        let within = carried
            .runs
            .last()
            .is_none_or(|last| last.new.0 + last.len <= new_entries && last.old.0 + last.len <= old_entries);
        match within {
            true => Ok(carried),
            false => Err(ManifestError::Invalid("what is carried lies beyond the last entry")),
        }
    }

    /// What is carried from the snapshot in the directory `old` to the later one of the same workspace in `new`, as
    /// [`build`](super::walk::build) made them. Blocks: reads both manifests and their stamps once (a million
    /// entries: 260 MB from the page cache).
    pub fn between(old: &Path, new: &Path) -> Result<Self, ManifestError> {
        let open = |directory: &Path| {
            let manifest = Manifest::open(&directory.join(MANIFEST_FILE))?;
            let stamps = Stamps::open(&directory.join(STAMPS_FILE), manifest.entries(), manifest.snapshot())?;
            Ok::<_, ManifestError>((manifest, stamps))
        };
        let (old, new) = (open(old)?, open(new)?);
        Self::compare((&old.0, &old.1), (&new.0, &new.1))
    }

    /// The same for manifests and stamps that are open.
    pub(crate) fn compare(
        old: (&Manifest, &Stamps),
        new: (&Manifest, &Stamps),
    ) -> Result<Self, ManifestError> {
        compare::compare(old, new)
    }

    /// The runs, ascending on both sides.
    pub fn runs(&self) -> &[CarriedRun] {
        &self.runs
    }

    /// Entries that are carried.
    pub fn entries(&self) -> u32 {
        // Runs are apart, so their sum is at most the number of entries.
        self.runs.iter().map(|run| run.len).sum()
    }

    /// The entry of the earlier manifest that `new` is; `None` where it is not carried.
    pub fn old_of(&self, new: EntryIndex) -> Option<EntryIndex> {
        let run = self.last_before(|run| run.new <= new)?;
        let at = new.0 - run.new.0;
        (at < run.len).then(|| EntryIndex(run.old.0 + at))
    }

    /// The entry of the later manifest that `old` became; `None` where it is not carried.
    pub fn new_of(&self, old: EntryIndex) -> Option<EntryIndex> {
        let run = self.last_before(|run| run.old <= old)?;
        let at = old.0 - run.old.0;
        (at < run.len).then(|| EntryIndex(run.new.0 + at))
    }

    fn last_before(&self, begins: impl Fn(&CarriedRun) -> bool) -> Option<&CarriedRun> {
        self.runs[..self.runs.partition_point(begins)].last()
    }

    /// Adds a run behind all others.
    pub(super) fn push(&mut self, run: CarriedRun) -> Result<(), ManifestError> {
        let beyond = |start: EntryIndex| start.0.checked_add(run.len).is_none();
        if run.len == 0 || beyond(run.new) || beyond(run.old) {
            return Err(ManifestError::Invalid("a run of carried entries is empty or too long"));
        }
        if let Some(last) = self.runs.last_mut() {
            let (new_end, old_end) = (last.new.0 + last.len, last.old.0 + last.len);
            if run.new.0 < new_end || run.old.0 < old_end {
                return Err(ManifestError::Invalid("runs of carried entries overlap or are not ascending"));
            }
            if (run.new.0, run.old.0) == (new_end, old_end) {
                last.len += run.len;
                return Ok(());
            }
        }
        self.runs.push(run);
        Ok(())
    }
}

#[cfg(test)]
pub(super) mod tests;
