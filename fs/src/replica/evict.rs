//! Taking what is stored of one file from the disk again, without a reader noticing.
//!
//! The file's name is removed, in one system call: a crash leaves the file as it was or none, and none is a file of
//! which everything is missing. Before that its blocks are missing in memory, so that whoever comes asks the origin. The
//! editions of a view share files: one is evicted from all of them at once, or from none.
//! Digests stay: what is fetched again is what was there before.

use std::sync::Arc;
use std::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed};

use rustix::fs::{Timespec, Timestamps, UTIME_NOW, UTIME_OMIT};

use super::blocks::Blocks;
use super::engine::Engine;
use super::inode::Inode;
use super::store::StoreError;
use super::{lock, uses};
use crate::manifest::EntryIndex;

/// The last use of a file is written down when what is written there is so many seconds older.
const SAVE_AFTER_S: u32 = 3600;

/// A read that relies on blocks that are on the disk: as long as it lives, none of the file's are evicted.
///
/// Begun before the read looks which blocks are there. Whoever evicts looks for it with the lock held under which it
/// takes the blocks away: so either the read finds them gone, or it keeps them.
pub(super) struct Reliance(Arc<Inode>);

impl Reliance {
    pub(super) fn on(inode: &Arc<Inode>) -> Self {
        inode.readers.fetch_add(1, AcqRel);
        Self(inode.clone())
    }
}

impl Drop for Reliance {
    fn drop(&mut self) {
        self.0.readers.fetch_sub(1, AcqRel);
    }
}

/// A file as one of those knows it who believe in it.
struct Believed {
    engine: Arc<Engine>,
    inode: Arc<Inode>,
}

impl Believed {
    /// True when nobody uses it in any way. `blocks` are its own.
    fn is_unused(&self, blocks: &Blocks) -> bool {
        let is_pinned =
            self.engine.cached.as_ref().is_none_or(|cached| cached.pins.is_pinned(self.inode.index));
        // An ordinary file is nobody's copy.
        !is_pinned
            && self.inode.readers.load(Acquire) == 0
            && self.inode.opens.load(Acquire) == 0
            && blocks.is_loaded(self.engine.generation())
            && blocks.state.is_some()
    }
}

impl Engine {
    /// Removes what is stored of a file, unless somebody uses it, in any edition of the view; returns how many bytes of the
    /// disk that was. Blocks, but not for others.
    pub(super) fn evict(self: &Arc<Self>, index: EntryIndex) -> Result<u64, StoreError> {
        let _alone = self.losing.alone();
        let entry = self.manifest.entry(index).ok_or(StoreError::Removed)?;
        let believed = self.believed(index);
        for Believed { engine, inode } in &believed {
            engine.load(inode)?;
        }
        // Of no two inodes is the same lock waited for while one is held: who holds these waits for no other.
        let data: Vec<_> = believed.iter().filter_map(|file| file.inode.data.try_lock().ok()).collect();
        if data.len() < believed.len() {
            return Ok(0);
        }
        let mut blocks: Vec<_> = believed.iter().map(|file| file.inode.lock()).collect();
        if !believed.iter().zip(&blocks).all(|(file, blocks)| file.is_unused(blocks)) {
            return Ok(0);
        }
        let evicting = believed.iter().zip(&mut blocks);
        let (present, files): (Vec<_>, Vec<_>) =
            evicting.map(|(file, blocks)| (blocks.evict(&file.inode), blocks.file.take())).unzip();
        drop(blocks);
        // Closed before its name goes: the disk gives its space back at once.
        drop(files);
        let freed = present.iter().map(|(_, freed)| *freed).max().unwrap_or(0);
        if let Err(error) = self.store.remove(&self.manifest, &entry) {
            for (file, (present, _)) in believed.iter().zip(present) {
                file.inode.lock().put_back(&file.inode, present);
            }
            return Err(error);
        }
        for Believed { engine, inode } in &believed {
            engine.distrusted.clear(inode.index);
            if let Some(cached) = &engine.cached {
                cached.uses.evicted(inode.index);
            }
        }
        drop(data);
        Ok(freed)
    }

    /// The file as each edition of the view knows it that has it.
    fn believed(self: &Arc<Self>, index: EntryIndex) -> Vec<Believed> {
        let number_of = |engine: &Self, index| engine.store.numbers.as_ref().and_then(|of| of.number(index));
        let number = number_of(self, index);
        let others = self.losing.all().into_iter().filter(|other| !Arc::ptr_eq(other, self));
        let others = others.filter_map(|engine| {
            let entry = engine.store.numbers.as_ref()?.entry(number?)?;
            let inode = engine.inode(entry.into())?;
            (number_of(&engine, inode.index) == number).then_some(Believed { engine, inode })
        });
        let own = self.inode(index.into()).map(|inode| Believed { engine: self.clone(), inode });
        own.into_iter().chain(others).collect()
    }

    /// A file is used now.
    pub(super) fn used(&self, inode: &Inode) {
        if let Some(cached) = &self.cached {
            cached.uses.touch(inode.index);
        }
    }

    /// Something of a file was found on the disk: its times tell when it was last used. Its `data` is held.
    pub(super) fn found_stored(&self, inode: &Arc<Inode>) {
        let Some(cached) = &self.cached else { return };
        let file = inode.lock().file.clone();
        let stat = file.and_then(|file| rustix::fs::fstat(&file).ok());
        let second = stat.map_or(1, |stat| uses::second_of(stat.st_atime.max(stat.st_mtime)));
        inode.use_saved.store(second, Relaxed);
        cached.uses.found(inode.index, second);
    }

    /// True when a file's times no longer tell when it was last used.
    pub(super) fn is_use_to_be_saved(&self, inode: &Inode) -> bool {
        self.cached.is_some() && uses::now().saturating_sub(inode.use_saved.load(Relaxed)) >= SAVE_AFTER_S
    }

    /// Writes down that a file was used now: as the time of its last access, which filesystems keep to a day, or not at
    /// all. Blocks. That it cannot be written costs the file its place after a restart.
    pub(super) fn save_use(&self, inode: &Arc<Inode>) {
        let _data = lock(&inode.data);
        inode.use_saved.store(uses::now(), Relaxed);
        let file = inode.lock().file.clone();
        let at = |nsec| Timespec { tv_sec: 0, tv_nsec: nsec };
        let times = Timestamps { last_access: at(UTIME_NOW), last_modification: at(UTIME_OMIT) };
        if let Some(file) = file {
            let _ = rustix::fs::futimens(&file, &times);
        }
    }
}
