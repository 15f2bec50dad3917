//! Requests that wait: each is a task that owns its reply, so that the dispatch thread goes on.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::Semaphore;

use super::interrupt::{Caller, Interrupted};
use crate::filesystem::{CloneTree, ViewError};
use crate::replica::on_behalf_of;

/// Requests at work at once; each may end with 1 MiB in memory. At the bound further ones queue, in order, and no
/// longer than one waits for the origin. One that gets its turn has all of its own wait before it: with what is left of
/// one limit for both, an origin that has just come back would be given no time to answer. Their number is bounded by the kernel: one a thread, and
/// [`BACKGROUND_MAX`](super::adapter::BACKGROUND_MAX) for read-ahead.
const AT_WORK_MAX: usize = 1024;

/// The requests of one mount that wait.
#[derive(Debug)]
pub(super) struct Waits {
    runtime: Handle,
    permits: Arc<Semaphore>,
}

impl Waits {
    pub(super) fn new(runtime: Handle) -> Self {
        Self { runtime, permits: Arc::new(Semaphore::new(AT_WORK_MAX)) }
    }

    /// Answers `reply` with what `work` on the local disk says, from a thread that may block. Where more of the manifest
    /// must have arrived, it is tried again then, unless the caller has been told to stop.
    pub(super) fn answer_from_disk<R, T>(
        &self,
        caller: Caller,
        tree: Arc<CloneTree>,
        reply: R,
        work: impl Fn(&CloneTree) -> Result<T, ViewError> + Send + Sync + 'static,
        answer: impl FnOnce(R, Result<T, ViewError>) + Send + 'static,
    ) where
        R: Send + 'static,
        T: Send + 'static,
    {
        let runtime = self.runtime.clone();
        self.runtime.spawn_blocking(move || match work(&tree) {
            Err(ViewError::NotYet) => {
                runtime.spawn(async move { answer(reply, when_arrived(caller, tree, Arc::new(work)).await) });
            }
            done => answer(reply, done),
        });
    }

    /// Answers `reply` when `work` is done, or when the caller has been told to stop; `limit` is how long one waits for
    /// the origin, if there is one.
    ///
    /// A reply that is dropped, because the work panicked or the runtime ended, answers EIO (fuser sees to it).
    pub(super) fn answer_later<R, T, W>(
        &self,
        caller: Caller,
        limit: Option<Duration>,
        reply: R,
        work: W,
        answer: impl FnOnce(R, Result<T, ViewError>) + Send + 'static,
    ) where
        R: Send + 'static,
        T: Send + 'static,
        W: Future<Output = Result<T, ViewError>> + Send + 'static,
    {
        let permits = self.permits.clone();
        self.runtime.spawn(async move {
            let permitted = async {
                let _permit = match limit {
                    Some(limit) => tokio::time::timeout(limit, permits.acquire()).await,
                    None => Ok(permits.acquire().await),
                }
                .map_err(|_| ViewError::Late)?;
                work.await
            };
            let result = caller.waits_for(on_behalf_of(caller.thread(), permitted)).await;
            answer(reply, result.unwrap_or_else(|Interrupted| Err(ViewError::Interrupted)));
        });
    }
}

/// Does `work` once enough of the manifest has arrived for it.
async fn when_arrived<T: Send + 'static>(
    caller: Caller,
    tree: Arc<CloneTree>,
    work: Arc<impl Fn(&CloneTree) -> Result<T, ViewError> + Send + Sync + 'static>,
) -> Result<T, ViewError> {
    loop {
        // Nothing has been changed yet, so giving up leaves nothing half done.
        caller.waits_for(tree.arrived()).await.map_err(|Interrupted| ViewError::Interrupted)??;
        let (tree, work) = (tree.clone(), work.clone());
        let done = tokio::task::spawn_blocking(move || work(&tree)).await;
        match done.map_err(|_| ViewError::System(rustix::io::Errno::IO))? {
            Err(ViewError::NotYet) => {}
            done => return done,
        }
    }
}
