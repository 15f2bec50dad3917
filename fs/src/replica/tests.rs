//! What a replica promises, on an origin that does its worst.

use std::os::fd::BorrowedFd;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use rustix::io::Errno;
use tokio::runtime::Handle;
use tokio::time::{Instant, timeout};

use super::*;
use crate::digest::BLOCK_BYTES;
use crate::manifest::{EntryIndex, Kind};
use crate::origin::Class;
use scripted::{Act, ScriptedOrigin, TestFile, TestTree, file};

mod account;
mod anew;
mod cache;
mod changes;
mod faults;
mod finish;
mod hydrate;
mod model;
mod restart;
mod scripted;
mod waiting;

const MIB: u64 = 1024 * 1024;
const BLOCK: u64 = BLOCK_BYTES;
/// A filesystem with an extent map, and one in memory.
const FILESYSTEMS: [&str; 2] = ["/tmp", "/dev/shm"];

/// A replica on an origin in memory.
struct Bench {
    directory: tempfile::TempDir,
    tree: Arc<TestTree>,
    origin: Arc<ScriptedOrigin>,
    replica: Arc<Replica>,
    /// How its directory is opened.
    layout: fn(&Path) -> Layout,
    /// Whether it fetches everything, once it is opened again.
    hydrate: bool,
    /// Makes the disk say, the next time it is asked, that it lost something.
    disk_loses: Arc<AtomicBool>,
}

fn view(at: &Path) -> Layout {
    Layout::view_in(at).unwrap()
}

fn writable(at: &Path) -> Layout {
    Layout::clone_at(at).unwrap()
}

impl Drop for Bench {
    /// What is still being written would be in the way of removing the directory.
    fn drop(&mut self) {
        self.replica.engine.close();
        let until = std::time::Instant::now() + Duration::from_secs(10);
        while !self.replica.engine.writer.is_idle() && std::time::Instant::now() < until {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

impl Bench {
    fn new(files: &[TestFile]) -> Self {
        Self::with(files, WhenGone::default(), "/tmp")
    }

    fn with(files: &[TestFile], when_gone: WhenGone, filesystem: &str) -> Self {
        Self::of(files, when_gone, filesystem, view)
    }

    /// A replica that can be written to.
    fn writable(files: &[TestFile], filesystem: &str) -> Self {
        Self::of(files, WhenGone::Fail, filesystem, writable)
    }

    fn of(files: &[TestFile], when_gone: WhenGone, filesystem: &str, layout: fn(&Path) -> Layout) -> Self {
        let directory = tempfile::tempdir_in(filesystem).unwrap();
        let tree = TestTree::new(files);
        let origin = ScriptedOrigin::new(&tree);
        let disk_loses = Arc::default();
        let config = ReplicaConfig { when_gone, ..ReplicaConfig::new(layout(directory.path())) };
        let replica = open_with(config, &tree, &origin, &disk_loses);
        Self { directory, tree, origin, replica, layout, hydrate: false, disk_loses }
    }

    async fn reopened(mut self) -> Self {
        self.replica.close().await;
        let when_gone = self.replica.engine.when_gone;
        let layout = (self.layout)(self.directory.path());
        let config = ReplicaConfig { when_gone, hydrate: self.hydrate, ..ReplicaConfig::new(layout) };
        self.replica = open_with(config, &self.tree, &self.origin, &self.disk_loses);
        self
    }

    /// Waits until what lies on the disk has been counted.
    async fn counted(&self) -> ReplicaStatus {
        timeout(Duration::from_secs(60), async {
            while !self.replica.status().counted {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            self.replica.status()
        })
        .await
        .expect("what is on the disk was not counted")
    }

    /// The content of a file of the workspace's own root, below the replica's tree.
    fn on_disk(&self, path: &str) -> std::path::PathBuf {
        self.replica.layout().path().join("tree").join(path)
    }

    async fn read(&self, path: &str, offset: u64, length: u64) -> Result<Bytes, ReadError> {
        self.replica.read(self.tree.index(path), offset, length as u32).await
    }

    /// Reads and compares with what the origin has.
    #[track_caller]
    fn check(&self, path: &str, offset: u64, length: u64) -> impl Future<Output = ()> {
        let expected = self.expected(path, offset, length);
        let what = format!("{path} {offset}+{length} at {}", std::panic::Location::caller());
        async move {
            let bytes = self.read(path, offset, length).await.unwrap_or_else(|e| panic!("{what}: {e}"));
            assert!(bytes == expected, "{what}: other bytes, {} of {}", bytes.len(), expected.len());
        }
    }

    fn expected(&self, path: &str, offset: u64, length: u64) -> Bytes {
        let content = self.tree.content(self.tree.index(path));
        let start = (offset as usize).min(content.len());
        content.slice(start..(start + length as usize).min(content.len()))
    }
}

fn open(
    at: &Path,
    tree: &TestTree,
    origin: &Arc<ScriptedOrigin>,
    when_gone: WhenGone,
    disk_loses: &Arc<AtomicBool>,
) -> Arc<Replica> {
    let config = ReplicaConfig { when_gone, ..ReplicaConfig::new(view(at)) };
    open_with(config, tree, origin, disk_loses)
}

fn open_with(
    config: ReplicaConfig,
    tree: &TestTree,
    origin: &Arc<ScriptedOrigin>,
    disk_loses: &Arc<AtomicBool>,
) -> Arc<Replica> {
    let is_writable = config.layout.is_clone();
    let config = ReplicaConfig { is_writable, ..config };
    let loses = disk_loses.clone();
    let sync = Box::new(move |_: BorrowedFd<'_>| match loses.swap(false, Relaxed) {
        true => Err(Errno::IO),
        false => Ok(()),
    });
    Replica::open_with(config, tree.manifest.clone(), origin.clone(), Handle::current(), sync).unwrap()
}

#[tokio::test(start_paused = true)]
async fn reads_are_exact_at_every_edge() {
    for filesystem in FILESYSTEMS {
        let sizes = [0, 1, BLOCK - 1, BLOCK, BLOCK + 1, 4 * BLOCK, 4 * BLOCK + 1, 20 * BLOCK + 7];
        let names = ["a", "b", "c", "d", "e", "f", "d1/g", "@1/d2/h"];
        let files: Vec<_> = names.into_iter().zip(sizes).map(|(name, size)| file(name, size)).collect();
        let bench = Bench::with(&files, WhenGone::Fail, filesystem);
        for (name, size) in names.into_iter().zip(sizes) {
            for offset in [0, 1, BLOCK - 1, BLOCK, size.saturating_sub(1), size, size + 1, u64::MAX] {
                for length in [0, 1, BLOCK, BLOCK + 2, 2 * MIB] {
                    bench.check(name, offset, length).await;
                }
            }
        }
        assert_eq!(bench.read("a", 0, 10).await.unwrap().len(), 0);
        assert_eq!(bench.replica.read(EntryIndex(0), 0, 1).await, Err(ReadError::NoSuchFile));
        assert_eq!(bench.replica.read(EntryIndex(999), 0, 1).await, Err(ReadError::NoSuchFile));
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_here_is_read_without_waiting() {
    for filesystem in FILESYSTEMS {
        let bench = Bench::with(&[file("small", 10_000), file("large", 3 * MIB)], WhenGone::Fail, filesystem);
        let [small, large] = ["small", "large"].map(|name| bench.tree.index(name));
        assert_eq!(bench.replica.try_read(small, 0, 1), TryRead::WouldWait);
        bench.check("small", 0, 1).await;
        bench.check("large", MIB, MIB).await;
        bench.replica.idle().await;
        let ready = |file, offset, length: u64| match bench.replica.try_read(file, offset, length as u32) {
            TryRead::Ready(bytes) => bytes,
            TryRead::WouldWait => panic!("{filesystem}: it would wait"),
        };
        assert!(ready(small, 5000, 9000) == bench.expected("small", 5000, 9000));
        assert!(ready(large, MIB + 5, 70_000) == bench.expected("large", MIB + 5, 70_000));
        assert!(ready(large, 5 * MIB, 1).is_empty());
        assert_eq!(bench.replica.try_read(large, MIB - 1, 2), TryRead::WouldWait);
        assert_eq!(bench.replica.try_read(EntryIndex(0), 0, 1), TryRead::WouldWait);
    }
}

#[tokio::test(start_paused = true)]
async fn many_readers_of_one_block_cause_one_fetch() {
    let bench = Arc::new(Bench::new(&[file("large", 3 * MIB)]));
    bench.origin.otherwise(Act::Serve(Duration::from_millis(30)));
    let readers: Vec<_> = (0..64)
        .map(|i| {
            let bench = bench.clone();
            tokio::spawn(async move { bench.check("large", 10 * BLOCK + i, 100).await })
        })
        .collect();
    for reader in readers {
        reader.await.unwrap();
    }
    let seen = bench.origin.seen();
    assert_eq!(seen.len(), 1, "{seen:?}");
    assert_eq!((seen[0].class, seen[0].ranges[0].first.0, seen[0].ranges[0].count), (Class::Demand, 10, 1));
}

#[tokio::test(start_paused = true)]
async fn small_files_that_are_waited_for_together_travel_together() {
    let names: Vec<&'static str> = (0..200).map(|i| &*format!("f{i}").leak()).collect();
    let files: Vec<_> = names.iter().map(|name| file(name, 3000)).collect();
    let bench = Arc::new(Bench::new(&files));
    bench.origin.otherwise(Act::Serve(Duration::from_millis(1)));
    let readers: Vec<_> = names
        .iter()
        .map(|name| {
            let (bench, name) = (bench.clone(), *name);
            tokio::spawn(async move { bench.check(name, 0, 3000).await })
        })
        .collect();
    for reader in readers {
        reader.await.unwrap();
    }
    let seen = bench.origin.seen();
    assert!(seen.iter().all(|request| request.whole_files));
    assert_eq!(seen.iter().map(|request| request.ranges.len()).sum::<usize>(), 200);
    assert!(seen.len() <= 20, "{} requests", seen.len());
}

#[tokio::test(start_paused = true)]
async fn a_sequential_read_asks_ahead_and_fetches_nothing_twice() {
    let bench = Bench::new(&[file("large", 40 * MIB)]);
    for at in 0..320 {
        bench.check("large", at * 128 * 1024, 128 * 1024).await;
    }
    let seen = bench.origin.seen();
    let blocks: u64 = seen.iter().flat_map(|request| &request.ranges).map(|range| range.count).sum();
    assert_eq!(blocks, 640, "blocks were fetched twice");
    let demanded = seen.iter().filter(|request| request.class == Class::Demand).count();
    assert!(demanded <= 10, "{demanded} requests somebody waited for");
    let status = bench.replica.status();
    assert_eq!(status.fetched.demand + status.fetched.read_ahead, 40 * MIB);
    assert!(status.fetched.read_ahead > 35 * MIB);
}

#[tokio::test(start_paused = true)]
async fn random_reads_fetch_single_blocks() {
    let bench = Bench::new(&[file("large", 40 * MIB)]);
    for at in 0..50 {
        bench.check("large", (at * 367 % 640) * BLOCK + 5, 100).await;
    }
    let seen = bench.origin.seen();
    assert!(seen.iter().all(|request| request.class == Class::Demand), "{seen:?}");
    assert_eq!(seen.iter().flat_map(|request| &request.ranges).map(|range| range.count).sum::<u64>(), 50);
}

#[tokio::test(start_paused = true)]
async fn a_reader_that_jumps_far_ahead_is_not_kept_behind_the_window() {
    let bench = Bench::new(&[file("large", 60 * MIB)]);
    for at in 0..40 {
        bench.check("large", at * 128 * 1024, 128 * 1024).await;
    }
    bench.replica.idle().await;
    // Everything asked from here on is slow: one run a second. Reading on in what is here extends the window.
    bench.origin.otherwise(Act::Serve(Duration::from_secs(1)));
    bench.origin.seen();
    let mut window = vec![];
    let mut at = 40;
    while window.is_empty() {
        assert!(at < 1000, "reading on asks for nothing");
        bench.check("large", at * 128 * 1024, 128 * 1024).await;
        window = bench.origin.seen();
        at += 1;
    }
    let next = window[0].ranges[0].first.0;
    let far = next + window[0].ranges[0].count - 1;
    assert_eq!(window[0].class, Class::ReadAhead);
    assert!(far > next + 80, "{window:?}");
    let began = Instant::now();
    bench.check("large", far * BLOCK, 10).await;
    assert!(began.elapsed() < Duration::from_secs(4), "it waited {:?}", began.elapsed());
}

#[tokio::test(start_paused = true)]
#[expect(clippy::single_range_in_vec_init, reason = "hole maps of one hole")]
async fn holes_are_zeros_that_are_not_fetched() {
    for filesystem in FILESYSTEMS {
        let mut large = file("large", 3 * MIB + 5);
        let mut small = file("small", 3 * BLOCK);
        let mut content = large.content.to_vec();
        content[100_000..2 * MIB as usize].fill(0);
        (large.content, large.holes) = (content.into(), vec![100_000..2 * MIB]);
        let mut content = small.content.to_vec();
        content[BLOCK as usize..].fill(0);
        (small.content, small.holes) = (content.into(), vec![BLOCK..3 * BLOCK]);
        let mut empty = file("zeros", 5 * MIB);
        (empty.content, empty.holes) = (vec![0; 5 * MIB as usize].into(), vec![0..5 * MIB]);
        let bench = Bench::with(&[large, small, empty], WhenGone::Fail, filesystem);
        bench.check("large", 0, 3 * MIB + 5).await;
        bench.check("small", 0, 3 * BLOCK).await;
        bench.check("zeros", 0, 5 * MIB).await;
        let blocks: u64 = bench.origin.seen().iter().flat_map(|r| &r.ranges).map(|r| r.count).sum();
        assert_eq!(blocks, 2 + 17 + 1);
        bench.replica.idle().await;
        let bench = bench.reopened().await;
        bench.origin.otherwise(Act::Gone);
        bench.check("large", 0, 3 * MIB + 5).await;
        bench.check("small", 10, 3 * BLOCK).await;
        let status = bench.counted().await;
        assert_eq!(status.blocks, Tally { resident: 49 + 3 + 80, total: 49 + 3 + 80 });
        assert_eq!(status.bytes.resident, status.bytes.total);
        assert_eq!(status.files, Tally { resident: 3, total: 3 });
    }
}

#[tokio::test(start_paused = true)]
async fn names_of_one_inode_share_what_was_fetched() {
    let other = TestFile { path: "d/b=a", ..file("a", 5 * BLOCK) };
    let bench = Bench::new(&[file("a", 5 * BLOCK), other]);
    bench.check("d/b=a", 0, 5 * BLOCK).await;
    bench.origin.otherwise(Act::Gone);
    bench.check("a", 0, 5 * BLOCK).await;
    bench.replica.idle().await;
    let anchor = bench.replica.layout().path().join("links").join(bench.tree.index("a").0.to_string());
    assert_eq!(std::fs::metadata(anchor).unwrap().len(), 5 * BLOCK);
}

#[tokio::test(start_paused = true)]
async fn few_descriptors_are_enough_for_many_files() {
    let names: Vec<&'static str> = (0..60).map(|i| &*format!("f{i}").leak()).collect();
    let files: Vec<_> = names.iter().map(|name| file(name, 1000)).collect();
    let tree = TestTree::new(&files);
    let origin = ScriptedOrigin::new(&tree);
    let directory = tempfile::tempdir().unwrap();
    let config = ReplicaConfig {
        descriptors_max: Some(4),
        ..ReplicaConfig::new(Layout::view_in(directory.path()).unwrap())
    };
    let replica = Replica::open(config, tree.manifest.clone(), origin.clone(), Handle::current()).unwrap();
    for _ in 0..2 {
        for name in &names {
            let bytes = replica.read(tree.index(name), 0, 1000).await.unwrap();
            assert!(bytes == *tree.content(tree.index(name)));
        }
        replica.idle().await;
        origin.otherwise(Act::Gone);
    }
    // A file that got its name after it was opened is shown under its first one.
    let is_content = |fd: &std::fs::DirEntry| {
        std::fs::metadata(fd.path()).is_ok_and(|of| of.is_file() && of.len() == 1000)
    };
    let open = std::fs::read_dir("/proc/self/fd").unwrap().flatten().filter(is_content).count();
    assert!(open <= 4, "{open} files are open");
}
