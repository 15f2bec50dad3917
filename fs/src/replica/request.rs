//! One request to the origin, from sending it to the last block it brought.
//!
//! Nothing an origin sends is believed: a run must lie within what was asked, must have its digests, and these must be
//! the ones the blocks had before, if they were ever here. What passes is handed to whoever waits, and to the writer.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use crate::digest::BlockIndex;
use crate::digest_file::Bound;
use crate::manifest::EntryIndex;
use crate::origin::{
    BlockRange, Class, Deliveries, Delivery, FileFault, OriginError, RUN_BLOCKS_MAX, Run, STALL_MAX,
};

use super::ReadError;
use super::engine::Engine;
use super::inode::Failure;
use super::scheduler::{Batch, Lease, Order};
use super::writer::Job;

/// Deliveries verified in one go, away from the tasks that serve connections.
const VERIFIED_AT_ONCE: usize = 8;

/// How a request ended.
enum End {
    /// Everything has come, or its fault has.
    Complete,
    /// The reader behind it wants something else.
    GivenUp,
    /// All that is left fails so.
    Failed(Failure),
}

/// Runs one request to its end. Dropping the future ends the request; what is left of it then counts as broken off.
pub(super) async fn run(engine: Arc<Engine>, batch: Batch) {
    let Batch { class, whole_files, orders, lease, slot: _slot } = batch;
    let mut deliveries = send(&engine, class, whole_files, &orders);
    orders.iter().for_each(|order| order.ask.sent());
    let mut request = Request::new(engine, class, orders, lease);
    let end = request.receive(&mut deliveries).await;
    request.end(end);
}

fn send(engine: &Engine, class: Class, whole_files: bool, orders: &[Order]) -> Deliveries {
    if whole_files {
        return engine.origin.read_files(orders.iter().map(|order| order.inode.index).collect(), class);
    }
    let ranges = orders.iter().flat_map(|order| {
        order.ranges.iter().map(|range| BlockRange {
            file: order.inode.index,
            first: BlockIndex(range.start),
            count: range.end - range.start,
        })
    });
    engine.origin.read_ranges(ranges.collect(), class)
}

struct Request {
    engine: Arc<Engine>,
    class: Class,
    orders: Vec<Order>,
    /// The blocks of each order that have not come.
    left: Vec<BTreeSet<u64>>,
    by_file: HashMap<EntryIndex, Vec<usize>>,
    /// Ends and faults that have come, and those that must.
    ends: usize,
    ends_expected: usize,
    /// Blocks that may still come: twice what was asked, so that a flood ends.
    blocks_max: u64,
    lease: Lease,
}

impl Request {
    fn new(engine: Arc<Engine>, class: Class, orders: Vec<Order>, lease: Lease) -> Self {
        let left: Vec<BTreeSet<u64>> =
            orders.iter().map(|order| order.ranges.iter().cloned().flatten().collect()).collect();
        let mut by_file: HashMap<_, Vec<_>> = HashMap::new();
        for (at, order) in orders.iter().enumerate() {
            by_file.entry(order.inode.index).or_default().push(at);
        }
        Self {
            ends: 0,
            ends_expected: orders.iter().map(|order| order.ranges.len()).sum(),
            blocks_max: left.iter().map(|blocks| 2 * blocks.len() as u64).sum(),
            engine,
            class,
            orders,
            left,
            by_file,
            lease,
        }
    }

    async fn receive(&mut self, deliveries: &mut Deliveries) -> End {
        let mut closing = self.engine.closing();
        // Only a request that reads ahead is ever given up as a whole, and it is for one inode.
        let ask = self.orders[0].ask.clone();
        loop {
            let first = tokio::select! {
                biased;
                () = ask.given_up() => return End::GivenUp,
                _ = closing.wait_for(|closing| *closing) => return End::Failed(broken("the copy is being closed")),
                first = tokio::time::timeout(STALL_MAX, deliveries.recv()) => first,
            };
            let Ok(first) = first else {
                return End::Failed(broken("the origin sent nothing for 20 s"));
            };
            let Some(first) = first else {
                return self.closed_by_origin();
            };
            let mut items = vec![first];
            while items.len() < VERIFIED_AT_ONCE
                && let Ok(next) = deliveries.try_recv()
            {
                items.push(next);
            }
            if let Some(end) = self.take(items).await {
                return end;
            }
        }
    }

    /// Takes some deliveries in their order; returns how the request ended, if it did.
    async fn take(&mut self, items: Vec<Result<Delivery, OriginError>>) -> Option<End> {
        let mut runs = Vec::new();
        for item in items {
            match item {
                Ok(Delivery::Run(run)) => runs.push(run),
                other => {
                    if let Some(end) = self.take_runs(std::mem::take(&mut runs)).await {
                        return Some(end);
                    }
                    if let Some(end) = self.take_other(other) {
                        return Some(end);
                    }
                }
            }
        }
        self.take_runs(runs).await
    }

    async fn take_runs(&mut self, runs: Vec<Run>) -> Option<End> {
        let mut sized = Vec::new();
        for run in runs {
            let Some(at) = self.order_of(&run) else {
                return Some(self.invalid("it sent blocks that nobody asked for"));
            };
            let Some(blocks_max) = self.blocks_max.checked_sub(run.digests.len() as u64) else {
                return Some(self.invalid("it sent the same blocks again and again"));
            };
            self.blocks_max = blocks_max;
            let inode = &self.orders[at].inode;
            sized.push((at, inode.origin_bytes, inode.digests_at, run));
        }
        if sized.is_empty() {
            return None;
        }
        let engine = self.engine.clone();
        let verified = tokio::task::spawn_blocking(move || {
            let verify = |(at, size, digests_at, run)| (at, verify(&engine, size, digests_at, run));
            sized.into_iter().map(verify).collect::<Vec<_>>()
        });
        // It neither panics nor is aborted, except with the runtime itself.
        for (at, run) in verified.await.ok()? {
            match run {
                Ok(run) => self.deliver(at, run),
                Err(why) => return Some(self.corrupt(at, why)),
            }
        }
        None
    }

    /// The order that a run belongs to: all of it must have been asked for there.
    fn order_of(&self, run: &Run) -> Option<usize> {
        let first = run.first.0;
        let end = first.checked_add(run.digests.len() as u64)?;
        if end <= first || end - first > RUN_BLOCKS_MAX as u64 {
            return None;
        }
        let asked = |at: &&usize| {
            self.orders[**at].ranges.iter().any(|range| range.start <= first && end <= range.end)
        };
        self.by_file.get(&run.file)?.iter().find(asked).copied()
    }

    fn deliver(&mut self, at: usize, run: Run) {
        let Order { inode, ask, .. } = &self.orders[at];
        let end = run.first.0 + run.digests.len() as u64;
        let taken = inode.lock().deliver(ask, run.blocks());
        ask.advanced(end);
        for block in run.first.0..end {
            self.left[at].remove(&block);
        }
        self.engine.counters.fetched(self.class, run.bytes.len() as u64);
        self.engine.reads.came(inode.key, self.class, run.bytes.len() as u64);
        for range in taken {
            let bytes = inode.bytes_of(&range);
            let start = (BlockIndex(range.start).offset() - run.first.offset()) as usize;
            let lease = self.lease.split(bytes);
            let bytes = run.bytes.slice(start..start + bytes as usize);
            self.engine.writer.push(Job { inode: inode.clone(), blocks: range, bytes, lease });
        }
    }

    fn take_other(&mut self, item: Result<Delivery, OriginError>) -> Option<End> {
        match item {
            Ok(Delivery::Run(_)) => None,
            Ok(Delivery::End(file)) => {
                self.ends += 1;
                match self.by_file.contains_key(&file) {
                    true => self.complete(),
                    false => Some(self.invalid("it ended a file that nobody asked for")),
                }
            }
            Ok(Delivery::Fault(file, fault)) => {
                self.ends += 1;
                let Some(orders) = self.by_file.get(&file).cloned() else {
                    return Some(self.invalid("it has a fault for a file that nobody asked for"));
                };
                for at in orders {
                    self.fault(at, &fault);
                }
                self.complete()
            }
            Err(error) => Some(self.failed(error)),
        }
    }

    fn complete(&self) -> Option<End> {
        (self.ends >= self.ends_expected && self.nothing_left()).then_some(End::Complete)
    }

    fn nothing_left(&self) -> bool {
        self.left.iter().all(BTreeSet::is_empty)
    }

    /// The channel closed without an error.
    fn closed_by_origin(&self) -> End {
        match (self.nothing_left(), self.ends >= self.ends_expected) {
            (true, _) => End::Complete,
            (false, true) => self.invalid("it ended a file before all of it had come"),
            (false, false) => End::Failed(broken("the origin broke off")),
        }
    }

    fn fault(&mut self, at: usize, fault: &FileFault) {
        if self.left[at].is_empty() {
            return;
        }
        let inode = &self.orders[at].inode;
        let error = match fault {
            FileFault::Changed => {
                self.engine.file_is_stale(inode);
                ReadError::Stale
            }
            FileFault::Unreadable(why) => {
                self.engine.report(inode, &format!("the origin could not read it: {}", bounded(why)));
                ReadError::Unreadable(bounded(why))
            }
            FileFault::NoSuchBlock => {
                let what = "the origin denies a file of its own snapshot";
                self.engine.report(inode, what);
                ReadError::Corrupt(what.into())
            }
        };
        self.fail(at, &Failure::Final(error));
    }

    fn failed(&self, error: OriginError) -> End {
        End::Failed(match error {
            OriginError::Gone(why) => Failure::Broken(bounded(&why)),
            OriginError::Busy(why) => Failure::Busy(bounded(&why)),
            OriginError::Refused(why) => {
                self.engine.counters.error(format!("the origin refused to send content: {}", bounded(&why)));
                Failure::Final(ReadError::Refused(bounded(&why)))
            }
            OriginError::SnapshotGone => {
                self.engine.snapshot_is_gone();
                Failure::Final(ReadError::Stale)
            }
            OriginError::Invalid(what) => return self.invalid(&bounded(&what)),
        })
    }

    fn invalid(&self, what: &str) -> End {
        self.engine.counters.error(format!("the origin does not keep to the protocol: {what}"));
        End::Failed(Failure::Final(ReadError::Corrupt(what.into())))
    }

    /// One file's content is not what it claims to be; the others of the request are asked for again.
    fn corrupt(&mut self, at: usize, why: String) -> End {
        self.engine.report(&self.orders[at].inode, &why);
        self.fail(at, &Failure::Final(ReadError::Corrupt(why)));
        // Each time one order less is left, so that this ends.
        End::Failed(Failure::Again)
    }

    fn fail(&mut self, at: usize, failure: &Failure) {
        let Order { inode, ask, .. } = &self.orders[at];
        inode.lock().fail(ask, failure);
        self.left[at].clear();
    }

    fn end(mut self, end: End) {
        match end {
            // Whoever gave it up has already taken its blocks back.
            End::Complete | End::GivenUp => self.left.iter_mut().for_each(BTreeSet::clear),
            End::Failed(failure) => self.fail_rest(&failure),
        }
    }

    fn fail_rest(&mut self, failure: &Failure) {
        for at in 0..self.orders.len() {
            if !self.left[at].is_empty() {
                self.fail(at, failure);
            }
        }
    }
}

impl Drop for Request {
    fn drop(&mut self) {
        self.fail_rest(&broken("the request was dropped"));
    }
}

/// Checks a run against its own digests, and these against the ones its blocks had before.
fn verify(engine: &Engine, size: u64, digests_at: u64, run: Run) -> Result<Run, String> {
    run.verify(size).map_err(|bad| bad.to_string())?;
    match engine.digests.bind(digests_at + run.first.0, &run.digests) {
        Ok(Bound::Agreed) => Ok(run),
        Ok(Bound::Differs { block }) => {
            let block = block - digests_at;
            Err(format!("block {block} is not the one that was here before"))
        }
        Err(error) => {
            // A full disk must not keep content from whoever waits; the next time the block is asked for, it may
            // then be another one, but never a mixture.
            engine.counters.error(format!("digests cannot be kept: {error}"));
            Ok(run)
        }
    }
}

fn broken(why: &str) -> Failure {
    Failure::Broken(why.into())
}

/// A text from the origin, cut to a length that may go to logs and to people.
fn bounded(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(200).collect()
}
