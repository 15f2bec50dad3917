//! What the parts of a replica share, and the steps that need several of them.

use std::fs::File;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use super::ask::Ask;
use super::block_set::BlockSet;
use super::counters::Counters;
use super::inode::{Blocks, Failure, Inode};
use super::inodes::{Descriptors, Inodes, Marks};
use super::scheduler::{Limits, Order, SMALL_BYTES_MAX, Scheduler};
use super::store::{Found, Store, StoreError};
use super::writer::Writer;
use super::{ReadError, WhenGone, lock};
use crate::digest_file::DigestFile;
use crate::manifest::{EntryIndex, Manifest};
use crate::origin::{Availability, Class, Origin, RANGES_PER_REQUEST_MAX};

/// How long the origin's word that it no longer has something is taken for granted. Then it is asked again: a file
/// may have been put back.
const STALE_FOR: Duration = Duration::from_secs(5);

/// How often an origin that has been gone for long is asked nevertheless, by a read that does not wait for the answer.
const PROBE_EVERY: Duration = Duration::from_secs(1);

/// The parts of a replica.
///
/// Lock order: the table of [`Inodes`], an inode's `disk`, an inode's `blocks`, then the scheduler's, the writer's and
/// the counters', which are leaves. None is held across an `.await`.
#[derive(Debug)]
pub(super) struct Engine {
    pub(super) manifest: Manifest,
    pub(super) origin: Arc<dyn Origin>,
    pub(super) runtime: Handle,
    pub(super) when_gone: WhenGone,
    pub(super) store: Store,
    pub(super) digests: DigestFile,
    pub(super) inodes: Inodes,
    pub(super) descriptors: Descriptors,
    pub(super) scheduler: Scheduler,
    pub(super) writer: Writer,
    pub(super) counters: Counters,
    pub(super) started: Instant,
    /// Inodes known to be complete since the replica was opened: their extent maps need not be read again.
    complete: Marks,
    /// Inodes whose blocks on the disk are in the tallies.
    counted: Marks,
    /// Inodes that are listed as stale.
    stale: Marks,
    snapshot_gone_until: Mutex<Option<Instant>>,
    /// The last probe, in ms since `started`.
    probed_ms: AtomicU64,
    closing: watch::Sender<bool>,
    /// Notified when a request has ended or the writer has nothing left.
    changed: Notify,
}

/// What an engine is made of.
pub(super) struct Parts {
    pub(super) manifest: Manifest,
    pub(super) origin: Arc<dyn Origin>,
    pub(super) runtime: Handle,
    pub(super) when_gone: WhenGone,
    pub(super) store: Store,
    pub(super) digests: DigestFile,
    pub(super) memory_bytes_max: u64,
    pub(super) descriptors_max: usize,
}

impl Engine {
    pub(super) fn new(parts: Parts) -> Arc<Self> {
        let entries = parts.manifest.entries();
        Arc::new_cyclic(|engine: &Weak<Self>| Self {
            manifest: parts.manifest,
            origin: parts.origin,
            runtime: parts.runtime,
            when_gone: parts.when_gone,
            store: parts.store,
            digests: parts.digests,
            inodes: Inodes::default(),
            descriptors: Descriptors::new(parts.descriptors_max),
            scheduler: Scheduler::new(engine.clone(), Limits { bytes_max: parts.memory_bytes_max }),
            writer: Writer::new(engine.clone()),
            counters: Counters::default(),
            started: Instant::now(),
            complete: Marks::new(entries),
            counted: Marks::new(entries),
            stale: Marks::new(entries),
            snapshot_gone_until: Mutex::new(None),
            probed_ms: AtomicU64::new(0),
            closing: watch::Sender::new(false),
            changed: Notify::new(),
        })
    }

    /// The inode whose first name is `index`; `None` when there is no such file.
    pub(super) fn inode(&self, index: EntryIndex) -> Option<Arc<Inode>> {
        self.inodes.bring(&self.manifest, index)
    }

    /// Reads an inode's extent map, unless that has been done. Blocks; must come before anything else is done with
    /// its blocks.
    pub(super) fn load(&self, inode: &Arc<Inode>) -> Result<(), StoreError> {
        let _disk = lock(&inode.disk);
        if inode.lock().is_loaded() {
            return Ok(());
        }
        let blocks = inode.block_count();
        let entry = self.manifest.entry(inode.index).ok_or(rustix::io::Errno::STALE)?;
        let (file, present) = if self.complete.is_set(inode.index) && inode.hole_blocks == 0 {
            (self.store.open(&self.manifest, &entry)?, BlockSet::full(blocks))
        } else {
            match self.store.find(&self.manifest, &entry)? {
                Some(Found { file, present }) => (Some(file), present),
                None => (None, BlockSet::empty(blocks)),
            }
        };
        if let Some(file) = file {
            self.descriptors.open(inode, file);
        }
        inode.lock().load(present);
        self.count_loaded(inode);
        Ok(())
    }

    fn count_loaded(&self, inode: &Inode) {
        let mut blocks = inode.lock();
        let became = blocks.becomes_complete(inode);
        if became {
            self.complete.set(inode.index);
        }
        let first = self.counted.set(inode.index);
        let present = blocks.present(inode.size);
        if first && present.0 > 0 {
            self.counters.blocks.resident.fetch_add(present.0, Relaxed);
            self.counters.bytes.resident.fetch_add(present.1, Relaxed);
            self.counters.files.resident.fetch_add(became.into(), Relaxed);
        }
    }

    /// The inode's file, opened if need be; `None` when it is not there. Blocks.
    pub(super) fn file(&self, inode: &Arc<Inode>) -> Result<Option<Arc<File>>, StoreError> {
        inode.file_used.store(true, Relaxed);
        if let Some(file) = &inode.lock().file {
            return Ok(Some(file.clone()));
        }
        let entry = self.manifest.entry(inode.index).ok_or(rustix::io::Errno::STALE)?;
        let file = self.store.open(&self.manifest, &entry)?;
        Ok(file.map(|file| self.descriptors.open(inode, file)))
    }

    /// The inode's file, made if need be. Blocks.
    pub(super) fn file_for_writing(&self, inode: &Arc<Inode>) -> Result<Arc<File>, StoreError> {
        let _disk = lock(&inode.disk);
        if let Some(file) = self.file(inode)? {
            return Ok(file);
        }
        let entry = self.manifest.entry(inode.index).ok_or(rustix::io::Errno::STALE)?;
        let file = self.store.make(&self.manifest, &entry)?;
        Ok(self.descriptors.open(inode, file))
    }

    /// Held blocks have been written.
    pub(super) fn blocks_stored(&self, inode: &Inode, range: Range<u64>) {
        let bytes = inode.bytes_of(&range);
        let (new, became) = {
            let mut blocks = inode.lock();
            let new = blocks.stored(range);
            (new, blocks.becomes_complete(inode))
        };
        if became {
            self.complete.set(inode.index);
            self.counters.files.resident.fetch_add(1, Relaxed);
        }
        // A job's blocks were all missing before.
        if new > 0 {
            self.counters.blocks.resident.fetch_add(new, Relaxed);
            self.counters.bytes.resident.fetch_add(bytes, Relaxed);
        }
    }

    /// Asks, urgently, for what is missing of `range`; of a small file for all that is missing.
    pub(super) fn demand(&self, inode: &Arc<Inode>, range: Range<u64>) -> Result<(), ReadError> {
        let order = {
            let mut blocks = inode.lock();
            for slow in blocks.too_slow_for(range.clone()) {
                blocks.fail(&slow, &Failure::Again);
                slow.give_up();
            }
            let whole = inode.size <= SMALL_BYTES_MAX && !inode.missing(&blocks, range.clone()).is_empty();
            let wanted = if whole { 0..inode.block_count() } else { range };
            Self::order(inode, &mut blocks, wanted, Class::Demand)
        };
        let Some(order) = order else { return Ok(()) };
        self.scheduler.demand(order).map_err(|order| {
            let why = "too many reads wait already, or the copy is being closed";
            self.fail(&order, &Failure::Broken(why.into()));
            ReadError::Gone(why.into())
        })
    }

    /// Asks for what is missing of `range`, as far as one request goes.
    fn order(inode: &Arc<Inode>, blocks: &mut Blocks, range: Range<u64>, class: Class) -> Option<Order> {
        let mut ranges = inode.missing(blocks, range);
        ranges.truncate(RANGES_PER_REQUEST_MAX);
        if ranges.is_empty() {
            return None;
        }
        let ask = Arc::new(Ask::new(class, &ranges));
        blocks.ask(&ranges, &ask);
        Some(Order { inode: inode.clone(), ask, ranges })
    }

    /// Notes that `range` was read, and reads ahead of it if that looks right.
    pub(super) fn read_on(
        &self,
        inode: &Arc<Inode>,
        blocks: &mut Blocks,
        range: Range<u64>,
    ) -> Option<Order> {
        if blocks.is_complete() || inode.size <= SMALL_BYTES_MAX {
            return None;
        }
        let ahead = blocks.sequence.note(range, inode.block_count())?;
        if self.writer.is_refused() || !self.is_reachable() {
            return None;
        }
        let room = self.scheduler.room_ahead(inode.bytes_of(&ahead));
        let end = ahead.end.min(ahead.start + room / crate::digest::BLOCK_BYTES);
        if end <= ahead.start {
            return None;
        }
        blocks.sequence.asked(end);
        Self::order(inode, blocks, ahead.start..end, Class::ReadAhead)
    }

    /// Sends what [`read_on`](Self::read_on) returned, once the inode's lock is free.
    pub(super) fn send_ahead(&self, order: Option<Order>) {
        if let Some(Err(order)) = order.map(|order| self.scheduler.ahead(order)) {
            self.fail(&order, &Failure::Again);
        }
    }

    fn fail(&self, order: &Order, failure: &Failure) {
        order.inode.lock().fail(&order.ask, failure);
    }

    fn is_reachable(&self) -> bool {
        *self.origin.availability().borrow() == Availability::Reachable
    }

    /// The origin said that a file is no longer what the snapshot names.
    pub(super) fn file_is_stale(&self, inode: &Inode) {
        inode.lock().stale_until = Some(Instant::now() + STALE_FOR);
        if self.stale.set(inode.index) {
            let path = self.path(inode.index);
            tracing::warn!(path, "the file changed at the origin before it was here");
            self.counters.stale(path);
        }
    }

    /// The origin said that it no longer serves the snapshot.
    pub(super) fn snapshot_is_gone(&self) {
        *lock(&self.snapshot_gone_until) = Some(Instant::now() + STALE_FOR);
        self.counters
            .error("the origin no longer serves this snapshot: what is not here will not come".into());
    }

    /// True while the origin's word holds that it no longer serves the snapshot.
    pub(super) fn is_snapshot_gone(&self) -> bool {
        lock(&self.snapshot_gone_until).is_some_and(|until| Instant::now() < until)
    }

    /// Lists and logs what went wrong with a file.
    pub(super) fn report(&self, inode: &Inode, what: &str) {
        self.counters.error(format!("{}: {what}", self.path(inode.index)));
    }

    /// The path of a file below its root, for people.
    fn path(&self, index: EntryIndex) -> String {
        match self.manifest.locate(index) {
            Some((EntryIndex(0), path)) => path.to_string(),
            Some((root, path)) => format!("companion {}: {path}", root.0),
            None => format!("entry {}", index.0),
        }
    }

    /// True when it is time to ask an origin that has been gone for long.
    pub(super) fn may_probe(&self) -> bool {
        let now = self.started.elapsed().as_millis() as u64;
        let last = self.probed_ms.load(Relaxed);
        let due = now.saturating_sub(last) >= PROBE_EVERY.as_millis() as u64;
        due && self.probed_ms.compare_exchange(last, now, Relaxed, Relaxed).is_ok()
    }

    /// True once the replica is being closed, and news of it.
    pub(super) fn closing(&self) -> watch::Receiver<bool> {
        self.closing.subscribe()
    }

    /// Ends all fetching. What has arrived is still written.
    pub(super) fn close(&self) {
        self.closing.send_replace(true);
        for order in self.scheduler.close() {
            self.fail(&order, &Failure::Broken("the copy is being closed".into()));
        }
    }

    /// A request has ended, or the writer has nothing left.
    pub(super) fn changed(&self) {
        self.changed.notify_waiters();
    }

    /// Returns when nothing is on its way and everything that arrived has been written, or refused by the disk.
    pub(super) async fn idle(&self) {
        loop {
            let changed = self.changed.notified();
            if self.scheduler.is_idle() && self.writer.is_idle() {
                return;
            }
            changed.await;
        }
    }
}
