//! Who may change what lies at a place: one at a time.
//!
//! Making a replica, serving it again, repairing it and ending it take many steps in several processes. Whoever does
//! one of them holds the claim on the replica's mount point from the first step to the last, so that no two of them
//! ever meet; whoever comes second waits, and then looks at what the first has left.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// All claims of a node. Cheap to clone; clones share them.
#[derive(Clone, Debug, Default)]
pub(super) struct Claims {
    /// Held for map operations only and never across an `.await`.
    held: Arc<Mutex<HashMap<PathBuf, Held>>>,
}

/// A claim as others see it.
#[derive(Debug)]
struct Held {
    stop: CancellationToken,
    /// Closed when the claim is dropped.
    released: watch::Receiver<()>,
}

/// The right to change what lies at a place, until it is dropped.
#[derive(Debug)]
pub(super) struct Claim {
    claims: Claims,
    place: PathBuf,
    stop: CancellationToken,
    _releases: watch::Sender<()>,
}

impl Claims {
    /// Claims `place`, once nobody else does. Cancel-safe.
    pub(super) async fn claim(&self, place: &Path) -> Claim {
        loop {
            let mut released = match self.try_claim(place) {
                Ok(claim) => return claim,
                Err(released) => released,
            };
            // It never changes: the end of its sender is the news.
            let _ = released.changed().await;
        }
    }

    fn try_claim(&self, place: &Path) -> Result<Claim, watch::Receiver<()>> {
        let mut held = self.held();
        if let Some(other) = held.get(place) {
            return Err(other.released.clone());
        }
        let (releases, released) = watch::channel(());
        let stop = CancellationToken::new();
        held.insert(place.to_owned(), Held { stop: stop.clone(), released });
        Ok(Claim { claims: self.clone(), place: place.to_owned(), stop, _releases: releases })
    }

    /// Asks whoever holds the claim on `place` to give up what it is doing.
    pub(super) fn interrupt(&self, place: &Path) {
        if let Some(held) = self.held().get(place) {
            held.stop.cancel();
        }
    }

    fn held(&self) -> MutexGuard<'_, HashMap<PathBuf, Held>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Claim {
    /// Cancelled when somebody else wants what is being done here to be undone.
    pub(super) fn stop(&self) -> &CancellationToken {
        &self.stop
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.claims.held().remove(&self.place);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_second_waits_for_the_first() {
        let claims = Claims::default();
        let (here, there) = (Path::new("/a"), Path::new("/b"));
        let first = claims.claim(here).await;
        let _elsewhere = claims.claim(there).await;
        let mut second = Box::pin(claims.claim(here));
        assert!(tokio::time::timeout(Duration::from_secs(1), &mut second).await.is_err());
        claims.interrupt(here);
        assert!(first.stop().is_cancelled());
        drop(first);
        assert!(!second.await.stop().is_cancelled());
        assert_eq!(claims.held().len(), 1, "a claim outlives its holder");
    }

    #[tokio::test]
    async fn no_two_hold_one_place() {
        let claims = Claims::default();
        let inside = Arc::new(Mutex::new(0));
        let mut all = tokio::task::JoinSet::new();
        for _ in 0..50 {
            let (claims, inside) = (claims.clone(), inside.clone());
            all.spawn(async move {
                let _claim = claims.claim(Path::new("/a")).await;
                *inside.lock().unwrap() += 1;
                tokio::task::yield_now().await;
                assert_eq!(std::mem::take(&mut *inside.lock().unwrap()), 1);
            });
        }
        while let Some(done) = all.join_next().await {
            done.unwrap();
        }
    }
}
