//! A view that goes on to what its directory has become, without a kernel.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};
use std::time::{Duration, Instant};

use super::*;
use crate::manifest::walk::{MANIFEST_FILE, WalkOptions, WalkProgress, build};
use crate::manifest::{Carried, EntryIndex, Manifest};
use crate::origin::{LocalOrigin, ReadPool};
use crate::replica::{
    Cache, CacheLimits, Pin, ReadError, ReplicaConfig, ReplicaError, TryRead, ViewDirectory,
};

const OWNER: Owner = Owner { uid: 1234, gid: 567 };
const BOUND: Duration = Duration::from_secs(20);

/// A workspace with one companion, and a view of it.
struct Bench {
    base: tempfile::TempDir,
    snapshots: AtomicU32,
    view: Arc<ViewDirectory>,
    following: Arc<Following>,
}

/// A snapshot of the workspace in `base`, in a directory of its own.
fn snapshot(base: &Path, number: u32) -> PathBuf {
    let directory = base.join(format!("snapshot{number}"));
    fs::create_dir(&directory).unwrap();
    let (cancel, progress) = (AtomicBool::new(false), WalkProgress::default());
    let options = WalkOptions { threads: 2, exclude: &[], cancel: &cancel, progress: &progress };
    build(&directory, &[base.join("w"), base.join("companion")], &options).unwrap();
    directory
}

fn origin(snapshot: &Path) -> Arc<LocalOrigin> {
    Arc::new(LocalOrigin::open(snapshot, ReadPool::default()).unwrap())
}

/// The edition that the view's directory opens as, of `snapshot`.
fn open(view: &Arc<ViewDirectory>, snapshot: &Path, cache: Option<Arc<Cache>>) -> Arc<Replica> {
    let layout = view.shown().unwrap();
    let at = layout.manifest_path();
    if !at.exists() {
        fs::copy(snapshot.join(MANIFEST_FILE), &at).unwrap();
    }
    let manifest = Manifest::open(&at).unwrap();
    let config = ReplicaConfig { cache, ..ReplicaConfig::new(layout) };
    Replica::open(config, manifest, origin(snapshot), Runtime::current()).unwrap()
}

impl Bench {
    fn new(files: &[(&str, &str)]) -> Self {
        Self::with(files, None)
    }

    fn with(files: &[(&str, &str)], cache: Option<Arc<Cache>>) -> Self {
        let base = tempfile::tempdir().unwrap();
        fs::create_dir(base.path().join("w")).unwrap();
        fs::create_dir(base.path().join("companion")).unwrap();
        fs::write(base.path().join("companion/lib"), "library").unwrap();
        for (path, content) in files {
            write(&base.path().join("w").join(path), content);
        }
        let first = snapshot(base.path(), 0);
        let view = ViewDirectory::open(&base.path().join("view")).unwrap();
        let following = Following::new(open(&view, &first, cache), OWNER, Runtime::current());
        Self { base, snapshots: AtomicU32::new(0), view, following }
    }

    fn at(&self, path: &str) -> PathBuf {
        self.base.path().join("w").join(path)
    }

    fn newest(&self) -> PathBuf {
        self.base.path().join(format!("snapshot{}", self.snapshots.load(Relaxed)))
    }

    /// The edition of what the workspace is now, which is not shown yet.
    fn next(&self) -> Result<Arc<Replica>, ReplicaError> {
        let old = self.newest();
        let new = snapshot(self.base.path(), self.snapshots.fetch_add(1, Relaxed) + 1);
        let carried = Carried::between(&old, &new).unwrap();
        let layout = self.view.make().unwrap();
        fs::copy(new.join(MANIFEST_FILE), layout.manifest_path()).unwrap();
        let manifest = Manifest::open(&layout.manifest_path()).unwrap();
        let config = ReplicaConfig::new(layout);
        self.following.replica().next(config, manifest, &carried, origin(&new), Runtime::current())
    }

    /// Goes on to what the workspace is now.
    fn advance(&self) {
        let (next, following) = (self.next().unwrap(), self.following.clone());
        tokio::task::block_in_place(|| following.advance(next));
    }

    async fn node(&self, path: &str) -> Option<NodeId> {
        let tree = self.following.root(0);
        let mut at = NodeId::ROOT;
        for name in path.split('/') {
            at = tree.lookup(at, name.as_bytes()).await.unwrap()?.node;
        }
        Some(at)
    }

    async fn read(&self, handle: u64, node: NodeId) -> Result<String, ViewError> {
        let bytes = self.following.root(0).read(handle, node, 0, 1 << 20).await?;
        Ok(String::from_utf8(bytes.to_vec()).unwrap())
    }

    async fn open_and_read(&self, path: &str) -> (u64, NodeId, String) {
        let node = self.node(path).await.unwrap();
        let handle = self.following.root(0).open(node).unwrap();
        (handle, node, self.read(handle, node).await.unwrap())
    }

    async fn content(&self, path: &str) -> String {
        let (handle, _, content) = self.open_and_read(path).await;
        self.following.root(0).release(handle);
        content
    }

    fn fetched(&self) -> u64 {
        let fetched = self.following.replica().status().fetched;
        fetched.demand + fetched.read_ahead + fetched.bulk
    }

    fn editions(&self) -> Vec<String> {
        names(&self.base.path().join("view/editions"))
    }

    fn files_here(&self) -> usize {
        let groups = self.base.path().join("view/content");
        names(&groups).iter().map(|group| names(&groups.join(group)).len()).sum()
    }

    async fn until(&self, what: &str, is_so: impl Fn() -> bool) {
        let end = Instant::now() + BOUND;
        while !is_so() {
            assert!(Instant::now() < end, "{what}: {:?}, {} files", self.editions(), self.files_here());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

fn write(at: &Path, content: &str) {
    fs::create_dir_all(at.parent().unwrap()).unwrap();
    fs::write(at, content).unwrap();
}

fn names(at: &Path) -> Vec<String> {
    let names = fs::read_dir(at).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<_> = names.collect();
    names.sort();
    names
}

#[tokio::test(flavor = "multi_thread")]
async fn what_stays_keeps_its_node_and_is_not_fetched_again() {
    let bench = Bench::new(&[("a/same", "same"), ("a/edited", "before"), ("b/other", "other")]);
    for (path, content) in [("a/same", "same"), ("a/edited", "before"), ("b/other", "other")] {
        assert_eq!(bench.content(path).await, content);
    }
    let (same, edited, a) = (bench.node("a/same").await, bench.node("a/edited").await, bench.node("a").await);
    bench.following.replica().idle().await;
    write(&bench.at("a/edited"), "after it");
    write(&bench.at("new"), "new");
    bench.advance();
    assert_eq!((bench.node("a/same").await, bench.node("a").await), (same, a));
    assert_ne!(bench.node("a/edited").await, edited);
    for (path, content) in
        [("a/same", "same"), ("a/edited", "after it"), ("b/other", "other"), ("new", "new")]
    {
        assert_eq!(bench.content(path).await, content);
    }
    bench.following.replica().idle().await;
    assert_eq!(bench.fetched(), 11, "more was fetched than what is new");
    bench.until("the first edition stays", || bench.editions() == ["1"]).await;
    bench.until("the old version's content stays", || bench.files_here() == 4).await;
    let gone = bench.following.root(0).attributes(edited.unwrap());
    assert_eq!(gone, Err(ViewError::Outdated));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_open_file_stays_the_version_it_was() {
    let bench = Bench::new(&[("here", "here before"), ("missing", "missing before"), ("same", "same")]);
    let tree = bench.following.root(0);
    let (here, here_node, _) = bench.open_and_read("here").await;
    let (same, same_node, _) = bench.open_and_read("same").await;
    let missing_node = bench.node("missing").await.unwrap();
    let missing = tree.open(missing_node).unwrap();
    for path in ["here", "missing"] {
        write(&bench.at(path), "after");
    }
    bench.advance();
    assert_eq!(bench.read(here, here_node).await.unwrap(), "here before");
    assert_eq!(bench.content("here").await, "after");
    assert_eq!(bench.read(missing, missing_node).await, Err(ReadError::Stale.into()));
    assert_eq!(tree.attributes(here_node).unwrap().size, 11);
    assert_eq!(bench.editions(), ["0", "1"]);
    tree.release(here);
    tree.release(missing);
    bench.until("the first edition stays", || bench.editions() == ["1"]).await;
    // Its handle went on with it.
    assert_eq!(bench.read(same, same_node).await.unwrap(), "same");
    tree.release(same);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_is_listed_to_its_end_as_it_was() {
    let bench = Bench::new(&[("d/a", ""), ("d/b", ""), ("d/c", "")]);
    let tree = bench.following.root(0);
    let directory = bench.node("d").await.unwrap();
    let handle = tree.open_directory();
    let names = |position: u64| {
        let at = tree.listing(handle, directory, position).unwrap();
        let Now::Ready(list) = at.tree().unwrap().try_list(directory, position).unwrap() else { panic!() };
        let names = list.map(|listed| String::from_utf8(listed.unwrap().name.to_vec()).unwrap());
        (names.collect::<Vec<_>>(), at.is_shown)
    };
    assert_eq!(names(0), ([".", "..", "a", "b", "c"].map(String::from).to_vec(), true));
    fs::remove_file(bench.at("d/a")).unwrap();
    write(&bench.at("d/z"), "");
    bench.advance();
    assert_eq!(names(3), (["b", "c"].map(String::from).to_vec(), false));
    assert_eq!(bench.editions(), ["0", "1"]);
    assert_eq!(names(0), ([".", "..", "b", "c", "z"].map(String::from).to_vec(), true));
    bench.until("a listing that began anew keeps the first edition", || bench.editions() == ["1"]).await;
    tree.listed_all(handle);
    tree.release(handle);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_kernel_is_told_of_what_changed_and_of_nothing_else() {
    let bench = Bench::new(&[
        ("d/edited", "before"),
        ("d/removed", ""),
        ("d/same", ""),
        ("e/deep/same", ""),
        ("kind", ""),
        ("renamed/x", ""),
        ("repository/config", "[core]"),
    ]);
    let [notices, in_companion] = [0, 1].map(|root| {
        let notices = bench.following.root(root).watch().unwrap();
        std::thread::spawn(move || {
            let taken = notices.iter().take_while(|notice| !matches!(notice, Notice::All(_)));
            taken.map(|notice| format!("{notice:?}")).collect::<Vec<_>>()
        })
    });
    write(&bench.at("d/edited"), "after");
    fs::remove_file(bench.at("d/removed")).unwrap();
    write(&bench.at("e/deep/new"), "");
    fs::remove_file(bench.at("kind")).unwrap();
    symlink("d", bench.at("kind")).unwrap();
    fs::rename(bench.at("renamed"), bench.at("new-name")).unwrap();
    // Git would act on its configuration now, which did not change.
    let config = bench.node("repository/config").await;
    fs::create_dir(bench.at("repository/objects")).unwrap();
    fs::create_dir(bench.at("repository/refs")).unwrap();
    bench.advance();
    let mut told = notices.join().unwrap();
    let mut expected = Vec::new();
    for (directory, names) in [
        ("d", &["edited", "removed"][..]),
        ("e/deep", &["new"]),
        ("", &["kind", "new-name", "renamed"]),
        ("repository", &["config", "objects", "refs"]),
    ] {
        let node = if directory.is_empty() { NodeId::ROOT } else { bench.node(directory).await.unwrap() };
        let name = |name: &&str| format!("{:?}", Notice::Name(node, name.as_bytes().into()));
        let of_names: Vec<_> = names.iter().map(name).collect();
        let listing = format!("{:?}", Notice::Listing(node));
        let last = told.iter().rposition(|notice| of_names.contains(notice));
        assert!(last < told.iter().position(|notice| *notice == listing), "{directory}: {told:?}");
        expected.extend(of_names);
        expected.push(listing);
    }
    assert_ne!(bench.node("repository/config").await, config);
    told.sort();
    expected.sort();
    assert_eq!(told, expected);
    assert!(in_companion.join().unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_view_opens_as_what_it_showed_last() {
    let bench = Bench::new(&[("same", "same"), ("edited", "before"), ("linked", "two names")]);
    fs::hard_link(bench.at("linked"), bench.at("link")).unwrap();
    bench.advance();
    for path in ["same", "edited", "link"] {
        bench.content(path).await;
    }
    write(&bench.at("edited"), "after");
    bench.advance();
    bench.until("the earlier editions stay", || bench.editions() == ["2"]).await;
    assert_eq!(bench.content("edited").await, "after");
    bench.following.replica().close().await;
    let (base, newest) = (bench.base.path().join("view"), bench.newest());
    // What a crash leaves: an edition in the making, an earlier one, and content of either.
    let Bench { base: _base, view, following, .. } = bench;
    drop((view, following));
    for left in ["editions/1", "editions/3.making", "content/7"] {
        fs::create_dir_all(base.join(left)).unwrap();
    }
    fs::write(base.join("content/7/30000"), "of no edition").unwrap();
    fs::write(base.join("content/0/x"), "foreign").unwrap();
    let view = ViewDirectory::open(&base).unwrap();
    assert_eq!(names(&base.join("editions")), ["2"]);
    assert!(names(&base.join("content/7")).is_empty());
    let replica = open(&view, &newest, None);
    let following = Following::new(replica, OWNER, Runtime::current());
    let tree = following.root(0);
    for (name, content) in [("same", "same"), ("edited", "after"), ("linked", "two names")] {
        let node = tree.lookup(NodeId::ROOT, name.as_bytes()).await.unwrap().unwrap().node;
        let handle = tree.open(node).unwrap();
        assert_eq!(tree.read(handle, node, 0, 100).await.unwrap(), content);
        tree.release(handle);
    }
    let fetched = following.replica().status().fetched;
    assert_eq!(fetched.demand + fetched.read_ahead + fetched.bulk, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crash_before_an_edition_is_in_place_leaves_the_one_before() {
    let bench = Bench::new(&[("file", "before")]);
    assert_eq!(bench.content("file").await, "before");
    bench.following.replica().idle().await;
    let first = bench.newest();
    let layout = bench.view.make().unwrap();
    fs::write(layout.manifest_path(), "torn").unwrap();
    bench.following.replica().close().await;
    let at = bench.base.path().join("view");
    let Bench { base: _base, view, following, .. } = bench;
    drop((view, following, layout));
    let view = ViewDirectory::open(&at).unwrap();
    assert_eq!(names(&at.join("editions")), ["0"]);
    let replica = open(&view, &first, None);
    let file = replica.manifest().lookup(crate::manifest::EntryIndex(0), b"file").unwrap().unwrap().index();
    assert_eq!(replica.read(file, 0, 100).await.unwrap(), "before");
    assert_eq!(replica.status().fetched.demand, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn other_roots_are_not_followed() {
    let bench = Bench::new(&[("file", "")]);
    let old = bench.newest();
    fs::rename(bench.base.path().join("companion"), bench.base.path().join("elsewhere")).unwrap();
    let new = bench.base.path().join("other");
    fs::create_dir(&new).unwrap();
    let (cancel, progress) = (AtomicBool::new(false), WalkProgress::default());
    let options = WalkOptions { threads: 2, exclude: &[], cancel: &cancel, progress: &progress };
    build(&new, &[bench.at(""), bench.base.path().join("elsewhere")], &options).unwrap();
    let carried = Carried::between(&old, &new).unwrap();
    let layout = bench.view.make().unwrap();
    fs::copy(new.join(MANIFEST_FILE), layout.manifest_path()).unwrap();
    let manifest = Manifest::open(&layout.manifest_path()).unwrap();
    let config = ReplicaConfig::new(layout);
    let shown = bench.following.replica();
    let refused = shown.next(config, manifest, &carried, origin(&new), Runtime::current());
    assert!(matches!(refused, Err(ReplicaError::OtherRoots)), "{refused:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn earlier_editions_have_a_bound() {
    let bench = Bench::new(&[("file", "0")]);
    let tree = bench.following.root(0);
    let mut handles = Vec::new();
    for number in 1..=EARLIER_MAX + 2 {
        let (handle, node, content) = bench.open_and_read("file").await;
        handles.push((handle, node, content));
        write(&bench.at("file"), &number.to_string());
        bench.advance();
    }
    for (at, (handle, node, content)) in handles.iter().enumerate() {
        let expected = if at < 2 { Err(ViewError::Outdated) } else { Ok(content.clone()) };
        assert_eq!(bench.read(*handle, *node).await, expected, "{at}");
    }
    assert_eq!(bench.following.earlier().len(), EARLIER_MAX);
    handles.iter().for_each(|(handle, ..)| tree.release(*handle));
    let last = (EARLIER_MAX + 2).to_string();
    bench.until("earlier editions stay", || bench.editions() == [last.clone()]).await;
    assert_eq!(bench.content("file").await, last);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_evicted_is_missing_in_every_edition_and_what_is_pinned_stays() {
    let content: String = ('a'..='z').cycle().take(300_000).collect();
    let files = ["kept", "gone", "changes", "d/pinned"].map(|path| (path, content.as_str()));
    let cache = Cache::new(CacheLimits { bytes_max: 1 << 30, free_bytes_min: 0 });
    let bench = Bench::with(&files, Some(cache.clone()));
    let first = bench.following.replica();
    first.pin(Pin { root: 0, path: b"d".into() }).unwrap();
    for path in ["kept", "gone", "d/pinned"] {
        assert_eq!(bench.content(path).await, content);
    }
    // Somebody keeps the first edition by what is no longer in the second one.
    let (handle, node, _) = bench.open_and_read("changes").await;
    first.idle().await;
    write(&bench.at("changes"), "something else");
    bench.advance();
    let second = bench.following.replica();
    let (kept, ..) = bench.open_and_read("kept").await;
    counted(&second).await;
    assert_eq!(cache.bytes(), 4 * 303_104, "what both editions have counts once");
    let until = tokio::time::Instant::now() + Duration::from_secs(60);
    // What is being looked at in the background stays for that moment.
    let evicted = std::cell::Cell::new(0);
    let prune = || {
        let (pruned, is_done) = tokio::task::block_in_place(|| cache.prune(0, until));
        evicted.set(evicted.get() + pruned.files);
        is_done && evicted.get() > 0
    };
    bench.until("what can be evicted stays", prune).await;
    assert_eq!(evicted.get(), 1, "what is open or pinned in any edition stays");
    let fetched = bench.fetched();
    let entry = |replica: &Replica, name: &str| {
        replica.manifest().lookup(EntryIndex(0), name.as_bytes()).unwrap().unwrap().index()
    };
    assert_eq!(first.try_read(entry(&first, "gone"), 0, 1000), TryRead::WouldWait);
    assert_eq!(first.read(entry(&first, "gone"), 0, 300_000).await.unwrap(), content.as_bytes());
    for path in ["gone", "kept", "d/pinned"] {
        assert_eq!(bench.content(path).await, content);
    }
    assert!(bench.fetched() <= fetched + 300_000);
    assert_eq!(bench.read(handle, node).await.unwrap(), content);
    bench.following.root(0).release(handle);
    bench.following.root(0).release(kept);
    assert_eq!(second.pins().len(), 1);
    // What the first edition alone had goes with it, also while somebody holds it otherwise.
    bench.until("the first edition stays", || bench.editions() == ["1"]).await;
    second.idle().await;
    assert_eq!(cache.bytes(), 3 * 303_104);
    drop(first);
}

async fn counted(replica: &Replica) {
    let counting = async {
        while !replica.status().counted
            || replica.pins().iter().any(|pin| pin.kept.is_none_or(|k| k.files_here < k.files))
        {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), counting).await.expect("it is not counted");
}
