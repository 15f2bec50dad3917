//! The files of a snapshot as they lie on this disk: opened where they belong, and read in one version only.

use std::fs::File;
use std::num::NonZeroUsize;
use std::ops::Range;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use lru::LruCache;
use rustix::fs::{Advice, Mode, OFlags};

use super::stamps::{Stamp, Stamps};
use super::version::{Now, fault};
use super::{FileFault, RUN_BLOCKS};
use crate::clock;
use crate::confine::open_beneath;
use crate::digest::{BLOCK_BYTES, BlockIndex, Digest, block_count};
use crate::digest_file::{Bound, DIGESTS_PER_CALL_MAX, DigestFile};
use crate::manifest::{Entry, EntryIndex, Manifest};

/// Files held open at most, for each snapshot, and only while it is read from.
const OPEN_MAX: usize = 64;

/// Files up to this size are opened anew for each request: they are read in one go.
const KEPT_OPEN_FROM_BYTES: u64 = RUN_BLOCKS as u64 * BLOCK_BYTES;

/// Bytes that a hot file is read in at a time when all of it is.
const PASS_BYTES: u64 = 16 * BLOCK_BYTES;

/// How often a file is looked at again whose ctime changes while it is read.
const TRIES: u32 = 4;

/// The trees of a snapshot and what is known of their files.
#[derive(Debug)]
pub(super) struct Files {
    pub(super) manifest: Manifest,
    stamps: Stamps,
    digests: DigestFile,
    /// How long after a change a file is hot.
    hot: Duration,
    open: Mutex<LruCache<EntryIndex, Arc<OpenFile>>>,
    readers: Mutex<usize>,
}

/// The root of a tree, opened for a moment.
#[derive(Debug)]
pub(super) struct OpenRoot {
    directory: File,
    /// The device it had when the snapshot was taken, and the one it has now: devices are numbered anew at each boot.
    device: (u64, u64),
}

/// A file of the snapshot that was in its version when it was opened.
#[derive(Debug)]
pub(super) struct OpenFile {
    file: File,
    /// The first name of its inode, under which its stamp is kept.
    inode: EntryIndex,
    size: u64,
    /// Its blocks, as the manifest counts them.
    blocks: Range<u64>,
    device: (u64, u64),
    /// All its blocks are bound to the digests of one moment. Held while they are made so: whoever else wants to read
    /// the file waits, and finds it done.
    settled: Mutex<bool>,
}

impl Files {
    pub(super) fn new(manifest: Manifest, stamps: Stamps, digests: DigestFile, hot: Duration) -> Self {
        let capacity = NonZeroUsize::new(OPEN_MAX).unwrap_or(NonZeroUsize::MIN);
        let (open, readers) = (Mutex::new(LruCache::new(capacity)), Mutex::new(0));
        Self { manifest, stamps, digests, hot, open, readers }
    }

    /// Opens a root; [`FileFault::Changed`] when another directory is in its place, or none.
    pub(super) fn root(&self, root: EntryIndex) -> Result<OpenRoot, FileFault> {
        let stamp = self.stamps.get(root).map_err(fault)?;
        let path = self.manifest.meta().roots.get(root.0 as usize).ok_or(FileFault::NoSuchBlock)?;
        let path = Path::new(std::ffi::OsStr::from_bytes(path));
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory =
            File::from(rustix::fs::open(path, flags, Mode::empty()).map_err(|error| fault(error.into()))?);
        let now = rustix::fs::fstat(&directory).map_err(|error| fault(error.into()))?;
        match now.st_ino == stamp.inode {
            true => Ok(OpenRoot { directory, device: (stamp.device, now.st_dev) }),
            false => Err(FileFault::Changed),
        }
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
        let file = File::from(open_beneath(root.directory.as_fd(), path, OFlags::RDONLY).map_err(fault)?);
        if entry.size() > PASS_BYTES {
            // A hint that costs nothing to ignore.
            let _ = rustix::fs::fadvise(&file, 0, None, Advice::Sequential);
        }
        let file = Arc::new(OpenFile {
            file,
            inode: entry.inode(),
            size: entry.size(),
            blocks: entry.blocks(),
            device: root.device,
            settled: Mutex::new(false),
        });
        if keep {
            lock(&self.open).put(entry.index(), file.clone());
        }
        Ok(file)
    }

    /// Closes a file that was not what it should be.
    pub(super) fn forget(&self, file: EntryIndex) {
        lock(&self.open).pop(&file);
    }

    /// Reads `count` blocks from `first` on, all of the version the snapshot names.
    ///
    /// The times are compared before and after, and the digests with those bound to the blocks earlier. A file that
    /// is hot is read twice as a whole before its first block is given away.
    pub(super) fn read(
        &self,
        file: &OpenFile,
        first: BlockIndex,
        count: u64,
        cancelled: &AtomicBool,
    ) -> Result<(Bytes, Vec<Digest>), FileFault> {
        self.read_by(file, first, cancelled, || file.bytes(first, count))
    }

    /// Surrounds the reading of blocks from `first` on with all checks.
    pub(super) fn read_by(
        &self,
        file: &OpenFile,
        first: BlockIndex,
        cancelled: &AtomicBool,
        bytes: impl Fn() -> Result<Vec<u8>, FileFault>,
    ) -> Result<(Bytes, Vec<Digest>), FileFault> {
        for _ in 0..TRIES {
            let before = self.check(file, cancelled)?;
            if before.is_hot(&file.file, self.hot) {
                self.settle(file, &before, cancelled)?;
            }
            let bytes = bytes()?;
            let digests = file.digests(first, &bytes);
            if Now::of(&file.file)? == before {
                self.bind(file, first, &digests)?;
                return Ok((bytes.into(), digests));
            }
        }
        Err(FileFault::Unreadable("it keeps changing while it is read".into()))
    }

    /// Checks that the file has no content to be read, and still is the snapshot's version.
    pub(super) fn check_empty(&self, file: &OpenFile, cancelled: &AtomicBool) -> Result<(), FileFault> {
        self.check(file, cancelled).map(|_| ())
    }

    /// Asks the disk for the `bytes` bytes from `offset` on before they are read.
    pub(super) fn expect(&self, file: &OpenFile, offset: u64, bytes: u64) {
        // A hint: an error is one that reading will meet again.
        let _ = rustix::fs::fadvise(&file.file, offset, std::num::NonZeroU64::new(bytes), Advice::WillNeed);
    }

    /// Compares an open file with its stamp.
    fn check(&self, file: &OpenFile, cancelled: &AtomicBool) -> Result<Now, FileFault> {
        let stamp = self.stamps.get(file.inode).map_err(fault)?;
        let now = Now::of(&file.file)?;
        if !now.is_version(&file.current(stamp, now.0.device)) {
            return Err(FileFault::Changed);
        }
        if now.0.ctime != stamp.ctime {
            return self.compare(file, now, cancelled);
        }
        Ok(now)
    }

    /// Settles whether a change of the ctime changed the content: compares the blocks that are bound.
    fn compare(&self, file: &OpenFile, now: Now, cancelled: &AtomicBool) -> Result<Now, FileFault> {
        clock::wait_for_step(now.0.ctime);
        let mut at = file.blocks.start;
        while at < file.blocks.end {
            let end = file.blocks.end.min(at + PASS_BYTES / BLOCK_BYTES);
            let known = self.digests.get(at..end).map_err(fault)?;
            if known.iter().any(Option::is_some) {
                let first = BlockIndex(at - file.blocks.start);
                let found = file.digests(first, &file.bytes(first, end - at)?);
                if known.iter().zip(&found).any(|(known, found)| known.is_some_and(|known| known != *found)) {
                    return Err(FileFault::Changed);
                }
            }
            stop_if(cancelled)?;
            at = end;
        }
        let after = Now::of(&file.file)?;
        if after != now {
            return Err(match after.is_version(&now.0) {
                true => FileFault::Unreadable("its properties keep changing".into()),
                false => FileFault::Changed,
            });
        }
        self.stamps.set_ctime(file.inode, now.0.ctime).map_err(fault)?;
        Ok(now)
    }

    /// Binds all blocks of a hot file to the digests of one moment: those it had in two passes, one after the other.
    ///
    /// What is served later is compared with them, so that no writer, however unseen, can mix two versions.
    fn settle(&self, file: &OpenFile, before: &Now, cancelled: &AtomicBool) -> Result<(), FileFault> {
        let mut settled = lock(&file.settled);
        if *settled {
            return Ok(());
        }
        let count = file.blocks.end - file.blocks.start;
        if count > DIGESTS_PER_CALL_MAX {
            return Err(FileFault::Unreadable("it is open for writing, and larger than 4 GiB".into()));
        }
        let known = self.digests.get(file.blocks.clone()).map_err(fault)?;
        if known.iter().any(Option::is_none) {
            clock::wait_for_step(before.0.ctime);
            let digests = file.pass(cancelled)?;
            if file.pass(cancelled)? != digests || !Now::of(&file.file)?.is_version(&before.0) {
                return Err(FileFault::Changed);
            }
            self.bind(file, BlockIndex(0), &digests)?;
        }
        *settled = true;
        Ok(())
    }

    fn bind(&self, file: &OpenFile, first: BlockIndex, digests: &[Digest]) -> Result<(), FileFault> {
        match self.digests.bind(file.blocks.start + first.0, digests).map_err(fault)? {
            Bound::Agreed => Ok(()),
            Bound::Differs { .. } => Err(FileFault::Changed),
        }
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

impl OpenFile {
    /// The stamp with the device number it would have now; `found` is the file's.
    fn current(&self, stamp: Stamp, found: u64) -> Stamp {
        let (then, now) = self.device;
        let device = match stamp.device == then {
            true => now,
            // Another volume of the same filesystem: after a boot nothing tells its new number.
            false if then != now => found,
            false => stamp.device,
        };
        Stamp { device, ..stamp }
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

    fn digests(&self, first: BlockIndex, bytes: &[u8]) -> Vec<Digest> {
        let blocks = bytes.chunks(BLOCK_BYTES as usize).zip(first.0..);
        blocks.map(|(block, index)| Digest::of_block(BlockIndex(index), self.size, block)).collect()
    }

    /// The digests of all blocks.
    fn pass(&self, cancelled: &AtomicBool) -> Result<Vec<Digest>, FileFault> {
        let (count, step) = (block_count(self.size), PASS_BYTES / BLOCK_BYTES);
        let mut digests = Vec::with_capacity(count as usize);
        for first in (0..count).step_by(step as usize) {
            stop_if(cancelled)?;
            let first = BlockIndex(first);
            digests.extend(self.digests(first, &self.bytes(first, step.min(count - first.0))?));
        }
        Ok(digests)
    }
}

/// Ends a long read whose result nobody takes any more.
fn stop_if(cancelled: &AtomicBool) -> Result<(), FileFault> {
    match cancelled.load(Relaxed) {
        true => Err(FileFault::Unreadable("the request was cancelled".into())),
        false => Ok(()),
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
