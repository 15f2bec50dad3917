//! Finding what is carried: both trees are walked in parallel, in manifest order.

use std::collections::VecDeque;
use std::io;

use super::{Carried, CarriedRun};
use crate::manifest::{Entry, EntryIndex, Kind, Listing, Manifest, ManifestError};
use crate::origin::stamps::{Stamp, Stamps};

/// Stamps read at once: 128 KiB.
const AHEAD: u32 = 2048;

/// Compares two complete manifests with their stamps.
pub(super) fn compare(
    old: (&Manifest, &Stamps),
    new: (&Manifest, &Stamps),
) -> Result<Carried, ManifestError> {
    let mut compared =
        Compared { old: Side::new(old.0, old.1), new: Side::new(new.0, new.1), carried: Carried::default() };
    if old.0.meta() != new.0.meta() {
        return Ok(compared.carried);
    }
    // Directories that both have under one path, whose children are to be compared.
    let mut pairs: VecDeque<_> = new.0.roots().map(|root| (root, root)).collect();
    while let Some((old, new)) = pairs.pop_front() {
        compared.directory(old, new, &mut pairs)?;
    }
    Ok(compared.carried)
}

struct Compared<'m> {
    old: Side<'m>,
    new: Side<'m>,
    carried: Carried,
}

/// A manifest with its stamps, which are asked for in ascending order.
struct Side<'m> {
    manifest: &'m Manifest,
    stamps: &'m Stamps,
    first: u32,
    read: Vec<Stamp>,
}

impl Compared<'_> {
    /// Compares the children of one directory; adds the directories among them that both have.
    fn directory(
        &mut self,
        old: EntryIndex,
        new: EntryIndex,
        pairs: &mut VecDeque<(EntryIndex, EntryIndex)>,
    ) -> Result<(), ManifestError> {
        let (olds, news) = (self.old.manifest, self.new.manifest);
        let (mut in_old, mut in_new) = (children(olds, old), children(news, new));
        while let (Some(a), Some(b)) =
            (entry(olds, in_old.clone().next()), entry(news, in_new.clone().next()))
        {
            match a.name().cmp(b.name()) {
                std::cmp::Ordering::Less => _ = in_old.next(),
                std::cmp::Ordering::Greater => _ = in_new.next(),
                std::cmp::Ordering::Equal => {
                    in_old.next();
                    in_new.next();
                    if self.is_carried(&a, &b)? {
                        self.carried.push(CarriedRun { new: b.index(), old: a.index(), len: 1 })?;
                    }
                    if a.kind() == Kind::Directory && b.kind() == Kind::Directory {
                        pairs.push_back((a.index(), b.index()));
                    }
                }
            }
        }
        Ok(())
    }

    fn is_carried(&mut self, old: &Entry<'_>, new: &Entry<'_>) -> Result<bool, ManifestError> {
        Ok(says_the_same(old, new)
            && self.is_same_inode(old, new)
            && self.old.stamp(old.index())?.is_same(&self.new.stamp(new.index())?))
    }

    /// Whether both are the first names of their inodes, or further names of one that is carried.
    fn is_same_inode(&self, old: &Entry<'_>, new: &Entry<'_>) -> bool {
        match (old.inode() == old.index(), new.inode() == new.index()) {
            (true, true) => true,
            (false, false) => self.carried.old_of(new.inode()) == Some(old.inode()),
            _ => false,
        }
    }
}

/// Whether two entries have the same metadata, of directories also the same number of entries.
fn says_the_same(old: &Entry<'_>, new: &Entry<'_>) -> bool {
    let (a, b) = (&old.record, &new.record);
    (a.kind, a.mode, a.size, a.mtime, a.nlink, a.flags, a.children)
        == (b.kind, b.mode, b.size, b.mtime, b.nlink, b.flags, b.children)
        && old.extra_bytes() == new.extra_bytes()
}

fn children(manifest: &Manifest, directory: EntryIndex) -> std::ops::Range<u32> {
    match manifest.children(directory) {
        Listing::Known(children) => children,
        Listing::NotYet => 0..0,
    }
}

fn entry(manifest: &Manifest, index: Option<u32>) -> Option<Entry<'_>> {
    manifest.entry(EntryIndex(index?))
}

impl<'m> Side<'m> {
    fn new(manifest: &'m Manifest, stamps: &'m Stamps) -> Self {
        Self { manifest, stamps, first: 0, read: Vec::new() }
    }

    fn stamp(&mut self, index: EntryIndex) -> io::Result<Stamp> {
        let ahead = self.first..self.first + self.read.len() as u32;
        if !ahead.contains(&index.0) {
            let end = self.manifest.entries().min(index.0.saturating_add(AHEAD));
            (self.first, self.read) = (index.0, self.stamps.range(index.0..end)?);
        }
        let at = (index.0 - self.first) as usize;
        self.read.get(at).copied().ok_or_else(|| io::Error::other("an entry beyond the stamps"))
    }
}
