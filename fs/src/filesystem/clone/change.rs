//! Changing the tree of a clone: names, and what belongs to an inode.

use std::sync::Arc;

use rustix::fs::{FileType, RenameFlags, Timespec, Timestamps, UTIME_NOW, UTIME_OMIT, XattrFlags};

use rustix::io::Errno;

use super::{CloneTree, key};
use crate::clock;
use crate::filesystem::{Attributes, NodeId, Owner, ViewError};
use crate::manifest::{Kind, Mtime};
use crate::name::NAME_BYTES_MAX;
use crate::replica::names::{Found, Made, NamesError, OnDisk, Removed, Rename};
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
        self.note_ctime(&Found::OnDisk(found));
        self.told(&self.names.stat(found.key)?, directory, name)
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
        let renamed: Vec<_> = match how {
            Rename::Exchange => vec![from, to],
            Rename::Replace | Rename::NoReplace => vec![from],
        };
        let renamed = renamed.into_iter().map(|(directory, name)| self.names.lookup(key(directory), name));
        let renamed = renamed.collect::<Result<Vec<_>, _>>()?;
        let rename = || Ok(self.names.rename((key(from.0), from.1), (key(to.0), to.1), how)?);
        match how {
            Rename::Replace => self.losing(to.0, to.1, rename)?,
            Rename::NoReplace | Rename::Exchange => rename().map(drop)?,
        }
        renamed.iter().flatten().for_each(|found| self.note_ctime(found));
        Ok(())
    }

    /// A name or an xattr of an inode was changed. Of what is no file, the names have noted it.
    fn note_ctime(&self, found: &Found<'_>) {
        let is_unfinished = match found {
            Found::Virtual(entry) => entry.kind() == Kind::File,
            Found::OnDisk(found) => found.has_state() && is_file(found),
        };
        if is_unfinished && let Err(error) = self.replica.changed(found.key()) {
            tracing::debug!(%error, "when a file was changed cannot be kept");
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
        if is_file && matches!(found, Found::Virtual(_)) && self.replica.is_open(inode) {
            // What is open goes on as a file on the disk, with all that belongs to it.
            self.names.place(inode)?;
        }
        let removal = if is_file { Some(self.replica.removing(inode)?) } else { None };
        // Before it is gone: whoever still has it may ask at any moment.
        let nameless = Attributes { nlink: 0, ctime: clock::now(), ..attributes };
        self.nameless().insert(inode, nameless);
        let lost = lose();
        let has_gone = matches!(&lost, Ok(Some(removed)) if removed.was_last && removed.key == inode);
        if !has_gone && self.names.stat(inode).is_ok() {
            self.nameless().remove(&inode);
        }
        if has_gone && let Some(removal) = removal {
            removal.done();
        }
        if let Some(Removed { was_last: false, .. }) = lost? {
            self.note_ctime(&found);
        }
        Ok(())
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
            let attributes = SetAttributes { uid: change.uid, gid: change.gid, mode, mtime, atime };
            if attributes != SetAttributes::default() {
                self.replica.set_attributes(inode, attributes).await?;
            }
        }
        self.on_disk(move |tree| tree.attributes(node)).await
    }

    /// Changes all that is not kept with a file's content. True for a file, which is on the disk then, with the mode that
    /// is left to it where another owner takes some away.
    fn change_on_disk(&self, inode: InodeKey, change: &Change) -> Result<(bool, Option<u16>), ViewError> {
        self.replica.note_change()?;
        let (attributes, has_name) = match self.names.stat(inode) {
            Ok(found) => (self.attributes_of(&found)?, true),
            // What would be changed of it would be lost.
            Err(error) if self.replica.is_replaced(inode) => return Err(error.into()),
            Err(error) => (self.nameless_attributes(inode).ok_or(error)?, false),
        };
        let is_given = change.uid.is_some() || change.gid.is_some();
        if attributes.kind == FileType::RegularFile {
            self.place_file(inode)?;
            return Ok((true, is_given.then(|| without_set_id(attributes.mode)).flatten()));
        }
        if !has_name {
            // Nobody but those who have it open will ever see it.
            self.change_nameless(inode, change);
            return Ok((false, None));
        }
        if is_given {
            self.names.set_owner(inode, change.uid, change.gid)?;
        }
        if let Some(mode) = change.mode {
            self.names.set_mode(inode, mode)?;
        }
        if change.atime.is_some() || change.mtime.is_some() {
            let times =
                Timestamps { last_access: timespec(change.atime), last_modification: timespec(change.mtime) };
            self.names.set_times(inode, times)?;
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

    /// What is no file and has no name any more is changed as far as it is shown.
    fn change_nameless(&self, inode: InodeKey, change: &Change) {
        if let Some(attributes) = self.nameless().get_mut(&inode) {
            attributes.mode = change.mode.unwrap_or(attributes.mode);
            attributes.owner.uid = change.uid.unwrap_or(attributes.owner.uid);
            attributes.owner.gid = change.gid.unwrap_or(attributes.owner.gid);
            attributes.atime = change.atime.map_or(attributes.atime, When::time);
            attributes.mtime = change.mtime.map_or(attributes.mtime, When::time);
            attributes.ctime = clock::now();
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
        let inode = key(node);
        match self.names.xattr(inode, name) {
            Err(error) if self.has_lost_names(inode, &error) => {
                Ok(self.replica.nameless_xattr(inode, name)?)
            }
            found => Ok(found?),
        }
    }

    /// The names of all xattrs, each followed by a NUL (`listxattr(2)`).
    pub fn xattr_names(&self, node: NodeId) -> Result<Vec<u8>, ViewError> {
        let inode = key(node);
        match self.names.xattr_names(inode) {
            Err(error) if self.has_lost_names(inode, &error) => {
                Ok(self.replica.nameless_xattr_names(inode)?)
            }
            found => Ok(found?),
        }
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
        let inode = key(node);
        match self.names.set_xattr(inode, name, value, flags) {
            Err(error) if self.has_lost_names(inode, &error) => {
                Ok(self.replica.set_nameless_xattr(inode, name, value, flags)?)
            }
            set => {
                set?;
                self.note_xattr(inode)
            }
        }
    }

    /// Removes an xattr.
    pub fn remove_xattr(&self, node: NodeId, name: &[u8]) -> Result<(), ViewError> {
        self.replica.note_change()?;
        let inode = key(node);
        match self.names.remove_xattr(inode, name) {
            Err(error) if self.has_lost_names(inode, &error) => {
                Ok(self.replica.remove_nameless_xattr(inode, name)?)
            }
            removed => {
                removed?;
                self.note_xattr(inode)
            }
        }
    }

    /// True when a file was not found under a name because it has none any more.
    fn has_lost_names(&self, inode: InodeKey, error: &NamesError) -> bool {
        *error == NamesError::System(Errno::STALE) && self.is_nameless_file(inode)
    }

    fn note_xattr(&self, inode: InodeKey) -> Result<(), ViewError> {
        if let Ok(found) = self.names.stat(inode) {
            self.note_ctime(&found);
        }
        Ok(())
    }
}

fn is_file(found: &OnDisk) -> bool {
    FileType::from_raw_mode(found.stat.st_mode) == FileType::RegularFile
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
