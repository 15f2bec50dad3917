//! What can be told of a file's version from looking at it.
//!
//! A change of a file's content leaves a trace in its inode number, size, mtime or ctime, with two exceptions, and a
//! file that may be under one of them is **hot**: within a step of the kernel's clock two changes look like one (so it
//! was changed less than [`HOT`] ago), and stores into a mapped page that is dirty already leave no trace at all (so
//! somebody has it open for writing).

use std::fs::File;
use std::io;
use std::time::Duration;

use rustix::fs::{AtFlags, FileType, StatxFlags};
use rustix::io::Errno;

use super::FileFault;
use super::lease::has_writer;
use super::stamps::Stamp;
use crate::clock;

/// How long after a change a file is hot: the coarsest clock of a filesystem in use (FAT's) has steps of so long.
pub(super) const HOT: Duration = Duration::from_secs(2);

/// What an open file is at this moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Now(pub(super) Stamp);

impl Now {
    /// Looks at an open file; one that has lost its last name or is no regular file is [`FileFault::Changed`].
    pub(super) fn of(file: &File) -> Result<Self, FileFault> {
        let stat = rustix::fs::statx(file, "", AtFlags::EMPTY_PATH, StatxFlags::BASIC_STATS)
            .map_err(|error| fault(error.into()))?;
        let regular = FileType::from_raw_mode(stat.stx_mode.into()) == FileType::RegularFile;
        match regular && stat.stx_nlink > 0 {
            true => Ok(Self(Stamp::of(&stat))),
            false => Err(FileFault::Changed),
        }
    }

    /// True when the file could change, or could have changed, without a trace; `hot` is [`HOT`] but for tests.
    pub(super) fn is_hot(&self, file: &File, hot: Duration) -> bool {
        clock::is_within(hot, self.0.mtime)
            || clock::is_within(hot, self.0.ctime)
            // Of files that are not ours the kernel does not say who writes to them: those of a system are replaced
            // by its package manager, not written in place.
            || has_writer(file).unwrap_or(false)
    }
}

/// What an error of the system means for a file that was there when the snapshot was taken.
pub(super) fn fault(error: io::Error) -> FileFault {
    match Errno::from_io_error(&error) {
        Some(
            Errno::NOENT
            | Errno::NOTDIR
            | Errno::LOOP
            | Errno::XDEV
            | Errno::ISDIR
            | Errno::NXIO
            | Errno::STALE,
        ) => FileFault::Changed,
        _ => FileFault::Unreadable(error.to_string()),
    }
}
