//! What the manifest has elsewhere than where it lies: noting that there is such a thing, and finding it at the start.

use std::sync::atomic::Ordering::{Acquire, Release};

use rustix::fs::FileType;
use rustix::io::Errno;

use super::directory::Look;
use super::{Found, InodeKey, Name, Names, NamesError, ROOT};
use crate::manifest::{EntryIndex, Kind, NotYet};

impl Names {
    /// Looks at all that is on the disk for what the manifest has elsewhere.
    pub(super) fn find_moves(&self) -> Result<(), NamesError> {
        let mut directories = vec![ROOT];
        while let Some(key) = directories.pop() {
            let Some(directory) = self.directory(key)? else { continue };
            for name in directory.names()? {
                // Whatever is where the manifest does not have it gets into the table by being looked at.
                if let Some(Found::OnDisk(found)) = self.look(&directory, &name)? {
                    if found.is(FileType::Directory) {
                        directories.push(found.key);
                    }
                    if matches!(found.key, InodeKey::Local(_)) && !found.is(FileType::Directory) {
                        self.located.remove(found.key, key, &name);
                    }
                }
            }
        }
        self.located.entries().into_iter().try_for_each(|(index, number)| self.note_detached(index, number))
    }

    /// Notes under which of its names in the manifest an inode does not lie that was found under another.
    fn note_detached(&self, index: EntryIndex, number: u64) -> Result<(), NamesError> {
        let entry = self.manifest.entry(index).ok_or(NotYet)?;
        let names: Vec<_> = match self.has_names(InodeKey::Entry(index)) {
            true => self.groups.names(&self.manifest, index)?.map(EntryIndex).collect(),
            false => vec![entry.index()],
        };
        for name in names {
            let entry = self.manifest.entry(name).ok_or(NotYet)?;
            let Name { directory, name } = self.position(&entry);
            let is_there = match self.directory(directory) {
                Ok(Some(directory)) => {
                    matches!(directory.look(&name)?, Look::There(stat, _) if stat.st_ino == number)
                }
                // What is elsewhere has left its place, and what has, has been put on the disk with all above it.
                Ok(None) | Err(NamesError::System(Errno::STALE)) => false,
                Err(error) => return Err(error),
            };
            if !is_there {
                self.detached.set(entry.index());
            }
        }
        Ok(())
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
