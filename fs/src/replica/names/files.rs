//! The files of a clone's own tree, wherever they lie by now; those of its companions lie where the manifest has them.

use std::fs::File;
use std::sync::Arc;
use std::time::Duration;

use rustix::fs::{AtFlags, OFlags};
use rustix::io::Errno;

use super::super::lock;
use super::super::places::{Places, Positions};
use super::super::store::StoreError;
use super::{Found, InodeKey, Name, Names, NamesError};
use crate::beneath;
use crate::manifest::EntryIndex;

/// How often a file is looked for while names are changed around it.
pub(super) const TRIES: u32 = 200;

/// How long between two of the later attempts.
pub(super) const PAUSE: Duration = Duration::from_millis(1);

/// Where the files of a clone lie.
#[derive(Debug)]
pub(in super::super) struct Files {
    pub(in super::super) names: Arc<Names>,
    pub(in super::super) companions: Positions,
}

impl Files {
    fn is_companions(&self, key: InodeKey) -> bool {
        key.entry().is_some_and(|index| self.companions.manifest.root_of(index) != Some(EntryIndex(0)))
    }
}

impl Places for Files {
    fn open(&self, key: InodeKey, flags: OFlags) -> Result<Option<File>, StoreError> {
        if self.is_companions(key) {
            self.companions.open(key, flags)
        } else {
            self.names.open_file(key, flags)
        }
    }

    fn make(&self, key: InodeKey) -> Result<File, StoreError> {
        if self.is_companions(key) {
            return self.companions.make(key);
        }
        self.names.make_file(key)?;
        self.names.open_file(key, OFlags::RDWR)?.ok_or(StoreError::Removed)
    }

    fn is_writable(&self, key: InodeKey) -> bool {
        !self.is_companions(key)
    }
}

impl From<NamesError> for StoreError {
    fn from(error: NamesError) -> Self {
        match error {
            NamesError::System(Errno::STALE) => Self::Removed,
            NamesError::System(errno) => Self::System(errno),
            NamesError::NotYet(_) => Self::System(Errno::AGAIN),
        }
    }
}

impl Names {
    /// Opens the file of an inode, wherever it lies.
    pub(super) fn open_file(&self, key: InodeKey, flags: OFlags) -> Result<Option<File>, StoreError> {
        match self.open_found_file(key, flags) {
            // Nobody has come by it, wherever it was moved to.
            Err(StoreError::Removed) if self.find_moves()? => self.open_found_file(key, flags),
            opened => opened,
        }
    }

    /// As [`open_file`](Self::open_file), as far as can be told without a search. That it is gone is believed only when
    /// nothing was renamed while it was looked for.
    fn open_found_file(&self, key: InodeKey, flags: OFlags) -> Result<Option<File>, StoreError> {
        for attempt in 0..TRIES {
            let before = self.at_rest();
            match self.try_open_file(key, flags) {
                Err(StoreError::Removed) if before.is_none() || self.at_rest() != before => {}
                Err(StoreError::System(Errno::AGAIN)) => {}
                opened => return opened,
            }
            if attempt > 2 {
                std::thread::sleep(PAUSE);
            }
        }
        Err(Errno::AGAIN.into())
    }

    fn try_open_file(&self, key: InodeKey, flags: OFlags) -> Result<Option<File>, StoreError> {
        if let Some(anchor) = self.anchor(key) {
            match beneath::open(self.layout.links(), &anchor, flags) {
                Err(Errno::NOENT) => {}
                opened => return Ok(Some(opened?.into())),
            }
        }
        let Name { directory, name } = self.locate(key)?;
        let Some(directory) = self.directory(directory)? else { return Ok(None) };
        match self.look(&directory, &name)? {
            Some(Found::OnDisk(found)) if found.key == key => {
                let file = match beneath::open(directory.fd(), &name, flags) {
                    Err(Errno::NOENT) => return Err(Errno::AGAIN.into()),
                    file => file?,
                };
                // Something else may have taken the name since.
                match rustix::fs::fstat(&file)?.st_ino == found.stat.st_ino {
                    true => Ok(Some(file.into())),
                    false => Err(Errno::AGAIN.into()),
                }
            }
            Some(Found::Virtual(entry)) if InodeKey::Entry(entry.inode()) == key => Ok(None),
            // It was removed, or something took its place, before this process began.
            _ => Err(StoreError::Removed),
        }
    }

    /// Puts a file on the disk to take its content; one with several names among those, under none of them yet.
    fn make_file(&self, key: InodeKey) -> Result<(), NamesError> {
        let Some(anchor) = self.anchor(key) else { return self.place(key).map(drop) };
        let entry = key.entry().and_then(|index| self.manifest.entry(index)).ok_or(Errno::STALE)?;
        let _grouping = lock(&self.grouping);
        if self.is_placed(&entry)? {
            return Ok(());
        }
        match rustix::fs::statat(self.layout.links(), anchor.as_slice(), AtFlags::SYMLINK_NOFOLLOW) {
            Ok(_) => Ok(()),
            Err(Errno::NOENT) => self.make_anchor(&entry, &anchor).map(drop),
            Err(errno) => Err(errno.into()),
        }
    }

    /// The name of a file with several names, as long as it lies under none of them.
    fn anchor(&self, key: InodeKey) -> Option<Vec<u8>> {
        let index = key.entry().filter(|_| self.has_names(key))?;
        Some(index.0.to_string().into_bytes())
    }
}
