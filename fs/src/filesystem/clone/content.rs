//! The content of a clone's files: opening, reading, writing.

use std::sync::Arc;

use bytes::Bytes;
use rustix::fs::FallocateFlags;
use rustix::io::Errno;

use super::{CloneTree, key};
use crate::filesystem::{NodeId, Now, Seek, ViewError, part, whole};
use crate::manifest::Kind;
use crate::replica::names::Found;
use crate::replica::{InodeKey, TryRead};

impl CloneTree {
    /// Opens a file. Each success must be followed by one [`release`](Self::release).
    pub fn open(&self, node: NodeId, writes: bool) -> Result<(), ViewError> {
        let inode = key(node);
        if writes {
            self.replica.note_change()?;
        }
        // First of all: what is open stays when it loses its names meanwhile.
        self.replica.opened(inode);
        if writes {
            // What it is about to change does not lose its names to a newer version.
            self.replica.opened_for_writing(inode);
        }
        let opened = match self.names.stat(inode) {
            Ok(_) if writes => self.place_file(inode),
            Ok(_) => Ok(()),
            // The kernel looks the name up again then (`do_filp_open`, `fs/namei.c`).
            Err(_) if self.is_replaced(node) => Err(Errno::STALE.into()),
            // The kernel opens again what it has without a name, through `/proc`.
            Err(_) if self.nameless_attributes(inode).is_some() => Ok(()),
            Err(error) => Err(error.into()),
        };
        if opened.is_err() {
            self.replica.released(inode);
        }
        opened
    }

    /// Tells that a handle on a file was closed. Blocks: what has no name any more goes with the last of them.
    pub fn release(&self, node: NodeId) {
        self.replica.released(key(node));
    }

    /// Reads `length` bytes at `offset`, or up to the end of the file, without waiting.
    pub fn try_read(&self, node: NodeId, offset: u64, length: u32) -> Result<Now<Bytes>, ViewError> {
        if self.substitute(node)?.is_some() {
            return Ok(Now::Later);
        }
        match self.replica.try_read(key(node), offset, length) {
            TryRead::Ready(bytes) => Ok(Now::Ready(bytes)),
            TryRead::WouldWait => Ok(Now::Later),
        }
    }

    /// As [`try_read`](Self::try_read), after a wait for what is not here: exactly these bytes or an error. Cancel
    /// safe.
    pub async fn read(self: &Arc<Self>, node: NodeId, offset: u64, length: u32) -> Result<Bytes, ViewError> {
        if let Some(text) = self.substitute(node)? {
            // Once it is on the disk it may have been written to.
            let is_virtual =
                move |tree: &Self| Ok(matches!(tree.names.stat(key(node)), Ok(Found::Virtual(_))));
            if self.on_disk(is_virtual).await? {
                return Ok(part(&text, offset, length));
            }
        }
        let bytes = self.replica.read(key(node), offset, length).await?;
        let size = self.replica.size(key(node)).unwrap_or(offset + bytes.len() as u64);
        // What was cut off meanwhile is missing rightly.
        whole(bytes, size.min(offset.saturating_add(length.into())), offset, length)
    }

    /// What takes the place of a file's content as long as it is not on the disk.
    fn substitute(&self, node: NodeId) -> Result<Option<Bytes>, ViewError> {
        let InodeKey::Entry(index) = key(node) else { return Ok(None) };
        let entry = self.manifest().entry(index).ok_or(ViewError::NotYet)?;
        Ok(self.shown(&entry)?.text().filter(|_| entry.kind() == Kind::File).cloned())
    }

    /// Writes bytes; how many of them, which is less than all when the disk is full.
    pub async fn write(&self, node: NodeId, offset: u64, bytes: Bytes) -> Result<u64, ViewError> {
        Ok(self.replica.write(key(node), offset, bytes).await?)
    }

    /// Gives a file another length.
    pub async fn truncate(&self, node: NodeId, size: u64) -> Result<(), ViewError> {
        self.place_file(key(node))?;
        Ok(self.replica.truncate(key(node), size).await?)
    }

    /// `fallocate(2)`.
    pub async fn allocate(
        &self,
        node: NodeId,
        mode: FallocateFlags,
        offset: u64,
        length: u64,
    ) -> Result<(), ViewError> {
        Ok(self.replica.allocate(key(node), mode, offset, length).await?)
    }

    /// `fsync(2)`, or `fdatasync(2)`.
    pub async fn sync(&self, node: NodeId, data_only: bool) -> Result<(), ViewError> {
        Ok(self.replica.sync(key(node), data_only).await?)
    }

    /// `fsync(2)` of a directory.
    pub fn sync_directory(&self, node: NodeId) -> Result<(), ViewError> {
        Ok(self.names.sync_directory(key(node))?)
    }

    /// The first offset at or after `offset` at which there is what is looked for.
    pub async fn seek(&self, node: NodeId, offset: u64, seek: Seek) -> Result<u64, ViewError> {
        self.replica.seek(key(node), offset, seek).await?.ok_or(ViewError::BeyondEnd)
    }
}
