//! Earlier snapshots of the same workspace, whose readers go on with this one.
//!
//! Whoever follows a workspace keeps what it has of a [carried](crate::manifest::Carried) file, and asks this
//! snapshot for the rest of it. So what the earlier one has bound of such a file is bound here as well, before
//! anybody is told that it is carried and again before a block of it is bound here or its stamp replaced: else a
//! version that only looks the same could be taken for the one that was meant, and the reader would have parts of
//! both. A file of which the two have bound different content is not carried.

use std::collections::HashSet;
use std::io;
use std::ops::Range;
use std::path::Path;
use std::sync::{Arc, Mutex};

use super::FileFault;
use super::files::{Files, lock, windows};
use super::local::DIGESTS_FILE;
use super::stamps::Stamps;
use super::version::fault;
use crate::digest_file::{Bound, DigestFile};
use crate::manifest::walk::{MANIFEST_FILE, STAMPS_FILE};
use crate::manifest::{Carried, CarriedRun, EntryIndex, Kind, Manifest, ManifestError, SnapshotId};

/// Earlier snapshots that are looked at again at most: those that a reader may be coming from.
const BASES_MAX: usize = 4;

/// The earlier snapshots that readers came from, the last ones.
#[derive(Debug, Default)]
pub(super) struct Bases {
    all: Mutex<Vec<Arc<Base>>>,
}

/// An earlier snapshot.
#[derive(Debug)]
struct Base {
    manifest: Manifest,
    digests: DigestFile,
    carried: Carried,
}

impl Files {
    /// What is carried to this snapshot from the earlier one in the directory `place`, which must be `base`.
    pub(super) fn carried_from(&self, place: &Path, base: SnapshotId) -> Result<Carried, ManifestError> {
        let known = lock(&self.bases.all).iter().find(|known| known.manifest.snapshot() == base).cloned();
        let earlier = match known {
            Some(earlier) => earlier,
            None => Arc::new(Base::open(self, place, base)?),
        };
        // Also of one that is known: it may have bound more since.
        let carried = earlier.adopt_all(self)?;
        let mut all = lock(&self.bases.all);
        all.retain(|known| known.manifest.snapshot() != base);
        all.push(earlier);
        let beyond = all.len().saturating_sub(BASES_MAX);
        all.drain(..beyond);
        Ok(carried)
    }

    /// Binds what earlier snapshots have bound of the blocks `of_file` of an inode that is carried from them;
    /// [`FileFault::Changed`] where this one has bound something else.
    pub(super) fn adopt(&self, inode: EntryIndex, of_file: Range<u64>) -> Result<(), FileFault> {
        let bases = lock(&self.bases.all).clone();
        for base in bases {
            let Some(old) = base.carried.old_of(inode) else { continue };
            match base.adopt(self, old, inode, of_file.clone()).map_err(fault)? {
                true => {}
                false => return Err(FileFault::Changed),
            }
        }
        Ok(())
    }
}

impl Base {
    /// Opens the snapshot `base` in `place`, and finds what is carried from it.
    fn open(files: &Files, place: &Path, base: SnapshotId) -> Result<Self, ManifestError> {
        let manifest = Manifest::open(&place.join(MANIFEST_FILE))?;
        if manifest.snapshot() != base {
            return Err(ManifestError::Invalid("it is the manifest of another snapshot"));
        }
        let stamps = Stamps::open(&place.join(STAMPS_FILE), manifest.entries(), base)?;
        let digests = DigestFile::open(&place.join(DIGESTS_FILE), manifest.blocks())?;
        let carried = Carried::compare((&manifest, &stamps), (&files.manifest, &files.stamps))?;
        Ok(Self { manifest, digests, carried })
    }

    /// Binds what is bound of all carried files; what is carried in the end.
    fn adopt_all(&self, files: &Files) -> io::Result<Carried> {
        let mut differ = HashSet::new();
        // The next block that is bound at all: mostly few are.
        let mut next = Some(0);
        for (old, new) in pairs(&self.carried) {
            let Some(entry) = self.manifest.entry(old).filter(|old| old.kind() == Kind::File) else {
                continue;
            };
            let blocks = entry.blocks();
            if entry.inode() != old || blocks.is_empty() {
                continue;
            }
            if next.is_some_and(|next| next < blocks.start) {
                next = self.digests.next_known(blocks.start)?;
            }
            if next.is_some_and(|next| next < blocks.end)
                && !self.adopt(files, old, new, 0..blocks.end - blocks.start)?
            {
                differ.insert(new);
            }
        }
        if differ.is_empty() {
            return Ok(self.carried.clone());
        }
        let is_same = |new: &EntryIndex| {
            !files.manifest.entry(*new).is_some_and(|entry| differ.contains(&entry.inode()))
        };
        let kept = pairs(&self.carried).filter(|(_, new)| is_same(new));
        let runs = kept.map(|(old, new)| CarriedRun { new, old, len: 1 });
        Carried::new(runs, files.manifest.entries(), self.manifest.entries()).map_err(io::Error::other)
    }

    /// Binds what is bound of the blocks `of_file` of one file; false where the other snapshot has bound something
    /// else.
    fn adopt(
        &self,
        files: &Files,
        old: EntryIndex,
        new: EntryIndex,
        of_file: Range<u64>,
    ) -> io::Result<bool> {
        let first = |manifest: &Manifest, index| manifest.entry(index).map(|entry| entry.blocks().start);
        let (Some(old), Some(new)) = (first(&self.manifest, old), first(&files.manifest, new)) else {
            return Ok(true);
        };
        for window in windows(&(old + of_file.start..old + of_file.end)) {
            let known = self.digests.get(window.clone())?;
            let mut at = new + (window.start - old);
            for part in known.chunk_by(|a, b| a.is_some() == b.is_some()) {
                let digests: Vec<_> = part.iter().flatten().copied().collect();
                if !digests.is_empty() && files.digests.bind(at, &digests)? != Bound::Agreed {
                    return Ok(false);
                }
                at += part.len() as u64;
            }
        }
        Ok(true)
    }
}

/// The carried entries, old and new.
fn pairs(carried: &Carried) -> impl Iterator<Item = (EntryIndex, EntryIndex)> {
    let of_run = |run: &CarriedRun| {
        let CarriedRun { new, old, len } = *run;
        (0..len).map(move |at| (EntryIndex(old.0 + at), EntryIndex(new.0 + at)))
    };
    carried.runs().iter().flat_map(of_run)
}
