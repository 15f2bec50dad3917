//! A directory of the tree on the disk, and those that are kept open.

use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::sync::atomic::{AtomicBool, Ordering::Acquire, Ordering::Release};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

use lru::LruCache;
use rustix::fs::{AtFlags, FileType, Stat};
use rustix::io::Errno;

use super::super::directories::{OPEN, finish};
use super::super::key::InodeKey;
use super::super::lock;
use super::super::state::{self, State, Stated};
use super::staging::{is_marked, is_whiteout, mark};
use crate::beneath;
use crate::clock;
use crate::manifest::EntryIndex;

/// Directories kept open, apart from those in use at the moment.
const OPEN_MAX: usize = 256;

/// How often a name is looked at that is given to something else at the same time.
const LOOKS: u32 = 100;

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
    /// Where its names move, or have moved, once the clone settles. Of the tree's own directory alone.
    risen: OnceLock<Risen>,
}

/// The directory above a tree's own, to which its names move.
#[derive(Debug)]
struct Risen {
    above: OwnedFd,
    /// The name there that is ours, and not one of the tree.
    ours: Vec<u8>,
    /// All names have moved: what is made is made above.
    is_done: AtomicBool,
}

/// The names of the tree's own directory while they move up.
pub(super) struct Rising<'d> {
    from: &'d OwnedFd,
    pub(super) is_done: &'d AtomicBool,
}

impl Rising<'_> {
    pub(super) fn from(&self) -> BorrowedFd<'_> {
        self.from.as_fd()
    }

    /// Those that have not moved.
    pub(super) fn names_left(&self) -> Result<Vec<Vec<u8>>, Errno> {
        beneath::names(self.from.as_fd(), b"")
    }
}

/// A directory's state as it is and as it was last written.
#[derive(Debug)]
struct Kept {
    state: Option<State>,
    /// When changed times were last written; none while they are the same on the disk.
    unwritten_since: Option<Instant>,
}

impl Directory {
    /// The directory behind `fd`.
    pub(super) fn new(key: InodeKey, fd: OwnedFd) -> Result<Self, Errno> {
        let state = match state::get(&fd)? {
            Stated::Nothing => None,
            Stated::Unfinished(state) => Some(state),
            // What this version cannot read must not be taken for complete.
            Stated::Unknown => return Err(Errno::IO),
        };
        let complete = state.is_none_or(|state| state.complete || state.index.is_none());
        Ok(Self {
            key,
            fd,
            // One that is finished has no state any more, and is the manifest's nevertheless.
            entry: state.map_or(key.entry(), |state| state.index),
            complete: AtomicBool::new(complete),
            state: Mutex::new(Kept { state, unwritten_since: None }),
            risen: OnceLock::new(),
        })
    }

    /// From now on the manifest's names no longer show in it: all that is to be seen is on the disk, and no whiteout is
    /// left. Nobody changes names in it meanwhile.
    pub(super) fn complete(&self) -> Result<(), Errno> {
        let whiteouts = self.whiteouts()?;
        if self.shows().is_some() {
            // A crash before they are gone must not leave what is taken for a device.
            whiteouts.iter().try_for_each(|name| mark(self.fd.as_fd(), name))?;
            self.change(|state| state.complete = true)?;
        }
        for name in whiteouts {
            rustix::fs::unlinkat(&self.fd, name.as_slice(), AtFlags::empty())?;
        }
        self.complete.store(true, Release);
        Ok(())
    }

    /// The names at which the disk says that there is none.
    fn whiteouts(&self) -> Result<Vec<Vec<u8>>, Errno> {
        let mut whiteouts = Vec::new();
        for name in beneath::names(self.fd.as_fd(), b"")? {
            if self.is_whiteout(&rustix::fs::statat(&self.fd, name.as_slice(), AtFlags::SYMLINK_NOFOLLOW)?) {
                whiteouts.push(name);
            }
        }
        Ok(whiteouts)
    }

    /// True for what says that there is no such name in it, and is not the device of somebody who made it.
    fn is_whiteout(&self, stat: &Stat) -> bool {
        is_marked(stat) || (self.shows().is_some() && is_whiteout(stat))
    }

    /// Where its names are, open for reading.
    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        match self.risen.get() {
            Some(risen) if risen.is_done.load(Acquire) => risen.above.as_fd(),
            _ => self.fd.as_fd(),
        }
    }

    /// From now on its names may be in the directory above, where `ours` is none of them.
    pub(super) fn rise(&self, above: BorrowedFd<'_>, ours: &OsStr) -> Result<Rising<'_>, Errno> {
        let (above, ours) = (rustix::io::fcntl_dupfd_cloexec(above, 0)?, ours.as_bytes().to_vec());
        let risen = self.risen.get_or_init(|| Risen { above, ours, is_done: AtomicBool::new(false) });
        Ok(Rising { from: &self.fd, is_done: &risen.is_done })
    }

    /// All names in it, in no order.
    pub(super) fn names(&self) -> Result<Vec<Vec<u8>>, Errno> {
        let Some(risen) = self.risen.get() else { return beneath::names(self.fd.as_fd(), b"") };
        // A name only ever moves up: one that is missed here is found there.
        let mut names = beneath::names(self.fd.as_fd(), b"")?;
        names.extend(beneath::names(risen.above.as_fd(), b"")?);
        names.retain(|name| *name != risen.ours);
        names.sort_unstable();
        names.dedup();
        Ok(names)
    }

    fn stat_of(&self, name: &[u8]) -> Result<Option<(BorrowedFd<'_>, Stat)>, Errno> {
        let stat_in = |at: BorrowedFd<'_>| match rustix::fs::statat(at, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(Some(stat)),
            Err(Errno::NOENT) => Ok(None),
            Err(errno) => Err(errno),
        };
        if let Some(stat) = stat_in(self.fd.as_fd())? {
            return Ok(Some((self.fd.as_fd(), stat)));
        }
        match self.risen.get().filter(|risen| *risen.ours != *name) {
            Some(risen) => Ok(stat_in(risen.above.as_fd())?.map(|stat| (risen.above.as_fd(), stat))),
            None => Ok(None),
        }
    }

    /// Gives it its true mode and times, unless its own user could not work in it then: it keeps its state until nothing
    /// beneath it has to be reached any more.
    pub(super) fn finish(&self) -> Result<(), Errno> {
        let mut kept = lock(&self.state);
        let Some(state) = kept.state.filter(|state| state.mode & OPEN == OPEN) else { return Ok(()) };
        finish(&self.fd, &state)?;
        *kept = Kept { state: None, unwritten_since: None };
        Ok(())
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
        for _ in 0..LOOKS {
            if let Some(look) = self.look_once(name)? {
                return Ok(look);
            }
        }
        Err(Errno::AGAIN)
    }

    /// None where the name was given to something else meanwhile.
    fn look_once(&self, name: &[u8]) -> Result<Option<Look>, Errno> {
        let Some((at, stat)) = self.stat_of(name)? else { return Ok(Some(Look::Nothing)) };
        if self.is_whiteout(&stat) {
            return Ok(Some(Look::Whiteout));
        }
        if !matches!(FileType::from_raw_mode(stat.st_mode), FileType::RegularFile | FileType::Directory) {
            return Ok(Some(Look::There(stat, None)));
        }
        let state = match state_of(at, name) {
            Err(Errno::NOENT) => return Ok(None),
            state => state?,
        };
        // A state may be another inode's than the one that was looked at. What has none may have become an ordinary one in
        // between: then its mode was not its own yet.
        if state.is_none() && !matches!(stat.st_mode & 0o7777, 0o600 | 0o700) {
            return Ok(Some(Look::There(stat, None)));
        }
        let again = self.stat_of(name)?.map(|(_, stat)| stat).filter(|again| again.st_ino == stat.st_ino);
        Ok(again.map(|again| Look::There(again, state)))
    }

    /// What `stat` has of it, and its state as it is now.
    pub(super) fn stat(&self) -> Result<(Stat, Option<State>), Errno> {
        Ok((rustix::fs::fstat(self.fd())?, lock(&self.state).state))
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

/// The state of what has a name in a directory.
fn state_of(at: BorrowedFd<'_>, name: &[u8]) -> Result<Option<State>, Errno> {
    // Not by opening it, which a mode of its own user's may forbid.
    match state::get_at(at, name) {
        Ok(Stated::Nothing) => Ok(None),
        Ok(Stated::Unfinished(state)) => Ok(Some(state)),
        Ok(Stated::Unknown) => Err(Errno::IO),
        // What is unfinished can be read by its own user.
        Err(Errno::ACCESS) => Ok(None),
        Err(errno) => Err(errno),
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
