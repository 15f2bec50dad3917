//! A directory of the tree on the disk, and those that are kept open.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering::Acquire, Ordering::Release};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use lru::LruCache;
use rustix::fs::{AtFlags, FileType, Stat};
use rustix::io::Errno;

use super::super::key::InodeKey;
use super::super::lock;
use super::super::state::{self, State, Stated};
use super::staging::is_whiteout;
use crate::beneath;
use crate::clock;
use crate::manifest::EntryIndex;

/// Directories kept open, apart from those in use at the moment.
const OPEN_MAX: usize = 256;

/// How old the times of a directory may be on the disk: a crash shows those.
const TIMES_AGE: Duration = Duration::from_secs(1);

/// What the disk has under a name.
#[derive(Debug)]
pub(super) enum Look {
    /// Nothing: the manifest may have something.
    Nothing,
    /// Word that there is no such name.
    Whiteout,
    /// An inode.
    There(Stat, Option<State>),
}

/// A directory on the disk.
#[derive(Debug)]
pub(super) struct Directory {
    pub(super) key: InodeKey,
    fd: OwnedFd,
    /// The manifest's directory that it is.
    entry: Option<EntryIndex>,
    /// The names of the manifest's directory no longer show.
    complete: AtomicBool,
    state: Mutex<Kept>,
}

/// A directory's state as it is and as it was last written.
#[derive(Debug)]
struct Kept {
    state: Option<State>,
    /// When changed times were last written; none while they are the same on the disk.
    unwritten_since: Option<Instant>,
}

impl Directory {
    /// The directory behind `fd`; `root` is what the tree's own is shown with while it has no state.
    pub(super) fn new(key: InodeKey, fd: OwnedFd, root: Option<State>) -> Result<Self, Errno> {
        let state = match state::get(&fd)? {
            Stated::Nothing => root,
            Stated::Unfinished(state) => Some(state),
            // What this version cannot read must not be taken for complete.
            Stated::Unknown => return Err(Errno::IO),
        };
        let complete = state.is_none_or(|state| state.complete || state.index.is_none());
        let directory = Self {
            key,
            fd,
            entry: state.and_then(|state| state.index),
            complete: AtomicBool::new(complete),
            state: Mutex::new(Kept { state, unwritten_since: None }),
        };
        if complete && directory.entry.is_some() {
            // A crash came before they were removed.
            directory.remove_whiteouts()?;
        }
        Ok(directory)
    }

    /// From now on the manifest's names no longer show in it: all that is to be seen is on the disk, and what a whiteout
    /// hides is hidden.
    pub(super) fn complete(&self) -> Result<(), Errno> {
        {
            let mut kept = lock(&self.state);
            let Some(mut state) = kept.state else { return Ok(()) };
            state.complete = true;
            state::set(&self.fd, &state)?;
            *kept = Kept { state: Some(state), unwritten_since: None };
        }
        // Whoever looks before they are gone must not take them for devices.
        self.remove_whiteouts()?;
        self.complete.store(true, Release);
        Ok(())
    }

    fn remove_whiteouts(&self) -> Result<(), Errno> {
        for name in beneath::names(self.fd.as_fd(), b"")? {
            if is_whiteout(&rustix::fs::statat(&self.fd, name.as_slice(), AtFlags::SYMLINK_NOFOLLOW)?) {
                rustix::fs::unlinkat(&self.fd, name.as_slice(), AtFlags::empty())?;
            }
        }
        Ok(())
    }

    /// Open for reading.
    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// The manifest's directory that it is, whether its names still show or not.
    pub(super) fn entry(&self) -> Option<EntryIndex> {
        self.entry
    }

    /// The manifest's directory whose names show through.
    pub(super) fn shows(&self) -> Option<EntryIndex> {
        self.entry.filter(|_| !self.complete.load(Acquire))
    }

    /// What the disk has under a name.
    pub(super) fn look(&self, name: &[u8]) -> Result<Look, Errno> {
        let stat = match rustix::fs::statat(&self.fd, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => stat,
            Err(Errno::NOENT) => return Ok(Look::Nothing),
            Err(errno) => return Err(errno),
        };
        // Elsewhere it is the device of somebody who made it.
        if is_whiteout(&stat) && self.shows().is_some() {
            return Ok(Look::Whiteout);
        }
        let state = match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile | FileType::Directory => self.state_of(name)?,
            _ => None,
        };
        Ok(Look::There(stat, state))
    }

    /// The state of what has a name here.
    fn state_of(&self, name: &[u8]) -> Result<Option<State>, Errno> {
        // Not by opening it, which a mode of its own user's may forbid.
        match state::get_at(self.fd.as_fd(), name) {
            Ok(Stated::Nothing) => Ok(None),
            Ok(Stated::Unfinished(state)) => Ok(Some(state)),
            Ok(Stated::Unknown) => Err(Errno::IO),
            // What is unfinished can be read by its own user.
            Err(Errno::ACCESS) => Ok(None),
            Err(errno) => Err(errno),
        }
    }

    /// What `stat` has of it, and its state as it is now.
    pub(super) fn stat(&self) -> Result<(Stat, Option<State>), Errno> {
        Ok((rustix::fs::fstat(&self.fd)?, lock(&self.state).state))
    }

    /// The names in it changed, now.
    pub(super) fn touch(&self) -> Result<(), Errno> {
        let now = clock::now();
        let mut kept = lock(&self.state);
        // The disk keeps the times of one without a state.
        let Some(state) = &mut kept.state else { return Ok(()) };
        (state.mtime, state.ctime) = (now, now);
        let state = *state;
        match kept.unwritten_since {
            Some(since) if since.elapsed() < TIMES_AGE => Ok(()),
            _ => {
                kept.unwritten_since = Some(Instant::now());
                state::set(&self.fd, &state)
            }
        }
    }

    /// Changes its state, on the disk too. Without one nothing happens.
    pub(super) fn change(&self, change: impl FnOnce(&mut State)) -> Result<bool, Errno> {
        let mut kept = lock(&self.state);
        let Some(mut state) = kept.state else { return Ok(false) };
        change(&mut state);
        state::set(&self.fd, &state)?;
        *kept = Kept { state: Some(state), unwritten_since: None };
        Ok(true)
    }

    /// Gives it a state, where it has none.
    pub(super) fn adopt(&self, state: State) -> Result<(), Errno> {
        let mut kept = lock(&self.state);
        state::set(&self.fd, &state)?;
        *kept = Kept { state: Some(state), unwritten_since: None };
        Ok(())
    }

    /// Writes its times, if they are not on the disk yet.
    pub(super) fn write_times(&self) -> Result<(), Errno> {
        let mut kept = lock(&self.state);
        match (kept.unwritten_since.take(), kept.state) {
            (Some(_), Some(state)) => state::set(&self.fd, &state),
            _ => Ok(()),
        }
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        if let Err(errno) = self.write_times() {
            tracing::debug!(%errno, "the times of a directory that was removed or lies on a full disk are lost");
        }
    }
}

/// The directories kept open. Its lock is a leaf.
#[derive(Debug)]
pub(super) struct Directories {
    kept: Mutex<LruCache<InodeKey, Arc<Directory>>>,
}

impl Directories {
    pub(super) fn new() -> Self {
        Self { kept: Mutex::new(LruCache::unbounded()) }
    }

    pub(super) fn find(&self, key: InodeKey) -> Option<Arc<Directory>> {
        lock(&self.kept).get(&key).cloned()
    }

    /// Keeps a directory, and lets go of others. There is never more than one of the same.
    pub(super) fn keep(&self, directory: &Arc<Directory>) {
        let mut freed = Vec::new();
        {
            let mut kept = lock(&self.kept);
            kept.put(directory.key, directory.clone());
            for _ in 0..kept.len().saturating_sub(OPEN_MAX) {
                let Some((key, oldest)) = kept.pop_lru() else { break };
                // Nobody can get at one that only the table holds, while the table is locked.
                match Arc::strong_count(&oldest) {
                    1 => freed.push(oldest),
                    _ => drop(kept.put(key, oldest)),
                }
            }
        }
        drop(freed);
    }

    /// Forgets a directory that is no more.
    pub(super) fn forget(&self, key: InodeKey) {
        let forgotten = lock(&self.kept).pop(&key);
        drop(forgotten);
    }

    /// Writes all times that are not on the disk yet.
    pub(super) fn write_times(&self) -> Result<(), Errno> {
        let kept: Vec<_> = lock(&self.kept).iter().map(|(_, directory)| directory.clone()).collect();
        kept.iter().try_for_each(|directory| directory.write_times())
    }
}
