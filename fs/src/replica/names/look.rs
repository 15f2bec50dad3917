//! What the disk has under a name, and which inode that is.

use rustix::fs::{FileType, Stat};

use super::super::state::State;
use super::directory::{Directory, Look};
use super::{Found, InodeKey, Names, NamesError, OnDisk};
use crate::manifest::{Entry, Kind};

impl Names {
    /// What a name in a directory on the disk leads to.
    pub(super) fn look(&self, directory: &Directory, name: &[u8]) -> Result<Option<Found<'_>>, NamesError> {
        match directory.look(name)? {
            Look::Whiteout => Ok(None),
            Look::There(stat, state) => {
                let key = self.key_of(directory, name, &stat, state)?;
                // The times of a directory that is open here may not be on the disk yet.
                let (stat, state) = match self.directories.find(key) {
                    Some(open) => open.stat()?,
                    None => (stat, state),
                };
                Ok(Some(Found::OnDisk(OnDisk { key, stat, state })))
            }
            Look::Nothing => match directory.shows() {
                Some(entry) => Ok(self.child(entry, name)?.map(Found::Virtual)),
                None => Ok(None),
            },
        }
    }

    /// The key of an inode that was found on the disk. One that the manifest does not have there gets into the table.
    fn key_of(
        &self,
        directory: &Directory,
        name: &[u8],
        stat: &Stat,
        state: Option<State>,
    ) -> Result<InodeKey, NamesError> {
        let here = match directory.entry() {
            Some(entry) => self.child(entry, name)?,
            None => None,
        };
        if let Some(index) = state.and_then(|state| state.index) {
            let key = InodeKey::Entry(index);
            let is_here =
                here.is_some_and(|here| here.inode() == index && !self.detached.is_set(here.index()));
            if is_here {
                self.stated.set(index);
            }
            // Of the names that the manifest has of a file with several, this one is known to be there.
            if !is_here || self.has_names(key) {
                self.located.add(key, stat, directory.key, name);
            }
            return Ok(key);
        }
        if let Some(key) = self.located.key(stat.st_ino) {
            self.located.add(key, stat, directory.key, name);
            return Ok(key);
        }
        match here.filter(|here| self.is_still(here, stat)) {
            Some(here) => {
                let key = InodeKey::Entry(here.inode());
                // Under its other names nothing else tells that it is the same.
                if stat.st_nlink > 1 && here.kind() != Kind::Directory {
                    self.located.add(key, stat, directory.key, name);
                }
                Ok(key)
            }
            None => {
                let key = InodeKey::Local(stat.st_ino);
                self.located.add(key, stat, directory.key, name);
                Ok(key)
            }
        }
    }

    /// True when something without a state, where the manifest has `entry`, is taken for it.
    fn is_still(&self, entry: &Entry<'_>, stat: &Stat) -> bool {
        let kind = match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile => Kind::File,
            FileType::Directory => Kind::Directory,
            FileType::Symlink => Kind::Symlink,
            _ => return false,
        };
        // Two inodes must never have one key: what the manifest has here may lie elsewhere since long ago.
        // One with several names is in the table since one of them was seen.
        let is_known = !self.had_moves || (self.stated.is_set(entry.index()) && entry.nlink() < 2);
        kind == entry.kind() && !self.detached.is_set(entry.index()) && is_known
    }
}
