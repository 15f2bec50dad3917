//! Freezing a workspace again whenever it has changed, for as long as somebody watches it.
//!
//! Each workspace that is watched has a task. What it hears from the kernel ([`events`]) is a hint and no more: it
//! says when to look. What is so is found by freezing, which walks the tree, and a walk that finds the snapshot that
//! was there already is no news. How often that may happen is decided in [`tempo`]. Without anybody who waits,
//! nothing is walked and, after a while, nothing heard either.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use tokio::sync::{Notify, watch};
use tokio::task::AbortHandle;
use tokio::time::{sleep, timeout};
use twinshare_fs::manifest::SnapshotId;
use twinshare_transport::identity::PeerId;

mod events;
mod tempo;

#[cfg(test)]
mod tests;

use super::SnapshotError;
use super::freeze::Queues;
use super::store::Store;
use crate::registry::{LeaseReason, SnapshotRecord, WorkspaceId, WorkspaceRecord};
use events::{Allowance, Events};

/// Workspaces that are watched at a time at most; each has an inotify instance, of which a user has 128 by default.
const FOLLOWED_MAX: usize = 48;

/// All workspaces that are watched. Dropping it ends their tasks.
#[derive(Debug)]
pub(super) struct Followers {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    store: Arc<Store>,
    queues: Arc<Queues>,
    allowance: Arc<Allowance>,
    /// Held for map operations only, and never across an `.await`.
    followed: Mutex<HashMap<WorkspaceId, (Arc<Followed>, AbortHandle)>>,
}

/// A workspace that is watched.
#[derive(Debug)]
struct Followed {
    watched: watch::Sender<Watched>,
    /// Why the last attempt to freeze it failed, of those that did.
    failed: watch::Sender<Option<Arc<SnapshotError>>>,
    /// Somebody found that the last snapshot is not kept any more.
    missed: Notify,
}

/// Who waits for which workspace.
#[derive(Clone, Debug)]
struct Watched {
    /// As whoever came last found it: what is shared of it may have changed.
    workspace: WorkspaceRecord,
    /// One for each who waits.
    peers: Vec<PeerId>,
}

impl Drop for Followers {
    fn drop(&mut self) {
        self.shared.followed().drain().for_each(|(_, (_, task))| task.abort());
    }
}

impl Followers {
    pub(super) fn new(store: Arc<Store>, queues: Arc<Queues>) -> Self {
        Self::within(Allowance::of_user(), store, queues)
    }

    fn within(allowance: Allowance, store: Arc<Store>, queues: Arc<Queues>) -> Self {
        let (allowance, followed) = (Arc::new(allowance), Mutex::default());
        Self { shared: Arc::new(Shared { store, queues, allowance, followed }) }
    }

    /// Waits for a snapshot other than `base`, on which `peer` has a lease then. Safe to drop.
    pub(super) async fn watch(
        &self,
        workspace: WorkspaceRecord,
        peer: PeerId,
        base: SnapshotId,
    ) -> Result<SnapshotRecord, Arc<SnapshotError>> {
        let mut latest = self.shared.store.latest(workspace.id);
        let seat = self.shared.join(workspace, peer)?;
        let mut failed = seat.followed.failed.subscribe();
        let is_news =
            |latest: &Option<SnapshotRecord>| latest.as_ref().is_some_and(|record| record.snapshot != base);
        loop {
            let found = tokio::select! {
                found = latest.wait_for(is_news) => found.ok().and_then(|record| record.clone()),
                _ = failed.changed() => return Err(why(&failed)),
            };
            let record = found.ok_or(SnapshotError::Stopping)?;
            if self.shared.store.lease_watched(record.snapshot, base, peer).await? {
                return Ok(record);
            }
            seat.followed.missed.notify_one();
            tokio::select! {
                _ = latest.changed() => {}
                _ = failed.changed() => return Err(why(&failed)),
            }
        }
    }

    /// Workspaces that are watched at present.
    #[cfg(test)]
    fn count(&self) -> usize {
        self.shared.followed().len()
    }
}

fn why(failed: &watch::Receiver<Option<Arc<SnapshotError>>>) -> Arc<SnapshotError> {
    failed.borrow().clone().unwrap_or_else(|| Arc::new(SnapshotError::Stopping))
}

/// A place among those who wait for a workspace; dropping it leaves.
struct Seat {
    followed: Arc<Followed>,
    peer: PeerId,
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.followed.watched.send_modify(|watched| {
            if let Some(at) = watched.peers.iter().position(|peer| *peer == self.peer) {
                watched.peers.swap_remove(at);
            }
        });
    }
}

impl Shared {
    fn followed(&self) -> MutexGuard<'_, HashMap<WorkspaceId, (Arc<Followed>, AbortHandle)>> {
        self.followed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn join(self: &Arc<Self>, workspace: WorkspaceRecord, peer: PeerId) -> Result<Seat, SnapshotError> {
        let mut all = self.followed();
        if let Some((followed, _)) = all.get(&workspace.id) {
            let followed = followed.clone();
            followed.watched.send_modify(|watched| {
                watched.workspace = workspace;
                watched.peers.push(peer);
            });
            return Ok(Seat { followed, peer });
        }
        if all.len() >= FOLLOWED_MAX {
            return Err(SnapshotError::Busy);
        }
        let id = workspace.id;
        let watched = Watched { workspace, peers: vec![peer] };
        let followed = Arc::new(Followed {
            watched: watch::Sender::new(watched),
            failed: watch::Sender::default(),
            missed: Notify::new(),
        });
        let task = tokio::spawn(follow(self.clone(), followed.clone()));
        all.insert(id, (followed.clone(), task.abort_handle()));
        Ok(Seat { followed, peer })
    }

    /// The workspace and one who waits for it; `None` once nobody has for a while, and then it is watched no more.
    async fn somebody(&self, followed: &Followed) -> Option<(WorkspaceRecord, PeerId)> {
        let mut watched = followed.watched.subscribe();
        loop {
            let first = |watched: &Watched| Some((watched.workspace.clone(), *watched.peers.first()?));
            if let Some(found) = first(&watched.borrow_and_update()) {
                return Some(found);
            }
            if timeout(tempo::LINGER, watched.changed()).await.is_err() {
                // Whoever joins does so under this lock.
                let mut all = self.followed();
                let watched = watched.borrow();
                if watched.peers.is_empty() {
                    all.remove(&watched.workspace.id);
                    return None;
                }
            }
        }
    }
}

/// Freezes the workspace when it may have changed and somebody waits for that.
async fn follow(shared: Arc<Shared>, followed: Arc<Followed>) {
    let mut events = Events::new(shared.allowance.clone());
    let mut found = None;
    while let Some((workspace, peer)) = shared.somebody(&followed).await {
        // What has happened until now, the walk sees.
        events.clear();
        let began = Instant::now();
        let frozen = shared.queues.freeze(&shared.store, workspace, peer, LeaseReason::Watched).await;
        let mut is_heard = true;
        match frozen {
            Ok(record) if found == Some(record.snapshot) && !events.is_lost() => {}
            Ok(record) => {
                found = Some(record.snapshot);
                let before = events.heard();
                events = events.cover(shared.store.directory(record.snapshot)).await;
                // What happened there before is known only to another walk.
                is_heard = events.heard() == before;
            }
            Err(error) => _ = followed.failed.send_replace(Some(error)),
        }
        let took = began.elapsed();
        sleep(tempo::rest_after(took)).await;
        if !is_heard {
            continue;
        }
        let again = tempo::look_again_after(took, events.is_complete());
        tokio::select! {
            () = events.happened() => calm(&mut events).await,
            () = sleep(again) => {}
            () = followed.missed.notified() => {}
        }
    }
}

/// Waits until nothing has happened for a moment, but not for long.
async fn calm(events: &mut Events) {
    let mut calm = tempo::Calm::default();
    while !calm.is_over(events.clear()) {
        sleep(tempo::STEP).await;
    }
}
