//! What the parts of a replica share, and the steps that need several of them.

use std::ops::Range;
use std::sync::atomic::{
    AtomicU64,
    Ordering::{Acquire, Relaxed, Release},
};
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use rustix::io::Errno;
use tokio::runtime::Handle;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use super::anew::Anew;
use super::ask::Ask;
use super::block_set::BlockSet;
use super::blocks::Blocks;
use super::cache::Cached;
use super::census;
use super::counters::Counters;
use super::flusher::{Content, Flusher, SyncDisk, Write};
use super::inode::{Failure, Inode};
use super::inodes::{Descriptors, Inodes, Marks};
use super::key::InodeKey;
use super::ledger::Ledger;
use super::losing::Losing;
use super::places::Places;
use super::reads::Reads;
use super::scheduler::{Limits, Order, SMALL_BYTES_MAX, Scheduler};
use super::state::{self, Stated};
use super::store::{Store, StoreError, punch};
use super::uses;
use super::writer::Writer;
use super::{ReadError, WhenGone, lock};
use crate::digest::block_count;
use crate::digest_file::DigestFile;
use crate::manifest::{EntryIndex, Kind, Manifest};
use crate::origin::{Availability, Class, Origin, RANGES_PER_REQUEST_MAX};

/// How long the origin's word that it no longer has something is taken for granted. Then it is asked again: a file
/// may have been put back.
const STALE_FOR: Duration = Duration::from_secs(5);

/// How often an origin that has been gone for long is asked nevertheless, by a read that does not wait for the answer.
const PROBE_EVERY: Duration = Duration::from_secs(1);

/// The parts of a replica.
///
/// Lock order: the cache's `evicting`, that of [`Losing`], the flusher's `asking`, `losing`, an inode's `data`, the
/// table of [`Inodes`], an inode's `blocks`, then the scheduler's, the writer's, the flusher's `state`, the ledger's, the
/// counters' and the reads', which are leaves. None is held across an `.await`, and of no two inodes is the same one
/// held, but by whoever evicts a file that several editions have, alone among them, and never waiting for a `data`. So the
/// disk is never asked for what it lost while a file's `data` is held.
#[derive(Debug)]
pub(super) struct Engine {
    pub(super) manifest: Manifest,
    pub(super) origin: Arc<dyn Origin>,
    pub(super) runtime: Handle,
    pub(super) when_gone: WhenGone,
    pub(super) store: Arc<Store>,
    pub(super) places: Box<dyn Places>,
    pub(super) digests: DigestFile,
    pub(super) inodes: Inodes,
    pub(super) descriptors: Descriptors,
    pub(super) scheduler: Scheduler,
    pub(super) writer: Writer,
    pub(super) flusher: Flusher,
    pub(super) counters: Counters,
    pub(super) reads: Reads,
    pub(super) started: Instant,
    /// What is believed about the disk.
    ledger: Mutex<Arc<Ledger>>,
    /// The generation of `ledger`.
    generation: AtomicU64,
    /// Locked while what the disk lost is removed from it.
    pub(super) losing: Arc<Losing>,
    /// Inodes whose files hold what the disk lost and could not be removed: nothing in them is content.
    pub(super) distrusted: Marks,
    /// Inodes that have lost all their names, and are no longer open.
    forgotten: Marks,
    /// Inodes that are listed as stale.
    stale: Marks,
    /// Files that changed at the origin and are taken anew; of a replica that can be changed alone.
    pub(super) anew: Anew,
    /// What makes its content a part of a cache: of a view alone.
    pub(super) cached: Option<Cached>,
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
    pub(super) store: Arc<Store>,
    pub(super) places: Box<dyn Places>,
    pub(super) digests: DigestFile,
    pub(super) anew: Anew,
    pub(super) cached: Option<Cached>,
    pub(super) memory_bytes_max: u64,
    pub(super) descriptors_max: usize,
    pub(super) sync: SyncDisk,
}

impl Engine {
    pub(super) fn new(parts: Parts) -> Arc<Self> {
        let entries = parts.manifest.entries();
        let losing =
            parts.store.layout.in_view().map(|view| view.view().losing().clone()).unwrap_or_default();
        let engine = Arc::new_cyclic(|engine: &Weak<Self>| Self {
            manifest: parts.manifest,
            origin: parts.origin,
            runtime: parts.runtime,
            when_gone: parts.when_gone,
            store: parts.store,
            places: parts.places,
            digests: parts.digests,
            inodes: Inodes::default(),
            descriptors: Descriptors::new(parts.descriptors_max),
            scheduler: Scheduler::new(engine.clone(), Limits { bytes_max: parts.memory_bytes_max }),
            writer: Writer::new(engine.clone()),
            flusher: Flusher::new(engine.clone(), parts.sync),
            counters: Counters::default(),
            reads: Reads::default(),
            started: Instant::now(),
            ledger: Mutex::new(Arc::new(Ledger::new(entries))),
            generation: AtomicU64::new(0),
            losing,
            distrusted: Marks::new(entries),
            forgotten: Marks::new(entries),
            stale: Marks::new(entries),
            anew: parts.anew,
            cached: parts.cached,
            snapshot_gone_until: Mutex::new(None),
            probed_ms: AtomicU64::new(0),
            closing: watch::Sender::new(false),
            changed: Notify::new(),
        });
        engine.losing.add(&engine);
        engine
    }

    /// The inode with this key; `None` when there is no such file.
    pub(super) fn inode(&self, key: InodeKey) -> Option<Arc<Inode>> {
        self.inodes.bring(&self.manifest, self.canonical(key)?)
    }

    /// The one key of a file that has several names.
    pub(super) fn canonical(&self, key: InodeKey) -> Option<InodeKey> {
        let InodeKey::Entry(index) = key else { return Some(key) };
        let entry = self.manifest.entry(index).filter(|entry| entry.kind() == Kind::File)?;
        Some(entry.inode().into())
    }

    /// What is believed about the disk.
    pub(super) fn ledger(&self) -> Arc<Ledger> {
        lock(&self.ledger).clone()
    }

    /// The ledger's generation: what was loaded in an earlier one must be loaded again.
    pub(super) fn generation(&self) -> u64 {
        self.generation.load(Acquire)
    }

    /// The disk has lost some of `writes`, which it had taken: none of them is believed any more. Blocks.
    pub(super) fn disk_lost(self: &Arc<Self>, writes: &[Write], errno: Errno) {
        self.counters
            .error(format!("the disk lost what had been written: {errno}; it is fetched again when needed"));
        let believers = self.losing.all();
        let losing = self.losing.lock();
        // Before anything is punched out: whoever reads zeros there learns afterwards that they are not content.
        believers.iter().for_each(|engine| engine.doubt());
        let mut writes = writes.to_vec();
        writes.sort_by_key(|write| write.inode);
        for writes in writes.chunk_by(|one, other| one.inode == other.inode) {
            self.punch_out(writes);
        }
        drop(losing);
        for engine in believers {
            engine.runtime.spawn(census::run(engine.clone()));
        }
    }

    /// Nothing that was loaded is believed any more.
    fn doubt(&self) {
        let mut ledger = lock(&self.ledger);
        *ledger = Arc::new(ledger.next(self.manifest.entries()));
        self.generation.store(ledger.generation, Release);
    }

    /// Nothing in the file of an inode is content, for whoever has it.
    fn distrust(&self, index: EntryIndex) {
        self.distrusted.set(index);
        let Some(number) = self.store.numbers.as_ref().and_then(|numbers| numbers.number(index)) else {
            return;
        };
        for other in self.losing.all() {
            let numbers = other.store.numbers.as_ref();
            if let Some(index) = numbers.and_then(|numbers| numbers.entry(number)) {
                other.distrusted.set(index);
            }
        }
    }

    /// Makes holes where fetched content of one inode went. What was written here cannot be fetched: it is left as it
    /// is, and whoever synchronises the file next is told.
    fn punch_out(&self, writes: &[Write]) {
        let Some(index) = writes.first().map(|write| write.inode) else { return };
        let inode = self.inode(index.into()).filter(|_| !self.is_forgotten(index));
        let Some(inode) = inode else { return };
        if let Err(error) = self.punch_out_of(&inode, writes) {
            self.distrust(index);
            self.report(&inode, &format!("what the disk lost cannot be removed: {error}"));
        }
    }

    fn punch_out_of(&self, inode: &Arc<Inode>, writes: &[Write]) -> Result<(), StoreError> {
        let _data = lock(&inode.data);
        let mut local = BlockSet::empty(block_count(inode.origin_bytes));
        let since = self.flusher.written_here(inode.index);
        let written_here = writes.iter().filter(|write| write.origin == Content::Local);
        let ranges: Vec<_> = written_here.map(|write| write.blocks.clone()).chain(since).collect();
        for range in &ranges {
            local.insert(range.clone());
        }
        if !ranges.is_empty() {
            inode.lock().doubt(inode, ranges);
            self.report(inode, "the disk may have lost what was written to it here");
        }
        let Some(file) = self.file(inode)? else { return Ok(()) };
        // An ordinary file became one after all of it was safe, or after it was emptied.
        let Stated::Unfinished(state) = state::get(&file)? else { return Ok(()) };
        let end = block_count(state.remote_bytes.min(inode.remote()));
        for fetched in writes.iter().filter(|write| write.origin == Content::Fetched) {
            for block in fetched.blocks.start..fetched.blocks.end.min(end) {
                if !local.contains(block) {
                    punch(&file, &(block..block + 1))?;
                }
            }
        }
        Ok(())
    }

    /// Fetched blocks have been written. The inode's `data` is held; [`Flusher::ask_if_full`] is due when it no longer is.
    pub(super) fn blocks_stored(&self, inode: &Inode, range: Range<u64>) {
        inode.lock().stored(inode, range.clone());
        if let Some(cached) = &self.cached {
            cached.uses.found(inode.index, uses::now());
            inode.use_saved.store(uses::now(), Relaxed);
        }
        self.flusher.wrote(Write { inode: inode.index, blocks: range, origin: Content::Fetched });
    }

    /// The file that has lost its last name, and that nobody has open, is gone for good.
    pub(super) fn forget(&self, inode: &Arc<Inode>) {
        let file = {
            let mut blocks = inode.lock();
            blocks.forgotten(inode);
            blocks.file.take()
        };
        self.inodes.remove(inode);
        drop(file);
        if inode.key.entry().is_some() && self.forgotten.set(inode.index) {
            // A ledger that takes its place meanwhile would not know of it.
            lock(&self.ledger).add_forgotten(inode.share_removed());
        }
    }

    /// True for a file of the manifest that was removed: nothing of it is wanted any more.
    pub(super) fn is_forgotten(&self, index: EntryIndex) -> bool {
        self.forgotten.is_set(index)
    }

    /// Asks, urgently, for what is missing of `range`; of a small file for all that is missing.
    pub(super) fn demand(&self, inode: &Arc<Inode>, range: Range<u64>) -> Result<(), ReadError> {
        let order = {
            let mut blocks = inode.lock();
            for slow in blocks.too_slow_for(range.clone()) {
                if slow.is_bulk() {
                    blocks.take_over(&slow, range.clone());
                } else {
                    blocks.fail(&slow, &Failure::Again);
                    slow.give_up();
                }
            }
            let whole =
                inode.origin_bytes <= SMALL_BYTES_MAX && !inode.missing(&blocks, range.clone()).is_empty();
            let wanted = if whole { 0..inode.remote_blocks() } else { range };
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
        if blocks.is_complete() || inode.origin_bytes <= SMALL_BYTES_MAX {
            return None;
        }
        let ahead = blocks.sequence.note(range, inode.remote_blocks())?;
        if self.writer.refusal().is_some() || !self.is_reachable() {
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

    /// Asks, without hurry, for what is missing of `range`. Blocks: the file's extent map may have to be read.
    pub(super) fn missing_of(&self, file: EntryIndex, range: Range<u64>) -> Option<Order> {
        let inode = self.inode(file.into())?;
        // A file that cannot be looked at says so when it is read.
        self.load(&inode).ok()?;
        let range = range.start..range.end.min(inode.remote_blocks());
        Self::order(&inode, &mut inode.lock(), range, Class::Bulk)
    }

    /// What was asked for is not asked for after all.
    pub(super) fn take_back(&self, orders: &[Order]) {
        orders.iter().for_each(|order| self.fail(order, &Failure::Again));
    }

    fn fail(&self, order: &Order, failure: &Failure) {
        order.inode.lock().fail(&order.ask, failure);
    }

    pub(super) fn is_reachable(&self) -> bool {
        *self.origin.availability().borrow() == Availability::Reachable
    }

    /// The origin said that a file is no longer what the snapshot names.
    pub(super) fn file_is_stale(&self, inode: &Inode) {
        inode.lock().stale_until = Some(Instant::now() + STALE_FOR);
        let is_wanted = inode.key.entry().is_some() && !inode.is_removed.load(Relaxed);
        if self.places.is_writable(inode.key) {
            if is_wanted && self.anew.add(inode.index) {
                tracing::debug!(
                    path = self.path(inode.index),
                    "the file changed at the origin before it was here"
                );
            }
            return;
        }
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
    pub(super) fn path(&self, index: EntryIndex) -> String {
        match self.manifest.locate(index) {
            Some((EntryIndex(0), path)) => path.to_string(),
            Some((root, path)) => format!("companion {}: {path}", root.0),
            None => "a file made here".into(),
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

    /// The next change; what changed before this call is not it.
    pub(super) fn changed_soon(&self) -> tokio::sync::futures::Notified<'_> {
        self.changed.notified()
    }

    /// Returns when no request is outstanding for which nobody waits, and what came is on the disk or was refused.
    pub(super) async fn bulk_ended(&self) {
        self.until(|| self.scheduler.is_bulk_idle() && self.writer.is_idle()).await;
    }

    /// Returns when nothing is on its way and everything that arrived has been written, or refused by the disk.
    pub(super) async fn idle(&self) {
        self.until(|| self.scheduler.is_idle() && self.writer.is_idle()).await;
    }

    /// Returns when `is_so` holds, looking again after each change.
    async fn until(&self, is_so: impl Fn() -> bool) {
        loop {
            let changed = self.changed_soon();
            if is_so() {
                return;
            }
            changed.await;
        }
    }
}
