//! What belongs to a file beside its content and its names: owner, mode, times, xattrs.
//!
//! While a file has a state, its mode and two of its times are the state's, and the disk's own mean nothing; when it was
//! last read is the disk's to say. All this is done through the file's descriptor, so it can be done to a file that has
//! lost its names and is still open.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::Ordering::{Acquire, Relaxed};

use rustix::fs::{AtFlags, CWD, Gid, Mode, OFlags, Timespec, Timestamps, UTIME_OMIT, Uid, XattrFlags};
use rustix::io::Errno;

use super::engine::Engine;
use super::inode::Inode;
use super::key::InodeKey;
use super::names::OnDisk;
use super::state::{self, State, Stated};
use super::store::StoreError;
use super::write::WriteError;
use super::{ReadError, Replica, lock};
use crate::clock;
use crate::manifest::Mtime;

/// Attributes to be given to a file; those that are `None` stay.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SetAttributes {
    /// The user it belongs to.
    pub uid: Option<u32>,
    /// The group it belongs to.
    pub gid: Option<u32>,
    /// Permission bits.
    pub mode: Option<u16>,
    /// The time of its last change.
    pub mtime: Option<Mtime>,
    /// The time of its last use.
    pub atime: Option<Mtime>,
}

impl Replica {
    /// Gives a file other attributes; one of the manifest is made for it.
    pub async fn set_attributes(
        &self,
        file: impl Into<InodeKey>,
        attributes: SetAttributes,
    ) -> Result<(), WriteError> {
        self.engine.set_attributes(file.into(), attributes).await
    }

    /// As [`set_attributes`](Self::set_attributes), the times alone.
    pub async fn set_times(
        &self,
        file: impl Into<InodeKey>,
        mtime: Option<Mtime>,
        atime: Option<Mtime>,
    ) -> Result<(), WriteError> {
        self.set_attributes(file, SetAttributes { mtime, atime, ..SetAttributes::default() }).await
    }

    /// Tells that something about a file was changed through one of its names: it was changed now. Blocks.
    pub fn changed(&self, file: impl Into<InodeKey>) -> Result<(), Errno> {
        let Some(inode) = self.engine.inode(file.into()) else { return Ok(()) };
        let _data = lock(&inode.data);
        self.engine.changed_now(&inode).map_err(|error| error.errno())
    }

    /// What the disk says of a file that has lost its names and is still open; `None` for any other.
    pub fn nameless(&self, file: impl Into<InodeKey>) -> Option<OnDisk> {
        let (inode, file) = self.nameless_file(file.into()).ok()?;
        let stat = rustix::fs::fstat(&*file).ok()?;
        let state = inode.lock().state;
        Some(OnDisk { key: inode.key, stat, state })
    }

    /// The value of an xattr of such a file; ENODATA where there is none.
    pub fn nameless_xattr(&self, file: impl Into<InodeKey>, name: &[u8]) -> Result<Vec<u8>, Errno> {
        let (_, file) = self.nameless_file(file.into())?;
        state::xattr_by(|value| rustix::fs::fgetxattr(&*file, name, value))
    }

    /// The names of all its xattrs, each followed by a NUL.
    pub fn nameless_xattr_names(&self, file: impl Into<InodeKey>) -> Result<Vec<u8>, Errno> {
        let (_, file) = self.nameless_file(file.into())?;
        let names = state::xattr_by(|names| rustix::fs::flistxattr(&*file, names))?;
        Ok(state::ended(state::others(&names)))
    }

    /// Sets one of its xattrs. Blocks.
    pub fn set_nameless_xattr(
        &self,
        file: impl Into<InodeKey>,
        name: &[u8],
        value: &[u8],
        flags: XattrFlags,
    ) -> Result<(), Errno> {
        let set = |file: &File| rustix::fs::fsetxattr(file, name, value, flags);
        self.change_nameless(file.into(), set)
    }

    /// Removes one of its xattrs. Blocks.
    pub fn remove_nameless_xattr(&self, file: impl Into<InodeKey>, name: &[u8]) -> Result<(), Errno> {
        self.change_nameless(file.into(), |file| rustix::fs::fremovexattr(file, name))
    }

    fn change_nameless(
        &self,
        key: InodeKey,
        change: impl FnOnce(&File) -> Result<(), Errno>,
    ) -> Result<(), Errno> {
        let (inode, file) = self.nameless_file(key)?;
        let _data = lock(&inode.data);
        change(&file)?;
        self.engine.changed_now(&inode).map_err(|error| error.errno())
    }

    fn nameless_file(&self, key: InodeKey) -> Result<(Arc<Inode>, Arc<File>), Errno> {
        let inode = self.engine.canonical(key).and_then(|key| self.engine.inodes.find(key));
        let inode = inode.filter(|inode| inode.is_removed.load(Acquire)).ok_or(Errno::STALE)?;
        let file = inode.lock().file.clone().ok_or(Errno::STALE)?;
        Ok((inode, file))
    }
}

impl Engine {
    /// See [`super::Replica::set_attributes`].
    async fn set_attributes(
        self: &Arc<Self>,
        key: InodeKey,
        attributes: SetAttributes,
    ) -> Result<(), WriteError> {
        let inode = self.inode(key).ok_or(ReadError::NoSuchFile)?;
        self.loaded(&inode).await?;
        let engine = self.clone();
        self.on_disk(move || {
            let _data = lock(&inode.data);
            engine.set_attributes_now(&inode, attributes)
        })
        .await
    }

    fn set_attributes_now(&self, inode: &Arc<Inode>, attributes: SetAttributes) -> Result<(), WriteError> {
        let file = match self.file_for_attributes(inode) {
            Err(StoreError::System(Errno::ACCESS)) => return self.set_closed(inode, attributes),
            file => file?,
        };
        let SetAttributes { uid, gid, mode, mtime, atime } = attributes;
        if inode.lock().state.is_none() {
            return Ok(set_ordinary(&file, attributes)?);
        }
        set_ordinary(&file, SetAttributes { uid, gid, atime, ..SetAttributes::default() })?;
        if let Some(state) = &mut inode.lock().state {
            (state.mode, state.mtime) = (mode.unwrap_or(state.mode), mtime.unwrap_or(state.mtime));
            state.ctime = clock::now();
        }
        Ok(self.save(inode)?)
    }

    /// An ordinary file that its own user may not open can be given other attributes nevertheless.
    fn set_closed(&self, inode: &Inode, attributes: SetAttributes) -> Result<(), WriteError> {
        let file = self.places.open(inode.key, OFlags::PATH)?.ok_or(Errno::NOENT)?;
        let path = format!("/proc/self/fd/{}", file.as_raw_fd());
        let (path, none) = (path.as_str(), AtFlags::empty());
        if let Some((uid, gid)) = owner_of(attributes) {
            rustix::fs::chownat(CWD, path, uid, gid, none)?;
        }
        if let Some(times) = times_of(attributes) {
            rustix::fs::utimensat(CWD, path, &times, none)?;
        }
        if let Some(mode) = attributes.mode {
            rustix::fs::chmodat(CWD, path, Mode::from_raw_mode(mode.into()), none)?;
        }
        inode.file_used.store(true, Relaxed);
        Ok(())
    }

    /// Something about a file was changed, now. Its `data` is held.
    pub(super) fn changed_now(&self, inode: &Arc<Inode>) -> Result<(), StoreError> {
        let (is_seen, is_due) = {
            let mut blocks = inode.lock();
            (blocks.is_seen(), blocks.note_times(inode, |state, now| state.ctime = now))
        };
        match is_seen {
            true if is_due => self.save(inode),
            true => Ok(()),
            // Nobody needs to know which blocks are here for that.
            false => self.changed_on_disk(inode),
        }
    }

    fn changed_on_disk(&self, inode: &Arc<Inode>) -> Result<(), StoreError> {
        let Some(file) = self.file(inode)? else { return Ok(()) };
        if let Stated::Unfinished(state) = state::get(&*file)? {
            state::set(&*file, &State { ctime: clock::now(), ..state })?;
        }
        Ok(())
    }
}

/// Gives an ordinary file attributes, its mode last: another owner takes some of it away.
pub(super) fn set_ordinary(file: &File, attributes: SetAttributes) -> Result<(), Errno> {
    if let Some((uid, gid)) = owner_of(attributes) {
        rustix::fs::fchown(file, uid, gid)?;
    }
    if let Some(times) = times_of(attributes) {
        rustix::fs::futimens(file, &times)?;
    }
    if let Some(mode) = attributes.mode {
        rustix::fs::fchmod(file, Mode::from_raw_mode(mode.into()))?;
    }
    Ok(())
}

fn owner_of(attributes: SetAttributes) -> Option<(Option<Uid>, Option<Gid>)> {
    let owner = (attributes.uid.map(Uid::from_raw), attributes.gid.map(Gid::from_raw));
    (owner != (None, None)).then_some(owner)
}

fn times_of(attributes: SetAttributes) -> Option<Timestamps> {
    if attributes.mtime.is_none() && attributes.atime.is_none() {
        return None;
    }
    let time = |time: Option<Mtime>| match time {
        Some(Mtime { sec, nsec }) => Timespec { tv_sec: sec, tv_nsec: nsec.into() },
        None => Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
    };
    Some(Timestamps { last_access: time(attributes.atime), last_modification: time(attributes.mtime) })
}
