//! What names an inode of a replica.

use crate::manifest::EntryIndex;

/// An inode of a replica, for as long as somebody holds on to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum InodeKey {
    /// One of the manifest's, by its first name there.
    Entry(EntryIndex),
    /// One that was made here, by its number on the disk.
    Local(u64),
}
