//! One replica while it is served: its store, and a mount for each of its roots; none for a plain clone.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;
use twinshare_fs::filesystem::{CloneTree, Following, Owner, Tree, TreeView};
use twinshare_fs::fuse::{MountError, MountOptions, MountedRoot, UnmountError};
use twinshare_fs::manifest::{self, Arrival, EntryIndex, FetchError, LeftOut, Manifest, SnapshotId};
use twinshare_fs::origin::{Availability, OriginError};
use twinshare_fs::replica::layout::LayoutError;
use twinshare_fs::replica::{Layout, Replica, ReplicaConfig, ReplicaError, ReplicaStatus, ViewDirectory};
use twinshare_transport::client::Remote;

use super::control::{Failure, Report};
use super::place;
use super::process::Host;
use super::remotes::HeldRemote;
use super::roster::{Life, NotStarted};
use super::settled;
use super::spec::{self, Spec};
use crate::api::wire::{
    self, ReplicaKind, ReplicaLeftOut, ReplicaLeftOutEntry, ReplicaProgress, ReplicaRoot, UnixTime,
};
use crate::chain::chain;
use crate::home::Home;

mod account;
mod cache;
mod changed;
mod following;
mod settle;

use following::{Followed, Follower};
use settle::Settling;

/// How long the first part of the manifest may take to arrive.
const MANIFEST_WITHIN: Duration = Duration::from_secs(30);

/// Between two tries to unmount a companion that is in use when its workspace is gone already.
const COMPANION_RETRY: Duration = Duration::from_secs(2);

/// How long what has arrived may take to get to the disk once nothing is mounted any more.
const CLOSED_WITHIN: Duration = Duration::from_secs(10);

/// Entries that are named of those that a snapshot lacks; the rest is counted.
const LEFT_OUT_SHOWN: usize = 20;

/// Bytes of the names and reasons shown at most: they are the peer's, and go into every report.
const LEFT_OUT_BYTES_MAX: usize = 2048;

/// A replica with its mounts.
pub(super) struct Served {
    home: Home,
    spec: Spec,
    /// The one that it was opened as; what a view shows is its follower's.
    replica: Arc<Replica>,
    /// Of a view.
    follower: Option<Follower>,
    remote: HeldRemote,
    /// Completes the manifest for as long as this lives.
    _fetched: manifest::Fetched,
    /// The workspace's first.
    mounts: Vec<Arc<MountedRoot>>,
    /// How many of them have been unmounted, from the first on. Held by whoever unmounts: the end of the workspace's
    /// mount wakes [`over`](Life::over) while an order to detach is still at the companions, and of two who unmount
    /// the same one the second would fail.
    unmounted: tokio::sync::Mutex<usize>,
    /// Cancelled once a plain clone, of which nothing is mounted, is to be left.
    left: CancellationToken,
    roots: Vec<ReplicaRoot>,
    settling: Settling,
    /// When it was opened.
    since: UnixTime,
    /// What a snapshot lacks, of the last that was asked for.
    left_out: Mutex<Option<(SnapshotId, Option<ReplicaLeftOut>)>>,
}

impl Served {
    /// Opens the replica and mounts its roots; returns when the workspace's root can be listed. What it mounted before
    /// it failed, or was cancelled, is unmounted again. A clone that was interrupted on its last steps takes them, and is
    /// not mounted any more.
    pub(super) async fn start(
        host: &Host,
        spec: Spec,
        remote: HeldRemote,
        cancel: &CancellationToken,
    ) -> Result<Self, NotStarted<Self>> {
        let Opened { replica, view, fetched, roots } =
            Opened::open(host, &spec, &remote.remote, cancel).await?;
        let following = view.as_ref().map(|_| following_of(&replica));
        let mut mounts = Vec::new();
        let mut outcome = Ok(());
        let mounted = if spec.plain { &[][..] } else { &roots[..] };
        for (root, index) in mounted.iter().zip(0u32..) {
            let tree = match &following {
                Some(following) => following.root(index as usize).into(),
                None => tree(&replica, EntryIndex(index)),
            };
            outcome = if cancel.is_cancelled() {
                Err(Failure::Cancelled)
            } else {
                mount(host, &spec, tree, &root.local).await.map(|mounted| mounts.push(Arc::new(mounted)))
            };
            if outcome.is_err() {
                break;
            }
        }
        let followed = following.zip(view).filter(|_| outcome.is_ok());
        let follower = followed.map(|(following, directory)| {
            let (remote, workspace) = (remote.remote.clone(), spec.workspace.clone());
            Follower::start(Followed { directory, following, remote, workspace })
        });
        let served = Self {
            home: host.home.clone(),
            spec,
            replica,
            follower,
            remote,
            _fetched: fetched,
            mounts,
            unmounted: tokio::sync::Mutex::default(),
            left: CancellationToken::new(),
            roots,
            settling: Settling::new(),
            since: UnixTime::now(),
            left_out: Mutex::default(),
        };
        match outcome {
            Ok(()) => Ok(served),
            Err(failure) => Err(NotStarted { left: served.undo().await, failure }),
        }
    }

    /// Unmounts what was mounted; what cannot be unmounted stays served.
    async fn undo(self) -> Option<Self> {
        match self.unmount().await {
            Ok(()) => {
                self.over().await;
                None
            }
            Err(left) => {
                tracing::warn!(replica = self.spec.id, failure = %left, "a root stays mounted");
                Some(self)
            }
        }
    }

    /// What is shown.
    fn replica(&self) -> Arc<Replica> {
        self.follower.as_ref().map_or_else(|| self.replica.clone(), |follower| follower.following.replica())
    }

    fn left_out(&self) -> Option<ReplicaLeftOut> {
        let replica = self.replica();
        let manifest = replica.manifest();
        if *manifest.arrival().borrow() != Arrival::Complete {
            return None;
        }
        let mut kept = self.left_out.lock().unwrap_or_else(PoisonError::into_inner);
        match &*kept {
            Some((of, left_out)) if *of == manifest.snapshot() => left_out.clone(),
            _ => {
                let left_out = left_out(manifest, &self.roots);
                *kept = Some((manifest.snapshot(), left_out.clone()));
                left_out
            }
        }
    }

    /// What the node wants to know.
    pub(super) fn report(&self) -> Report {
        let replica = self.replica();
        let status = replica.status();
        let availability = match *self.remote.remote.availability().borrow() {
            Availability::Reachable => wire::Availability::Reachable,
            Availability::Gone { .. } => wire::Availability::Gone,
        };
        Report {
            id: self.spec.id.clone(),
            left_out: self.left_out(),
            settling: self.settling(&status),
            reading: self.reading(),
            following: self.follower.as_ref().map(Follower::shown),
            changed: changed::changed(&status.changed),
            progress: progress(&status, self.settling.pace(&status), replica.is_changed(), availability),
        }
    }

    /// As [`Life::unmount`], also while it settles.
    async fn unmount_all(&self) -> Result<(), Failure> {
        let mut unmounted = self.unmounted.lock().await;
        if *unmounted == 0 {
            let companions: Vec<_> = self.mounts.iter().skip(1).cloned().collect();
            blocking(move || unused(&companions)).await?;
        }
        while let Some(mount) = self.mounts.get(*unmounted) {
            let mount = mount.clone();
            blocking(move || mount.unmount().map_err(from_unmount)).await?;
            *unmounted += 1;
        }
        self.left.cancel();
        Ok(())
    }

    /// True once the workspace has been unmounted by this process, or a plain clone left.
    async fn is_unmounted(&self) -> bool {
        *self.unmounted.lock().await > 0 || self.left.is_cancelled()
    }
}

fn progress(
    status: &ReplicaStatus,
    (bytes_per_s, left_s): (Option<u64>, Option<u64>),
    changed: bool,
    availability: wire::Availability,
) -> ReplicaProgress {
    let counted = |number: u64| status.counted.then_some(number);
    ReplicaProgress {
        files_total: counted(status.files.total),
        files_resident: counted(status.files.resident),
        bytes_total: status.bytes.total,
        bytes_resident: counted(status.bytes.resident),
        bytes_fetched: status.fetched.demand + status.fetched.read_ahead + status.fetched.bulk,
        bytes_per_s,
        left_s,
        changed,
        availability,
    }
}

impl Life for Served {
    /// Unmounts the roots, the workspace first: while somebody works there, or in a companion, everything stays. Stops
    /// at the first that turns out to be busy; asked again, it goes on from there.
    async fn unmount(&self) -> Result<(), Failure> {
        let _not_while_it_settles = self.settling.wait().await;
        self.unmount_all().await
    }

    async fn is_copied(&self) -> bool {
        let mounts = self.mounts.clone();
        let look = move || mounts.iter().any(|mount| mount.is_copied());
        tokio::task::spawn_blocking(look).await.unwrap_or(false)
    }

    /// When the workspace has been unmounted, here or by hand, its companions follow as soon as nobody uses them. A clone
    /// that has begun to settle is an ordinary directory then.
    async fn over(&self) {
        self.settle_until_ended().await;
        while let Err(failure) = self.unmount().await {
            tracing::debug!(replica = self.spec.id, %failure, "a companion stays mounted for now");
            tokio::time::sleep(COMPANION_RETRY).await;
        }
        for companion in self.mounts.iter().skip(1) {
            companion.ended().await;
        }
        if let Some(follower) = &self.follower {
            follower.stop().await;
        }
        if tokio::time::timeout(CLOSED_WITHIN, self.replica().close()).await.is_err() {
            tracing::warn!(replica = self.spec.id, "what has arrived is not on the disk yet");
        }
        if self.has_begun_to_settle() {
            self.conclude().await;
        }
    }
}

/// Checks that nobody is seen in any of these companions.
fn unused(companions: &[Arc<MountedRoot>]) -> Result<(), Failure> {
    let in_companion = |companion: &MountedRoot| {
        let at = companion.at().display().to_string();
        companion.users().iter().map(|user| format!("{user}, of the companion at {at}")).collect::<Vec<_>>()
    };
    let users: Vec<String> = companions.iter().flat_map(|companion| in_companion(companion)).collect();
    if users.is_empty() { Ok(()) } else { Err(Failure::Busy(users)) }
}

/// A replica that can be mounted.
struct Opened {
    replica: Arc<Replica>,
    /// Of a view.
    view: Option<Arc<ViewDirectory>>,
    fetched: manifest::Fetched,
    roots: Vec<ReplicaRoot>,
}

impl Opened {
    /// Removes dead mounts, opens the replica and notes its roots. When it returns, nothing writes to the replica's
    /// directory but what it returns.
    async fn open(
        host: &Host,
        spec: &Spec,
        remote: &Remote,
        cancel: &CancellationToken,
    ) -> Result<Self, Failure> {
        let first = spec.snapshot_id().map_err(|error| Failure::Other(error.to_string()))?;
        let places =
            Places { mount_point: spec.mount_point.clone(), home: host.home.clone(), id: spec.id.clone() };
        let (layout, view) = {
            let (mounter, spec, places) = (host.mounter.clone(), spec.clone(), places.clone());
            blocking(move || {
                for at in places.left_mounted() {
                    mounter.sweep_dead(&at).map_err(from_unmount)?;
                }
                if settled::conclude(&places.home, &spec)? {
                    return Err(Failure::Settled);
                }
                layout(&places, &spec)
            })
            .await?
        };
        // A view may have gone on since it was made.
        let shown = layout.snapshot().map_err(|error| Failure::Other(chain(&error)))?;
        let origin = remote.origin(shown.unwrap_or(first));
        let path = layout.manifest_path();
        let fetching = tokio::time::timeout(MANIFEST_WITHIN, manifest::fetch(origin.clone(), &path));
        let fetched = tokio::select! {
            fetched = fetching => fetched
                .map_err(|_| Failure::Unreachable("the manifest did not arrive in time".into()))?
                .map_err(from_fetch)?,
            () = cancel.cancelled() => return Err(Failure::Cancelled),
        };
        let manifest = fetched.manifest.clone();
        let roots = roots(&manifest, &places);
        let mut config = ReplicaConfig::new(layout);
        config.when_gone = spec.when_gone;
        let is_clone = spec.kind == ReplicaKind::Clone;
        (config.hydrate, config.is_writable) = (is_clone, is_clone);
        config.cache = (!is_clone).then(|| host.cache.clone());
        let (runtime, state, noted) = (Handle::current(), host.home.replica(&spec.id), roots.clone());
        let replica = blocking(move || {
            spec::save_roots(&state, &noted).map_err(|error| Failure::Other(chain(&error)))?;
            config.pins = cache::load_pins(&state).map_err(|error| {
                Failure::Other(format!("what is pinned cannot be told: {}", chain(&error)))
            })?;
            Replica::open(config, manifest, origin, runtime).map_err(from_replica)
        })
        .await?;
        Ok(Self { replica, view, fetched, roots })
    }
}

/// What a view shows of it, in editions of which it is the first.
fn following_of(replica: &Arc<Replica>) -> Arc<Following> {
    Following::new(replica.clone(), Owner::of_this_process(), Handle::current())
}

/// What is mounted for a root of a clone: the workspace of a clone can be changed, all else cannot.
fn tree(replica: &Arc<Replica>, root: EntryIndex) -> Tree {
    let owner = Owner::of_this_process();
    match replica.names().filter(|_| root.0 == 0) {
        Some(names) => CloneTree::new(replica.clone(), names.clone(), owner).into(),
        None => TreeView::new(replica.clone(), root, owner).into(),
    }
}

async fn mount(host: &Host, spec: &Spec, tree: Tree, at: &str) -> Result<MountedRoot, Failure> {
    let name = format!("{}/{}", spec.peer_name, spec.workspace);
    // As they reach any directory of root's. An ordinary user may let others in only where the administrator allows it.
    let allow_other = matches!(tree, Tree::Clone(_)) && rustix::process::geteuid().is_root();
    let options = MountOptions { name, allow_other };
    let (mounter, at, runtime) = (host.mounter.clone(), PathBuf::from(at), Handle::current());
    blocking(move || {
        std::fs::create_dir_all(&at).map_err(|error| Failure::Directory(error.to_string()))?;
        mounter.mount(tree, &at, &options, runtime).map_err(from_mount)
    })
    .await
}

/// What of a complete manifest is missing, with the paths it would have here.
fn left_out(manifest: &Manifest, roots: &[ReplicaRoot]) -> Option<ReplicaLeftOut> {
    let list = manifest.left_out();
    let (content, more) = list.content();
    let total = content.len() as u64 + more;
    let path = |item: &LeftOut| {
        let root = roots.get(item.root as usize).map_or("", |root| root.local.as_str());
        Path::new(root).join(OsStr::from_bytes(&item.path)).to_string_lossy().into_owned()
    };
    let entry = |item: &&LeftOut| ReplicaLeftOutEntry { path: path(item), reason: item.reason.to_string() };
    let mut bytes = 0;
    let fits = |entry: &ReplicaLeftOutEntry| {
        bytes += entry.path.len() + entry.reason.len();
        bytes <= LEFT_OUT_BYTES_MAX
    };
    let first = content.iter().take(LEFT_OUT_SHOWN).map(entry).take_while(fits).collect();
    (total > 0).then_some(ReplicaLeftOut { total, first })
}

/// Where the roots are mounted.
#[derive(Clone)]
struct Places {
    mount_point: PathBuf,
    home: crate::home::Home,
    id: String,
}

impl Places {
    fn of(&self, root: u32) -> PathBuf {
        if root == 0 { self.mount_point.clone() } else { place::companion(&self.home, &self.id, root) }
    }

    /// Where an earlier process of this replica may have left mounts.
    fn left_mounted(&self) -> Vec<PathBuf> {
        let companions = self.of(1).parent().map(Path::to_owned).unwrap_or_default();
        let companions =
            std::fs::read_dir(companions).into_iter().flatten().flatten().map(|entry| entry.path());
        companions.chain([self.mount_point.clone()]).collect()
    }
}

fn layout(places: &Places, spec: &Spec) -> Result<(Layout, Option<Arc<ViewDirectory>>), Failure> {
    let opened = match &spec.replica_directory {
        Some(name) => Layout::clone_as(&places.mount_point, name).map(|layout| (layout, None)),
        None => ViewDirectory::open(&place::view_data(&places.home, &places.id))
            .and_then(|view| Ok((view.shown()?, Some(view)))),
    };
    opened.map_err(|error| match error {
        LayoutError::NotEmpty { found, .. } => {
            Failure::Directory(format!("it is not empty: it holds `{found}`"))
        }
        LayoutError::InUse { .. } => Failure::Directory(error.to_string()),
        LayoutError::Disk { .. } => Failure::Other(chain(&error)),
    })
}

/// The roots of a manifest and where each is mounted. A path that is not UTF-8 is shown as near as possible.
fn roots(manifest: &Manifest, places: &Places) -> Vec<ReplicaRoot> {
    let shown = |path: &Path| path.to_string_lossy().into_owned();
    let origin = |path: &[u8]| String::from_utf8_lossy(path).into_owned();
    let paths = manifest.meta().roots.iter().zip(0u32..);
    paths.map(|(path, root)| ReplicaRoot { origin: origin(path), local: shown(&places.of(root)) }).collect()
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Failure> + Send + 'static,
) -> Result<T, Failure> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|died| Err(Failure::Other(died.to_string())))
}

fn from_fetch(error: FetchError) -> Failure {
    match error {
        FetchError::Origin(OriginError::Gone(why)) => Failure::Unreachable(why),
        FetchError::Origin(OriginError::Refused(why)) => Failure::Refused(why),
        FetchError::Origin(OriginError::SnapshotGone) => {
            Failure::Refused("it no longer serves this snapshot; take a new one".into())
        }
        FetchError::Origin(OriginError::Busy(_) | OriginError::Invalid(_)) | FetchError::Manifest(_) => {
            Failure::Other(chain(&error))
        }
    }
}

fn from_mount(error: MountError) -> Failure {
    match &error {
        MountError::NoDevice | MountError::DeviceClosed | MountError::NoFusermount => {
            Failure::Unsupported(error.to_string())
        }
        MountError::OnFuse(_) | MountError::Silent(_) | MountError::NoMountPoint { .. } => {
            Failure::Directory(chain(&error))
        }
        MountError::DeadMount(_) | MountError::Refused { .. } | MountError::NotServed { .. } => {
            Failure::Other(chain(&error))
        }
    }
}

fn from_unmount(error: UnmountError) -> Failure {
    match error {
        UnmountError::Busy { holders, .. } => {
            Failure::Busy(holders.iter().map(ToString::to_string).collect())
        }
        UnmountError::Refused { .. } => Failure::Other(error.to_string()),
    }
}

fn from_replica(error: ReplicaError) -> Failure {
    match error {
        ReplicaError::Unsuitable { .. } | ReplicaError::HoldsAnother { .. } => {
            Failure::Directory(error.to_string())
        }
        ReplicaError::Disk { .. }
        | ReplicaError::OtherSnapshot
        | ReplicaError::OtherRoots
        | ReplicaError::Exhausted(_) => Failure::Other(chain(&error)),
    }
}

#[cfg(test)]
mod tests {
    use twinshare_fs::digest::Digest;
    use twinshare_fs::manifest::{
        Builder, Extra, Flags, Kind, LeftOutList, LeftOutReason, Meta, Mtime, NewEntry,
    };

    use super::*;

    #[test]
    fn what_a_snapshot_lacks_is_told_and_what_it_changes_is_not() {
        let directory = tempfile::tempdir().unwrap();
        let root = NewEntry {
            name: (&b"r"[..]).try_into().unwrap(),
            kind: Kind::Directory,
            mode: 0o755,
            size: 0,
            mtime: Mtime::default(),
            link: None,
            flags: Flags::default(),
            extra: Extra::default(),
        };
        let mut list = LeftOutList::default();
        let lacks = [
            ("bin/ping", LeftOutReason::Xattr),
            ("secret", LeftOutReason::Unreadable("Permission denied".into())),
        ];
        for (path, reason) in lacks {
            list.push(LeftOut { root: 0, path: path.into(), reason });
        }
        let build = |name: &str, list: &LeftOutList| {
            let meta = Meta { roots: vec![b"/w".to_vec()] };
            let mut builder = Builder::new(&directory.path().join(name), &meta, vec![root.clone()]).unwrap();
            builder.list(vec![]).unwrap();
            builder.finish(list, Digest([0; 32])).unwrap()
        };
        let roots = [ReplicaRoot { origin: "/w".into(), local: "/mnt/w".into() }];
        let found = left_out(&build("some", &list), &roots);
        let reason = "cannot be read there: Permission denied".into();
        let first = vec![ReplicaLeftOutEntry { path: "/mnt/w/secret".into(), reason }];
        assert_eq!(found, Some(ReplicaLeftOut { total: 1, first }));
        assert_eq!(left_out(&build("none", &LeftOutList::default()), &roots), None);
    }
}
