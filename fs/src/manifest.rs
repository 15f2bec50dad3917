//! The complete metadata of a workspace: every entry of every root, without content.
//!
//! Entries are numbered in breadth-first order: the roots first, then the children of the first directory sorted by
//! name, then those of the second, and so on. So the children of a directory are one run of indices, a parent comes
//! before its children, and the top of the tree comes first on the wire.
//!
//! On disk a manifest is one file of fixed-width records and a heap ([`record`]), memory-mapped and read in place:
//! a million entries cost no anonymous memory. On the wire it is a stream of compressed [frames](frame). Both are
//! written by the same [appender](append), so the file a receiver ends up with equals the sender's byte for byte,
//! and its digest, the [`SnapshotId`], proves it.
//!
//! A [`Manifest`] may be read while it still arrives: a directory that has not been listed yet says so
//! ([`Listing::NotYet`]), and [`Manifest::arrival`] tells when it has.

use std::fmt;
use std::fs::File;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Acquire};

use memmap2::Mmap;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::digest::Digest;
use crate::name::{NameError, RelPath};

mod append;
mod build;
mod carried;
pub mod delta;
mod entry;
mod fetch;
pub mod frame;
mod left_out;
mod names;
mod receive;
mod record;
mod rules;
mod since;
pub mod walk;

pub use build::{Builder, NewEntry};
pub use carried::{Carried, CarriedRun};
pub use entry::{Entry, Extra, Flags, Kind, Mtime, allocated_512, is_hole};
pub use fetch::{FetchError, Fetched, fetch};
pub use left_out::{LEFT_OUT_MAX, LeftOut, LeftOutList, LeftOutReason};
pub(crate) use names::{Name, compare};
pub use receive::Receiver;
use record::{PREAMBLE_BYTES, Preamble, RECORD_BYTES, Record, record_offset};
pub(crate) use rules::check_version;
pub use since::fetch_since;

/// Entries in a manifest at most: records of 4 GiB, more than any one machine's workspace and less than its disk.
pub const ENTRIES_MAX: u32 = 1 << 26;
/// Roots in a manifest at most.
pub const ROOTS_MAX: u32 = 64;
/// Bytes of one encoded [`Extra`] at most; it must fit into a frame beside its entry.
pub const EXTRA_BYTES_MAX: usize = 256 * 1024;
/// Bytes of a symlink's target at most (`PATH_MAX` less its NUL, `fs/namei.c`).
pub const TARGET_BYTES_MAX: usize = 4095;
/// Bytes of all user xattrs of one entry at most (`XATTR_SIZE_MAX`); an entry with more travels without them.
pub const XATTR_BYTES_MAX: usize = 64 * 1024;
/// Holes in a file's hole map at most; the smallest beyond that travel as zeros.
pub const HOLES_MAX: usize = 8 * 1024;
/// Bytes of a git configuration at most; a larger one is left out.
pub const GIT_CONFIG_BYTES_MAX: usize = 64 * 1024;
/// Directories below one another at most. Tools that remove or copy a tree hold a descriptor for each, of 1,024 that a
/// process may have; and a path has 128 KiB at most.
pub const DEPTH_MAX: u32 = 512;
/// Largest file size: the kernel's own (`MAX_LFS_FILESIZE`).
pub const FILE_BYTES_MAX: u64 = i64::MAX as u64;

/// The place of an entry in its manifest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct EntryIndex(pub u32);

/// The name of a snapshot: the digest of its manifest file.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct SnapshotId(pub Digest);

impl fmt::Display for SnapshotId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl fmt::Debug for SnapshotId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

/// What a snapshot is of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Meta {
    /// The absolute path of each root on the origin, the workspace's own first, then its companions'.
    pub roots: Vec<Vec<u8>>,
}

/// Why a manifest cannot be built, received or opened.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// The bytes are not a manifest, or not one this version accepts.
    #[error("the manifest is invalid: {0}")]
    Invalid(&'static str),
    /// An entry's name is not a name.
    #[error("the manifest is invalid: {0}")]
    Name(#[from] NameError),
    /// The disk failed.
    #[error("the manifest's file: {0}")]
    Disk(#[from] std::io::Error),
}

/// How much of a manifest is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Arrival {
    /// Directories with a lower index are listed.
    Listed(EntryIndex),
    /// All of it, and its digest is the snapshot's.
    Complete,
    /// No more will come; the text says why.
    Failed(String),
}

/// The children of a directory, if they are known yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Listing {
    /// The children, sorted by name.
    Known(Range<u32>),
    /// They have not arrived; [`Manifest::arrival`] tells when.
    NotYet,
}

/// A manifest, complete or still arriving. Cheap to clone; clones share the mapping.
#[derive(Clone)]
pub struct Manifest {
    shared: Arc<Shared>,
}

struct Shared {
    map: Mmap,
    path: PathBuf,
    preamble: Preamble,
    meta: Meta,
    progress: Arc<Progress>,
    arrival: watch::Receiver<Arrival>,
}

/// What of the mapping may be looked at; stored with release after the bytes have been written.
#[derive(Debug, Default)]
struct Progress {
    /// Directories below this index have their children.
    listed: AtomicU32,
    /// Records below this index are written.
    entries: AtomicU32,
}

impl fmt::Debug for Manifest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Manifest")
            .field("snapshot", &self.snapshot())
            .field("entries", &self.entries())
            .field("arrival", &*self.shared.arrival.borrow())
            .finish_non_exhaustive()
    }
}

impl Manifest {
    /// Opens a complete manifest and checks it against its snapshot id (one BLAKE3 pass, about 20 ms for a million
    /// entries).
    pub fn open(path: &Path) -> Result<Self, ManifestError> {
        let file = File::open(path)?;
        let map = map(&file)?;
        let preamble = Preamble::decode(&map)?;
        if map.len() as u64 != preamble.total_bytes() {
            return Err(ManifestError::Invalid("the file is shorter or longer than its preamble says"));
        }
        if digest(&map, &preamble) != preamble.snapshot {
            return Err(ManifestError::Invalid("the file does not have its digest"));
        }
        let meta = map
            .get(preamble.heap_offset() as usize..)
            .and_then(|heap| heap.get(..preamble.meta_bytes as usize))
            .and_then(|bytes| postcard::from_bytes(bytes).ok())
            .ok_or(ManifestError::Invalid("the description cannot be read"))?;
        let all = || AtomicU32::new(preamble.entries);
        let progress = Arc::new(Progress { listed: all(), entries: all() });
        let (_, arrival) = watch::channel(Arrival::Complete);
        Ok(Self::assemble(map, path, preamble, meta, progress, arrival))
    }

    fn assemble(
        map: Mmap,
        path: &Path,
        preamble: Preamble,
        meta: Meta,
        progress: Arc<Progress>,
        arrival: watch::Receiver<Arrival>,
    ) -> Self {
        Self { shared: Arc::new(Shared { map, path: path.into(), preamble, meta, progress, arrival }) }
    }

    /// The snapshot's id.
    pub fn snapshot(&self) -> SnapshotId {
        self.shared.preamble.snapshot
    }

    /// The file it lies in.
    pub fn path(&self) -> &Path {
        &self.shared.path
    }

    /// What the snapshot is of.
    pub fn meta(&self) -> &Meta {
        &self.shared.meta
    }

    /// Entries of all kinds, roots included.
    pub fn entries(&self) -> u32 {
        self.shared.preamble.entries
    }

    /// Bytes of all files; those with several names count once.
    pub fn file_bytes(&self) -> u64 {
        self.shared.preamble.file_bytes
    }

    /// Blocks of all files; those with several names count once.
    pub fn blocks(&self) -> u64 {
        self.shared.preamble.blocks
    }

    /// How much of it is there, and news of it.
    pub fn arrival(&self) -> watch::Receiver<Arrival> {
        self.shared.arrival.clone()
    }

    /// The roots' indices: 0 is the workspace, the others its companions.
    pub fn roots(&self) -> impl Iterator<Item = EntryIndex> {
        (0..self.shared.preamble.roots).map(EntryIndex)
    }

    /// The entry, or `None` beyond what has arrived.
    pub fn entry(&self, index: EntryIndex) -> Option<Entry<'_>> {
        // Only what was stored before this load may be read.
        let arrived = index.0 < self.shared.progress.entries.load(Acquire);
        let record = arrived.then(|| self.record(index))??;
        Some(Entry { manifest: self, index, record })
    }

    /// The children of a directory; nothing for any other entry.
    pub fn children(&self, directory: EntryIndex) -> Listing {
        if !self.is_listed(directory) {
            return Listing::NotYet;
        }
        match self.record(directory) {
            Some(record) if record.kind == Kind::Directory => {
                Listing::Known(record.link.0..record.link.0.saturating_add(record.children))
            }
            _ => Listing::Known(0..0),
        }
    }

    /// The child of `directory` called `name`: `Ok(None)` where there is none, `Err` where it is not known yet.
    pub fn lookup(&self, directory: EntryIndex, name: &[u8]) -> Result<Option<Entry<'_>>, NotYet> {
        let Listing::Known(children) = self.children(directory) else {
            return Err(NotYet);
        };
        let (mut low, mut high) = (children.start, children.end);
        while low < high {
            let middle = low + (high - low) / 2;
            // It was there when the directory was listed, so the manifest has failed meanwhile.
            let entry = self.entry(EntryIndex(middle)).ok_or(NotYet)?;
            match entry.name().cmp(name) {
                std::cmp::Ordering::Equal => return Ok(Some(entry)),
                std::cmp::Ordering::Less => low = middle + 1,
                std::cmp::Ordering::Greater => high = middle,
            }
        }
        Ok(None)
    }

    /// The root an entry lies under and its path below it; `None` beyond what has arrived.
    pub fn locate(&self, index: EntryIndex) -> Option<(EntryIndex, RelPath)> {
        let mut names = Vec::new();
        let mut at = self.entry(index)?;
        // A parent has a lower index than its child, which the appender checks, so this ends at a root.
        while at.index.0 >= self.shared.preamble.roots {
            names.push(at.name());
            at = self.entry(at.parent())?;
        }
        let path = RelPath::from_names(names.into_iter().rev()).ok()?;
        Some((at.index, path))
    }

    /// The root an entry lies under; `None` beyond what has arrived. Costs a look at each directory above.
    pub(crate) fn root_of(&self, index: EntryIndex) -> Option<EntryIndex> {
        let mut at = self.entry(index)?;
        while at.index.0 >= self.shared.preamble.roots {
            at = self.entry(at.parent())?;
        }
        Some(at.index)
    }

    /// Every entry in manifest order, as far as it has arrived.
    pub fn iter(&self) -> impl Iterator<Item = Entry<'_>> {
        (0..self.entries()).map_while(|index| self.entry(EntryIndex(index)))
    }

    /// What was left out; empty until the manifest is complete.
    pub fn left_out(&self) -> LeftOutList {
        let preamble = &self.shared.preamble;
        if *self.shared.arrival.borrow() != Arrival::Complete {
            return LeftOutList::default();
        }
        let end = preamble.total_bytes() as usize;
        let start = end - (preamble.left_out_bytes as usize).min(end);
        self.shared.map.get(start..end).and_then(|b| postcard::from_bytes(b).ok()).unwrap_or_default()
    }

    fn is_listed(&self, directory: EntryIndex) -> bool {
        directory.0 < self.shared.progress.listed.load(Acquire)
    }

    fn record(&self, index: EntryIndex) -> Option<Record> {
        let start = record_offset(index) as usize;
        let end = start + RECORD_BYTES as usize;
        if index.0 >= self.entries() {
            return None;
        }
        Record::decode(self.shared.map.get(start..end)?.try_into().ok()?).ok()
    }

    fn heap(&self, at: u32, bytes: u32) -> &[u8] {
        let start = self.shared.preamble.heap_offset() as usize + at as usize;
        self.shared.map.get(start..start + bytes as usize).unwrap_or_default()
    }
}

/// The listing of a directory has not arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the directory's entries have not arrived yet")]
pub struct NotYet;

fn digest(map: &[u8], preamble: &Preamble) -> SnapshotId {
    let unnamed = Preamble { snapshot: SnapshotId(Digest([0; 32])), ..*preamble };
    let mut hasher = blake3::Hasher::new();
    hasher.update(&unnamed.encode());
    hasher.update(&map[PREAMBLE_BYTES as usize..]);
    SnapshotId(Digest(hasher.finalize().into()))
}

#[expect(unsafe_code, reason = "memory-mapping a file")]
fn map(file: &File) -> std::io::Result<Mmap> {
    // SAFETY: the file lies in a directory of this user's node, which alone writes it and never truncates it; the
    // appender adds to it with pwrite beyond what readers look at. Whoever damages it by hand gets SIGBUS at worst.
    unsafe { Mmap::map(file) }
}

#[cfg(test)]
mod tests;
