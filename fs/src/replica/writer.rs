//! Puts what has been fetched on the disk, away from whoever waits for it.
//!
//! The queue is bounded by the leases its jobs hold: a slow disk uses up the budget, and nothing more is asked for.
//! What a full disk refuses stays in memory for a while, so that reading on in it does not fetch it again each time.

use std::collections::VecDeque;
use std::fmt;
use std::ops::Range;
use std::sync::{Arc, Mutex, Weak};

use bytes::Bytes;
use rustix::io::Errno;

use super::cache::Full;
use super::engine::Engine;
use super::inode::Inode;
use super::lock;
use super::scheduler::Lease;
use super::store::{StoreError, write_at};
use crate::digest::{BLOCK_BYTES, BlockIndex};

/// Threads that write at once: enough for making small files, which takes several system calls each. Each writes its
/// own inodes, since the kernel lets one write to an inode at a time and has the others spin (`i_rwsem`).
const LANES: usize = 4;

/// Bytes kept in memory that the disk refused; the oldest are dropped beyond it.
const UNSAVED_BYTES_MAX: u64 = 8 * 1024 * 1024;

/// Verified blocks of one inode, held by it until they are stored.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) inode: Arc<Inode>,
    pub(super) blocks: Range<u64>,
    pub(super) bytes: Bytes,
    pub(super) lease: Lease,
}

/// The queue. Its lock is a leaf: nothing else is locked while it is held.
#[derive(Debug)]
pub(super) struct Writer {
    engine: Weak<Engine>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    lanes: [Lane; LANES],
    /// Refused by the disk, the oldest first.
    unsaved: VecDeque<Job>,
    unsaved_bytes: u64,
    /// Why the disk refused the last job, if it did.
    refusal: Option<Refusal>,
}

/// Why what is fetched cannot be kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// What the disk said.
    Disk(Errno),
    /// The cache has no room.
    Full(Full),
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Disk(errno) => errno.fmt(f),
            Self::Full(full) => full.fmt(f),
        }
    }
}

/// The jobs of some inodes, in the order in which they came.
#[derive(Debug, Default)]
struct Lane {
    jobs: VecDeque<Job>,
    /// A thread is at work on them.
    running: bool,
}

impl Lane {
    fn number(inode: &Inode) -> usize {
        inode.index.0 as usize % LANES
    }
}

impl Writer {
    pub(super) fn new(engine: Weak<Engine>) -> Self {
        Self { engine, state: Mutex::default() }
    }

    /// Takes a job; returns at once.
    pub(super) fn push(&self, job: Job) {
        let number = Lane::number(&job.inode);
        {
            let mut state = lock(&self.state);
            let lane = &mut state.lanes[number];
            lane.jobs.push_back(job);
            if std::mem::replace(&mut lane.running, true) {
                return;
            }
        }
        if let Some(engine) = self.engine.upgrade() {
            engine.runtime.clone().spawn_blocking(move || engine.writer.work(&engine, number));
        }
    }

    /// While the disk refuses what is fetched: why.
    pub(super) fn refusal(&self) -> Option<Refusal> {
        lock(&self.state).refusal
    }

    /// True when nothing waits to be written.
    pub(super) fn is_idle(&self) -> bool {
        lock(&self.state).lanes.iter().all(|lane| lane.jobs.is_empty() && !lane.running)
    }

    fn work(&self, engine: &Arc<Engine>, number: usize) {
        loop {
            let job = {
                let mut state = lock(&self.state);
                let lane = &mut state.lanes[number];
                match lane.jobs.pop_front() {
                    Some(job) => job,
                    None => {
                        lane.running = false;
                        break;
                    }
                }
            };
            if let Err(full) = admitted(engine, &job) {
                self.refused(engine, job, None, Refusal::Full(full));
                continue;
            }
            let stored = store(engine, &job);
            engine.flusher.ask_if_full();
            match stored {
                Ok(()) => {
                    drop(job);
                    self.stored();
                }
                Err((from, StoreError::System(errno))) => {
                    self.refused(engine, job, Some(from), Refusal::Disk(errno));
                }
                // What is in the way of one file says nothing about the disk, and stays in its way.
                Err((_, error @ StoreError::Foreign(_))) => {
                    engine.report(&job.inode, &format!("it cannot be kept: {error}"));
                    job.inode.lock().dropped(job.blocks);
                }
                Err((_, StoreError::Removed)) => job.inode.lock().dropped(job.blocks),
            }
        }
        engine.changed();
    }

    /// The disk takes what is fetched; so what it refused is tried again.
    fn stored(&self) {
        let again = {
            let mut state = lock(&self.state);
            match state.refusal.take() {
                None => return,
                Some(_) => {
                    state.unsaved_bytes = 0;
                    std::mem::take(&mut state.unsaved)
                }
            }
        };
        again.into_iter().for_each(|job| self.push(job));
    }

    /// Keeps what could not be written, the blocks of the job from `from` on, as far as there is room for it.
    fn refused(&self, engine: &Engine, mut job: Job, from: Option<u64>, why: Refusal) {
        match why {
            Refusal::Disk(errno) => {
                engine.counters.error(format!("the disk refuses what is fetched: {errno}"));
            }
            Refusal::Full(full) => engine.counters.error(format!("what is fetched is not kept: {full}")),
        }
        let blocks = from.map_or(0, |from| from - job.blocks.start);
        if blocks > 0 {
            job.blocks.start += blocks;
            job.bytes = job.bytes.slice((blocks * BLOCK_BYTES) as usize..);
            drop(job.lease.split(blocks * BLOCK_BYTES));
        }
        let mut surplus = Vec::new();
        {
            let mut state = lock(&self.state);
            state.refusal = Some(why);
            state.unsaved_bytes += job.bytes.len() as u64;
            state.unsaved.push_back(job);
            while state.unsaved_bytes > UNSAVED_BYTES_MAX
                && let Some(oldest) = state.unsaved.pop_front()
            {
                state.unsaved_bytes -= oldest.bytes.len() as u64;
                surplus.push(oldest);
            }
        }
        for job in surplus {
            job.inode.lock().dropped(job.blocks);
        }
    }
}

/// Whether there is room for a job where its bytes share that of a cache.
fn admitted(engine: &Arc<Engine>, job: &Job) -> Result<(), Full> {
    let cached = engine.cached.as_ref();
    cached.map_or(Ok(()), |cached| cached.cache.admits(engine, job.bytes.len() as u64))
}

/// Writes those of a job's blocks that are still wanted; on an error, tells from which block on they were not written.
fn store(engine: &Engine, job: &Job) -> Result<(), (u64, StoreError)> {
    let _data = lock(&job.inode.data);
    if job.inode.lock().held(job.blocks.clone()).is_empty() {
        return Ok(());
    }
    let file = engine.file_for_writing(&job.inode).map_err(|error| (job.blocks.start, error))?;
    // Asked again: what lies there may turn out to be an ordinary file.
    let wanted = job.inode.lock().held(job.blocks.clone());
    for run in wanted {
        let offset = BlockIndex(run.start).offset();
        let at = |block| ((block - job.blocks.start) * BLOCK_BYTES) as usize;
        let bytes = &job.bytes[at(run.start)..at(run.end).min(job.bytes.len())];
        if let Err((written, errno)) = write_at(&file, bytes, offset) {
            let from = run.start + written as u64 / BLOCK_BYTES;
            engine.blocks_stored(&job.inode, run.start..from);
            return Err((from, errno.into()));
        }
        engine.blocks_stored(&job.inode, run);
    }
    Ok(())
}
