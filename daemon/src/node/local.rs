//! Finds the workspace on this machine that a person means to run something in: an own one, a mount or a clone.

use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::time::Instant;

use super::Node;
use super::target::Target;
use crate::api::ApiError;
use crate::api::wire::{Replica, ReplicaKind, ReplicaState};
use crate::registry::WorkspaceRecord;
use crate::workspace::{Root, Workspace};

/// How long a mount that starts is waited for: one whose peer answers takes a second or two. With the time a plan takes,
/// less than a request may last.
const STARTED_WITHIN: Duration = Duration::from_secs(5);

/// Between two looks at it.
const STARTED_POLL: Duration = Duration::from_millis(50);

/// A workspace whose files can be read here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct LocalWorkspace {
    /// Its trees, the workspace first, then the companions.
    pub(crate) roots: Vec<Root>,
    /// Whether its own tree may be written to.
    pub(crate) writable: bool,
    /// How many of its trees are also to be visible where they lie here, the first ones: a replica at its own path, not
    /// only at its origin's, and what the environments of a settled clone refer to.
    pub(crate) also_here: usize,
    /// Where in it to start, on the origin's paths; absent for its top.
    pub(crate) start: Option<PathBuf>,
}

/// What `[PEER/]NAME` or a directory may mean here.
#[derive(Clone, Debug)]
pub(super) enum Place {
    Own(WorkspaceRecord),
    Replica(Box<Replica>),
}

impl Node {
    /// The one workspace that `text` means: `[PEER/]NAME`, or an absolute path in one.
    pub(crate) async fn local(&self, text: &str) -> Result<LocalWorkspace, ApiError> {
        let (place, below) = choose(text, self.places().await?)?;
        match place {
            Place::Own(record) => self.own(record, &below).await,
            Place::Replica(replica) => replicated(self.started(*replica).await, &below),
        }
    }

    /// Everything here that may be meant.
    pub(super) async fn places(&self) -> Result<Vec<Place>, ApiError> {
        let records = self.registry.call(|tables| tables.workspaces()).await?;
        let (views, clones) =
            tokio::join!(self.replicas.list(ReplicaKind::View), self.replicas.list(ReplicaKind::Clone));
        let replicas = views.into_iter().chain(clones);
        let replicas = replicas.map(|replica| Place::Replica(Box::new(replica)));
        Ok(records.into_iter().map(Place::Own).chain(replicas).collect())
    }

    /// The replica when it is mounted, and stays so for a moment, when it has settled or has failed, or as it is after
    /// [`STARTED_WITHIN`].
    async fn started(&self, mut replica: Replica) -> Replica {
        let is_changing = |replica: &Replica| match replica.state {
            ReplicaState::Starting | ReplicaState::Settling => true,
            ReplicaState::Mounted
            | ReplicaState::Hydrating
            | ReplicaState::Settled
            | ReplicaState::Stopped
            | ReplicaState::Failed => false,
        };
        let until = Instant::now() + STARTED_WITHIN;
        let mut pause = Duration::ZERO;
        while Instant::now() < until {
            tokio::time::sleep(pause).await;
            pause = STARTED_POLL;
            match self.replicas.hold(&replica.id).await {
                Ok(now) => replica = now,
                Err(_gone) => break,
            }
            if !is_changing(&replica) {
                break;
            }
        }
        replica
    }

    async fn own(&self, record: WorkspaceRecord, below: &Path) -> Result<LocalWorkspace, ApiError> {
        let home = self.home.clone();
        let read = move || -> Result<_, ApiError> { Ok(Workspace::load(&record)?.roots(&home)?) };
        let roots = tokio::task::spawn_blocking(read).await.map_err(ApiError::internal)??;
        let roots: Vec<_> = roots.into_iter().map(Root::in_place).collect();
        let start = start(&roots, below);
        Ok(LocalWorkspace { roots, writable: true, also_here: 0, start })
    }
}

fn replicated(replica: Replica, below: &Path) -> Result<LocalWorkspace, ApiError> {
    match replica.state {
        ReplicaState::Mounted | ReplicaState::Settled => {}
        state @ (ReplicaState::Starting
        | ReplicaState::Hydrating
        | ReplicaState::Settling
        | ReplicaState::Stopped
        | ReplicaState::Failed) => {
            let what = match state {
                ReplicaState::Starting => Some("it is still being mounted"),
                ReplicaState::Hydrating => {
                    Some("it is a plain clone, which can be used once all of it is here")
                }
                ReplicaState::Settling => Some("it is becoming an ordinary directory just now"),
                _ => None,
            };
            let detail = replica.detail.or(what.map(str::to_owned));
            return Err(ApiError::NotServed { kind: replica.kind, directory: replica.directory, detail });
        }
    }
    let root =
        |root: crate::api::wire::ReplicaRoot| Root { origin: root.origin.into(), here: root.local.into() };
    let roots: Vec<_> = replica.roots.into_iter().map(root).collect();
    let start = start(&roots, below);
    let writable = replica.kind == ReplicaKind::Clone;
    let also_here = if replica.state == ReplicaState::Settled { roots.len() } else { 1 };
    Ok(LocalWorkspace { roots, writable, also_here, start })
}

/// Where to start, as a path of the origin.
fn start(roots: &[Root], below: &Path) -> Option<PathBuf> {
    let is_top = below.as_os_str().is_empty();
    roots.first().filter(|_| !is_top).map(|root| root.origin.join(below))
}

impl Place {
    fn directory(&self) -> &Path {
        match self {
            Self::Own(record) => &record.directory,
            Self::Replica(replica) => Path::new(&replica.directory),
        }
    }

    /// True if `target` names this one. Own workspaces have no peer.
    fn is_meant(&self, target: &Target) -> bool {
        match (self, &target.peer) {
            (Self::Own(record), None) => record.name == target.workspace,
            (Self::Own(_), Some(_)) => false,
            (Self::Replica(replica), peer) => {
                let peer_is = |text: &String| replica.peer.is_called(text);
                replica.workspace == target.workspace.as_str() && peer.as_ref().is_none_or(peer_is)
            }
        }
    }
}

/// The place that is meant, and the path below its top.
fn choose(text: &str, all: Vec<Place>) -> Result<(Place, PathBuf), ApiError> {
    if text.starts_with('/') {
        return around(Path::new(text), all).ok_or_else(|| ApiError::NotInWorkspace(text.to_owned()));
    }
    let target: Target = text.parse()?;
    let mut meant: Vec<_> = all.into_iter().filter(|place| place.is_meant(&target)).collect();
    match meant.len() {
        0 => Err(ApiError::NotHere(text.to_owned())),
        1 => Ok((meant.remove(0), PathBuf::new())),
        _ => {
            // Directories tell any two apart, and may be given in place of the name.
            let candidates = meant.iter().map(|place| place.directory().to_string_lossy().into_owned());
            Err(ApiError::AmbiguousName { name: text.to_owned(), candidates: candidates.collect() })
        }
    }
}

/// The innermost place around `path`.
fn around(path: &Path, all: Vec<Place>) -> Option<(Place, PathBuf)> {
    let inside = all.into_iter().filter(|place| path.starts_with(place.directory()));
    let place = inside.max_by_key(|place| place.directory().components().count())?;
    let below = path.strip_prefix(place.directory()).ok()?.to_owned();
    Some((place, below))
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;
    use crate::api::wire::ReplicaRoot;
    use crate::node::testing::{PaperReplicas, node, replica};
    use crate::registry::WorkspaceId;

    fn own(name: &str, directory: &str) -> Place {
        Place::Own(WorkspaceRecord {
            id: WorkspaceId(1),
            name: name.parse().unwrap(),
            directory: directory.into(),
            created: SystemTime::UNIX_EPOCH,
            share: None,
        })
    }

    fn theirs(peer: &str, name: &str, directory: &str) -> Place {
        let mut replica = replica("r", ReplicaKind::View);
        (replica.workspace, replica.directory) = (name.to_owned(), directory.to_owned());
        replica.peer.name = Some(peer.to_owned());
        Place::Replica(Box::new(replica))
    }

    fn all() -> Vec<Place> {
        vec![
            own("mine", "/w/mine"),
            own("inner", "/w/mine/a/inner"),
            own("demo", "/w/demo"),
            theirs("anna", "demo", "/m/anna/demo"),
            theirs("bob", "demo", "/m/bob/demo"),
            theirs("bob", "solo", "/m/bob/solo"),
        ]
    }

    #[track_caller]
    fn check(text: &str, expected: Result<(&str, &str), (&str, &str)>) {
        match (choose(text, all()), expected) {
            (Ok((place, below)), Ok(expected)) => {
                assert_eq!(
                    (place.directory(), below.as_path()),
                    (Path::new(expected.0), Path::new(expected.1))
                );
            }
            (Err(error), Err((code, part))) => {
                assert_eq!(error.code(), code, "{text}");
                assert!(error.to_string().contains(part), "{error}");
            }
            (chosen, _) => panic!("{text}: {chosen:?}"),
        }
    }

    #[test]
    fn a_name_or_a_directory_means_one_workspace() {
        check("mine", Ok(("/w/mine", "")));
        check("solo", Ok(("/m/bob/solo", "")));
        check("anna/demo", Ok(("/m/anna/demo", "")));
        check("/w/mine", Ok(("/w/mine", "")));
        check("/w/mine/a/b", Ok(("/w/mine", "a/b")));
        check("/w/mine/a/inner/c", Ok(("/w/mine/a/inner", "c")));
        check("/w/mine2", Err(("not_in_workspace", "/w/mine2")));
        check("demo", Err(("ambiguous_name", "/w/demo, /m/anna/demo, /m/bob/demo")));
        check("carl/demo", Err(("not_here", "carl/demo")));
        check("anna/mine", Err(("not_here", "anna/mine")));
        check("a b", Err(("invalid_name", "a b")));
    }

    #[test]
    fn a_replica_starts_at_its_origins_paths() {
        let mut view = replica("r", ReplicaKind::View);
        view.directory = "/m/demo".to_owned();
        view.roots = [("/home/anna/demo", "/m/demo"), ("/opt/py", "/m/.companions/1")]
            .map(|(origin, local)| ReplicaRoot { origin: origin.to_owned(), local: local.to_owned() })
            .into();
        let local = replicated(view.clone(), Path::new("src")).unwrap();
        assert_eq!(local.start.as_deref(), Some(Path::new("/home/anna/demo/src")));
        assert_eq!((local.writable, local.roots.len()), (false, 2));
        assert_eq!(local.also_here, 1);
        let settled = Replica { state: ReplicaState::Settled, ..view.clone() };
        assert_eq!(replicated(settled, Path::new("")).unwrap().also_here, 2);
        assert_eq!(replicated(view.clone(), Path::new("")).unwrap().start, None);
        view.state = ReplicaState::Failed;
        view.detail = Some("it died".to_owned());
        let error = replicated(view, Path::new("")).unwrap_err();
        assert_eq!((error.code(), error.to_string().contains("it died")), ("not_served", true));
    }

    #[tokio::test]
    async fn one_that_starts_is_waited_for() {
        let mut clone = replica("r", ReplicaKind::Clone);
        clone.state = ReplicaState::Starting;
        let fixture = node(PaperReplicas::of([clone])).await;
        let local = fixture.node.local("demo").await.unwrap();
        assert_eq!(local.also_here, 1);
    }
}
