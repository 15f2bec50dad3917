//! What of a view is kept here whatever the [cache](super::cache) wants: fetched completely, never evicted.
//!
//! A pin is a path, not a file: in another version of the workspace it holds for what lies there then. Which files it
//! holds for is worked out once the manifest is complete, and until then nothing of the view is evicted.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::watch;

use super::account::{Account, AccountError, FileAccount, Presence, entry_at};
use super::cache::Cached;
use super::engine::Engine;
use super::hydrate;
use super::inodes::Marks;
use super::uses::Uses;
use super::{Replica, lock};
use crate::digest::BLOCK_BYTES;
use crate::manifest::{Arrival, Entry, EntryIndex, Kind, Listing, Manifest};

/// Pins of one replica at most: each costs a walk of what is below it.
pub const PINS_MAX: usize = 100;

/// How often it is looked whether the disk has lost something.
const LOOK_AGAIN: Duration = Duration::from_secs(15);

/// After a pass that left something, the next one begins so much later at the earliest, or when the origin is back.
const NEXT_PASS: Duration = Duration::from_secs(15);

/// A path that is kept here.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Pin {
    /// Below which root.
    pub root: u32,
    /// Where below it; empty for all of it.
    pub path: Vec<u8>,
}

/// How far a pin is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PinStatus {
    /// The pin.
    pub pin: Pin,
    /// What of it is here; `None` when this version of the workspace has nothing there, or it is not known yet.
    pub kept: Option<PinKept>,
}

/// How much of what is pinned is here. Files with several names count once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PinKept {
    /// Files.
    pub files: u64,
    /// Those that are here as a whole.
    pub files_here: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Bytes that are here.
    pub bytes_here: u64,
}

/// Why something is not pinned.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PinError {
    /// It has everything, sooner or later.
    #[error("it is not a view, and fetches everything anyway")]
    NotCached,
    /// Nothing lies there.
    #[error("there is no such file")]
    NoSuchFile,
    /// The part of the manifest that tells has not arrived.
    #[error("the list of files has not arrived so far yet")]
    NotYet,
    /// [`PINS_MAX`].
    #[error(
        "{PINS_MAX} paths of this view are pinned already: pin a directory above some of them in their place"
    )]
    TooMany,
    /// All that is pinned would be more than the cache may hold.
    #[error(
        "it has {wanted} bytes, {pinned} bytes are pinned already, and the cache holds {bytes_max} at most"
    )]
    OverBudget {
        /// Bytes that it adds to what is pinned.
        wanted: u64,
        /// Bytes that are pinned already, in all views.
        pinned: u64,
        /// What the cache holds at most.
        bytes_max: u64,
    },
    /// The disk has not enough room.
    #[error("{missing} bytes of it are not here, and the disk has room for {room} more")]
    NoSpace {
        /// Bytes that are to be fetched.
        missing: u64,
        /// Bytes that are free above the floor, or could be.
        room: u64,
    },
}

impl From<AccountError> for PinError {
    fn from(error: AccountError) -> Self {
        match error {
            AccountError::NotYet => Self::NotYet,
            AccountError::NoSuchFile | AccountError::Disk(_) => Self::NoSuchFile,
        }
    }
}

/// The pins of a replica.
#[derive(Debug)]
pub(super) struct Pins {
    /// Shared by the editions of a view.
    list: Arc<watch::Sender<Arc<[Pin]>>>,
    /// Another edition sees to them.
    is_over: watch::Sender<bool>,
    /// The files they hold for; `None` while that is not known. A leaf.
    files: Mutex<Option<Arc<Marks>>>,
}

/// Bytes of some files.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct PinnedBytes {
    pub(super) all: u64,
    pub(super) here: u64,
}

impl Pins {
    pub(super) fn new(list: Vec<Pin>) -> Self {
        let list = Arc::new(watch::Sender::new(list.into()));
        Self { list, is_over: watch::Sender::new(false), files: Mutex::default() }
    }

    /// The same, for the next edition.
    fn next(&self) -> Self {
        Self { list: self.list.clone(), is_over: watch::Sender::new(false), files: Mutex::default() }
    }

    /// The files they hold for, once that is known.
    pub(super) fn files(&self) -> Option<Arc<Marks>> {
        lock(&self.files).clone()
    }

    /// True for a file that is kept, or may be.
    pub(super) fn is_pinned(&self, file: EntryIndex) -> bool {
        lock(&self.files).as_ref().is_none_or(|files| files.is_set(file))
    }
}

impl Cached {
    /// That of the next edition of the view, which has these entries.
    pub(super) fn next(&self, entries: u32) -> Self {
        Self { cache: self.cache.clone(), uses: Uses::new(entries), pins: self.pins.next() }
    }

    /// The next edition is there: it has what was used last, and sees to the pins.
    pub(super) fn followed_by(&self, next: &Self, entry_of: impl Fn(EntryIndex) -> Option<EntryIndex>) {
        self.pins.is_over.send_replace(true);
        for (second, file) in self.uses.all() {
            if let Some(file) = entry_of(file) {
                next.uses.found(file, second);
            }
        }
    }
}

impl Replica {
    /// Pins `pin` unless that is more than the cache and the disk have room for; returns all pins then. Blocks.
    ///
    /// Whoever wants it to last keeps what is returned, and gives it to the replica when it is [opened](super::ReplicaConfig)
    /// again.
    pub fn pin(&self, pin: Pin) -> Result<Vec<Pin>, PinError> {
        let cached = self.engine.cached.as_ref().ok_or(PinError::NotCached)?;
        if *self.manifest().arrival().borrow() != Arrival::Complete {
            return Err(PinError::NotYet);
        }
        entry_at(self.manifest(), &pin)?;
        let mut list = cached.pins.list.borrow().to_vec();
        if !list.contains(&pin) {
            if list.len() >= PINS_MAX {
                return Err(PinError::TooMany);
            }
            let before = bytes_of(&self.engine, &files_of(self.manifest(), &list));
            list.push(pin);
            list.sort();
            let after = bytes_of(&self.engine, &files_of(self.manifest(), &list));
            cached.cache.admits_pin(&self.engine, before, after)?;
            cached.pins.list.send_replace(list.as_slice().into());
        }
        Ok(list)
    }

    /// Removes a pin; returns those that are left, or `None` where it was none. What it kept stays until it is evicted.
    pub fn unpin(&self, pin: &Pin) -> Option<Vec<Pin>> {
        let cached = self.engine.cached.as_ref()?;
        let mut list = cached.pins.list.borrow().to_vec();
        let at = list.iter().position(|other| other == pin)?;
        list.remove(at);
        cached.pins.list.send_replace(list.as_slice().into());
        Some(list)
    }

    /// How far each pin is. Blocks: for each some ten nanoseconds a file.
    pub fn pins(&self) -> Vec<PinStatus> {
        let Some(cached) = &self.engine.cached else { return Vec::new() };
        let list = cached.pins.list.borrow().clone();
        list.iter().map(|pin| PinStatus { pin: pin.clone(), kept: self.kept(pin) }).collect()
    }

    fn kept(&self, pin: &Pin) -> Option<PinKept> {
        match self.account(pin.root, &pin.path).ok()? {
            Account::Symlink => Some(PinKept::default()),
            Account::File(FileAccount { presence, bytes, blocks_here, .. }) => {
                let is_here = !matches!(presence, Presence::Virtual | Presence::Partial);
                let bytes_here = if is_here { bytes } else { bytes.min(blocks_here * BLOCK_BYTES) };
                Some(PinKept { files: 1, files_here: is_here.into(), bytes, bytes_here })
            }
            Account::Directory(below) => Some(PinKept {
                files: below.files,
                files_here: below.files_here?,
                bytes: below.bytes,
                bytes_here: below.bytes_here?,
            }),
        }
    }
}

/// Keeps what is pinned here until the replica is closed, or another edition does.
pub(super) async fn run(engine: Arc<Engine>) {
    let Some(cached) = &engine.cached else { return };
    let (mut closing, mut is_over) = (engine.closing(), cached.pins.is_over.subscribe());
    tokio::select! {
        _ = closing.wait_for(|closing| *closing) => {}
        _ = is_over.wait_for(|is_over| *is_over) => {
            // What both have is for the other one to keep.
            *lock(&cached.pins.files) = Some(Arc::new(Marks::new(engine.manifest.entries())));
        }
        () = keep(&engine, cached) => {}
    }
}

async fn keep(engine: &Arc<Engine>, cached: &Cached) {
    let mut arrival = engine.manifest.arrival();
    let arrived = arrival.wait_for(|arrival| !matches!(arrival, Arrival::Listed(_))).await;
    if !arrived.is_ok_and(|arrival| *arrival == Arrival::Complete) {
        return;
    }
    let mut list = cached.pins.list.subscribe();
    loop {
        let pins = list.borrow_and_update().clone();
        let (looking, of) = (engine.clone(), pins.clone());
        let found = tokio::task::spawn_blocking(move || Arc::new(files_of(&looking.manifest, &of))).await;
        // It neither panics nor is aborted, except with the runtime itself.
        let Ok(files) = found else { return };
        *lock(&cached.pins.files) = Some(files.clone());
        tokio::select! {
            changed = list.changed() => if changed.is_err() { return },
            () = fetch(engine, &files), if !pins.is_empty() => {}
        }
    }
}

/// Fetches what is missing of these files, again whenever something is; never returns.
async fn fetch(engine: &Arc<Engine>, files: &Arc<Marks>) {
    loop {
        let generation = engine.generation();
        while !hydrate::pass(engine, Some(files)).await {
            let mut availability = engine.origin.availability();
            if engine.is_reachable() {
                tokio::time::sleep(NEXT_PASS).await;
            } else if availability.changed().await.is_err() {
                // Without a sender nobody brings it back; the next pass finds out.
                tokio::time::sleep(NEXT_PASS).await;
            }
        }
        while engine.generation() == generation {
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }
}

/// The files these pins hold for, each by its first name.
fn files_of(manifest: &Manifest, pins: &[Pin]) -> Marks {
    let files = Marks::new(manifest.entries());
    for pin in pins {
        let mut below: Vec<EntryIndex> =
            entry_at(manifest, pin).map(|entry| entry.index()).into_iter().collect();
        while let Some(entry) = below.pop().and_then(|index| manifest.entry(index)) {
            match (entry.kind(), manifest.children(entry.index())) {
                (Kind::File, _) => drop(files.set(entry.inode())),
                (Kind::Directory, Listing::Known(children)) => below.extend(children.map(EntryIndex)),
                (Kind::Directory | Kind::Symlink, _) => {}
            }
        }
    }
    files
}

/// How much these files have, and how much of it is here.
pub(super) fn bytes_of(engine: &Engine, files: &Marks) -> PinnedBytes {
    let ledger = engine.ledger();
    let is_one = |entry: &Entry<'_>| files.is_set(entry.index()) && hydrate::is_content(engine, entry);
    engine.manifest.iter().filter(is_one).fold(PinnedBytes::default(), |sum, entry| {
        let here = if ledger.is_complete(entry.index()) { entry.size() } else { 0 };
        PinnedBytes { all: sum.all.saturating_add(entry.size()), here: sum.here.saturating_add(here) }
    })
}
