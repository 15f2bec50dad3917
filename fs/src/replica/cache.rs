//! The disk that the content of all views shares: how much it may take, and what is evicted when it takes more.
//!
//! Whoever is about to store something asks first ([`Cache::admits`]). When there is no room, it makes some: whole
//! files, the least recently used of all views first, never one that is open (what is mapped is open), being read at
//! the moment, or pinned. So what is stored never exceeds the budget by more than the writes under way, and nobody
//! waits for it but the threads that write. Where nothing can be evicted nothing is stored: readers get what they asked
//! for from memory, as with a full disk.
//!
//! What is stored is counted by the [ledger](super::ledger) of each view, in the disk's units of 4 KiB. What a view had
//! stored before it was opened is counted in the background; until then there is more than is known.

use std::collections::BinaryHeap;
use std::fmt;
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use tokio::time::Instant;

use super::engine::Engine;
use super::pins::{self, PinError, PinnedBytes, Pins};
use super::uses::{self, Uses};
use super::{Replica, lock};
use crate::manifest::EntryIndex;

/// Files looked at in one go: 24 bytes each while it is done.
const CANDIDATES: usize = 4096;

/// One part in so many is evicted beyond what is needed, so that the files are not gone through for each write.
const AT_ONCE: u64 = 16;

/// How long nothing is looked for after nothing was found, and how often the disk is asked what is free.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// How often what is free is looked at when nothing is stored.
const TEND_EVERY: Duration = Duration::from_secs(5);

/// How much the content of all views may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CacheLimits {
    /// Bytes of content at most.
    pub bytes_max: u64,
    /// Bytes that stay free on the filesystem.
    pub free_bytes_min: u64,
}

impl CacheLimits {
    /// Those for a filesystem of `bytes` bytes when nobody chose: a tenth of it, at most 50 GB; and a twentieth stays
    /// free, at most 5 GB.
    pub fn for_disk(bytes: u64) -> Self {
        const GB: u64 = 1_000_000_000;
        Self { bytes_max: (bytes / 10).min(50 * GB), free_bytes_min: (bytes / 20).min(5 * GB) }
    }
}

/// Why nothing is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Full {
    /// The budget is used up by what cannot be evicted.
    Budget,
    /// Too little is free on the disk, and nothing can be evicted.
    Floor,
}

impl fmt::Display for Full {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Budget => "the cache is full of files that are open or pinned",
            Self::Floor => "the disk has less free than the cache leaves free",
        })
    }
}

/// What was evicted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Evicted {
    /// Files.
    pub files: u64,
    /// Bytes of the disk.
    pub bytes: u64,
}

/// What a view has in the cache.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CachedStatus {
    /// Bytes on the disk; too few while [`is_counted`](Self::is_counted) is false.
    pub bytes: u64,
    /// Whether what was there at the start has been counted.
    pub is_counted: bool,
    /// Bytes of files that are pinned.
    pub pinned_bytes: u64,
    /// Those of them that are here.
    pub pinned_bytes_here: u64,
    /// When something of it that is stored was used last, in seconds since 1970.
    pub last_use: Option<u64>,
}

/// What makes the content of a replica a part of a cache.
#[derive(Debug)]
pub(super) struct Cached {
    pub(super) cache: Arc<Cache>,
    pub(super) uses: Uses,
    pub(super) pins: Pins,
}

/// The content of all views of one process.
#[derive(Debug)]
pub struct Cache {
    limits: CacheLimits,
    members: Mutex<Vec<Weak<Engine>>>,
    /// Held by whoever evicts: the first of all locks, and taken only by threads that may block.
    evicting: Mutex<Evicting>,
}

#[derive(Debug, Default)]
struct Evicting {
    /// Nothing that could be evicted was found, at this moment.
    found_nothing: Option<Instant>,
    /// What was found when the disk was last asked what is free.
    floor: Option<(Instant, Result<(), Full>)>,
}

/// A file that might be evicted; the greatest was used last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Candidate {
    second: u32,
    member: u32,
    file: EntryIndex,
}

impl Cache {
    /// A cache without content.
    pub fn new(limits: CacheLimits) -> Arc<Self> {
        Arc::new(Self { limits, members: Mutex::default(), evicting: Mutex::default() })
    }

    /// What it keeps to.
    pub fn limits(&self) -> CacheLimits {
        self.limits
    }

    pub(super) fn join(&self, engine: &Arc<Engine>) {
        let mut members = lock(&self.members);
        members.retain(|member| member.strong_count() > 0);
        members.push(Arc::downgrade(engine));
    }

    /// The newest edition of each view.
    fn members(&self) -> Vec<Arc<Engine>> {
        let all: Vec<_> = lock(&self.members).iter().filter_map(Weak::upgrade).collect();
        let mut newest: Vec<Arc<Engine>> = Vec::new();
        for member in all.into_iter().rev() {
            if !newest.iter().any(|newer| Arc::ptr_eq(&newer.losing, &member.losing)) {
                newest.push(member);
            }
        }
        newest
    }

    /// Bytes on the disk. What only an earlier edition of a view has, for somebody who still has it open, is not among
    /// them where the view has more.
    pub fn bytes(&self) -> u64 {
        self.members().iter().map(bytes_of_view).sum()
    }

    /// Bytes that are free on the filesystem of a view; `None` where it does not say.
    pub(super) fn free(engine: &Engine) -> Option<u64> {
        let space = rustix::fs::fstatvfs(engine.store.layout.directory()).ok()?;
        Some(space.f_bavail * space.f_frsize)
    }

    /// Whether `bytes` more may be stored in a view; makes room for them if need be. Blocks; the caller holds no lock.
    pub(super) fn admits(&self, engine: &Arc<Engine>, bytes: u64) -> Result<(), Full> {
        let now = Instant::now();
        let is_over = |cache: &Self| cache.bytes().saturating_add(bytes) > cache.limits.bytes_max;
        let mut evicting = lock(&self.evicting);
        self.floor(&mut evicting, engine, now)?;
        if !is_over(self) {
            return Ok(());
        }
        if evicting.found_nothing.is_some_and(|at| now < at + LOOK_AGAIN) {
            return Err(Full::Budget);
        }
        let surplus = self.bytes().saturating_add(bytes).saturating_sub(self.limits.bytes_max);
        self.evict(surplus.saturating_add(self.limits.bytes_max / AT_ONCE), None);
        evicting.found_nothing = is_over(self).then_some(now);
        if evicting.found_nothing.is_some() { Err(Full::Budget) } else { Ok(()) }
    }

    /// Evicts when too little is free on the disk.
    ///
    /// Once a second at most: some filesystems free later what was removed now, and would be emptied.
    fn floor(&self, evicting: &mut Evicting, engine: &Arc<Engine>, now: Instant) -> Result<(), Full> {
        if let Some((at, found)) = evicting.floor
            && now < at + LOOK_AGAIN
        {
            return found;
        }
        let missing = Self::free(engine).map_or(0, |free| self.limits.free_bytes_min.saturating_sub(free));
        let found = match missing {
            0 => Ok(()),
            missing if self.evict(missing.saturating_add(missing / AT_ONCE), None).bytes >= missing => Ok(()),
            _ => Err(Full::Floor),
        };
        evicting.floor = Some((now, found));
        found
    }

    /// Keeps to the limits while nothing is stored; never returns.
    pub async fn tend(self: Arc<Self>) {
        loop {
            tokio::time::sleep(TEND_EVERY).await;
            let cache = self.clone();
            let tending = move || cache.members().first().map(|member| cache.admits(member, 0));
            // What it finds is for the next write to say.
            let _ = tokio::task::spawn_blocking(tending).await;
        }
    }

    /// Evicts what is neither open nor pinned and was not used for `unused_s` seconds. Blocks, for some ten µs a file;
    /// stops when `until` has come.
    pub fn prune(&self, unused_s: u64, until: Instant) -> (Evicted, bool) {
        let last = uses::now().saturating_sub(u32::try_from(unused_s).unwrap_or(u32::MAX));
        let _evicting = lock(&self.evicting);
        self.evict_until(u64::MAX, Some(last), || Instant::now() >= until)
    }

    fn evict(&self, wanted: u64, used_until: Option<u32>) -> Evicted {
        self.evict_until(wanted, used_until, || false).0
    }

    /// Evicts so many bytes of files that were last used until then; false when it was ended before it had.
    fn evict_until(
        &self,
        wanted: u64,
        used_until: Option<u32>,
        is_over: impl Fn() -> bool,
    ) -> (Evicted, bool) {
        let members = self.members();
        let (mut evicted, mut after) = (Evicted::default(), None);
        loop {
            let oldest = oldest(&members, after, used_until.unwrap_or(u32::MAX));
            for candidate in &oldest {
                if evicted.bytes >= wanted {
                    return (evicted, true);
                }
                if is_over() {
                    return (evicted, false);
                }
                let bytes = evict(&members, candidate);
                evicted.files += u64::from(bytes > 0);
                evicted.bytes += bytes;
            }
            if oldest.len() < CANDIDATES {
                return (evicted, true);
            }
            after = oldest.last().copied();
        }
    }

    /// Whether what is pinned in a view may become so much.
    pub(super) fn admits_pin(
        &self,
        engine: &Arc<Engine>,
        before: PinnedBytes,
        after: PinnedBytes,
    ) -> Result<(), PinError> {
        let others = self.members().into_iter().filter(|member| !Arc::ptr_eq(member, engine));
        let others = others.map(|member| pinned(&member)).fold(PinnedBytes::default(), |sum, pinned| {
            // Sizes are the peer's word, and sums of them may be more than any number.
            PinnedBytes {
                all: sum.all.saturating_add(pinned.all),
                here: sum.here.saturating_add(pinned.here),
            }
        });
        let (wanted, pinned) = (after.all.saturating_sub(before.all), others.all.saturating_add(before.all));
        let CacheLimits { bytes_max, free_bytes_min } = self.limits;
        if wanted > 0 && wanted.saturating_add(pinned) > bytes_max {
            return Err(PinError::OverBudget { wanted, pinned, bytes_max });
        }
        let missing = after.all.saturating_sub(after.here);
        let evictable = self.bytes().saturating_sub(others.here.saturating_add(after.here));
        let room =
            Self::free(engine).map(|free| free.saturating_add(evictable).saturating_sub(free_bytes_min));
        match room {
            Some(room) if wanted > 0 && missing > room => Err(PinError::NoSpace { missing, room }),
            _ => Ok(()),
        }
    }
}

impl Replica {
    /// What it has in the cache; `None` for one that is in none. Blocks, for some nanoseconds an entry.
    pub fn cached(&self) -> Option<CachedStatus> {
        let cached = self.engine.cached.as_ref()?;
        let pinned = pinned(&self.engine);
        let ledger = self.engine.ledger();
        Some(CachedStatus {
            bytes: bytes_of_view(&self.engine),
            is_counted: ledger.is_counted.load(std::sync::atomic::Ordering::Relaxed),
            pinned_bytes: pinned.all,
            pinned_bytes_here: pinned.here,
            last_use: cached.uses.all().map(|(second, _)| second.into()).max(),
        })
    }

    /// Bytes that are free on its filesystem; `None` where that does not say.
    pub fn free_bytes(&self) -> Option<u64> {
        Cache::free(&self.engine)
    }
}

/// What a view takes: its editions share most of their files, and a new one has not counted them at first.
fn bytes_of_view(engine: &Arc<Engine>) -> u64 {
    let editions = engine.losing.all().into_iter();
    editions.map(|edition| edition.ledger().stored()).max().unwrap_or_else(|| engine.ledger().stored())
}

fn pinned(engine: &Engine) -> PinnedBytes {
    let files = engine.cached.as_ref().and_then(|cached| cached.pins.files());
    files.map(|files| pins::bytes_of(engine, &files)).unwrap_or_default()
}

/// The files that were used longest ago, after `after` and until `used_until`, the oldest first.
fn oldest(members: &[Arc<Engine>], after: Option<Candidate>, used_until: u32) -> Vec<Candidate> {
    let mut found = BinaryHeap::with_capacity(CANDIDATES + 1);
    for (engine, member) in members.iter().zip(0..) {
        // Which files are pinned is not known while its manifest is still arriving.
        let Some((cached, pinned)) = engine.cached.as_ref().and_then(|of| Some((of, of.pins.files()?)))
        else {
            continue;
        };
        for (second, file) in cached.uses.all() {
            let candidate = Candidate { second, member, file };
            let is_older = found.len() < CANDIDATES || found.peek().is_some_and(|last| candidate < *last);
            if second <= used_until
                && is_older
                && after.is_none_or(|after| candidate > after)
                && !pinned.is_set(file)
            {
                found.push(candidate);
                if found.len() > CANDIDATES {
                    found.pop();
                }
            }
        }
    }
    found.into_sorted_vec()
}

fn evict(members: &[Arc<Engine>], candidate: &Candidate) -> u64 {
    let Some(engine) = members.get(candidate.member as usize) else { return 0 };
    engine.evict(candidate.file).unwrap_or_else(|error| {
        let path = engine.path(candidate.file);
        engine.counters.error(format!("{path}: it cannot be evicted: {error}"));
        0
    })
}
