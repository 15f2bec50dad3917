//! What is known of a path on this machine: found among the workspaces, mounts and clones here, and told by whoever serves
//! it.

use std::path::{Path, PathBuf};

use super::Node;
use super::local::Place;
use crate::api::ApiError;
use crate::api::replica_control::ReplicaError;
use crate::api::wire::{Keep, Replica, ReplicaKind, ReplicaState, Resolved, Why, WhyFound, WhyPlace};

/// A root of a workspace, and what of a path lies below it.
pub(super) struct Within {
    pub(super) place: Place,
    pub(super) root: usize,
    pub(super) below: PathBuf,
}

impl Node {
    /// What is known of an absolute path.
    pub(crate) async fn why(&self, path: &Path) -> Result<Why, ApiError> {
        let text = path.to_string_lossy().into_owned();
        let within = innermost(path, self.places().await?);
        let Within { place, root, below } = within.ok_or_else(|| ApiError::NotInWorkspace(text.clone()))?;
        match place {
            Place::Own(record) => {
                self.exists(path).await?;
                Ok(Why {
                    path: text,
                    place: WhyPlace::Workspace,
                    workspace: record.name.to_string(),
                    peer: None,
                    availability: None,
                    directory: record.directory.to_string_lossy().into_owned(),
                    origin: None,
                    found: WhyFound::Local,
                })
            }
            Place::Replica(replica) => self.why_replica(text, *replica, root, &below).await,
        }
    }

    async fn why_replica(
        &self,
        path: String,
        replica: Replica,
        root: usize,
        below: &Path,
    ) -> Result<Why, ApiError> {
        let (place, found) = match (replica.state, replica.kind) {
            (ReplicaState::Settled, _) => {
                self.exists(Path::new(&path)).await?;
                (WhyPlace::SettledClone, WhyFound::Local)
            }
            (ReplicaState::Mounted | ReplicaState::Hydrating | ReplicaState::Settling, kind) => {
                let (index, below) = (u32::try_from(root).unwrap_or(u32::MAX), below.to_string_lossy());
                let told = self.replicas.account(&replica.id, index, &below).await?;
                let place = match kind {
                    ReplicaKind::View => WhyPlace::Mount,
                    ReplicaKind::Clone => WhyPlace::Clone,
                };
                (place, told.ok_or_else(|| ApiError::NoSuchFile(path.clone()))?)
            }
            (ReplicaState::Starting | ReplicaState::Stopped | ReplicaState::Failed, kind) => {
                return Err(ApiError::NotServed {
                    kind,
                    directory: replica.directory,
                    detail: replica.detail,
                });
            }
        };
        let origin = replica.roots.get(root).map(|root| {
            let top = Path::new(&root.origin);
            let whole = if below.as_os_str().is_empty() { top.to_owned() } else { top.join(below) };
            whole.to_string_lossy().into_owned()
        });
        Ok(Why {
            path,
            place,
            workspace: replica.workspace,
            peer: Some(replica.peer),
            availability: replica.progress.map(|progress| progress.availability),
            directory: replica.directory,
            origin,
            found,
        })
    }

    /// Decides which version is kept of a file in a clone, or only tells what would be decided about.
    pub(crate) async fn resolve_changed(
        &self,
        path: &Path,
        keep: Option<Keep>,
    ) -> Result<Resolved, ApiError> {
        let text = path.to_string_lossy().into_owned();
        let within = innermost(path, self.places().await?);
        let Within { place, root, below } = within.ok_or_else(|| ApiError::NotInWorkspace(text.clone()))?;
        let nothing = |path: String| {
            let why = "only files of a clone that has not settled can be decided about".to_owned();
            ApiError::from(ReplicaError::NothingToDecide { path, why })
        };
        let replica = match place {
            Place::Replica(replica) if replica.kind == ReplicaKind::Clone && root == 0 => replica,
            Place::Replica(_) | Place::Own(_) => return Err(nothing(text)),
        };
        match replica.state {
            ReplicaState::Mounted | ReplicaState::Hydrating => {}
            ReplicaState::Settled | ReplicaState::Settling => return Err(nothing(text)),
            ReplicaState::Starting | ReplicaState::Stopped | ReplicaState::Failed => {
                let Replica { kind, directory, detail, .. } = *replica;
                return Err(ApiError::NotServed { kind, directory, detail });
            }
        }
        let missing = self.replicas.resolve(&replica.id, &below.to_string_lossy(), keep).await?;
        let bytes_missing = missing.ok_or_else(|| ApiError::NoSuchFile(text.clone()))?;
        Ok(Resolved { path: text, keep, bytes_missing })
    }

    /// Something ordinary must lie there.
    async fn exists(&self, path: &Path) -> Result<(), ApiError> {
        let looked = path.to_owned();
        let exists = move || std::fs::symlink_metadata(looked).is_ok();
        match tokio::task::spawn_blocking(exists).await.map_err(ApiError::internal)? {
            true => Ok(()),
            false => Err(ApiError::NoSuchFile(path.to_string_lossy().into_owned())),
        }
    }
}

/// The innermost root around `path`.
pub(super) fn innermost(path: &Path, all: Vec<Place>) -> Option<Within> {
    let roots = all.into_iter().flat_map(|place| {
        let within = |(root, top): (usize, PathBuf)| {
            let below = path.strip_prefix(&top).ok()?.to_owned();
            Some((top.components().count(), Within { place: place.clone(), root, below }))
        };
        tops(&place).into_iter().enumerate().filter_map(within).collect::<Vec<_>>()
    });
    roots.max_by_key(|(depth, _)| *depth).map(|(_, within)| within)
}

/// Where its trees lie: the workspace, then what the node keeps of a peer's companions.
fn tops(place: &Place) -> Vec<PathBuf> {
    match place {
        Place::Own(record) => vec![record.directory.clone()],
        Place::Replica(replica) => {
            let companions = replica.roots.iter().skip(1).map(|root| PathBuf::from(&root.local));
            [PathBuf::from(&replica.directory)].into_iter().chain(companions).collect()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::wire::ReplicaRoot;
    use crate::node::testing::{PaperReplicas, node, replica};

    fn root(origin: &str, local: &str) -> ReplicaRoot {
        ReplicaRoot { origin: origin.to_owned(), local: local.to_owned() }
    }

    #[tokio::test]
    async fn a_path_is_told_of_by_the_innermost_that_holds_it() {
        let at = tempfile::tempdir().unwrap();
        let settled = at.path().canonicalize().unwrap();
        std::fs::write(settled.join("file"), "").unwrap();
        let mut view = replica("view", ReplicaKind::View);
        view.roots = vec![root("/home/anna/demo", "/nowhere/view"), root("/opt/py", "/kept/1")];
        let mut clone = replica("settled", ReplicaKind::Clone);
        (clone.state, clone.directory) = (ReplicaState::Settled, settled.to_str().unwrap().to_owned());
        let mut failed = replica("failed", ReplicaKind::Clone);
        (failed.state, failed.directory) = (ReplicaState::Failed, "/nowhere/view/failed".to_owned());
        let fixture = node(PaperReplicas::of([view, clone, failed])).await;
        let why = async |path: &str| fixture.node.why(Path::new(path)).await;
        let told = async |path: &str| {
            let told = why(path).await.unwrap();
            (told.place, told.origin, told.found)
        };
        let origin = |path: &str| Some(path.to_owned());
        assert_eq!(
            told("/nowhere/view/a/b").await,
            (WhyPlace::Mount, origin("/home/anna/demo/a/b"), WhyFound::Symlink)
        );
        assert_eq!(told("/kept/1").await, (WhyPlace::Mount, origin("/opt/py"), WhyFound::Symlink));
        let file = settled.join("file");
        assert_eq!(told(file.to_str().unwrap()).await, (WhyPlace::SettledClone, None, WhyFound::Local));
        for (path, code) in [
            ("/nowhere/view/none", "no_such_file"),
            (settled.join("none").to_str().unwrap(), "no_such_file"),
            ("/nowhere/view/failed/a", "not_served"),
            ("/nowhere/viewer", "not_in_workspace"),
        ] {
            assert_eq!(why(path).await.unwrap_err().code(), code, "{path}");
        }
    }
}
