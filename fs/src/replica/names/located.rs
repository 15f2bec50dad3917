//! The inodes that are not found by the manifest: where they lie, and for how long that must be known.
//!
//! What was made here is known for as long as the kernel knows it. What the manifest has elsewhere is known for good.

use std::collections::HashMap;
use std::collections::hash_map::Entry as Slot;
use std::sync::Mutex;

use rustix::fs::{FileType, Stat};

use super::super::key::InodeKey;
use super::super::lock;

/// A name in a directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Name {
    pub(super) directory: InodeKey,
    pub(super) name: Box<[u8]>,
}

/// The table. Its lock is a leaf.
#[derive(Debug, Default)]
pub(super) struct Located {
    table: Mutex<Table>,
}

#[derive(Debug, Default)]
struct Table {
    inodes: HashMap<InodeKey, Inode>,
    /// By the inode's number on the disk.
    keys: HashMap<u64, InodeKey>,
}

#[derive(Debug)]
struct Inode {
    names: Vec<Name>,
    number: u64,
    /// What lies in it is found through it, also when the kernel has forgotten it.
    is_directory: bool,
    /// How often the kernel was told of it, less how often it forgot.
    lookups: u64,
    /// It is no more, though the kernel may still know it.
    is_gone: bool,
    /// How many that are no more had this key while the kernel knew them.
    generation: u64,
}

impl Located {
    /// The key of an inode on the disk, if it is in the table.
    pub(super) fn key(&self, number: u64) -> Option<InodeKey> {
        lock(&self.table).keys.get(&number).copied()
    }

    /// A name of the inode; the manifest's own are not among them.
    pub(super) fn name(&self, key: InodeKey) -> Option<Name> {
        lock(&self.table).inodes.get(&key)?.names.first().cloned()
    }

    /// Notes a name of an inode.
    pub(super) fn add(&self, key: InodeKey, stat: &Stat, directory: InodeKey, name: &[u8]) {
        lock(&self.table).add(key, stat, directory, name);
    }

    /// Notes a name of an inode, of which the kernel is told.
    pub(super) fn tell(&self, key: InodeKey, stat: &Stat, directory: InodeKey, name: &[u8]) {
        lock(&self.table).add(key, stat, directory, name).lookups += 1;
    }

    /// An inode has lost a name.
    pub(super) fn remove(&self, key: InodeKey, directory: InodeKey, name: &[u8]) {
        let mut table = lock(&self.table);
        let Slot::Occupied(mut slot) = table.inodes.entry(key) else { return };
        slot.get_mut().names.retain(|known| known.directory != directory || *known.name != *name);
        if slot.get().names.is_empty() && slot.get().lookups == 0 && is_made_here(key) {
            let number = slot.remove().number;
            table.keys.remove(&number);
        }
    }

    /// An inode on the disk is no more: its number may be given to another.
    pub(super) fn gone(&self, key: InodeKey) {
        let mut table = lock(&self.table);
        if let Some(inode) = table.inodes.get_mut(&key) {
            inode.names.clear();
            inode.is_gone = true;
            let number = inode.number;
            table.keys.remove(&number);
        }
    }

    /// Tells apart inodes that had one key.
    pub(super) fn generation(&self, key: InodeKey) -> u64 {
        lock(&self.table).inodes.get(&key).map_or(0, |inode| inode.generation)
    }

    /// The kernel was told of the inode.
    pub(super) fn remember(&self, key: InodeKey) {
        if let Some(inode) = lock(&self.table).inodes.get_mut(&key) {
            inode.lookups += 1;
        }
    }

    /// The kernel has forgotten the inode so many times; true when it knows it no more.
    pub(super) fn forget(&self, key: InodeKey, times: u64) -> bool {
        let mut table = lock(&self.table);
        let Slot::Occupied(mut slot) = table.inodes.entry(key) else { return true };
        slot.get_mut().lookups = slot.get().lookups.saturating_sub(times);
        if slot.get().lookups > 0 {
            return false;
        }
        if is_made_here(key) && (!slot.get().is_directory || slot.get().is_gone) {
            let number = slot.remove().number;
            // Unless the number is another's by now.
            if table.keys.get(&number) == Some(&key) {
                table.keys.remove(&number);
            }
        }
        true
    }
}

impl Table {
    fn add(&mut self, key: InodeKey, stat: &Stat, directory: InodeKey, name: &[u8]) -> &mut Inode {
        let number = stat.st_ino;
        self.keys.insert(number, key);
        let inode = self.inodes.entry(key).or_insert_with(|| Inode {
            names: Vec::new(),
            number,
            is_directory: FileType::from_raw_mode(stat.st_mode) == FileType::Directory,
            lookups: 0,
            is_gone: false,
            generation: 0,
        });
        inode.number = number;
        if std::mem::replace(&mut inode.is_gone, false) {
            inode.generation += 1;
            inode.is_directory = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
        }
        let is_it = |known: &Name| known.directory == directory && *known.name == *name;
        if !inode.names.iter().any(is_it) {
            inode.names.push(Name { directory, name: name.into() });
        }
        inode
    }
}

fn is_made_here(key: InodeKey) -> bool {
    matches!(key, InodeKey::Local(_))
}
