//! Reaching the directories of the tree that are on the disk.

use std::ffi::OsStr;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;

use rustix::fs::{AtFlags, FileType, Mode};
use rustix::io::Errno;

use super::super::lock;
use super::super::state::{self, Stated};
use super::directory::Directory;
use super::make::made_here;
use super::{DIRECTORY, Found, InodeKey, Names, NamesError, ROOT, STALE, mtime_of};
use crate::beneath;
use crate::clock;

impl Names {
    /// The directory on the disk; none for a virtual one.
    pub(super) fn directory(&self, key: InodeKey) -> Result<Option<Arc<Directory>>, NamesError> {
        let mut below = Vec::new();
        let mut at = key;
        let mut directory = loop {
            if at == ROOT {
                break self.root.clone();
            }
            if let Some(directory) = self.directories.find(at) {
                break directory;
            }
            if self.is_absent(at) {
                self.note_absent(at, &below);
                return Ok(None);
            }
            let name = self.locate(at)?;
            let above = name.directory;
            below.push((at, name.name));
            at = above;
        };
        for (key, name) in below.into_iter().rev() {
            match self.open_directory(&directory, key, &name)? {
                Some(found) => directory = found,
                None => return Ok(None),
            }
        }
        Ok(Some(directory))
    }

    /// What lies below a directory that is not on the disk is not there either.
    fn note_absent(&self, above: InodeKey, below: &[(InodeKey, Box<[u8]>)]) {
        if below.is_empty() {
            return;
        }
        let _placing = lock(&self.placing);
        if self.is_absent(above) {
            let indices = below.iter().filter_map(|(key, _)| key.entry());
            for index in indices {
                self.absent.set(index);
            }
        }
    }

    fn is_absent(&self, key: InodeKey) -> bool {
        matches!(key, InodeKey::Entry(index) if self.absent.is_set(index))
    }

    fn open_directory(
        &self,
        above: &Directory,
        key: InodeKey,
        name: &[u8],
    ) -> Result<Option<Arc<Directory>>, NamesError> {
        let _placing = lock(&self.placing);
        if let Some(directory) = self.directories.find(key) {
            return Ok(Some(directory));
        }
        let number = match self.look(above, name)? {
            Some(Found::OnDisk(found)) if found.key == key => found.stat.st_ino,
            Some(Found::Virtual(entry)) if key == InodeKey::Entry(entry.index()) => {
                self.absent.set(entry.index());
                return Ok(None);
            }
            _ => return Err(STALE),
        };
        let fd = match beneath::open(above.fd(), name, DIRECTORY) {
            Err(Errno::ACCESS) => reopened(above.fd(), name)?,
            Err(Errno::NOENT | Errno::NOTDIR) => return Err(STALE),
            fd => fd?,
        };
        // It may have been moved since, and another one to its place.
        if rustix::fs::fstat(&fd)?.st_ino != number {
            return Err(STALE);
        }
        let directory = Arc::new(Directory::new(key, fd)?);
        self.directories.keep(&directory);
        Ok(Some(directory))
    }
}

/// Opens a directory that its own user may not work in. None of ours is so; somebody has closed one beneath the mount. It
/// is treated as one that was closed through it: open on the disk, with a state that has its true mode.
fn reopened(above: BorrowedFd<'_>, name: &[u8]) -> Result<OwnedFd, Errno> {
    let stat = rustix::fs::statat(above, name, AtFlags::SYMLINK_NOFOLLOW)?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::Directory {
        return Err(Errno::STALE);
    }
    rustix::fs::chmodat(above, name, Mode::RWXU, AtFlags::empty()).inspect_err(|errno| {
        let at = std::fs::read_link(format!("/proc/self/fd/{}", above.as_raw_fd())).unwrap_or_default();
        let path = at.join(OsStr::from_bytes(name));
        tracing::warn!(path = %path.display(), %errno, "a directory of a clone cannot be looked into, and not be opened");
    })?;
    let directory = beneath::open(above, name, DIRECTORY)?;
    if state::get(&directory)? == Stated::Nothing {
        // The type's bits are above these.
        let mode = (stat.st_mode & 0o7777) as u16;
        state::set(&directory, &made_here(mode, mtime_of(&stat), clock::now()))?;
    }
    Ok(directory)
}
