//! Whether what arrives is what was asked for.
//!
//! A peer may lie about content, which digests find out, and about structure, which is found out here: runs of files
//! nobody asked for, blocks twice or backwards, an end too many.

use twinshare_fs::digest::BlockIndex;
use twinshare_fs::manifest::EntryIndex;
use twinshare_fs::origin::{BlockRange, Delivery};

use super::CallError;

/// The rest of an answer to a read, as it was asked for.
pub(super) struct Expected {
    items: std::vec::IntoIter<Item>,
    current: Option<Item>,
}

/// One file or range: the blocks that may still come.
struct Item {
    file: EntryIndex,
    next: u64,
    end: u64,
}

impl Expected {
    /// Whole files.
    pub(super) fn files(files: &[EntryIndex]) -> Self {
        Self::new(files.iter().map(|file| Item { file: *file, next: 0, end: u64::MAX }).collect())
    }

    /// Ranges.
    pub(super) fn ranges(ranges: &[BlockRange]) -> Self {
        let item = |range: &BlockRange| Item {
            file: range.file,
            next: range.first.0,
            end: range.first.0.saturating_add(range.count),
        };
        Self::new(ranges.iter().map(item).collect())
    }

    fn new(items: Vec<Item>) -> Self {
        let mut items = items.into_iter();
        let current = items.next();
        Self { items, current }
    }

    /// Takes note of an item that arrived.
    pub(super) fn take(&mut self, delivery: &Delivery) -> Result<(), CallError> {
        let item = self.current.as_mut().ok_or_else(|| invalid("more was sent than was asked for"))?;
        match delivery {
            Delivery::Run(run) => {
                item.is(run.file)?;
                item.advance(run.first, run.digests.len() as u64)
            }
            Delivery::End(file) | Delivery::Fault(file, _) => {
                item.is(*file)?;
                self.current = self.items.next();
                Ok(())
            }
        }
    }

    /// Checks that nothing is missing.
    pub(super) fn finish(&self) -> Result<(), CallError> {
        match self.current {
            None => Ok(()),
            Some(_) => Err(invalid("less was sent than was asked for")),
        }
    }
}

impl Item {
    fn is(&self, file: EntryIndex) -> Result<(), CallError> {
        if self.file == file { Ok(()) } else { Err(invalid("a file was sent out of turn")) }
    }

    fn advance(&mut self, first: BlockIndex, count: u64) -> Result<(), CallError> {
        let end = first.0.checked_add(count).filter(|end| first.0 >= self.next && *end <= self.end);
        self.next = end.ok_or_else(|| invalid("blocks were sent that were not asked for"))?;
        Ok(())
    }
}

fn invalid(what: &str) -> CallError {
    CallError::Invalid(what.into())
}

#[cfg(test)]
mod tests {
    use twinshare_fs::digest::Digest;
    use twinshare_fs::origin::{FileFault, Run};

    use super::*;

    fn run(file: u32, first: u64, count: usize) -> Delivery {
        let digests = vec![Digest([0; 32]); count];
        Delivery::Run(Run {
            file: EntryIndex(file),
            first: BlockIndex(first),
            digests,
            bytes: Default::default(),
        })
    }

    fn end(file: u32) -> Delivery {
        Delivery::End(EntryIndex(file))
    }

    fn fault(file: u32) -> Delivery {
        Delivery::Fault(EntryIndex(file), FileFault::Changed)
    }

    #[track_caller]
    fn check(mut expected: Expected, answer: &[Delivery], accepted: usize, complete: bool) {
        let taken = answer.iter().take_while(|delivery| expected.take(delivery).is_ok()).count();
        assert_eq!(taken, accepted, "{answer:?}");
        assert_eq!(expected.finish().is_ok(), complete, "{answer:?}");
    }

    #[test]
    fn files_come_in_order_and_completely() {
        let files = || Expected::files(&[EntryIndex(7), EntryIndex(3)]);
        check(files(), &[run(7, 0, 4), run(7, 4, 1), end(7), end(3)], 4, true);
        check(files(), &[fault(7), run(3, 0, 1), fault(3)], 3, true);
        check(files(), &[end(7)], 1, false);
        check(files(), &[end(3)], 0, false);
        check(files(), &[run(3, 0, 1)], 0, false);
        check(files(), &[run(7, 0, 2), run(7, 1, 1)], 1, false);
        check(files(), &[run(7, u64::MAX, 1)], 0, false);
        check(files(), &[end(7), end(3), end(3)], 2, true);
        check(Expected::files(&[]), &[end(0)], 0, true);
    }

    #[test]
    fn ranges_are_not_exceeded() {
        let range =
            |file, first, count| BlockRange { file: EntryIndex(file), first: BlockIndex(first), count };
        let ranges = || Expected::ranges(&[range(1, 10, 4), range(1, 0, 1)]);
        check(ranges(), &[run(1, 10, 4), end(1), run(1, 0, 1), end(1)], 4, true);
        check(ranges(), &[run(1, 10, 2), end(1), end(1)], 3, true);
        check(ranges(), &[run(1, 9, 1)], 0, false);
        check(ranges(), &[run(1, 13, 2)], 0, false);
        check(ranges(), &[run(1, 14, 1)], 0, false);
    }
}
