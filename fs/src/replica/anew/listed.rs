//! Which files changed at the origin before they were here, and what became of them: a list that survives restarts.
//!
//! Sixteen bytes for each piece of news, appended: what became of it, three zeros, the file's entry, when (milliseconds since 1970),
//! little-endian. The last one of an entry counts. A crash can cut the last one off, which is then found out anew.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Write};
use std::path::Path;
use std::sync::Mutex;
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use super::super::lock;
use super::super::status::LISTED_MAX;
use crate::little_endian::{u32_at, u64_at};
use crate::manifest::EntryIndex;
use crate::scratch::Partial;

const RECORD_BYTES: usize = 16;

/// More old news than this, and than there are files in the list, is removed at the start.
const OLD_NEWS_MAX: usize = 1024;

/// What became of a file that changed at the origin.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Became {
    /// The version that the origin had then is here.
    TakenAnew,
    /// It was gone at the origin, and is gone here.
    Removed,
    /// It was changed here too, or got other names: somebody must decide.
    Conflict,
    /// No stable version could be had: it keeps changing.
    KeepsChanging,
    /// A directory, or something that does not travel, is in its place at the origin.
    AnotherKind,
    /// The origin cannot say, or not read, what became of it.
    Unreadable,
    /// Somebody decided that what is here is kept; what never came is zeros.
    Kept,
    /// Somebody decided that the origin's version is to take its place, which it does as soon as it is here.
    Decided,
}

impl Became {
    /// True for what cannot stay so.
    pub(super) fn is_open(self) -> bool {
        match self {
            Self::Conflict | Self::KeepsChanging | Self::AnotherKind | Self::Unreadable | Self::Decided => {
                true
            }
            Self::TakenAnew | Self::Removed | Self::Kept => false,
        }
    }
}

const ALL: [Became; 8] = [
    Became::TakenAnew,
    Became::Removed,
    Became::Conflict,
    Became::KeepsChanging,
    Became::AnotherKind,
    Became::Unreadable,
    Became::Kept,
    Became::Decided,
];

/// The number of news that takes what was said before back.
const NOTHING: u8 = 0;

fn number(became: Became) -> u8 {
    1 + ALL.iter().position(|one| *one == became).unwrap_or_default() as u8
}

/// A piece of news.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct News {
    became: Became,
    at_ms: u64,
}

/// The list.
#[derive(Debug)]
pub(in super::super) struct Listed {
    inner: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    file: File,
    news: BTreeMap<EntryIndex, News>,
}

/// Files to which the same happened.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in super::super) struct Alike {
    pub(in super::super) total: u64,
    /// The first of them.
    pub(in super::super) some: Vec<(EntryIndex, u64)>,
}

impl Listed {
    /// Opens the list, and makes it where there is none.
    pub(in super::super) fn open(path: &Path, entries: u32) -> io::Result<Self> {
        let mut file = File::options().read(true).append(true).create(true).open(path)?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        let (records, torn) = bytes.as_chunks::<RECORD_BYTES>();
        let mut news = BTreeMap::new();
        for record in records {
            let entry = EntryIndex(u32_at(record, 4));
            match ALL.get(usize::from(record[0]).wrapping_sub(1)) {
                Some(became) if entry.0 < entries => {
                    news.insert(entry, News { became: *became, at_ms: u64_at(record, 8) });
                }
                _ => _ = news.remove(&entry),
            }
        }
        if !torn.is_empty() || records.len() > 2 * news.len() + OLD_NEWS_MAX {
            let partial = Partial::create(path)?;
            for (entry, one) in &news {
                (&partial.file).write_all(&record(number(one.became), *entry, one.at_ms))?;
            }
            partial.finish()?;
            file = File::options().append(true).open(path)?;
        }
        Ok(Self { inner: Mutex::new(Inner { file, news }) })
    }

    /// Takes note of what became of a file; nothing takes back what was noted. True when it is news.
    pub(in super::super) fn note(&self, entry: EntryIndex, became: Option<Became>) -> io::Result<bool> {
        let mut inner = lock(&self.inner);
        if inner.news.get(&entry).map(|news| news.became) == became {
            return Ok(false);
        }
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let at_ms = now.as_millis() as u64;
        match became {
            Some(became) => inner.news.insert(entry, News { became, at_ms }),
            None => inner.news.remove(&entry),
        };
        inner.file.write_all(&record(became.map_or(NOTHING, number), entry, at_ms))?;
        Ok(true)
    }

    /// What became of a file.
    pub(in super::super) fn of(&self, entry: EntryIndex) -> Option<Became> {
        lock(&self.inner).news.get(&entry).map(|news| news.became)
    }

    /// The files of which something is true that cannot stay so.
    pub(super) fn open_ones(&self) -> Vec<EntryIndex> {
        let inner = lock(&self.inner);
        inner.news.iter().filter(|(_, news)| news.became.is_open()).map(|(entry, _)| *entry).collect()
    }

    /// The files of which one of these is true, and when it became so.
    pub(in super::super) fn alike(&self, is: impl Fn(Became) -> bool) -> Alike {
        let mut alike = Alike::default();
        for (entry, news) in lock(&self.inner).news.iter().filter(|(_, news)| is(news.became)) {
            alike.total += 1;
            if alike.some.len() < LISTED_MAX {
                alike.some.push((*entry, news.at_ms));
            }
        }
        alike
    }
}

fn record(number: u8, entry: EntryIndex, at_ms: u64) -> [u8; RECORD_BYTES] {
    let mut out = [0; RECORD_BYTES];
    out[0] = number;
    out[4..8].copy_from_slice(&entry.0.to_le_bytes());
    out[8..16].copy_from_slice(&at_ms.to_le_bytes());
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_noted_survives_and_the_last_word_counts() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("changed");
        let list = Listed::open(&path, 100).unwrap();
        for (at, became) in ALL.iter().enumerate() {
            assert!(list.note(EntryIndex(at as u32), Some(*became)).unwrap());
            assert!(!list.note(EntryIndex(at as u32), Some(*became)).unwrap());
        }
        list.note(EntryIndex(3), Some(Became::TakenAnew)).unwrap();
        list.note(EntryIndex(4), None).unwrap();
        drop(list);
        // A crash in the middle of the last one.
        let mut bytes = std::fs::read(&path).unwrap();
        bytes.extend([1, 0, 0]);
        std::fs::write(&path, bytes).unwrap();
        for _ in 0..2 {
            let list = Listed::open(&path, 100).unwrap();
            let expected = [0, 1, 2, 0, 9, 5, 6, 7].map(|at| ALL.get(at).copied());
            assert_eq!([0, 1, 2, 3, 4, 5, 6, 7].map(|at| list.of(EntryIndex(at))), expected);
            let taken = list.alike(|became| became == Became::TakenAnew);
            assert_eq!((taken.total, taken.some.len()), (2, 2));
            assert_eq!(std::fs::metadata(&path).unwrap().len(), 7 * RECORD_BYTES as u64);
        }
    }

    #[test]
    fn old_news_does_not_pile_up_and_damage_is_no_entry() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("changed");
        let list = Listed::open(&path, 2).unwrap();
        for _ in 0..OLD_NEWS_MAX {
            list.note(EntryIndex(1), Some(Became::Conflict)).unwrap();
            list.note(EntryIndex(1), None).unwrap();
        }
        list.note(EntryIndex(1), Some(Became::Removed)).unwrap();
        lock(&list.inner).file.write_all(&record(1, EntryIndex(2), 0)).unwrap();
        drop(list);
        let list = Listed::open(&path, 2).unwrap();
        assert_eq!((list.of(EntryIndex(1)), list.of(EntryIndex(2))), (Some(Became::Removed), None));
        assert_eq!(std::fs::metadata(&path).unwrap().len(), RECORD_BYTES as u64);
    }
}
