//! Reading: from what is here at once, or after a wait.

use std::fs::File;
use std::io::{self, IoSliceMut};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use rustix::io::{Errno, ReadWriteFlags};
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use super::ask::Ask;
use super::engine::Engine;
use super::evict::Reliance;
use super::inode::{Failure, Inode, News, Plan, Source};
use super::key::InodeKey;
use super::patience::{PAUSE_MIN, Patience};
use super::probe::CachedReads;
use super::reads::WaitingRead;
use super::store::to_errno;
use super::{ReadError, TryRead, lock};
use crate::digest::BlockIndex;
use crate::manifest::Kind;
use crate::origin::Availability;

/// Bytes read at once; a longer read is done in several steps. It bounds what one waiting read holds in memory.
const STEP_BYTES_MAX: u64 = 1024 * 1024;

/// How long a read waits for a less urgent request that brings nothing. It may stand behind others, here or at the
/// origin, where it cannot be overtaken; asked for again, its blocks come first.
const HURRY_AFTER: Duration = Duration::from_secs(2);

/// Some bytes of an inode, inside its size.
#[derive(Clone, Copy, Debug)]
struct Span {
    offset: u64,
    length: u64,
}

impl Span {
    /// The part of a read that lies inside a file of `size` bytes.
    fn within(size: u64, offset: u64, length: u64) -> Self {
        Self { offset, length: length.min(size.saturating_sub(offset)) }
    }

    fn blocks(&self) -> Range<u64> {
        let first = BlockIndex::containing(self.offset).0;
        first..BlockIndex::containing(self.offset + self.length - 1).0 + 1
    }
}

/// Why what is on the disk was not read without waiting.
enum NotNow {
    Wait,
}

/// Why what is on the disk was not read.
enum NotRead {
    /// The file is shorter than it was a moment ago.
    Shorter,
    Failed(ReadError),
}

impl Engine {
    /// See [`super::Replica::try_read`].
    pub(super) fn try_read(&self, key: InodeKey, offset: u64, length: u32) -> TryRead {
        let found = self.canonical(key).and_then(|key| self.inodes.find(key));
        let Some(inode) = found else { return self.unseen(key, offset) };
        let generation = self.generation();
        let _relied = Reliance::on(&inode);
        let span;
        let (plan, file, ahead) = {
            let mut blocks = inode.lock();
            if !blocks.is_loaded(generation) {
                return self.unseen(key, offset);
            }
            span = Span::within(inode.size(), offset, length.into());
            if span.length == 0 {
                return TryRead::Ready(Bytes::new());
            }
            let plan = inode.plan(&blocks, span.blocks());
            if matches!(plan, Plan::Missing | Plan::Lost) {
                return TryRead::WouldWait;
            }
            let ahead = self.read_on(&inode, &mut blocks, span.blocks());
            (plan, blocks.file.clone(), ahead)
        };
        self.send_ahead(ahead);
        self.used(&inode);
        match self.gather_now(&inode, &plan, span, file.as_deref()) {
            Ok(bytes) if self.generation() == generation => TryRead::Ready(bytes),
            Ok(_) | Err(NotNow::Wait) => TryRead::WouldWait,
        }
    }

    /// What can be said without a look at the disk: where the manifest tells how long a file is, its end.
    fn unseen(&self, key: InodeKey, offset: u64) -> TryRead {
        let entry = key.entry().and_then(|index| self.manifest.entry(index));
        match entry.filter(|entry| entry.kind() == Kind::File) {
            Some(entry) if entry.size() <= offset && !self.places.is_writable(key) => {
                TryRead::Ready(Bytes::new())
            }
            _ => TryRead::WouldWait,
        }
    }

    fn gather_now(
        &self,
        inode: &Inode,
        plan: &Plan,
        span: Span,
        file: Option<&File>,
    ) -> Result<Bytes, NotNow> {
        gather(plan, span, |into, offset| {
            inode.file_used.store(true, Relaxed);
            let flags = match self.store.backing.cached_reads {
                CachedReads::NoWait => ReadWriteFlags::NOWAIT,
                CachedReads::Always => ReadWriteFlags::empty(),
                CachedReads::Never => return Err(NotNow::Wait),
            };
            let wanted = into.len();
            let read =
                rustix::io::preadv2(file.ok_or(NotNow::Wait)?, &mut [IoSliceMut::new(into)], offset, flags);
            // Less than wanted: the rest is not in the page cache. Errors are for the read that waits to tell.
            if read == Ok(wanted) { Ok(()) } else { Err(NotNow::Wait) }
        })
    }

    /// See [`super::Replica::read`].
    pub(super) async fn read(
        self: &Arc<Self>,
        key: InodeKey,
        offset: u64,
        length: u32,
    ) -> Result<Bytes, ReadError> {
        let inode = self.inode(key).ok_or(ReadError::NoSuchFile)?;
        let length = u64::from(length);
        if length <= STEP_BYTES_MAX {
            return self.read_step(&inode, offset, length).await;
        }
        let mut bytes = BytesMut::new();
        while (bytes.len() as u64) < length {
            let done = bytes.len() as u64;
            let wanted = STEP_BYTES_MAX.min(length - done);
            let step = self.read_step(&inode, offset.saturating_add(done), wanted).await?;
            bytes.extend_from_slice(&step);
            if (step.len() as u64) < wanted {
                break;
            }
        }
        Ok(bytes.freeze())
    }

    pub(super) async fn loaded(self: &Arc<Self>, inode: &Arc<Inode>) -> Result<(), ReadError> {
        if inode.lock().is_loaded(self.generation()) {
            return Ok(());
        }
        let (engine, loading) = (self.clone(), inode.clone());
        let loaded = self.runtime.spawn_blocking(move || engine.load(&loading)).await;
        loaded.map_err(|_| ReadError::Io(Errno::IO))?.map_err(|error| {
            self.report(inode, &format!("its file in {}: {error}", self.store.layout.path().display()));
            ReadError::Io(error.errno())
        })
    }

    async fn read_step(
        self: &Arc<Self>,
        inode: &Arc<Inode>,
        offset: u64,
        length: u64,
    ) -> Result<Bytes, ReadError> {
        loop {
            let generation = self.generation();
            self.loaded(inode).await?;
            let span = Span::within(inode.size(), offset, length);
            if span.length == 0 {
                return Ok(Bytes::new());
            }
            match self.read_loaded(inode, span).await {
                // Else the disk may have lost, before it was read, what was believed to be there.
                Ok(bytes) if self.generation() == generation => return Ok(bytes),
                Ok(_) | Err(NotRead::Shorter) => {}
                Err(NotRead::Failed(error)) => return Err(error),
            }
        }
    }

    async fn read_loaded(self: &Arc<Self>, inode: &Arc<Inode>, span: Span) -> Result<Bytes, NotRead> {
        let reliance = Reliance::on(inode);
        self.used(inode);
        let plan = inode.plan(&inode.lock(), span.blocks());
        let plan = match plan {
            Plan::Missing => Plan::Here(self.wait(inode, span.blocks()).await?),
            Plan::Lost => return Err(ReadError::Io(Errno::IO).into()),
            here => {
                let ahead = self.read_on(inode, &mut inode.lock(), span.blocks());
                self.send_ahead(ahead);
                here
            }
        };
        let file = inode.lock().file.clone();
        if let Ok(bytes) = self.gather_now(inode, &plan, span, file.as_deref()) {
            return Ok(bytes);
        }
        let (engine, inode) = (self.clone(), inode.clone());
        let read = move || {
            // It may go on when nobody waits for it any more, and opens the file.
            let _relied = reliance;
            engine.gather_blocking(&inode, &plan, span)
        };
        self.runtime.spawn_blocking(read).await.map_err(|_| ReadError::Io(Errno::IO))?
    }

    fn gather_blocking(&self, inode: &Arc<Inode>, plan: &Plan, span: Span) -> Result<Bytes, NotRead> {
        let file = self.file(inode).map_err(|error| ReadError::Io(error.errno()))?;
        let gathered = gather(plan, span, |into, offset| {
            // Blocks that are on the disk are nowhere else: the file must be there.
            let file = file.as_ref().ok_or_else(|| io::Error::from(Errno::IO))?;
            file.read_exact_at(into, offset)
        });
        gathered.map_err(|error| {
            if error.kind() == io::ErrorKind::UnexpectedEof {
                // Whoever cuts it off has said so before, and is done after this.
                drop(lock(&inode.data));
                if inode.size() < span.offset + span.length {
                    return NotRead::Shorter;
                }
            }
            let error = ReadError::Io(to_errno(error));
            self.report(inode, &error.to_string());
            NotRead::Failed(error)
        })
    }

    /// Waits until every block of `range` is here, and reads ahead of it if that looks right.
    pub(super) async fn wait(
        self: &Arc<Self>,
        inode: &Arc<Inode>,
        range: Range<u64>,
    ) -> Result<Vec<Source>, ReadError> {
        self.wait_for(inode, range, |range| {
            let ahead = self.read_on(inode, &mut inode.lock(), range);
            self.send_ahead(ahead);
        })
        .await
    }

    /// Waits until every block of `range` is here.
    pub(super) async fn wait_alone(
        self: &Arc<Self>,
        inode: &Arc<Inode>,
        range: Range<u64>,
    ) -> Result<Vec<Source>, ReadError> {
        self.wait_for(inode, range, |_| {}).await
    }

    async fn wait_for(
        self: &Arc<Self>,
        inode: &Arc<Inode>,
        range: Range<u64>,
        asked: impl FnOnce(Range<u64>),
    ) -> Result<Vec<Source>, ReadError> {
        let wait = self.counters.wait();
        let mut read = self.reads.begin(inode.key);
        let sources = self.ask_and_wait(inode, range, asked, &mut read).await;
        if sources.is_ok() {
            wait.served();
        }
        read.ended(&sources);
        sources
    }

    async fn ask_and_wait(
        &self,
        inode: &Arc<Inode>,
        range: Range<u64>,
        asked: impl FnOnce(Range<u64>),
        read: &mut WaitingRead<'_>,
    ) -> Result<Vec<Source>, ReadError> {
        let patience = Patience::new(self.when_gone);
        let mut availability = self.origin.availability();
        self.refuse(inode, &range, &patience, &mut availability)?;
        let waiting = Waiting::register(inode, range);
        self.demand(inode, waiting.range.clone())?;
        asked(waiting.range.clone());
        read.identify();
        self.wait_on(waiting, patience, availability).await
    }

    /// Fails a read that need not even begin to wait.
    fn refuse(
        &self,
        inode: &Arc<Inode>,
        range: &Range<u64>,
        patience: &Patience,
        availability: &mut watch::Receiver<Availability>,
    ) -> Result<(), ReadError> {
        let stale_until = inode.lock().stale_until;
        if self.is_snapshot_gone() || stale_until.is_some_and(|until| Instant::now() < until) {
            return Err(ReadError::Stale);
        }
        let refused = patience.refuses(&availability.borrow_and_update(), Instant::now());
        let Some(why) = refused else { return Ok(()) };
        if self.may_probe() {
            // An origin that is only looked for when somebody asks would never be found again.
            self.demand(inode, range.clone())?;
        }
        Err(ReadError::Gone(why))
    }

    async fn wait_on(
        &self,
        waiting: Waiting,
        mut patience: Patience,
        mut availability: watch::Receiver<Availability>,
    ) -> Result<Vec<Source>, ReadError> {
        loop {
            let news = waiting.inode.lock().waiters.news(waiting.id);
            match news {
                News::Here(sources) => return Ok(sources),
                News::Failed(Failure::Final(error)) => return Err(error),
                News::Failed(Failure::Again) => self.demand(&waiting.inode, waiting.range.clone())?,
                News::Failed(Failure::Broken(why)) => {
                    if patience.is_at_end() {
                        return Err(ReadError::Gone(why));
                    }
                    waiting.pause(&mut patience, &mut availability, ReadError::Gone(why)).await?;
                    self.demand(&waiting.inode, waiting.range.clone())?;
                }
                News::Failed(Failure::Busy(why)) => {
                    waiting.pause(&mut patience, &mut availability, ReadError::Busy(why)).await?;
                    self.demand(&waiting.inode, waiting.range.clone())?;
                }
                News::NothingSince(progress) => {
                    waiting.news(&patience, &mut availability, progress).await?;
                }
            }
        }
    }
}

impl From<ReadError> for NotRead {
    fn from(error: ReadError) -> Self {
        Self::Failed(error)
    }
}

/// A registered waiter; dropping it gives the wait up.
struct Waiting {
    inode: Arc<Inode>,
    id: u64,
    range: Range<u64>,
    wake: Arc<Notify>,
}

impl Waiting {
    fn register(inode: &Arc<Inode>, range: Range<u64>) -> Self {
        let wake = Arc::new(Notify::new());
        let id = inode.wait_for(&mut inode.lock(), range.clone(), wake.clone());
        Self { inode: inode.clone(), id, range, wake }
    }

    /// Returns when there may be news; an error when the time is up, or waiting has no point any more.
    async fn news(
        &self,
        patience: &Patience,
        availability: &mut watch::Receiver<Availability>,
        progress: Instant,
    ) -> Result<(), ReadError> {
        let deadline = patience.deadline(progress, &availability.borrow());
        if deadline.is_some_and(|deadline| deadline <= Instant::now()) {
            return Err(late(availability));
        }
        let unhurried = self.inode.lock().unhurried_asks(self.range.clone());
        tokio::select! {
            biased;
            () = self.wake.notified() => Ok(()),
            Ok(()) = availability.changed() => gone_by_now(patience, availability),
            () = tokio::time::sleep(HURRY_AFTER), if !unhurried.is_empty() => {
                self.hurry(&unhurried);
                Ok(())
            }
            // Something may have come meanwhile: the caller looks again.
            () = until(deadline) => Ok(()),
        }
    }

    /// Gives up asks that have brought nothing since they were looked at, so that their blocks are asked for urgently.
    fn hurry(&self, asks: &[(Arc<Ask>, u64)]) {
        let mut blocks = self.inode.lock();
        for (ask, next) in asks {
            if ask.next() == *next {
                blocks.fail(ask, &Failure::Again);
                ask.give_up();
            }
        }
    }

    /// Waits before asking again: not at all at first, and no longer than until the origin is back. `at_end` is the
    /// error when the time is up.
    async fn pause(
        &self,
        patience: &mut Patience,
        availability: &mut watch::Receiver<Availability>,
        at_end: ReadError,
    ) -> Result<(), ReadError> {
        let now = Instant::now();
        let mut end = now + patience.pause();
        let progress = self.inode.lock().waiters.progress(self.id).unwrap_or(now);
        loop {
            gone_by_now(patience, availability)?;
            let deadline = patience.deadline(progress, &availability.borrow());
            tokio::select! {
                biased;
                () = tokio::time::sleep_until(end) => return Ok(()),
                Ok(()) = availability.changed() => {
                    if *availability.borrow() == Availability::Reachable {
                        // Not at once: an origin that comes and goes must not be asked in a tight loop.
                        end = end.min(Instant::now() + PAUSE_MIN);
                    }
                }
                () = until(deadline) => return Err(at_end),
            }
        }
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.inode.lock().waiters.forget(self.id);
    }
}

fn gone_by_now(
    patience: &Patience,
    availability: &mut watch::Receiver<Availability>,
) -> Result<(), ReadError> {
    match patience.refuses(&availability.borrow_and_update(), Instant::now()) {
        Some(why) => Err(ReadError::Gone(why)),
        None => Ok(()),
    }
}

fn late(availability: &watch::Receiver<Availability>) -> ReadError {
    ReadError::Gone(match &*availability.borrow() {
        Availability::Gone { why, .. } => why.clone(),
        Availability::Reachable => "it did not answer in time".into(),
    })
}

async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

/// Puts the bytes of `span` together; `read` reads from the disk.
fn gather<E>(plan: &Plan, span: Span, read: impl Fn(&mut [u8], u64) -> Result<(), E>) -> Result<Bytes, E> {
    let sources = match plan {
        Plan::Here(sources) => sources.as_slice(),
        Plan::Disk | Plan::Missing | Plan::Lost => &[],
    };
    if let [Source::Memory(bytes)] = sources {
        let start = (span.offset - BlockIndex::containing(span.offset).offset()) as usize;
        if start + span.length as usize <= bytes.len() {
            return Ok(bytes.slice(start..start + span.length as usize));
        }
    }
    let mut out = vec![0; span.length as usize];
    if sources.is_empty() {
        read(&mut out, span.offset)?;
        return Ok(out.into());
    }
    for (block, source) in span.blocks().zip(sources) {
        let from = BlockIndex(block).offset().max(span.offset);
        let to = BlockIndex(block + 1).offset().min(span.offset + span.length);
        let part = &mut out[(from - span.offset) as usize..(to - span.offset) as usize];
        match source {
            Source::Disk => read(part, from)?,
            Source::Hole => {}
            Source::Memory(bytes) => {
                let start = (from - BlockIndex(block).offset()) as usize;
                let here = bytes.len().saturating_sub(start).min(part.len());
                part[..here].copy_from_slice(bytes.get(start..start + here).unwrap_or_default());
                if here < part.len() {
                    // The origin's file ends inside the block, this one does not.
                    read(&mut part[here..], from + here as u64)?;
                }
            }
        }
    }
    Ok(out.into())
}
