//! Getting a manifest from an origin, once, and being able to read it from the first frame on.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::{JoinHandle, spawn_blocking};

use super::{Manifest, ManifestError, Receiver};
use crate::origin::{Availability, Frames, Origin, OriginError, STALL_MAX};

/// The pause before a stream that broke off is asked for again while the origin seems to answer.
const RETRY_AFTER: Duration = Duration::from_millis(500);

/// Why there is no manifest.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// The origin did not give it.
    #[error(transparent)]
    Origin(#[from] OriginError),
    /// What it gave is not one, or the disk refused it.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
}

/// A manifest and the task that completes it. Dropping it ends the task; what has not arrived then never will.
#[derive(Debug)]
pub struct Fetched {
    /// The manifest, readable as far as it has arrived.
    pub manifest: Manifest,
    task: Option<JoinHandle<()>>,
}

impl Drop for Fetched {
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}

/// The manifest of the origin's snapshot in the file at `path`: the one that is there, if it is that snapshot's and
/// complete; otherwise a new one, as soon as its first frame is in.
///
/// A stream that breaks off later is taken up again, as often and as long as it takes: the frames of a snapshot are
/// always the same, so those that are here already are passed over. Must be called within a Tokio runtime.
pub async fn fetch(origin: Arc<dyn Origin>, path: &Path) -> Result<Fetched, FetchError> {
    if let Some(manifest) = kept(path.to_owned(), &*origin).await {
        return Ok(Fetched { manifest, task: None });
    }
    let mut frames = origin.read_manifest();
    let first = next(&mut frames).await?;
    let path = path.to_owned();
    let snapshot = origin.snapshot();
    let receiver = blocking(move || Receiver::new(&path, snapshot, &first)).await?;
    let manifest = receiver.manifest();
    let task = Some(tokio::spawn(complete(origin, frames, receiver)));
    Ok(Fetched { manifest, task })
}

async fn kept(path: PathBuf, origin: &dyn Origin) -> Option<Manifest> {
    let manifest = blocking(move || Manifest::open(&path)).await.ok()?;
    Some(manifest).filter(|manifest| manifest.snapshot() == origin.snapshot())
}

/// Takes frames until the manifest is complete or cannot be.
async fn complete(origin: Arc<dyn Origin>, mut frames: Frames, mut receiver: Receiver) {
    let mut taken = 1;
    loop {
        let mut why = match take(&mut frames, receiver, &mut taken).await {
            Ok(Taken::All) => return,
            Ok(Taken::Some(partial, why)) => {
                receiver = *partial;
                why
            }
            Err(error) => return tracing::warn!(%error, "a manifest cannot be completed"),
        };
        frames = loop {
            match why {
                OriginError::Gone(why) | OriginError::Busy(why) => {
                    tracing::debug!(why, taken, "the manifest's stream broke off");
                }
                error @ (OriginError::Refused(_) | OriginError::SnapshotGone | OriginError::Invalid(_)) => {
                    return receiver.fail(&error.to_string());
                }
            }
            match again(&*origin, taken).await {
                Ok(frames) => break frames,
                Err(error) => why = error,
            }
        };
    }
}

enum Taken {
    All,
    Some(Box<Receiver>, OriginError),
}

async fn take(
    frames: &mut Frames,
    mut receiver: Receiver,
    taken: &mut usize,
) -> Result<Taken, ManifestError> {
    loop {
        let frame = match next(frames).await {
            Ok(frame) => frame,
            Err(error) => return Ok(Taken::Some(Box::new(receiver), error)),
        };
        let (back, complete) = blocking(move || {
            let complete = receiver.accept(&frame)?;
            Ok((receiver, complete))
        })
        .await?;
        receiver = back;
        *taken += 1;
        if complete {
            return Ok(Taken::All);
        }
    }
}

/// The stream from frame `taken` on, when the origin answers again.
async fn again(origin: &dyn Origin, taken: usize) -> Result<Frames, OriginError> {
    let mut availability = origin.availability();
    tokio::time::sleep(RETRY_AFTER).await;
    // An origin that will never say more is asked all the same; its answer decides.
    let _ = availability.wait_for(|now| *now == Availability::Reachable).await;
    let mut frames = origin.read_manifest();
    for _ in 0..taken {
        next(&mut frames).await?;
    }
    Ok(frames)
}

/// The next frame of a manifest, however it is encoded.
pub(super) async fn next<T>(frames: &mut mpsc::Receiver<Result<T, OriginError>>) -> Result<T, OriginError> {
    let gone = |why: &str| OriginError::Gone(why.into());
    match tokio::time::timeout(STALL_MAX, frames.recv()).await {
        Ok(frame) => frame.unwrap_or_else(|| Err(gone("it broke off the manifest"))),
        Err(_) => Err(gone("it sent nothing of the manifest for 20 s")),
    }
}

pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, ManifestError> + Send + 'static,
) -> Result<T, ManifestError> {
    let died = |error| ManifestError::Disk(std::io::Error::other(error));
    spawn_blocking(work).await.unwrap_or_else(|error| Err(died(error)))
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

    use bytes::Bytes;
    use tokio::sync::watch;

    use super::*;
    use crate::manifest::frame::{self, Frames as Stream};
    use crate::manifest::tests::sample;
    use crate::manifest::{Arrival, EntryIndex, SnapshotId};
    use crate::origin::{BlockRange, Class, Deliveries};

    /// How a stream ends that is not whole.
    #[derive(Clone, Debug, PartialEq)]
    enum Halt {
        /// It closes, each time one frame later.
        Later,
        /// It fails so once it has said all but one.
        Late(OriginError),
        /// It fails so from the second stream on, before anything is said.
        Early(OriginError),
        /// It says nothing more and stays open, the first time.
        Silence,
    }

    #[derive(Debug)]
    struct Halting {
        manifest: Manifest,
        asked: AtomicUsize,
        halt: Halt,
        silent: std::sync::Mutex<Vec<mpsc::Sender<Result<Bytes, OriginError>>>>,
        availability: watch::Sender<Availability>,
    }

    impl Origin for Halting {
        fn snapshot(&self) -> SnapshotId {
            self.manifest.snapshot()
        }

        fn read_manifest(&self) -> Frames {
            let count = self.asked.fetch_add(1, Relaxed) + 1;
            let frames: Vec<_> = Stream::new(&self.manifest).map(|f| frame::encode(&f).unwrap()).collect();
            let (sender, receiver) = mpsc::channel(100);
            let last = frames.len() - 1;
            let (said, end) = match &self.halt {
                Halt::Later => (count, None),
                Halt::Late(end) => (count.min(last), Some(end).filter(|_| count > last)),
                Halt::Early(end) if count > 1 => (0, Some(end)),
                Halt::Early(_) => (1, None),
                Halt::Silence => (if count == 1 { 1 } else { frames.len() }, None),
            };
            for frame in frames.into_iter().take(said) {
                sender.try_send(Ok(frame.into())).unwrap();
            }
            if let Some(end) = end {
                sender.try_send(Err(end.clone())).unwrap();
            }
            if self.halt == Halt::Silence {
                self.silent.lock().unwrap().push(sender);
            }
            receiver
        }

        fn read_files(&self, _: Vec<EntryIndex>, _: Class) -> Deliveries {
            mpsc::channel(1).1
        }

        fn read_ranges(&self, _: Vec<BlockRange>, _: Class) -> Deliveries {
            mpsc::channel(1).1
        }

        fn availability(&self) -> watch::Receiver<Availability> {
            self.availability.subscribe()
        }
    }

    fn halting(directory: &Path, halt: Halt) -> Arc<Halting> {
        let manifest = sample(&directory.join("sent"));
        let availability = watch::Sender::new(Availability::Reachable);
        let silent = std::sync::Mutex::default();
        Arc::new(Halting { manifest, asked: AtomicUsize::new(0), halt, silent, availability })
    }

    #[tokio::test(start_paused = true)]
    async fn a_stream_that_breaks_off_is_taken_up_again() {
        let directory = tempfile::tempdir().unwrap();
        let origin = halting(directory.path(), Halt::Later);
        let path = directory.path().join("received");
        let fetched = fetch(origin.clone(), &path).await.unwrap();
        fetched.manifest.arrival().wait_for(|arrival| *arrival == Arrival::Complete).await.unwrap();
        assert!(std::fs::read(&path).unwrap() == std::fs::read(directory.path().join("sent")).unwrap());
        let asked = origin.asked.load(Relaxed);
        assert!(asked > 2, "{asked}");
        drop(fetched);
        let again = fetch(origin.clone(), &path).await.unwrap();
        assert_eq!(again.manifest.arrival().borrow().clone(), Arrival::Complete);
        assert_eq!(origin.asked.load(Relaxed), asked, "a complete manifest was fetched again");
    }

    #[tokio::test(start_paused = true)]
    async fn an_origin_that_stalls_is_asked_again() {
        let directory = tempfile::tempdir().unwrap();
        let origin = halting(directory.path(), Halt::Silence);
        let fetched = fetch(origin.clone(), &directory.path().join("received")).await.unwrap();
        let mut arrival = fetched.manifest.arrival();
        let complete = arrival.wait_for(|arrival| *arrival == Arrival::Complete);
        tokio::time::timeout(2 * STALL_MAX, complete).await.unwrap().unwrap();
        assert_eq!(origin.asked.load(Relaxed), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn a_snapshot_that_is_gone_fails_the_manifest() {
        for halt in [Halt::Late(OriginError::SnapshotGone), Halt::Early(OriginError::SnapshotGone)] {
            let directory = tempfile::tempdir().unwrap();
            let origin = halting(directory.path(), halt);
            let fetched = fetch(origin, &directory.path().join("received")).await.unwrap();
            let mut arrival = fetched.manifest.arrival();
            let failed = arrival.wait_for(|arrival| matches!(arrival, Arrival::Failed(_)));
            let failed = tokio::time::timeout(10 * STALL_MAX, failed).await.unwrap().unwrap().clone();
            assert_eq!(failed, Arrival::Failed(OriginError::SnapshotGone.to_string()));
        }
    }
}
