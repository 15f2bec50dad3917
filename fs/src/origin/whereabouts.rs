//! Where the files are that are not where the snapshot has them: who asks waits for a [walk](super::search), one for
//! all who ask, and no more often than a tenth of one thread's time allows.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, Weak};
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio::time::timeout;

use super::FileFault;
use super::files::{Files, lock};
use super::pool::ReadPool;
use super::search::{self, Seen, Sighting};
use crate::manifest::EntryIndex;

/// The pause after a walk, at least.
const PAUSE_MIN: Duration = Duration::from_secs(1);

/// The pause after a walk, in what the walk took.
const PAUSE: u32 = 10;

/// How long somebody waits for a walk, which may have to wait for the pause after the last one.
const PATIENCE: Duration = Duration::from_secs(5);

/// How long a walk is believed about what it did not find.
const BELIEVED: Duration = Duration::from_secs(60);

/// The walks over the roots of a snapshot.
#[derive(Debug)]
pub(super) struct Whereabouts {
    files: Arc<Files>,
    pool: ReadPool,
    roots: Mutex<HashMap<EntryIndex, Walks>>,
}

#[derive(Debug, Default)]
struct Walks {
    /// Who waits for the one that is under way, or about to be.
    under_way: Option<watch::Receiver<bool>>,
    not_before: Option<tokio::time::Instant>,
}

impl Whereabouts {
    pub(super) fn new(files: Arc<Files>, pool: ReadPool) -> Arc<Self> {
        Arc::new(Self { files, pool, roots: Mutex::default() })
    }

    /// Looks for a file that is not where it was last seen. After `Ok` it is to be opened again; an error is final.
    /// Safe to drop. Must be called within a Tokio runtime.
    pub(super) async fn look_for(self: &Arc<Self>, file: EntryIndex) -> Result<(), FileFault> {
        let root = self.files.manifest.root_of(file).ok_or(FileFault::NoSuchBlock)?;
        let missed = Instant::now();
        if self.is_nowhere(root, file, |sighting| sighting.began.elapsed() < BELIEVED) {
            return Err(FileFault::Changed);
        }
        let looked = timeout(PATIENCE, self.walk_since(root, missed)).await;
        if looked.is_err() {
            return Err(FileFault::Unreadable("it may have been moved, and is being looked for".into()));
        }
        match self.is_nowhere(root, file, |_| true) {
            true => Err(FileFault::Changed),
            false => Ok(()),
        }
    }

    fn is_nowhere(&self, root: EntryIndex, file: EntryIndex, believed: impl Fn(&Sighting) -> bool) -> bool {
        let sighting = self.files.sighting(root).filter(|sighting| believed(sighting));
        sighting.is_some_and(|sighting| sighting.of(&self.files, file) == Seen::Nowhere)
    }

    /// Waits until a walk has ended that began after `since`.
    async fn walk_since(self: &Arc<Self>, root: EntryIndex, since: Instant) {
        while self.files.sighting(root).is_none_or(|sighting| sighting.began < since) {
            let mut walk = self.join(root);
            // One that broke off says nothing; neither does the next, when the origin is closed.
            if walk.wait_for(|done| *done).await.is_err() {
                return;
            }
            if self.files.sighting(root).is_none() {
                // The root itself cannot be opened.
                return;
            }
        }
    }

    fn join(self: &Arc<Self>, root: EntryIndex) -> watch::Receiver<bool> {
        let mut roots = lock(&self.roots);
        let walks = roots.entry(root).or_default();
        if let Some(under_way) = &walks.under_way {
            return under_way.clone();
        }
        let (done, under_way) = watch::channel(false);
        walks.under_way = Some(under_way.clone());
        let (not_before, whereabouts) = (walks.not_before, Arc::downgrade(self));
        tokio::spawn(async move {
            if let Some(not_before) = not_before {
                tokio::time::sleep_until(not_before).await;
            }
            walk(&whereabouts, root).await;
            done.send_replace(true);
        });
        under_way
    }
}

async fn walk(whereabouts: &Weak<Whereabouts>, root: EntryIndex) {
    let Some(this) = whereabouts.upgrade() else { return };
    let (files, pool) = (this.files.clone(), this.pool.clone());
    drop(this);
    let began = Instant::now();
    let walked = pool.run_walk(move || {
        let _reading = files.begin();
        match files.root(root) {
            Ok(open) => files.saw(root, Arc::new(search::walk(&files, root, &open))),
            Err(fault) => tracing::debug!(%fault, "a root cannot be searched"),
        }
    });
    let walked = walked.await;
    let Some(this) = whereabouts.upgrade() else { return };
    let pause = PAUSE_MIN.max(began.elapsed() * PAUSE);
    let mut roots = lock(&this.roots);
    let walks = roots.entry(root).or_default();
    (walks.under_way, walks.not_before) = (None, Some(tokio::time::Instant::now() + pause));
    if walked.is_err() {
        tracing::warn!("a search for moved files broke off");
    }
}
