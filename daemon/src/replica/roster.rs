//! The replicas of one process, each in one of three states, and the orders that lead from one to the next.
//!
//! ```text
//!            attach                started
//!   (none) ─────────► attaching ───────────► serving ◄─┐ busy
//!      ▲                  │ failed, or         │ detach ─┘
//!      │◄─────────────────┘ cancelled          │ unmounted; copies of the mount are left
//!      │                                       ▼
//!      └──────────────────────────────────── leaving
//!                    nothing uses it any more
//! ```
//!
//! Orders may come at any time and twice. A second order to attach waits for the first; an order to detach what is
//! being attached cancels that, and is answered when it is undone. So an answer always says how things are: nothing is
//! mounted after [`Roster::detach`] has returned `Ok`, whatever was under way before.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::control::Failure;

/// How long an order to detach waits for the end of what was unmounted. It comes at once, apart from what is still being
/// written; where copies of the mount are seen, it is not waited for.
const LEFT_WITHIN: Duration = Duration::from_secs(5);

/// A replica that is served.
pub(super) trait Life: Send + Sync + 'static {
    /// Unmounts it, plainly; asked again, it goes on where it stopped. Fails while somebody uses it.
    fn unmount(&self) -> impl Future<Output = Result<(), Failure>> + Send;

    /// True when it is mounted elsewhere too, and will be served there after [`unmount`](Self::unmount).
    fn is_copied(&self) -> impl Future<Output = bool> + Send;

    /// Returns when nothing of it is mounted any more, here or in copies, and its directory is let go of. Somebody
    /// may also have unmounted it by hand.
    fn over(&self) -> impl Future<Output = ()> + Send;
}

/// An attempt that failed.
#[derive(Debug)]
pub(super) struct NotStarted<L> {
    pub(super) failure: Failure,
    /// What could not be undone and is served all the same: an order to detach tells why.
    pub(super) left: Option<L>,
}

impl<L> From<Failure> for NotStarted<L> {
    fn from(failure: Failure) -> Self {
        Self { failure, left: None }
    }
}

/// How an attempt ended; nothing while it is under way.
type Outcome = Option<Result<(), Failure>>;

enum Slot<L> {
    Attaching { cancel: CancellationToken, outcome: watch::Receiver<Outcome> },
    Serving(Arc<L>),
    Leaving(Arc<L>),
}

impl<L> Clone for Slot<L> {
    fn clone(&self) -> Self {
        match self {
            Self::Attaching { cancel, outcome } => {
                Self::Attaching { cancel: cancel.clone(), outcome: outcome.clone() }
            }
            Self::Serving(life) => Self::Serving(life.clone()),
            Self::Leaving(life) => Self::Leaving(life.clone()),
        }
    }
}

/// All replicas of a process, by id. Cheap to clone; clones share them.
pub(super) struct Roster<L> {
    /// Borrowed for map operations only and never across an `.await`.
    slots: watch::Sender<HashMap<String, Slot<L>>>,
}

impl<L> Clone for Roster<L> {
    fn clone(&self) -> Self {
        Self { slots: self.slots.clone() }
    }
}

impl<L> Default for Roster<L> {
    fn default() -> Self {
        Self { slots: watch::Sender::new(HashMap::new()) }
    }
}

impl<L: Life> Roster<L> {
    /// Has `id` served: by `start`, unless it is served or being attached already. `start` goes on when the caller is
    /// gone; it ends early, and undoes what it did, when the token is cancelled.
    pub(super) async fn attach<F>(
        &self,
        id: &str,
        start: impl FnOnce(CancellationToken) -> F,
    ) -> Result<(), Failure>
    where
        F: Future<Output = Result<L, NotStarted<L>>> + Send + 'static,
    {
        let (ends, begun) = watch::channel(None);
        let cancel = CancellationToken::new();
        let fresh = Slot::Attaching { cancel: cancel.clone(), outcome: begun.clone() };
        let mut outcome = match self.insert_if_absent(id, fresh) {
            None => {
                tokio::spawn(self.clone().run(id.to_owned(), start(cancel), ends));
                begun
            }
            Some(Slot::Attaching { outcome, .. }) => outcome,
            Some(Slot::Serving(_)) => return Ok(()),
            Some(Slot::Leaving(_)) => {
                let why = "it was unmounted, and programs that use copies of its mount still run";
                return Err(Failure::Other(why.into()));
            }
        };
        let ended = outcome.wait_for(Option::is_some).await.ok().and_then(|outcome| outcome.clone());
        ended.unwrap_or_else(|| Err(Failure::Other("the attempt died".into())))
    }

    async fn run(
        self,
        id: String,
        start: impl Future<Output = Result<L, NotStarted<L>>> + Send + 'static,
        ends: watch::Sender<Outcome>,
    ) {
        // A task of its own: a panic in it ends the attempt, not the account of it.
        let started =
            tokio::spawn(start).await.unwrap_or_else(|died| Err(Failure::Other(died.to_string()).into()));
        let (life, outcome) = match started {
            Ok(life) => (Some(life), Ok(())),
            Err(NotStarted { failure, left }) => (left, Err(failure)),
        };
        match life.map(Arc::new) {
            Some(life) => {
                self.set(&id, Some(Slot::Serving(life.clone())));
                tokio::spawn(self.watch(id, life));
            }
            None => self.set(&id, None),
        }
        ends.send_replace(Some(outcome));
    }

    /// Forgets the replica when it is over.
    async fn watch(self, id: String, life: Arc<L>) {
        life.over().await;
        self.set(&id, None);
    }

    /// Unmounts `id`, cancelling an attempt to attach it. When it returns `Ok`, nothing of it is left.
    ///
    /// # Errors
    /// [`Failure::Busy`]: it is mounted and served as before. [`Failure::Leaving`]: it is no longer mounted here, but
    /// copies of the mount are, and are served until they are gone.
    pub(super) async fn detach(&self, id: &str) -> Result<(), Failure> {
        let mut slots = self.slots.subscribe();
        let mut cancelled = false;
        loop {
            let slot = slots.borrow_and_update().get(id).cloned();
            match slot {
                None if cancelled => return Ok(()),
                None => return Err(Failure::NoSuchReplica),
                Some(Slot::Attaching { cancel, .. }) => {
                    cancel.cancel();
                    cancelled = true;
                    // The sender lives as long as `self`.
                    let _ = slots.changed().await;
                }
                Some(Slot::Serving(life) | Slot::Leaving(life)) => return self.leave(id, life).await,
            }
        }
    }

    async fn leave(&self, id: &str, life: Arc<L>) -> Result<(), Failure> {
        life.unmount().await?;
        let within = if life.is_copied().await { Duration::ZERO } else { LEFT_WITHIN };
        if tokio::time::timeout(within, self.gone(id)).await.is_ok() {
            return Ok(());
        }
        let is_left = self.slots.send_if_modified(|slots| match slots.get_mut(id) {
            Some(slot) => {
                *slot = Slot::Leaving(life);
                true
            }
            None => false,
        });
        if is_left { Err(Failure::Leaving) } else { Ok(()) }
    }

    /// Returns when `id` is here no more. Cancel-safe.
    pub(super) async fn gone(&self, id: &str) {
        let mut slots = self.slots.subscribe();
        // The sender lives as long as `self`.
        let _ = slots.wait_for(|slots| !slots.contains_key(id)).await;
    }

    /// The replica `id`, if it is mounted and served.
    pub(super) fn find(&self, id: &str) -> Result<Arc<L>, Failure> {
        match self.slots.borrow().get(id) {
            Some(Slot::Serving(life)) => Ok(life.clone()),
            Some(Slot::Attaching { .. } | Slot::Leaving(_)) | None => Err(Failure::NoSuchReplica),
        }
    }

    /// The replicas that are mounted and served.
    pub(super) fn serving(&self) -> Vec<Arc<L>> {
        let slots = self.slots.borrow();
        slots
            .values()
            .filter_map(|slot| if let Slot::Serving(life) = slot { Some(life.clone()) } else { None })
            .collect()
    }

    /// All ids, whatever their state.
    pub(super) fn ids(&self) -> Vec<String> {
        self.slots.borrow().keys().cloned().collect()
    }

    /// True when there is nothing to serve and nothing under way.
    pub(super) fn is_empty(&self) -> bool {
        self.slots.borrow().is_empty()
    }

    /// News of every change.
    pub(super) fn changes(&self) -> Changes<L> {
        Changes(self.slots.subscribe())
    }

    fn insert_if_absent(&self, id: &str, fresh: Slot<L>) -> Option<Slot<L>> {
        let mut there = None;
        self.slots.send_if_modified(|slots| {
            there = slots.get(id).cloned();
            if there.is_none() {
                slots.insert(id.to_owned(), fresh);
            }
            there.is_none()
        });
        there
    }

    fn set(&self, id: &str, slot: Option<Slot<L>>) {
        self.slots.send_modify(|slots| match slot {
            Some(slot) => drop(slots.insert(id.to_owned(), slot)),
            None => drop(slots.remove(id)),
        });
    }
}

/// News of a [`Roster`].
pub(super) struct Changes<L>(watch::Receiver<HashMap<String, Slot<L>>>);

impl<L: Life> Changes<L> {
    /// Returns after the next change. Cancel-safe.
    pub(super) async fn next(&mut self) {
        // The sender lives in the roster, which outlives whoever listens.
        let _ = self.0.changed().await;
    }
}

#[cfg(test)]
mod tests;
