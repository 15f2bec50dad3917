//! Making ordinary files, and what is done to them by the disk alone.

use std::fs::File;
use std::sync::Arc;

use rustix::fs::{FallocateFlags, Mode};
use rustix::io::Errno;

use super::attributes::{SetAttributes, set_ordinary};
use super::engine::Engine;
use super::inode::{Inode, Source};
use super::key::InodeKey;
use super::state::{self, State};
use super::write::{Brought, Step, WriteError};
use super::{ReadError, lock};

/// Blocks fetched at once: what one waiting read may hold in memory.
const STEP_BLOCKS: u64 = 16;

/// Without these bits a file's own user can neither read nor remove its state.
pub(super) const OWN: u16 = 0o600;

impl Engine {
    /// See [`super::Replica::localize`].
    pub(super) async fn localize(self: &Arc<Self>, key: InodeKey) -> Result<(), WriteError> {
        let inode = self.inode(key).ok_or(ReadError::NoSuchFile)?;
        let mut from = 0;
        loop {
            self.loaded(&inode).await?;
            let wanted = {
                let blocks = inode.lock();
                if blocks.state.is_none() {
                    return Ok(());
                }
                inode.first_missing(&blocks, from, STEP_BLOCKS)
            };
            let (engine, inode) = (self.clone(), inode.clone());
            let Some(wanted) = wanted else {
                match self.on_disk(move || engine.localize_now(&inode)).await? {
                    Step::Done(()) => return Ok(()),
                    // The disk lost some of it.
                    Step::Again => from = 0,
                }
                continue;
            };
            let sources = self.wait(&inode, wanted.clone()).await?;
            let brought = wanted.clone().zip(sources).filter_map(|(block, source)| match source {
                Source::Memory(bytes) => Some((block, bytes)),
                Source::Disk | Source::Hole => None,
            });
            let brought = brought.collect();
            self.on_disk(move || engine.keep_brought(&inode, &brought)).await?;
            from = wanted.end;
        }
    }

    /// Puts fetched blocks on the disk, as far as they are still wanted.
    fn keep_brought(&self, inode: &Arc<Inode>, brought: &Brought) -> Result<(), WriteError> {
        {
            let _data = lock(&inode.data);
            for (block, bytes) in brought {
                let is_wanted = inode.is_missing(&inode.lock(), *block);
                if is_wanted && inode.lock().is_loaded(self.generation()) {
                    self.store_brought(inode, *block, bytes)?;
                }
            }
        }
        self.flusher.ask_if_full();
        Ok(())
    }

    fn localize_now(&self, inode: &Arc<Inode>) -> Result<Step<()>, WriteError> {
        let _data = lock(&inode.data);
        let state = {
            let blocks = inode.lock();
            if !blocks.is_loaded(self.generation()) || inode.first_missing(&blocks, 0, 1).is_some() {
                return Ok(Step::Again);
            }
            if blocks.is_lost(0..u64::MAX) {
                return Err(Errno::IO.into());
            }
            blocks.state
        };
        let Some(state) = state else { return Ok(Step::Done(())) };
        let file = self.file_for_writing(inode)?;
        rustix::fs::fdatasync(&*file)?;
        set_ordinary(&file, SetAttributes { mtime: Some(state.mtime), ..SetAttributes::default() })?;
        self.make_ordinary(inode, &file, &state)?;
        Ok(Step::Done(()))
    }

    /// Removes a file's state, and gives it its true mode. The inode's `data` is held.
    ///
    /// The mode comes first, except for what its own user could no longer take the state from: a crash in between loses
    /// at most that the file is closed to its user.
    pub(super) fn make_ordinary(
        &self,
        inode: &Arc<Inode>,
        file: &Arc<File>,
        state: &State,
    ) -> Result<(), Errno> {
        let open = state.mode | OWN;
        rustix::fs::fchmod(file, Mode::from_raw_mode(open.into()))?;
        state::remove(file)?;
        inode.lock().became_local(inode);
        // While it is open it stays so: it may not be possible to open it again.
        self.descriptors.keep(inode, file);
        if open != state.mode {
            rustix::fs::fchmod(file, Mode::from_raw_mode(state.mode.into()))?;
        }
        Ok(())
    }

    /// See [`super::Replica::allocate`].
    pub(super) async fn allocate(
        self: &Arc<Self>,
        key: InodeKey,
        mode: FallocateFlags,
        offset: u64,
        length: u64,
    ) -> Result<(), WriteError> {
        self.localize(key).await?;
        let inode = self.inode(key).ok_or(ReadError::NoSuchFile)?;
        let engine = self.clone();
        self.on_disk(move || {
            let _data = lock(&inode.data);
            let file = engine.file_for_writing(&inode)?;
            let allocated = rustix::fs::fallocate(&*file, mode, offset, length);
            inode.set_size(rustix::fs::fstat(&*file)?.st_size.cast_unsigned());
            Ok(allocated?)
        })
        .await
    }

    /// See [`super::Replica::sync`].
    pub(super) async fn sync(self: &Arc<Self>, key: InodeKey, data_only: bool) -> Result<(), WriteError> {
        let inode = self.inode(key).ok_or(ReadError::NoSuchFile)?;
        self.loaded(&inode).await?;
        let engine = self.clone();
        self.on_disk(move || engine.sync_now(&inode, data_only)).await
    }

    fn sync_now(self: &Arc<Self>, inode: &Arc<Inode>, data_only: bool) -> Result<(), WriteError> {
        self.save_if_changed(inode);
        let Some(file) = self.file(inode)? else { return Ok(()) };
        let synced = if data_only { rustix::fs::fdatasync(&*file) } else { rustix::fs::fsync(&*file) };
        if synced.is_err() {
            // What else the disk lost is found out now rather than in some seconds.
            self.flusher.ask(self);
        }
        let mut blocks = inode.lock();
        let was_lost = std::mem::take(&mut blocks.is_loss_untold);
        blocks.keep(inode);
        synced?;
        if was_lost { Err(Errno::IO.into()) } else { Ok(()) }
    }
}
