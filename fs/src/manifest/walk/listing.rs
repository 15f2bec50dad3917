//! Listing one directory.

use std::ffi::CStr;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::atomic::Ordering::Relaxed;

use rustix::fs::{AtFlags, FileType, OFlags, RawDir, SeekFrom};
use rustix::io::Errno;

use super::entry::{Found, Surveyor};
use super::{Root, Stamp, WalkError, WalkOptions, stat};
use crate::beneath;
use crate::clock;
use crate::git::Surroundings;
use crate::manifest::{DEPTH_MAX, LeftOutReason};

/// How often a directory is listed that changes while it is.
const TRIES: u32 = 4;

/// Bytes that a listing is read in: some 1,000 names a call.
const BUFFER_BYTES: usize = 32 * 1024;

/// Entries after which a long listing looks whether it is cancelled.
const ENTRIES_PER_CHECK: usize = 256;

/// A directory to be listed.
#[derive(Debug)]
pub(super) struct Directory {
    /// The root it lies under.
    pub(super) root: usize,
    /// Its path below the root.
    pub(super) path: Vec<u8>,
    /// What git sees in the directory above it.
    pub(super) parent: Surroundings,
    /// On another filesystem: in the manifest it is empty.
    pub(super) closed: bool,
}

impl Directory {
    pub(super) fn path_of(&self, name: &[u8]) -> Vec<u8> {
        match (self.path.as_slice(), name) {
            (b"", _) => name.to_vec(),
            (path, b"") => path.to_vec(),
            (path, _) => [path, b"/", name].concat(),
        }
    }

    /// True when no directory in it may travel.
    pub(super) fn is_deepest(&self) -> bool {
        // A name takes two bytes at least, with its separator.
        let depth_max = DEPTH_MAX as usize;
        self.path.len() >= 2 * depth_max - 1
            && self.path.iter().filter(|byte| **byte == b'/').count() + 1 >= depth_max
    }

    /// Its own name; empty for a root.
    pub(super) fn name(&self) -> &[u8] {
        self.path.rsplit(|byte| *byte == b'/').next().unwrap_or_default()
    }
}

/// What a directory holds.
#[derive(Debug, Default)]
pub(super) struct Listed {
    /// Its entries, sorted by name.
    pub(super) found: Vec<Found>,
    /// What does not travel, by name; an empty name is the directory itself.
    pub(super) left_out: Vec<(Vec<u8>, LeftOutReason)>,
    pub(super) surroundings: Surroundings,
}

/// A name as a directory lists it.
pub(super) struct Listing {
    pub(super) name: Vec<u8>,
    pub(super) kind: FileType,
    inode: u64,
}

/// One thread's means of listing directories.
pub(super) struct Lister<'w> {
    roots: &'w [Root],
    options: &'w WalkOptions<'w>,
    buffer: Vec<MaybeUninit<u8>>,
    /// The thread has a working directory of its own, which may follow it from listing to listing.
    moves: bool,
}

impl<'w> Lister<'w> {
    pub(super) fn new(roots: &'w [Root], options: &'w WalkOptions<'w>) -> Self {
        Self {
            roots,
            options,
            buffer: vec![MaybeUninit::uninit(); BUFFER_BYTES],
            moves: own_working_directory(),
        }
    }

    /// Lists `directory`; fails only when the whole walk must.
    pub(super) fn list(&mut self, directory: &Directory) -> Result<Listed, WalkError> {
        let root = &self.roots[directory.root];
        let mut listed = Listed::default();
        if directory.closed {
            return Ok(listed);
        }
        let outcome =
            beneath::open(root.directory.as_fd(), &directory.path, OFlags::RDONLY | OFlags::DIRECTORY)
                .map_err(exhausted)
                .and_then(|fd| self.list_open(&fd, directory, &mut listed));
        match outcome {
            Ok(()) => {}
            Err(WalkError::Exhausted(error)) => {
                listed = Listed::default();
                listed.left_out.push((Vec::new(), why_closed(error)?));
            }
            Err(other) => return Err(other),
        }
        listed.found.sort_unstable_by(|a, b| a.entry.name.cmp(&b.entry.name));
        listed.left_out.sort_by(|a, b| a.0.cmp(&b.0));
        Ok(listed)
    }

    /// Lists an open directory until it did not change meanwhile.
    fn list_open(
        &mut self,
        fd: &OwnedFd,
        directory: &Directory,
        listed: &mut Listed,
    ) -> Result<(), WalkError> {
        let mut before = self.stamp(fd)?;
        if clock::wait_for_step(before.ctime) {
            before = self.stamp(fd)?;
        }
        for _ in 0..TRIES {
            *listed = self.survey(fd, directory)?;
            let after = self.stamp(fd)?;
            if after == before {
                return Ok(());
            }
            before = after;
            rustix::fs::seek(fd, SeekFrom::Start(0)).map_err(exhausted)?;
        }
        listed.left_out.push((Vec::new(), LeftOutReason::Unsettled));
        Ok(())
    }

    fn stamp(&self, fd: &OwnedFd) -> Result<Stamp, WalkError> {
        self.check_cancelled()?;
        Ok(Stamp::of(&stat(fd, b"", AtFlags::empty()).map_err(exhausted)?))
    }

    fn check_cancelled(&self) -> Result<(), WalkError> {
        match self.options.cancel.load(Relaxed) {
            true => Err(WalkError::Cancelled),
            false => Ok(()),
        }
    }

    /// One pass over an open directory.
    fn survey(&mut self, fd: &OwnedFd, directory: &Directory) -> Result<Listed, WalkError> {
        let mut names = self.read(fd).map_err(exhausted)?;
        let has = |name: &[u8]| Ok::<_, WalkError>(names.iter().any(|listing| listing.name == name));
        let surroundings = Surroundings::new(directory.name(), directory.parent, has)?;
        // The order of the inode table: on a disk that has to seek it is several times faster.
        names.sort_unstable_by_key(|listing| listing.inode);
        let xattrs_at = match self.moves && rustix::process::fchdir(fd).is_ok() {
            true => String::new(),
            false => format!("/proc/self/fd/{}/", fd.as_raw_fd()),
        };
        let mut surveyor =
            Surveyor::new(self.roots, self.options.exclude, directory, fd, &xattrs_at, surroundings);
        for (at, listing) in names.into_iter().enumerate() {
            if at % ENTRIES_PER_CHECK == ENTRIES_PER_CHECK - 1 {
                self.check_cancelled()?;
            }
            surveyor.add(listing).map_err(WalkError::Exhausted)?;
        }
        Ok(Listed { surroundings, ..surveyor.listed })
    }

    fn read(&mut self, fd: &OwnedFd) -> Result<Vec<Listing>, Errno> {
        let mut names = Vec::new();
        let mut entries = RawDir::new(fd, &mut self.buffer);
        while let Some(entry) = entries.next() {
            let entry = entry?;
            let name = CStr::to_bytes(entry.file_name());
            if !matches!(name, b"." | b"..") {
                names.push(Listing { name: name.into(), kind: entry.file_type(), inode: entry.ino() });
            }
        }
        Ok(names)
    }
}

/// Gives this thread, which must be the walk's own, a working directory apart from the process's.
///
/// Before `listxattrat` (Linux 6.13) xattrs are read by path. From the directory itself that takes half the time it
/// takes through `/proc/self/fd`, which remains where a container forbids this call.
#[expect(unsafe_code, reason = "unshare is a system call without a safe form")]
fn own_working_directory() -> bool {
    // SAFETY: only the working directory, root and umask of the thread part from the others', no descriptors.
    unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::FS) }.is_ok()
}

fn exhausted(errno: Errno) -> WalkError {
    WalkError::Exhausted(errno.into())
}

/// Why a directory that is in the manifest is empty there; an error when the fault is the machine's.
fn why_closed(error: io::Error) -> Result<LeftOutReason, WalkError> {
    match Errno::from_io_error(&error) {
        Some(Errno::MFILE | Errno::NFILE | Errno::NOMEM) => Err(WalkError::Exhausted(error)),
        Some(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => Ok(LeftOutReason::Unsettled),
        Some(Errno::XDEV) => Ok(LeftOutReason::OtherFilesystem),
        _ => Ok(LeftOutReason::Unreadable(error.to_string())),
    }
}
