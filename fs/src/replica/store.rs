//! The files of a replica on its disk: making, opening and writing them. Everything here may block.
//!
//! A file gets its state before it gets a size or a name (an unnamed file, its xattr, its length, then the link), so
//! no crash leaves one without. While it is unfinished its mode is 0600, whatever the true one, or its own user could
//! neither read nor set its state. A file with several names lies in `links/` under its manifest index.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use rustix::fs::{AtFlags, FallocateFlags, Mode, OFlags};
use rustix::io::Errno;

use super::editions;
use super::layout::Layout;
use super::numbers::Numbers;
use super::probe::Backing;
use super::state::{self, State};
use crate::beneath;
use crate::digest::BlockIndex;
use crate::manifest::{Entry, Manifest};
use crate::name::RelPath;

/// Why a file on the disk cannot be used.
#[derive(Debug, thiserror::Error)]
pub(super) enum StoreError {
    /// The system refused.
    #[error(transparent)]
    System(#[from] Errno),
    /// What lies there was not put there by this replica.
    #[error("what lies there is not the file that belongs there: {0}")]
    Foreign(&'static str),
    /// It has no name any more.
    #[error("it was removed")]
    Removed,
}

impl StoreError {
    /// The errno that tells a caller.
    pub(super) fn errno(&self) -> Errno {
        match self {
            Self::System(errno) => *errno,
            Self::Foreign(_) => Errno::IO,
            Self::Removed => Errno::NOENT,
        }
    }
}

/// The replica's directory as a place for files.
#[derive(Debug)]
pub(super) struct Store {
    pub(super) layout: Arc<Layout>,
    pub(super) backing: Backing,
    /// Under which files lie, in a view that follows its origin.
    pub(super) numbers: Option<Arc<Numbers>>,
}

/// Where a file belongs: below a root's directory, among the files with several names, or among all by its number.
enum Place<'l> {
    Below(BorrowedFd<'l>, RelPath),
    Anchor(String),
    Numbered(BorrowedFd<'l>, RelPath),
}

impl Store {
    /// Opens the file of an inode with these flags.
    pub(super) fn open_as(
        &self,
        manifest: &Manifest,
        inode: &Entry<'_>,
        flags: OFlags,
    ) -> Result<Option<File>, StoreError> {
        let opened = match self.place(manifest, inode)? {
            Place::Below(root, path) => {
                match (beneath::open(root, path.as_bytes(), flags), self.layout.settled()) {
                    // Names only ever move up, so one that is no longer here is there.
                    (Err(Errno::NOENT), Some(settled)) => beneath::open(settled, path.as_bytes(), flags),
                    (opened, _) => opened,
                }
            }
            Place::Anchor(name) => beneath::open(self.layout.links(), name.as_bytes(), flags),
            Place::Numbered(content, path) => beneath::open(content, path.as_bytes(), flags),
        };
        match opened {
            Ok(file) => Ok(Some(file.into())),
            Err(Errno::NOENT) => Ok(None),
            // A directory in place of a file, or a file or a symlink in place of one of its directories.
            Err(Errno::ISDIR | Errno::NOTDIR | Errno::LOOP) => {
                Err(StoreError::Foreign("it is of another kind"))
            }
            Err(errno) => Err(errno.into()),
        }
    }

    /// Makes the file of an inode, all of it a hole, with the directories above it.
    pub(super) fn make(&self, manifest: &Manifest, inode: &Entry<'_>) -> Result<File, StoreError> {
        let (directory, name): (OwnedFd, Vec<u8>) = match self.place(manifest, inode)? {
            Place::Below(root, path) | Place::Numbered(root, path) => {
                let mut names: Vec<_> = path.names().collect();
                let name = names.pop().ok_or(StoreError::Foreign("it is a root"))?.to_vec();
                let parent = RelPath::from_names(names).map_err(|_| Errno::INVAL)?;
                let made = beneath::make_directories(root, &parent).map_err(|errno| match errno {
                    Errno::NOTDIR | Errno::LOOP => {
                        StoreError::Foreign("one of its directories is of another kind")
                    }
                    errno => errno.into(),
                });
                (made?, name)
            }
            Place::Anchor(name) => (rustix::io::dup(self.layout.links())?, name.into_bytes()),
        };
        let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
        let file = rustix::fs::openat(&directory, ".", flags, Mode::RUSR | Mode::WUSR)?;
        state::set(&file, &self.state_of(inode))?;
        rustix::fs::ftruncate(&file, inode.size())?;
        match link_into(file.as_fd(), directory.as_fd(), &name) {
            Ok(()) => Ok(file.into()),
            // Another edition has made it meanwhile: it is the same version of the file.
            Err(Errno::EXIST) if self.numbers.is_some() => {
                self.open_as(manifest, inode, OFlags::RDWR)?.ok_or(StoreError::System(Errno::NOENT))
            }
            Err(Errno::EXIST) => Err(StoreError::Foreign("something else came to lie there")),
            Err(errno) => Err(errno.into()),
        }
    }

    /// Makes the file of an inode that has lost its names while it is open, and that nobody will find.
    pub(super) fn make_unnamed(&self, state: &State, size: u64) -> Result<File, StoreError> {
        let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
        let file = rustix::fs::openat(self.layout.links(), ".", flags, Mode::RUSR | Mode::WUSR)?;
        state::set(&file, state)?;
        rustix::fs::ftruncate(&file, size)?;
        Ok(file.into())
    }

    /// The state of the file that has just been made for an inode. In a view its number is in it in place of its index,
    /// which another edition's may be.
    pub(super) fn state_of(&self, inode: &Entry<'_>) -> State {
        let state = State::of(inode, inode.mode());
        match self.numbers.as_ref().and_then(|numbers| numbers.number(inode.inode())) {
            Some(number) => State { index: Some(state::numbered(number)), ..state },
            None => state,
        }
    }

    /// Removes the name of an inode's file, and with it the file.
    pub(super) fn remove(&self, manifest: &Manifest, inode: &Entry<'_>) -> Result<(), StoreError> {
        let removed = match self.place(manifest, inode)? {
            Place::Below(root, path) | Place::Numbered(root, path) => {
                let mut names: Vec<_> = path.names().collect();
                let name = names.pop().ok_or(StoreError::Foreign("it is a root"))?.to_vec();
                let parent = RelPath::from_names(names).map_err(|_| Errno::INVAL)?;
                beneath::open(root, parent.as_bytes(), OFlags::PATH | OFlags::DIRECTORY)
                    .and_then(|parent| rustix::fs::unlinkat(parent, &name[..], AtFlags::empty()))
            }
            Place::Anchor(name) => rustix::fs::unlinkat(self.layout.links(), name, AtFlags::empty()),
        };
        match removed {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(errno) => Err(errno.into()),
        }
    }

    fn place(&self, manifest: &Manifest, inode: &Entry<'_>) -> Result<Place<'_>, StoreError> {
        if let (Some(in_view), Some(numbers)) = (self.layout.in_view(), &self.numbers) {
            let number = numbers.number(inode.inode()).ok_or(Errno::IO)?;
            let names = editions::names_of(number);
            let path = RelPath::from_names(names.iter().map(String::as_bytes)).map_err(|_| Errno::INVAL)?;
            return Ok(Place::Numbered(in_view.content(), path));
        }
        if inode.nlink() > 1 {
            return Ok(Place::Anchor(inode.index().0.to_string()));
        }
        let (top, path) = self.layout.below(manifest, inode.index()).ok_or(Errno::IO)?;
        Ok(Place::Below(top, path))
    }
}

/// Gives an unnamed file a name. Through `/proc`, since linking by descriptor alone needs CAP_DAC_READ_SEARCH before
/// Linux 6.10.
pub(super) fn link_into(file: BorrowedFd<'_>, directory: BorrowedFd<'_>, name: &[u8]) -> Result<(), Errno> {
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    rustix::fs::linkat(rustix::fs::CWD, path, directory, name, AtFlags::SYMLINK_FOLLOW)
}

/// Writes all of `bytes` at `offset`. On an error, tells how many were written before it.
pub(super) fn write_at(file: &File, bytes: &[u8], offset: u64) -> Result<(), (usize, Errno)> {
    let mut written = 0;
    while written < bytes.len() {
        match file.write_at(&bytes[written..], offset + written as u64) {
            Ok(0) => return Err((written, Errno::NOSPC)),
            Ok(count) => written += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err((written, to_errno(error))),
        }
    }
    Ok(())
}

/// Makes a hole where `blocks` of a file lie. All of a last block goes, also beyond the end of the file: of a page that
/// is punched in part only the bytes are cleared, and it stays mapped.
pub(super) fn punch(file: &File, blocks: &Range<u64>) -> Result<(), Errno> {
    punch_bytes(file, &(BlockIndex(blocks.start).offset()..BlockIndex(blocks.end).offset()))
}

/// Makes a hole of these bytes of a file, whose length stays.
pub(super) fn punch_bytes(file: &File, bytes: &Range<u64>) -> Result<(), Errno> {
    let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    if bytes.is_empty() {
        return Ok(());
    }
    rustix::fs::fallocate(file, flags, bytes.start, bytes.end - bytes.start)
}

pub(super) fn to_errno(error: io::Error) -> Errno {
    Errno::from_io_error(&error).unwrap_or(Errno::IO)
}
