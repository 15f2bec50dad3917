//! The cache of mounts' content, in the words of the API.

use std::path::{Path, PathBuf};

use super::Node;
use super::local::Place;
use super::why::{Within, innermost};
use crate::api::ApiError;
use crate::api::wire::{Cache, CachedMount, Pin, Pruned, Replica, ReplicaKind, ReplicaState, UnixTime};
use crate::replica::control::{CachePruned, PinReport, PinnedPath};

impl Node {
    /// What the content of mounts takes, and may take.
    pub(crate) async fn cache(&self) -> Result<Cache, ApiError> {
        let mounts = self.replicas.list(ReplicaKind::View).await;
        let report = self.replicas.cache().await;
        let (home, config) = (self.home.clone(), self.config().cache.clone());
        let looking = move || (config.limits(home.cache()), crate::config::free_bytes(home.cache()));
        let (limits, free_bytes) = tokio::task::spawn_blocking(looking).await.map_err(ApiError::internal)?;
        let mount = |mount: Replica| {
            let of = |view: &&crate::replica::control::CachedView| view.id == mount.id;
            let view = report.as_ref().and_then(|report| report.views.iter().find(of));
            CachedMount {
                bytes: view.and_then(|view| view.bytes),
                pinned_bytes: view.map(|view| view.pinned_bytes),
                pinned_bytes_here: view.map(|view| view.pinned_bytes_here),
                last_use: view.and_then(|view| Some(UnixTime(i64::try_from(view.last_use?).ok()?))),
                id: mount.id,
                peer: mount.peer,
                workspace: mount.workspace,
                directory: mount.directory,
            }
        };
        Ok(Cache {
            bytes: report.as_ref().map_or(0, |report| report.bytes),
            bytes_max: report.as_ref().map_or(limits.bytes_max, |report| report.bytes_max),
            free_bytes,
            free_bytes_min: report.as_ref().map_or(limits.free_bytes_min, |report| report.free_bytes_min),
            mounts: mounts.into_iter().map(mount).collect(),
        })
    }

    /// Evicts what was not used for so long, and removes leftovers.
    pub(crate) async fn prune_cache(&self, unused_s: u64) -> Result<Pruned, ApiError> {
        let (CachePruned { files, bytes, is_done }, left) = self.replicas.prune(unused_s).await?;
        Ok(Pruned { files, bytes, left_files: left.files, left_bytes: left.bytes, done: is_done })
    }

    /// What is pinned, by path.
    pub(crate) async fn pins(&self) -> Result<Vec<Pin>, ApiError> {
        let mut all = Vec::new();
        for mount in self.replicas.list(ReplicaKind::View).await {
            if mount.state == ReplicaState::Mounted {
                let pins = self.replicas.pins(&mount.id).await?;
                all.extend(pins.into_iter().map(|pin| document(&mount, pin)));
            }
        }
        all.sort_by(|one, other| one.path.cmp(&other.path));
        Ok(all)
    }

    /// Pins an absolute path.
    pub(crate) async fn pin(&self, path: &Path) -> Result<Pin, ApiError> {
        let (mount, pin) = self.in_mount(path).await?;
        let pins = self.replicas.pin(&mount.id, pin.clone()).await?;
        let found = pins.and_then(|pins| pins.into_iter().find(|report| report.pin == pin));
        let found = found.ok_or_else(|| ApiError::NoSuchFile(path.to_string_lossy().into_owned()))?;
        Ok(document(&mount, found))
    }

    /// Removes the pin of an absolute path.
    pub(crate) async fn unpin(&self, path: &Path) -> Result<(), ApiError> {
        let (mount, pin) = self.in_mount(path).await?;
        match self.replicas.unpin(&mount.id, pin).await? {
            true => Ok(()),
            false => Err(ApiError::NoSuchPin(path.to_string_lossy().into_owned())),
        }
    }

    /// The mount in which a path lies, and where in it.
    async fn in_mount(&self, path: &Path) -> Result<(Replica, PinnedPath), ApiError> {
        let text = path.to_string_lossy().into_owned();
        let within = innermost(path, self.places().await?);
        let Within { place, root, below } = within.ok_or_else(|| ApiError::NotInWorkspace(text.clone()))?;
        let replica = match place {
            Place::Replica(replica) if replica.kind == ReplicaKind::View => *replica,
            Place::Replica(_) => {
                let why = "in a clone, which fetches everything anyway";
                return Err(ApiError::NotAMount { path: text, why });
            }
            Place::Own(_) => {
                let why = "in a workspace of this machine, and all of it is here";
                return Err(ApiError::NotAMount { path: text, why });
            }
        };
        if replica.state != ReplicaState::Mounted {
            let Replica { kind, directory, detail, .. } = replica;
            return Err(ApiError::NotServed { kind, directory, detail });
        }
        let root = u32::try_from(root).unwrap_or(u32::MAX);
        Ok((replica, PinnedPath { root, path: below.to_string_lossy().into_owned() }))
    }
}

fn document(mount: &Replica, PinReport { pin, kept }: PinReport) -> Pin {
    let root = match pin.root {
        0 => Some(PathBuf::from(&mount.directory)),
        root => mount.roots.get(root as usize).map(|root| PathBuf::from(&root.local)),
    };
    let top = root.unwrap_or_default();
    let path = if pin.path.is_empty() { top } else { top.join(&pin.path) };
    let number = |at: usize| kept.map(|kept| kept[at]);
    Pin {
        path: path.to_string_lossy().into_owned(),
        mount: mount.id.clone(),
        files_total: number(0),
        files_here: number(1),
        bytes_total: number(2),
        bytes_here: number(3),
        complete: kept.is_some_and(|[files, here, ..]| files == here),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::wire::ReplicaRoot;
    use crate::node::testing::{PaperReplicas, node, replica};

    #[tokio::test]
    async fn what_lies_in_a_mount_is_pinned_and_nothing_else() {
        let root = |local: &str| ReplicaRoot { origin: "/o".to_owned(), local: local.to_owned() };
        let mut view = replica("view", ReplicaKind::View);
        view.roots = vec![root("/nowhere/view"), root("/kept/1")];
        let mut stopped = replica("stopped", ReplicaKind::View);
        stopped.state = ReplicaState::Stopped;
        let fixture = node(PaperReplicas::of([view, stopped, replica("clone", ReplicaKind::Clone)])).await;
        for path in ["/nowhere/view", "/nowhere/view/a/b", "/kept/1/lib"] {
            let pin = fixture.node.pin(Path::new(path)).await.unwrap();
            assert_eq!((pin.path.as_str(), pin.mount.as_str(), pin.complete), (path, "view", false));
            assert_eq!((pin.files_here, pin.files_total), (Some(1), Some(2)));
            fixture.node.unpin(Path::new(path)).await.unwrap();
        }
        for (path, code) in [
            ("/nowhere/view/none", "no_such_file"),
            ("/nowhere/view/huge", "no_room"),
            ("/nowhere/stopped/a", "not_served"),
            ("/nowhere/clone/a", "not_a_mount"),
            ("/nowhere/viewer", "not_in_workspace"),
        ] {
            assert_eq!(fixture.node.pin(Path::new(path)).await.unwrap_err().code(), code, "{path}");
        }
        let unknown = fixture.node.unpin(Path::new("/nowhere/view/none")).await.unwrap_err();
        assert_eq!(unknown.code(), "no_such_pin");
        let cache = fixture.node.cache().await.unwrap();
        assert!(cache.bytes == 0 && cache.bytes_max > 0 && cache.free_bytes.is_some(), "{cache:?}");
        assert_eq!(cache.mounts.len(), 2);
    }
}
