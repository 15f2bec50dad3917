//! Changing names: each change is one system call on the disk, after what is concerned has been placed.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use rustix::fs::{AtFlags, FileType, OFlags, Stat};
use rustix::io::Errno;

use super::directory::{Directory, Look};
use super::staging::is_whiteout;
use super::{Found, InodeKey, Names, NamesError, OnDisk};
use crate::beneath;
use crate::manifest::Entry;

/// An inode that has lost a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Removed {
    /// What names it.
    pub key: InodeKey,
    /// It has no other: it is no more once nobody has it open.
    pub was_last: bool,
}

/// A name that is changed.
pub(super) struct Place<'n> {
    pub(super) directory: Arc<Directory>,
    pub(super) name: &'n [u8],
    /// What the disk has there.
    pub(super) look: Look,
}

impl Names {
    /// Gives an inode a further name.
    pub fn link(&self, key: InodeKey, directory: InodeKey, name: &[u8]) -> Result<OnDisk, NamesError> {
        let stat = self.place(key)?.stat;
        let old = self.locate(key)?;
        let from = self.directory(old.directory)?.ok_or(Errno::STALE)?;
        let directory = self.placed_directory(directory)?;
        if is_whiteout(&stat) {
            refuse_whiteout(&directory)?;
        }
        let _changing = self.changing([directory.key]);
        let place = self.free(directory, name)?;
        self.note_move(key)?;
        self.put(&place, false, |at, name| {
            rustix::fs::linkat(from.fd(), &*old.name, at, name, AtFlags::empty())
        })?;
        // Without a state nothing else tells what it is.
        self.located.add(key, &stat, place.directory.key, name);
        self.found_at(&place)
    }

    /// Takes a name away from anything but a directory.
    pub fn unlink(&self, directory: InodeKey, name: &[u8]) -> Result<Removed, NamesError> {
        let found = self.lookup(directory, name)?.ok_or(Errno::NOENT)?;
        if found.is_directory() {
            return Err(Errno::ISDIR.into());
        }
        if let Found::Virtual(entry) = &found
            && entry.nlink() > 1
        {
            self.place(found.key())?;
        }
        let directory = self.placed_directory(directory)?;
        let _changing = self.changing([directory.key]);
        self.take(&directory, name)
    }

    /// Removes an empty directory.
    pub fn remove_directory(&self, directory: InodeKey, name: &[u8]) -> Result<Removed, NamesError> {
        let found = self.lookup(directory, name)?.ok_or(Errno::NOENT)?;
        if !found.is_directory() {
            return Err(Errno::NOTDIR.into());
        }
        let key = found.key();
        let directory = self.placed_directory(directory)?;
        let _changing = self.changing([directory.key, key]);
        self.clear(key)?;
        let removed = self.take(&directory, name)?;
        self.directories.forget(key);
        Ok(removed)
    }

    /// What an on-disk name that was just made leads to.
    pub(super) fn found_at(&self, place: &Place<'_>) -> Result<OnDisk, NamesError> {
        place.directory.touch()?;
        match self.look(&place.directory, place.name)? {
            Some(Found::OnDisk(found)) => Ok(found),
            _ => Err(Errno::STALE.into()),
        }
    }

    /// A name that nobody sees anything at.
    pub(super) fn free<'n>(
        &self,
        directory: Arc<Directory>,
        name: &'n [u8],
    ) -> Result<Place<'n>, NamesError> {
        let look = directory.look(name)?;
        let is_taken = match &look {
            Look::There(..) => true,
            Look::Whiteout => false,
            Look::Nothing => self.here(&directory, name)?.is_some(),
        };
        if is_taken { Err(Errno::EXIST.into()) } else { Ok(Place { directory, name, look }) }
    }

    /// A name under which the disk has something.
    pub(super) fn taken<'n>(
        &self,
        directory: Arc<Directory>,
        name: &'n [u8],
    ) -> Result<Place<'n>, NamesError> {
        match directory.look(name)? {
            look @ Look::There(..) => Ok(Place { directory, name, look }),
            Look::Nothing | Look::Whiteout => Err(Errno::STALE.into()),
        }
    }

    /// The entry of the manifest that shows through under a name unless the disk has something there.
    pub(super) fn here(&self, directory: &Directory, name: &[u8]) -> Result<Option<Entry<'_>>, NamesError> {
        match directory.shows() {
            Some(entry) => Ok(self.child(entry, name)?),
            None => Ok(None),
        }
    }

    /// Takes a name away. The directory's names are being changed.
    pub(super) fn take(&self, directory: &Directory, name: &[u8]) -> Result<Removed, NamesError> {
        let here = self.here(directory, name)?;
        let removed = match self.look(directory, name)? {
            None => return Err(Errno::NOENT.into()),
            Some(Found::Virtual(entry)) => {
                self.staging.white_out(directory.fd(), name)?;
                Removed { key: InodeKey::Entry(entry.inode()), was_last: true }
            }
            Some(Found::OnDisk(found)) => {
                let held = held(directory, name, &found.stat);
                match (here.is_some(), found.is(FileType::Directory)) {
                    (true, _) => self.staging.take(directory.fd(), name, true)?,
                    (false, false) => rustix::fs::unlinkat(directory.fd(), name, AtFlags::empty())?,
                    (false, true) => rustix::fs::unlinkat(directory.fd(), name, AtFlags::REMOVEDIR)?,
                }
                self.lose(found.key, &held, directory, name)
            }
        };
        self.detach(directory, name)?;
        directory.touch()?;
        Ok(removed)
    }

    /// An inode on the disk has lost a name.
    pub(super) fn lose(&self, key: InodeKey, held: &Held, directory: &Directory, name: &[u8]) -> Removed {
        let was_last = held.has_no_name();
        self.located.remove(key, directory.key, name);
        if was_last {
            self.located.gone(key);
        }
        Removed { key, was_last }
    }

    /// Nothing is where the manifest has something under this name.
    pub(super) fn detach(&self, directory: &Directory, name: &[u8]) -> Result<(), NamesError> {
        if let Some(entry) = directory.entry()
            && let Some(child) = self.child(entry, name)?
        {
            self.detached.set(child.index());
        }
        Ok(())
    }

    /// Makes sure that a directory is empty, also on the disk, so that it can go: what nobody sees in it is removed
    /// once nothing of the manifest's shows any more.
    pub(super) fn clear(&self, key: InodeKey) -> Result<(), NamesError> {
        if !self.is_empty(key)? {
            return Err(Errno::NOTEMPTY.into());
        }
        let Some(directory) = self.directory(key)? else { return Ok(()) };
        Ok(directory.complete()?)
    }
}

/// What tells whether an inode that loses a name has another one.
pub(super) enum Held {
    /// It had one alone.
    Alone,
    /// It had several, which may all be taken away at the same time.
    Open(OwnedFd),
    /// It cannot be asked; it had several.
    Unknown,
}

impl Held {
    /// True once it has none.
    fn has_no_name(&self) -> bool {
        match self {
            Self::Alone => true,
            Self::Open(inode) => rustix::fs::fstat(inode).is_ok_and(|stat| stat.st_nlink == 0),
            Self::Unknown => false,
        }
    }
}

/// Takes hold of what is about to lose a name.
pub(super) fn held(directory: &Directory, name: &[u8], stat: &Stat) -> Held {
    if FileType::from_raw_mode(stat.st_mode) == FileType::Directory || stat.st_nlink == 1 {
        return Held::Alone;
    }
    match beneath::open(directory.fd(), name, OFlags::PATH) {
        Ok(inode) => Held::Open(inode),
        Err(_) => Held::Unknown,
    }
}

/// A device that says "no such name" where names of the manifest show cannot be told from one that somebody made.
pub(super) fn refuse_whiteout(directory: &Directory) -> Result<(), Errno> {
    if directory.shows().is_some() { Err(Errno::PERM) } else { Ok(()) }
}
