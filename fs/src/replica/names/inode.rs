//! What can be done to an inode beside its content and its names.

use std::os::fd::AsRawFd;
use std::sync::Arc;

use rustix::fs::{AtFlags, FileType, Gid, Mode, Timestamps, Uid, XattrFlags};
use rustix::io::Errno;

use super::super::directories::OPEN;
use super::super::state::{self, USER};
use super::directory::Directory;
use super::located::Name;
use super::make::made_here;
use super::staging::{is_whiteout, refuse_mark};
use super::{Found, InodeKey, Names, NamesError, OnDisk, ROOT, mtime_of};
use crate::clock;
use crate::manifest::Mtime;

/// Names of a path at most. Longer ones can be made, a directory at a time; they are told to nobody.
const PATH_NAMES_MAX: usize = 4096;

/// The place of an inode on the disk. Its descriptors stay open as long as it lives.
struct Place {
    directory: Arc<Directory>,
    name: Box<[u8]>,
}

impl Place {
    /// A path by which `/proc` reaches it, whatever its mode.
    fn path(&self) -> Vec<u8> {
        let directory = format!("/proc/self/fd/{}/", self.directory.fd().as_raw_fd());
        [directory.as_bytes(), &self.name].concat()
    }
}

impl Names {
    /// The directory an inode is found in; the tree's own is its own.
    pub fn parent(&self, key: InodeKey) -> Result<InodeKey, NamesError> {
        if key == ROOT { Ok(ROOT) } else { Ok(self.locate(key)?.directory) }
    }

    /// The path of an inode; one of them, where it has several names.
    pub fn path(&self, key: InodeKey) -> Result<Vec<u8>, NamesError> {
        let (mut at, mut names) = (key, Vec::new());
        while at != ROOT {
            let Name { directory, name } = self.locate(at)?;
            if names.len() == PATH_NAMES_MAX {
                return Err(Errno::STALE.into());
            }
            names.push(name);
            at = directory;
        }
        names.reverse();
        Ok(names.join(&b"/"[..]))
    }

    /// Tells apart inodes of which one got the other's number on the disk while the kernel still knew that one.
    pub fn generation(&self, key: InodeKey) -> u64 {
        self.located.generation(key)
    }

    /// The target of a symbolic link on the disk.
    pub fn read_link(&self, key: InodeKey) -> Result<Vec<u8>, NamesError> {
        let place = self.place_of(key)?;
        Ok(rustix::fs::readlinkat(place.directory.fd(), &*place.name, Vec::new())?.into_bytes())
    }

    /// Gives anything but a regular file another owner, which is given with its other attributes.
    pub fn set_owner(&self, key: InodeKey, uid: Option<u32>, gid: Option<u32>) -> Result<(), NamesError> {
        let found = self.place(key)?;
        let place = self.place_of(key)?;
        let (uid, gid) = (uid.map(Uid::from_raw), gid.map(Gid::from_raw));
        rustix::fs::chownat(place.directory.fd(), &*place.name, uid, gid, AtFlags::SYMLINK_NOFOLLOW)?;
        self.note_change(&found)
    }

    /// Something about a directory was changed, now. Of others the disk notes it, or their replica.
    pub(super) fn note_change(&self, found: &OnDisk) -> Result<(), NamesError> {
        if found.is(FileType::Directory) {
            let now = clock::now();
            self.placed_directory(found.key)?.change(|state| state.ctime = now)?;
        }
        Ok(())
    }

    /// Changes the permission bits of anything but a regular file, whose are kept with its content.
    pub fn set_mode(&self, key: InodeKey, mode: u16) -> Result<(), NamesError> {
        let found = self.place(key)?;
        if found.is(FileType::Directory) {
            return self.set_directory_mode(key, mode);
        }
        if is_whiteout(&found.stat) {
            refuse_mark(mode)?;
        }
        let place = self.place_of(key)?;
        Ok(rustix::fs::chmodat(
            place.directory.fd(),
            &*place.name,
            Mode::from_raw_mode(mode.into()),
            AtFlags::empty(),
        )?)
    }

    /// Changes the permission bits of a directory.
    fn set_directory_mode(&self, key: InodeKey, mode: u16) -> Result<(), NamesError> {
        let directory = self.placed_directory(key)?;
        let now = clock::now();
        let changed = directory.change(|state| (state.mode, state.ctime) = (mode, now))?;
        if !changed {
            if mode & OPEN == OPEN {
                rustix::fs::fchmod(directory.fd(), Mode::from_raw_mode(mode.into()))?;
            } else {
                // Its own user could not work in it, nor could we.
                let mtime = mtime_of(&rustix::fs::fstat(directory.fd())?);
                let state = made_here(mode, mtime, now);
                directory.adopt(state)?;
                rustix::fs::fchmod(directory.fd(), Mode::RWXU)?;
            }
        }
        Ok(())
    }

    /// Sets the times of anything but a regular file, whose are kept with its content.
    pub fn set_times(&self, key: InodeKey, mut times: Timestamps) -> Result<(), NamesError> {
        if self.place(key)?.is(FileType::Directory) {
            let (now, set) = (clock::now(), times.last_modification);
            let directory = self.placed_directory(key)?;
            let changed = directory.change(|state| {
                state.ctime = now;
                match set.tv_nsec {
                    rustix::fs::UTIME_OMIT => {}
                    rustix::fs::UTIME_NOW => state.mtime = now,
                    nsec => state.mtime = Mtime { sec: set.tv_sec, nsec: nsec as u32 },
                }
            })?;
            if changed {
                // That it was used, the disk notes.
                times.last_modification.tv_nsec = rustix::fs::UTIME_OMIT;
            }
        }
        let place = self.place_of(key)?;
        Ok(rustix::fs::utimensat(place.directory.fd(), &*place.name, &times, AtFlags::SYMLINK_NOFOLLOW)?)
    }

    /// Writes a directory and its times to the disk.
    pub fn sync_directory(&self, key: InodeKey) -> Result<(), NamesError> {
        let Some(directory) = self.directory(key)? else { return Ok(()) };
        directory.write_times()?;
        Ok(rustix::fs::fsync(directory.fd())?)
    }

    /// The value of an xattr; ENODATA where there is none.
    pub fn xattr(&self, key: InodeKey, name: &[u8]) -> Result<Vec<u8>, NamesError> {
        if !name.starts_with(USER) {
            return Err(Errno::OPNOTSUPP.into());
        }
        if state::is_ours(name) {
            return Err(Errno::NODATA.into());
        }
        match self.stat(key)? {
            Found::Virtual(entry) => {
                let found = entry.extra().xattrs.into_iter().find(|(other, _)| other == name);
                Ok(found.ok_or(Errno::NODATA)?.1)
            }
            Found::OnDisk(_) => {
                let place = self.place_of(key)?;
                Ok(state::xattr_by(|value| rustix::fs::lgetxattr(place.path(), name, value))?)
            }
        }
    }

    /// The names of all xattrs, each followed by a NUL (`listxattr(2)`).
    pub fn xattr_names(&self, key: InodeKey) -> Result<Vec<u8>, NamesError> {
        match self.stat(key)? {
            Found::Virtual(entry) => {
                let xattrs = entry.extra().xattrs;
                Ok(state::ended(xattrs.iter().map(|(name, _)| name.as_slice())))
            }
            Found::OnDisk(_) => {
                let place = self.place_of(key)?;
                let names = state::xattr_by(|names| rustix::fs::llistxattr(place.path(), names))?;
                Ok(state::ended(state::others(&names)))
            }
        }
    }

    /// Sets an xattr.
    pub fn set_xattr(
        &self,
        key: InodeKey,
        name: &[u8],
        value: &[u8],
        flags: XattrFlags,
    ) -> Result<(), NamesError> {
        self.check_xattr(name)?;
        let found = self.place(key)?;
        rustix::fs::lsetxattr(self.place_of(key)?.path(), name, value, flags)?;
        self.note_change(&found)
    }

    /// Removes an xattr.
    pub fn remove_xattr(&self, key: InodeKey, name: &[u8]) -> Result<(), NamesError> {
        self.check_xattr(name)?;
        let found = self.place(key)?;
        rustix::fs::lremovexattr(self.place_of(key)?.path(), name)?;
        self.note_change(&found)
    }

    fn check_xattr(&self, name: &[u8]) -> Result<(), NamesError> {
        match () {
            () if !name.starts_with(USER) => Err(Errno::OPNOTSUPP.into()),
            () if state::is_ours(name) => Err(Errno::PERM.into()),
            () => Ok(()),
        }
    }

    /// Where an inode lies that is on the disk.
    fn place_of(&self, key: InodeKey) -> Result<Place, NamesError> {
        if key == ROOT {
            return Ok(Place { directory: self.root.clone(), name: b".".as_slice().into() });
        }
        let name = self.locate(key)?;
        let directory = self.directory(name.directory)?.ok_or(Errno::STALE)?;
        Ok(Place { directory, name: name.name })
    }
}
