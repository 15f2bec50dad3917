//! Which request goes out next, and how much may be on its way at once.
//!
//! Two queues of orders somebody waits for: files of up to 256 KiB, which travel whole and many to a request, and
//! ranges of larger ones. An order goes out at once while few requests are outstanding; those that had to queue
//! meanwhile leave together. Reading ahead never queues: it takes what room there is, or is left out. What nobody
//! waits for comes in [bundles](super::hydrate) of its own, and only while nobody queues.
//!
//! Every byte asked for is leased from one budget until it is on the disk, or dropped. So the bytes on their way, and
//! those that have arrived and wait for the disk, stay below [`Limits::bytes_max`] whatever the origin sends and
//! however slow the disk is.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::{Arc, Mutex, Weak};

use super::ask::Ask;
use super::engine::Engine;
use super::hydrate::Bundle;
use super::inode::Inode;
use super::lock;
use super::request;
use crate::digest::block_count;
use crate::origin::{Class, FILES_PER_REQUEST_MAX, RANGES_PER_REQUEST_MAX};

/// Files up to this size are fetched whole.
pub(super) const SMALL_BYTES_MAX: u64 = 256 * 1024;
/// Outstanding requests for small files: below it an order leaves at once, above it orders collect into bundles.
pub(super) const SMALL_REQUESTS_MAX: usize = 8;
/// Outstanding requests for ranges that somebody waits for.
pub(super) const RANGE_REQUESTS_MAX: usize = 64;
/// Outstanding requests that read ahead, over all files. An origin on a network serves as many side by side; one more
/// would only queue there, where whoever comes to wait for its blocks cannot overtake.
const AHEAD_REQUESTS_MAX: usize = 6;
/// Reading ahead waits until there is so much room, unless it wants less: with every block that reaches the disk a
/// little room becomes free, and a request for each would cost more than it fetches.
const AHEAD_BYTES_MIN: u64 = 2 * 1024 * 1024;
/// Bytes of one request that somebody waits for, unless a single order has more: what queues behind it should not
/// wait for long.
pub(super) const REQUEST_BYTES_MAX: u64 = 4 * 1024 * 1024;
/// Outstanding requests for which nobody waits: with [`REQUEST_BYTES_MAX`] each, more than a fast link holds, and
/// little beside what somebody waits for.
const BULK_REQUESTS_MAX: usize = 4;
/// Orders that wait to go out. A read that would need one more fails: readers have then given up thousands of waits
/// while the origin answered none of [`SMALL_REQUESTS_MAX`] and [`RANGE_REQUESTS_MAX`] requests.
pub(super) const ORDERS_MAX: usize = 4096;

/// What the scheduler keeps to.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// Bytes on their way or waiting for the disk.
    pub(super) bytes_max: u64,
}

impl Limits {
    /// Reading ahead leaves a quarter to what somebody waits for.
    fn ahead_bytes_max(self) -> u64 {
        self.bytes_max / 4 * 3
    }
}

/// Blocks of one inode to be fetched.
#[derive(Debug)]
pub(super) struct Order {
    pub(super) inode: Arc<Inode>,
    pub(super) ask: Arc<Ask>,
    /// Ascending and apart.
    pub(super) ranges: Vec<Range<u64>>,
}

impl Order {
    pub(super) fn bytes(&self) -> u64 {
        self.ranges.iter().map(|range| self.inode.bytes_of(range)).sum()
    }

    /// True when it is for all of a small file.
    pub(super) fn is_whole_small_file(&self) -> bool {
        self.inode.origin_bytes <= SMALL_BYTES_MAX
            && matches!(&self.ranges[..], [all] if *all == (0..block_count(self.inode.origin_bytes)))
    }
}

/// Orders that go out as one request.
#[derive(Debug)]
pub(super) struct Batch {
    pub(super) class: Class,
    pub(super) whole_files: bool,
    pub(super) orders: Vec<Order>,
    pub(super) lease: Lease,
    /// Kept until the request has ended.
    pub(super) slot: Slot,
}

/// The queues and the budget. Its lock is a leaf: nothing else is locked while it is held.
#[derive(Debug)]
pub(super) struct Scheduler {
    engine: Weak<Engine>,
    limits: Limits,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    small: VecDeque<Order>,
    ranges: VecDeque<Order>,
    /// Outstanding requests: for small files, for ranges, ahead, in bulk.
    requests: [usize; 4],
    bytes: u64,
    ahead_bytes: u64,
    /// Somebody is sending what may go out, and looks again before it stops.
    starting: bool,
    closed: bool,
}

/// What a request counts as.
#[derive(Clone, Copy, Debug)]
enum Lane {
    Small = 0,
    Ranges = 1,
    Ahead = 2,
    Bulk = 3,
}

impl Scheduler {
    pub(super) fn new(engine: Weak<Engine>, limits: Limits) -> Self {
        Self { engine, limits, state: Mutex::default() }
    }

    /// Takes an order that somebody waits for. Gives it back when it cannot be taken: the replica is closed, or too
    /// many wait already.
    pub(super) fn demand(&self, order: Order) -> Result<(), Order> {
        {
            let mut state = lock(&self.state);
            if state.closed || state.small.len() + state.ranges.len() >= ORDERS_MAX {
                return Err(order);
            }
            match order.is_whole_small_file() {
                true => state.small.push_back(order),
                false => state.ranges.push_back(order),
            }
        }
        self.start();
        Ok(())
    }

    /// Room for reading ahead: up to `wanted` bytes, 0 when there is too little for it to be worth a request.
    pub(super) fn room_ahead(&self, wanted: u64) -> u64 {
        let state = lock(&self.state);
        let room = (self.limits.ahead_bytes_max().saturating_sub(state.ahead_bytes))
            .min(self.limits.bytes_max.saturating_sub(state.bytes));
        match room >= wanted.min(AHEAD_BYTES_MIN) && state.requests[Lane::Ahead as usize] < AHEAD_REQUESTS_MAX
        {
            true => room.min(wanted),
            false => 0,
        }
    }

    /// Sends an order ahead of its reader; gives it back when there is no room after all.
    pub(super) fn ahead(&self, order: Order) -> Result<(), Order> {
        let bytes = order.bytes();
        {
            let mut state = lock(&self.state);
            let full = state.ahead_bytes + bytes > self.limits.ahead_bytes_max()
                || state.bytes + bytes > self.limits.bytes_max
                || state.requests[Lane::Ahead as usize] >= AHEAD_REQUESTS_MAX;
            if full || state.closed {
                return Err(order);
            }
            state.lease(bytes, Lane::Ahead);
        }
        self.send(Class::ReadAhead, Lane::Ahead, false, vec![order], bytes);
        Ok(())
    }

    /// True when a request for which nobody waits may go out.
    pub(super) fn has_room_for_bulk(&self) -> bool {
        lock(&self.state).has_room_for_bulk(self.limits, REQUEST_BYTES_MAX)
    }

    /// Sends a bundle for which nobody waits, unless it is empty; gives it back when there is no room for it after all.
    pub(super) fn bulk(&self, mut bundle: Bundle) -> Result<(), Bundle> {
        let bytes = bundle.bytes();
        {
            let mut state = lock(&self.state);
            if bytes == 0 || state.closed {
                return Ok(());
            }
            if !state.has_room_for_bulk(self.limits, bytes) {
                return Err(bundle);
            }
            state.lease(bytes, Lane::Bulk);
        }
        let whole_files = bundle.whole_files();
        self.send(Class::Bulk, Lane::Bulk, whole_files, bundle.take(), bytes);
        Ok(())
    }

    /// True when no request is outstanding for which nobody waits.
    pub(super) fn is_bulk_idle(&self) -> bool {
        lock(&self.state).requests[Lane::Bulk as usize] == 0
    }

    /// Bytes leased now.
    pub(super) fn bytes(&self) -> u64 {
        lock(&self.state).bytes
    }

    /// What [`bytes`](Self::bytes) never exceeds.
    pub(super) fn bytes_max(&self) -> u64 {
        self.limits.bytes_max
    }

    /// True when no request is outstanding and none waits.
    pub(super) fn is_idle(&self) -> bool {
        let state = lock(&self.state);
        state.requests == [0; 4] && state.small.is_empty() && state.ranges.is_empty()
    }

    /// Takes no more orders; returns those that had not gone out.
    pub(super) fn close(&self) -> Vec<Order> {
        let mut state = lock(&self.state);
        state.closed = true;
        let State { small, ranges, .. } = &mut *state;
        small.drain(..).chain(ranges.drain(..)).collect()
    }

    /// Sends what may go out.
    fn start(&self) {
        // A request that cannot even start (its runtime is shutting down) ends within `send`, and comes back here.
        if std::mem::replace(&mut lock(&self.state).starting, true) {
            return;
        }
        loop {
            let (lane, orders, bytes) = {
                let mut state = lock(&self.state);
                match state.next(self.limits) {
                    Some(next) => next,
                    None => {
                        state.starting = false;
                        break;
                    }
                }
            };
            self.send(Class::Demand, lane, matches!(lane, Lane::Small), orders, bytes);
        }
    }

    fn send(&self, class: Class, lane: Lane, whole_files: bool, orders: Vec<Order>, bytes: u64) {
        let lease = Lease { engine: self.engine.clone(), bytes, ahead: matches!(lane, Lane::Ahead) };
        let slot = Slot { engine: self.engine.clone(), lane };
        let batch = Batch { class, whole_files, orders, lease, slot };
        if let Some(engine) = self.engine.upgrade() {
            engine.runtime.spawn(request::run(engine.clone(), batch));
        }
    }

    fn release(&self, bytes: u64, ahead: bool) {
        {
            let mut state = lock(&self.state);
            state.bytes -= bytes;
            if ahead {
                state.ahead_bytes -= bytes;
            }
        }
        self.start();
    }

    fn finished(&self, lane: Lane) {
        lock(&self.state).requests[lane as usize] -= 1;
        self.start();
    }
}

impl State {
    fn lease(&mut self, bytes: u64, lane: Lane) {
        self.bytes += bytes;
        self.requests[lane as usize] += 1;
        if let Lane::Ahead = lane {
            self.ahead_bytes += bytes;
        }
    }

    /// Nobody waits for it, so it leaves half of the room to others, and all of it while somebody queues.
    fn has_room_for_bulk(&self, limits: Limits, bytes: u64) -> bool {
        self.requests[Lane::Bulk as usize] < BULK_REQUESTS_MAX
            && self.bytes + bytes <= limits.bytes_max / 2
            && self.small.is_empty()
            && self.ranges.is_empty()
    }

    /// The next request, leased; small files first, since they are done sooner.
    fn next(&mut self, limits: Limits) -> Option<(Lane, Vec<Order>, u64)> {
        let room = limits.bytes_max.saturating_sub(self.bytes);
        for (lane, requests_max) in [(Lane::Small, SMALL_REQUESTS_MAX), (Lane::Ranges, RANGE_REQUESTS_MAX)] {
            if self.requests[lane as usize] >= requests_max {
                continue;
            }
            let queue = match lane {
                Lane::Small => &mut self.small,
                Lane::Ranges | Lane::Ahead | Lane::Bulk => &mut self.ranges,
            };
            let (orders, bytes) = take(queue, room);
            if !orders.is_empty() {
                self.lease(bytes, lane);
                return Some((lane, orders, bytes));
            }
        }
        None
    }
}

/// Orders from the front of a queue that fit into `room` and into one request.
fn take(queue: &mut VecDeque<Order>, room: u64) -> (Vec<Order>, u64) {
    let (mut orders, mut bytes, mut ranges) = (Vec::new(), 0, 0);
    while let Some(order) = queue.front() {
        let fits = bytes + order.bytes() <= room.min(REQUEST_BYTES_MAX)
            && orders.len() < FILES_PER_REQUEST_MAX
            && ranges + order.ranges.len() <= RANGES_PER_REQUEST_MAX;
        // An order alone is never too large for a request, only for the room there is.
        let alone = orders.is_empty() && order.bytes() <= room;
        if !(fits || alone) {
            break;
        }
        bytes += order.bytes();
        ranges += order.ranges.len();
        orders.extend(queue.pop_front());
    }
    (orders, bytes)
}

/// Bytes of the budget; given back when dropped.
#[derive(Debug)]
pub(super) struct Lease {
    engine: Weak<Engine>,
    bytes: u64,
    ahead: bool,
}

impl Lease {
    /// Parts with `bytes` of it, or with all there are.
    pub(super) fn split(&mut self, bytes: u64) -> Self {
        let bytes = bytes.min(self.bytes);
        self.bytes -= bytes;
        Self { engine: self.engine.clone(), bytes, ahead: self.ahead }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if let Some(engine) = self.engine.upgrade().filter(|_| self.bytes > 0) {
            engine.scheduler.release(self.bytes, self.ahead);
            engine.changed();
        }
    }
}

/// The place of an outstanding request; free again when dropped.
#[derive(Debug)]
pub(super) struct Slot {
    engine: Weak<Engine>,
    lane: Lane,
}

impl Drop for Slot {
    fn drop(&mut self) {
        if let Some(engine) = self.engine.upgrade() {
            engine.scheduler.finished(self.lane);
            engine.changed();
        }
    }
}
