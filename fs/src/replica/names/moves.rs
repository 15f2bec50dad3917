//! What the manifest has elsewhere than where it lies: noting that there is such a thing, and finding it.
//!
//! Whoever comes by a name needs nothing of this: what lies there says itself what it is. Only who asks for an inode of
//! the manifest that is not in its place has to know whether it was moved before this process began. So nothing is
//! looked for at the start. The first one who must know looks at all that is on the disk, once, and the others who must
//! know wait for it; the kernel is not among them, since it asks for what it came by.

use std::sync::atomic::{
    AtomicBool,
    Ordering::{Acquire, Release},
};
use std::sync::{Arc, Mutex};

use rustix::fs::FileType;
use rustix::io::Errno;

use super::super::lock;
use super::directory::{Directory, Look};
use super::files::{PAUSE, TRIES};
use super::{Found, InodeKey, Names, NamesError, ROOT, STALE};
use crate::manifest::Kind;

/// The search for what was moved before this process began.
#[derive(Debug)]
pub(super) struct Search {
    /// Everything has been looked at.
    is_over: AtomicBool,
    /// Held by who looks. Locks of names that are changed may be taken under it.
    looking: Mutex<()>,
    /// Directories that are still to be looked into. A leaf.
    left: Mutex<Vec<InodeKey>>,
}

impl Search {
    /// None is needed where nothing was moved.
    pub(super) fn new(had_moves: bool) -> Self {
        Self { is_over: AtomicBool::new(!had_moves), looking: Mutex::default(), left: Mutex::new(vec![ROOT]) }
    }
}

impl Names {
    /// Looks at all that is on the disk for what the manifest has elsewhere, unless that has been done; true when it was
    /// done in this call, or while it waited. On an error the rest is looked at the next time.
    pub(super) fn find_moves(&self) -> Result<bool, NamesError> {
        if self.search.is_over.load(Acquire) {
            return Ok(false);
        }
        let _looking = lock(&self.search.looking);
        if self.search.is_over.load(Acquire) {
            return Ok(true);
        }
        let mut failed = Vec::new();
        let mut error = None;
        loop {
            let next = lock(&self.search.left).pop();
            let Some(key) = next else { break };
            // What cannot be looked into may hold what was moved: it is not known to be gone then.
            if let Err(failure) = self.find_moves_in(key) {
                failed.push(key);
                error.get_or_insert(failure);
            }
        }
        if let Some(error) = error {
            lock(&self.search.left).extend(failed);
            return Err(error);
        }
        self.search.is_over.store(true, Release);
        Ok(true)
    }

    fn find_moves_in(&self, key: InodeKey) -> Result<(), NamesError> {
        let Some(directory) = self.directory_at_rest(key)? else { return Ok(()) };
        for name in directory.names()? {
            // Its name, and what the table has of it, must not change in between.
            let _unchanged = self.unchanged(key);
            let state = match directory.look(&name)? {
                Look::There(stat, _) if FileType::from_raw_mode(stat.st_mode) == FileType::Directory => None,
                // What is where the manifest does not have it gets into the table by being looked at.
                Look::There(_, Some(state)) if state.index.is_some() => Some(state),
                // What was made here is known for as long as the kernel knows it.
                _ => continue,
            };
            if let Some(Found::OnDisk(found)) = self.look(&directory, &name)?
                && state.is_none()
            {
                lock(&self.search.left).push(found.key);
            }
        }
        Ok(())
    }

    /// A directory on the disk, if there is one. That it is gone is believed only when nothing was renamed while it was
    /// looked for.
    fn directory_at_rest(&self, key: InodeKey) -> Result<Option<Arc<Directory>>, NamesError> {
        for _ in 0..TRIES {
            let before = self.at_rest();
            match self.directory(key) {
                Err(STALE) if before.is_some() && self.at_rest() == before => {
                    return Ok(None);
                }
                Err(STALE) => std::thread::sleep(PAUSE),
                found => return found,
            }
        }
        Err(Errno::AGAIN.into())
    }

    /// A directory is about to be moved, perhaps from where nobody has looked to where somebody has.
    pub(super) fn look_into(&self, key: InodeKey) {
        if !self.search.is_over.load(Acquire) {
            lock(&self.search.left).push(key);
        }
    }

    /// Notes, before it happens, that something of the manifest lies elsewhere: files without a state need not be what
    /// the manifest has in their place.
    pub(super) fn note_move(&self, key: InodeKey) -> Result<(), NamesError> {
        if matches!(key, InodeKey::Entry(_)) { self.note_moves() } else { Ok(()) }
    }

    pub(super) fn note_moves(&self) -> Result<(), NamesError> {
        if !self.moves_noted.load(Acquire) {
            self.layout.note_moves()?;
            self.moves_noted.store(true, Release);
        }
        Ok(())
    }

    /// True when the inode has other names of the manifest's: all of them must be on the disk before one changes.
    pub(super) fn has_names(&self, key: InodeKey) -> bool {
        let InodeKey::Entry(index) = key else { return false };
        self.manifest.entry(index).is_some_and(|entry| entry.kind() == Kind::File && entry.nlink() > 1)
    }
}
