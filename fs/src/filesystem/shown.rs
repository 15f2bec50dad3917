//! What is shown of an entry beyond its record: its holes, and what takes the place of git's configurations and hooks.

use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use lru::LruCache;

use crate::git;
use crate::manifest::{Entry, EntryIndex, Kind, Manifest, NotYet};

/// Bytes of what is kept at most, so that neither hole maps nor configurations are decoded at every call; beyond it
/// the longest unused goes.
const KEPT_BYTES_MAX: usize = 16 * 1024 * 1024;

/// What is shown of an entry.
#[derive(Debug, Default)]
pub(super) struct Shown {
    /// The content of a file, or the target of a symlink, in place of its own.
    text: Option<Bytes>,
    /// Its execute bits are cleared.
    disarmed: bool,
    /// The holes of a file, ascending and apart.
    holes: Vec<Range<u64>>,
}

impl Shown {
    fn new(manifest: &Manifest, entry: &Entry<'_>) -> Result<Self, NotYet> {
        Ok(match git::shown(manifest, entry)? {
            git::Shown::AsItIs => Self { holes: holes(entry), ..Self::default() },
            git::Shown::NotExecutable => Self { holes: holes(entry), disarmed: true, text: None },
            git::Shown::Config(text) => Self { text: Some(text.into()), ..Self::default() },
            git::Shown::Withheld => {
                Self { text: Some(Bytes::from_static(git::WITHHELD_TARGET)), ..Self::default() }
            }
        })
    }

    /// What takes the place of the entry's content or target.
    pub(super) fn text(&self) -> Option<&Bytes> {
        self.text.as_ref()
    }

    pub(super) fn holes(&self) -> &[Range<u64>] {
        &self.holes
    }

    pub(super) fn size(&self, entry: &Entry<'_>) -> u64 {
        self.text.as_ref().map_or(entry.size(), |text| text.len() as u64)
    }

    pub(super) fn mode(&self, entry: &Entry<'_>) -> u16 {
        if self.disarmed { entry.mode() & !0o111 } else { entry.mode() }
    }

    fn weight(&self) -> usize {
        size_of::<Self>() + size_of_val(self.holes.as_slice()) + self.text.as_ref().map_or(0, Bytes::len)
    }
}

fn holes(entry: &Entry<'_>) -> Vec<Range<u64>> {
    if entry.kind() == Kind::File && entry.has_extra() { entry.extra().holes } else { Vec::new() }
}

/// Works out what is shown, and keeps what was costly.
#[derive(Debug)]
pub(super) struct Showcase {
    kept: Mutex<Kept>,
}

#[derive(Debug)]
struct Kept {
    shown: LruCache<EntryIndex, Arc<Shown>>,
    bytes: usize,
    bytes_max: usize,
}

impl Default for Showcase {
    fn default() -> Self {
        Self { kept: Mutex::new(Kept::new(KEPT_BYTES_MAX)) }
    }
}

impl Showcase {
    /// What is shown of `entry`.
    pub(super) fn of(&self, manifest: &Manifest, entry: &Entry<'_>) -> Result<Arc<Shown>, NotYet> {
        // Everything else is told by the record and the names around it.
        let costly = entry.kind() == Kind::File && entry.has_extra();
        if !costly {
            return Ok(Arc::new(Shown::new(manifest, entry)?));
        }
        if let Some(found) = self.locked(|kept| kept.shown.get(&entry.index()).cloned()) {
            return Ok(found);
        }
        let shown = Arc::new(Shown::new(manifest, entry)?);
        self.locked(|kept| kept.put(entry.index(), shown.clone()));
        Ok(shown)
    }

    fn locked<T>(&self, work: impl FnOnce(&mut Kept) -> T) -> T {
        work(&mut self.kept.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Kept {
    fn new(bytes_max: usize) -> Self {
        Self { shown: LruCache::unbounded(), bytes: 0, bytes_max }
    }

    fn put(&mut self, index: EntryIndex, shown: Arc<Shown>) {
        self.bytes += shown.weight();
        if let Some(replaced) = self.shown.put(index, shown) {
            self.bytes -= replaced.weight();
        }
        while self.bytes > self.bytes_max {
            let Some((_, oldest)) = self.shown.pop_lru() else { break };
            self.bytes -= oldest.weight();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_has_a_bound() {
        let shown = |bytes: usize| Arc::new(Shown { text: Some(vec![0; bytes].into()), ..Shown::default() });
        let mut kept = Kept::new(1000);
        for index in 0..100 {
            kept.put(EntryIndex(index % 10), shown(100));
            assert!(kept.bytes <= 1000);
        }
        let sum: usize = kept.shown.iter().map(|(_, shown)| shown.weight()).sum();
        assert_eq!(kept.bytes, sum);
        assert!(kept.shown.peek(&EntryIndex(9)).is_some());
        kept.put(EntryIndex(1), shown(2000));
        assert_eq!((kept.bytes, kept.shown.len()), (0, 0));
    }
}
