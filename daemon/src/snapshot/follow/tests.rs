//! What watchers are told, of real directories.

use std::fs;
use std::time::Duration;

use super::*;
use crate::home::Home;
use crate::registry::Registry;
use crate::snapshot::{Snapshots, tests::ANNA};
use crate::workspace::create;

/// Longer than a change takes to be noticed, and shorter than it takes until it is looked without having heard of one.
const SOON: Duration = Duration::from_secs(20);

struct Bench {
    _base: tempfile::TempDir,
    home: Home,
    snapshots: Snapshots,
    workspace: WorkspaceRecord,
}

impl Bench {
    async fn new() -> Self {
        let base = tempfile::tempdir().unwrap();
        let home = Home::isolated(&base.path().join("home"));
        home.prepare().unwrap();
        let registry = Registry::open(home.registry()).await.unwrap();
        let directory = base.path().join("w");
        fs::create_dir(&directory).unwrap();
        let workspace = create(&home, &registry, &directory, None).await.unwrap().record;
        let snapshots = Snapshots::open(home.clone(), registry).unwrap();
        Self { _base: base, home, snapshots, workspace }
    }

    fn write(&self, path: &str, content: &str) {
        fs::write(self.workspace.directory.join(path), content).unwrap();
    }

    async fn watch(&self, peer: PeerId, base: SnapshotId) -> SnapshotRecord {
        let watching = self.snapshots.watch(self.workspace.clone(), peer, base);
        timeout(SOON, watching).await.expect("a change is not noticed").unwrap()
    }

    async fn freeze(&self) -> SnapshotId {
        self.snapshots.freeze(self.workspace.clone(), ANNA).await.unwrap().snapshot
    }

    fn kept(&self) -> Vec<String> {
        let entries = fs::read_dir(self.home.snapshots()).unwrap();
        let mut names: Vec<_> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }
}

const BEN: PeerId = PeerId([2; 32]);

#[tokio::test(flavor = "multi_thread")]
async fn every_change_is_told_and_little_is_kept() {
    let bench = Bench::new().await;
    let first = bench.freeze().await;
    let mut told = vec![first];
    for round in 0..7 {
        if round == 3 {
            fs::create_dir_all(bench.workspace.directory.join("d/e")).unwrap();
        } else if round > 3 {
            bench.write("d/e/f", &round.to_string());
        } else {
            bench.write("f", &round.to_string());
        }
        let found = bench.watch(BEN, told[told.len() - 1]).await;
        assert!(!told.contains(&found.snapshot), "{round}");
        assert!(bench.kept().contains(&found.snapshot.to_string()), "{round}");
        told.push(found.snapshot);
    }
    // Of those told of, the last; and what was opened.
    let last = &told[told.len() - twinshare_transport::protocol::WATCHED_KEPT as usize..];
    let mut expected: Vec<_> = [first].iter().chain(last).map(ToString::to_string).collect();
    expected.sort();
    // What nobody has a lease on is removed after the news.
    let end = Instant::now() + SOON;
    while bench.kept() != expected {
        assert!(Instant::now() < end, "{:?}, not {expected:?}", bench.kept());
        sleep(tempo::STEP).await;
    }
    // Who comes late with an old one is told at once.
    assert_eq!(bench.watch(ANNA, first).await.snapshot, told[told.len() - 1]);
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_told_where_nothing_changed() {
    let bench = Bench::new().await;
    let first = bench.freeze().await;
    let mut watching = std::pin::pin!(bench.watch(BEN, first));
    // Longer than the walks at the beginning take.
    let early = timeout(Duration::from_secs(3), &mut watching).await;
    assert!(early.is_err(), "{early:?}");
    bench.write("f", "content");
    assert_ne!(watching.await.snapshot, first);
    assert_eq!(bench.snapshots.followers.count(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn changes_that_are_not_heard_are_found() {
    let bench = Bench::new().await;
    let first = bench.freeze().await;
    let (store, queues) = (bench.snapshots.store.clone(), bench.snapshots.queues.clone());
    let followers = Followers::within(Allowance::of(0), store, queues);
    let mut base = first;
    for round in 0..2 {
        let watching = followers.watch(bench.workspace.clone(), BEN, base);
        let mut watching = std::pin::pin!(timeout(SOON, watching));
        tokio::select! {
            biased;
            early = &mut watching => panic!("{early:?}"),
            () = tokio::task::yield_now() => bench.write("f", &format!("{round}")),
        }
        base = watching.await.expect("a change is not found").unwrap().snapshot;
        assert_ne!(base, first);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_watches_learns_that_it_cannot_be_frozen() {
    let bench = Bench::new().await;
    let first = bench.freeze().await;
    fs::remove_dir_all(&bench.workspace.directory).unwrap();
    let watching = bench.snapshots.watch(bench.workspace.clone(), BEN, first);
    let error = timeout(SOON, watching).await.unwrap().unwrap_err();
    assert!(matches!(&*error, SnapshotError::Workspace(_)), "{error}");
}

#[tokio::test]
async fn what_nobody_watches_is_let_go() {
    let bench = Bench::new().await;
    let first = bench.freeze().await;
    {
        let mut watching = std::pin::pin!(bench.snapshots.watch(bench.workspace.clone(), BEN, first));
        tokio::select! {
            biased;
            early = &mut watching => panic!("{early:?}"),
            () = tokio::task::yield_now() => {}
        }
    }
    assert_eq!(bench.snapshots.followers.count(), 1);
    // The walks under way end in real time.
    let end = Instant::now() + SOON;
    while bench.snapshots.followers.count() > 0 {
        assert!(Instant::now() < end, "it is watched for ever");
        tokio::time::pause();
        tokio::time::advance(tempo::LINGER).await;
        tokio::time::resume();
        sleep(tempo::STEP).await;
    }
}
