//! Numbers that entries keep from one snapshot of a workspace to the next.
//!
//! A manifest numbers its entries anew for each snapshot. A view that follows its origin shows one snapshot after the
//! other in one mount and keeps the content of files in one place, so it needs numbers that last: a file that is the
//! same version of itself in two snapshots, and shown alike, has one number in both, and so has a directory at the same
//! path. Whatever is new, or another version, gets a number that was never used.
//!
//! Neighbours that stay keep consecutive numbers, so a table is a list of runs: one for a workspace that never changed,
//! two more for each file that did, 20 bytes each, and never more than there are entries.
//!
//! On disk, all integers little-endian: `twinnumb`, the version (4 bytes), how many runs (4), the next number that was
//! never used (8); then of each run the first entry (4), how many (4) and the first number (8).

use std::io;

use crate::git;
use crate::little_endian::{u32_at, u64_at};
use crate::manifest::{self, Carried, CarriedRun, EntryIndex, Kind, Manifest, Name};

/// Numbers are below this, so that a mount's node numbers, which are a little higher, stay below 2⁴⁰.
const NUMBERS_MAX: u64 = (1 << 40) - 16;

const MAGIC: &[u8; 8] = b"twinnumb";
const VERSION: u32 = 1;
const HEAD_BYTES: usize = 24;
const RUN_BYTES: usize = 16;

/// Every number has been used: the view must be mounted anew before it can follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("its files have changed so often that it must be mounted anew")]
pub struct Exhausted;

/// The numbers of a manifest's entries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Numbers {
    /// By entry; each begins where the one before it ends.
    runs: Box<[Run]>,
    /// The places of the runs, by number.
    by_number: Box<[u32]>,
    /// This one and all above were never used.
    next: u64,
}

/// Consecutive entries with consecutive numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Run {
    entry: u32,
    len: u32,
    number: u64,
}

impl Numbers {
    /// Of the first snapshot: each entry's number is its place.
    pub(crate) fn first(entries: u32) -> Self {
        let run = Run { entry: 0, len: entries, number: 0 };
        Self::new(vec![run], entries.into())
    }

    /// Of the snapshot `new`, after `old`, whose numbers these are.
    ///
    /// Costs a look at each entry of both.
    pub(crate) fn after(&self, old: &Manifest, new: &Manifest, carried: &Carried) -> Result<Self, Exhausted> {
        let mut made = Runs { runs: Vec::new(), at: 0, next: self.next };
        let Staying { directories, estranged } = Staying::find(old, new, carried);
        let staying = without(carried.runs(), &estranged);
        let mut staying = staying.iter().copied().peekable();
        let mut directories = directories.iter().copied().peekable();
        loop {
            let stays = match (staying.peek(), directories.peek()) {
                (Some(run), Some(directory)) if directory.new < run.new => directories.next(),
                (Some(_), _) => staying.next(),
                (None, _) => directories.next(),
            };
            let Some(stays) = stays else { break };
            made.fresh_until(stays.new.0)?;
            self.of_entries(stays, |run| made.push(run));
        }
        made.fresh_until(new.entries())?;
        Ok(Self::new(made.runs, made.next))
    }

    fn new(runs: Vec<Run>, next: u64) -> Self {
        let mut by_number: Box<[u32]> = (0..runs.len() as u32).collect();
        by_number.sort_unstable_by_key(|place| runs[*place as usize].number);
        Self { runs: runs.into(), by_number, next }
    }

    /// An entry's number.
    pub(crate) fn number(&self, entry: EntryIndex) -> Option<u64> {
        let before = self.runs.partition_point(|run| run.entry <= entry.0);
        let run = self.runs.get(before.checked_sub(1)?)?;
        let at = entry.0 - run.entry;
        (at < run.len).then(|| run.number + u64::from(at))
    }

    /// The entry that has a number here.
    pub(crate) fn entry(&self, number: u64) -> Option<EntryIndex> {
        let run = self.run_of(number)?;
        Some(EntryIndex(run.entry + (number - run.number) as u32))
    }

    fn run_of(&self, number: u64) -> Option<&Run> {
        let run = |place: u32| &self.runs[place as usize];
        let before = self.by_number.partition_point(|place| run(*place).number <= number);
        let run = run(*self.by_number.get(before.checked_sub(1)?)?);
        (number - run.number < run.len.into()).then_some(run)
    }

    /// Tells of each number that is here and not in `other`.
    pub(super) fn each_without(&self, other: &Self, mut of: impl FnMut(u64)) {
        for run in &self.runs {
            let end = run.number + u64::from(run.len);
            let mut at = run.number;
            while at < end {
                match other.run_of(at) {
                    Some(stays) => at = stays.number + u64::from(stays.len),
                    None => {
                        of(at);
                        at += 1;
                    }
                }
            }
        }
    }

    /// The numbers of the entries that stay, as runs of the entries they become.
    fn of_entries(&self, stays: CarriedRun, mut each: impl FnMut(Run)) {
        let mut at = 0;
        while at < stays.len {
            let old = stays.old.0 + at;
            let before = self.runs.partition_point(|run| run.entry <= old);
            let Some(run) = before.checked_sub(1).and_then(|place| self.runs.get(place)) else { return };
            let within = old - run.entry;
            let len = run.len.saturating_sub(within).min(stays.len - at);
            if len == 0 {
                return;
            }
            each(Run { entry: stays.new.0 + at, len, number: run.number + u64::from(within) });
            at += len;
        }
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(HEAD_BYTES + self.runs.len() * RUN_BYTES);
        out.extend_from_slice(MAGIC);
        out.extend_from_slice(&VERSION.to_le_bytes());
        out.extend_from_slice(&(self.runs.len() as u32).to_le_bytes());
        out.extend_from_slice(&self.next.to_le_bytes());
        for run in &self.runs {
            out.extend_from_slice(&run.entry.to_le_bytes());
            out.extend_from_slice(&run.len.to_le_bytes());
            out.extend_from_slice(&run.number.to_le_bytes());
        }
        out
    }

    /// The table in `bytes`; an error for anything this version does not write.
    pub(super) fn decode(bytes: &[u8]) -> io::Result<Self> {
        Self::read(bytes)
            .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "it is no table of numbers"))
    }

    fn read(bytes: &[u8]) -> Option<Self> {
        let (head, rest) = bytes.split_at_checked(HEAD_BYTES)?;
        let (runs, none) = rest.as_chunks::<RUN_BYTES>();
        let is_whole = none.is_empty() && runs.len() as u64 == u64::from(u32_at(head, 12));
        if &head[..8] != MAGIC || u32_at(head, 8) != VERSION || !is_whole {
            return None;
        }
        let run = |run: &[u8; RUN_BYTES]| Run {
            entry: u32_at(run, 0),
            len: u32_at(run, 4),
            number: u64_at(run, 8),
        };
        let found = Self::new(runs.iter().map(run).collect(), u64_at(head, 16));
        found.is_sound().then_some(found)
    }

    /// True when every entry has one number and no two have the same.
    fn is_sound(&self) -> bool {
        let mut entry = 0u32;
        let has_gaps = self.runs.iter().any(|run| {
            let is_next = run.entry == entry;
            entry = entry.saturating_add(run.len);
            !is_next || run.len == 0
        });
        let mut number = 0;
        let overlap = self.by_number.iter().map(|place| &self.runs[*place as usize]).any(|run| {
            let is_apart = run.number >= number;
            number = run.number.saturating_add(run.len.into());
            !is_apart
        });
        !has_gaps && !overlap && number <= self.next && self.next <= NUMBERS_MAX
    }
}

/// What two manifests tell beside what is carried. Both lists ascend in the later one.
struct Staying {
    /// Directories at the same path that are not carried: they keep their numbers whatever became of them.
    directories: Vec<CarriedRun>,
    /// Entries that git takes for something else than before, since the names around them changed: they are shown
    /// otherwise, although they are carried.
    estranged: Vec<EntryIndex>,
}

impl Staying {
    fn find(old: &Manifest, new: &Manifest, carried: &Carried) -> Self {
        let stays = |old, new| CarriedRun { new, old, len: 1 };
        let directories = old.roots().zip(new.roots()).map(|(old, new)| stays(old, new)).collect();
        let mut found = Self { directories, estranged: Vec::new() };
        manifest::compare(old, new, |_, name| {
            let Some(Name::Stayed(before, after)) = name else { return };
            match (before.kind(), after.kind()) {
                (Kind::Directory, Kind::Directory) => {
                    let is_carried = carried.old_of(after.index()).is_some();
                    if !is_carried && carried.new_of(before.index()).is_none() {
                        found.directories.push(stays(before.index(), after.index()));
                    }
                }
                _ if git::role(old, &before) != git::role(new, &after) => found.estranged.push(after.index()),
                _ => {}
            }
        });
        found.estranged.sort_unstable();
        found
    }
}

/// The runs without some of the later manifest's entries, which ascend.
fn without(runs: &[CarriedRun], entries: &[EntryIndex]) -> Vec<CarriedRun> {
    let mut left = Vec::with_capacity(runs.len());
    for run in runs {
        let (mut rest, end) = (*run, run.new.0 + run.len);
        let first = entries.partition_point(|entry| *entry < run.new);
        for entry in entries[first..].iter().take_while(|entry| entry.0 < end) {
            let before = entry.0 - rest.new.0;
            left.push(CarriedRun { len: before, ..rest });
            let (new, old) = (entry.0 + 1, rest.old.0 + before + 1);
            rest = CarriedRun { new: EntryIndex(new), old: EntryIndex(old), len: end - new };
        }
        left.push(rest);
    }
    left.retain(|run| run.len > 0);
    left
}

/// A table in the making.
struct Runs {
    runs: Vec<Run>,
    /// The first entry that has no number yet.
    at: u32,
    next: u64,
}

impl Runs {
    /// Gives the entries below `end` numbers that were never used.
    fn fresh_until(&mut self, end: u32) -> Result<(), Exhausted> {
        let len = end.saturating_sub(self.at);
        if len > 0 {
            let number = self.next;
            self.next = number + u64::from(len);
            self.push(Run { entry: self.at, len, number });
        }
        if self.next > NUMBERS_MAX { Err(Exhausted) } else { Ok(()) }
    }

    fn push(&mut self, run: Run) {
        self.at = run.entry + run.len;
        match self.runs.last_mut() {
            Some(last) if last.number + u64::from(last.len) == run.number => last.len += run.len,
            _ => self.runs.push(run),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::fs;
    use std::path::{Path, PathBuf};
    use std::sync::atomic::AtomicBool;

    use super::*;
    use crate::manifest::walk::{MANIFEST_FILE, WalkOptions, WalkProgress, build};

    struct Place(tempfile::TempDir);

    impl Place {
        fn write(&self, path: &str, content: &str) {
            let at = self.0.path().join("w").join(path);
            fs::create_dir_all(at.parent().unwrap()).unwrap();
            fs::write(at, content).unwrap();
        }

        fn snapshot(&self, name: &str) -> (PathBuf, Manifest) {
            let directory = self.0.path().join(name);
            fs::create_dir(&directory).unwrap();
            let (cancel, progress) = (AtomicBool::new(false), WalkProgress::default());
            let options = WalkOptions { threads: 2, exclude: &[], cancel: &cancel, progress: &progress };
            build(&directory, &[self.0.path().join("w")], &options).unwrap();
            let manifest = Manifest::open(&directory.join(MANIFEST_FILE)).unwrap();
            (directory, manifest)
        }
    }

    fn number(numbers: &Numbers, manifest: &Manifest, path: &str) -> u64 {
        let step = |at, name: &str| manifest.lookup(at, name.as_bytes()).unwrap().unwrap().index();
        numbers.number(path.split('/').fold(EntryIndex(0), step)).unwrap()
    }

    #[track_caller]
    fn check_is_one_to_one(numbers: &Numbers, manifest: &Manifest) {
        let all: HashSet<u64> = manifest
            .iter()
            .map(|entry| {
                let number = numbers.number(entry.index()).unwrap();
                assert_eq!(numbers.entry(number), Some(entry.index()));
                number
            })
            .collect();
        assert_eq!(all.len(), manifest.entries() as usize);
        assert_eq!(Numbers::decode(&numbers.encode()).unwrap(), *numbers);
    }

    #[test]
    fn what_stays_keeps_its_number_and_nothing_gets_an_old_one() {
        let place = Place(tempfile::tempdir().unwrap());
        for path in ["a/x", "a/y", "b/c/z", "b/w", "t"] {
            place.write(path, "content");
        }
        let (mut at, mut manifest) = place.snapshot("s0");
        let mut numbers = Numbers::first(manifest.entries());
        let mut used = 0;
        /// What is done, what stays, and what is new.
        type Change<'c> = (&'c dyn Fn(), &'c [&'c str], &'c [&'c str]);
        let changes: [Change<'_>; 4] = [
            (&|| place.write("a/x", "changed now"), &["a", "a/y", "b", "b/c", "b/c/z", "t"], &["a/x"]),
            (&|| place.write("a/new", ""), &["a", "a/x", "a/y", "b/c/z", "t"], &["a/new"]),
            (&|| fs::remove_file(place.0.path().join("w/a/y")).unwrap(), &["a", "a/x", "a/new", "b/w"], &[]),
            (
                &|| {
                    let b = place.0.path().join("w/b");
                    fs::rename(&b, place.0.path().join("w/moved")).unwrap();
                    fs::write(&b, "a file").unwrap();
                },
                &["a", "a/x", "t"],
                &["b", "moved", "moved/c"],
            ),
        ];
        for (step, (change, stay, fresh)) in changes.into_iter().enumerate() {
            check_is_one_to_one(&numbers, &manifest);
            used = used.max(numbers.next);
            change();
            let (next_at, next) = place.snapshot(&format!("s{}", step + 1));
            let carried = Carried::between(Path::new(&at), &next_at).unwrap();
            let after = numbers.after(&manifest, &next, &carried).unwrap();
            for path in stay {
                assert_eq!(number(&after, &next, path), number(&numbers, &manifest, path), "{path}");
            }
            for path in fresh {
                assert!(number(&after, &next, path) >= used, "{path}");
            }
            (at, manifest, numbers) = (next_at, next, after);
        }
        check_is_one_to_one(&numbers, &manifest);
    }

    #[test]
    fn a_damaged_table_is_none() {
        let good = Numbers::first(10).encode();
        assert!(Numbers::decode(&good).is_ok());
        let check = |at: usize, to: u8| {
            let mut bytes = good.clone();
            bytes[at] = to;
            assert!(Numbers::decode(&bytes).is_err(), "{at}");
        };
        check(0, b'x');
        check(8, 2);
        check(12, 2);
        check(16, 9);
        check(24, 1);
        assert!(Numbers::decode(&good[..39]).is_err());
        assert!(Numbers::decode(&[]).is_err());
    }

    #[test]
    fn numbers_end() {
        let place = Place(tempfile::tempdir().unwrap());
        place.write("a", "content");
        let (_, old) = place.snapshot("s0");
        place.write("a", "another");
        let (_, new) = place.snapshot("s1");
        let mut numbers = Numbers::first(old.entries());
        numbers.next = NUMBERS_MAX;
        assert_eq!(numbers.after(&old, &new, &Carried::default()), Err(Exhausted));
    }
}
