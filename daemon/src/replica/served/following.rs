//! A view goes on to what its workspace becomes at the peer.
//!
//! One task for each view asks the peer whether there is another snapshot than the one that is shown, fetches what became
//! of its manifest, and has the mounts go on to it. Whatever fails leaves the view as it is and is tried again; what keeps
//! it from following is told.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use tokio::runtime::Handle;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use twinshare_fs::filesystem::Following;
use twinshare_fs::manifest::{self, Arrival, FetchError, Manifest, SnapshotId};
use twinshare_fs::origin::Availability;
use twinshare_fs::replica::layout::LayoutError;
use twinshare_fs::replica::{ReplicaConfig, ReplicaError, ViewDirectory};
use twinshare_transport::client::{CallError, Remote, Watched};

use crate::api::wire::{ReplicaFollowing, UnixTime};
use crate::chain::chain;

/// The pause after something failed, which doubles with each failure in a row.
const PAUSE_MIN: Duration = Duration::from_millis(500);

/// The longest. A peer that is gone is asked again as soon as it is heard of.
const PAUSE_MAX: Duration = Duration::from_secs(60);

/// The pause after going on, at least: a workspace that never rests is followed in steps.
const REST_MIN: Duration = Duration::from_millis(100);

/// The pause is so many times as long as going on took, so that following never takes more than a part of a thread.
const REST_FACTOR: u32 = 2;

/// Bytes of a reason that are told: some of it is the peer's.
const WHY_BYTES_MAX: usize = 300;

/// What a view is made of that follows.
pub(super) struct Followed {
    pub(super) directory: Arc<ViewDirectory>,
    pub(super) following: Arc<Following>,
    pub(super) remote: Remote,
    pub(super) workspace: String,
}

/// The task of one view.
pub(super) struct Follower {
    pub(super) following: Arc<Following>,
    told: Arc<Told>,
    stop: CancellationToken,
    task: tokio::sync::Mutex<Option<JoinHandle<()>>>,
}

/// What is told of it.
#[derive(Default)]
struct Told {
    /// Why it does not follow.
    why: Mutex<Option<String>>,
}

impl Told {
    fn why(&self) -> Option<String> {
        self.why.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn say(&self, why: Option<String>) {
        let mut told = self.why.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(why) = why.as_ref().filter(|why| told.as_ref() != Some(why)) {
            tracing::info!(why, "a view does not follow for now");
        }
        *told = why;
    }
}

impl Follower {
    pub(super) fn start(followed: Followed) -> Self {
        let (told, stop) = (Arc::<Told>::default(), CancellationToken::new());
        let following = followed.following.clone();
        let task = tokio::spawn(run(followed, told.clone(), stop.clone()));
        Self { following, told, stop, task: tokio::sync::Mutex::new(Some(task)) }
    }

    /// What the API shows of it.
    pub(super) fn shown(&self) -> ReplicaFollowing {
        let shown = self.following.replica();
        // The snapshot was new when its manifest came.
        let written = std::fs::metadata(shown.layout().manifest_path()).and_then(|about| about.modified());
        let since = written.unwrap_or(SystemTime::UNIX_EPOCH);
        ReplicaFollowing {
            snapshot: shown.manifest().snapshot().to_string(),
            since: UnixTime::from(since),
            paused: self.told.why(),
        }
    }

    /// Ends it; nothing is written to the view's directory on its behalf afterwards.
    pub(super) async fn stop(&self) {
        self.stop.cancel();
        if let Some(task) = self.task.lock().await.take() {
            // It ends with the step it is at.
            let _ = task.await;
        }
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

async fn run(followed: Followed, told: Arc<Told>, stop: CancellationToken) {
    let mut pause = PAUSE_MIN;
    loop {
        let began = Instant::now();
        let rest = match followed.step(&stop).await {
            Ok(Step::Nothing) => Some(Duration::ZERO),
            Ok(Step::WentOn(took)) => Some((took * REST_FACTOR).max(REST_MIN)),
            Ok(Step::Stopped) => return,
            Err(why) => {
                told.say(Some(cut(why)));
                None
            }
        };
        // A peer that answers at once that there is nothing is not asked in a loop.
        let rest = rest.map(|rest| rest.max(PAUSE_MIN.saturating_sub(began.elapsed())));
        if rest.is_some() {
            told.say(None);
        }
        let rested = async {
            match rest {
                Some(rest) => {
                    tokio::time::sleep(rest).await;
                    true
                }
                None => followed.pause(pause).await,
            }
        };
        let begins_anew = tokio::select! {
            begins_anew = rested => begins_anew,
            () = stop.cancelled() => return,
        };
        pause = if begins_anew { PAUSE_MIN } else { (pause * 2).min(PAUSE_MAX) };
    }
}

/// What came of one question.
enum Step {
    /// There is nothing new.
    Nothing,
    /// The view went on, in so much time.
    WentOn(Duration),
    /// It is to end.
    Stopped,
}

/// Why a view does not go on.
type Why = String;

impl Followed {
    async fn step(&self, stop: &CancellationToken) -> Result<Step, Why> {
        let shown = self.following.replica();
        let watched = async {
            complete(shown.manifest()).await?;
            let watched = self.remote.watch(&self.workspace, shown.manifest().snapshot()).await;
            watched.map_err(from_call)
        };
        let watched = tokio::select! {
            watched = watched => watched?,
            () = stop.cancelled() => return Ok(Step::Stopped),
        };
        let new = match watched {
            Watched::Nothing => return Ok(Step::Nothing),
            Watched::NotOffered => return Err("the peer's twinshare is too old to tell of changes".into()),
            Watched::New(info) if info.id == shown.manifest().snapshot() => return Ok(Step::Nothing),
            Watched::New(info) => info.id,
        };
        drop(shown);
        let began = Instant::now();
        tokio::select! {
            made = self.fetch(new) => self.go_on(made?).await?,
            () = stop.cancelled() => return Ok(Step::Stopped),
        }
        Ok(Step::WentOn(began.elapsed()))
    }

    /// The next edition's manifest, where it belongs.
    async fn fetch(&self, snapshot: SnapshotId) -> Result<Made, Why> {
        let directory = self.directory.clone();
        let layout = blocking(move || directory.make().map_err(from_layout)).await?;
        let origin = self.remote.origin(snapshot);
        let shown = self.following.replica();
        let fetched = manifest::fetch_since(&*origin, shown.manifest(), &layout.manifest_path()).await;
        let (manifest, carried) = fetched.map_err(from_fetch)?;
        let config = ReplicaConfig { when_gone: shown.when_gone(), ..ReplicaConfig::new(layout) };
        Ok(Made { config, manifest, carried, origin })
    }

    async fn go_on(&self, made: Made) -> Result<(), Why> {
        let Made { config, manifest, carried, origin } = made;
        let (following, runtime) = (self.following.clone(), Handle::current());
        blocking(move || {
            let next = following.replica().next(config, manifest, &carried, origin, runtime);
            following.advance(next.map_err(from_replica)?);
            Ok(())
        })
        .await
    }

    /// Waits so long; true where the peer was gone and has come back before that.
    async fn pause(&self, pause: Duration) -> bool {
        let mut availability = self.remote.availability();
        let back = async {
            let gone = availability.wait_for(|now| *now != Availability::Reachable).await.is_ok();
            let back = availability.wait_for(|now| *now == Availability::Reachable).await.is_ok();
            if !(gone && back) {
                std::future::pending::<()>().await;
            }
            // What it said no to a moment ago it may say no to again.
            tokio::time::sleep(PAUSE_MIN).await;
        };
        tokio::time::timeout(pause, back).await.is_ok()
    }
}

/// An edition that can be gone on to.
struct Made {
    config: ReplicaConfig,
    manifest: Manifest,
    carried: manifest::Carried,
    origin: Arc<dyn twinshare_fs::origin::Origin>,
}

/// Waits until all of a manifest is here.
async fn complete(manifest: &Manifest) -> Result<(), Why> {
    let mut arrival = manifest.arrival();
    let arrived = arrival.wait_for(|arrival| !matches!(arrival, Arrival::Listed(_))).await;
    match arrived.as_deref() {
        Ok(Arrival::Complete) => Ok(()),
        Ok(Arrival::Failed(why)) => Err(format!("the list of its files did not arrive: {why}")),
        Ok(Arrival::Listed(_)) | Err(_) => Err("the list of its files did not arrive".into()),
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Why> + Send + 'static,
) -> Result<T, Why> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|died| Err(died.to_string()))
}

fn from_call(error: CallError) -> Why {
    error.to_string()
}

fn from_layout(error: LayoutError) -> Why {
    chain(&error)
}

fn from_fetch(error: FetchError) -> Why {
    chain(&error)
}

fn from_replica(error: ReplicaError) -> Why {
    match error {
        ReplicaError::OtherRoots | ReplicaError::Exhausted(_) => {
            format!("{error} (`twinshare unmount`, then `twinshare mount`)")
        }
        error => chain(&error),
    }
}

fn cut(mut why: Why) -> Why {
    why.truncate(why.floor_char_boundary(WHY_BYTES_MAX));
    why
}
