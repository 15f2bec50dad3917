//! Fetches everything that is missing, in the background, until nothing is.
//!
//! It goes through the manifest in passes: small files before large ones, since most programs need many of them, and of
//! both those first that changed lately, since they are the likeliest to change again before they are here. It asks only while the [scheduler](super::scheduler) has
//! room, for blocks that are neither here nor coming, and never for what somebody waits for. What a pass could not have
//! (the peer left, a file changed, the disk is full) the next one asks for again.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, SystemTime};

use super::engine::Engine;
use super::inode::is_ours;
use super::inodes::Marks;
use super::ledger::Ledger;
use super::scheduler::{Order, REQUEST_BYTES_MAX, SMALL_BYTES_MAX};
use crate::digest::{BLOCK_BYTES, block_count};
use crate::manifest::{Arrival, Entry, EntryIndex, Kind};
use crate::origin::{Availability, FILES_PER_REQUEST_MAX, RANGES_PER_REQUEST_MAX};

/// A pass that left something is followed by the next one after so long, or as soon as the origin is back.
const NEXT_PASS: Duration = Duration::from_secs(15);

/// How often a disk without room is looked at again.
const DISK_AGAIN: Duration = Duration::from_secs(5);

/// What is left free on the disk for its user's own writes, or a twentieth of the disk, whichever is less.
const FREE_BYTES_MIN: u64 = 1 << 30;

/// A file that changed so long before is likely to change again.
const LATELY: Duration = Duration::from_secs(24 * 60 * 60);

/// Which files a part of a pass is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Part {
    is_small: bool,
    changed_lately: bool,
}

const PARTS: [Part; 4] = [
    Part { is_small: true, changed_lately: true },
    Part { is_small: true, changed_lately: false },
    Part { is_small: false, changed_lately: true },
    Part { is_small: false, changed_lately: false },
];

/// Where a pass is.
#[derive(Debug)]
struct Cursor {
    part: usize,
    entry: u32,
    block: u64,
    /// Files that changed after this moment changed lately, in seconds since 1970.
    lately_sec: i64,
    /// Found, and not fit for the last bundle.
    over: Option<Bundle>,
    /// The files that are wanted, unless all are.
    only: Option<Arc<Marks>>,
}

/// Orders of one request: small files that are missing as a whole, or ranges. What is not sent is missing again when
/// it is dropped.
#[derive(Debug)]
pub(super) struct Bundle {
    engine: Arc<Engine>,
    orders: Vec<Order>,
    bytes: u64,
    ranges: usize,
}

/// Runs until everything is here, or the replica is closed.
pub(super) async fn run(engine: Arc<Engine>) {
    let mut closing = engine.closing();
    tokio::select! {
        _ = closing.wait_for(|closing| *closing) => {}
        () = hydrate(&engine) => {}
    }
}

async fn hydrate(engine: &Arc<Engine>) {
    let mut arrival = engine.manifest.arrival();
    let arrived = arrival.wait_for(|arrival| !matches!(arrival, Arrival::Listed(_))).await;
    if !arrived.is_ok_and(|arrival| *arrival == Arrival::Complete) {
        return;
    }
    while !pass(engine, None).await {
        tracing::debug!("a pass over the files has left some");
        let mut availability = engine.origin.availability();
        let back = availability.wait_for(|now| *now == Availability::Reachable);
        if engine.is_reachable() {
            tokio::select! {
                () = tokio::time::sleep(NEXT_PASS) => {}
                () = engine.anew.none_waits.notified() => {}
            }
        } else {
            // Without a sender nobody brings it back; the next pass finds out.
            drop(back.await);
        }
    }
    engine.counters.hydrated.send_replace(true);
}

/// Asks once for everything that is missing, of these files or of all; true when nothing was, or is any more. Cancel
/// safe.
pub(super) async fn pass(engine: &Arc<Engine>, only: Option<&Arc<Marks>>) -> bool {
    let mut cursor = Some(Cursor::new(only.cloned()));
    while let Some(at) = cursor {
        room(engine).await;
        let finding = engine.clone();
        let found = tokio::task::spawn_blocking(move || find(&finding, at)).await;
        // It neither panics nor is aborted, except with the runtime itself.
        let Ok((mut bundle, next)) = found else { return false };
        cursor = next;
        while let Err(again) = engine.scheduler.bulk(bundle) {
            bundle = again;
            room(engine).await;
        }
    }
    engine.bulk_ended().await;
    let (looking, only) = (engine.clone(), only.cloned());
    tokio::task::spawn_blocking(move || are_here(&looking, only.as_deref())).await.unwrap_or(false)
}

/// True when the disk has kept everything. Blocks for as long as it takes to write it back.
pub(super) fn is_all_here(engine: &Arc<Engine>) -> bool {
    are_here(engine, None)
}

fn are_here(engine: &Arc<Engine>, only: Option<&Marks>) -> bool {
    engine.flusher.ask(engine);
    let ledger = engine.ledger();
    let is_wanted = |file: &Entry<'_>| only.is_none_or(|only| only.is_set(file.index()));
    let is_here =
        |file: Entry<'_>| !is_wanted(&file) || ledger.is_complete(file.index()) || !is_content(engine, &file);
    // What the disk turned out to have lost meanwhile is missing again.
    engine.manifest.iter().all(is_here) && engine.generation() == ledger.generation
}

/// True for the first name of a file whose blocks are wanted: it has some, nothing else is shown in their place, and it
/// was not removed.
pub(super) fn is_content(engine: &Engine, entry: &Entry<'_>) -> bool {
    entry.kind() == Kind::File
        && entry.inode() == entry.index()
        && entry.size() > 0
        && !engine.is_forgotten(entry.index())
        && !engine.anew.replaced.is_set(entry.index())
        && !is_ours(&engine.manifest, entry)
}

/// Waits until the origin answers, the disk has room, and so has the budget.
pub(super) async fn room(engine: &Arc<Engine>) {
    loop {
        let changed = engine.changed_soon();
        if !engine.is_reachable() {
            let mut availability = engine.origin.availability();
            if availability.wait_for(|now| *now == Availability::Reachable).await.is_err() {
                std::future::pending::<()>().await;
            }
            continue;
        }
        let short_of = short_of_space(engine);
        engine.counters.short_of_space.store(short_of.unwrap_or(0), Relaxed);
        if engine.writer.refusal().is_some() || short_of.is_some() {
            tokio::time::sleep(DISK_AGAIN).await;
            // What the disk refused is only tried again with the next block: so one is asked for.
            if short_of_space(engine).is_none() {
                engine.counters.short_of_space.store(0, Relaxed);
                return;
            }
            continue;
        }
        if engine.scheduler.has_room_for_bulk() {
            return;
        }
        changed.await;
    }
}

/// How much is left free on the disk, where no more is.
fn short_of_space(engine: &Engine) -> Option<u64> {
    // A filesystem that does not say is taken to have room: writing finds out.
    let space = rustix::fs::fstatvfs(engine.store.layout.directory()).ok()?;
    let (free, all) = (space.f_bavail * space.f_frsize, space.f_blocks * space.f_frsize);
    let left_free = FREE_BYTES_MIN.min(all / 20);
    (free <= left_free).then_some(left_free)
}

impl Bundle {
    fn new(engine: &Arc<Engine>) -> Self {
        Self { engine: engine.clone(), orders: Vec::new(), bytes: 0, ranges: 0 }
    }

    /// True when its files travel whole.
    pub(super) fn whole_files(&self) -> bool {
        self.orders.first().is_some_and(Order::is_whole_small_file)
    }

    /// Bytes of all orders.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Parts with its orders, to send them.
    pub(super) fn take(&mut self) -> Vec<Order> {
        std::mem::take(&mut self.orders)
    }

    fn has_room_for(&self, order: &Order) -> bool {
        self.orders.is_empty()
            || (self.whole_files() == order.is_whole_small_file()
                && self.orders.len() < FILES_PER_REQUEST_MAX
                && self.ranges + order.ranges.len() <= RANGES_PER_REQUEST_MAX
                && self.bytes + order.bytes() <= REQUEST_BYTES_MAX)
    }

    fn push(&mut self, order: Order) {
        self.bytes += order.bytes();
        self.ranges += order.ranges.len();
        self.orders.push(order);
    }
}

impl Drop for Bundle {
    fn drop(&mut self) {
        self.engine.take_back(&self.orders);
    }
}

impl Cursor {
    fn new(only: Option<Arc<Marks>>) -> Self {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let lately_sec = now.saturating_sub(LATELY).as_secs() as i64;
        Self { part: 0, entry: 0, block: 0, lately_sec, over: None, only }
    }

    /// The part a file belongs to.
    fn part_of(&self, entry: &Entry<'_>) -> Part {
        Part {
            is_small: entry.size() <= SMALL_BYTES_MAX,
            changed_lately: entry.mtime().sec > self.lately_sec,
        }
    }

    /// The next file of which something may be missing, and the blocks of it to look at.
    fn next(&mut self, engine: &Engine, ledger: &Ledger) -> Option<(EntryIndex, Range<u64>)> {
        loop {
            let part = PARTS.get(self.part)?;
            let Some(entry) = engine.manifest.entry(EntryIndex(self.entry)) else {
                (self.part, self.entry, self.block) = (self.part + 1, 0, 0);
                continue;
            };
            let wanted = self.only.as_ref().is_none_or(|only| only.is_set(entry.index()))
                && self.part_of(&entry) == *part
                && !ledger.is_complete(entry.index())
                && is_content(engine, &entry);
            let (from, end) = (self.block, block_count(entry.size()));
            let to = end.min(from + REQUEST_BYTES_MAX / BLOCK_BYTES);
            if !wanted || to == end {
                (self.entry, self.block) = (self.entry + 1, 0);
            } else {
                self.block = to;
            }
            if wanted {
                return Some((entry.index(), from..to));
            }
        }
    }
}

/// The next request of a pass, and where it goes on; `None` at its end. Blocks on the disk: files that were begun are
/// looked at.
fn find(engine: &Arc<Engine>, mut at: Cursor) -> (Bundle, Option<Cursor>) {
    let mut bundle = at.over.take().unwrap_or_else(|| Bundle::new(engine));
    let ledger = engine.ledger();
    while let Some((file, blocks)) = at.next(engine, &ledger) {
        let Some(order) = engine.missing_of(file, blocks) else { continue };
        if bundle.has_room_for(&order) {
            bundle.push(order);
            continue;
        }
        let mut over = Bundle::new(engine);
        over.push(order);
        at.over = Some(over);
        return (bundle, Some(at));
    }
    (bundle, None)
}
