//! Putting what the manifest has on the disk, where it is to be changed.
//!
//! It is made in staging with everything that belongs to it, the state above all, and only then gets its name: no crash
//! leaves a directory or a file without. What is above it is placed first.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use rustix::fs::{AtFlags, Mode, OFlags, Timespec, Timestamps, UTIME_OMIT};
use rustix::io::Errno;

use super::super::finish::{set_xattrs, times};
use super::super::lock;
use super::super::state::{self, State};
use super::super::store::write_at;
use super::directory::Directory;
use super::{Found, InodeKey, Name, Names, NamesError, OnDisk, STALE};
use crate::beneath;
use crate::git::{self, Shown};
use crate::manifest::{Entry, EntryIndex, Kind, Mtime, NotYet};

impl Names {
    /// Puts an inode on the disk, under all its names, if it is not there yet.
    pub fn place(&self, key: InodeKey) -> Result<OnDisk, NamesError> {
        if let InodeKey::Entry(index) = key
            && let Some(entry) = self.manifest.entry(index)
            && entry.kind() == Kind::File
            && entry.nlink() > 1
        {
            self.place_all_names(&entry)?;
        }
        match self.stat(key)? {
            Found::OnDisk(found) => return Ok(found),
            Found::Virtual(entry) => self.place_entry(&entry)?,
        }
        match self.stat(key)? {
            Found::OnDisk(found) => Ok(found),
            // Nothing but a stranger beneath the mount takes it away again.
            Found::Virtual(_) => Err(STALE),
        }
    }

    /// The directory on the disk, put there if need be.
    pub(super) fn placed_directory(&self, key: InodeKey) -> Result<Arc<Directory>, NamesError> {
        let mut virtual_ones = Vec::new();
        let mut at = key;
        let mut directory = loop {
            match self.directory(at)? {
                Some(directory) => break directory,
                None => {
                    virtual_ones.push(at);
                    at = self.locate(at)?.directory;
                }
            }
        };
        for key in virtual_ones.into_iter().rev() {
            let entry = self.manifest.entry(self.entry_of(key)?).ok_or(NotYet)?;
            self.place_in(&directory, &entry)?;
            directory = self.directory(key)?.ok_or(Errno::STALE)?;
        }
        Ok(directory)
    }

    fn place_entry(&self, entry: &Entry<'_>) -> Result<(), NamesError> {
        let directory = self.placed_directory(self.position(entry).directory)?;
        self.place_in(&directory, entry)
    }

    /// Puts an entry with one name into its directory, unless the disk has something there.
    fn place_in(&self, directory: &Directory, entry: &Entry<'_>) -> Result<(), NamesError> {
        let _changing = self.changing([directory.key]);
        self.place_locked(directory, entry)
    }

    /// As [`place_in`](Self::place_in), for whoever changes names in the directory.
    pub(super) fn place_locked(&self, directory: &Directory, entry: &Entry<'_>) -> Result<(), NamesError> {
        if !matches!(self.look(directory, entry.name())?, Some(Found::Virtual(_))) {
            return Ok(());
        }
        match (entry.kind(), self.shown(entry)?) {
            (Kind::Directory, _) => self.place_directory(directory, entry),
            (Kind::Symlink, Shown::Withheld) => self.place_symlink(directory, entry, git::WITHHELD_TARGET),
            (Kind::Symlink, _) => self.place_symlink(directory, entry, &entry.extra().target),
            (Kind::File, Shown::Config(text)) => self.place_text(directory, entry, &text),
            (Kind::File, shown) => self.place_file(directory, entry, shown.mode(entry.mode())),
        }
    }

    fn place_directory(&self, directory: &Directory, entry: &Entry<'_>) -> Result<(), NamesError> {
        let (staging, name) = (self.staging.at(), self.staging.name());
        rustix::fs::mkdirat(staging, name.as_slice(), Mode::RWXU)?;
        let made = beneath::open(staging, &name, OFlags::RDONLY | OFlags::DIRECTORY)?;
        state::set(&made, &State { remote_bytes: 0, ..State::of(entry, entry.mode()) })?;
        set_xattrs(&made, &entry.extra())?;
        rustix::fs::futimens(&made, &never_used(entry.mtime()))?;
        // Nobody must find it and note that it is not there.
        let _placing = lock(&self.placing);
        rustix::fs::renameat(staging, name.as_slice(), directory.fd(), entry.name())?;
        self.absent.clear(entry.index());
        self.stated.set(entry.index());
        Ok(())
    }

    fn place_symlink(
        &self,
        directory: &Directory,
        entry: &Entry<'_>,
        target: &[u8],
    ) -> Result<(), NamesError> {
        let (staging, name) = (self.staging.at(), self.staging.name());
        rustix::fs::symlinkat(target, staging, name.as_slice())?;
        let times = times(entry.mtime());
        rustix::fs::utimensat(staging, name.as_slice(), &times, AtFlags::SYMLINK_NOFOLLOW)?;
        self.stated.set(entry.index());
        Ok(rustix::fs::renameat(staging, name.as_slice(), directory.fd(), entry.name())?)
    }

    /// A file of our own content: complete from the start.
    fn place_text(&self, directory: &Directory, entry: &Entry<'_>, text: &[u8]) -> Result<(), NamesError> {
        let file = File::from(self.staging.file()?);
        write_at(&file, text, 0).map_err(|(_, errno)| errno)?;
        rustix::fs::futimens(&file, &times(entry.mtime()))?;
        rustix::fs::fchmod(&file, Mode::from_raw_mode(entry.mode().into()))?;
        // With its name it claims to be complete.
        rustix::fs::fsync(&file)?;
        self.stated.set(entry.index());
        Ok(self.staging.name_file(&file.into(), directory.fd(), entry.name())?)
    }

    fn place_file(&self, directory: &Directory, entry: &Entry<'_>, mode: u16) -> Result<(), NamesError> {
        let file = self.unfinished(entry, mode)?;
        Ok(self.staging.name_file(&file, directory.fd(), entry.name())?)
    }

    /// A file without a name, all of it a hole, that says what it will be.
    fn unfinished(&self, entry: &Entry<'_>, mode: u16) -> Result<OwnedFd, NamesError> {
        let file = self.staging.file()?;
        state::set(&file, &State::of(entry, mode))?;
        set_xattrs(&file, &entry.extra())?;
        rustix::fs::ftruncate(&file, entry.size())?;
        rustix::fs::futimens(&file, &never_used(entry.mtime()))?;
        self.stated.set(entry.inode());
        Ok(file)
    }

    /// Puts a file under all names that the manifest has of it. Until then it lies among the files with several names,
    /// if anywhere, and none of them has changed.
    fn place_all_names(&self, first: &Entry<'_>) -> Result<(), NamesError> {
        let names: Vec<_> = self.groups.names(&self.manifest, first.index())?.map(EntryIndex).collect();
        let _grouping = lock(&self.grouping);
        let anchor = first.index().0.to_string().into_bytes();
        let file = match beneath::open(self.layout.links(), &anchor, OFlags::PATH) {
            Ok(file) => file,
            Err(Errno::NOENT) if self.is_placed(first)? => return Ok(()),
            Err(Errno::NOENT) => self.make_anchor(first, &anchor)?,
            Err(errno) => return Err(errno.into()),
        };
        // From then on something else may lie under one of its names.
        self.note_moves()?;
        for name in names {
            let entry = self.manifest.entry(name).ok_or(NotYet)?;
            let at = self.position(&entry).directory;
            let directory = match self.placed_directory(at) {
                // It may have been moved, and nobody has come by it.
                Err(STALE) if self.find_moves()? => self.placed_directory(at),
                directory => directory,
            };
            let directory = match directory {
                // It was removed, and that name with it.
                Err(STALE) => continue,
                directory => directory?,
            };
            let _changing = self.changing([directory.key]);
            match self.staging.name_file(&file, directory.fd(), entry.name()) {
                // An interruption before the anchor was removed.
                Ok(()) | Err(Errno::EXIST) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
        Ok(rustix::fs::unlinkat(self.layout.links(), anchor.as_slice(), AtFlags::empty())?)
    }

    /// Puts a file with several names on the disk under none of them.
    pub(super) fn make_anchor(&self, first: &Entry<'_>, anchor: &[u8]) -> Result<OwnedFd, NamesError> {
        let file = self.unfinished(first, self.shown(first)?.mode(first.mode()))?;
        self.staging.name_file(&file, self.layout.links(), anchor)?;
        Ok(file)
    }

    /// True when one of a file's names is on the disk, or has been: then they all are, or have been.
    pub(super) fn is_placed(&self, first: &Entry<'_>) -> Result<bool, NamesError> {
        let Name { directory, name } = match self.locate(InodeKey::Entry(first.index())) {
            Ok(name) => name,
            Err(STALE) => return Ok(true),
            Err(error) => return Err(error),
        };
        Ok(!matches!(self.lookup(directory, &name)?, Some(Found::Virtual(_))))
    }
}

/// What nobody has used here was last used when it was last modified. Its other times are its state's.
fn never_used(mtime: Mtime) -> Timestamps {
    let omitted = Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT };
    Timestamps { last_modification: omitted, ..times(mtime) }
}
