//! How a replica comes to be: a place is claimed, a snapshot asked for, all of it written down, then served; or nothing of
//! it stays.

use std::convert::Infallible;
use std::hash::{BuildHasher, RandomState};
use std::path::{Path, PathBuf};
use std::time::Duration;

use twinshare_fs::replica::layout;

use super::claims::Claim;
use super::control::Failure;
use super::spec::{self, Spec};
use super::{Known, REPLICAS_MAX, Replicas, blocking, disk, from_failure, load_roots, place};
use crate::api::replica_control::{ReplicaError, ReplicaSpec};
use crate::api::wire::{ProgressUnit, Replica, ReplicaKind, UnixTime};
use crate::operation::Task;

/// How long the origin may take to freeze a snapshot: the walk of some million files on a slow disk.
const SNAPSHOT_WITHIN: Duration = Duration::from_secs(180);

impl Replicas {
    pub(super) async fn make(&self, wanted: ReplicaSpec, task: &Task) -> Result<Replica, ReplicaError> {
        let mount_point = self.place(&wanted).await?;
        let claim = tokio::select! {
            claim = self.supervisor.claims.claim(&mount_point) => claim,
            () = task.cancelled() => return Err(ReplicaError::Cancelled),
        };
        if let Some(there) = self.there(&mount_point).await? {
            return self.again(&wanted, there, claim, task).await;
        }
        let exists = self.check(&mount_point).await?;
        task.step("asking for a snapshot", None, ProgressUnit::Steps);
        let remote = self.connections.remote(wanted.peer, &wanted.addresses);
        let snapshot = tokio::select! {
            snapshot = remote.open_snapshot(&wanted.workspace, None, SNAPSHOT_WITHIN) => snapshot?,
            () = task.cancelled() => return Err(ReplicaError::Cancelled),
        };
        let id = new_id();
        let spec = Spec {
            version: spec::VERSION,
            process: Spec::process_for(wanted.kind, &id),
            id,
            kind: wanted.kind,
            peer: wanted.peer,
            peer_name: wanted.peer_name.clone().unwrap_or_else(|| wanted.peer.short()),
            addresses: wanted.addresses.clone(),
            workspace: wanted.workspace.clone(),
            snapshot: snapshot.id.to_string(),
            mount_point,
            made_mount_point: !exists,
            replica_directory: (wanted.kind == ReplicaKind::Clone).then(layout::new_name),
            keep_mounted: wanted.keep_mounted,
            keep_paths: wanted.keep_paths,
            plain: wanted.plain,
            when_gone: wanted.when_gone,
            created_at: UnixTime::now(),
            ended: false,
        };
        let step = if spec.plain { "beginning" } else { "mounting" };
        task.step(step, None, ProgressUnit::Steps);
        self.begin(spec, &claim, task).await
    }

    /// Where it is to be mounted.
    async fn place(&self, wanted: &ReplicaSpec) -> Result<PathBuf, ReplicaError> {
        if let Some(directory) = &wanted.directory {
            return resolved(directory.clone()).await;
        }
        let place = resolved(place::default(&self.home, wanted)).await?;
        let by_id = resolved(place::default_by_id(&self.home, wanted)).await?;
        let is_taken = self.known().values().any(|known| place::is_anothers(&known.spec, wanted, &place));
        Ok(if is_taken || self.mounted_at(&by_id).is_some() { by_id } else { place })
    }

    /// Checks that something can be mounted there; true if the directory exists.
    async fn check(&self, mount_point: &Path) -> Result<bool, ReplicaError> {
        let (home, directory) = (self.home.clone(), mount_point.to_owned());
        let checked = said(move || place::check(&home, &directory)).await;
        checked.map_err(|reason| ReplicaError::Directory { directory: mount_point.to_owned(), reason })
    }

    /// Writes the replica down and has it served; undoes all of it when that fails or is cancelled.
    async fn begin(&self, spec: Spec, claim: &Claim, task: &Task) -> Result<Replica, ReplicaError> {
        self.write_down(&spec).await?;
        let serving = self.supervisor.serve(&spec, claim);
        let cancelled = async {
            task.cancelled().await;
            claim.stop().cancel();
            std::future::pending::<Infallible>().await
        };
        let served = tokio::select! {
            served = serving => served,
            never = cancelled => match never {},
        };
        match served {
            Ok(()) | Err(Failure::Settled) => {
                self.note_roots(&spec.id).await;
                self.show(&spec.id).await
            }
            Err(failure) => {
                if let Err(left) = self.end(spec.clone()).await {
                    tracing::warn!(replica = spec.id, error = %left, "an attempt cannot be undone");
                }
                Err(from_failure(failure, &spec))
            }
        }
    }

    async fn write_down(&self, spec: &Spec) -> Result<(), ReplicaError> {
        {
            let mut known = self.known();
            if known.len() >= REPLICAS_MAX {
                let why = format!("there are {REPLICAS_MAX} mounts and clones already");
                return Err(ReplicaError::Unsupported(why));
            }
            known.insert(spec.id.clone(), Known { spec: spec.clone(), roots: Vec::new(), settled: None });
        }
        let (directory, saved) = (self.home.replica(&spec.id), spec.clone());
        let written = blocking(move || {
            std::fs::create_dir(&directory)?;
            saved.save(&directory)
        });
        let written = written.await.map_err(|error| disk("it cannot be written down", error));
        // After the spec: whatever is made is known.
        let made = match written {
            Ok(()) => make_directory(spec.mount_point.clone()).await,
            Err(error) => Err(error),
        };
        if made.is_err() {
            let removed = self.end(spec.clone()).await;
            tracing::debug!(replica = spec.id, ?removed, "what was made for it before the disk failed");
        }
        made
    }

    /// Learns what the replica's process found out about it.
    async fn note_roots(&self, id: &str) {
        let (home, of) = (self.home.clone(), id.to_owned());
        let roots = blocking(move || Ok(load_roots(&home, &of))).await.unwrap_or_default();
        if let Some(known) = self.known().get_mut(id) {
            known.roots = roots;
        }
    }

    /// Asked for once more: the view that is there is what was asked for; anything else is in the way.
    async fn again(
        &self,
        wanted: &ReplicaSpec,
        there: Spec,
        claim: Claim,
        task: &Task,
    ) -> Result<Replica, ReplicaError> {
        if (there.kind, there.peer, &there.workspace) != (wanted.kind, wanted.peer, &wanted.workspace) {
            return Err(ReplicaError::Directory {
                directory: there.mount_point,
                reason: format!("{}/{} is there already", there.peer_name, there.workspace),
            });
        }
        if self.note_settled(&there.id).await {
            return Ok(Replica { was_there: true, ..self.show(&there.id).await? });
        }
        let spec = Spec { addresses: wanted.addresses.clone(), ..there };
        let (supervisor, serving) = (self.supervisor.clone(), spec.clone());
        // In a task of its own, which goes on: whoever gives up waiting has no business undoing what others use.
        let serving = tokio::spawn(async move { supervisor.serve(&serving, &claim).await });
        let served = tokio::select! {
            served = serving => served.unwrap_or_else(|died| Err(Failure::Other(died.to_string()))),
            () = task.cancelled() => return Err(ReplicaError::Cancelled),
        };
        served.map_err(|failure| from_failure(failure, &spec))?;
        self.note_roots(&spec.id).await;
        Ok(Replica { was_there: true, ..self.show(&spec.id).await? })
    }

    /// What lies at `mount_point`. A settled clone whose directory somebody has removed since lies there no more, and is
    /// forgotten. To be called under the claim on the mount point.
    async fn there(&self, mount_point: &Path) -> Result<Option<Spec>, ReplicaError> {
        let Some(there) = self.mounted_at(mount_point) else { return Ok(None) };
        let directory = mount_point.to_owned();
        let is_gone = blocking(move || Ok(!directory.try_exists()?)).await.unwrap_or(false);
        if !(is_gone && self.note_settled(&there.id).await) {
            return Ok(Some(there));
        }
        self.end(there).await.map(|()| None)
    }

    fn mounted_at(&self, mount_point: &Path) -> Option<Spec> {
        let known = self.known();
        known.values().map(|known| &known.spec).find(|spec| spec.mount_point == mount_point).cloned()
    }
}

/// The one name of a directory to mount on.
async fn resolved(directory: PathBuf) -> Result<PathBuf, ReplicaError> {
    let asked = directory.clone();
    let resolved = said(move || place::resolve(&asked)).await;
    resolved.map_err(|reason| ReplicaError::Directory { directory, reason })
}

/// Makes a mount point where there is none.
async fn make_directory(directory: PathBuf) -> Result<(), ReplicaError> {
    let wanted = directory.clone();
    let made = blocking(move || match std::fs::create_dir_all(&wanted) {
        // What was to hold it has just been removed with the last other mount in it.
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => std::fs::create_dir_all(&wanted),
        made => made,
    })
    .await;
    made.map_err(|error| ReplicaError::Directory { directory, reason: format!("it cannot be made: {error}") })
}

/// Runs what blocks; a panic in it is a reason too.
async fn said<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, String> + Send + 'static,
) -> Result<T, String> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|died| Err(died.to_string()))
}

/// 64 random bits: short enough to be read out, and no two in one home.
fn new_id() -> String {
    // The standard library keys its hasher from the system's random numbers.
    format!("{:016x}", RandomState::new().hash_one(()))
}
