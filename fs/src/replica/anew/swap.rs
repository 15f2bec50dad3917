//! Putting a new version in the place of the old one, if nobody has changed anything about that here.

use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};

use rustix::io::Errno;

use super::super::engine::Engine;
use super::super::inode::Inode;
use super::super::lock;
use super::super::names::{Names, NamesError, Spot, Successor};
use super::super::store::{StoreError, to_errno};
use super::Became;
use crate::digest::{BLOCK_BYTES, BlockIndex, Digest};
use crate::git;
use crate::manifest::Mtime;

/// Whether a file may be replaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    /// It is as it came, or was so when it last changed.
    Untouched,
    /// Something about it changed then. It is as it came if all of its blocks have their digests: it may have been moved.
    Moved(Mtime),
    /// It was changed here.
    Changed,
    /// Somebody has it open for writing.
    BeingWritten,
    /// Nothing is missing of it any more: it was completed, overwritten or removed.
    NotMissing,
}

/// What may be replaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Whose {
    /// What is as it came, and was seen to be so when it last changed.
    Untouched(Option<Mtime>),
    /// Whatever was changed in it here.
    Anyones,
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
    /// Looks whether a file may be replaced, of which it is known that it was as it came when it last changed at `verified`.
    /// Blocks; the inode's `data` is held, and it has been loaded.
    fn standing(
        &self,
        names: &Names,
        inode: &Inode,
        verified: Option<Mtime>,
    ) -> Result<Standing, NamesError> {
        let Some(entry) = self.manifest.entry(inode.index) else { return Ok(Standing::NotMissing) };
        if self.is_forgotten(inode.index) || inode.is_removed.load(Acquire) {
            return Ok(Standing::NotMissing);
        }
        let (state, is_missing) = {
            let blocks = inode.lock();
            (blocks.state, inode.first_missing(&blocks, 0, 1).is_some())
        };
        let Some(state) = state.filter(|_| is_missing) else { return Ok(Standing::NotMissing) };
        let mode = git::shown(&self.manifest, &entry)?.mode(entry.mode());
        let is_as_it_came = (state.mtime, state.mode) == (entry.mtime(), mode)
            && state.remote_bytes == entry.size()
            && inode.size() == entry.size();
        let belongings = names.belongings(inode.key)?;
        if !is_as_it_came || belongings.is_some_and(|other| other != (entry.extra().xattrs, true)) {
            return Ok(Standing::Changed);
        }
        // Whoever changes anything about a file, a name included, changes this.
        if state.ctime != entry.mtime() && Some(state.ctime) != verified {
            return Ok(Standing::Moved(state.ctime));
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
        gone_is_not_missing(self.standing(names, inode, None))
    }

    /// True when all blocks of a file that are here have the digests with which they came. Blocks.
    pub(super) fn has_its_digests(&self, inode: &Arc<Inode>) -> Result<bool, Errno> {
        let Some(file) = self.file(inode).map_err(|error| error.errno())? else { return Ok(true) };
        let mut bytes = vec![0; BLOCK_BYTES as usize];
        let (mut at, end) = (0, inode.remote_blocks());
        loop {
            let Some(block) = inode.lock().present.first_present(at..end) else { return Ok(true) };
            at = block + 1;
            let range = BlockIndex(block).bytes_in(inode.origin_bytes);
            let bytes = &mut bytes[..(range.end - range.start) as usize];
            file.read_exact_at(bytes, range.start).map_err(to_errno)?;
            let at = inode.digests_at + block;
            let known = self.digests.get(at..at + 1).map_err(to_errno)?;
            if known != [Some(Digest::of_block(BlockIndex(block), inode.origin_bytes, bytes))] {
                return Ok(false);
            }
        }
    }

    /// Puts `successor` in the place of the inode under these of its names, if it may be replaced. Blocks.
    pub(super) fn swap(
        self: &Arc<Self>,
        names: &Names,
        inode: &Arc<Inode>,
        spots: &[Spot],
        successor: &Successor,
        whose: Whose,
    ) -> Result<Swapped, Errno> {
        let watch = self.anew.watch();
        // What is shown of it to those who still have it.
        if let Some(watch) = &watch {
            watch.replacing(inode.key);
        }
        if inode.opens.load(Acquire) > 0 {
            // Whoever has it open goes on with a file on the disk.
            match names.place(inode.key) {
                Ok(_) | Err(NamesError::System(Errno::STALE)) => {}
                Err(error) => return Err(errno(error)),
            }
        }
        let file = match self.load(inode).and_then(|()| self.file(inode)) {
            Ok(file) => file,
            Err(StoreError::Removed) => return Ok(Swapped::Not(Standing::NotMissing)),
            Err(error) => return Err(error.errno()),
        };
        let removed = {
            // Nobody writes to it, cuts it or gives it other attributes meanwhile, or opens it to write to it.
            let _data = lock(&inode.data);
            let verified = match whose {
                Whose::Untouched(verified) => verified,
                Whose::Anyones => None,
            };
            match (gone_is_not_missing(self.standing(names, inode, verified))?, whose) {
                (Standing::Untouched, _) | (Standing::Changed | Standing::Moved(_), Whose::Anyones) => {}
                (other, _) => return Ok(Swapped::Not(other)),
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
