//! Putting a new version in the place of the old one, if nobody has changed anything about that here.

use std::sync::Arc;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};

use rustix::io::Errno;

use super::super::engine::Engine;
use super::super::inode::Inode;
use super::super::lock;
use super::super::names::{Names, NamesError, Spot, Successor};
use super::super::store::StoreError;
use super::Became;

/// Whether a file may be replaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    /// It is as it came.
    Untouched,
    /// It was changed here.
    Changed,
    /// Somebody has it open for writing.
    BeingWritten,
    /// Nothing is missing of it any more: it was completed, overwritten or removed.
    NotMissing,
}

/// How an attempt ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Swapped {
    /// The new version is in its place.
    Done,
    /// Nothing happened, for this reason.
    Not(Standing),
}

impl Engine {
    /// Looks whether a file may be replaced. Blocks; the inode's `data` is held, and it has been loaded.
    pub(super) fn standing(&self, names: &Names, inode: &Inode) -> Result<Standing, NamesError> {
        let Some(entry) = self.manifest.entry(inode.index) else { return Ok(Standing::NotMissing) };
        if self.is_forgotten(inode.index) || inode.is_removed.load(Acquire) {
            return Ok(Standing::NotMissing);
        }
        let (state, is_missing) = {
            let blocks = inode.lock();
            (blocks.state, inode.first_missing(&blocks, 0, 1).is_some())
        };
        let Some(state) = state.filter(|_| is_missing) else { return Ok(Standing::NotMissing) };
        // Whoever changes anything about a file changes these.
        let is_as_it_came = (state.mtime, state.ctime) == (entry.mtime(), entry.mtime())
            && state.remote_bytes == entry.size()
            && inode.size() == entry.size();
        let xattrs = names.xattrs_on_disk(inode.key)?;
        if !is_as_it_came || xattrs.is_some_and(|xattrs| xattrs != entry.extra().xattrs) {
            return Ok(Standing::Changed);
        }
        match inode.is_open_for_writing.load(Relaxed) {
            true => Ok(Standing::BeingWritten),
            false => Ok(Standing::Untouched),
        }
    }

    /// The same of a file that nobody holds, from a thread that may block.
    pub(super) fn standing_of(&self, names: &Names, inode: &Arc<Inode>) -> Result<Standing, Errno> {
        match self.load(inode) {
            Ok(()) => {}
            Err(StoreError::Removed) => return Ok(Standing::NotMissing),
            Err(error) => return Err(error.errno()),
        }
        let _data = lock(&inode.data);
        gone_is_not_missing(self.standing(names, inode))
    }

    /// Puts `successor` in the place of the inode under these of its names, unless it was changed here; with `anyway`,
    /// also then. Blocks.
    pub(super) fn swap(
        self: &Arc<Self>,
        names: &Names,
        inode: &Arc<Inode>,
        spots: &[Spot],
        successor: &Successor,
        anyway: bool,
    ) -> Result<Swapped, Errno> {
        let watch = self.anew.watch();
        // What is shown of it to those who still have it.
        if let Some(watch) = &watch {
            watch.replacing(inode.key);
        }
        // Whoever has it open goes on with it.
        let file = match self.load(inode).and_then(|()| self.file(inode)) {
            Ok(file) => file,
            Err(StoreError::Removed) => return Ok(Swapped::Not(Standing::NotMissing)),
            Err(error) => return Err(error.errno()),
        };
        let removed = {
            // Nobody writes to it, cuts it or gives it other attributes meanwhile, or opens it to write to it.
            let _data = lock(&inode.data);
            match gone_is_not_missing(self.standing(names, inode))? {
                Standing::Untouched => {}
                Standing::Changed if anyway => {}
                other => return Ok(Swapped::Not(other)),
            }
            // First of all: a crash must not leave a change of which nobody is told.
            let before = self.anew.listed.of(inode.index);
            let is_removal = matches!(successor, Successor::Nothing);
            self.note(inode.index, Some(if is_removal { Became::Removed } else { Became::TakenAnew }));
            let replaced = names.replace(inode.key, spots, successor).map_err(errno);
            let removed = replaced.inspect_err(|_| self.note(inode.index, before))?;
            let is_gone = removed.is_some_and(|removed| removed.was_last);
            if is_gone {
                self.anew.replaced.set(inode.index);
                inode.is_removed.store(true, Release);
            }
            is_gone
        };
        if removed {
            if inode.opens.load(Acquire) == 0 {
                self.forget(inode);
            } else if let Some(file) = &file {
                self.descriptors.keep(inode, file);
            }
        }
        if let Some(watch) = &watch {
            watch.replaced(inode.key, spots);
        }
        Ok(Swapped::Done)
    }
}

fn gone_is_not_missing(standing: Result<Standing, NamesError>) -> Result<Standing, Errno> {
    match standing {
        Err(NamesError::System(Errno::STALE)) => Ok(Standing::NotMissing),
        other => other.map_err(errno),
    }
}

pub(super) fn errno(error: NamesError) -> Errno {
    match error {
        NamesError::System(errno) => errno,
        NamesError::NotYet(_) => Errno::AGAIN,
    }
}
