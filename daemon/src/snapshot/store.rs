//! Making snapshots on the disk, and removing them.

use std::collections::HashMap;
use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex as StdMutex, PoisonError};
use std::time::SystemTime;

use tokio::sync::{Mutex, Semaphore, watch};
use tokio::task::spawn_blocking;
use twinshare_fs::manifest::walk::{DirectoryId, WalkOptions, WalkProgress, build};
use twinshare_fs::manifest::{Manifest, SnapshotId};
use twinshare_transport::identity::PeerId;
use twinshare_transport::protocol::TreeSize;

use super::SnapshotError;
use crate::home::Home;
use crate::registry::{
    LeaseReason, Registry, RegistryError, SnapshotRecord, Tables, WorkspaceId, WorkspaceRecord,
};
use crate::workspace::{Workspace, WorkspaceError, check_place};

/// Walks at a time, of all workspaces: each uses several threads and the disk.
const WALKS_MAX: usize = 2;

/// Threads of one walk; more only wait for the disk and for each other.
const WALK_THREADS: usize = 4;

/// Begins the name of a snapshot in the making.
const UNFINISHED: &str = ".new-";

/// The snapshots' directory and their records.
#[derive(Debug)]
pub(super) struct Store {
    home: Home,
    registry: Registry,
    walks: Semaphore,
    /// Held while a finished snapshot is put in its place and recorded, and while those without a record are removed,
    /// so that neither sees the other half done. No other lock is taken under it.
    settling: Mutex<()>,
    stopping: AtomicBool,
    made: AtomicU64,
    /// The snapshot that was frozen last, of each workspace that was frozen or watched since the start. Held for map
    /// operations only.
    latest: StdMutex<HashMap<WorkspaceId, watch::Sender<Option<SnapshotRecord>>>>,
}

/// What a walk made, not in its place yet.
struct Unfinished {
    directory: PathBuf,
    manifest: Manifest,
}

impl Store {
    /// Blocks on the disk.
    pub(super) fn open(home: Home, registry: Registry) -> Result<Self, SnapshotError> {
        let directory = home.snapshots();
        let disk = |source| SnapshotError::Disk { path: directory.clone(), source };
        for name in names(&directory).map_err(disk)? {
            if name.starts_with(UNFINISHED) {
                fs::remove_dir_all(directory.join(name)).map_err(disk)?;
            }
        }
        let (walks, settling) = (Semaphore::new(WALKS_MAX), Mutex::default());
        let (stopping, made) = (AtomicBool::new(false), AtomicU64::new(0));
        let latest = StdMutex::default();
        Ok(Self { home, registry, walks, settling, stopping, made, latest })
    }

    /// Ends the walks under way and makes no more.
    pub(super) fn stop(&self) {
        self.stopping.store(true, Relaxed);
        self.walks.close();
    }

    /// Waits for its turn among the workspaces' walks.
    pub(super) async fn turn(&self) -> Result<tokio::sync::SemaphorePermit<'_>, SnapshotError> {
        self.walks.acquire().await.map_err(|_| SnapshotError::Stopping)
    }

    /// Where a snapshot lies.
    pub(super) fn directory(&self, snapshot: SnapshotId) -> PathBuf {
        self.home.snapshot(snapshot)
    }

    /// The snapshot of a workspace that was frozen last since the start, and news of it.
    pub(super) fn latest(&self, workspace: WorkspaceId) -> watch::Receiver<Option<SnapshotRecord>> {
        self.latest.lock().unwrap_or_else(PoisonError::into_inner).entry(workspace).or_default().subscribe()
    }

    fn set_latest(&self, record: &SnapshotRecord) {
        let mut all = self.latest.lock().unwrap_or_else(PoisonError::into_inner);
        all.entry(record.workspace).or_default().send_replace(Some(record.clone()));
    }

    /// Gives a peer that watches, and still shows `base`, a lease on a snapshot; false where it is not kept any more.
    pub(super) async fn lease_watched(
        &self,
        snapshot: SnapshotId,
        base: SnapshotId,
        peer: PeerId,
    ) -> Result<bool, SnapshotError> {
        let lease = move |tables: &mut Tables| {
            let now = SystemTime::now();
            let Some(record) = tables.snapshot(snapshot)? else { return Ok(false) };
            // First, so that it outlives all that the peer was told of and could not go on to.
            tables.keep_watched(base, peer, now)?;
            tables.add_snapshot(&record, peer, LeaseReason::Watched, now).map(|()| true)
        };
        match self.registry.call(lease).await {
            Err(RegistryError::Crowded) => Err(SnapshotError::Busy),
            leased => Ok(leased?),
        }
    }

    /// Freezes a workspace as it is now, with a lease for each of the peers; then collects, since a new snapshot may
    /// have pushed out an old one. Also returns the peers for whom there is no room.
    pub(super) async fn freeze(
        self: &Arc<Self>,
        workspace: WorkspaceRecord,
        leases: Vec<(PeerId, LeaseReason)>,
    ) -> Result<(SnapshotRecord, Vec<PeerId>), SnapshotError> {
        let (store, id) = (self.clone(), workspace.id);
        let Unfinished { directory, manifest } = blocking(move || store.walk(&workspace)).await?;
        let snapshot = manifest.snapshot();
        let size = TreeSize { entries: manifest.entries(), file_bytes: manifest.file_bytes() };
        let record = SnapshotRecord { snapshot, workspace: id, created: SystemTime::now(), size };
        let settling = self.settling.lock().await;
        let is_kept = self.registry.call(move |tables| tables.snapshot(snapshot)).await?.is_some();
        let place = self.directory(snapshot);
        blocking(move || put_in_place(&directory, &place, is_kept)).await?;
        let added = record.clone();
        let lease = move |tables: &mut Tables| {
            let mut refused = Vec::new();
            for (peer, reason) in leases {
                match tables.add_snapshot(&added, peer, reason, added.created) {
                    Err(RegistryError::Crowded) => refused.push(peer),
                    other => other?,
                }
            }
            Ok(refused)
        };
        let refused = self.registry.call(lease).await?;
        drop(settling);
        self.set_latest(&record);
        self.collect(record.created).await?;
        Ok((record, refused))
    }

    /// Ends leases whose time is over, removes what no lease keeps, and returns the snapshots that are left.
    pub(super) async fn collect(&self, now: SystemTime) -> Result<Vec<SnapshotRecord>, SnapshotError> {
        let _settling = self.settling.lock().await;
        let kept = self.registry.call(move |tables| tables.expire_leases(now)).await?;
        let names: Vec<_> = kept.iter().map(|record| record.snapshot.to_string()).collect();
        let directory = self.home.snapshots();
        blocking(move || remove_others(&directory, &names)).await?;
        Ok(kept)
    }

    /// Walks a workspace into a directory of its own.
    fn walk(&self, workspace: &WorkspaceRecord) -> Result<Unfinished, SnapshotError> {
        check_place(&workspace.directory, &self.home).map_err(WorkspaceError::from)?;
        let roots = Workspace::load(workspace)?.shared_roots(workspace, &self.home)?;
        let directory = self.new_directory()?;
        let own = self.home.directories_of_nodes();
        // One that does not exist holds nothing.
        let exclude: Vec<_> = own.iter().filter_map(|path| DirectoryId::of(path).ok()).collect();
        let progress = WalkProgress::default();
        let options = WalkOptions {
            threads: std::thread::available_parallelism().map_or(1, |cores| cores.get().min(WALK_THREADS)),
            exclude: &exclude,
            cancel: &self.stopping,
            progress: &progress,
        };
        match build(&directory, &roots, &options) {
            Ok(manifest) => Ok(Unfinished { directory, manifest }),
            Err(error) => {
                // The walk's own failure is the one to report; the rest is removed at the next start.
                let _ = fs::remove_dir_all(&directory);
                Err(error.into())
            }
        }
    }

    fn new_directory(&self) -> Result<PathBuf, SnapshotError> {
        let number = self.made.fetch_add(1, Relaxed);
        let path = self.home.snapshots().join(format!("{UNFINISHED}{}-{number}", std::process::id()));
        match DirBuilder::new().mode(0o700).create(&path) {
            Ok(()) => Ok(path),
            Err(source) => Err(SnapshotError::Disk { path, source }),
        }
    }
}

/// Runs what blocks on the disk.
pub(super) async fn blocking<T: Send + 'static>(
    act: impl FnOnce() -> Result<T, SnapshotError> + Send + 'static,
) -> Result<T, SnapshotError> {
    // It fails only when the runtime shuts down before it began.
    spawn_blocking(act).await.unwrap_or(Err(SnapshotError::Stopping))
}

/// Moves a finished snapshot to its place, durably.
///
/// One that is there already and has leases stays as it is: which versions of the files it means is recorded beside
/// its manifest, some of their blocks may have been sent, and another version must not be mixed with them.
fn put_in_place(made: &Path, place: &Path, is_kept: bool) -> Result<(), SnapshotError> {
    let disk = |source| SnapshotError::Disk { path: place.into(), source };
    if is_kept && place.is_dir() {
        return fs::remove_dir_all(made).map_err(disk);
    }
    match fs::remove_dir_all(place) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(disk(error)),
        _ => {}
    }
    fs::rename(made, place).map_err(disk)?;
    let parent = place.parent().unwrap_or(place);
    File::open(parent).and_then(|directory| directory.sync_all()).map_err(disk)
}

/// Removes every snapshot that is not named; those in the making stay.
fn remove_others(directory: &Path, kept: &[String]) -> Result<(), SnapshotError> {
    let disk = |source| SnapshotError::Disk { path: directory.into(), source };
    for name in names(directory).map_err(disk)? {
        if !name.starts_with(UNFINISHED) && !kept.contains(&name) {
            fs::remove_dir_all(directory.join(name)).map_err(disk)?;
        }
    }
    Ok(())
}

fn names(directory: &Path) -> io::Result<Vec<String>> {
    fs::read_dir(directory)?.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect()
}
