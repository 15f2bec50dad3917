//! Putting what a file of the manifest has become at the origin in its place.

use std::os::fd::OwnedFd;

use rustix::fs::AtFlags;
use rustix::io::Errno;

use super::super::finish::times;
use super::change::{Removed, held};
use super::{Found, InodeKey, Name, Names, NamesError, OnDisk};
use crate::filesystem::Owner;
use crate::manifest::{EntryIndex, Mtime};

/// What comes in the place of a file.
#[derive(Debug)]
pub(in super::super) enum Successor {
    /// This file, which has no name yet; it is complete and on the disk.
    File(OwnedFd),
    /// A symbolic link.
    Symlink(Vec<u8>, Mtime),
    /// Nothing.
    Nothing,
}

/// Names and values, sorted.
type Xattrs = Vec<(Vec<u8>, Vec<u8>)>;

/// A name of a file, and the manifest's name that it is, or was before it was renamed.
#[derive(Clone, Debug)]
pub(in super::super) struct Spot {
    pub(in super::super) entry: EntryIndex,
    pub(in super::super) directory: InodeKey,
    pub(in super::super) name: Box<[u8]>,
}

impl Names {
    /// All names of a file of the manifest; `None` where they are not the manifest's, or not all of them can be told.
    /// One with several names is put on the disk for it.
    pub(in super::super) fn spots(&self, key: InodeKey) -> Result<Option<Vec<Spot>>, NamesError> {
        let InodeKey::Entry(index) = key else { return Ok(None) };
        if !self.has_names(key) {
            let links = match self.stat(key)? {
                Found::Virtual(_) => 1,
                Found::OnDisk(found) => found.stat.st_nlink,
            };
            let Name { directory, name } = self.locate(key)?;
            return Ok((links == 1).then(|| vec![Spot { entry: index, directory, name }]));
        }
        let OnDisk { stat, .. } = self.place(key)?;
        let mut spots = Vec::new();
        for entry in self.groups.names(&self.manifest, index)?.map(EntryIndex) {
            let Some(Name { directory, name }) =
                self.manifest.entry(entry).map(|entry| self.position(&entry))
            else {
                continue;
            };
            match self.lookup(directory, &name) {
                Ok(Some(found)) if found.key() == key => spots.push(Spot { entry, directory, name }),
                Ok(_) | Err(NamesError::System(Errno::STALE | Errno::NOTDIR)) => {}
                Err(error) => return Err(error),
            }
        }
        Ok((spots.len() as u64 == stat.st_nlink).then_some(spots))
    }

    /// A file on the filesystem of the tree that has no name.
    pub(in super::super) fn unnamed_file(&self) -> Result<OwnedFd, Errno> {
        self.staging.file()
    }

    /// What the disk has as the file's xattrs, and whether it belongs to whom it was made for; `None` while it is not on
    /// the disk.
    pub(in super::super) fn belongings(&self, key: InodeKey) -> Result<Option<(Xattrs, bool)>, NamesError> {
        let Found::OnDisk(OnDisk { stat, .. }) = self.stat(key)? else { return Ok(None) };
        let ours = Owner::of_this_process();
        let is_ours = (stat.st_uid, stat.st_gid) == (ours.uid, ours.gid);
        let names = self.xattr_names(key)?;
        let names = names.split(|byte| *byte == 0).filter(|name| !name.is_empty());
        let mut xattrs = names
            .map(|name| Ok((name.to_vec(), self.xattr(key, name)?)))
            .collect::<Result<Vec<_>, NamesError>>()?;
        xattrs.sort_unstable();
        Ok(Some((xattrs, is_ours)))
    }

    /// Puts something in the place of an inode, under one of its names after the other; what lost its last name by it.
    /// Each name has either before and after every moment. A name that is another's by now is an error ([`Errno::STALE`]).
    ///
    /// The directories keep their times: nobody here changed anything in them.
    pub(in super::super) fn replace(
        &self,
        key: InodeKey,
        spots: &[Spot],
        successor: &Successor,
    ) -> Result<Option<Removed>, NamesError> {
        let mut removed = None;
        for spot in spots {
            removed = Some(self.replace_at(key, spot, successor)?);
        }
        Ok(removed)
    }

    fn replace_at(&self, key: InodeKey, spot: &Spot, successor: &Successor) -> Result<Removed, NamesError> {
        let directory = self.placed_directory(spot.directory)?;
        let _changing = self.changing([directory.key]);
        let was = match self.look(&directory, &spot.name)? {
            Some(found) if found.key() == key => match found {
                Found::Virtual(_) => None,
                Found::OnDisk(found) => Some(held(&directory, &spot.name, &found.stat)),
            },
            _ => return Err(Errno::STALE.into()),
        };
        let (staging, made) = (self.staging.at(), self.staging.name());
        match successor {
            Successor::Nothing => return self.take(&directory, &spot.name),
            Successor::File(file) => self.staging.name_file(file, staging, &made)?,
            Successor::Symlink(target, mtime) => {
                rustix::fs::symlinkat(target.as_slice(), staging, made.as_slice())?;
                let flags = AtFlags::SYMLINK_NOFOLLOW;
                rustix::fs::utimensat(staging, made.as_slice(), &times(*mtime), flags)?;
            }
        }
        // Before it lies there: from then on it must not be taken for what the manifest has there.
        self.detach(&directory, &spot.name)?;
        rustix::fs::renameat(staging, made.as_slice(), directory.fd(), &*spot.name)?;
        Ok(match was {
            Some(held) => self.lose(key, &held, &directory, &spot.name),
            None => Removed { key, was_last: true },
        })
    }
}
