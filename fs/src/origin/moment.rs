//! Passes over large hot files: all blocks of one are bound to the digests of one moment.
//!
//! A file that somebody may be writing to can change without a trace. Two passes over all of it, one after the other,
//! that find the same digests prove that between them it had all of these at once; what is served afterwards is
//! compared with them, so that no writer, however unseen, can mix two versions.
//!
//! That takes as long as reading the file twice, so it is nobody's own: whoever wants a block waits for the pass over
//! its file, holding no thread, and one that gives up leaves the pass running for the next to come. Passes take turns,
//! step by step, on threads of their own. Between two steps of a pass nothing is held open but its digests.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, Weak};

use tokio::sync::{Semaphore, watch};

use super::FileFault;
use super::files::{Files, OpenFile, lock, windows};
use super::pool::ReadPool;
use super::version::Now;
use crate::clock;
use crate::digest::{BlockIndex, Digest};
use crate::digest_file::DigestFile;
use crate::manifest::EntryIndex;

/// Blocks read in a step: 16 MiB.
pub(super) const STEP_BLOCKS: u64 = 256;

/// Blocks read at once: 1 MiB.
pub(super) const READ_BLOCKS: u64 = 16;

/// Passes under way at once, each with an open file of digests (0.05 % of the file's size on disk). Who asks for one
/// more waits; a pass that nobody waits for any more makes room.
const PASSES_MAX: usize = 32;

type Verdict = Result<(), FileFault>;

/// The passes over a snapshot's files.
#[derive(Debug)]
pub(super) struct Moments {
    files: Arc<Files>,
    pool: ReadPool,
    /// By the first name of the inode.
    under_way: Mutex<HashMap<EntryIndex, Arc<watch::Sender<Option<Verdict>>>>>,
    room: Arc<Semaphore>,
}

impl Moments {
    pub(super) fn new(files: Arc<Files>, pool: ReadPool) -> Arc<Self> {
        let room = Arc::new(Semaphore::new(PASSES_MAX));
        Arc::new(Self { files, pool, under_way: Mutex::default(), room })
    }

    /// Waits until all blocks of the file are bound, or the file has changed, or cannot be read. Safe to drop.
    ///
    /// After `Ok`, the file is to be looked at again: also a pass that met other properties ends so.
    pub(super) async fn settle(self: &Arc<Self>, file: EntryIndex) -> Verdict {
        let mut news = self.join(file)?;
        match news.wait_for(Option::is_some).await {
            Ok(verdict) => verdict.clone().unwrap_or(Ok(())),
            Err(_) => Err(broke_off()),
        }
    }

    /// Passes under way.
    #[cfg(test)]
    pub(super) fn count(&self) -> usize {
        lock(&self.under_way).len()
    }

    /// Joins the pass over the file, and begins it where there is none.
    fn join(self: &Arc<Self>, file: EntryIndex) -> Result<watch::Receiver<Option<Verdict>>, FileFault> {
        let inode = self.files.manifest.entry(file).ok_or(FileFault::NoSuchBlock)?.inode();
        let mut under_way = lock(&self.under_way);
        if let Some(pass) = under_way.get(&inode) {
            return Ok(pass.subscribe());
        }
        let sender = Arc::new(watch::Sender::new(None));
        let news = sender.subscribe();
        under_way.insert(inode, sender.clone());
        let end = End { moments: Arc::downgrade(self), inode, sender, verdict: Err(broke_off()) };
        let room = self.room.clone();
        tokio::spawn(async move {
            let verdict = run(&end, file, room).await;
            end.with(verdict);
        });
        Ok(news)
    }
}

/// Tells everybody who waits how a pass ended, however it did.
struct End {
    moments: Weak<Moments>,
    inode: EntryIndex,
    sender: Arc<watch::Sender<Option<Verdict>>>,
    verdict: Verdict,
}

impl End {
    fn with(mut self, verdict: Verdict) {
        self.verdict = verdict;
    }
}

impl Drop for End {
    fn drop(&mut self) {
        if let Some(moments) = self.moments.upgrade() {
            lock(&moments.under_way).remove(&self.inode);
        }
        let verdict = std::mem::replace(&mut self.verdict, Ok(()));
        self.sender.send_replace(Some(verdict));
    }
}

async fn run(end: &End, file: EntryIndex, room: Arc<Semaphore>) -> Verdict {
    let _room = room.acquire().await.map_err(|_| broke_off())?;
    let mut pass = Pass { file, looked: None, found: None, next: 0, again: false };
    loop {
        // The origin is closed when nobody holds it any more.
        let moments = end.moments.upgrade().ok_or_else(broke_off)?;
        if end.sender.is_closed() && room.available_permits() == 0 {
            return Err(broke_off());
        }
        let (files, pool) = (moments.files.clone(), moments.pool.clone());
        drop(moments);
        let step = move || {
            let done = pass.step(&files);
            (pass, done)
        };
        let (back, done) = pool.run_pass(step).await.map_err(|_| broke_off())?;
        if done? {
            return Ok(());
        }
        pass = back;
    }
}

fn broke_off() -> FileFault {
    FileFault::Unreadable("reading all of it broke off".into())
}

/// A pass, and then another, as far as they have come.
struct Pass {
    file: EntryIndex,
    /// What the file was when it began.
    looked: Option<Now>,
    /// The digests of the first pass.
    found: Option<DigestFile>,
    next: u64,
    /// It is the second pass.
    again: bool,
}

impl Pass {
    /// Reads on; true when there is nothing more to be read, be it that the file is no longer what it was.
    fn step(&mut self, files: &Arc<Files>) -> Result<bool, FileFault> {
        let _reading = files.begin();
        let file = files.open_at(self.file)?;
        let done = self.step_in(files, &file);
        if done.is_err() {
            files.forget(self.file);
        }
        done
    }

    fn step_in(&mut self, files: &Files, file: &OpenFile) -> Result<bool, FileFault> {
        let now = files.look(file)?;
        let began = *self.looked.get_or_insert(now);
        if now != began || !files.is_stamped(file, &now)? {
            return Ok(true);
        }
        clock::wait_for_step(now.0.ctime);
        let count = file.blocks.end - file.blocks.start;
        let found = match &self.found {
            Some(found) => found,
            None => self.found.insert(files.candidates(count)?),
        };
        let end = count.min(self.next + STEP_BLOCKS);
        while self.next < end {
            let first = BlockIndex(self.next);
            let read = READ_BLOCKS.min(end - self.next);
            let digests = file.digests(first, &file.bytes(first, read)?);
            note(found, self.again, first, &digests)?;
            self.next += read;
        }
        if self.next < count {
            return Ok(false);
        }
        if !self.again {
            (self.again, self.next) = (true, 0);
            return Ok(false);
        }
        if files.look(file)? == began {
            bind_all(files, file, found, &began)?;
        }
        Ok(true)
    }
}

/// Keeps the digests of the first pass, and compares those of the second with them.
fn note(found: &DigestFile, again: bool, first: BlockIndex, digests: &[Digest]) -> Result<(), FileFault> {
    let disk = super::version::fault;
    if !again {
        return found.set(first.0, digests).map_err(disk);
    }
    let before = found.get(first.0..first.0 + digests.len() as u64).map_err(disk)?;
    match before.into_iter().flatten().eq(digests.iter().copied()) {
        true => Ok(()),
        false => Err(FileFault::Changed),
    }
}

fn bind_all(files: &Files, file: &OpenFile, found: &DigestFile, read: &Now) -> Result<(), FileFault> {
    for window in windows(&(0..found.blocks())) {
        let first = BlockIndex(window.start);
        let digests: Vec<_> =
            found.get(window).map_err(super::version::fault)?.into_iter().flatten().collect();
        if !files.bind(file, first, &digests, read)? {
            break;
        }
    }
    Ok(())
}
