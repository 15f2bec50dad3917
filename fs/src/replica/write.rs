//! Writing to files and cutting them.
//!
//! A local write lies on the disk, in the page cache, when it is answered. It needs the origin only where it changes a
//! part of a block that is not here: that block is fetched first, and put on the disk whole. Each step on the disk is
//! done under the inode's `data`, and looks again at what is here before it changes anything, since blocks arrive and
//! other programs write meanwhile.

use std::fs::File;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use rustix::io::Errno;

use super::blocks::{Blocks, Saved};
use super::engine::Engine;
use super::flusher::{Content, Write};
use super::inode::{Inode, Plan, Source};
use super::key::InodeKey;
use super::state;
use super::store::{StoreError, write_at};
use super::{ReadError, lock};
use crate::digest::{BLOCK_BYTES, BlockIndex};

/// Why a file could not be changed. What was changed before is told as success, as far as it goes.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WriteError {
    /// Some of the file must be fetched first, and cannot be.
    #[error(transparent)]
    Fetch(#[from] ReadError),
    /// The local disk refused.
    #[error("the local disk refused: {0}")]
    Disk(Errno),
}

impl From<Errno> for WriteError {
    fn from(errno: Errno) -> Self {
        Self::Disk(errno)
    }
}

impl From<StoreError> for WriteError {
    fn from(error: StoreError) -> Self {
        Self::Disk(error.errno())
    }
}

/// Blocks that were fetched for a change, by their numbers: as many as one read holds at most.
pub(super) type Brought = Vec<(u64, Bytes)>;

/// What came of a step on the disk.
pub(super) enum Step<T> {
    Done(T),
    /// Something is needed that was here before, or was not needed before.
    Again,
}

/// The blocks that must be on the disk before some bytes can be written.
fn needed_for_write(inode: &Inode, blocks: &Blocks, bytes: &Range<u64>) -> Result<Vec<u64>, WriteError> {
    let remote = inode.remote();
    let first = BlockIndex::containing(bytes.start).0;
    let last = BlockIndex::containing(bytes.end - 1).0;
    let mut touched = vec![first, last];
    if bytes.end > remote && !remote.is_multiple_of(BLOCK_BYTES) {
        // With anything behind it, the page in which the origin's file ends could no longer be told from one that was
        // fetched: some filesystems write its zeros (`btrfs_cont_expand`).
        touched.push(remote / BLOCK_BYTES);
    }
    touched.retain(|block| !covers(bytes, *block, remote));
    missing_of(inode, blocks, touched)
}

/// The blocks that must be on the disk before a file can have `size` bytes.
fn needed_for_size(inode: &Inode, blocks: &Blocks, size: u64) -> Result<Vec<u64>, WriteError> {
    let end = size.min(inode.remote());
    let is_cut = !end.is_multiple_of(BLOCK_BYTES) && size != inode.size();
    missing_of(inode, blocks, if is_cut { vec![end / BLOCK_BYTES] } else { Vec::new() })
}

/// Those of these blocks that are not on the disk, each once.
fn missing_of(inode: &Inode, blocks: &Blocks, mut these: Vec<u64>) -> Result<Vec<u64>, WriteError> {
    if these.iter().any(|block| blocks.is_lost(*block..block + 1)) {
        return Err(Errno::IO.into());
    }
    these.sort_unstable();
    these.dedup();
    these.retain(|block| inode.is_missing(blocks, *block));
    Ok(these)
}

/// True when `bytes` replace all of a block that comes from the origin.
fn covers(bytes: &Range<u64>, block: u64, remote: u64) -> bool {
    let whole = BlockIndex(block).bytes_in(remote);
    bytes.start <= whole.start && whole.end <= bytes.end
}

/// The blocks below `remote` that `bytes` replace wholly.
fn covered(bytes: &Range<u64>, remote: u64) -> Range<u64> {
    let first = bytes.start.div_ceil(BLOCK_BYTES);
    let end = if bytes.end >= remote { remote.div_ceil(BLOCK_BYTES) } else { bytes.end / BLOCK_BYTES };
    first..end.max(first)
}

impl Engine {
    /// See [`super::Replica::write`].
    pub(super) async fn write(
        self: &Arc<Self>,
        key: InodeKey,
        offset: u64,
        bytes: Bytes,
    ) -> Result<u64, WriteError> {
        let end = offset.checked_add(bytes.len() as u64).filter(|end| i64::try_from(*end).is_ok());
        let range = offset..end.ok_or(Errno::FBIG)?;
        if range.is_empty() {
            return Ok(0);
        }
        let needed = move |inode: &Inode, blocks: &Blocks| needed_for_write(inode, blocks, &range);
        let write = move |engine: &Self, inode: &Arc<Inode>| engine.write_now(inode, offset, &bytes);
        self.change(key, needed, write).await
    }

    /// See [`super::Replica::truncate`].
    pub(super) async fn truncate(self: &Arc<Self>, key: InodeKey, size: u64) -> Result<(), WriteError> {
        if i64::try_from(size).is_err() {
            return Err(Errno::FBIG.into());
        }
        let needed = move |inode: &Inode, blocks: &Blocks| needed_for_size(inode, blocks, size);
        let cut = move |engine: &Self, inode: &Arc<Inode>| engine.truncate_now(inode, size);
        self.change(key, needed, cut).await
    }

    /// Fetches what a change needs, and makes it. `needed` names the blocks that must be on the disk before.
    async fn change<T: Send + 'static>(
        self: &Arc<Self>,
        key: InodeKey,
        needed: impl Fn(&Inode, &Blocks) -> Result<Vec<u64>, WriteError> + Send + Sync + 'static,
        change: impl Fn(&Self, &Arc<Inode>) -> Result<T, WriteError> + Send + Sync + 'static,
    ) -> Result<T, WriteError> {
        let inode = self.inode(key).ok_or(ReadError::NoSuchFile)?;
        let steps = Arc::new((needed, change));
        loop {
            self.loaded(&inode).await?;
            let wanted = (steps.0)(&inode, &inode.lock())?;
            let brought = self.bring(&inode, &wanted).await?;
            let (engine, inode, steps) = (self.clone(), inode.clone(), steps.clone());
            let step = move || {
                let done = {
                    let _data = lock(&inode.data);
                    engine.prepared(&inode, &brought, &steps.0).map(|ready| match ready {
                        true => (steps.1)(&engine, &inode).map(Step::Done),
                        false => Ok(Step::Again),
                    })
                };
                engine.flusher.ask_if_full();
                done.and_then(|done| done)
            };
            if let Step::Done(done) = self.on_disk(step).await? {
                return Ok(done);
            }
        }
    }

    /// Runs a step that may block to its end, whatever becomes of whoever waits for it.
    pub(super) async fn on_disk<T: Send + 'static>(
        &self,
        step: impl FnOnce() -> Result<T, WriteError> + Send + 'static,
    ) -> Result<T, WriteError> {
        // It neither panics nor is aborted, except with the runtime itself.
        self.runtime.spawn_blocking(step).await.map_err(|_| WriteError::Disk(Errno::IO))?
    }

    /// Fetches blocks that are needed on the disk, and are neither there nor in memory.
    async fn bring(self: &Arc<Self>, inode: &Arc<Inode>, wanted: &[u64]) -> Result<Brought, WriteError> {
        let mut brought = Vec::new();
        for block in wanted {
            let range = *block..block + 1;
            let plan = inode.plan(&inode.lock(), range.clone());
            let sources = match plan {
                Plan::Here(sources) => sources,
                Plan::Missing => self.wait_alone(inode, range).await?,
                // It came meanwhile.
                Plan::Disk | Plan::Lost => continue,
            };
            if let Some(Source::Memory(bytes)) = sources.into_iter().next() {
                brought.push((*block, bytes));
            }
        }
        Ok(brought)
    }

    /// Puts what a change needs on the disk; false when that is not all there. The inode's `data` is held.
    fn prepared(
        &self,
        inode: &Arc<Inode>,
        brought: &Brought,
        needed: impl Fn(&Inode, &Blocks) -> Result<Vec<u64>, WriteError>,
    ) -> Result<bool, WriteError> {
        if !inode.lock().is_loaded(self.generation()) {
            return Ok(false);
        }
        let wanted = needed(inode, &inode.lock())?;
        if !wanted.iter().all(|block| brought.iter().any(|(here, _)| here == block)) {
            return Ok(false);
        }
        for (block, bytes) in brought.iter().filter(|(block, _)| wanted.contains(block)) {
            self.store_brought(inode, *block, bytes)?;
        }
        self.save_length(inode)?;
        Ok(true)
    }

    /// Puts a fetched block on the disk. The inode's `data` is held.
    pub(super) fn store_brought(
        &self,
        inode: &Arc<Inode>,
        block: u64,
        bytes: &[u8],
    ) -> Result<(), WriteError> {
        let file = self.file_for_writing(inode)?;
        if !inode.is_missing(&inode.lock(), block) {
            return Ok(());
        }
        write_at(&file, bytes, BlockIndex(block).offset()).map_err(|(_, errno)| errno)?;
        self.blocks_stored(inode, block..block + 1);
        Ok(())
    }

    fn write_now(&self, inode: &Arc<Inode>, offset: u64, bytes: &[u8]) -> Result<u64, WriteError> {
        let file = self.file_for_writing(inode)?;
        let (mut end, refused) = match write_at(&file, bytes, offset) {
            Ok(()) => (offset + bytes.len() as u64, None),
            Err((written, errno)) => (offset + written as u64, Some(errno)),
        };
        let remote = inode.remote();
        {
            let mut blocks = inode.lock();
            blocks.stored(inode, covered(&(offset..end), remote));
            let torn = BlockIndex::containing(end).0;
            if refused.is_some() && inode.is_missing(&blocks, torn) {
                // Of a block that is not here only all can be written.
                end = end.min(BlockIndex(torn).offset()).max(offset);
            }
        }
        if let Some(errno) = refused.filter(|_| end == offset) {
            // What it may have left behind the end is not part of the file.
            return Err(self.restored(inode, &file, errno).into());
        }
        inode.set_size(inode.size().max(end));
        if refused.is_some() {
            self.restored(inode, &file, Errno::NOSPC);
        }
        self.note_written(inode, &(offset..end));
        Ok(end - offset)
    }

    /// Gives a file the length back that it should have, after a write that was refused.
    fn restored(&self, inode: &Inode, file: &File, errno: Errno) -> Errno {
        let length = rustix::fs::fstat(file).map(|stat| stat.st_size.cast_unsigned());
        if length.is_ok_and(|length| length > inode.size())
            && let Err(error) = rustix::fs::ftruncate(file, inode.size())
        {
            self.report(inode, &format!("its length cannot be set: {error}"));
        }
        errno
    }

    /// Something was written here. The inode's `data` is held.
    fn note_written(&self, inode: &Arc<Inode>, bytes: &Range<u64>) {
        // Also behind the end of the origin's file, in its last block: what the disk loses goes by blocks.
        let end = bytes.end.div_ceil(BLOCK_BYTES).min(inode.remote_blocks());
        let blocks = BlockIndex::containing(bytes.start).0..end;
        if !blocks.is_empty() {
            self.flusher.wrote(Write { inode: inode.index, blocks, origin: Content::Local });
        }
        self.touch(inode);
    }

    fn truncate_now(&self, inode: &Arc<Inode>, size: u64) -> Result<(), WriteError> {
        let file = self.file_for_writing(inode)?;
        let (before, remote) = (inode.size(), inode.remote());
        if size < remote && !size.is_multiple_of(BLOCK_BYTES) {
            // The block in which it then ends counts as local from here on: were it not on the disk after a power failure,
            // what is left of it would be taken for a hole.
            rustix::fs::fdatasync(&file)?;
        }
        // Before a cut, so that nobody reads beyond it; after a growth, so that nobody reads before it.
        inode.set_size(before.min(size));
        if let Err(errno) = rustix::fs::ftruncate(&file, size) {
            inode.set_size(before);
            return Err(errno.into());
        }
        inode.set_size(size);
        if size < remote {
            inode.lock().cut(inode, size - size % BLOCK_BYTES);
        }
        let state = inode.lock().state;
        match state {
            // Its length was just changed, and so was its time.
            Some(state) if size == 0 => Ok(self.make_ordinary(inode, &file, &state)?),
            Some(_) => {
                self.touch(inode);
                self.save_length(inode)
            }
            None => Ok(()),
        }
    }

    /// The file's times are now. The inode's `data` is held.
    pub(super) fn touch(&self, inode: &Arc<Inode>) {
        let is_due = inode.lock().note_times(inode, |state, now| (state.mtime, state.ctime) = (now, now));
        if is_due && let Err(error) = self.save(inode) {
            // It is tried again when the file is closed.
            tracing::debug!(%error, "the times of a file cannot be kept");
        }
    }

    /// Makes sure that the disk knows a remote length that was lowered, before the file grows again. The inode's `data`
    /// is held.
    pub(super) fn save_length(&self, inode: &Arc<Inode>) -> Result<(), WriteError> {
        let saved = inode.lock().saved;
        if saved == Saved::NotEvenLength { Ok(self.save(inode)?) } else { Ok(()) }
    }

    /// Writes an inode's state to the disk. Its `data` is held.
    pub(super) fn save(&self, inode: &Arc<Inode>) -> Result<(), StoreError> {
        let state = inode.lock().state;
        if let Some(state) = state
            && let Some(file) = self.file(inode)?
        {
            state::set(&*file, &state)?;
        }
        let mut blocks = inode.lock();
        blocks.saved = Saved::All;
        blocks.keep(inode);
        Ok(())
    }
}
