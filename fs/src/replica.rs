//! A local copy in the making: what is here, what is missing, how it is fetched and stored. No kernel.
//!
//! A [`Replica`] answers reads of the files of one snapshot, from the disk where it has their blocks and from the
//! [`Origin`] where it does not. What is fetched is verified, handed to whoever waits, and kept.

use std::sync::atomic::{
    AtomicBool,
    Ordering::{Acquire, Relaxed, Release},
};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use bytes::Bytes;
use tokio::runtime::Handle;

use crate::digest_file::DigestFile;
use crate::manifest::Manifest;
use crate::origin::{Availability, Origin};

mod account;
pub mod anew;
mod ask;
mod attributes;
mod block_set;
mod blocks;
mod cache;
mod census;
mod change;
mod coming;
mod counters;
mod directories;
pub mod editions;
mod engine;
mod evict;
mod extents;
mod finish;
mod flusher;
mod hydrate;
mod inode;
mod inodes;
mod key;
pub mod layout;
mod ledger;
mod load;
mod localize;
mod losing;
pub mod names;
mod next;
mod numbers;
mod patience;
mod pins;
mod places;
mod probe;
mod read;
mod reader;
mod reads;
mod request;
mod scheduler;
mod seek;
mod sequence;
pub mod settle;
mod state;
pub mod status;
mod store;
mod uses;
mod waiters;
mod when_gone;
mod write;
mod writer;

pub use account::{Account, AccountError, DirectoryAccount, FileAccount, Presence, Reading};
use anew::Anew;
pub use attributes::SetAttributes;
use cache::Cached;
pub use cache::{Cache, CacheLimits, CachedStatus, Evicted};
pub use change::{Known, Removal, Times};
pub use editions::ViewDirectory;
use engine::{Engine, Parts};
pub use finish::{FinishError, Receipt};
use inodes::Descriptors;
pub use key::InodeKey;
pub use layout::Layout;
use names::{Files, Names};
pub use numbers::Exhausted;
pub(crate) use numbers::Numbers;
use pins::Pins;
pub use pins::{PINS_MAX, Pin, PinError, PinKept, PinStatus};
use places::{Places, Positions};
use probe::Refusal;
pub use reader::{Program, on_behalf_of};
pub use reads::{Came, WaitEnd, Waited};
pub use settle::SettleError;
pub use status::ReplicaStatus;
use status::{OriginStatus, Tally};
use store::Store;
use uses::Uses;
pub use when_gone::{NotAWhenGone, WAIT_DEFAULT, WAIT_MAX, WhenGone};
pub use write::WriteError;

/// Bytes asked for, or arrived and not on the disk yet, when nobody chose.
pub const MEMORY_BYTES_DEFAULT: u64 = 96 * 1024 * 1024;

/// What is less counts as this much: a few requests of the largest kind.
pub const MEMORY_BYTES_MIN: u64 = 16 * 1024 * 1024;

/// How a replica is run.
#[derive(Debug)]
pub struct ReplicaConfig {
    /// Where it lies.
    pub layout: Layout,
    /// What reads do while the origin is gone.
    pub when_gone: WhenGone,
    /// Bytes asked for, or arrived and not on the disk yet, at most; [`MEMORY_BYTES_MIN`] at least. At the bound
    /// nothing more is asked for until the disk has caught up. Reads that wait hold up to 1 MiB each besides.
    pub memory_bytes_max: u64,
    /// Files on the disk held open at most, apart from those being read or written at the moment; `None` takes a
    /// quarter of what the process may open, between 32 and 4,096.
    pub descriptors_max: Option<usize>,
    /// Whether everything is fetched in the background, until nothing is missing.
    pub hydrate: bool,
    /// Whether its first root can be changed.
    pub is_writable: bool,
    /// The cache whose limits its content shares with that of others: of a replica that neither can be changed nor is
    /// to become complete.
    pub cache: Option<Arc<Cache>>,
    /// What of it is kept here all the same. The next edition of a view has what this one has.
    pub pins: Vec<Pin>,
}

impl ReplicaConfig {
    /// The usual settings for a replica in `layout`.
    pub fn new(layout: Layout) -> Self {
        Self {
            layout,
            when_gone: WhenGone::default(),
            memory_bytes_max: MEMORY_BYTES_DEFAULT,
            descriptors_max: None,
            hydrate: false,
            is_writable: false,
            cache: None,
            pins: Vec::new(),
        }
    }
}

/// Why a replica cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum ReplicaError {
    /// The filesystem cannot hold a replica.
    #[error("{} cannot hold a lazy copy: {reason}; choose a directory on another filesystem (ext4, xfs and btrfs will do)", .path.display())]
    Unsuitable {
        /// The replica's directory.
        path: std::path::PathBuf,
        /// What it lacks.
        reason: String,
    },
    /// The disk failed.
    #[error("the replica in {}: {doing}", .path.display())]
    Disk {
        /// The replica's directory.
        path: std::path::PathBuf,
        /// What was tried.
        doing: &'static str,
        /// What the system said.
        source: std::io::Error,
    },
    /// The origin serves another snapshot than the manifest's.
    #[error("the origin serves another snapshot than the one the manifest describes")]
    OtherSnapshot,
    /// The snapshot has other roots than the one that is shown.
    #[error("the peer shares it with other directories than before: mount it anew to see them")]
    OtherRoots,
    /// No numbers are left for what is new.
    #[error(transparent)]
    Exhausted(#[from] Exhausted),
    /// The directory holds files of another snapshot.
    #[error("{} holds a copy of another snapshot; choose another directory", .path.display())]
    HoldsAnother {
        /// The replica's directory.
        path: std::path::PathBuf,
    },
}

/// Why a read failed. No bytes are returned with it: a read is whole or an error.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// The content is not here and the origin does not answer; worth trying again.
    #[error("the content is not here and the origin cannot be reached: {0}")]
    Gone(String),
    /// The content is not here and the origin, which answers, could not serve it in time; worth trying again.
    #[error("the content is not here and the origin cannot serve it now: {0}")]
    Busy(String),
    /// The content is not here and the origin has it no more: the file changed there, or the snapshot is no longer
    /// served.
    #[error("the content is not here and the origin no longer has this version of it")]
    Stale,
    /// The origin does not let this replica read (any more).
    #[error("the content is not here and the origin refused it: {0}")]
    Refused(String),
    /// What arrived is not what it claims to be.
    #[error("the origin sent something that does not verify: {0}")]
    Corrupt(String),
    /// The origin could not read the file itself.
    #[error("the origin could not read the file: {0}")]
    Unreadable(String),
    /// The manifest has no such file, or shows it no more because its stream failed.
    #[error("the snapshot has no such file")]
    NoSuchFile,
    /// The local disk failed.
    #[error("the local disk failed: {0}")]
    Io(rustix::io::Errno),
}

/// What [`Replica::try_read`] found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TryRead {
    /// The bytes, all that [`Replica::read`] would return.
    Ready(Bytes),
    /// Something must be fetched or read from the disk, or the read fails: [`Replica::read`] tells.
    WouldWait,
}

/// A local copy of one snapshot. Shared between the threads that serve the kernel and the tasks that fetch.
///
/// Dropping it ends all fetching; what has arrived is still written. [`close`](Self::close) waits for that.
#[derive(Debug)]
pub struct Replica {
    engine: Arc<Engine>,
    names: Option<Arc<Names>>,
    /// Somebody who uses it may have changed something.
    is_changed: AtomicBool,
}

impl Replica {
    /// Opens the replica in `config.layout`, new or continued. Everything that is on the disk is used again.
    ///
    /// The manifest may still be arriving. Fetching runs on `runtime`, and ends when the replica is dropped. Blocks
    /// for the time of some system calls: the filesystem is tried out first.
    pub fn open(
        config: ReplicaConfig,
        manifest: Manifest,
        origin: Arc<dyn Origin>,
        runtime: Handle,
    ) -> Result<Arc<Self>, ReplicaError> {
        Self::open_with(
            config,
            manifest,
            origin,
            runtime,
            Box::new(|directory| rustix::fs::syncfs(directory)),
        )
    }

    /// As [`open`](Self::open), with another way of asking the disk whether it has kept what was written.
    fn open_with(
        config: ReplicaConfig,
        manifest: Manifest,
        origin: Arc<dyn Origin>,
        runtime: Handle,
        sync: flusher::SyncDisk,
    ) -> Result<Arc<Self>, ReplicaError> {
        let cached = config.cache.clone().filter(|_| !config.is_writable).map(|cache| Cached {
            cache,
            uses: Uses::new(manifest.entries()),
            pins: Pins::new(config.pins.clone()),
        });
        Self::open_cached(config, manifest, origin, runtime, sync, cached)
    }

    /// As [`open_with`](Self::open_with), as a part of a cache or of none.
    fn open_cached(
        config: ReplicaConfig,
        manifest: Manifest,
        origin: Arc<dyn Origin>,
        runtime: Handle,
        sync: flusher::SyncDisk,
        cached: Option<Cached>,
    ) -> Result<Arc<Self>, ReplicaError> {
        if origin.snapshot() != manifest.snapshot() {
            return Err(ReplicaError::OtherSnapshot);
        }
        let path = config.layout.path().to_owned();
        let backing = probe::backing(config.layout.directory()).map_err(|refusal| match refusal {
            Refusal::Lacks(reason) => ReplicaError::Unsuitable { path: path.clone(), reason },
            Refusal::Failed(source) => ReplicaError::Disk {
                path: path.clone(),
                doing: "its filesystem could not be tried out",
                source,
            },
        })?;
        let disk = |doing, source| ReplicaError::Disk { path: path.clone(), doing, source };
        match config.layout.claim(manifest.snapshot()) {
            Ok(true) => {}
            Ok(false) => return Err(ReplicaError::HoldsAnother { path: path.clone() }),
            Err(source) => return Err(disk("its snapshot cannot be noted", source)),
        }
        let digests = DigestFile::open(&config.layout.digests_path(), manifest.blocks())
            .map_err(|source| disk("its digests cannot be opened", source))?;
        let anew = Anew::open(&config.layout.changed_path(), manifest.entries())
            .map_err(|source| disk("the list of changed files cannot be opened", source))?;
        let numbers = config
            .layout
            .numbers(manifest.entries())
            .map_err(|source| disk("the numbers of its files cannot be read", source))?
            .map(Arc::new);
        let store = Arc::new(Store { layout: Arc::new(config.layout), backing, numbers });
        let positions = Positions { manifest: manifest.clone(), store: store.clone() };
        let is_changed =
            store.layout.has_changes().map_err(|errno| disk("it cannot be looked at", errno.into()))?;
        let names = match config.is_writable {
            true => Some(Arc::new(
                Names::open(store.layout.clone(), manifest.clone())
                    .map_err(|error| disk("its names cannot be read", error.into()))?,
            )),
            false => None,
        };
        let places: Box<dyn Places> = match &names {
            Some(names) => Box::new(Files { names: names.clone(), companions: positions }),
            None => Box::new(positions),
        };
        let engine = Engine::new(Parts {
            manifest,
            origin,
            runtime,
            when_gone: config.when_gone,
            store,
            places,
            digests,
            anew,
            cached,
            memory_bytes_max: config.memory_bytes_max.max(MEMORY_BYTES_MIN),
            descriptors_max: config.descriptors_max.unwrap_or_else(Descriptors::max_default),
            sync,
        });
        engine.runtime.spawn(census::run(engine.clone()));
        if let Some(cached) = &engine.cached {
            cached.cache.join(&engine);
            engine.runtime.spawn(pins::run(engine.clone()));
        }
        if config.hydrate {
            engine.runtime.spawn(hydrate::run(engine.clone()));
            if let Some(names) = &names {
                engine.runtime.spawn(anew::run(engine.clone(), names.clone()));
            }
        }
        Ok(Arc::new(Self { engine, names, is_changed: AtomicBool::new(is_changed) }))
    }

    /// The snapshot's manifest.
    pub fn manifest(&self) -> &Manifest {
        &self.engine.manifest
    }

    /// The numbers that its entries keep from one edition of a view to the next, if it is one.
    pub(crate) fn numbers(&self) -> Option<&Arc<Numbers>> {
        self.engine.store.numbers.as_ref()
    }

    /// The names of its first root, if that can be changed.
    pub fn names(&self) -> Option<&Arc<Names>> {
        self.names.as_ref()
    }

    /// True once somebody who uses it may have changed something.
    pub fn is_changed(&self) -> bool {
        self.is_changed.load(Acquire)
    }

    /// Notes that somebody is about to change something. Blocks, the first time.
    pub(crate) fn note_change(&self) -> Result<(), rustix::io::Errno> {
        if !self.is_changed() {
            self.engine.store.layout.note_changes()?;
            self.is_changed.store(true, Release);
        }
        Ok(())
    }

    /// What it runs on.
    pub(crate) fn runtime(&self) -> &Handle {
        &self.engine.runtime
    }

    /// What reads do while the origin is gone.
    pub fn when_gone(&self) -> WhenGone {
        self.engine.when_gone
    }

    /// Where it lies.
    pub fn layout(&self) -> &Layout {
        &self.engine.store.layout
    }

    /// Reads without waiting, from memory or from what the kernel has cached of the disk; never blocks.
    ///
    /// `file` is any entry of the inode. A read at or beyond the end is empty.
    pub fn try_read(&self, file: impl Into<InodeKey>, offset: u64, length: u32) -> TryRead {
        self.engine.try_read(file.into(), offset, length)
    }

    /// Reads `length` bytes at `offset`, or up to the end of the file, fetching what is not here: exactly these
    /// bytes, or an error. How long it waits for the origin is [`ReplicaConfig::when_gone`]'s to say.
    ///
    /// Dropping the future gives the wait up; what has been asked for still arrives and is kept.
    pub async fn read(
        &self,
        file: impl Into<InodeKey>,
        offset: u64,
        length: u32,
    ) -> Result<Bytes, ReadError> {
        self.engine.read(file.into(), offset, length).await
    }

    /// What it says about itself now. Costs some microseconds.
    pub fn status(&self) -> ReplicaStatus {
        let Engine { counters, scheduler, writer, .. } = &*self.engine;
        let ledger = self.engine.ledger();
        let (here, gone) = (ledger.here(), ledger.gone());
        let (stale, stale_total) = counters.stale_files();
        let changed = self.engine.changed_files();
        ReplicaStatus {
            snapshot: self.manifest().snapshot(),
            counted: ledger.is_counted.load(Relaxed),
            files: tally(here.files, counters.files.load(Relaxed), gone.files),
            blocks: tally(here.blocks, self.manifest().blocks(), gone.blocks),
            bytes: tally(here.bytes, self.manifest().file_bytes(), gone.bytes),
            fetched: counters.fetched_bytes(),
            demand: counters.demand(),
            origin: self.origin_status(),
            when_gone: self.engine.when_gone,
            memory_bytes: scheduler.bytes(),
            memory_bytes_max: scheduler.bytes_max(),
            disk_refuses: writer.refusal().map(|refusal| refusal.to_string()),
            short_of_space: Some(counters.short_of_space.load(Relaxed)).filter(|bytes| *bytes > 0),
            stale,
            stale_total,
            changed,
            errors: counters.errors(),
        }
    }

    /// Who is told when files get other inodes: whoever shows them. To be set before anything is shown.
    pub fn set_watch(&self, watch: Weak<dyn anew::Watch>) {
        self.engine.anew.set_watch(watch);
    }

    fn origin_status(&self) -> OriginStatus {
        if self.engine.is_snapshot_gone() {
            return OriginStatus::SnapshotGone;
        }
        match &*self.engine.origin.availability().borrow() {
            Availability::Reachable => OriginStatus::Reachable,
            Availability::Gone { since, why } => {
                OriginStatus::Gone { for_ms: since.elapsed().as_millis() as u64, why: why.clone() }
            }
        }
    }

    /// Returns when [everything has been fetched](ReplicaConfig::hydrate). Cancel safe.
    pub async fn hydrated(&self) {
        let mut hydrated = self.engine.counters.hydrated.subscribe();
        // The sender lives as long as the engine.
        let _ = hydrated.wait_for(|hydrated| *hydrated).await;
    }

    /// Makes ordinary trees of what is here, once [everything has been fetched](Self::hydrated): all names, the true
    /// modes and times, no state. May be repeated, also after an interruption.
    ///
    /// Directories whose mode forbids their own user to enter or change them stay open until the clone is
    /// [concluded](settle::conclude). Blocks for some tens of µs a name.
    pub fn finish(&self) -> Result<Receipt, FinishError> {
        finish::finish(&self.engine, self.names.as_deref())
    }

    /// Moves the tree of a [finished](Self::finish) clone up to where it stays, beneath the mount. Reads go on.
    pub fn move_up(&self) -> Result<(), SettleError> {
        match &self.names {
            Some(names) => settle::move_names_up(&self.engine.store.layout, names),
            None => settle::move_up(&self.engine.store.layout),
        }
    }

    /// Returns when nothing is on its way and what has arrived is on the disk, or was refused by it.
    pub async fn idle(&self) {
        self.engine.idle().await;
    }

    /// Ends all fetching, waits until what has arrived is on the disk, and lets go of the directory, so that another
    /// process may open it. Content that is here can still be read; reads of anything else fail.
    pub async fn close(&self) {
        self.quiet().await;
        self.engine.store.layout.unlock();
    }

    /// As [`close`](Self::close), and keeps the directory.
    async fn quiet(&self) {
        self.engine.close();
        self.engine.idle().await;
        let (engine, names) = (self.engine.clone(), self.names.clone());
        // It can only fail with the runtime itself.
        let saved = self.engine.runtime.spawn_blocking(move || {
            engine.save_all();
            if let Some(Err(error)) = names.map(|names| names.sync()) {
                engine.counters.error(format!("the times of directories cannot be kept: {error}"));
            }
            engine.flusher.ask(&engine);
        });
        let _ = saved.await;
    }
}

impl Drop for Replica {
    fn drop(&mut self) {
        self.engine.close();
    }
}

/// How much of `all` is here, of which some is gone for good. The three are not counted in one moment.
fn tally(here: i64, all: u64, gone: i64) -> Tally {
    Tally { resident: here.max(0).cast_unsigned(), total: all.saturating_sub(gone.max(0).cast_unsigned()) }
}

/// Locks a mutex of plain data, which no panic can leave half changed in a way that matters more than going on.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
