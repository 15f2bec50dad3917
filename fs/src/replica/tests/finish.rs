//! What a finished replica looks like: the origin's own tree, judged by walking both.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use rustix::fs::{AtFlags, CWD, XattrFlags};

use super::*;
use crate::busy_directory::BusyDirectory;
use crate::filesystem::{Change, CloneTree, NodeId, Owner, When};
use crate::manifest::walk::{WalkOptions, WalkProgress, build};
use crate::manifest::{Entry, Mtime};
use crate::ordinary_user;
use crate::origin::ReadPool;
use crate::origin::local::LocalOrigin;
use crate::replica::names::Made;

/// A workspace and a companion on the disk, and what is made of them.
struct Pair {
    base: BusyDirectory,
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
        let pair = Self { base: BusyDirectory::new() };
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

/// Everything is here, and the numbers say so.
async fn check_counts(replica: &Replica) {
    let status = timeout(Duration::from_secs(60), async {
        while !replica.status().counted {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        replica.status()
    });
    let status = status.await.expect("what is on the disk was not counted");
    for tally in [status.files, status.blocks, status.bytes] {
        assert_eq!(tally.resident, tally.total, "{status:?}");
    }
}

/// Applies what waits until the end.
fn close_directories(replica: &Replica) {
    let tops = directories::tops(replica.layout(), replica.manifest()).unwrap();
    directories::apply(replica.manifest(), &tops, 0, |_| true).unwrap();
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
    check_counts(&replica).await;
    let receipt = replica.finish().unwrap();
    check_counts(&replica).await;
    let told = (receipt.files, receipt.symlinks, receipt.companion_bytes);
    assert_eq!(told, (10, 2, b"interpreter".len() as u64), "{receipt:?}");
    check_plain(&pair.at("replica/tree"));
    let config = fs::read_to_string(pair.at("replica/tree/.git/config")).unwrap();
    assert!(!config.contains("fsmonitor") && config.contains("bare = false"), "{config}");

    // Once more, in the same process and in the next one: nothing changes, and nothing is fetched.
    assert_eq!(replica.finish().unwrap(), receipt);
    replica.close().await;
    let again = pair.open();
    hydrated(&again).await;
    check_counts(&again).await;
    assert_eq!(again.finish().unwrap(), receipt);
    check_counts(&again).await;
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
async fn moved_up(pair: &Pair, is_writable: bool) -> Arc<Replica> {
    let replica = open_clone(pair, is_writable);
    hydrated(&replica).await;
    replica.finish().unwrap();
    replica.move_up().unwrap();
    replica
}

fn open_clone(pair: &Pair, is_writable: bool) -> Arc<Replica> {
    let origin = LocalOrigin::open(&pair.at("snapshot"), ReadPool::default()).unwrap();
    let layout = Layout::clone_at(&pair.at("clone")).unwrap();
    fs::copy(pair.at("snapshot/manifest"), layout.manifest_path()).unwrap();
    let when_gone = WhenGone::Fail;
    let config = ReplicaConfig { when_gone, hydrate: true, is_writable, ..ReplicaConfig::new(layout) };
    let manifest = Manifest::open(&config.layout.manifest_path()).unwrap();
    Replica::open(config, manifest, Arc::new(origin), Handle::current()).unwrap()
}

async fn a_settled_clone_is_the_origins_tree(is_writable: bool) {
    let pair = Pair::new();
    let expected = pair.walk("snapshot", &["ws", "python"].map(|name| pair.at(name)));
    let replica = moved_up(&pair, is_writable).await;
    check_counts(&replica).await;
    // Reads find every file where it is now.
    for entry in expected.iter().filter(|entry| entry.kind() == Kind::File && entry.size() == 4) {
        let read = replica.read(entry.index(), 0, 10).await.unwrap();
        assert!(matches!(&read[..], b"deep" | b"blob"), "{read:?}");
    }
    replica.close().await;
    drop(replica);
    let name = our_name(&pair);
    settle::conclude(&pair.at("clone"), &name, &pair.at("keep")).unwrap();
    pair.check("walked", "clone", &expected, 0);
    pair.check("walked-companion", "keep/1", &expected, 1);
    check_plain(&pair.at("clone"));
    assert_eq!(Manifest::open(&pair.at("keep/manifest")).unwrap().snapshot(), expected.snapshot());
    // It is an ordinary directory now, and no clone any more.
    assert!(matches!(Layout::clone_at(&pair.at("clone")), Err(layout::LayoutError::NotEmpty { .. })));
    // Told to once more, nothing changes.
    settle::conclude(&pair.at("clone"), &name, &pair.at("keep")).unwrap();
    pair.check("walked-again", "clone", &expected, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn settling_leaves_the_origins_tree() {
    a_settled_clone_is_the_origins_tree(false).await;
    a_settled_clone_is_the_origins_tree(true).await;
}

#[test]
fn an_ordinary_users_clone_settles_too() {
    ordinary_user::run("replica::tests::finish::an_ordinary_users_clone_settles_too", || {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        runtime.block_on(a_settled_clone_is_the_origins_tree(false));
        runtime.block_on(a_settled_clone_is_the_origins_tree(true));
    });
}

/// Settles after an interruption that left `half` done.
async fn check_interrupted(half: impl Fn(&Pair)) {
    for is_writable in [false, true] {
        check_one_interrupted(is_writable, &half).await;
    }
}

async fn check_one_interrupted(is_writable: bool, half: impl FnOnce(&Pair)) {
    let pair = Pair::new();
    let expected = pair.walk("snapshot", &["ws", "python"].map(|name| pair.at(name)));
    let replica = moved_up(&pair, is_writable).await;
    replica.close().await;
    drop(replica);
    let name = our_name(&pair);
    half(&pair);
    settle::conclude(&pair.at("clone"), &name, &pair.at("keep")).unwrap();
    pair.check("walked", "clone", &expected, 0);
    pair.check("walked-companion", "keep/1", &expected, 1);
}

/// The replica's directory in the clone.
fn ours(pair: &Pair) -> PathBuf {
    let mut found = fs::read_dir(pair.at("clone")).unwrap().map(|entry| entry.unwrap().path());
    found.find(|path| path.file_name().unwrap().to_str().unwrap().starts_with(layout::PREFIX)).unwrap()
}

fn our_name(pair: &Pair) -> String {
    ours(pair).file_name().unwrap().to_str().unwrap().to_owned()
}

/// Settles, and leaves what the removal of ours has not come to.
fn settle_and_put_back(pair: &Pair) {
    let ours = ours(pair);
    settle::conclude(&pair.at("clone"), &our_name(pair), &pair.at("keep")).unwrap();
    fs::create_dir(&ours).unwrap();
    rustix::fs::setxattr(&ours, "user.twinshare.settling", b"1", XattrFlags::empty()).unwrap();
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
    // In the middle of the removal, and after it.
    check_interrupted(|pair| {
        settle_and_put_back(pair);
        fs::write(ours(pair).join("digests"), "").unwrap();
    })
    .await;
    check_interrupted(|pair| {
        settle_and_put_back(pair);
        fs::remove_dir_all(ours(pair)).unwrap();
        fs::set_permissions(pair.at("clone"), fs::Permissions::from_mode(0o700)).unwrap();
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_finished_does_not_settle() {
    let pair = Pair::new();
    drop(Layout::clone_at(&pair.at("clone")).unwrap());
    let refused = settle::conclude(&pair.at("clone"), &our_name(&pair), &pair.at("keep"));
    assert!(matches!(refused, Err(SettleError::Unfinished { .. })), "{refused:?}");
    let bench = Bench::new(&[]);
    assert!(matches!(bench.replica.move_up(), Err(SettleError::View)));
}

/// Changes a clone through its tree, and a plain copy in the same way.
struct Changing {
    tree: Arc<CloneTree>,
    plain: PathBuf,
}

impl Changing {
    fn node(&self, path: &str) -> NodeId {
        path.split('/').filter(|name| !name.is_empty()).fold(NodeId::ROOT, |at, name| {
            self.tree.lookup(at, name.as_bytes()).unwrap().unwrap_or_else(|| panic!("{path}")).node
        })
    }

    fn place<'p>(&self, path: &'p str) -> (NodeId, &'p [u8]) {
        let (above, name) = path.rsplit_once('/').unwrap_or(("", path));
        (self.node(above), name.as_bytes())
    }

    async fn write(&self, path: &str, offset: u64, bytes: &[u8]) {
        let node = self.node(path);
        assert_eq!(self.tree.open(node, true), Ok(()));
        let written = self.tree.write(node, offset, Bytes::copy_from_slice(bytes)).await;
        assert_eq!(written, Ok(bytes.len() as u64));
        self.tree.release(node);
        let file = fs::File::options().write(true).open(self.plain.join(path)).unwrap();
        std::os::unix::fs::FileExt::write_all_at(&file, bytes, offset).unwrap();
    }

    fn make(&self, path: &str, made: &Made, mode: u16) {
        let (directory, name) = self.place(path);
        self.tree.make(directory, name, made, mode, Owner::of_this_process()).unwrap();
        match made {
            Made::Directory => fs::create_dir(self.plain.join(path)).unwrap(),
            _ => fs::write(self.plain.join(path), "").unwrap(),
        }
        let mode = fs::Permissions::from_mode(mode.into());
        fs::set_permissions(self.plain.join(path), mode).unwrap();
    }

    fn rename(&self, from: &str, to: &str) {
        let flags = rustix::fs::RenameFlags::empty();
        self.tree.rename(self.place(from), self.place(to), flags).unwrap();
        fs::rename(self.plain.join(from), self.plain.join(to)).unwrap();
    }

    fn remove(&self, path: &str) {
        let (directory, name) = self.place(path);
        self.tree.unlink(directory, name).unwrap();
        fs::remove_file(self.plain.join(path)).unwrap();
    }

    async fn set_atime(&self, path: &str, atime: Mtime) {
        let change = Change { atime: Some(When::At(atime)), ..Change::default() };
        let changed = self.tree.change(self.node(path), change).await.unwrap();
        assert_eq!(changed.atime, atime);
    }

    async fn set_mode(&self, path: &str, mode: u16) {
        let change = Change { mode: Some(mode), ..Change::default() };
        self.tree.change(self.node(path), change).await.unwrap();
        fs::set_permissions(self.plain.join(path), fs::Permissions::from_mode(mode.into())).unwrap();
    }
}

/// Everything about a tree but times and what is shown differently of git.
fn told(top: &Path) -> String {
    let script = "find . -path ./.git -prune -o -path './.twinshare-*' -prune -o -printf '%P %y %m %n %l %s\n' | sort; \
                  find . -path ./.git -prune -o -path './.twinshare-*' -prune -o -type f -print0 | sort -z \
                  | xargs -0 md5sum";
    let told = std::process::Command::new("sh").arg("-c").arg(script).current_dir(top).output().unwrap();
    let is_directory = |line: &&str| line.split(' ').nth(1) == Some("d");
    let text = String::from_utf8_lossy(&told.stdout).into_owned();
    // How long a directory is tells nothing.
    let (directories, others): (Vec<_>, Vec<_>) = text.lines().partition(is_directory);
    let directories = directories.iter().filter_map(|line| line.rsplit_once(' ').map(|(line, _)| line));
    directories.chain(others.iter().copied()).collect::<Vec<_>>().join("\n")
}

async fn a_changed_clone_settles_with_its_changes() {
    let pair = Pair::new();
    pair.walk("snapshot", &["ws", "python"].map(|name| pair.at(name)));
    let copied = std::process::Command::new("cp").arg("-a").args([pair.at("ws"), pair.at("plain")]).status();
    assert!(copied.unwrap().success());
    let replica = open_clone(&pair, true);
    let names = replica.names().unwrap().clone();
    let owner = Owner::of_this_process();
    let tree = Arc::new(CloneTree::new(replica.clone(), names, owner));
    let changing = Changing { tree, plain: pair.at("plain") };
    changing.write("large", 100, b"changed").await;
    changing.rename("a", "moved");
    changing.make("new", &Made::Directory, 0o750);
    changing.make("new/closed", &Made::Directory, 0o500);
    changing.make("link2", &Made::File, 0o640);
    changing.remove("name\n\x01");
    changing.set_mode("empty", 0o550).await;
    let used = Mtime { sec: 5, nsec: 6 };
    for path in ["sparse", "zz", "new"] {
        changing.set_atime(path, used).await;
    }
    hydrated(&replica).await;
    check_counts(&replica).await;
    changing.rename("moved/b", "new/b");
    changing.write(".git/config", 0, b"#").await;
    check_counts(&replica).await;
    changing.remove(".git/config");
    changing.remove(".git/objects/x");
    check_counts(&replica).await;
    replica.finish().unwrap();
    check_counts(&replica).await;
    changing.write("large", 2 * MIB, b"after it was finished").await;
    changing.rename("new/b", "b");
    changing.make("b/more", &Made::File, 0o600);
    // Anything may still change, so it is finished again.
    replica.finish().unwrap();
    replica.move_up().unwrap();
    changing.make("top", &Made::File, 0o644);
    changing.write("top", 0, b"made above").await;
    changing.remove("link2");
    changing.rename("b", "last");
    changing.make("closed", &Made::Directory, 0o111);
    changing.set_mode("", 0o711).await;
    drop(changing);
    replica.close().await;
    drop(replica);
    let name = our_name(&pair);
    settle::conclude(&pair.at("clone"), &name, &pair.at("keep")).unwrap();
    for path in ["sparse", "zz"] {
        let found = fs::symlink_metadata(pair.at("clone").join(path)).unwrap();
        assert_eq!((found.atime(), found.atime_nsec()), (used.sec, used.nsec.into()), "{path}");
    }
    let who = rustix::process::geteuid();
    if !who.is_root() {
        // Its own user cannot look into what it has closed.
        for closed in ["clone/closed", "plain/closed"] {
            fs::set_permissions(pair.at(closed), fs::Permissions::from_mode(0o511)).unwrap();
        }
    }
    pretty(&told(&pair.at("clone")), &told(&pair.at("plain")));
    check_plain(&pair.at("clone"));
}

#[track_caller]
fn pretty(found: &str, expected: &str) {
    assert!(found == expected, "found\n{found}\nexpected\n{expected}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_changed_settles_with_the_rest() {
    a_changed_clone_settles_with_its_changes().await;
}

#[test]
fn what_an_ordinary_user_changed_settles_with_the_rest() {
    ordinary_user::run("replica::tests::finish::what_an_ordinary_user_changed_settles_with_the_rest", || {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        runtime.block_on(a_changed_clone_settles_with_its_changes());
    });
}
