//! Blocks of one inode on their way: asked for, or arrived and not on the disk yet.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use tokio::time::Instant;

use super::ask::Ask;
use super::blocks::Blocks;
use super::inode::{Failure, runs};
use crate::digest::BlockIndex;

/// A block on its way.
#[derive(Clone, Debug)]
pub(super) enum Coming {
    Asked(Arc<Ask>),
    Held(Bytes),
}

impl Blocks {
    /// Marks blocks as asked for. They must have been [missing](super::inode::Inode::missing).
    pub(super) fn ask(&mut self, ranges: &[Range<u64>], ask: &Arc<Ask>) {
        for block in ranges.iter().cloned().flatten() {
            self.coming.insert(block, Coming::Asked(ask.clone()));
        }
    }

    /// Since when nothing has been heard of some block in `range` that others wait for. Asks nobody waited for do not
    /// count: they may stand behind others at the origin, and are sent again if need be.
    pub(super) fn heard(&self, range: Range<u64>) -> Option<Instant> {
        let asked = self.coming.range(range).filter_map(|(_, coming)| match coming {
            Coming::Asked(ask) if !ask.is_unhurried() => Some(ask.heard()),
            Coming::Asked(_) | Coming::Held(_) => None,
        });
        asked.min()
    }

    /// The asks nobody waited for when they were sent that hold blocks in `range`: each with its first block there, which
    /// is the one it will bring soonest.
    fn unhurried(&self, range: Range<u64>) -> Vec<(Arc<Ask>, u64)> {
        let mut asks: Vec<(Arc<Ask>, u64)> = Vec::new();
        for (block, coming) in self.coming.range(range) {
            if let Coming::Asked(ask) = coming
                && ask.is_unhurried()
                && !asks.iter().any(|(other, _)| Arc::ptr_eq(other, ask))
            {
                asks.push((ask.clone(), *block));
            }
        }
        asks
    }

    /// Those of them that are so far from their block in `range` that asking anew is faster.
    pub(super) fn too_slow_for(&self, range: Range<u64>) -> Vec<Arc<Ask>> {
        let slow = self.unhurried(range).into_iter().filter(|(ask, block)| ask.is_far_from(*block));
        slow.map(|(ask, _)| ask).collect()
    }

    /// The asks nobody waited for when they were sent that hold blocks in `range`, and how far they have come.
    pub(super) fn unhurried_asks(&self, range: Range<u64>) -> Vec<(Arc<Ask>, u64)> {
        let asks = self.unhurried(range).into_iter();
        asks.map(|(ask, _)| (ask.clone(), ask.next())).collect()
    }

    /// The blocks of an ask that lie in `range` are missing again: somebody asks for them with more urgency. The others
    /// are still expected from it.
    pub(super) fn take_over(&mut self, ask: &Arc<Ask>, range: Range<u64>) {
        let taken: Vec<u64> = self
            .coming
            .range(range)
            .filter(|(_, coming)| coming.is_from(ask))
            .map(|(block, _)| *block)
            .collect();
        taken.iter().for_each(|block| drop(self.coming.remove(block)));
    }

    /// Takes verified blocks that `ask` brought and hands them to whoever waits. Returns those that were still
    /// expected from it, as ranges; they are held until [`stored`](Self::stored) or [`dropped`](Self::dropped).
    pub(super) fn deliver(
        &mut self,
        ask: &Arc<Ask>,
        blocks: impl Iterator<Item = (BlockIndex, Bytes)>,
    ) -> Vec<Range<u64>> {
        let mut taken = Vec::new();
        for (BlockIndex(block), bytes) in blocks {
            match self.coming.get_mut(&block) {
                Some(coming @ Coming::Asked(_)) if coming.is_from(ask) => {
                    *coming = Coming::Held(bytes.clone());
                }
                _ => continue,
            }
            taken.push(block);
            self.waiters.hand_out(block, &bytes);
        }
        runs(taken.into_iter())
    }

    /// Ends what is left of an ask: its blocks are missing again, and whoever waits for one learns why.
    pub(super) fn fail(&mut self, ask: &Arc<Ask>, failure: &Failure) {
        let failed: Vec<u64> =
            self.coming.iter().filter(|(_, coming)| coming.is_from(ask)).map(|(block, _)| *block).collect();
        for block in failed {
            self.coming.remove(&block);
            self.waiters.fail(block, failure);
        }
    }

    /// Of blocks that arrived, those that are still to be put on the disk: nothing was written over them, and nothing
    /// cut them off.
    pub(super) fn held(&self, range: Range<u64>) -> Vec<Range<u64>> {
        let held =
            |block: &u64| !self.is_on_disk(*block) && matches!(self.coming.get(block), Some(Coming::Held(_)));
        runs(range.filter(held))
    }

    /// What is coming of these blocks is not wanted any more; the disk is the truth.
    pub(super) fn cancel(&mut self, range: &Range<u64>) {
        let coming: Vec<u64> = self.coming.range(range.clone()).map(|(block, _)| *block).collect();
        coming.iter().for_each(|block| drop(self.coming.remove(block)));
        self.waiters.on_disk(range);
    }

    /// Held blocks are held no more. Whoever waited for them has them.
    pub(super) fn dropped(&mut self, range: Range<u64>) {
        for block in range {
            if matches!(self.coming.get(&block), Some(Coming::Held(_))) {
                self.coming.remove(&block);
            }
        }
    }
}

impl Coming {
    fn is_from(&self, ask: &Arc<Ask>) -> bool {
        matches!(self, Self::Asked(from) if Arc::ptr_eq(from, ask))
    }
}
