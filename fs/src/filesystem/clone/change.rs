//! Changing the tree of a clone: names, and what belongs to an inode.

use std::sync::Arc;

use rustix::fs::{FileType, RenameFlags, Timespec, Timestamps, UTIME_NOW, UTIME_OMIT, XattrFlags};

use rustix::io::Errno;

use super::{CloneTree, key};
use crate::clock;
use crate::filesystem::{Attributes, NodeId, Owner, ViewError};
use crate::manifest::Mtime;
use crate::name::NAME_BYTES_MAX;
use crate::replica::names::{Found, Made, Removed, Rename};
use crate::replica::{InodeKey, SetAttributes};

/// A time to be set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum When {
    /// This one.
    At(Mtime),
    /// The moment in which it is set.
    Now,
}

impl When {
    fn time(self) -> Mtime {
        match self {
            Self::At(time) => time,
            Self::Now => clock::now(),
        }
    }
}

/// Permission bits by which a program runs as its file's user, and as its group.
const SET_USER: u16 = 0o4000;
const SET_GROUP: u16 = 0o2000;

/// What is to be changed of an inode; what is `None` stays.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Change {
    /// Permission bits.
    pub mode: Option<u16>,
    /// The user it belongs to.
    pub uid: Option<u32>,
    /// The group it belongs to.
    pub gid: Option<u32>,
    /// Bytes of a file.
    pub size: Option<u64>,
    /// When its content was last used.
    pub atime: Option<When>,
    /// When its content was last modified.
    pub mtime: Option<When>,
}

impl CloneTree {
    /// Makes something in a directory.
    pub fn make(
        &self,
        directory: NodeId,
        name: &[u8],
        made: &Made,
        mode: u16,
        owner: Owner,
    ) -> Result<Attributes, ViewError> {
        check(name)?;
        self.replica.note_change()?;
        let found = self.names.make(key(directory), name, made, mode, Some(owner))?;
        self.told(&Found::OnDisk(found), directory, name)
    }

    /// Makes a file in a directory and opens it.
    pub fn create(
        &self,
        directory: NodeId,
        name: &[u8],
        mode: u16,
        owner: Owner,
    ) -> Result<Attributes, ViewError> {
        check(name)?;
        self.replica.note_change()?;
        let (found, file) = self.names.create(key(directory), name, mode, Some(owner))?;
        self.replica.made(found.key, file.into())?;
        self.told(&Found::OnDisk(found), directory, name)
    }

    /// Gives an inode a further name.
    pub fn link(&self, node: NodeId, directory: NodeId, name: &[u8]) -> Result<Attributes, ViewError> {
        check(name)?;
        self.replica.note_change()?;
        let found = self.names.link(key(node), key(directory), name)?;
        self.told(&Found::OnDisk(found), directory, name)
    }

    /// Takes a name away from anything but a directory.
    pub fn unlink(&self, directory: NodeId, name: &[u8]) -> Result<(), ViewError> {
        self.losing(directory, name, || Ok(self.names.unlink(key(directory), name).map(Some)?))
    }

    /// Removes an empty directory.
    pub fn remove_directory(&self, directory: NodeId, name: &[u8]) -> Result<(), ViewError> {
        self.losing(directory, name, || Ok(self.names.remove_directory(key(directory), name).map(Some)?))
    }

    /// Gives what has one name another one.
    pub fn rename(
        &self,
        from: (NodeId, &[u8]),
        to: (NodeId, &[u8]),
        flags: RenameFlags,
    ) -> Result<(), ViewError> {
        check(to.1)?;
        self.replica.note_change()?;
        let how = match flags {
            flags if flags.is_empty() => Rename::Replace,
            RenameFlags::NOREPLACE => Rename::NoReplace,
            RenameFlags::EXCHANGE => Rename::Exchange,
            _ => return Err(Errno::INVAL.into()),
        };
        let rename = || Ok(self.names.rename((key(from.0), from.1), (key(to.0), to.1), how)?);
        match how {
            Rename::Replace => self.losing(to.0, to.1, rename),
            Rename::NoReplace | Rename::Exchange => rename().map(drop),
        }
    }

    /// Runs what may take an inode its last name, and keeps what somebody who still has it may ask for.
    fn losing(
        &self,
        directory: NodeId,
        name: &[u8],
        lose: impl FnOnce() -> Result<Option<Removed>, ViewError>,
    ) -> Result<(), ViewError> {
        self.replica.note_change()?;
        let Some(found) = self.names.lookup(key(directory), name)? else { return lose().map(drop) };
        let (inode, attributes) = (found.key(), self.attributes_of(&found)?);
        let is_file = attributes.kind == FileType::RegularFile;
        let removal = match is_file && self.is_last_name(&found) {
            true => Some(self.replica.removing(inode)?),
            false => None,
        };
        let Some(removed) = lose()? else { return Ok(()) };
        if removed.was_last && removed.key == inode {
            let ctime = clock::now();
            self.nameless().insert(inode, Attributes { nlink: 0, ctime, ..attributes });
            if let Some(removal) = removal {
                removal.done();
            }
        }
        Ok(())
    }

    fn is_last_name(&self, found: &Found<'_>) -> bool {
        match found {
            Found::Virtual(entry) => entry.nlink() < 2,
            Found::OnDisk(found) => found.stat.st_nlink < 2,
        }
    }

    /// Changes what belongs to an inode, and tells what it is then. Once it has begun it goes on to its end.
    pub async fn change(self: &Arc<Self>, node: NodeId, change: Change) -> Result<Attributes, ViewError> {
        let inode = key(node);
        let (is_file, kept) = self.on_disk(move |tree| tree.change_on_disk(inode, &change)).await?;
        if is_file {
            if let Some(size) = change.size {
                self.replica.truncate(inode, size).await?;
            }
            let at = |when: Option<When>| when.map(When::time);
            let (mtime, atime) = (at(change.mtime), at(change.atime));
            let mode = change.mode.or(kept);
            let attributes = SetAttributes { mode, mtime, atime };
            if attributes != SetAttributes::default() {
                self.replica.set_attributes(inode, attributes).await?;
            }
        }
        self.change_nameless(inode, change);
        self.on_disk(move |tree| tree.attributes(node)).await
    }

    /// Changes all that is not kept with a file's content. True for a file, which is on the disk then, with the mode that
    /// is left to it where another owner takes some away.
    fn change_on_disk(&self, inode: InodeKey, change: &Change) -> Result<(bool, Option<u16>), ViewError> {
        self.replica.note_change()?;
        let attributes = match self.names.stat(inode) {
            Ok(found) => self.attributes_of(&found)?,
            Err(error) => self.nameless_attributes(inode).ok_or(error)?,
        };
        let is_file = attributes.kind == FileType::RegularFile;
        if change.uid.is_some() || change.gid.is_some() {
            self.names.set_owner(inode, change.uid, change.gid)?;
        }
        if is_file {
            self.place_file(inode)?;
            let another = change.uid.is_some() || change.gid.is_some();
            return Ok((true, another.then(|| without_set_id(attributes.mode)).flatten()));
        }
        if let Some(mode) = change.mode {
            self.names.set_mode(inode, mode)?;
        }
        if change.atime.is_some() || change.mtime.is_some() {
            let times =
                Timestamps { last_access: timespec(change.atime), last_modification: timespec(change.mtime) };
            self.names.set_times(inode, &times)?;
        }
        Ok((false, None))
    }

    /// Takes from a file what an ordinary user's write takes from it: the bits that make others run it as its owner.
    pub async fn drop_set_id(self: &Arc<Self>, node: NodeId) -> Result<(), ViewError> {
        let attributes = self.on_disk(move |tree| tree.attributes(node)).await?;
        let mode = without_set_id(attributes.mode);
        if mode.is_none() {
            return Ok(());
        }
        Ok(self.replica.set_attributes(key(node), SetAttributes { mode, ..Default::default() }).await?)
    }

    /// Does `work`, from a thread that may block, once enough of the manifest has arrived for it.
    pub(super) async fn on_disk<T: Send + 'static>(
        self: &Arc<Self>,
        work: impl Fn(&Self) -> Result<T, ViewError> + Clone + Send + 'static,
    ) -> Result<T, ViewError> {
        loop {
            let (tree, work) = (self.clone(), work.clone());
            let done = tokio::task::spawn_blocking(move || work(&tree)).await;
            match done.map_err(|_| Errno::IO)? {
                Err(ViewError::NotYet) => self.arrived().await?,
                done => return done,
            }
        }
    }

    fn change_nameless(&self, inode: InodeKey, change: Change) {
        if let Some(attributes) = self.nameless().get_mut(&inode) {
            attributes.mode = change.mode.unwrap_or(attributes.mode);
            attributes.owner.uid = change.uid.unwrap_or(attributes.owner.uid);
            attributes.owner.gid = change.gid.unwrap_or(attributes.owner.gid);
        }
    }

    /// Puts a file on the disk that is about to be changed, under all its names; one without names is there.
    pub(super) fn place_file(&self, inode: InodeKey) -> Result<(), ViewError> {
        match self.names.place(inode) {
            Ok(_) => Ok(()),
            Err(_) if self.nameless().contains_key(&inode) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// The value of an xattr.
    pub fn xattr(&self, node: NodeId, name: &[u8]) -> Result<Vec<u8>, ViewError> {
        Ok(self.names.xattr(key(node), name)?)
    }

    /// The names of all xattrs, each followed by a NUL (`listxattr(2)`).
    pub fn xattr_names(&self, node: NodeId) -> Result<Vec<u8>, ViewError> {
        Ok(self.names.xattr_names(key(node))?)
    }

    /// Sets an xattr.
    pub fn set_xattr(
        &self,
        node: NodeId,
        name: &[u8],
        value: &[u8],
        flags: XattrFlags,
    ) -> Result<(), ViewError> {
        self.replica.note_change()?;
        Ok(self.names.set_xattr(key(node), name, value, flags)?)
    }

    /// Removes an xattr.
    pub fn remove_xattr(&self, node: NodeId, name: &[u8]) -> Result<(), ViewError> {
        self.replica.note_change()?;
        Ok(self.names.remove_xattr(key(node), name)?)
    }
}

/// A mode without the bits that make others run a file as its owner; none where it has none of them.
fn without_set_id(mode: u16) -> Option<u16> {
    let runs_as_group = mode & 0o010 != 0;
    let dropped = SET_USER | if runs_as_group { SET_GROUP } else { 0 };
    (mode & dropped != 0).then_some(mode & !dropped)
}

fn check(name: &[u8]) -> Result<(), ViewError> {
    if name.len() > NAME_BYTES_MAX { Err(ViewError::NameTooLong) } else { Ok(()) }
}

fn timespec(when: Option<When>) -> Timespec {
    match when {
        None => Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
        Some(When::Now) => Timespec { tv_sec: 0, tv_nsec: UTIME_NOW },
        Some(When::At(time)) => Timespec { tv_sec: time.sec, tv_nsec: time.nsec.into() },
    }
}
