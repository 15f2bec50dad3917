//! How many reads of local files run at once, and whose.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::Class;

/// Reads that run at once: enough to keep a disk's queue filled, few enough that they do not starve the machine's
/// owner. Each holds a thread and a buffer of at most 1 MiB.
const READERS: usize = 8;

/// Of these, at most so many that nobody waits for now.
const BACKGROUND_READERS: usize = 6;

/// Of those, at most so many for hydration.
const BULK_READERS: usize = 4;

/// Beside all these, so many steps of passes over whole files that somebody may be writing to.
const PASSES: usize = 2;

/// And so many walks in search of files that have moved.
const WALKS: usize = 1;

/// The threads that read local files, shared by all local origins of a process. Cheap to clone.
///
/// A read lasts for one run of blocks or some small files, 31 at most. A request that waits for its receiver or for a
/// pass over a whole file holds no thread, and two threads are never taken by reads that nobody waits for, so neither
/// a slow peer nor a large file delays anybody else.
#[derive(Clone, Debug)]
pub struct ReadPool {
    limits: Arc<Limits>,
}

#[derive(Debug)]
struct Limits {
    all: Arc<Semaphore>,
    background: Arc<Semaphore>,
    bulk: Arc<Semaphore>,
    passes: Arc<Semaphore>,
    walks: Arc<Semaphore>,
}

impl Default for ReadPool {
    fn default() -> Self {
        let semaphore = |permits| Arc::new(Semaphore::new(permits));
        Self {
            limits: Arc::new(Limits {
                all: semaphore(READERS),
                background: semaphore(BACKGROUND_READERS),
                bulk: semaphore(BULK_READERS),
                passes: semaphore(PASSES),
                walks: semaphore(WALKS),
            }),
        }
    }
}

/// The work panicked, or the runtime is shutting down.
#[derive(Debug)]
pub(super) struct Lost;

impl ReadPool {
    /// Runs `work` on a thread that may block, as soon as one is free for its class.
    ///
    /// Dropped before it has begun, nothing runs; dropped later, the work ends by itself, counted until it has, and
    /// its result is lost.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        class: Class,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Lost> {
        let limits = &self.limits;
        // Always taken in this order, the narrowest first: whoever waits for `all` is never in anybody's way.
        let bulk = permit(&limits.bulk, class <= Class::Bulk).await?;
        let background = permit(&limits.background, class <= Class::ReadAhead).await?;
        let all = permit(&limits.all, true).await?;
        blocking((bulk, background, all), work).await
    }

    /// Runs one step of a pass over a whole file; passes take turns, in the order in which they ask.
    pub(super) async fn run_pass<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Lost> {
        blocking(self.pass_permit().await?, work).await
    }

    /// Walks over a tree, when nobody else does.
    pub(super) async fn run_walk<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Lost> {
        blocking(permit(&self.limits.walks, true).await?, work).await
    }

    pub(super) async fn pass_permit(&self) -> Result<Option<OwnedSemaphorePermit>, Lost> {
        permit(&self.limits.passes, true).await
    }
}

/// The permits are the work's: who no longer waits for it does not make it one less.
async fn blocking<T: Send + 'static>(
    permits: impl Send + 'static,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Lost> {
    let counted = move || {
        let _permits = permits;
        work()
    };
    tokio::task::spawn_blocking(counted).await.map_err(|_| Lost)
}

async fn permit(limit: &Arc<Semaphore>, needed: bool) -> Result<Option<OwnedSemaphorePermit>, Lost> {
    match needed {
        true => limit.clone().acquire_owned().await.map(Some).map_err(|_| Lost),
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

    #[tokio::test]
    async fn a_read_whose_request_was_given_up_counts_until_it_ends() {
        let pool = ReadPool::default();
        let (end, wait) = mpsc::channel::<()>();
        let wait = Arc::new(std::sync::Mutex::new(wait));
        for _ in 0..READERS {
            let (wait, (started, begun)) = (wait.clone(), tokio::sync::oneshot::channel());
            let read = pool.run(Class::Demand, move || {
                let _ = started.send(());
                // An error once the sender is gone.
                let _ = wait.lock().map(|wait| wait.recv());
            });
            tokio::select! {
                _ = read => panic!("nothing ends it"),
                begun = begun => begun.unwrap(),
            }
        }
        assert_eq!(pool.limits.all.available_permits(), 0);
        drop(end);
        assert_eq!(pool.run(Class::Demand, || 7).await.unwrap(), 7);
    }
}
