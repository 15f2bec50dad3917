//! What lies on the disk of one inode: looking at it, opening it, making it. Everything here may block.

use std::fs::File;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use rustix::fs::{FileType, OFlags};
use rustix::io::Errno;

use super::block_set::BlockSet;
use super::blocks::Saved;
use super::engine::Engine;
use super::extents::blocks_on_disk;
use super::inode::{Found, Inode};
use super::ledger::Ledger;
use super::lock;
use super::state::{self, State, Stated};
use super::store::{StoreError, to_errno};
use crate::digest::{BLOCK_BYTES, block_count};
use crate::manifest::Entry;

impl Engine {
    /// Reads an inode's extent map, unless that has been done. Must come before anything else is done with its blocks.
    pub(super) fn load(&self, inode: &Arc<Inode>) -> Result<(), StoreError> {
        loop {
            let ledger = self.ledger();
            // A new ledger is true once what was lost is gone.
            drop(self.losing.lock());
            let _data = lock(&inode.data);
            if self.generation() != ledger.generation {
                continue;
            }
            if inode.lock().is_loaded(ledger.generation) {
                return Ok(());
            }
            let found = self.look(inode, &ledger).inspect_err(|error| {
                if matches!(error, StoreError::Removed) && inode.opens.load(Relaxed) == 0 {
                    // Before this process began.
                    self.forget(inode);
                }
            })?;
            let is_stored = found.state.is_some() && found.present.present() > 0;
            inode.lock().load(inode, found, ledger);
            if is_stored {
                self.found_stored(inode);
            }
            return Ok(());
        }
    }

    fn look(&self, inode: &Arc<Inode>, ledger: &Ledger) -> Result<Found, StoreError> {
        if self.is_forgotten(inode.index) {
            return Err(StoreError::Removed);
        }
        let held = inode.lock().file.clone();
        let opened = match held {
            Some(file) => Ok(Some(file)),
            None => self.open(inode).map(|file| file.map(|file| self.descriptors.open(inode, file))),
        };
        match opened {
            Ok(Some(file)) => match self.look_at(inode, &file, ledger) {
                // It was opened as it was made: its state could not be read either, so it has none.
                Err(StoreError::System(Errno::ACCESS)) => Ok(ordinary(self.length(inode, &file)?)),
                found => found,
            },
            Ok(None) => self.not_there_yet(inode),
            // Its own user may not even read it.
            Err(StoreError::System(Errno::ACCESS)) => self.look_at_closed(inode),
            Err(error) => Err(error),
        }
    }

    fn look_at(&self, inode: &Inode, file: &File, ledger: &Ledger) -> Result<Found, StoreError> {
        let size = self.length(inode, file)?;
        let state = match state::get(file)? {
            Stated::Nothing => return Ok(ordinary(size)),
            Stated::Unfinished(state) => state,
            Stated::Unknown => return Err(StoreError::Foreign("its state cannot be read")),
        };
        if !self.is_of(inode, &state) {
            return Err(StoreError::Foreign("it belongs to another entry"));
        }
        // A crash came between cutting it and noting that.
        let remote = if size < state.remote_bytes { size - size % BLOCK_BYTES } else { state.remote_bytes };
        let blocks = block_count(remote);
        let present = if self.distrusted.is_set(inode.index) {
            BlockSet::empty(blocks)
        } else if ledger.is_complete(inode.index) && !inode.has_holes() {
            BlockSet::full(blocks)
        } else {
            blocks_on_disk(file.as_fd(), remote, self.store.backing.extents).map_err(to_errno)?
        };
        let holes_on_disk = self.places.is_writable(inode.key);
        Ok(Found { size, state: Some(state), remote, present, holes_on_disk })
    }

    /// A finished file that its own user may not even read: a file gets its true mode only after its state was removed.
    fn look_at_closed(&self, inode: &Inode) -> Result<Found, StoreError> {
        let file = self.places.open(inode.key, OFlags::PATH)?.ok_or(Errno::NOENT)?;
        Ok(ordinary(self.length(inode, &file)?))
    }

    fn length(&self, inode: &Inode, file: &File) -> Result<u64, StoreError> {
        let stat = rustix::fs::fstat(file)?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Err(StoreError::Foreign("it is no regular file"));
        }
        let size = stat.st_size.cast_unsigned();
        if size != inode.origin_bytes && !self.places.is_writable(inode.key) {
            return Err(StoreError::Foreign("it has another size"));
        }
        Ok(size)
    }

    /// True when a file's state is one that the inode's file can have.
    fn is_of(&self, inode: &Inode, state: &State) -> bool {
        let Some(entry) = self.manifest.entry(inode.index) else {
            return state.index.is_none() && state.remote_bytes == 0;
        };
        if !self.places.is_writable(inode.key) {
            return *state == self.store.state_of(&entry);
        }
        let remote = state.remote_bytes;
        let is_cut = remote < entry.size() && remote.is_multiple_of(BLOCK_BYTES);
        state.index == Some(inode.index) && (remote == entry.size() || is_cut)
    }

    fn not_there_yet(&self, inode: &Inode) -> Result<Found, StoreError> {
        let entry = self.entry(inode)?;
        let (size, present) = (entry.size(), BlockSet::empty(block_count(entry.size())));
        let state = Some(self.store.state_of(&entry));
        Ok(Found { size, state, remote: size, present, holes_on_disk: false })
    }

    fn entry(&self, inode: &Inode) -> Result<Entry<'_>, StoreError> {
        self.manifest.entry(inode.index).ok_or(StoreError::System(Errno::NOENT))
    }

    /// Opens the inode's file without looking at its blocks; `None` when it is not there yet.
    ///
    /// An unfinished file can always be written. An ordinary one has its true mode, which may forbid that to its own
    /// user; where it forbids even reading, the error is [`Errno::ACCESS`].
    fn open(&self, inode: &Inode) -> Result<Option<File>, StoreError> {
        match self.places.open(inode.key, OFlags::RDWR) {
            Err(StoreError::System(Errno::ACCESS)) => self.places.open(inode.key, OFlags::RDONLY),
            opened => opened,
        }
    }

    /// The inode's file, opened if need be; `None` when it is not there.
    pub(super) fn file(&self, inode: &Arc<Inode>) -> Result<Option<Arc<File>>, StoreError> {
        inode.file_used.store(true, Relaxed);
        if let Some(file) = &inode.lock().file {
            return Ok(Some(file.clone()));
        }
        Ok(self.open(inode)?.map(|file| self.descriptors.open(inode, file)))
    }

    /// The inode's file, made if need be. The inode's `data` is held.
    pub(super) fn file_for_writing(&self, inode: &Arc<Inode>) -> Result<Arc<File>, StoreError> {
        let file = match self.file(inode) {
            Ok(Some(file)) if can_write(&file)? => file,
            Ok(None) => self.descriptors.open(inode, self.make(inode)?),
            // It was opened when its mode did not let its own user write, or does not let it read.
            Ok(Some(_)) | Err(StoreError::System(Errno::ACCESS)) => self.open_for_writing(inode)?,
            Err(error) => return Err(error),
        };
        self.is_there(inode, &file).map(|()| file)
    }

    /// The inode's file, made if need be, for what belongs to it beside its content: any descriptor of it will do. The
    /// inode's `data` is held.
    pub(super) fn file_for_attributes(&self, inode: &Arc<Inode>) -> Result<Arc<File>, StoreError> {
        match self.file(inode)? {
            Some(file) => self.is_there(inode, &file).map(|()| file),
            None => self.file_for_writing(inode),
        }
    }

    fn open_for_writing(&self, inode: &Arc<Inode>) -> Result<Arc<File>, StoreError> {
        match self.places.open(inode.key, OFlags::RDWR) {
            Err(StoreError::System(Errno::ACCESS)) => {
                // Not kept: nothing could be read through it.
                Ok(Arc::new(self.places.open(inode.key, OFlags::WRONLY)?.ok_or(StoreError::Removed)?))
            }
            opened => Ok(self.descriptors.open(inode, opened?.ok_or(StoreError::Removed)?)),
        }
    }

    fn make(&self, inode: &Inode) -> Result<File, StoreError> {
        if !inode.is_removed.load(Relaxed) {
            return self.places.make(inode.key);
        }
        let entry = self.entry(inode)?;
        self.store.make_unnamed(&State::of(&entry, entry.mode()), entry.size())
    }

    /// What is believed of an inode is what its file says about itself.
    fn is_there(&self, inode: &Inode, file: &File) -> Result<(), StoreError> {
        let is_known = inode.lock().holes_on_disk || !self.places.is_writable(inode.key);
        if is_known { Ok(()) } else { self.is_there_now(inode, file) }
    }

    /// A file that may be written to was made, here or by somebody who gave it a name: what it says about itself holds.
    fn is_there_now(&self, inode: &Inode, file: &File) -> Result<(), StoreError> {
        let stated = state::get(file)?;
        let size = self.length(inode, file)?;
        let mut blocks = inode.lock();
        match stated {
            Stated::Unfinished(state) if self.is_of(inode, &state) => {
                if state.remote_bytes < inode.remote() {
                    blocks.cut(inode, state.remote_bytes);
                    inode.set_size(size);
                }
                (blocks.state, blocks.saved) = (Some(state), Saved::All);
            }
            Stated::Unfinished(_) | Stated::Unknown => {
                return Err(StoreError::Foreign("it is not the one that was looked for"));
            }
            Stated::Nothing => {
                inode.set_size(size);
                blocks.became_local(inode);
            }
        }
        blocks.holes_on_disk = true;
        Ok(())
    }
}

fn can_write(file: &File) -> Result<bool, Errno> {
    Ok(rustix::fs::fcntl_getfl(file)? & OFlags::RWMODE != OFlags::RDONLY)
}

/// An ordinary file: everything about it is local.
fn ordinary(size: u64) -> Found {
    Found { size, state: None, remote: 0, present: BlockSet::empty(0), holes_on_disk: true }
}
