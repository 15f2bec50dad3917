//! Where the files of a replica lie on its disk.

use std::fmt;
use std::fs::File;
use std::sync::Arc;

use rustix::fs::OFlags;
use rustix::io::Errno;

use super::key::InodeKey;
use super::store::{Store, StoreError};
use crate::manifest::{Entry, Manifest};

/// Finds and makes the files of inodes. Everything here may block; a file's data lock is held meanwhile.
pub(super) trait Places: fmt::Debug + Send + Sync {
    /// Opens the file of an inode; `None` when it is not there yet. One that will never be there again is
    /// [`StoreError::Removed`].
    fn open(&self, key: InodeKey, flags: OFlags) -> Result<Option<File>, StoreError>;

    /// Makes the file of an inode of the manifest, which is not there: all of it a hole, with its state.
    fn make(&self, key: InodeKey) -> Result<File, StoreError>;

    /// True where a file may be another one than the manifest says, since it may be written to.
    fn is_writable(&self, key: InodeKey) -> bool;
}

/// Every file lies where the manifest has it.
#[derive(Debug)]
pub(super) struct Positions {
    pub(super) manifest: Manifest,
    pub(super) store: Arc<Store>,
}

impl Positions {
    fn entry(&self, key: InodeKey) -> Result<Entry<'_>, StoreError> {
        let entry = key.entry().and_then(|index| self.manifest.entry(index));
        entry.ok_or(StoreError::System(Errno::NOENT))
    }
}

impl Places for Positions {
    fn open(&self, key: InodeKey, flags: OFlags) -> Result<Option<File>, StoreError> {
        self.store.open_as(&self.manifest, &self.entry(key)?, flags)
    }

    fn make(&self, key: InodeKey) -> Result<File, StoreError> {
        self.store.make(&self.manifest, &self.entry(key)?)
    }

    fn is_writable(&self, _key: InodeKey) -> bool {
        false
    }
}
