//! Deciding what becomes of a file that changed both here and at the origin.

use std::sync::Arc;

use rustix::io::Errno;
use tokio::time::Instant;

use super::super::engine::Engine;
use super::super::finish::times;
use super::super::inode::Inode;
use super::super::key::InodeKey;
use super::super::store::StoreError;
use super::super::{AccountError, Replica, lock};
use super::{Became, Waiting, swap};
use crate::digest::BlockIndex;
use crate::manifest::EntryIndex;

/// What somebody decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// What is here is kept. What is missing becomes zeros.
    Mine,
    /// The origin's version takes its place, and what was changed here is gone.
    Theirs,
}

/// Why nothing was decided.
#[derive(Debug, thiserror::Error)]
pub enum ResolveError {
    /// Nothing lies there that has content.
    #[error("there is no such file")]
    NoSuchFile,
    /// The file did not change at the origin, or nothing is missing of it.
    #[error("nothing is to be decided: it did not change at the origin, or all of it is here")]
    NothingToDecide,
    /// It has names that the origin does not know: a version of the origin's would not know where to go.
    #[error("it was given other names here: remove all but one, or keep what is here")]
    OtherNames,
    /// The local disk failed, or not enough is known yet.
    #[error("it cannot be looked at: {0}")]
    Disk(Errno),
}

impl Replica {
    /// Decides what becomes of the file at `path` below the clone's own root, which changed at the origin before all of it
    /// was here; tells how many bytes of it never came. With [`Decision::Mine`] they become zeros; with
    /// [`Decision::Theirs`] the new version is fetched in the background. Without a decision nothing happens. Blocks.
    pub fn resolve(&self, path: &[u8], decision: Option<Decision>) -> Result<u64, ResolveError> {
        let key = self.file_at(path).map_err(|error| match error {
            AccountError::NoSuchFile => ResolveError::NoSuchFile,
            AccountError::NotYet => ResolveError::Disk(Errno::AGAIN),
            AccountError::Disk(errno) => ResolveError::Disk(errno),
        })?;
        let inode = self.changed_inode(key)?;
        let engine = &self.engine;
        engine.load(&inode).map_err(of_store)?;
        let _data = lock(&inode.data);
        let missing = engine.bytes_missing(&inode)?;
        match decision {
            None => {}
            Some(Decision::Mine) => {
                engine.keep_mine(&inode)?;
                lock(&engine.anew.waiting).remove(&inode.index);
                engine.note(inode.index, Some(Became::Kept));
                engine.anew.tell_if_none_waits();
            }
            Some(Decision::Theirs) => {
                let names = self.names().ok_or(ResolveError::NothingToDecide)?;
                if names.spots(inode.key).map_err(swap::errno)?.is_none() {
                    return Err(ResolveError::OtherNames);
                }
                engine.note(inode.index, Some(Became::Decided));
                engine.anew.hurry(inode.index);
            }
        }
        Ok(missing)
    }

    fn changed_inode(&self, key: InodeKey) -> Result<Arc<Inode>, ResolveError> {
        let has_changed = |entry: EntryIndex| {
            let anew = &self.engine.anew;
            lock(&anew.waiting).contains_key(&entry) || anew.listed.of(entry).is_some_and(Became::is_open)
        };
        let key = self.engine.canonical(key).filter(|key| key.entry().is_some_and(has_changed));
        key.and_then(|key| self.engine.inode(key)).ok_or(ResolveError::NothingToDecide)
    }
}

impl Engine {
    /// Bytes of a file that are missing and not known to be zeros. The inode's `data` is held.
    fn bytes_missing(&self, inode: &Inode) -> Result<u64, ResolveError> {
        let blocks = inode.lock();
        if blocks.state.is_none() || inode.first_missing(&blocks, 0, 1).is_none() {
            return Err(ResolveError::NothingToDecide);
        }
        let remote = inode.remote();
        let missing = (0..inode.remote_blocks()).filter(|block| inode.is_missing(&blocks, *block));
        Ok(missing.map(|block| BlockIndex(block).bytes_in(remote)).map(|range| range.end - range.start).sum())
    }

    /// Makes an ordinary file of it as it is. The inode's `data` is held.
    fn keep_mine(&self, inode: &Arc<Inode>) -> Result<(), ResolveError> {
        let state = inode.lock().state.ok_or(ResolveError::NothingToDecide)?;
        let file = self.file_for_writing(inode).map_err(of_store)?;
        // What claims to be complete must be on the disk.
        rustix::fs::fdatasync(&*file)?;
        rustix::fs::futimens(&*file, &times(state.mtime))?;
        Ok(self.make_ordinary(inode, &file, &state)?)
    }
}

impl super::Anew {
    /// It is the file's turn now.
    fn hurry(&self, file: EntryIndex) {
        let now = Waiting { attempts: 0, not_before: Instant::now(), under_way: false };
        let mut waiting = lock(&self.waiting);
        let of_file = waiting.entry(file).or_insert(now);
        (of_file.attempts, of_file.not_before) = (0, now.not_before);
        drop(waiting);
        self.news.notify_one();
    }
}

impl From<Errno> for ResolveError {
    fn from(errno: Errno) -> Self {
        Self::Disk(errno)
    }
}

fn of_store(error: StoreError) -> ResolveError {
    match error {
        StoreError::Removed => ResolveError::NothingToDecide,
        error => ResolveError::Disk(error.errno()),
    }
}
