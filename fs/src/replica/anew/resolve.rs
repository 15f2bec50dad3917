//! Deciding what becomes of a file that changed both here and at the origin.

use std::sync::Arc;

use rustix::io::Errno;

use super::super::engine::Engine;
use super::super::inode::Inode;
use super::super::key::InodeKey;
use super::super::names::Successor;
use super::super::store::StoreError;
use super::super::{Replica, lock};
use super::fetch::{self, Unfetched};
use super::swap::{Standing, Swapped, Whose};
use super::{Became, Prepared, blocking, put, spots};
use crate::digest::BlockIndex;
use crate::manifest::EntryIndex;

/// What keeping a file as it is here costs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Mine {
    /// Bytes that never came: they are, or would be, zeros.
    pub zeros: u64,
}

/// Why nothing was decided.
#[derive(Debug, thiserror::Error)]
pub enum ResolveError {
    /// The file did not change at the origin, or nothing is missing of it.
    #[error("nothing is to be decided about it: it is all here")]
    NothingToDecide,
    /// Somebody has it open.
    #[error("somebody has it open for writing: close it first")]
    BeingWritten,
    /// It has names that the origin does not know.
    #[error("it was given other names here: remove all but one, or keep what is here")]
    OtherNames,
    /// No version of the origin's can be had.
    #[error("the origin's version cannot be had now: {0}")]
    NotHad(String),
    /// The local disk failed.
    #[error("the local disk failed: {0}")]
    Disk(#[from] Errno),
}

impl Replica {
    /// What [`keep_mine`](Self::keep_mine) would do. Blocks.
    pub fn mine(&self, file: InodeKey) -> Result<Mine, ResolveError> {
        let inode = self.changed_inode(file)?;
        self.engine.load(&inode).map_err(of_store)?;
        let _data = lock(&inode.data);
        Ok(Mine { zeros: self.engine.zeros(&inode)? })
    }

    /// Keeps a file as it is here: what is missing of it becomes zeros, and it is an ordinary file. Blocks.
    pub fn keep_mine(&self, file: InodeKey) -> Result<Mine, ResolveError> {
        let inode = self.changed_inode(file)?;
        self.engine.load(&inode).map_err(of_store)?;
        let mine = {
            let _data = lock(&inode.data);
            let zeros = self.engine.zeros(&inode)?;
            let state = inode.lock().state.ok_or(ResolveError::NothingToDecide)?;
            let file = self.engine.file_for_writing(&inode).map_err(of_store)?;
            // What claims to be complete must be on the disk.
            rustix::fs::fdatasync(&*file)?;
            rustix::fs::futimens(&*file, &super::super::finish::times(state.mtime))?;
            self.engine.make_ordinary(&inode, &file, &state)?;
            Mine { zeros }
        };
        self.engine.decided(inode.index, Became::Kept);
        Ok(mine)
    }

    /// Takes the origin's version in place of a file, whatever was changed in it here.
    pub async fn take_theirs(&self, file: InodeKey) -> Result<Became, ResolveError> {
        let inode = self.changed_inode(file)?;
        let (engine, names) = (&self.engine, self.names().ok_or(ResolveError::NothingToDecide)?);
        let mut left = match blocking(engine, names, &inode, |engine, names, inode| {
            match engine.standing_of(names, inode)? {
                Standing::Untouched | Standing::Changed | Standing::Moved(_) => spots(names, inode, None),
                other => Ok(Prepared::Not(other)),
            }
        })
        .await?
        {
            Prepared::Spots(spots, _) => spots,
            Prepared::OtherNames => return Err(ResolveError::OtherNames),
            Prepared::Not(standing) => return Err(not(standing)),
        };
        let mut became = Became::TakenAnew;
        while let Some(spot) = left.first() {
            let fetched = fetch::fetch(engine, names, &inode, spot.entry).await.map_err(unfetched)?;
            if matches!(fetched.successor, Successor::Nothing) {
                became = Became::Removed;
            }
            let (of_this, others) = left.into_iter().partition(|spot| fetched.names.contains(&spot.entry));
            left = others;
            match put(engine, names, &inode, of_this, fetched, Whose::Anyones).await? {
                Swapped::Done => {}
                Swapped::Not(standing) => return Err(not(standing)),
            }
        }
        engine.decided(inode.index, became);
        Ok(became)
    }

    fn changed_inode(&self, file: InodeKey) -> Result<Arc<Inode>, ResolveError> {
        let key = self
            .engine
            .canonical(file)
            .filter(|key| key.entry().is_some_and(|entry| self.has_changed(entry)));
        key.and_then(|key| self.engine.inode(key)).ok_or(ResolveError::NothingToDecide)
    }

    fn has_changed(&self, entry: EntryIndex) -> bool {
        let anew = &self.engine.anew;
        lock(&anew.waiting).contains_key(&entry) || anew.listed.of(entry).is_some_and(Became::is_open)
    }
}

impl Engine {
    /// Bytes of a file that are missing and not known to be zeros. The inode's `data` is held.
    fn zeros(&self, inode: &Inode) -> Result<u64, ResolveError> {
        let blocks = inode.lock();
        if blocks.state.is_none() || inode.first_missing(&blocks, 0, 1).is_none() {
            return Err(ResolveError::NothingToDecide);
        }
        let remote = inode.remote();
        let missing = (0..inode.remote_blocks()).filter(|block| inode.is_missing(&blocks, *block));
        Ok(missing.map(|block| BlockIndex(block).bytes_in(remote)).map(|range| range.end - range.start).sum())
    }

    fn decided(&self, file: EntryIndex, became: Became) {
        lock(&self.anew.waiting).remove(&file);
        self.note(file, Some(became));
        self.anew.tell_if_none_waits();
    }
}

fn not(standing: Standing) -> ResolveError {
    match standing {
        Standing::BeingWritten => ResolveError::BeingWritten,
        Standing::NotMissing | Standing::Untouched | Standing::Moved(_) | Standing::Changed => {
            ResolveError::NothingToDecide
        }
    }
}

fn of_store(error: StoreError) -> ResolveError {
    match error {
        StoreError::Removed => ResolveError::NothingToDecide,
        error => ResolveError::Disk(error.errno()),
    }
}

fn unfetched(error: Unfetched) -> ResolveError {
    match error {
        Unfetched::KeepsChanging => ResolveError::NotHad("it keeps changing".into()),
        Unfetched::AnotherKind => {
            ResolveError::NotHad("a directory or a special file is in its place".into())
        }
        Unfetched::Unreadable(why) | Unfetched::Invalid(why) => ResolveError::NotHad(why),
        Unfetched::Origin(error) => ResolveError::NotHad(error.to_string()),
        Unfetched::Disk(errno) => ResolveError::Disk(errno),
    }
}
