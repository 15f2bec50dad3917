//! What a finished replica looks like: the origin's own tree, judged by walking both.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use rustix::fs::{AtFlags, CWD, XattrFlags};

use super::*;
use crate::manifest::walk::{WalkOptions, WalkProgress, build};
use crate::manifest::{Entry, Mtime};
use crate::ordinary_user;
use crate::origin::ReadPool;
use crate::origin::local::LocalOrigin;

/// A workspace and a companion on the disk, and what is made of them.
struct Pair {
    base: tempfile::TempDir,
}

impl Drop for Pair {
    /// Directories that are closed to their own user would stay behind.
    fn drop(&mut self) {
        let chmod = std::process::Command::new("chmod").args(["-R", "u+rwX"]).arg(self.base.path()).status();
        assert!(chmod.is_ok_and(|status| status.success()) || std::thread::panicking());
    }
}

impl Pair {
    fn new() -> Self {
        let pair = Self { base: tempfile::tempdir().unwrap() };
        fs::create_dir_all(pair.at("ws/empty")).unwrap();
        pair.write("ws/a/b/c/deep", b"deep");
        pair.write("ws/none", b"");
        pair.write("ws/large", &vec![7; 3 * MIB as usize + 5]);
        pair.write("ws/name\n\x01", b"x");
        fs::hard_link(pair.at("ws/a/b/c/deep"), pair.at("ws/first")).unwrap();
        fs::hard_link(pair.at("ws/large"), pair.at("ws/zz")).unwrap();
        symlink("/nowhere", pair.at("ws/link")).unwrap();
        symlink("../first", pair.at("ws/a/link")).unwrap();
        let sparse = fs::File::create(pair.at("ws/sparse")).unwrap();
        sparse.set_len(MIB).unwrap();
        std::os::unix::fs::FileExt::write_at(&sparse, b"end", MIB - 3).unwrap();
        pair.write("ws/.git/config", b"[core]\n\tfsmonitor = touch /tmp/owned\n\tbare = false\n");
        pair.write("ws/.git/HEAD", b"ref: refs/heads/main\n");
        pair.write("ws/.git/hooks/pre-commit", b"#!/bin/sh\n");
        pair.write("ws/.git/objects/x", b"blob");
        pair.write("python/bin/python", b"interpreter");
        rustix::fs::setxattr(pair.at("ws/first"), "user.note", b"1", XattrFlags::empty()).unwrap();
        rustix::fs::setxattr(pair.at("ws/empty"), "user.note", b"2", XattrFlags::empty()).unwrap();
        for (path, mode) in [
            ("ws/.git/hooks/pre-commit", 0o755),
            ("ws/.git/objects/x", 0o444),
            ("ws/a/b/c/deep", 0o640),
            ("ws/none", 0o400),
            ("ws/a/b/c", 0o555),
            ("ws/a", 0o1777),
            ("python/bin", 0o555),
        ] {
            fs::set_permissions(pair.at(path), fs::Permissions::from_mode(mode)).unwrap();
        }
        for (path, sec) in [("ws/none", -5), ("ws/link", 1_000), ("ws/a", 2_000), ("ws", 3_000)] {
            let time = rustix::fs::Timespec { tv_sec: sec, tv_nsec: 999_999_999 };
            let times = rustix::fs::Timestamps { last_access: time, last_modification: time };
            rustix::fs::utimensat(CWD, pair.at(path), &times, AtFlags::SYMLINK_NOFOLLOW).unwrap();
        }
        pair
    }

    fn at(&self, path: &str) -> PathBuf {
        self.base.path().join(path)
    }

    fn write(&self, path: &str, content: &[u8]) {
        fs::create_dir_all(self.at(path).parent().unwrap()).unwrap();
        fs::write(self.at(path), content).unwrap();
    }

    /// Takes a snapshot of directories, and keeps it under a name.
    fn walk(&self, name: &str, roots: &[PathBuf]) -> Manifest {
        let (cancel, progress) = (AtomicBool::new(false), WalkProgress::default());
        let options = WalkOptions { threads: 1, exclude: &[], cancel: &cancel, progress: &progress };
        fs::create_dir(self.at(name)).unwrap();
        build(&self.at(name), roots, &options).unwrap()
    }

    fn open(&self) -> Arc<Replica> {
        let origin = LocalOrigin::open(&self.at("snapshot"), ReadPool::default()).unwrap();
        let config = ReplicaConfig {
            when_gone: WhenGone::Fail,
            hydrate: true,
            ..ReplicaConfig::new(Layout::view_in(&self.at("replica")).unwrap())
        };
        let manifest = origin.manifest().clone();
        Replica::open(config, manifest, Arc::new(origin), Handle::current()).unwrap()
    }

    /// Compares what was made of a root with the root.
    fn check(&self, name: &str, made: &str, expected: &Manifest, root: u32) {
        let found = self.walk(name, &[self.at(made)]);
        let below = expected.iter().filter(|entry| expected.locate(entry.index()).unwrap().0.0 == root);
        let (below, found): (Vec<_>, Vec<_>) = (below.collect(), found.iter().collect());
        assert_eq!(below.len(), found.len(), "{made}: {below:?}\n{found:?}");
        // The workspace's own directory is the clone's, which is not looked at here.
        for (expected, found) in below.iter().zip(&found).skip(usize::from(made.ends_with("tree"))) {
            assert_eq!(seen(expected), seen(found), "{made}");
        }
    }
}

/// What is compared of an entry: all of it, with the hook disarmed and the root's own name left out.
fn seen(entry: &Entry<'_>) -> (Vec<u8>, Kind, u16, u64, Mtime, u32, crate::manifest::Extra) {
    let mode = if entry.name() == b"pre-commit" { entry.mode() & !0o111 } else { entry.mode() };
    (entry.name().to_vec(), entry.kind(), mode, entry.size(), entry.mtime(), entry.nlink(), entry.extra())
}

async fn hydrated(replica: &Replica) {
    timeout(Duration::from_secs(60), replica.hydrated()).await.expect("it does not become complete");
}

/// Applies what waits until the end.
fn close_directories(replica: &Replica) {
    let tops = directories::tops(replica.layout(), replica.manifest()).unwrap();
    directories::apply(replica.manifest(), &tops, |_| true).unwrap();
}

/// Nothing that is ours is left on any file.
fn check_plain(at: &Path) {
    for entry in fs::read_dir(at).unwrap() {
        let path = entry.unwrap().path();
        let metadata = fs::symlink_metadata(&path).unwrap();
        let mut value = [0; 100];
        let found = rustix::fs::lgetxattr(&path, state::XATTR, &mut value[..]);
        assert!(found.is_err(), "{}: it has a state", path.display());
        if metadata.is_dir() {
            check_plain(&path);
        }
    }
}

async fn a_finished_tree_is_the_origins() {
    let pair = Pair::new();
    let roots = ["ws", "python"].map(|name| pair.at(name));
    let expected = pair.walk("snapshot", &roots);
    let replica = pair.open();
    hydrated(&replica).await;
    let receipt = replica.finish().unwrap();
    assert_eq!((receipt.files, receipt.symlinks), (10, 2), "{receipt:?}");
    check_plain(&pair.at("replica/tree"));
    let config = fs::read_to_string(pair.at("replica/tree/.git/config")).unwrap();
    assert!(!config.contains("fsmonitor") && config.contains("bare = false"), "{config}");

    // Once more, in the same process and in the next one: nothing changes, and nothing is fetched.
    assert_eq!(replica.finish().unwrap(), receipt);
    replica.close().await;
    let again = pair.open();
    hydrated(&again).await;
    assert_eq!(again.finish().unwrap(), receipt);
    assert_eq!(again.status().fetched.bulk, 0);
    for entry in expected.iter().filter(|entry| entry.kind() == Kind::File && entry.size() == 4) {
        let read = again.read(entry.index(), 0, 10).await.unwrap();
        assert!(matches!(&read[..], b"deep" | b"blob"), "{read:?}");
    }
    close_directories(&again);
    pair.check("walked", "replica/tree", &expected, 0);
    pair.check("walked-companion", "replica/companions/1", &expected, 1);
    again.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn finishing_makes_the_origins_tree() {
    a_finished_tree_is_the_origins().await;
}

#[test]
fn an_ordinary_user_finishes_too() {
    ordinary_user::run("replica::tests::finish::an_ordinary_user_finishes_too", || {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        runtime.block_on(a_finished_tree_is_the_origins());
    });
}

#[tokio::test]
async fn a_hole_that_is_none_stays_content() {
    let mut lie = file("f", 20 * BLOCK);
    lie.holes.push(3 * BLOCK + 4096..4 * BLOCK - 4096);
    let bench = Bench::new(&[lie]);
    bench.check("f", 0, 20 * BLOCK).await;
    bench.replica.idle().await;
    bench.replica.finish().unwrap();
    let made = fs::read(bench.replica.layout().path().join("tree/f")).unwrap();
    assert!(made == bench.expected("f", 0, 20 * BLOCK));
}

#[tokio::test(start_paused = true)]
async fn what_is_incomplete_is_not_finished() {
    let bench = Bench::new(&[file("d/f", 20 * BLOCK)]);
    bench.check("d/f", 0, BLOCK).await;
    bench.replica.idle().await;
    assert!(matches!(bench.replica.finish(), Err(FinishError::Incomplete)));
    let path = bench.replica.layout().path().join("tree/d/f");
    assert!(matches!(state::get(fs::File::open(path).unwrap()), Ok(state::Stated::Unfinished(_))));
}

/// Something else at one path of a tree with the file `d/f`.
#[track_caller]
fn check_in_the_way(make: impl Fn(&Path)) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let bench = Bench::new(&[file("d/f", 100), file("g", 100), file("d/h=g", 100), file("d/n", 0)]);
        for path in ["d/f", "g"] {
            bench.check(path, 0, 100).await;
        }
        bench.replica.idle().await;
        make(&bench.replica.layout().path().join("tree"));
        let error = bench.replica.finish().unwrap_err();
        assert!(matches!(error, FinishError::Foreign { .. } | FinishError::Disk { .. }), "{error}");
    });
}

#[test]
fn what_lies_in_the_way_is_never_replaced() {
    check_in_the_way(|tree| fs::write(tree.join("d/h"), "mine").unwrap());
    check_in_the_way(|tree| fs::create_dir(tree.join("d/n")).unwrap());
    check_in_the_way(|tree| symlink("/etc/passwd", tree.join("d/n")).unwrap());
    check_in_the_way(|tree| symlink("/etc/passwd", tree.join("d/h")).unwrap());
}

#[test]
fn an_interruption_at_any_step_is_made_good() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        // What an interrupted run leaves: some names made, some states gone, some modes applied.
        let pair = Pair::new();
        let expected = pair.walk("snapshot", &["ws", "python"].map(|name| pair.at(name)));
        let replica = pair.open();
        hydrated(&replica).await;
        let tree = pair.at("replica/tree");
        fs::create_dir_all(tree.join("empty")).unwrap();
        symlink("/nowhere", tree.join("link")).unwrap();
        state::remove(fs::File::open(tree.join("sparse")).unwrap()).unwrap();
        fs::set_permissions(tree.join(".git/objects/x"), fs::Permissions::from_mode(0o444)).unwrap();
        fs::write(pair.at("replica/links/waiting"), "half").unwrap();
        replica.close().await;
        let again = pair.open();
        hydrated(&again).await;
        again.finish().unwrap();
        close_directories(&again);
        pair.check("walked", "replica/tree", &expected, 0);
        again.close().await;
    });
}

/// A clone, complete and finished, with its tree moved up.
async fn moved_up(pair: &Pair) -> Arc<Replica> {
    let origin = LocalOrigin::open(&pair.at("snapshot"), ReadPool::default()).unwrap();
    let layout = Layout::clone_at(&pair.at("clone")).unwrap();
    fs::copy(pair.at("snapshot/manifest"), layout.manifest_path()).unwrap();
    let config = ReplicaConfig { when_gone: WhenGone::Fail, hydrate: true, ..ReplicaConfig::new(layout) };
    let manifest = Manifest::open(&config.layout.manifest_path()).unwrap();
    let replica = Replica::open(config, manifest, Arc::new(origin), Handle::current()).unwrap();
    hydrated(&replica).await;
    replica.finish().unwrap();
    replica.move_up().unwrap();
    replica
}

async fn a_settled_clone_is_the_origins_tree() {
    let pair = Pair::new();
    let expected = pair.walk("snapshot", &["ws", "python"].map(|name| pair.at(name)));
    let replica = moved_up(&pair).await;
    // Reads find every file where it is now.
    for entry in expected.iter().filter(|entry| entry.kind() == Kind::File && entry.size() == 4) {
        let read = replica.read(entry.index(), 0, 10).await.unwrap();
        assert!(matches!(&read[..], b"deep" | b"blob"), "{read:?}");
    }
    replica.close().await;
    drop(replica);
    settle::conclude(&pair.at("clone"), &pair.at("keep")).unwrap();
    pair.check("walked", "clone", &expected, 0);
    pair.check("walked-companion", "keep/1", &expected, 1);
    check_plain(&pair.at("clone"));
    assert_eq!(Manifest::open(&pair.at("keep/manifest")).unwrap().snapshot(), expected.snapshot());
    // It is an ordinary directory now, and no clone any more.
    assert!(matches!(Layout::clone_at(&pair.at("clone")), Err(layout::LayoutError::NotEmpty { .. })));
    assert!(settle::conclude(&pair.at("clone"), &pair.at("keep")).is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn settling_leaves_the_origins_tree() {
    a_settled_clone_is_the_origins_tree().await;
}

#[test]
fn an_ordinary_users_clone_settles_too() {
    ordinary_user::run("replica::tests::finish::an_ordinary_users_clone_settles_too", || {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        runtime.block_on(a_settled_clone_is_the_origins_tree());
    });
}

/// Settles after an interruption that left `half` done.
async fn check_interrupted(half: impl FnOnce(&Pair)) {
    let pair = Pair::new();
    let expected = pair.walk("snapshot", &["ws", "python"].map(|name| pair.at(name)));
    let replica = moved_up(&pair).await;
    replica.close().await;
    drop(replica);
    half(&pair);
    settle::conclude(&pair.at("clone"), &pair.at("keep")).unwrap();
    pair.check("walked", "clone", &expected, 0);
    pair.check("walked-companion", "keep/1", &expected, 1);
}

/// The replica's directory in the clone.
fn ours(pair: &Pair) -> PathBuf {
    let mut found = fs::read_dir(pair.at("clone")).unwrap().map(|entry| entry.unwrap().path());
    found.find(|path| path.file_name().unwrap().to_str().unwrap().starts_with(layout::PREFIX)).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn settling_goes_on_after_an_interruption() {
    check_interrupted(|pair| {
        fs::rename(pair.at("clone/a"), ours(pair).join("tree/a")).unwrap();
        fs::rename(pair.at("clone/none"), ours(pair).join("tree/none")).unwrap();
    })
    .await;
    check_interrupted(|pair| {
        fs::create_dir(pair.at("keep")).unwrap();
        fs::write(pair.at("keep/manifest"), "half").unwrap();
        fs::rename(ours(pair).join("companions/1"), pair.at("keep/1")).unwrap();
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_finished_does_not_settle() {
    let pair = Pair::new();
    drop(Layout::clone_at(&pair.at("clone")).unwrap());
    let refused = settle::conclude(&pair.at("clone"), &pair.at("keep"));
    assert!(matches!(refused, Err(SettleError::Unfinished { .. })), "{refused:?}");
    let bench = Bench::new(&[]);
    assert!(matches!(bench.replica.move_up(), Err(SettleError::View)));
}
