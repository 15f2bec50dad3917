//! Whether what arrives is what was asked for.
//!
//! A peer may lie about content, which digests find out, and about structure, which is found out here: runs of files
//! nobody asked for, blocks twice or backwards, an end too many.

use twinshare_fs::digest::BlockIndex;
use twinshare_fs::manifest::EntryIndex;
use twinshare_fs::origin::{Anew, BlockRange, Delivery, FileVersion, TakeAnew, Version};

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

/// How far the answer to a request to take a file anew has come.
pub(super) struct ExpectedAnew {
    wanted: TakeAnew,
    version: Option<FileVersion>,
    /// The first block that may still come.
    next: u64,
    is_done: bool,
}

impl ExpectedAnew {
    pub(super) fn new(wanted: TakeAnew) -> Self {
        Self { wanted, version: None, next: 0, is_done: false }
    }

    /// `item`, if it is about the file that was asked for.
    pub(super) fn of(&self, file: EntryIndex, item: Anew) -> Result<Anew, CallError> {
        if file == self.wanted.entry {
            Ok(item)
        } else {
            Err(invalid("a file was sent that was not asked for"))
        }
    }

    /// Takes note of an item that arrived.
    pub(super) fn take(&mut self, item: &Anew) -> Result<(), CallError> {
        if self.is_done {
            return Err(invalid("more was sent than was asked for"));
        }
        match (item, &self.version) {
            (Anew::Is(Version::File(file)), None) if file.names.contains(&self.wanted.entry) => {
                self.version = Some(file.clone());
                Ok(())
            }
            (Anew::Is(Version::Symlink { .. } | Version::Absent | Version::Other), None)
            | (Anew::Fault(_), _) => {
                self.is_done = true;
                Ok(())
            }
            (Anew::Reading(blocks), Some(file)) if *blocks <= file.blocks() => Ok(()),
            (Anew::Run(run), Some(_)) if run.file == self.wanted.entry => {
                self.advance(run.first, run.digests.len() as u64, |_| true)
            }
            (Anew::Kept { first, digests }, Some(_)) => {
                let held = self.wanted.held.clone();
                let holds = move |block: u64| {
                    held.iter().any(|(first, count)| (first.0..first.0 + count).contains(&block))
                };
                self.advance(*first, digests.len() as u64, holds)
            }
            (Anew::End, Some(_)) => {
                self.skip_holes();
                self.is_done = true;
                match &self.version {
                    Some(file) if self.next < file.blocks() => {
                        Err(invalid("less was sent than the file holds"))
                    }
                    _ => Ok(()),
                }
            }
            _ => Err(invalid("what was sent does not belong there")),
        }
    }

    /// Checks that nothing is missing.
    pub(super) fn finish(&self) -> Result<(), CallError> {
        if self.is_done { Ok(()) } else { Err(invalid("less was sent than was asked for")) }
    }

    fn skip_holes(&mut self) {
        if let Some(file) = &self.version {
            let is_hole = |block: &u64| file.is_hole(*block);
            self.next = (self.next..file.blocks()).find(|block| !is_hole(block)).unwrap_or(file.blocks());
        }
    }

    fn advance(&mut self, first: BlockIndex, count: u64, may: impl Fn(u64) -> bool) -> Result<(), CallError> {
        self.skip_holes();
        let Some(file) = &self.version else { return Err(invalid("content came before what it is of")) };
        let end = first.0.checked_add(count).filter(|end| first.0 == self.next && *end <= file.blocks());
        match end {
            Some(end) if (first.0..end).all(|block| !file.is_hole(block) && may(block)) => {
                self.next = end;
                Ok(())
            }
            _ => Err(invalid("blocks were sent that were not asked for")),
        }
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
    #[expect(clippy::single_range_in_vec_init, reason = "a hole map of one hole")]
    fn a_file_is_taken_anew_in_order_and_completely() {
        const BLOCK: u64 = 65_536;
        let names = vec![EntryIndex(7), EntryIndex(9)];
        let version = FileVersion {
            size: 5 * BLOCK + 1,
            mtime: Default::default(),
            mode: 0o644,
            xattrs: vec![],
            holes: vec![2 * BLOCK..4 * BLOCK],
            names,
        };
        let is = || Anew::Is(Version::File(version.clone()));
        let blocks = |first, count| match run(7, first, count) {
            Delivery::Run(run) => Anew::Run(run),
            _ => unreachable!("it makes runs"),
        };
        let kept =
            |first, count| Anew::Kept { first: BlockIndex(first), digests: vec![Digest([0; 32]); count] };
        let check = |items: &[Anew], accepted: usize, complete: bool| {
            let held = vec![(BlockIndex(0), 1), (BlockIndex(4), 1)];
            let mut expected = ExpectedAnew::new(TakeAnew { entry: EntryIndex(7), held });
            let taken = items.iter().take_while(|item| expected.take(item).is_ok()).count();
            assert_eq!(taken, accepted, "{items:?}");
            assert_eq!(expected.finish().is_ok() && taken == items.len(), complete, "{items:?}");
        };
        let all = [is(), Anew::Reading(6), blocks(0, 2), blocks(4, 1), blocks(5, 1), Anew::End];
        check(&all, 6, true);
        check(&[is(), kept(0, 1), blocks(1, 1), kept(4, 1), blocks(5, 1), Anew::End], 6, true);
        check(&[is(), blocks(0, 2), Anew::Fault(FileFault::Changed)], 3, true);
        check(&[Anew::Fault(FileFault::Changed)], 1, true);
        check(&[Anew::Is(Version::Absent)], 1, true);
        check(&[Anew::Is(Version::Absent), Anew::End], 1, false);
        check(&[is(), is()], 1, false);
        check(&[blocks(0, 1)], 0, false);
        check(&[is(), blocks(0, 3)], 1, false);
        check(&[is(), blocks(1, 1)], 1, false);
        check(&[is(), kept(0, 2)], 1, false);
        check(&[is(), blocks(0, 2), blocks(4, 3)], 2, false);
        check(&[is(), blocks(0, 2), Anew::End], 2, false);
        check(&[is(), Anew::Reading(7)], 1, false);
        check(
            &[Anew::Is(Version::File(FileVersion { names: vec![EntryIndex(9)], ..version.clone() }))],
            0,
            false,
        );
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
