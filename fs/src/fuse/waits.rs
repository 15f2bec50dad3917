//! Requests that wait: each is a task that owns its reply, so that the dispatch thread goes on.

use std::future::Future;
use std::sync::Arc;

use tokio::runtime::Handle;
use tokio::sync::Semaphore;

use super::interrupt::{Caller, Interrupted};
use crate::filesystem::{TreeView, ViewError};

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

    /// Answers `reply` when `work` is done, or when the caller has been told to stop.
    ///
    /// A reply that is dropped, because the work panicked or the runtime ended, answers EIO (fuser sees to it).
    pub(super) fn answer_later<R, T, W>(
        &self,
        caller: Caller,
        view: Arc<TreeView>,
        reply: R,
        work: impl FnOnce(Arc<TreeView>) -> W + Send + 'static,
        answer: impl FnOnce(R, Result<T, ViewError>) + Send + 'static,
    ) where
        R: Send + 'static,
        T: Send + 'static,
        W: Future<Output = Result<T, ViewError>> + Send + 'static,
    {
        let permits = self.permits.clone();
        self.runtime.spawn(async move {
            let permitted = async {
                let _permit = view.in_time(permits.acquire()).await?;
                work(view.clone()).await
            };
            let result = caller.waits_for(permitted).await;
            answer(reply, result.unwrap_or_else(|Interrupted| Err(ViewError::Interrupted)));
        });
    }
}
