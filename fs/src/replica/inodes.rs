//! The inodes in memory, and the descriptors they hold: both bounded, the least recently used make room.
//!
//! "Recently" is a second chance, not an order: a use only sets a flag, and the hand that looks for room clears it
//! and takes whoever it finds without. So a read touches no list.

use std::collections::{HashMap, VecDeque};
use std::fs::File;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, Weak};

use super::inode::Inode;
use super::key::InodeKey;
use super::lock;
use crate::manifest::{EntryIndex, Manifest};

/// Inodes in memory that nobody uses, at most; each takes about 300 bytes, and its extent map is read again when it
/// comes back.
const INODES_MAX: usize = 32 * 1024;

/// Inodes looked at for each one that is added. With all of them in use the table grows by what is in use.
const LOOKS: usize = 4;

/// The inodes in memory. Its lock is taken before any inode's.
#[derive(Debug, Default)]
pub(super) struct Inodes {
    table: Mutex<Table>,
}

#[derive(Debug, Default)]
struct Table {
    inodes: HashMap<InodeKey, Arc<Inode>>,
    ring: VecDeque<InodeKey>,
}

impl Inodes {
    /// The inode, if it is in memory.
    pub(super) fn find(&self, key: InodeKey) -> Option<Arc<Inode>> {
        let table = lock(&self.table);
        let inode = table.inodes.get(&key)?;
        inode.used.store(true, Relaxed);
        Some(inode.clone())
    }

    /// The inode, brought into memory; `None` when the manifest has no such file. A key is that of a first name.
    pub(super) fn bring(&self, manifest: &Manifest, key: InodeKey) -> Option<Arc<Inode>> {
        if let Some(inode) = self.find(key) {
            return Some(inode);
        }
        let new = Arc::new(match key {
            InodeKey::Entry(index) => Inode::new(manifest, &manifest.entry(index)?),
            InodeKey::Local(number) => Inode::local(number),
        });
        let mut table = lock(&self.table);
        // Somebody else may have brought it meanwhile.
        if let Some(inode) = table.inodes.get(&key) {
            return Some(inode.clone());
        }
        table.inodes.insert(key, new.clone());
        table.ring.push_back(key);
        let freed = table.make_room();
        drop(table);
        // Closing files is not done under the lock.
        drop(freed);
        Some(new)
    }

    /// Forgets an inode that is gone for good; the number of one made here may come back for another one.
    pub(super) fn remove(&self, inode: &Arc<Inode>) {
        let mut table = lock(&self.table);
        if table.inodes.get(&inode.key).is_some_and(|found| Arc::ptr_eq(found, inode)) {
            // What is left of it in the ring is passed over.
            table.inodes.remove(&inode.key);
        }
    }

    /// Those about which something is known that is nowhere else.
    pub(super) fn kept(&self) -> Vec<Arc<Inode>> {
        let table = lock(&self.table);
        table.inodes.values().filter(|inode| inode.is_kept.load(Relaxed)).cloned().collect()
    }
}

impl Table {
    fn make_room(&mut self) -> Vec<Arc<Inode>> {
        let mut freed = Vec::new();
        for _ in 0..LOOKS {
            if self.inodes.len() <= INODES_MAX {
                break;
            }
            let Some(key) = self.ring.pop_front() else { break };
            match self.inodes.get(&key) {
                // Nobody can get at an inode that only the table holds, while the table is locked.
                Some(inode) if is_unused(inode) => freed.extend(self.inodes.remove(&key)),
                Some(_) => self.ring.push_back(key),
                None => {}
            }
        }
        freed
    }
}

fn is_unused(inode: &Arc<Inode>) -> bool {
    Arc::strong_count(inode) == 1
        && inode.opens.load(Relaxed) == 0
        && !inode.is_kept.load(Relaxed)
        && !inode.used.swap(false, Relaxed)
}

/// The inodes that hold a descriptor. Its lock is not held while an inode's is taken.
#[derive(Debug)]
pub(super) struct Descriptors {
    max: usize,
    ring: Mutex<VecDeque<Weak<Inode>>>,
}

impl Descriptors {
    /// At most `max` of them, apart from those in use at the moment.
    pub(super) fn new(max: usize) -> Self {
        Self { max: max.max(1), ring: Mutex::default() }
    }

    /// A quarter of what the process may open, between 32 and 4,096: the rest is for connections, pipes and whoever
    /// else lives in the process.
    pub(super) fn max_default() -> usize {
        let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
        limit.current.unwrap_or(u64::MAX).div_ceil(4).clamp(32, 4096) as usize
    }

    /// Gives an inode its open file, and closes others' that have not been used lately.
    pub(super) fn open(&self, inode: &Arc<Inode>, file: File) -> Arc<File> {
        let file = Arc::new(file);
        self.keep(inode, &file);
        file
    }

    /// Gives an inode a file that was opened before, and may have been closed for it meanwhile.
    pub(super) fn keep(&self, inode: &Arc<Inode>, file: &Arc<File>) {
        inode.file_used.store(true, Relaxed);
        if inode.lock().file.replace(file.clone()).is_none() {
            lock(&self.ring).push_back(Arc::downgrade(inode));
        }
        self.make_room();
    }

    fn make_room(&self) {
        // Twice around finds one, if only by then.
        let mut looks = 2 * self.max.cast_signed() + 2;
        while let Some(inode) = self.surplus() {
            let Some(inode) = inode.upgrade() else { continue };
            looks -= 1;
            let is_pinned = is_pinned(&inode);
            if is_pinned || (looks > 0 && inode.file_used.swap(false, Relaxed)) {
                lock(&self.ring).push_back(Arc::downgrade(&inode));
                if looks <= 0 {
                    // Whoever holds these files open is bounded by what the process may open.
                    return;
                }
                continue;
            }
            let file = inode.lock().file.take();
            drop(file);
        }
    }

    fn surplus(&self) -> Option<Weak<Inode>> {
        let mut ring = lock(&self.ring);
        (ring.len() > self.max).then(|| ring.pop_front()).flatten()
    }
}

/// True for a file that may not be found, or not be opened as it is now, a second time: it has lost its last name, or
/// it is an ordinary one, whose mode may have changed since.
fn is_pinned(inode: &Inode) -> bool {
    inode.opens.load(Relaxed) > 0 && (inode.is_removed.load(Relaxed) || inode.lock().state.is_none())
}

/// One bit for each entry of a manifest.
#[derive(Debug)]
pub(super) struct Marks {
    words: Box<[AtomicU64]>,
}

impl Marks {
    /// For a manifest of `entries` entries: an eighth of a byte each.
    pub(super) fn new(entries: u32) -> Self {
        Self { words: (0..entries.div_ceil(64)).map(|_| AtomicU64::new(0)).collect() }
    }

    /// Sets a mark; true when it was not set before.
    pub(super) fn set(&self, index: EntryIndex) -> bool {
        let bit = 1 << (index.0 % 64);
        self.words.get(index.0 as usize / 64).is_some_and(|word| word.fetch_or(bit, Relaxed) & bit == 0)
    }

    /// Clears a mark.
    pub(super) fn clear(&self, index: EntryIndex) {
        if let Some(word) = self.words.get(index.0 as usize / 64) {
            word.fetch_and(!(1 << (index.0 % 64)), Relaxed);
        }
    }

    /// True when it is set.
    pub(super) fn is_set(&self, index: EntryIndex) -> bool {
        let bit = 1 << (index.0 % 64);
        self.words.get(index.0 as usize / 64).is_some_and(|word| word.load(Relaxed) & bit != 0)
    }
}
