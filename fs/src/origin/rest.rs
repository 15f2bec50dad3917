//! Binding the rest of files of which some blocks were read.
//!
//! As long as only some blocks of a file are bound, the others can be served only while nothing at all happens to it:
//! after a mere `chmod` or `ln` nobody could tell whether they still belong to the same version
//! (see [`files`](super::files)). So the rest of a file is read and bound in the background once a request has left
//! some of it out, or will take long. It takes a fifth of one thread's time, and holds a file open only for the
//! moments in which it reads.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, Weak};
use std::time::{Duration, Instant};

use super::FileFault;
use super::files::{Files, OpenFile, lock, windows};
use super::pool::ReadPool;
use super::version::fault;
use crate::digest::BlockIndex;
use crate::manifest::EntryIndex;

/// Blocks read at once: 1 MiB.
const READ_BLOCKS: u64 = 16;

/// Files that wait their turn at most; those beyond are bound as they are read.
const WAITING_MAX: usize = 4096;

/// For how much of its own time it pauses after each read.
const PAUSE: u32 = 4;

/// The files of a snapshot that are to be bound.
#[derive(Debug)]
pub(super) struct Rest {
    files: Arc<Files>,
    pool: ReadPool,
    queue: Mutex<Queue>,
}

#[derive(Debug, Default)]
struct Queue {
    /// Files, and the block to begin at.
    waiting: VecDeque<(EntryIndex, u64)>,
    under_way: bool,
}

impl Rest {
    pub(super) fn new(files: Arc<Files>, pool: ReadPool) -> Arc<Self> {
        Arc::new(Self { files, pool, queue: Mutex::default() })
    }

    /// Sees to it that all of the file will be bound. Must be called within a Tokio runtime.
    pub(super) fn bind(self: &Arc<Self>, file: EntryIndex) {
        let mut queue = lock(&self.queue);
        if queue.waiting.len() >= WAITING_MAX || queue.waiting.iter().any(|(waiting, _)| *waiting == file) {
            return;
        }
        queue.waiting.push_back((file, 0));
        if !std::mem::replace(&mut queue.under_way, true) {
            tokio::spawn(work(Arc::downgrade(self)));
        }
    }

    fn next(&self) -> Option<(EntryIndex, u64)> {
        let mut queue = lock(&self.queue);
        let next = queue.waiting.pop_front();
        queue.under_way = next.is_some();
        next
    }
}

/// Reads a little of each file in turn, until there is none or the origin is closed.
async fn work(rest: Weak<Rest>) {
    loop {
        let Some(this) = rest.upgrade() else { return };
        let Some((file, from)) = this.next() else { return };
        let (files, pool) = (this.files.clone(), this.pool.clone());
        drop(this);
        let step = move || {
            let began = Instant::now();
            (step(&files, file, from), began.elapsed())
        };
        let (next, took) = pool.run_pass(step).await.unwrap_or((None, Duration::ZERO));
        if let Some((this, next)) = rest.upgrade().zip(next) {
            lock(&this.queue).waiting.push_back((file, next));
        }
        tokio::time::sleep(took * PAUSE).await;
    }
}

/// Binds some blocks from `from` on; returns where to go on, if there is more and it can be done.
fn step(files: &Arc<Files>, file: EntryIndex, from: u64) -> Option<u64> {
    let _reading = files.begin();
    // Whatever is wrong with the file, the next to read it is told.
    let file = files.open_at(file).ok()?;
    bind_some(files, &file, from).ok().flatten()
}

fn bind_some(files: &Files, file: &OpenFile, from: u64) -> Result<Option<u64>, FileFault> {
    let now = files.look(file)?;
    if !files.is_stamped(file, &now)? || files.is_hot(file, &now) {
        return Ok(None);
    }
    let Some((first, count)) = unbound(files, file, from)? else { return Ok(None) };
    let digests = file.digests(first, &file.bytes(first, count)?);
    let bound = files.look(file)? == now && files.bind(file, first, &digests, &now)?;
    Ok(bound.then_some(first.0 + count))
}

/// The first blocks from `from` on that are not bound.
fn unbound(files: &Files, file: &OpenFile, from: u64) -> Result<Option<(BlockIndex, u64)>, FileFault> {
    for window in windows(&(file.blocks.start + from..file.blocks.end)) {
        let known = files.digests.get(window.clone()).map_err(fault)?;
        if let Some(at) = known.iter().position(Option::is_none) {
            let count = known[at..].iter().take_while(|known| known.is_none()).count() as u64;
            let first = window.start - file.blocks.start + at as u64;
            return Ok(Some((BlockIndex(first), count.min(READ_BLOCKS))));
        }
    }
    Ok(None)
}
