//! Where things are made before they get their name, and go when they lose it. Emptied at every start.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, RenameFlags, Stat};
use rustix::io::Errno;

use super::super::lock;
use super::super::store::link_into;
use crate::beneath;

/// The name of the whiteout that all others are links to.
const WHITEOUT: &str = "whiteout";

/// The directory, on the filesystem of the tree.
#[derive(Debug)]
pub(super) struct Staging {
    at: OwnedFd,
    next: AtomicU64,
    /// Held while the whiteout is replaced by one with fewer links.
    whiteout: Mutex<()>,
}

/// A device number that no device has: together with "character device" it says that there is no such name, to us and
/// to overlayfs. Ordinary users may make it since Linux 5.8.
pub(super) const NO_DEVICE: u64 = 0;

/// The mode of a whiteout that is one everywhere. Where names of the manifest show, any is, and nobody can make one; where
/// none do, somebody may have made such a device, as container engines do, and one of ours lies there only when it was
/// left over: this mode, which no device has, tells them apart.
const MARK: u16 = 0o5000;

/// True for what says that there is no such name where names of the manifest show.
pub(super) fn is_whiteout(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice && stat.st_rdev == NO_DEVICE
}

/// True for what says it everywhere.
pub(super) fn is_marked(stat: &Stat) -> bool {
    is_whiteout(stat) && stat.st_mode & 0o7777 == u32::from(MARK)
}

/// A device without a number cannot have this mode.
pub(super) fn refuse_mark(mode: u16) -> Result<(), Errno> {
    if mode == MARK { Err(Errno::PERM) } else { Ok(()) }
}

/// Has a whiteout say it everywhere. Others that are the same inode do so, too, and lose nothing by it.
pub(super) fn mark(directory: BorrowedFd<'_>, name: &[u8]) -> Result<(), Errno> {
    rustix::fs::chmodat(directory, name, Mode::from_raw_mode(MARK.into()), AtFlags::empty())
}

impl Staging {
    /// Takes the directory and empties it.
    pub(super) fn open(at: OwnedFd) -> Result<Self, Errno> {
        for name in beneath::names(at.as_fd(), b"")? {
            // It is in nobody's way.
            if let Err(errno) = remove(at.as_fd(), &name) {
                tracing::debug!(%errno, "what an interruption left cannot be removed");
            }
        }
        // Numbers on from what stays there.
        let first = rustix::process::getpid().as_raw_nonzero().get().unsigned_abs();
        let next = AtomicU64::new(u64::from(first) << 32);
        let staging = Self { at, next, whiteout: Mutex::default() };
        staging.make_whiteout()?;
        Ok(staging)
    }

    /// The directory.
    pub(super) fn at(&self) -> BorrowedFd<'_> {
        self.at.as_fd()
    }

    /// A name in it that nothing has.
    pub(super) fn name(&self) -> Vec<u8> {
        self.next.fetch_add(1, Relaxed).to_string().into_bytes()
    }

    /// An unnamed file on its filesystem, for its own user to read and write.
    pub(super) fn file(&self) -> Result<OwnedFd, Errno> {
        let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
        rustix::fs::openat(&self.at, ".", flags, Mode::RUSR | Mode::WUSR)
    }

    /// Gives an unnamed file its name.
    pub(super) fn name_file(&self, file: &OwnedFd, to: BorrowedFd<'_>, name: &[u8]) -> Result<(), Errno> {
        link_into(file.as_fd(), to, name)
    }

    /// Says that there is no such name; it must not be there.
    pub(super) fn white_out(&self, directory: BorrowedFd<'_>, name: &[u8]) -> Result<(), Errno> {
        let link = || rustix::fs::linkat(&self.at, WHITEOUT, directory, name, AtFlags::empty());
        match link() {
            // An inode of ext4 takes 65,000 names.
            Err(Errno::MLINK) => {
                let _replacing = lock(&self.whiteout);
                self.make_whiteout()?;
                link()
            }
            linked => linked,
        }
    }

    fn make_whiteout(&self) -> Result<(), Errno> {
        let name = self.name();
        let mode = Mode::RUSR | Mode::WUSR;
        rustix::fs::mknodat(&self.at, name.as_slice(), FileType::CharacterDevice, mode, NO_DEVICE)?;
        rustix::fs::renameat(&self.at, name.as_slice(), &self.at, WHITEOUT)
    }

    /// Takes a name away, all at once, and leaves word that there is none where the manifest would show through.
    pub(super) fn take(&self, directory: BorrowedFd<'_>, name: &[u8], white_out: bool) -> Result<(), Errno> {
        let taken = self.name();
        let flags = if white_out { RenameFlags::WHITEOUT } else { RenameFlags::empty() };
        rustix::fs::renameat_with(directory, name, &self.at, taken.as_slice(), flags)?;
        // What cannot be removed now is at the next start.
        let _ = remove(self.at(), &taken);
        Ok(())
    }
}

/// Removes what lies in staging: a file, or a directory with nothing but whiteouts in it.
fn remove(at: BorrowedFd<'_>, name: &[u8]) -> Result<(), Errno> {
    match rustix::fs::unlinkat(at, name, AtFlags::empty()) {
        Err(Errno::ISDIR | Errno::PERM) => {}
        removed => return removed,
    }
    for whiteout in beneath::names(at, name)? {
        let directory = beneath::open(at, name, OFlags::PATH | OFlags::DIRECTORY)?;
        rustix::fs::unlinkat(&directory, whiteout.as_slice(), AtFlags::empty())?;
    }
    rustix::fs::unlinkat(at, name, AtFlags::REMOVEDIR)
}
