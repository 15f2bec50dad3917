//! Giving away what a file is now, when it is no longer what the snapshot names.
//!
//! What is at the file's path counts; where nothing is, the file itself, if it was moved; then its name in its own
//! directory, if that was. A file is read in two passes: the first notes the digests of all blocks, the second gives
//! the blocks away, each only with the digest it had in the first. So what was given away is what the file held at the
//! instant between the two; and its properties must be the same at the end as they were at the beginning. Whatever
//! does not hold is a fault, and what has been given away is worth nothing then.

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;

use rustix::fs::{AtFlags, FileType, OFlags, Statx, StatxFlags};
use rustix::io::Errno;
use tokio::sync::mpsc::Sender;

use super::anew::{Anew, FileVersion, KEPT_BLOCKS_MAX, NAMES_MAX, TakeAnew, Version};
use super::files::{Files, OpenFile, OpenRoot};
use super::moment::{READ_BLOCKS, STEP_BLOCKS};
use super::pool::{Lost, ReadPool};
use super::search::Seen;
use super::stamps::Stamp;
use super::version::{Now, fault};
use super::whereabouts::Whereabouts;
use super::{Class, FileFault, OriginError, RUN_BLOCKS, Run};
use crate::beneath;
use crate::clock;
use crate::digest::{BlockIndex, Digest};
use crate::digest_file::DigestFile;
use crate::manifest::walk::{holes, open_xattrs};
use crate::manifest::{EntryIndex, FILE_BYTES_MAX, Kind};

/// Permission bits that travel.
const MODE_BITS: u16 = 0o1777;

type Items = Sender<Result<Anew, OriginError>>;

/// One request.
pub(super) struct Take {
    pub(super) files: Arc<Files>,
    pub(super) pool: ReadPool,
    pub(super) whereabouts: Arc<Whereabouts>,
    pub(super) wanted: TakeAnew,
    pub(super) class: Class,
}

/// How a request ends early: with a fault, or without anything, because nobody listens or the runtime ends.
enum Ended {
    Fault(FileFault),
    Lost,
}

impl From<FileFault> for Ended {
    fn from(fault: FileFault) -> Self {
        Self::Fault(fault)
    }
}

impl From<Lost> for Ended {
    fn from(_: Lost) -> Self {
        Self::Lost
    }
}

impl Take {
    /// Answers the request. May be dropped at any moment.
    pub(super) async fn run(self, items: &Items) {
        let last = match self.take(items).await {
            Ok(()) => return,
            Err(Ended::Fault(fault)) => Ok(Anew::Fault(fault)),
            Err(Ended::Lost) => Err(OriginError::Gone("a read of a local file broke off".into())),
        };
        // Nobody may be listening any more.
        let _ = items.send(last).await;
    }

    async fn take(&self, items: &Items) -> Result<(), Ended> {
        let found = match self.find().await? {
            Some(found) => found,
            None => {
                let looked = self.whereabouts.look_for(self.wanted.entry).await;
                if let Err(fault @ (FileFault::Unreadable(_) | FileFault::NoSuchBlock)) = looked {
                    return Err(fault.into());
                }
                match self.find().await? {
                    Some(found) => found,
                    None => {
                        let (files, entry) = (self.files.clone(), self.wanted.entry);
                        self.pool.run(self.class, move || is_surely_gone(&files, entry)).await??;
                        Found::Version(Version::Absent)
                    }
                }
            }
        };
        match found {
            Found::Version(version) => send(items, Anew::Is(version)).await,
            Found::File(reading) => self.give(*reading, items).await,
        }
    }

    async fn find(&self) -> Result<Option<Found>, Ended> {
        let (files, entry) = (self.files.clone(), self.wanted.entry);
        Ok(self.pool.run(self.class, move || find(&files, entry)).await??)
    }

    async fn give(&self, mut reading: Reading, items: &Items) -> Result<(), Ended> {
        send(items, Anew::Is(Version::File(reading.version.clone()))).await?;
        while reading.next < reading.version.blocks() {
            let step = move || {
                let noted = reading.note();
                (reading, noted)
            };
            let (back, noted) = self.pool.run_pass(step).await?;
            noted?;
            reading = back;
            send(items, Anew::Reading(reading.next)).await?;
        }
        reading.next = 0;
        while reading.next < reading.version.blocks() {
            let (files, wanted) = (self.files.clone(), self.wanted.clone());
            let step = move || {
                let read = reading.give(&files, &wanted);
                (reading, read)
            };
            let (back, given) = self.pool.run(self.class, step).await?;
            reading = back;
            for item in given? {
                send(items, item).await?;
            }
        }
        self.pool.run(self.class, move || reading.conclude()).await??;
        send(items, Anew::End).await
    }
}

async fn send(items: &Items, item: Anew) -> Result<(), Ended> {
    items.send(Ok(item)).await.map_err(|_| Ended::Lost)
}

/// What is there.
enum Found {
    /// No regular file.
    Version(Version),
    File(Box<Reading>),
}

/// Finds what is there now, be it elsewhere; `None` is nothing.
fn find(files: &Arc<Files>, index: EntryIndex) -> Result<Option<Found>, FileFault> {
    let entry = files.manifest.entry(index).filter(|entry| entry.kind() == Kind::File);
    let entry = entry.ok_or(FileFault::NoSuchBlock)?;
    if entry.has_extra() && entry.extra().git_config.is_some() {
        // What is shown of it has come with the manifest.
        return Err(FileFault::NoSuchBlock);
    }
    let (at, path) = files.manifest.locate(index).ok_or(FileFault::NoSuchBlock)?;
    let root = files.root(at).map_err(|_| no_root())?;
    if let Some(found) = look(files, &root, path.as_bytes(), index)? {
        return Ok(Some(found));
    }
    let Some(sighting) = files.sighting(at) else { return Ok(None) };
    match sighting.place_of(files, index) {
        Some(path) => look(files, &root, &path, index),
        None => Ok(None),
    }
}

fn look(
    files: &Arc<Files>,
    root: &OpenRoot,
    path: &[u8],
    index: EntryIndex,
) -> Result<Option<Found>, FileFault> {
    let there = match beneath::open(root.as_fd(), path, OFlags::PATH) {
        Ok(there) => there,
        Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return Ok(None),
        Err(Errno::XDEV) => return Ok(Some(Found::Version(Version::Other))),
        Err(errno) => return Err(fault(errno.into())),
    };
    let stat = stat(&there)?;
    let version = match FileType::from_raw_mode(stat.stx_mode.into()) {
        FileType::RegularFile => {
            return Reading::open(files, root, path, index)
                .map(|reading| Some(Found::File(Box::new(reading))));
        }
        FileType::Symlink => {
            let target =
                rustix::fs::readlinkat(&there, "", Vec::new()).map_err(|errno| fault(errno.into()))?;
            let target = target.into_bytes();
            match target.is_empty() {
                true => Version::Other,
                false => Version::Symlink { target, mtime: Stamp::of(&stat).mtime },
            }
        }
        _ => Version::Other,
    };
    Ok(Some(Found::Version(version)))
}

fn stat(file: impl AsFd) -> Result<Statx, FileFault> {
    let stat = rustix::fs::statx(file, "", AtFlags::EMPTY_PATH, StatxFlags::BASIC_STATS);
    stat.map_err(|errno| fault(errno.into()))
}

fn no_root() -> FileFault {
    FileFault::Unreadable("the directory it was shared from is not there".into())
}

/// Checks that nothing can be expected of a file that was not found: all names were seen, and the root is the one the
/// snapshot was taken of, not the empty directory beneath a disk that is not mounted.
fn is_surely_gone(files: &Files, index: EntryIndex) -> Result<(), FileFault> {
    let (at, _) = files.manifest.locate(index).ok_or(FileFault::NoSuchBlock)?;
    let path = files.manifest.meta().roots.get(at.0 as usize).ok_or(FileFault::NoSuchBlock)?;
    let root = rustix::fs::stat(std::ffi::OsStr::from_bytes(path)).map_err(|_| no_root())?;
    if root.st_ino != files.stamp(at)?.inode {
        return Err(FileFault::Unreadable("another directory is where it was shared from".into()));
    }
    match files.sighting(at) {
        Some(seen) if seen.is_complete && seen.of(files, index) == Seen::Nowhere => Ok(()),
        _ => Err(FileFault::Unreadable("it was not found, but not everything could be looked at".into())),
    }
}

/// A file that is being given away.
struct Reading {
    file: OpenFile,
    version: FileVersion,
    /// What it was when it was opened.
    began: Now,
    /// The digests of the first pass.
    found: DigestFile,
    /// The block at which the pass is.
    next: u64,
    /// Blocks of the version that the snapshot names, as the manifest counts them.
    old: std::ops::Range<u64>,
}

impl Reading {
    fn open(files: &Arc<Files>, root: &OpenRoot, path: &[u8], index: EntryIndex) -> Result<Self, FileFault> {
        let entry = files.manifest.entry(index).ok_or(FileFault::NoSuchBlock)?;
        let file: OwnedFd =
            beneath::open(root.as_fd(), path, OFlags::RDONLY).map_err(|errno| fault(errno.into()))?;
        let file = File::from(file);
        let mut began = Now::of(&file)?;
        if clock::wait_for_step(began.0.ctime) {
            began = Now::of(&file)?;
        }
        let stat = stat(&file)?;
        let size = began.0.size;
        if size > FILE_BYTES_MAX {
            return Err(FileFault::Unreadable("it is larger than a file may be".into()));
        }
        let version = FileVersion {
            size,
            mtime: began.0.mtime,
            mode: stat.stx_mode & MODE_BITS,
            xattrs: open_xattrs(&file).map_err(|errno| fault(errno.into()))?,
            holes: holes_of(&file, size, &stat),
            names: names(files, root, index, &began),
        };
        let found = files.candidates(version.blocks())?;
        let file = OpenFile::new(file, entry.inode(), size, 0..version.blocks());
        Ok(Self { file, version, began, found, next: 0, old: entry.blocks() })
    }

    /// Reads on in the first pass.
    fn note(&mut self) -> Result<(), FileFault> {
        let end = self.version.blocks().min(self.next + STEP_BLOCKS);
        while self.next < end {
            if let Some((first, count)) = self.data(end, READ_BLOCKS) {
                let digests = self.file.digests(first, &self.file.bytes(first, count)?);
                self.found.set(first.0, &digests).map_err(fault)?;
            }
        }
        Ok(())
    }

    /// Goes on to the next blocks before `end` that are not wholly in a hole, `count` at most, and past them.
    fn data(&mut self, end: u64, count: u64) -> Option<(BlockIndex, u64)> {
        let hole = |block: &u64| self.version.is_hole(*block);
        let first = (self.next..end).find(|block| !hole(block)).unwrap_or(end);
        let past = (first..end.min(first + count)).find(hole).unwrap_or(end.min(first + count));
        self.next = past;
        (past > first).then_some((BlockIndex(first), past - first))
    }

    /// Reads on in the second pass, and gives it away.
    fn give(&mut self, files: &Files, wanted: &TakeAnew) -> Result<Vec<Anew>, FileFault> {
        let end = self.version.blocks();
        let mut items = Vec::new();
        // Of blocks that are kept only digests travel, so a step may have some more of them.
        while items.is_empty() && self.next < end {
            let Some((first, count)) = self.data(end, KEPT_BLOCKS_MAX as u64) else { break };
            let found: Vec<Digest> = self.known(first, count)?;
            let kept: Vec<bool> = self.kept(files, wanted, first, &found)?;
            let alike = kept.iter().take_while(|is_kept| **is_kept == kept[0]).count() as u64;
            let count = if kept[0] { alike } else { alike.min(RUN_BLOCKS as u64) };
            self.next = first.0 + count;
            let mut at = first.0;
            let mut given = Vec::new();
            while at < self.next {
                let read = RUN_BLOCKS.min((self.next - at) as usize) as u64;
                let bytes = self.file.bytes(BlockIndex(at), read)?;
                let digests = self.file.digests(BlockIndex(at), &bytes);
                if digests != found[(at - first.0) as usize..][..read as usize] {
                    return Err(FileFault::Changed);
                }
                given.extend(digests.iter().copied());
                if !kept[0] {
                    let file = wanted.entry;
                    items.push(Anew::Run(Run { file, first: BlockIndex(at), digests, bytes: bytes.into() }));
                }
                at += read;
            }
            if kept[0] {
                items.push(Anew::Kept { first, digests: given });
            }
        }
        Ok(items)
    }

    fn known(&self, first: BlockIndex, count: u64) -> Result<Vec<Digest>, FileFault> {
        let known = self.found.get(first.0..first.0 + count).map_err(fault)?;
        known.into_iter().collect::<Option<Vec<_>>>().ok_or(FileFault::Changed)
    }

    /// Which blocks the reader has as they are now.
    fn kept(
        &self,
        files: &Files,
        wanted: &TakeAnew,
        first: BlockIndex,
        found: &[Digest],
    ) -> Result<Vec<bool>, FileFault> {
        let old = self.old.end - self.old.start;
        let (start, end) = (first.0.min(old), (first.0 + found.len() as u64).min(old));
        let bound = files.digests.get(self.old.start + start..self.old.start + end).map_err(fault)?;
        let bound = bound.into_iter().chain(std::iter::repeat(None));
        let is_kept = |((block, digest), bound): ((u64, &Digest), Option<Digest>)| {
            bound.as_ref() == Some(digest) && wanted.holds(block)
        };
        Ok((first.0..).zip(found).zip(bound).map(is_kept).collect())
    }

    /// Checks that it is still what it was.
    fn conclude(self) -> Result<(), FileFault> {
        let stat = stat(self.file.file())?;
        let same = Now::of(self.file.file())? == self.began
            && holes_of(self.file.file(), self.version.size, &stat) == self.version.holes;
        if same { Ok(()) } else { Err(FileFault::Changed) }
    }
}

/// The holes of a file, as a walk finds them.
fn holes_of(file: &File, size: u64, stat: &Statx) -> Vec<std::ops::Range<u64>> {
    match stat.stx_blocks.saturating_mul(512) < size {
        true => holes(file, size),
        false => Vec::new(),
    }
}

/// The names of the old file that are names of this one.
fn names(files: &Files, root: &OpenRoot, index: EntryIndex, now: &Now) -> Vec<EntryIndex> {
    let Some(entry) = files.manifest.entry(index).filter(|entry| entry.nlink() > 1) else {
        return vec![index];
    };
    let is_name = |other: &EntryIndex| {
        let path = files.manifest.locate(*other).map(|(_, path)| path);
        let there = path.and_then(|path| beneath::open(root.as_fd(), path.as_bytes(), OFlags::PATH).ok());
        let stamp = there.and_then(|there| stat(there).ok()).map(|stat| Stamp::of(&stat));
        stamp.is_some_and(|stamp| (stamp.device, stamp.inode) == (now.0.device, now.0.inode))
    };
    let others =
        files.manifest.iter().filter(|other| other.inode() == entry.inode() && other.index() != index);
    let others = others.map(|other| other.index()).filter(is_name).take(NAMES_MAX - 1);
    let mut names: Vec<_> = std::iter::once(index).chain(others).collect();
    names.sort_unstable();
    names
}
