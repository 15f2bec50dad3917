//! What can be done to a file of a replica: one method for each, for whoever serves a program.

use std::fs::File;
use std::sync::Arc;
use std::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed, Release};

use bytes::Bytes;
use rustix::fs::FallocateFlags;
use rustix::io::Errno;

use super::blocks::Saved;
use super::engine::Engine;
use super::inode::Inode;
use super::key::InodeKey;
use super::store::StoreError;
use super::write::WriteError;
use super::{Replica, lock};
use crate::filesystem::Seek;
use crate::manifest::Mtime;

/// What a replica knows of a file that it has looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Known {
    /// Its length.
    pub size: u64,
    /// Its times as the mount shows them; `None` for an ordinary file, which has its own.
    pub times: Option<Times>,
    /// Bytes below this come from the origin unless they are here.
    pub remote: u64,
}

/// The times that are shown of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Times {
    /// When its content last changed.
    pub mtime: Mtime,
    /// When anything about it last changed.
    pub ctime: Mtime,
}

/// A file about to lose its last name. Dropped, nothing has happened.
#[derive(Debug)]
pub struct Removal<'r> {
    replica: &'r Replica,
    inode: Arc<Inode>,
    file: Option<Arc<File>>,
}

impl Replica {
    /// Writes `bytes` at `offset`, after fetching what they replace in part and is not here. Returns how many were
    /// written: all, or fewer when the disk is full.
    ///
    /// Once the disk is written to, dropping the future does not undo it.
    pub async fn write(
        &self,
        file: impl Into<InodeKey>,
        offset: u64,
        bytes: Bytes,
    ) -> Result<u64, WriteError> {
        self.engine.write(file.into(), offset, bytes).await
    }

    /// Gives the file another length, after fetching the block in which it then ends, if that is not here.
    pub async fn truncate(&self, file: impl Into<InodeKey>, size: u64) -> Result<(), WriteError> {
        self.engine.truncate(file.into(), size).await
    }

    /// Makes an ordinary file of it: fetches everything, and gives it its true times and mode. Nothing for one that is.
    pub async fn localize(&self, file: impl Into<InodeKey>) -> Result<(), WriteError> {
        self.engine.localize(file.into()).await
    }

    /// `fallocate(2)` with `mode`, after [`localize`](Self::localize): what is allocated, or punched out, could
    /// otherwise not be told from what was fetched.
    pub async fn allocate(
        &self,
        file: impl Into<InodeKey>,
        mode: FallocateFlags,
        offset: u64,
        length: u64,
    ) -> Result<(), WriteError> {
        self.engine.allocate(file.into(), mode, offset, length).await
    }

    /// `fsync(2)`, or `fdatasync(2)`. An error tells that something written here before may be lost, once.
    pub async fn sync(&self, file: impl Into<InodeKey>, data_only: bool) -> Result<(), WriteError> {
        self.engine.sync(file.into(), data_only).await
    }

    /// `lseek(2)` with SEEK_DATA or SEEK_HOLE: the first offset at or after `offset`, none at or beyond the end. What is
    /// not here is told from the origin's hole map.
    pub async fn seek(
        &self,
        file: impl Into<InodeKey>,
        offset: u64,
        seek: Seek,
    ) -> Result<Option<u64>, WriteError> {
        self.engine.seek(file.into(), offset, seek).await
    }

    /// What is known of a file without a look at the disk; `None` when it has not been looked at: then its entry, or
    /// the disk, tells.
    pub fn known(&self, file: impl Into<InodeKey>) -> Option<Known> {
        let inode = self.engine.inodes.find(self.engine.canonical(file.into())?)?;
        let blocks = inode.lock();
        let times = blocks.state.map(|state| Times { mtime: state.mtime, ctime: state.ctime });
        blocks.is_loaded(self.engine.generation()).then(|| Known {
            size: inode.size(),
            times,
            remote: inode.remote(),
        })
    }

    /// The length of a file that has been looked at.
    pub fn size(&self, file: impl Into<InodeKey>) -> Option<u64> {
        self.known(file).map(|known| known.size)
    }

    /// The times shown of a file that has been looked at, unless it is an ordinary one.
    pub fn times(&self, file: impl Into<InodeKey>) -> Option<Times> {
        self.known(file).and_then(|known| known.times)
    }

    /// Takes over a file that was just made here and is open, with its descriptor: a mode that forbids opening it again
    /// forbids nothing to whoever made it. Counts as [`opened`](Self::opened) once. Blocks.
    pub fn made(&self, key: InodeKey, file: File) -> Result<(), Errno> {
        if let Some(before) = self.engine.inodes.find(key) {
            // It had this number, and must be gone.
            self.engine.inodes.remove(&before);
        }
        let inode = self.engine.inode(key).ok_or(Errno::NOENT)?;
        inode.opens.fetch_add(1, AcqRel);
        self.engine.descriptors.open(&inode, file);
        self.engine.load(&inode).map_err(|error| error.errno())
    }

    /// Tells that a handle on the file was opened: what is known about it stays in memory until as many
    /// [`released`](Self::released) have come, and so does the file itself when it loses its names.
    pub fn opened(&self, file: impl Into<InodeKey>) {
        if let Some(inode) = self.engine.inode(file.into()) {
            inode.opens.fetch_add(1, AcqRel);
            self.engine.used(&inode);
        }
    }

    /// Tells that the handle that was [opened](Self::opened) last may write: from then on the file keeps its names as long
    /// as it is open, whatever becomes of it at the origin. Blocks.
    pub fn opened_for_writing(&self, file: impl Into<InodeKey>) {
        if let Some(inode) = self.engine.inode(file.into()) {
            let _data = lock(&inode.data);
            inode.is_open_for_writing.store(true, Relaxed);
        }
    }

    /// True for a file that has lost its names to a newer version of it.
    pub fn is_replaced(&self, file: impl Into<InodeKey>) -> bool {
        let key = self.engine.canonical(file.into());
        key.and_then(InodeKey::entry).is_some_and(|index| self.engine.anew.replaced.is_set(index))
    }

    /// Tells that a handle on the file was closed.
    pub fn released(&self, file: impl Into<InodeKey>) {
        let key = self.engine.canonical(file.into());
        let Some(inode) = key.and_then(|key| self.engine.inodes.find(key)) else { return };
        // One release too many is the caller's mistake and must not pin the inode for ever.
        let before = inode.opens.fetch_update(AcqRel, Acquire, |opens| opens.checked_sub(1));
        if before != Ok(1) {
            return;
        }
        inode.is_open_for_writing.store(false, Relaxed);
        if inode.is_removed.load(Acquire) {
            self.engine.forget(&inode);
        } else if inode.is_kept.load(Relaxed) {
            let engine = self.engine.clone();
            self.engine.runtime.spawn_blocking(move || engine.save_if_changed(&inode));
        } else if self.engine.is_use_to_be_saved(&inode) {
            let engine = self.engine.clone();
            self.engine.runtime.spawn_blocking(move || engine.save_use(&inode));
        }
    }

    /// True while a handle on the file is open.
    pub fn is_open(&self, file: impl Into<InodeKey>) -> bool {
        let key = self.engine.canonical(file.into());
        let inode = key.and_then(|key| self.engine.inodes.find(key));
        inode.is_some_and(|inode| inode.opens.load(Acquire) > 0)
    }

    /// Prepares for a file's last name to go: what is open of it stays reachable. Blocks.
    pub fn removing(&self, file: impl Into<InodeKey>) -> Result<Removal<'_>, Errno> {
        let inode = self.engine.inode(file.into()).ok_or(Errno::NOENT)?;
        if inode.opens.load(Acquire) == 0 {
            // What it adds to the sums goes with it. What cannot be looked at can be removed.
            if self.engine.ledger().has_found(inode.index) {
                let _ = self.engine.load(&inode);
            }
            return Ok(Removal { replica: self, inode, file: None });
        }
        let file = match self.engine.load(&inode).and_then(|()| self.engine.file_to_pin(&inode)) {
            Ok(file) => file,
            // What cannot be opened can be removed.
            Err(StoreError::System(Errno::ACCESS) | StoreError::Foreign(_)) => None,
            Err(error) => return Err(error.errno()),
        };
        Ok(Removal { replica: self, inode, file })
    }
}

impl Removal<'_> {
    /// The last name is gone: nothing more of the file is fetched, unless it is open, and then until it no longer is.
    pub fn done(self) {
        let engine = &self.replica.engine;
        self.inode.is_removed.store(true, Release);
        if self.inode.opens.load(Acquire) == 0 {
            engine.forget(&self.inode);
        } else if let Some(file) = &self.file {
            engine.descriptors.keep(&self.inode, file);
            let _data = lock(&self.inode.data);
            // Of an ordinary file the disk has noted it.
            self.inode.lock().note_times(&self.inode, |state, now| state.ctime = now);
        }
    }
}

impl Engine {
    /// The file of an inode that is open, as far as its own user may open it; `None` when it is not there.
    fn file_to_pin(&self, inode: &Arc<Inode>) -> Result<Option<Arc<File>>, StoreError> {
        let _data = lock(&inode.data);
        match self.file(inode) {
            Ok(None) => Ok(None),
            // It was opened by somebody who may not read it.
            Err(StoreError::System(Errno::ACCESS)) => self.file_for_writing(inode).map(Some),
            _ => self.file_for_attributes(inode).map(Some),
        }
    }

    /// Writes back what only memory knows of an inode. Blocks.
    pub(super) fn save_if_changed(&self, inode: &Arc<Inode>) {
        let _data = lock(&inode.data);
        let saved = inode.lock().saved;
        if saved != Saved::All
            && let Err(error) = self.save(inode)
        {
            self.report(inode, &format!("its times cannot be kept: {error}"));
        }
    }

    /// The same of all inodes. Blocks.
    pub(super) fn save_all(&self) {
        self.inodes.kept().iter().for_each(|inode| self.save_if_changed(inode));
    }
}
