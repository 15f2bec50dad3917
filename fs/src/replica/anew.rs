//! Taking files anew: a file that changed at the origin before all of it was here gets the version that is there now.
//!
//! Two versions are never mixed: the new one is fetched as a whole into a file of its own and takes the place of the old
//! one at once. Whoever has the old one open keeps what is here of it. A file that was changed here is never replaced:
//! somebody must decide. So is one that somebody has open for writing, until it is closed: what would still be written
//! to it would be lost.
//!
//! What became of each file is [listed], for as long as the replica exists.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, OnceLock, Weak};
use std::time::Duration;

use rustix::io::Errno;
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::engine::Engine;
use super::hydrate;
use super::inode::Inode;
use super::inodes::Marks;
use super::key::InodeKey;
use super::lock;
use super::names::{Names, Spot};
use super::status::{ChangedFile, ChangedFiles, ChangedList};
use crate::manifest::{Arrival, EntryIndex, Mtime};

mod fetch;
mod listed;
mod resolve;
mod swap;

use fetch::{Fetched, Unfetched};
pub use listed::Became;
use listed::{Alike, Listed};
pub use resolve::{Decision, ResolveError};
use swap::{Standing, Swapped, Whose};

/// Files taken anew at once.
const AT_ONCE: usize = 4;

/// The first pause before a file is asked for again, which doubles with each attempt.
const PAUSE_MIN: Duration = Duration::from_secs(1);

/// The longest.
const PAUSE_MAX: Duration = Duration::from_secs(60);

/// After so many attempts in vain a file is listed as unsettled. It is still asked for.
const TRIES: u32 = 4;

/// Who must know when a file gets another inode: whoever shows files to programs.
pub trait Watch: std::fmt::Debug + Send + Sync {
    /// The inode may lose its names to another one in a moment. Nothing is locked.
    fn replacing(&self, key: InodeKey);

    /// It has lost these names, each by its directory and name. Nothing is locked.
    fn replaced(&self, key: InodeKey, names: &[(InodeKey, Box<[u8]>)]);
}

/// The files of a replica that changed at the origin.
#[derive(Debug)]
pub(super) struct Anew {
    /// Those to be taken anew, by their first names.
    waiting: Mutex<BTreeMap<EntryIndex, Waiting>>,
    news: Notify,
    /// None waits any more.
    pub(super) none_waits: Notify,
    pub(super) listed: Listed,
    /// Files of the manifest that have lost their last name to a new version: what is missing of them never comes.
    pub(super) replaced: Marks,
    watch: OnceLock<Weak<dyn Watch>>,
}

#[derive(Clone, Copy, Debug)]
struct Waiting {
    attempts: u32,
    not_before: Instant,
    /// Somebody is at it.
    under_way: bool,
}

/// What came of an attempt.
#[derive(Debug)]
enum Outcome {
    /// That is what became of it.
    Became(Became),
    /// Nothing is missing of it any more, by other means.
    NotMissing,
    /// Nothing came of it, for this reason; it is tried again.
    NotNow(Became),
    /// It was not even tried, or the origin could not answer; it is tried again.
    Later,
}

impl Anew {
    /// Opens the list at `path`, for a manifest of `entries` entries.
    pub(super) fn open(path: &Path, entries: u32) -> io::Result<Self> {
        let listed = Listed::open(path, entries)?;
        let waiting = Waiting { attempts: 0, not_before: Instant::now(), under_way: false };
        // Somebody may have taken care of them.
        let waiting = listed.open_ones().into_iter().map(|file| (file, waiting)).collect();
        Ok(Self {
            waiting: Mutex::new(waiting),
            news: Notify::new(),
            none_waits: Notify::new(),
            listed,
            replaced: Marks::new(entries),
            watch: OnceLock::new(),
        })
    }

    /// The file is no longer what the snapshot names; true when it was not known.
    pub(super) fn add(&self, file: EntryIndex) -> bool {
        let now = Instant::now();
        let is_new = match lock(&self.waiting).entry(file) {
            Entry::Occupied(_) => false,
            Entry::Vacant(vacant) => {
                vacant.insert(Waiting { attempts: 0, not_before: now, under_way: false });
                true
            }
        };
        if is_new {
            self.news.notify_one();
        }
        is_new
    }

    /// Wakes whoever waits for all files to be here.
    fn tell_if_none_waits(&self) {
        if lock(&self.waiting).is_empty() {
            self.none_waits.notify_one();
        }
    }

    pub(super) fn set_watch(&self, watch: Weak<dyn Watch>) {
        // A replica is mounted once.
        let _ = self.watch.set(watch);
    }

    fn watch(&self) -> Option<Told> {
        self.watch.get().and_then(Weak::upgrade).map(Told)
    }

    /// A file whose turn it is, or when the next one's is.
    fn next(&self) -> Result<EntryIndex, Option<Instant>> {
        let mut waiting = lock(&self.waiting);
        let now = Instant::now();
        let free = waiting.iter_mut().filter(|(_, waiting)| !waiting.under_way);
        let Some((file, next)) = free.min_by_key(|(_, waiting)| waiting.not_before) else { return Err(None) };
        if next.not_before > now {
            return Err(Some(next.not_before));
        }
        next.under_way = true;
        Ok(*file)
    }

    /// Files that are to be taken anew, as far as is known.
    fn undecided(&self) -> Alike {
        let mut alike = Alike::default();
        let is_told = |became: Became| became.is_open() && became != Became::Decided;
        let is_undecided = |file: &&EntryIndex| !self.listed.of(**file).is_some_and(is_told);
        for file in lock(&self.waiting).keys().filter(is_undecided) {
            alike.total += 1;
            if alike.some.len() < super::status::LISTED_MAX {
                alike.some.push((*file, 0));
            }
        }
        alike
    }
}

/// Whoever watches.
struct Told(Arc<dyn Watch>);

impl Told {
    fn replacing(&self, key: InodeKey) {
        self.0.replacing(key);
    }

    fn replaced(&self, key: InodeKey, spots: &[Spot]) {
        let names: Vec<_> = spots.iter().map(|spot| (spot.directory, spot.name.clone())).collect();
        self.0.replaced(key, &names);
    }
}

/// Takes files anew until the replica is closed.
pub(super) async fn run(engine: Arc<Engine>, names: Arc<Names>) {
    let mut closing = engine.closing();
    let mut under_way = JoinSet::new();
    tokio::select! {
        _ = closing.wait_for(|closing| *closing) => {}
        () = take_all(&engine, &names, &mut under_way) => {}
    }
    // What is half fetched goes; what is being put in place is put in place.
    under_way.shutdown().await;
}

async fn take_all(engine: &Arc<Engine>, names: &Arc<Names>, under_way: &mut JoinSet<()>) {
    let mut arrival = engine.manifest.arrival();
    let arrived = arrival.wait_for(|arrival| !matches!(arrival, Arrival::Listed(_))).await;
    if !arrived.is_ok_and(|arrival| *arrival == Arrival::Complete) {
        return;
    }
    loop {
        while under_way.len() >= AT_ONCE {
            under_way.join_next().await;
        }
        hydrate::room(engine).await;
        match engine.anew.next() {
            Ok(file) => {
                let (engine, names) = (engine.clone(), names.clone());
                under_way.spawn(async move {
                    let outcome = take(&engine, &names, file).await;
                    engine.conclude(file, outcome);
                });
            }
            Err(when) => {
                let later = async {
                    match when {
                        Some(when) => tokio::time::sleep_until(when).await,
                        None => std::future::pending().await,
                    }
                };
                tokio::select! {
                    () = later => {}
                    () = engine.anew.news.notified() => {}
                    Some(_) = under_way.join_next() => {}
                }
            }
        }
    }
}

/// Takes a file anew, if it may be.
async fn take(engine: &Arc<Engine>, names: &Arc<Names>, file: EntryIndex) -> Outcome {
    let Some(inode) = engine.inode(file.into()) else { return Outcome::NotMissing };
    let is_decided = engine.anew.listed.of(file) == Some(Became::Decided);
    let prepare = move |engine: &Arc<Engine>, names: &Names, inode: &Arc<Inode>| {
        prepare(engine, names, inode, is_decided)
    };
    let prepared = blocking(engine, names, &inode, prepare).await;
    let mut whose = Whose::Anyones;
    let mut spots = match prepared {
        Ok(Prepared::Spots(spots, verified)) => {
            if !is_decided {
                whose = Whose::Untouched(verified);
            }
            spots
        }
        Ok(Prepared::Not(standing)) => return not(standing),
        Ok(Prepared::OtherNames) => return Outcome::NotNow(Became::Conflict),
        Err(errno) => return failed(engine, &inode, &format!("it cannot be taken anew: {errno}")),
    };
    let mut became = Became::TakenAnew;
    while let Some(spot) = spots.first() {
        let fetched = match fetch::fetch(engine, names, &inode, spot.entry).await {
            Ok(fetched) => fetched,
            Err(error) => return unfetched(engine, &inode, error),
        };
        let (of_this, others) = spots.into_iter().partition(|spot| fetched.names.contains(&spot.entry));
        spots = others;
        let is_removed = matches!(fetched.successor, super::names::Successor::Nothing);
        match put(engine, names, &inode, of_this, fetched, whose).await {
            Ok(Swapped::Done) if is_removed => became = Became::Removed,
            Ok(Swapped::Done) => {}
            Ok(Swapped::Not(standing)) => return not(standing),
            Err(Errno::STALE) => return Outcome::Later,
            Err(errno) => {
                return failed(engine, &inode, &format!("its new version cannot be put in place: {errno}"));
            }
        }
    }
    Outcome::Became(became)
}

/// Where a file lies that may be replaced.
enum Prepared {
    Spots(Vec<Spot>, Option<Mtime>),
    Not(Standing),
    /// It was given other names here.
    OtherNames,
}

fn prepare(
    engine: &Arc<Engine>,
    names: &Names,
    inode: &Arc<Inode>,
    is_decided: bool,
) -> Result<Prepared, Errno> {
    match engine.standing_of(names, inode)? {
        Standing::Changed | Standing::Moved(_) if is_decided => spots(names, inode, None),
        Standing::Untouched => spots(names, inode, None),
        Standing::Moved(at) if engine.has_its_digests(inode)? => spots(names, inode, Some(at)),
        Standing::Moved(_) => Ok(Prepared::Not(Standing::Changed)),
        other => Ok(Prepared::Not(other)),
    }
}

fn spots(names: &Names, inode: &Inode, verified: Option<Mtime>) -> Result<Prepared, Errno> {
    match names.spots(inode.key) {
        Ok(Some(spots)) => Ok(Prepared::Spots(spots, verified)),
        Ok(None) => Ok(Prepared::OtherNames),
        Err(error) => match swap::errno(error) {
            Errno::STALE => Ok(Prepared::Not(Standing::NotMissing)),
            errno => Err(errno),
        },
    }
}

async fn put(
    engine: &Arc<Engine>,
    names: &Arc<Names>,
    inode: &Arc<Inode>,
    spots: Vec<Spot>,
    fetched: Fetched,
    whose: Whose,
) -> Result<Swapped, Errno> {
    blocking(engine, names, inode, move |engine, names, inode| {
        engine.swap(names, inode, &spots, &fetched.successor, whose)
    })
    .await
}

async fn blocking<T: Send + 'static>(
    engine: &Arc<Engine>,
    names: &Arc<Names>,
    inode: &Arc<Inode>,
    work: impl FnOnce(&Arc<Engine>, &Names, &Arc<Inode>) -> Result<T, Errno> + Send + 'static,
) -> Result<T, Errno> {
    let (engine, names, inode) = (engine.clone(), names.clone(), inode.clone());
    tokio::task::spawn_blocking(move || work(&engine, &names, &inode)).await.map_err(|_| Errno::IO)?
}

fn not(standing: Standing) -> Outcome {
    match standing {
        Standing::NotMissing => Outcome::NotMissing,
        Standing::Changed => Outcome::NotNow(Became::Conflict),
        Standing::BeingWritten | Standing::Untouched | Standing::Moved(_) => Outcome::Later,
    }
}

fn failed(engine: &Engine, inode: &Inode, what: &str) -> Outcome {
    engine.report(inode, what);
    Outcome::Later
}

fn unfetched(engine: &Engine, inode: &Inode, error: Unfetched) -> Outcome {
    match error {
        Unfetched::KeepsChanging => Outcome::NotNow(Became::KeepsChanging),
        Unfetched::AnotherKind => Outcome::NotNow(Became::AnotherKind),
        Unfetched::Unreadable(why) => {
            tracing::info!(path = engine.path(inode.index), why, "a changed file cannot be had now");
            Outcome::NotNow(Became::Unreadable)
        }
        Unfetched::Origin(error) => {
            tracing::debug!(path = engine.path(inode.index), %error, "a changed file cannot be had now");
            Outcome::Later
        }
        Unfetched::Invalid(what) => failed(engine, inode, &format!("its new version is not taken: {what}")),
        Unfetched::Disk(errno) => failed(engine, inode, &format!("its new version cannot be kept: {errno}")),
    }
}

impl Engine {
    fn conclude(&self, file: EntryIndex, outcome: Outcome) {
        let mut waiting = lock(&self.anew.waiting);
        let became = match &outcome {
            Outcome::Became(became) => {
                waiting.remove(&file);
                Some(Some(*became))
            }
            Outcome::NotMissing => {
                waiting.remove(&file);
                // Somebody took care of it; what was said before no longer holds.
                let was = self.anew.listed.of(file);
                Some(was.filter(|was| !was.is_open()))
            }
            Outcome::NotNow(_) | Outcome::Later => {
                let Some(waiting) = waiting.get_mut(&file) else { return };
                waiting.under_way = false;
                waiting.not_before =
                    Instant::now() + PAUSE_MAX.min(PAUSE_MIN * (1 << waiting.attempts.min(6)));
                waiting.attempts += 1;
                match outcome {
                    // What somebody decided stays decided.
                    _ if self.anew.listed.of(file) == Some(Became::Decided) => None,
                    Outcome::NotNow(became @ (Became::Conflict | Became::AnotherKind)) => Some(Some(became)),
                    Outcome::NotNow(became) if waiting.attempts >= TRIES => Some(Some(became)),
                    _ => None,
                }
            }
        };
        drop(waiting);
        if let Some(became) = became {
            self.note(file, became);
        }
        self.anew.tell_if_none_waits();
    }

    pub(super) fn note(&self, file: EntryIndex, became: Option<Became>) {
        match self.anew.listed.note(file, became) {
            Ok(true) => tracing::info!(path = self.path(file), ?became, "a file changed at the origin"),
            Ok(false) => {}
            Err(error) => self.counters.error(format!("the list of changed files cannot be kept: {error}")),
        }
    }

    /// The files that changed at the origin, and what became of them.
    pub(super) fn changed_files(&self) -> ChangedFiles {
        let list = |alike: Alike| ChangedList {
            total: alike.total,
            listed: alike
                .some
                .into_iter()
                .map(|(file, at_ms)| ChangedFile {
                    path: self.path(file),
                    became: self.anew.listed.of(file),
                    at_ms: (at_ms > 0).then_some(at_ms),
                })
                .collect(),
        };
        let of = |wanted: &[Became]| list(self.anew.listed.alike(|became| wanted.contains(&became)));
        ChangedFiles {
            waiting: list(self.anew.undecided()),
            taken_anew: of(&[Became::TakenAnew]),
            removed: of(&[Became::Removed]),
            conflicts: of(&[Became::Conflict]),
            unsettled: of(&[Became::KeepsChanging, Became::AnotherKind, Became::Unreadable]),
            kept: of(&[Became::Kept]),
        }
    }
}
