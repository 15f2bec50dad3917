//! What an inode of a replica is called, whatever names lead to it.

use crate::manifest::EntryIndex;

/// An inode of a replica.
///
/// One of the manifest's keeps its key for as long as a process runs, also when it has been moved, changed, or made an
/// ordinary one meanwhile. An inode has one key at a time: two would be two opinions about a file's blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum InodeKey {
    /// One of the manifest's, by its first name there.
    Entry(EntryIndex),
    /// One that was made here, by its number on the disk.
    Local(u64),
}

impl InodeKey {
    /// The entry of the manifest, if it has one.
    pub(super) fn entry(self) -> Option<EntryIndex> {
        match self {
            Self::Entry(index) => Some(index),
            Self::Local(_) => None,
        }
    }
}

impl From<EntryIndex> for InodeKey {
    fn from(index: EntryIndex) -> Self {
        Self::Entry(index)
    }
}
