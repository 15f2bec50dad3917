//! The files of a snapshot as they lie on this disk: opened where they belong, and read in one version only.
//!
//! A block that is given away is **bound** to its digest first, for good. So there are two ways to read one, and
//! neither can mix two versions of a file:
//!
//! - A bound block is given away whenever its content has the digest, whatever else happened to the file.
//! - A block that is not bound is given away, and bound, only while the file is exactly what its stamp says: inode,
//!   size, mtime and ctime, before and after. Other names, other permissions and renames change the ctime too, so the
//!   stamp is replaced by what the file is now (as long as size and mtime are the manifest's), but only while no block
//!   of the file is bound. That is why the [rest](super::rest) of a file is bound soon after its first block.
//!
//! Of a [hot](super::version) file the stamp proves nothing; before its first block is given away all of them are
//! bound to the digests of one moment: here, where that takes one step, else by a [pass](super::moment).

use std::collections::HashMap;
use std::fs::File;
use std::num::NonZeroUsize;
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use lru::LruCache;
use rustix::fs::{Advice, Mode, OFlags};

use super::bases::Bases;
use super::search::{Seen, Sighting};
use super::stamps::{Stamp, Stamps};
use super::version::{Now, fault};
use super::{FileFault, RUN_BLOCKS};
use crate::beneath;
use crate::clock;
use crate::digest::{BLOCK_BYTES, BlockIndex, Digest};
use crate::digest_file::{Bound, DIGESTS_PER_CALL_MAX, DigestFile};
use crate::manifest::{Entry, EntryIndex, Manifest};

/// Files held open at most, for each snapshot, and only while it is read from.
const OPEN_MAX: usize = 64;

/// Files up to this size are opened anew for each request: they are read in one go.
const KEPT_OPEN_FROM_BYTES: u64 = RUN_BLOCKS as u64 * BLOCK_BYTES;

/// A hot file up to this size is read as a whole, twice, within the step that wants a block of it.
pub(super) const SMALL_BYTES: u64 = 16 * BLOCK_BYTES;

/// How often a file is looked at again that changes its properties while it is read.
pub(super) const TRIES: u32 = 4;

/// The trees of a snapshot and what is known of their files.
#[derive(Debug)]
pub(super) struct Files {
    pub(super) manifest: Manifest,
    pub(super) stamps: Stamps,
    pub(super) digests: DigestFile,
    /// Held while blocks are bound, with a look at the stamp, and while a stamp is replaced.
    binding: Mutex<()>,
    /// How long after a change a file is hot.
    hot: Duration,
    open: Mutex<LruCache<EntryIndex, Arc<OpenFile>>>,
    readers: Mutex<usize>,
    /// Snapshots whose readers go on with this one.
    pub(super) bases: Bases,
    /// What was last seen of each root in search of what had moved.
    sightings: Mutex<HashMap<EntryIndex, Arc<Sighting>>>,
}

/// The root of a tree, opened for a moment.
#[derive(Debug)]
pub(super) struct OpenRoot(File);

/// A file that lies where the snapshot has it.
#[derive(Debug)]
pub(super) struct OpenFile {
    file: File,
    /// The first name of its inode, under which its stamp is kept.
    inode: EntryIndex,
    size: u64,
    /// Its blocks, as the manifest counts them.
    pub(super) blocks: Range<u64>,
}

/// What became of a read.
#[derive(Debug)]
pub(super) enum Read {
    /// The blocks, all of the version the snapshot names.
    Done {
        bytes: Bytes,
        digests: Vec<Digest>,
        /// Some of them were not bound before.
        bound: bool,
    },
    /// The file is hot and too large to be settled here: [all of it](super::moment) must be bound first.
    Unsettled,
}

impl Files {
    pub(super) fn new(manifest: Manifest, stamps: Stamps, digests: DigestFile, hot: Duration) -> Self {
        let capacity = NonZeroUsize::new(OPEN_MAX).unwrap_or(NonZeroUsize::MIN);
        let (open, readers) = (Mutex::new(LruCache::new(capacity)), Mutex::new(0));
        let (binding, bases, sightings) = (Mutex::new(()), Bases::default(), Mutex::default());
        Self { manifest, stamps, digests, binding, hot, open, readers, bases, sightings }
    }

    /// Opens the directory that lies at a root's path; [`FileFault::Changed`] where there is none.
    pub(super) fn root(&self, root: EntryIndex) -> Result<OpenRoot, FileFault> {
        let path = self.manifest.meta().roots.get(root.0 as usize).ok_or(FileFault::NoSuchBlock)?;
        let path = Path::new(std::ffi::OsStr::from_bytes(path));
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = rustix::fs::open(path, flags, Mode::empty()).map_err(|error| fault(error.into()))?;
        Ok(OpenRoot(root.into()))
    }

    /// Opens a file beneath its root, or finds it open.
    pub(super) fn open(
        &self,
        root: &OpenRoot,
        path: &[u8],
        entry: &Entry<'_>,
    ) -> Result<Arc<OpenFile>, FileFault> {
        let keep = entry.size() > KEPT_OPEN_FROM_BYTES;
        if keep && let Some(file) = lock(&self.open).get(&entry.index()) {
            return Ok(file.clone());
        }
        let file = self.find(root, path, entry)?;
        if entry.size() > SMALL_BYTES {
            // A hint that costs nothing to ignore.
            let _ = rustix::fs::fadvise(&file, 0, None, Advice::Sequential);
        }
        let (inode, size, blocks) = (entry.inode(), entry.size(), entry.blocks());
        let file = Arc::new(OpenFile { file, inode, size, blocks });
        if keep {
            lock(&self.open).put(entry.index(), file.clone());
        }
        Ok(file)
    }

    /// Opens a file where the snapshot has it, or else where it was last seen, if it is there.
    fn find(&self, root: &OpenRoot, path: &[u8], entry: &Entry<'_>) -> Result<File, FileFault> {
        let there = root.open(path);
        if there.as_ref().is_ok_and(|file| self.is_in_place(file, entry)) {
            return there;
        }
        let seen = || match self.sighting(self.manifest.root_of(entry.index())?)?.of(self, entry.index()) {
            Seen::At(path) => root.open(&path).ok(),
            Seen::Nowhere => None,
        };
        seen().filter(|file| self.is_in_place(file, entry)).map_or(there, Ok)
    }

    /// True for the inode the snapshot means, whatever became of it, and for one that looks the same.
    fn is_in_place(&self, file: &File, entry: &Entry<'_>) -> bool {
        let Ok((now, stamp)) = Now::of(file).and_then(|now| Ok((now, self.stamp(entry.inode())?))) else {
            return false;
        };
        now.0.inode == stamp.inode || now.0.looks_like(&stamp)
    }

    pub(super) fn stamp(&self, inode: EntryIndex) -> Result<Stamp, FileFault> {
        self.stamps.get(inode).map_err(fault)
    }

    /// True when the file is neither where the snapshot has it nor where it was last seen: it may have been moved.
    pub(super) fn is_missing(&self, root: &OpenRoot, path: &[u8], entry: &Entry<'_>) -> bool {
        match self.find(root, path, entry) {
            Ok(file) => !self.is_in_place(&file, entry),
            Err(FileFault::Changed) => true,
            Err(FileFault::Unreadable(_) | FileFault::NoSuchBlock) => false,
        }
    }

    /// What was last seen of a root.
    pub(super) fn sighting(&self, root: EntryIndex) -> Option<Arc<Sighting>> {
        lock(&self.sightings).get(&root).cloned()
    }

    /// Takes note of what was seen of a root.
    pub(super) fn saw(&self, root: EntryIndex, sighting: Arc<Sighting>) {
        lock(&self.sightings).insert(root, sighting);
    }

    /// Opens a file by its index, for a moment.
    pub(super) fn open_at(&self, file: EntryIndex) -> Result<Arc<OpenFile>, FileFault> {
        let entry = self.manifest.entry(file).ok_or(FileFault::NoSuchBlock)?;
        let (root, path) = self.manifest.locate(file).ok_or(FileFault::NoSuchBlock)?;
        self.open(&self.root(root)?, path.as_bytes(), &entry)
    }

    /// Closes a file that was not what it should be.
    pub(super) fn forget(&self, file: EntryIndex) {
        lock(&self.open).pop(&file);
    }

    /// Reads `count` blocks from `first` on, all of the version the snapshot names.
    pub(super) fn read(&self, file: &OpenFile, first: BlockIndex, count: u64) -> Result<Read, FileFault> {
        self.read_by(file, first, count, || file.bytes(first, count))
    }

    /// Surrounds the reading of `count` blocks from `first` on with all checks.
    pub(super) fn read_by(
        &self,
        file: &OpenFile,
        first: BlockIndex,
        count: u64,
        bytes: impl Fn() -> Result<Vec<u8>, FileFault>,
    ) -> Result<Read, FileFault> {
        let at = file.blocks.start + first.0;
        for _ in 0..TRIES {
            let before = self.look(file)?;
            let known = self.digests.get(at..at + count).map_err(fault)?;
            if known.iter().all(Option::is_some) {
                let bytes = bytes()?;
                let digests = file.digests(first, &bytes);
                let agree = known.into_iter().flatten().eq(digests.iter().copied());
                let read = Read::Done { bytes: bytes.into(), digests, bound: false };
                return if agree { Ok(read) } else { Err(FileFault::Changed) };
            }
            if !self.is_stamped(file, &before)? {
                self.accept(file, &before)?;
                continue;
            }
            if self.is_hot(file, &before) {
                if file.size > SMALL_BYTES {
                    return Ok(Read::Unsettled);
                }
                self.settle(file, &before)?;
                continue;
            }
            let bytes = bytes()?;
            let digests = file.digests(first, &bytes);
            if Now::of(&file.file)? == before && self.bind(file, first, &digests, &before)? {
                return Ok(Read::Done { bytes: bytes.into(), digests, bound: true });
            }
        }
        Err(FileFault::Unreadable("it keeps changing while it is read".into()))
    }

    /// Asks the disk for the `bytes` bytes from `offset` on before they are read.
    pub(super) fn expect(&self, file: &OpenFile, offset: u64, bytes: u64) {
        // A hint: an error is one that reading will meet again.
        let _ = rustix::fs::fadvise(&file.file, offset, std::num::NonZeroU64::new(bytes), Advice::WillNeed);
    }

    /// Looks at a file; one without the size and mtime of the snapshot's version is [`FileFault::Changed`].
    pub(super) fn look(&self, file: &OpenFile) -> Result<Now, FileFault> {
        let now = Now::of(&file.file)?;
        match now.0.looks_like(&self.stamps.get(file.inode).map_err(fault)?) {
            true => Ok(now),
            false => Err(FileFault::Changed),
        }
    }

    /// True when the file is exactly the one that blocks are bound of.
    pub(super) fn is_stamped(&self, file: &OpenFile, now: &Now) -> Result<bool, FileFault> {
        Ok(self.stamps.get(file.inode).map_err(fault)?.is_same(&now.0))
    }

    pub(super) fn is_hot(&self, file: &OpenFile, now: &Now) -> bool {
        now.is_hot(&file.file, self.hot)
    }

    /// Makes the file as it is now the version the snapshot means, unless a block of another one was bound already.
    fn accept(&self, file: &OpenFile, now: &Now) -> Result<(), FileFault> {
        clock::wait_for_step(now.0.ctime);
        let _binding = lock(&self.binding);
        // Whatever happened meanwhile, the caller looks again.
        if Now::of(&file.file)? != *now || self.is_stamped(file, now)? {
            return Ok(());
        }
        self.adopt(file.inode, 0..file.blocks.end - file.blocks.start)?;
        for window in windows(&file.blocks) {
            if self.digests.get(window).map_err(fault)?.iter().any(Option::is_some) {
                return Err(FileFault::Changed);
            }
        }
        self.stamps.set(file.inode, &now.0).map_err(fault)
    }

    /// Binds all blocks of a small hot file to the digests of one moment: those it had in two passes, one after the
    /// other.
    fn settle(&self, file: &OpenFile, before: &Now) -> Result<(), FileFault> {
        clock::wait_for_step(before.0.ctime);
        let count = file.blocks.end - file.blocks.start;
        let pass = || Ok(file.digests(BlockIndex(0), &file.bytes(BlockIndex(0), count)?));
        let digests = pass()?;
        if pass()? != digests {
            return Err(FileFault::Changed);
        }
        if Now::of(&file.file)? == *before {
            self.bind(file, BlockIndex(0), &digests, before)?;
        }
        Ok(())
    }

    /// Binds blocks that the file had as `read`; false when another version has been accepted since.
    pub(super) fn bind(
        &self,
        file: &OpenFile,
        first: BlockIndex,
        digests: &[Digest],
        read: &Now,
    ) -> Result<bool, FileFault> {
        let _binding = lock(&self.binding);
        if !self.is_stamped(file, read)? {
            return Ok(false);
        }
        self.adopt(file.inode, first.0..first.0 + digests.len() as u64)?;
        match self.digests.bind(file.blocks.start + first.0, digests).map_err(fault)? {
            Bound::Agreed => Ok(true),
            Bound::Differs { .. } => Err(FileFault::Changed),
        }
    }

    /// A place for the digests of `count` blocks that are not bound yet; it is gone when it is dropped.
    pub(super) fn candidates(&self, count: u64) -> Result<DigestFile, FileFault> {
        DigestFile::unnamed(self.manifest.path(), count).map_err(fault)
    }

    /// Counts a request in, until the value is dropped: files are held open only as long as there is one.
    pub(super) fn begin(self: &Arc<Self>) -> Reading {
        *lock(&self.readers) += 1;
        Reading(self.clone())
    }
}

/// A request under way.
#[derive(Debug)]
pub(super) struct Reading(Arc<Files>);

impl Drop for Reading {
    fn drop(&mut self) {
        let mut readers = lock(&self.0.readers);
        *readers -= 1;
        // Nobody's disk is kept from being unmounted by files that nobody reads.
        if *readers == 0 {
            lock(&self.0.open).clear();
        }
    }
}

impl OpenRoot {
    fn open(&self, path: &[u8]) -> Result<File, FileFault> {
        let file = beneath::open(self.as_fd(), path, OFlags::RDONLY);
        file.map(File::from).map_err(|errno| fault(errno.into()))
    }
}

impl AsFd for OpenRoot {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl OpenFile {
    /// A file of `blocks` blocks, which is not one of the snapshot's.
    pub(super) fn new(file: File, inode: EntryIndex, size: u64, blocks: Range<u64>) -> Self {
        Self { file, inode, size, blocks }
    }

    pub(super) fn file(&self) -> &File {
        &self.file
    }

    /// The content of `count` blocks from `first` on; a file that ends before is [`FileFault::Changed`].
    pub(super) fn bytes(&self, first: BlockIndex, count: u64) -> Result<Vec<u8>, FileFault> {
        let end = BlockIndex(first.0 + count - 1).bytes_in(self.size).end;
        let (mut at, mut bytes) = (first.offset(), Vec::with_capacity((end - first.offset()) as usize));
        while at < end {
            // The vector's whole spare capacity is what is still to come.
            match rustix::io::pread(&self.file, rustix::buffer::spare_capacity(&mut bytes), at) {
                Ok(0) => return Err(FileFault::Changed),
                Ok(read) => at += read as u64,
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(fault(error.into())),
            }
        }
        bytes.truncate((end - first.offset()) as usize);
        Ok(bytes)
    }

    pub(super) fn digests(&self, first: BlockIndex, bytes: &[u8]) -> Vec<Digest> {
        let blocks = bytes.chunks(BLOCK_BYTES as usize).zip(first.0..);
        blocks.map(|(block, index)| Digest::of_block(BlockIndex(index), self.size, block)).collect()
    }
}

/// A range of blocks in parts whose digests are known in one call each.
pub(super) fn windows(blocks: &Range<u64>) -> impl Iterator<Item = Range<u64>> + use<> {
    let end = blocks.end;
    let starts = blocks.clone().step_by(DIGESTS_PER_CALL_MAX as usize);
    starts.map(move |start| start..end.min(start + DIGESTS_PER_CALL_MAX))
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
