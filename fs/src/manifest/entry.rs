//! What a manifest says of one entry.

use std::fmt;
use std::ops::Range;

use serde::{Deserialize, Serialize};

use super::record::Record;
use super::{EntryIndex, Manifest};
use crate::digest::{BlockIndex, block_count};

/// One entry of a manifest, borrowed from its mapping.
#[derive(Clone, Copy)]
pub struct Entry<'m> {
    pub(super) manifest: &'m Manifest,
    pub(super) index: EntryIndex,
    pub(super) record: Record,
}

impl fmt::Debug for Entry<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} {:?} \"{}\"", self.index, self.kind(), self.name().escape_ascii())
    }
}

impl<'m> Entry<'m> {
    /// Its place.
    pub fn index(&self) -> EntryIndex {
        self.index
    }

    /// Its name; empty for a root.
    pub fn name(&self) -> &'m [u8] {
        self.manifest.heap(self.record.name_at, self.record.name_bytes.into())
    }

    /// What it is.
    pub fn kind(&self) -> Kind {
        self.record.kind
    }

    /// Permission bits, the sticky bit included (`0o1777`).
    pub fn mode(&self) -> u16 {
        self.record.mode
    }

    /// Bytes of a file or of a symlink's target; 0 for a directory.
    pub fn size(&self) -> u64 {
        self.record.size
    }

    /// When it was last modified.
    pub fn mtime(&self) -> Mtime {
        self.record.mtime
    }

    /// Names of a file inside its root; for a directory two and one per subdirectory.
    pub fn nlink(&self) -> u32 {
        self.record.nlink
    }

    /// Properties that change how it is shown.
    pub fn flags(&self) -> Flags {
        Flags(self.record.flags)
    }

    /// Its directory; itself for a root.
    pub fn parent(&self) -> EntryIndex {
        self.record.parent
    }

    /// The first entry with the same inode: itself unless the file has several names and this is not the first.
    pub fn inode(&self) -> EntryIndex {
        match self.record.kind {
            Kind::File => self.record.link,
            Kind::Directory | Kind::Symlink => self.index,
        }
    }

    /// The file's blocks when those of all files are counted in manifest order; names of one inode share them.
    pub fn blocks(&self) -> Range<u64> {
        match self.record.kind {
            Kind::File => self.record.first_block..self.record.first_block + block_count(self.record.size),
            Kind::Directory | Kind::Symlink => 0..0,
        }
    }

    /// Its rarer properties.
    pub fn extra(&self) -> Extra {
        match self.record.extra_bytes {
            0 => Extra::default(),
            // The appender encoded these bytes itself; a manifest that fails here has been damaged since it was
            // opened, and then has no more to say.
            bytes => {
                postcard::from_bytes(self.manifest.heap(self.record.extra_at, bytes)).unwrap_or_default()
            }
        }
    }

    /// Its rarer properties as they are encoded, which is in one way only.
    pub(super) fn extra_bytes(&self) -> &'m [u8] {
        self.manifest.heap(self.record.extra_at, self.record.extra_bytes)
    }

    /// True when [`extra`](Self::extra) holds anything; costs nothing.
    pub fn has_extra(&self) -> bool {
        self.record.extra_bytes > 0
    }
}

/// What an entry is. Sockets, FIFOs and devices do not travel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[repr(u8)]
pub enum Kind {
    /// A directory.
    Directory = 1,
    /// A regular file.
    File = 2,
    /// A symbolic link.
    Symlink = 3,
}

impl Kind {
    pub(super) fn from_u8(byte: u8) -> Option<Self> {
        match byte {
            1 => Some(Self::Directory),
            2 => Some(Self::File),
            3 => Some(Self::Symlink),
            _ => None,
        }
    }
}

/// A modification time as `stat` gives it; seconds before 1970 are negative.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Mtime {
    /// Seconds since 1970.
    pub sec: i64,
    /// Nanoseconds within the second, below 10⁹.
    pub nsec: u32,
}

/// The rarer properties of an entry.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Extra {
    /// A symlink's target, verbatim.
    pub target: Vec<u8>,
    /// User xattrs (full names, `user.…`), sorted by name.
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    /// A sparse file's holes: byte ranges, ascending, apart, inside the file.
    pub holes: Vec<Range<u64>>,
    /// The content of a git configuration, since what is shown here is made from it and has another size.
    pub git_config: Option<Vec<u8>>,
}

impl Extra {
    pub(super) fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// Properties of an entry that change how it is shown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Flags(pub u16);

impl Flags {
    /// A hook of a git repository: shown without its execute bits.
    pub const GIT_HOOK: Self = Self(1);

    /// All there are.
    pub(super) const KNOWN: Self = Self::GIT_HOOK;

    /// True when all of `other` are set.
    pub fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }
}

/// True when block `index` of a file of `size` bytes lies wholly inside one of `holes`: it is zeros, and is not
/// fetched.
pub fn is_hole(holes: &[Range<u64>], index: BlockIndex, size: u64) -> bool {
    let block = index.bytes_in(size);
    let after = holes.partition_point(|hole| hole.start <= block.start);
    after > 0 && !block.is_empty() && holes[after - 1].end >= block.end
}

/// The allocated bytes a file of `size` bytes with `holes` shows, in 512-byte units.
pub fn allocated_512(size: u64, holes: &[Range<u64>]) -> u64 {
    let empty: u64 = holes.iter().map(|hole| hole.end - hole.start).sum();
    // Allocation comes in pages of 4 KiB on every filesystem a workspace lies on.
    size.saturating_sub(empty).div_ceil(4096) * 8
}
