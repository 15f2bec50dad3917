//! How many reads of local files run at once, and whose.

use std::sync::Arc;

use tokio::sync::{Semaphore, SemaphorePermit};

use super::Class;

/// Reads that run at once: enough to keep a disk's queue filled, few enough that they do not starve the machine's
/// owner. Each holds a thread and a buffer of at most 1 MiB.
const READERS: usize = 8;

/// Of these, at most so many that nobody waits for now.
const BACKGROUND_READERS: usize = 6;

/// Of those, at most so many for hydration.
const BULK_READERS: usize = 4;

/// The threads that read local files, shared by all local origins of a process. Cheap to clone.
///
/// A read lasts for one run of blocks or some small files, 31 at most. A request that waits for its receiver holds no thread, and
/// two threads are always free for reads somebody waits for, so a slow peer delays nobody.
#[derive(Clone, Debug)]
pub struct ReadPool {
    limits: Arc<Limits>,
}

#[derive(Debug)]
struct Limits {
    all: Semaphore,
    background: Semaphore,
    bulk: Semaphore,
}

impl Default for ReadPool {
    fn default() -> Self {
        let [all, background, bulk] = [READERS, BACKGROUND_READERS, BULK_READERS].map(Semaphore::new);
        Self { limits: Arc::new(Limits { all, background, bulk }) }
    }
}

/// The work panicked, or the runtime is shutting down.
#[derive(Debug)]
pub(super) struct Lost;

impl ReadPool {
    /// Runs `work` on a thread that may block, as soon as one is free for its class.
    ///
    /// Dropped before it has begun, nothing runs; dropped later, the work ends by itself and its result is lost.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        class: Class,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Lost> {
        let limits = self.limits.clone();
        // Always taken in this order, the narrowest first: whoever waits for `all` is never in anybody's way.
        let _bulk = permit(&limits.bulk, class <= Class::Bulk).await?;
        let _background = permit(&limits.background, class <= Class::ReadAhead).await?;
        let _all = permit(&limits.all, true).await?;
        tokio::task::spawn_blocking(work).await.map_err(|_| Lost)
    }
}

async fn permit(limit: &Semaphore, needed: bool) -> Result<Option<SemaphorePermit<'_>>, Lost> {
    match needed {
        true => limit.acquire().await.map(Some).map_err(|_| Lost),
        false => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    #[tokio::test]
    async fn reads_that_somebody_waits_for_always_find_a_thread() {
        let pool = ReadPool::default();
        let (end, wait) = mpsc::channel::<()>();
        let wait = Arc::new(std::sync::Mutex::new(wait));
        let (started, mut begun) = tokio::sync::mpsc::unbounded_channel();
        let mut background = Vec::new();
        for class in [Class::Bulk, Class::ReadAhead].repeat(20) {
            let (pool, wait, started) = (pool.clone(), wait.clone(), started.clone());
            background.push(tokio::spawn(async move {
                pool.run(class, move || {
                    started.send(()).unwrap();
                    // An error once the sender is gone.
                    let _ = wait.lock().map(|wait| wait.recv());
                })
                .await
            }));
        }
        for _ in 0..BACKGROUND_READERS {
            begun.recv().await.unwrap();
        }
        assert_eq!(pool.run(Class::Demand, || 7).await.unwrap(), 7);
        assert!(begun.try_recv().is_err(), "more than the background's share of the threads are taken");
        drop(end);
        for task in background {
            task.await.unwrap().unwrap();
        }
    }
}
