//! Who waits for content now, and how the content of files came here: for people who ask.
//!
//! Remembered from the moment the replica was opened, in memory alone, of the files that it happened to last.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, SystemTime};

use lru::LruCache;
use tokio::time::Instant;

use super::ReadError;
use super::key::InodeKey;
use super::lock;
use super::reader::{self, Program, Programs};
use super::status::FetchedBytes;
use crate::origin::Class;

/// Files of which it is remembered that somebody waited for them, and as many of which it is that they came: some 100
/// bytes each.
const FILES_MAX: usize = 1024;

/// How the content of a file came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Came {
    /// When some of it came first.
    pub first: SystemTime,
    /// When some of it came last.
    pub last: SystemTime,
    /// How much, by what it was asked for.
    pub bytes: FetchedBytes,
}

/// How a file was waited for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Waited {
    /// How many reads waited.
    pub times: u64,
    /// Who was the first.
    pub first_by: Option<Program>,
    /// When the last one began.
    pub last: SystemTime,
    /// How long it took.
    pub last_for: Duration,
    /// Who that was.
    pub last_by: Option<Program>,
    /// How it ended.
    pub last_end: WaitEnd,
}

/// How a wait ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WaitEnd {
    /// With the content.
    Served,
    /// With an error.
    Failed(String),
    /// Whoever waited was told to stop.
    GivenUp,
}

/// A file that is waited for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Awaited {
    pub(super) file: InodeKey,
    pub(super) program: Option<Program>,
    pub(super) for_so_long: Duration,
}

/// The reads of a replica. Its locks are leaves, and none is held with another.
#[derive(Debug)]
pub(super) struct Reads {
    waiting: Mutex<Waiting>,
    programs: Mutex<Programs>,
    waited: Mutex<LruCache<InodeKey, Waited>>,
    came: Mutex<LruCache<InodeKey, Came>>,
}

#[derive(Debug, Default)]
struct Waiting {
    next: u64,
    /// As many as requests of the kernel wait, whose number is bounded.
    reads: HashMap<u64, (InodeKey, Option<u32>, Instant)>,
}

impl Default for Reads {
    fn default() -> Self {
        Self {
            waiting: Mutex::default(),
            programs: Mutex::default(),
            waited: Mutex::new(LruCache::unbounded()),
            came: Mutex::new(LruCache::unbounded()),
        }
    }
}

impl Reads {
    /// A read of the current task begins to wait.
    pub(super) fn begin(&self, file: InodeKey) -> WaitingRead<'_> {
        let (thread, began) = (reader::thread(), Instant::now());
        let mut waiting = lock(&self.waiting);
        let id = waiting.next;
        waiting.next += 1;
        waiting.reads.insert(id, (file, thread, began));
        WaitingRead { reads: self, id, file, thread, began, program: None, end: WaitEnd::GivenUp }
    }

    /// Content of a file has come.
    pub(super) fn came(&self, file: InodeKey, class: Class, bytes: u64) {
        let now = SystemTime::now();
        let mut files = lock(&self.came);
        let fresh = || Came { first: now, last: now, bytes: FetchedBytes::default() };
        let came = files.get_or_insert_mut(file, fresh);
        came.last = now;
        *match class {
            Class::Demand => &mut came.bytes.demand,
            Class::ReadAhead => &mut came.bytes.read_ahead,
            Class::Bulk => &mut came.bytes.bulk,
        } += bytes;
        bound(files);
    }

    /// What is waited for now, the longest wait first, one line for a file and program; `max` at most.
    pub(super) fn now(&self, max: usize) -> Vec<Awaited> {
        let mut all: Vec<_> = lock(&self.waiting).reads.iter().map(|(id, read)| (*id, *read)).collect();
        // Numbered in the order in which they began.
        all.sort_by_key(|(id, _)| *id);
        let mut awaited: Vec<Awaited> = Vec::new();
        for (_, (file, thread, began)) in all {
            let program = thread.and_then(|thread| lock(&self.programs).of(thread));
            if thread.is_some() && program.is_none() {
                // It has ended, and the kernel reads on for nobody.
                continue;
            }
            if awaited.iter().any(|known| known.file == file && known.program == program) {
                continue;
            }
            if awaited.len() == max {
                break;
            }
            awaited.push(Awaited { file, program, for_so_long: began.elapsed() });
        }
        awaited
    }

    /// What is remembered of a file.
    pub(super) fn of(&self, file: InodeKey) -> (Option<Came>, Option<Waited>) {
        (lock(&self.came).peek(&file).copied(), lock(&self.waited).peek(&file).cloned())
    }
}

fn bound<V>(mut files: MutexGuard<'_, LruCache<InodeKey, V>>) {
    while files.len() > FILES_MAX {
        files.pop_lru();
    }
}

/// A read that waits, until it is dropped; given up unless it says otherwise.
pub(super) struct WaitingRead<'r> {
    reads: &'r Reads,
    id: u64,
    file: InodeKey,
    thread: Option<u32>,
    began: Instant,
    program: Option<Program>,
    end: WaitEnd,
}

impl WaitingRead<'_> {
    /// Finds out which program it is: best while what it waits for is on its way.
    pub(super) fn identify(&mut self) {
        if self.program.is_none() {
            self.program = self.thread.and_then(|thread| lock(&self.reads.programs).of(thread));
        }
    }

    /// It has come to its end.
    pub(super) fn ended<T>(mut self, with: &Result<T, ReadError>) {
        self.end = match with {
            Ok(_) => WaitEnd::Served,
            Err(error) => WaitEnd::Failed(error.to_string()),
        };
    }
}

impl Drop for WaitingRead<'_> {
    fn drop(&mut self) {
        lock(&self.reads.waiting).reads.remove(&self.id);
        // One that failed at once has not been looked at.
        self.identify();
        let (last_for, by) = (self.began.elapsed(), self.program.take());
        let last = SystemTime::now().checked_sub(last_for).unwrap_or(SystemTime::UNIX_EPOCH);
        let last_end = std::mem::replace(&mut self.end, WaitEnd::Served);
        let mut files = lock(&self.reads.waited);
        let (times, first_by) = match files.pop(&self.file) {
            Some(before) => (before.times, before.first_by),
            None => (0, by.clone()),
        };
        files.push(self.file, Waited { times: times + 1, first_by, last, last_for, last_by: by, last_end });
        bound(files);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifest::EntryIndex;

    fn file(number: u32) -> InodeKey {
        InodeKey::Entry(EntryIndex(number))
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_waited_for_is_told_until_it_is_here() {
        let (reads, this) = (Reads::default(), std::process::id());
        let first = reader::on_behalf_of(this, async { reads.begin(file(1)) }).await;
        tokio::time::advance(Duration::from_millis(300)).await;
        let _gone = reader::on_behalf_of(u32::MAX, async { reads.begin(file(3)) }).await;
        let others = [1, 1, 2].map(|number| (number, reads.begin(file(number))));
        let told: Vec<_> =
            reads.now(8).into_iter().map(|read| (read.file, read.program.map(|p| p.pid))).collect();
        assert_eq!(told, [(file(1), Some(this)), (file(1), None), (file(2), None)]);
        let longest = reads.now(1);
        assert_eq!((longest.len(), longest[0].for_so_long), (1, Duration::from_millis(300)));
        first.ended::<()>(&Ok(()));
        let waited = reads.of(file(1)).1.unwrap();
        assert_eq!(
            (waited.times, waited.last_for, waited.last_end),
            (1, Duration::from_millis(300), WaitEnd::Served)
        );
        assert_eq!(waited.first_by.map(|program| program.pid), Some(this));
        for (number, read) in others {
            if number == 1 { drop(read) } else { read.ended::<()>(&Err(ReadError::Stale)) }
        }
        assert_eq!(reads.now(8), []);
        let again = reads.of(file(1)).1.unwrap();
        assert_eq!((again.times, again.last_by, again.last_end), (3, None, WaitEnd::GivenUp));
        assert_eq!(again.first_by.map(|program| program.pid), Some(this));
        let failed = reads.of(file(2)).1.unwrap().last_end;
        assert!(matches!(&failed, WaitEnd::Failed(why) if why.contains("no longer has")), "{failed:?}");
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let reads = Reads::default();
        reads.came(file(0), Class::Bulk, 5);
        reads.came(file(0), Class::Demand, 7);
        let bytes = FetchedBytes { demand: 7, read_ahead: 0, bulk: 5 };
        assert_eq!(reads.of(file(0)).0.unwrap().bytes, bytes);
        for number in 1..2 * FILES_MAX as u32 {
            reads.came(file(number), Class::Bulk, 1);
            drop(reads.begin(file(number)));
        }
        assert_eq!((lock(&reads.came).len(), lock(&reads.waited).len()), (FILES_MAX, FILES_MAX));
        assert_eq!(reads.of(file(0)), (None, None));
        assert!(reads.of(file(2 * FILES_MAX as u32 - 1)).1.is_some());
    }
}
