//! What `stat` shows of an entry.

use rustix::fs::FileType;

use crate::manifest::{Entry, EntryIndex, Kind, Mtime, allocated_512};

use super::shown::Shown;

/// Bytes of a block as `st_blksize` gives them: those of the file systems workspaces lie on, so that programs choose
/// the same buffers here and there.
pub const BLOCK_SIZE: u32 = 4096;

/// The number of an entry in a mount: 1 for its root, 2 and up for all others. 0 means "no such entry" to the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(pub u64);

impl NodeId {
    /// The root of the mount.
    pub const ROOT: Self = Self(1);
    /// What is added to an entry's index.
    const OFFSET: u64 = 2;

    /// The number of entry `index` in a mount of `root`.
    pub(super) fn of(index: EntryIndex, root: EntryIndex) -> Self {
        if index == root { Self::ROOT } else { Self(u64::from(index.0) + Self::OFFSET) }
    }

    /// That of what has a lasting number.
    pub(super) fn numbered(number: u64) -> Self {
        Self(number + Self::OFFSET)
    }

    /// The lasting number; `None` for one that nothing can have.
    pub(super) fn number(self) -> Option<u64> {
        self.0.checked_sub(Self::OFFSET)
    }

    /// The entry it numbers; `None` for a number no entry can have.
    pub(super) fn index(self, root: EntryIndex) -> Option<EntryIndex> {
        match self.0 {
            0 => None,
            1 => Some(root),
            number => u32::try_from(number - Self::OFFSET).ok().map(EntryIndex),
        }
    }
}

/// The user and the group everything belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Owner {
    /// The user.
    pub uid: u32,
    /// The group.
    pub gid: u32,
}

impl Owner {
    /// Whom this process runs for.
    pub fn of_this_process() -> Self {
        Self { uid: rustix::process::geteuid().as_raw(), gid: rustix::process::getegid().as_raw() }
    }
}

/// What `stat` shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attributes {
    /// Its number; names of one inode share it.
    pub node: NodeId,
    /// Tells apart inodes that have this number one after the other.
    pub generation: u64,
    /// What it is.
    pub kind: FileType,
    /// Permission bits.
    pub mode: u16,
    /// Bytes of a file or of a symlink's target.
    pub size: u64,
    /// Allocated bytes in units of 512.
    pub blocks_512: u64,
    /// When its content was last used; of what is not local, when it was last modified.
    pub atime: Mtime,
    /// When its content was last modified.
    pub mtime: Mtime,
    /// When anything about it was last changed; of what was never changed here, when it was last modified.
    pub ctime: Mtime,
    /// Names of a file; for a directory two and one per subdirectory.
    pub nlink: u32,
    /// Whom it belongs to.
    pub owner: Owner,
    /// The device that it stands for, if it does.
    pub device: u64,
}

impl Attributes {
    /// Those of `entry`, of which `shown` is shown.
    pub(super) fn new(entry: &Entry<'_>, shown: &Shown, node: NodeId, owner: Owner) -> Self {
        let size = shown.size(entry);
        Self {
            node,
            generation: 0,
            kind: file_type(entry.kind()),
            mode: shown.mode(entry),
            size,
            blocks_512: if entry.kind() == Kind::File { allocated_512(size, shown.holes()) } else { 0 },
            atime: entry.mtime(),
            mtime: entry.mtime(),
            ctime: entry.mtime(),
            nlink: entry.nlink(),
            owner,
            device: 0,
        }
    }
}

fn file_type(kind: Kind) -> FileType {
    match kind {
        Kind::Directory => FileType::Directory,
        Kind::File => FileType::RegularFile,
        Kind::Symlink => FileType::Symlink,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(index: u32, root: u32, expected: u64) {
        let node = NodeId::of(EntryIndex(index), EntryIndex(root));
        assert_eq!(node, NodeId(expected));
        assert_eq!(node.index(EntryIndex(root)), Some(EntryIndex(index)));
    }

    #[test]
    fn numbers_and_entries_map_to_each_other() {
        check(0, 0, 1);
        check(1, 0, 3);
        check(1, 1, 1);
        check(0, 1, 2);
        check(u32::MAX, 0, u64::from(u32::MAX) + 2);
        assert_eq!(NodeId(0).index(EntryIndex(0)), None);
        assert_eq!(NodeId(u64::MAX).index(EntryIndex(0)), None);
    }
}
