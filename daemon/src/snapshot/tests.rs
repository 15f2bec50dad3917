//! Snapshots that are shared, reopened and collected.

use std::fs;
use std::time::Duration;

use super::*;
use crate::registry::LEASE_TIME;
use crate::workspace::create;

struct Bench {
    base: tempfile::TempDir,
    home: Home,
    registry: Registry,
    snapshots: Snapshots,
    workspace: WorkspaceRecord,
}

pub(super) const ANNA: PeerId = PeerId([1; 32]);

async fn bench() -> Bench {
    let base = tempfile::tempdir().unwrap();
    let home = Home::isolated(&base.path().join("home"));
    home.prepare().unwrap();
    let registry = Registry::open(home.registry()).await.unwrap();
    let directory = base.path().join("w");
    fs::create_dir(&directory).unwrap();
    let workspace = create(&home, &registry, &directory, None).await.unwrap().record;
    let snapshots = Snapshots::open(home.clone(), registry.clone()).unwrap();
    Bench { base, home, registry, snapshots, workspace }
}

impl Bench {
    async fn freeze(&self) -> SnapshotRecord {
        self.snapshots.freeze(self.workspace.clone(), ANNA).await.unwrap()
    }

    fn on_disk(&self) -> Vec<String> {
        let entries = fs::read_dir(self.home.snapshots()).unwrap();
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_walk_begins_after_the_request() {
    let bench = Arc::new(bench().await);
    let mut asked = tokio::task::JoinSet::new();
    for number in 0..40 {
        fs::write(bench.workspace.directory.join(number.to_string()), "").unwrap();
        let bench = bench.clone();
        // The root, `twinshare.yaml`, and at least the files made until now.
        asked.spawn(async move { (bench.freeze().await.size.entries, 2 + number + 1) });
        tokio::task::yield_now().await;
    }
    for (entries, at_least) in asked.join_all().await {
        assert!(entries >= at_least, "{entries} of {at_least}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unchanged_tree_is_the_same_snapshot() {
    let bench = bench().await;
    let first = bench.freeze().await;
    let origin = bench.snapshots.origin(first.snapshot).await.unwrap();
    assert_eq!(origin.snapshot(), first.snapshot);
    let stamps =
        fs::metadata(bench.home.snapshot(first.snapshot).join("stamps")).unwrap().modified().unwrap();
    assert_eq!(bench.freeze().await.snapshot, first.snapshot);
    assert_eq!(bench.on_disk(), [first.snapshot.to_string()]);
    // What the first one says about the files' versions still holds.
    let after = fs::metadata(bench.home.snapshot(first.snapshot).join("stamps")).unwrap().modified().unwrap();
    assert_eq!(after, stamps);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_nodes_own_state_is_never_in_a_snapshot() {
    let bench = bench().await;
    // The node was told to live in the workspace after that was registered.
    let inner = Home::isolated(&bench.workspace.directory.join("node"));
    inner.prepare().unwrap();
    let snapshots = Snapshots::open(inner, bench.registry.clone()).unwrap();
    let error = snapshots.freeze(bench.workspace.clone(), ANNA).await.unwrap_err();
    assert!(matches!(&*error, SnapshotError::Workspace(WorkspaceError::Place(_))), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_kept_is_removed() {
    let bench = bench().await;
    let kept = bench.freeze().await;
    for name in [".new-1-1", "ab"] {
        fs::create_dir(bench.home.snapshots().join(name)).unwrap();
    }
    let snapshots = Snapshots::open(bench.home.clone(), bench.registry.clone()).unwrap();
    snapshots.collect(SystemTime::now()).await.unwrap();
    assert_eq!(bench.on_disk(), [kept.snapshot.to_string()]);
    snapshots.collect(SystemTime::now() + LEASE_TIME + Duration::from_secs(1)).await.unwrap();
    assert!(bench.on_disk().is_empty());
    let error = snapshots.origin(kept.snapshot).await.unwrap_err();
    assert!(error.is_lost(), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_walk_leaves_nothing() {
    let bench = bench().await;
    fs::remove_dir_all(&bench.workspace.directory).unwrap();
    let error = bench.snapshots.freeze(bench.workspace.clone(), ANNA).await.unwrap_err();
    assert!(
        matches!(&*error, SnapshotError::Workspace(WorkspaceError::Place(_))) && !error.is_lost(),
        "{error}"
    );
    assert!(bench.on_disk().is_empty());
    drop(bench.base);
}
