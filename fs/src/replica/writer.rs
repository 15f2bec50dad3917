//! Puts what has been fetched on the disk, away from whoever waits for it.
//!
//! The queue is bounded by the leases its jobs hold: a slow disk uses up the budget, and nothing more is asked for.
//! What a full disk refuses stays in memory for a while, so that reading on in it does not fetch it again each time.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::{Arc, Mutex, Weak};

use bytes::Bytes;
use rustix::io::Errno;

use super::engine::Engine;
use super::inode::Inode;
use super::lock;
use super::scheduler::Lease;
use super::store::{StoreError, write_at};
use crate::digest::{BLOCK_BYTES, BlockIndex};

/// Threads that write at once: enough for making small files, which takes several system calls each.
const WRITERS_MAX: usize = 4;

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
    jobs: VecDeque<Job>,
    running: usize,
    /// Refused by the disk, the oldest first.
    unsaved: VecDeque<Job>,
    unsaved_bytes: u64,
    /// The disk refused the last job.
    refused: bool,
}

impl Writer {
    pub(super) fn new(engine: Weak<Engine>) -> Self {
        Self { engine, state: Mutex::default() }
    }

    /// Takes a job; returns at once.
    pub(super) fn push(&self, job: Job) {
        let mut state = lock(&self.state);
        state.jobs.push_back(job);
        if state.running >= WRITERS_MAX {
            return;
        }
        state.running += 1;
        drop(state);
        if let Some(engine) = self.engine.upgrade() {
            engine.runtime.clone().spawn_blocking(move || engine.writer.work(&engine));
        }
    }

    /// True while the disk refuses what is fetched.
    pub(super) fn is_refused(&self) -> bool {
        lock(&self.state).refused
    }

    /// True when nothing waits to be written.
    pub(super) fn is_idle(&self) -> bool {
        let state = lock(&self.state);
        state.jobs.is_empty() && state.running == 0
    }

    fn work(&self, engine: &Arc<Engine>) {
        loop {
            let job = {
                let mut state = lock(&self.state);
                match state.jobs.pop_front() {
                    Some(job) => job,
                    None => {
                        state.running -= 1;
                        break;
                    }
                }
            };
            match store(engine, &job) {
                Ok(()) => self.stored(job),
                Err((written, error)) => self.refused(engine, job, written, &error),
            }
        }
        engine.changed();
    }

    fn stored(&self, job: Job) {
        drop(job);
        let mut state = lock(&self.state);
        if std::mem::replace(&mut state.refused, false) {
            let State { jobs, unsaved, unsaved_bytes, .. } = &mut *state;
            jobs.append(unsaved);
            *unsaved_bytes = 0;
        }
    }

    /// Keeps what could not be written, as far as there is room for it.
    fn refused(&self, engine: &Engine, mut job: Job, written: usize, error: &StoreError) {
        engine.counters.error(format!("the disk refuses what is fetched: {error}"));
        let blocks = written as u64 / BLOCK_BYTES;
        if blocks > 0 {
            let stored = job.blocks.start..job.blocks.start + blocks;
            engine.blocks_stored(&job.inode, stored.clone());
            job.blocks.start = stored.end;
            job.bytes = job.bytes.slice((blocks * BLOCK_BYTES) as usize..);
            drop(job.lease.split(blocks * BLOCK_BYTES));
        }
        let mut surplus = Vec::new();
        {
            let mut state = lock(&self.state);
            // What is in the way of one file says nothing about the disk.
            state.refused |= matches!(error, StoreError::System(_));
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

/// Writes a job's blocks; on an error, tells how many bytes were written before it.
fn store(engine: &Engine, job: &Job) -> Result<(), (usize, StoreError)> {
    let file = engine.file_for_writing(&job.inode).map_err(|error| (0, error))?;
    let offset = BlockIndex(job.blocks.start).offset();
    write_at(&file, &job.bytes, offset)
        .map_err(|(written, errno): (usize, Errno)| (written, errno.into()))?;
    engine.blocks_stored(&job.inode, job.blocks.clone());
    Ok(())
}
