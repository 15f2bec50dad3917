//! Which names of a root are one file.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use super::entry::Found;
use crate::manifest::{EntryIndex, Mtime};

/// Groups of names with the same inode, by root, device and inode number.
///
/// Holds some 80 bytes for each file that has several names anywhere on its filesystem; nothing for the others.
#[derive(Default)]
pub(super) struct Links {
    groups: HashMap<(usize, u64, u64), Group>,
    /// Further names, and the first of their group.
    further: Vec<(EntryIndex, EntryIndex)>,
}

struct Group {
    first: EntryIndex,
    names: u32,
    size: u64,
    mtime: Mtime,
    mode: u16,
}

impl Links {
    /// Joins the entry at `index` with the first name of its inode, if there was one.
    pub(super) fn join(&mut self, root: usize, index: EntryIndex, mut found: Found) -> Found {
        if !found.linked {
            return found;
        }
        let entry = &mut found.entry;
        match self.groups.entry((root, found.stamp.device, found.stamp.inode)) {
            Entry::Vacant(vacant) => {
                let (size, mtime, mode) = (entry.size, entry.mtime, entry.mode);
                vacant.insert(Group { first: index, names: 1, size, mtime, mode });
            }
            Entry::Occupied(mut group) => {
                let group = group.get_mut();
                group.names += 1;
                entry.link = Some(group.first);
                // One file has one version: the first name's. Where it changed since that was seen, the origin will
                // say so when it is read.
                if (entry.size, entry.mtime) != (group.size, group.mtime) {
                    entry.extra.holes.clear();
                }
                (entry.size, entry.mtime, entry.mode) = (group.size, group.mtime, group.mode);
                self.further.push((index, group.first));
            }
        }
        found
    }

    /// The number of names of each entry that has more than one.
    pub(super) fn counts(&self) -> Vec<(EntryIndex, u32)> {
        let several = self.groups.values().filter(|group| group.names > 1);
        let first: HashMap<_, _> = several.map(|group| (group.first, group.names)).collect();
        let further = self.further.iter().filter_map(|(index, of)| Some((*index, *first.get(of)?)));
        let mut counts: Vec<_> = further.chain(first.iter().map(|(index, names)| (*index, *names))).collect();
        counts.sort_unstable_by_key(|(index, _)| *index);
        counts
    }
}
