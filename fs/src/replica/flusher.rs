//! Asks the disk every few seconds whether it has kept what was written.
//!
//! A write ends in the page cache. If the kernel cannot write it back later, reads are right while the page lives, and
//! afterwards they are zeros or garbage. The extent map does not always tell: ext4 may map an extent whose write
//! failed. Since Linux 5.8 `syncfs` tells, once to each descriptor (`errseq_check_and_advance` in `fs/sync.c`). So
//! what has been written since the disk was last asked is remembered, and dropped when the answer is an error.
//!
//! What the origin has is fetched again. What was written here is nowhere else: it stays as the disk has it, the blocks
//! that the disk no longer shows as data are EIO from then on, never the origin's old content, and whoever synchronises
//! the file next gets EIO once, as from any filesystem that could not write back.
//!
//! What is left is the time between a failed write-back and the next question: a page that is evicted in these
//! seconds reads wrongly, and a process that dies in them forgets to ask.

use std::fmt;
use std::ops::Range;
use std::os::fd::BorrowedFd;
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use rustix::io::Errno;
use tokio::time::Instant;

use super::engine::Engine;
use super::lock;
use crate::manifest::EntryIndex;

/// The pause before the disk is asked again, unless asking takes so long that it would be kept busy with it.
const PAUSE_MIN: Duration = Duration::from_secs(5);
/// The pause is so many times as long as the last answer took.
const PAUSE_FACTOR: u32 = 4;
/// Writes remembered, or a few more: 32 bytes each. Whoever writes more before the disk is asked asks it first.
const WRITES_MAX: usize = 1 << 18;

/// Writes back what the filesystem of a directory has taken; an error if it lost any of it since the last call.
pub(super) type SyncDisk = Box<dyn Fn(BorrowedFd<'_>) -> Result<(), Errno> + Send + Sync>;

/// Blocks of one inode that were written together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Write {
    /// A file of the manifest. Of files made here the kernel tells whoever synchronises them.
    pub(super) inode: EntryIndex,
    pub(super) blocks: Range<u64>,
    pub(super) origin: Content,
}

/// Where written content came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Content {
    /// The origin, which has it still.
    Fetched,
    /// A program here; it is nowhere else.
    Local,
}

/// The one that asks.
pub(super) struct Flusher {
    engine: Weak<Engine>,
    sync: SyncDisk,
    /// Held while the disk is asked, by threads that may block.
    asking: Mutex<()>,
    /// A leaf.
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// What was written since the disk was last asked.
    writes: Vec<Write>,
    /// A task asks for as long as there is something to ask for.
    running: bool,
}

impl fmt::Debug for Flusher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Flusher").finish_non_exhaustive()
    }
}

impl Write {
    fn is_continued_by(&self, next: &Self) -> bool {
        self.inode == next.inode
            && self.origin == next.origin
            && (self.blocks.start..=self.blocks.end).contains(&next.blocks.start)
    }
}

impl Flusher {
    pub(super) fn new(engine: Weak<Engine>, sync: SyncDisk) -> Self {
        Self { engine, sync, asking: Mutex::default(), state: Mutex::default() }
    }

    /// Blocks have been written. The inode's `data` is held, so that nothing is written over them meanwhile.
    pub(super) fn wrote(&self, write: Write) {
        let Some(engine) = self.engine.upgrade() else { return };
        let mut state = lock(&self.state);
        match state.writes.last_mut() {
            Some(last) if last.is_continued_by(&write) => {
                last.blocks.end = last.blocks.end.max(write.blocks.end)
            }
            _ => state.writes.push(write),
        }
        if !std::mem::replace(&mut state.running, true) {
            engine.runtime.spawn(run(engine.clone()));
        }
    }

    /// What programs here have written to a file since the disk was last asked.
    pub(super) fn written_here(&self, inode: EntryIndex) -> Vec<Range<u64>> {
        let state = lock(&self.state);
        let here = |write: &&Write| write.inode == inode && write.origin == Content::Local;
        state.writes.iter().filter(here).map(|write| write.blocks.clone()).collect()
    }

    /// Asks the disk when very much has been written at once. Blocks then; no inode's `data` is held.
    pub(super) fn ask_if_full(&self) {
        let is_full = lock(&self.state).writes.len() >= WRITES_MAX;
        if is_full && let Some(engine) = self.engine.upgrade() {
            self.ask(&engine);
        }
    }

    /// Asks the disk. Blocks for as long as it takes to write everything back.
    pub(super) fn ask(&self, engine: &Arc<Engine>) {
        let _asking = lock(&self.asking);
        let writes = std::mem::take(&mut lock(&self.state).writes);
        if writes.is_empty() {
            return;
        }
        if let Err(errno) = (self.sync)(engine.store.layout.directory()) {
            engine.disk_lost(&writes, errno);
        }
    }

    /// True when there is nothing to ask about; the task then ends.
    fn is_done(&self) -> bool {
        let mut state = lock(&self.state);
        state.running = !state.writes.is_empty();
        !state.running
    }
}

async fn run(engine: Arc<Engine>) {
    let mut closing = engine.closing();
    let mut pause = PAUSE_MIN;
    while !engine.flusher.is_done() {
        tokio::select! {
            // Whoever closes the replica asks.
            _ = closing.wait_for(|closing| *closing) => return,
            () = tokio::time::sleep(pause) => {}
        }
        let began = Instant::now();
        let asking = engine.clone();
        if engine.runtime.spawn_blocking(move || asking.flusher.ask(&asking)).await.is_err() {
            // The runtime is ending, and this task with it.
            return;
        }
        pause = PAUSE_MIN.max(began.elapsed() * PAUSE_FACTOR);
    }
}
