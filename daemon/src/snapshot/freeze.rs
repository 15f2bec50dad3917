//! Who waits for which walk.
//!
//! A walk shows the tree as it was after the walk began, so it serves everyone who asked before that and nobody who
//! asked later. Each workspace has a queue and a task: whatever waits in the queue when the task gets its turn shares
//! the walk that begins then; who comes during it waits for the next.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{mpsc, oneshot};
use twinshare_transport::identity::PeerId;

use super::{SnapshotError, Store};
use crate::registry::{LeaseReason, SnapshotRecord, WorkspaceId, WorkspaceRecord};

/// Requests that wait for one workspace at most; further ones are told to come again.
const WAITING_MAX: usize = 64;

/// Queues above which those in which nobody waits are let go.
const QUEUES_MAX: usize = 64;

type Frozen = Result<SnapshotRecord, Arc<SnapshotError>>;

/// One request.
#[derive(Debug)]
struct Ask {
    workspace: WorkspaceRecord,
    peer: PeerId,
    reason: LeaseReason,
    answer: oneshot::Sender<Frozen>,
}

/// The queues, one for each workspace that was asked for lately.
#[derive(Debug, Default)]
pub(super) struct Queues {
    /// Held for map operations only, and never across an `.await`.
    all: Mutex<HashMap<WorkspaceId, mpsc::Sender<Ask>>>,
}

impl Queues {
    pub(super) async fn freeze(
        &self,
        store: &Arc<Store>,
        workspace: WorkspaceRecord,
        peer: PeerId,
        reason: LeaseReason,
    ) -> Frozen {
        let (answer, frozen) = oneshot::channel();
        let queue = self.queue(store, workspace.id);
        let ask = Ask { workspace, peer, reason, answer };
        queue.try_send(ask).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => SnapshotError::Busy,
            mpsc::error::TrySendError::Closed(_) => SnapshotError::Stopping,
        })?;
        frozen.await.unwrap_or_else(|_| Err(Arc::new(SnapshotError::Stopping)))
    }

    fn queue(&self, store: &Arc<Store>, workspace: WorkspaceId) -> mpsc::Sender<Ask> {
        let mut all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        let start = || {
            let (queue, asked) = mpsc::channel(WAITING_MAX);
            tokio::spawn(serve(store.clone(), asked));
            queue
        };
        if !all.contains_key(&workspace) && all.len() >= QUEUES_MAX {
            // A task whose queue is gone ends with the walk it is at.
            all.retain(|_, queue| queue.capacity() < WAITING_MAX);
        }
        all.entry(workspace).or_insert_with(start).clone()
    }
}

/// Walks as long as somebody asks; ends with the queues.
async fn serve(store: Arc<Store>, mut asked: mpsc::Receiver<Ask>) {
    while let Some(first) = asked.recv().await {
        let turn = store.turn().await;
        let mut waiting = vec![first];
        while let Ok(next) = asked.try_recv() {
            waiting.push(next);
        }
        waiting.retain(|ask| !ask.answer.is_closed());
        let Some(workspace) = waiting.last().map(|ask| ask.workspace.clone()) else {
            continue;
        };
        let frozen = match turn {
            Ok(_turn) => {
                let leases = waiting.iter().map(|ask| (ask.peer, ask.reason)).collect();
                store.freeze(workspace, leases).await
            }
            Err(stopping) => Err(stopping),
        };
        let frozen = frozen.map_err(Arc::new);
        for ask in waiting {
            let answer = match &frozen {
                Ok((_, refused)) if refused.contains(&ask.peer) => Err(Arc::new(SnapshotError::Busy)),
                Ok((record, _)) => Ok(record.clone()),
                Err(error) => Err(error.clone()),
            };
            // Whoever is gone does not want it any more.
            let _ = ask.answer.send(answer);
        }
    }
}
