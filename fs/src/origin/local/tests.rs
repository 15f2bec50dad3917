//! What a snapshot's files are served as, while their owner does what owners do.

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use rustix::fs::{AtFlags, CWD, Mode, Timestamps};

use super::*;
use crate::digest::{BLOCK_BYTES, BlockIndex, Digest};
use crate::git::shown_config;
use crate::manifest::walk::{WalkOptions, WalkProgress, build};
use crate::manifest::{Kind, frame::Frames as Stream};
use crate::ordinary_user;
use crate::origin::{Delivery, FileFault, Run};

mod anew;
mod carried;
mod changes;
mod moved;
mod passes;
mod races;

/// A tree, and the directory of its snapshot.
struct Place {
    tree: tempfile::TempDir,
    snapshot: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        // A snapshot is written durably; where it lies in memory, a busy disk does not slow the tests down.
        let snapshot = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
        Self { tree: tempfile::tempdir().unwrap(), snapshot }
    }

    fn at(&self, path: &str) -> PathBuf {
        self.tree.path().join(path)
    }

    fn write(&self, path: &str, content: impl AsRef<[u8]>) {
        fs::create_dir_all(self.at(path).parent().unwrap()).unwrap();
        fs::write(self.at(path), content).unwrap();
    }

    fn walk(&self) {
        let (cancel, progress) = (AtomicBool::new(false), WalkProgress::default());
        let options = WalkOptions { threads: 2, exclude: &[], cancel: &cancel, progress: &progress };
        build(self.snapshot.path(), &[self.tree.path().into()], &options).unwrap();
        let _ = fs::remove_file(self.snapshot.path().join(DIGESTS_FILE));
    }

    fn open(&self) -> LocalOrigin {
        LocalOrigin::open(self.snapshot.path(), ReadPool::default()).unwrap()
    }

    /// As if all changes were long ago.
    fn open_quiet(&self) -> LocalOrigin {
        LocalOrigin::open_with(self.snapshot.path(), ReadPool::default(), Duration::ZERO).unwrap()
    }

    fn serve(&self) -> LocalOrigin {
        self.walk();
        self.open()
    }
}

fn index(origin: &LocalOrigin, path: &str) -> EntryIndex {
    let mut at = EntryIndex(0);
    for name in path.split('/').filter(|name| !name.is_empty()) {
        let found = origin.manifest().lookup(at, name.as_bytes()).unwrap();
        at = found.unwrap_or_else(|| panic!("no {path}")).index();
    }
    at
}

/// What was delivered of a file: its bytes so far, and how it ended.
type Got = (EntryIndex, Vec<u8>, Result<(), FileFault>);

/// Takes a whole answer, and checks that it is in order and that every run is what it claims.
async fn take(origin: &LocalOrigin, mut deliveries: Deliveries) -> Vec<Got> {
    let mut got: Vec<Got> = Vec::new();
    let mut current: Option<(EntryIndex, BlockIndex, Vec<u8>)> = None;
    while let Some(delivery) = deliveries.recv().await {
        match delivery.unwrap() {
            Delivery::Run(run) => {
                run.verify(origin.manifest().entry(run.file).unwrap().size()).unwrap();
                let Run { file, first, digests, bytes } = run;
                let (of, next, content) = current.get_or_insert((file, first, Vec::new()));
                assert_eq!((*of, *next), (file, first), "runs are in order");
                content.extend_from_slice(&bytes);
                next.0 += digests.len() as u64;
            }
            Delivery::End(file) => {
                got.push((file, current.take().map_or(vec![], |(.., bytes)| bytes), Ok(())))
            }
            Delivery::Fault(file, fault) => {
                got.push((file, current.take().map_or(vec![], |(.., bytes)| bytes), Err(fault)));
            }
        }
    }
    assert!(current.is_none(), "an answer ends with an end or a fault");
    got
}

async fn read(origin: &LocalOrigin, paths: &[&str]) -> Vec<Got> {
    let files = paths.iter().map(|path| index(origin, path)).collect();
    take(origin, origin.read_files(files, Class::Demand)).await
}

async fn read_one(origin: &LocalOrigin, path: &str) -> Result<Vec<u8>, FileFault> {
    let (_, bytes, end) = read(origin, &[path]).await.pop().unwrap();
    end.map(|()| bytes)
}

fn content(seed: u64, bytes: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let word = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        Some(state)
    };
    std::iter::from_fn(word).flat_map(u64::to_le_bytes).take(bytes).collect()
}

/// Does something to the file `d/f` that its mtime does not tell.
fn with_old_times(place: &Place, change: impl FnOnce(&Path)) {
    let path = place.at("d/f");
    let before = rustix::fs::stat(&path).unwrap();
    change(&path);
    let time = rustix::fs::Timespec { tv_sec: before.st_mtime, tv_nsec: before.st_mtime_nsec as _ };
    let times = Timestamps { last_access: time, last_modification: time };
    rustix::fs::utimensat(CWD, &path, &times, AtFlags::empty()).unwrap();
}

const CHANGED: Result<(), FileFault> = Err(FileFault::Changed);

/// Changes one byte.
fn flip(path: &Path, at: u64) {
    let file = File::options().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 1], at).unwrap();
}

/// Reads single blocks of `d/f`, each in a range of its own; returns how each ended.
async fn read_blocks(origin: &LocalOrigin, blocks: &[u64]) -> Vec<Result<(), FileFault>> {
    let file = index(origin, "d/f");
    let range = |first: &u64| BlockRange { file, first: BlockIndex(*first), count: 1 };
    let got = take(origin, origin.read_ranges(blocks.iter().map(range).collect(), Class::Demand)).await;
    got.into_iter().map(|(.., end)| end).collect()
}

/// True when all blocks are bound.
fn is_bound(origin: &LocalOrigin) -> bool {
    let digests = &origin.files.digests;
    digests.get(0..digests.blocks()).unwrap().iter().all(Option::is_some)
}

#[tokio::test]
async fn whole_files_come_in_the_order_asked() {
    let place = Place::new();
    let sizes = [0, 1, 65_535, 65_536, 65_537, 262_144, 1_000_003, 5 << 20];
    sizes.iter().for_each(|size| place.write(&format!("d/{size}"), content(*size as u64, *size)));
    (0..300).for_each(|i| place.write(&format!("small/{i}"), i.to_string()));
    fs::hard_link(place.at("small/7"), place.at("linked")).unwrap();
    File::create(place.at("sparse")).unwrap().set_len(1 << 20).unwrap();
    let origin = place.serve();
    for class in [Class::Bulk, Class::ReadAhead, Class::Demand] {
        let mut paths: Vec<_> = sizes.iter().rev().map(|size| format!("d/{size}")).collect();
        paths.extend((0..300).map(|i| format!("small/{i}")));
        paths.extend(["linked".into(), "sparse".into()]);
        let files: Vec<_> = paths.iter().map(|path| index(&origin, path)).collect();
        let got = take(&origin, origin.read_files(files.clone(), class)).await;
        assert_eq!(got.iter().map(|(file, ..)| *file).collect::<Vec<_>>(), files);
        for ((_, bytes, end), path) in got.iter().zip(&paths) {
            assert!(*end == Ok(()) && *bytes == fs::read(place.at(path)).unwrap(), "{path}: {end:?}");
        }
    }
}

#[tokio::test]
async fn digests_are_those_of_the_file() {
    let place = Place::new();
    let bytes = content(3, 700_001);
    place.write("f", &bytes);
    let origin = place.serve();
    let mut deliveries = origin.read_files(vec![index(&origin, "f")], Class::Demand);
    let mut digests = Vec::new();
    while let Some(Ok(delivery)) = deliveries.recv().await {
        if let Delivery::Run(run) = delivery {
            digests.extend(run.digests);
        }
    }
    assert_eq!(Digest::of_file(700_001, &digests), Some(Digest(blake3::hash(&bytes).into())));
}

#[tokio::test]
async fn ranges_end_where_the_file_does() {
    let place = Place::new();
    let bytes = content(1, 40 * BLOCK_BYTES as usize + 5);
    place.write("f", &bytes);
    place.write("empty", "");
    symlink("f", place.at("link")).unwrap();
    let origin = place.serve();
    let file = index(&origin, "f");
    let none = Err(FileFault::NoSuchBlock);
    let cases = [
        (file, 0, 1, Ok(0..65_536)),
        (file, 3, 20, Ok(3 * 65_536..23 * 65_536)),
        (file, 40, 1, Ok(40 * 65_536..bytes.len())),
        (file, 39, 4096, Ok(39 * 65_536..bytes.len())),
        (file, 5, 0, Ok(0..0)),
        (file, 41, 1, none.clone()),
        (file, u64::MAX, 4096, none.clone()),
        (index(&origin, "empty"), 0, 1, none.clone()),
        (index(&origin, "link"), 0, 1, none.clone()),
        (EntryIndex(0), 0, 1, none.clone()),
        (EntryIndex(u32::MAX), 0, 1, none),
    ];
    let range = |(file, first, count, _): &(EntryIndex, u64, u64, _)| BlockRange {
        file: *file,
        first: BlockIndex(*first),
        count: *count,
    };
    let got = take(&origin, origin.read_ranges(cases.iter().map(range).collect(), Class::Bulk)).await;
    assert_eq!(got.len(), cases.len());
    for ((file, first, count, expected), (of, found, end)) in cases.into_iter().zip(got) {
        let expected = expected.map(|range| &bytes[range]);
        assert_eq!((of, end), (file, expected.clone().map(|_| ())), "{first} + {count}");
        assert!(found == expected.unwrap_or_default(), "{first} + {count}");
    }
}

#[tokio::test]
async fn a_request_beyond_its_bounds_is_refused() {
    let place = Place::new();
    place.write("f", "x");
    let origin = place.serve();
    let file = index(&origin, "f");
    let range = |count| BlockRange { file, first: BlockIndex(0), count };
    let refused = [
        origin.read_files(vec![file; FILES_PER_REQUEST_MAX + 1], Class::Demand),
        origin.read_ranges(vec![range(1); RANGES_PER_REQUEST_MAX + 1], Class::Demand),
        origin.read_ranges(vec![range(RANGE_BLOCKS_MAX + 1)], Class::Demand),
    ];
    for mut deliveries in refused {
        assert!(matches!(deliveries.recv().await, Some(Err(OriginError::Invalid(_)))));
        assert!(deliveries.recv().await.is_none());
    }
}

#[tokio::test]
async fn the_manifest_is_streamed_as_it_is() {
    let place = Place::new();
    (0..5000).for_each(|i| place.write(&format!("d{}/f{i}", i % 20), ""));
    let origin = place.serve();
    let expected = Stream::new(origin.manifest()).map(|frame| frame::encode(&frame).unwrap());
    let mut frames = origin.read_manifest();
    let mut found = Vec::new();
    while let Some(frame) = frames.recv().await {
        found.push(frame.unwrap().to_vec());
    }
    assert!(found.len() > 3 && found == expected.collect::<Vec<_>>());
}

#[tokio::test]
async fn of_a_git_configuration_only_what_is_shown_leaves() {
    let place = Place::new();
    let text = "[core]\n\tsshCommand = id\n[remote \"o\"]\n\turl = https://me:secret@h/x\n";
    place.write(".git/config", text);
    let origin = place.serve();
    assert_eq!(read_one(&origin, ".git/config").await, Ok(shown_config(text.as_bytes())));
}

#[tokio::test]
async fn a_fault_of_one_file_leaves_the_others() {
    let place = Place::new();
    ["a", "b", "c"].iter().for_each(|name| place.write(name, content(4, 600_000)));
    let origin = place.serve();
    fs::remove_file(place.at("b")).unwrap();
    let got = read(&origin, &["a", "b", "c"]).await;
    let ends: Vec<_> = got.iter().map(|(_, bytes, end)| (bytes.len(), end.clone())).collect();
    assert_eq!(ends, [(600_000, Ok(())), (0, CHANGED), (600_000, Ok(()))]);
}

#[tokio::test]
async fn a_removed_tree_has_only_changed_files() {
    let place = Place::new();
    (0..5).for_each(|i| place.write(&format!("{i}"), content(i, 300_000)));
    let origin = place.serve();
    fs::remove_dir_all(place.tree.path()).unwrap();
    let got = read(&origin, &["0", "1", "2", "3", "4"]).await;
    assert!(got.iter().all(|(_, bytes, end)| bytes.is_empty() && *end == CHANGED));
    fs::create_dir(place.tree.path()).unwrap();
}

#[tokio::test]
async fn a_file_that_grew_from_nothing_is_changed() {
    let place = Place::new();
    place.write("empty", "");
    let origin = place.serve();
    assert_eq!(read_one(&origin, "empty").await, Ok(vec![]));
    place.write("empty", "x");
    assert_eq!(read_one(&origin, "empty").await, Err(FileFault::Changed));
}

#[tokio::test]
async fn a_damaged_snapshot_is_not_opened() {
    let place = Place::new();
    place.write("f", "x");
    drop(place.serve());
    let damage = |name: &str, bytes: &[u8]| {
        let path = place.snapshot.path().join(name);
        let before = fs::read(&path).unwrap();
        fs::write(&path, bytes).unwrap();
        let result = LocalOrigin::open(place.snapshot.path(), ReadPool::default());
        fs::write(&path, before).unwrap();
        result.map(|_| ())
    };
    assert!(matches!(damage(MANIFEST_FILE, b"x"), Err(LocalOriginError::Manifest(_))));
    assert!(matches!(damage(STAMPS_FILE, b"x"), Err(LocalOriginError::Stamps(_))));
    assert!(matches!(damage(DIGESTS_FILE, b"x"), Err(LocalOriginError::Digests(_))));
    place.open();
}

#[test]
fn an_ordinary_user_serves_what_may_be_read() {
    const NAME: &str = "origin::local::tests::an_ordinary_user_serves_what_may_be_read";
    ordinary_user::run(NAME, || {
        let place = Place::new();
        place.write("open/f", "x");
        place.write("secret", "x");
        let chmod = |path: &str, mode| fs::set_permissions(place.at(path), fs::Permissions::from_mode(mode));
        chmod("open/f", 0o444).unwrap();
        chmod("open", 0o555).unwrap();
        chmod("secret", 0o000).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let origin = place.serve();
            assert_eq!(read_one(&origin, "open/f").await, Ok(b"x".to_vec()));
            assert!(matches!(read_one(&origin, "secret").await, Err(FileFault::Unreadable(_))));
        });
        // Of a file that is another's the kernel does not say who writes to it.
        assert_eq!(crate::origin::lease::has_writer(&File::open("/etc/passwd").unwrap()), None);
        chmod("open", 0o755).unwrap();
    });
}

/// Descriptors of this process that lead into a tree.
fn open_descriptors(place: &Place) -> usize {
    let own = fs::read_dir("/proc/self/fd").unwrap().filter_map(|fd| fs::read_link(fd.ok()?.path()).ok());
    own.filter(|target| target.starts_with(place.tree.path())).count()
}

async fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(30);
    while !condition() {
        assert!(tokio::time::Instant::now() < deadline, "never: {what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_nobody_takes_hold_no_thread_and_end_when_dropped() {
    let place = Place::new();
    (0..3).for_each(|i| place.write(&format!("{i}"), content(i, 8 << 20)));
    let origin = place.serve();
    let files: Vec<_> = (0..3).map(|i| index(&origin, &i.to_string())).collect();
    let mut stuck: Vec<_> = (0..40).map(|_| origin.read_files(files.clone(), Class::Bulk)).collect();
    for deliveries in &mut stuck {
        assert!(matches!(deliveries.recv().await, Some(Ok(Delivery::Run(_)))));
    }
    assert_eq!(read_one(&origin, "2").await.unwrap().len(), 8 << 20);
    assert!(open_descriptors(&place) > 0);
    drop(stuck);
    until("all files are closed", || open_descriptors(&place) == 0).await;
}

#[tokio::test]
async fn a_tree_may_be_deeper_than_any_path() {
    let place = Place::new();
    let mut at = File::open(place.tree.path()).unwrap();
    let name = "d".repeat(250);
    for _ in 0..40 {
        rustix::fs::mkdirat(&at, &name, Mode::RWXU).unwrap();
        let flags = rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::DIRECTORY;
        at = rustix::fs::openat(&at, &name, flags, Mode::empty()).unwrap().into();
    }
    let flags = rustix::fs::OFlags::WRONLY | rustix::fs::OFlags::CREATE;
    let file: File = rustix::fs::openat(&at, "f", flags, Mode::RUSR | Mode::WUSR).unwrap().into();
    file.write_all_at(b"deep", 0).unwrap();
    drop(file);
    let origin = place.serve();
    let file = origin.manifest().iter().find(|entry| entry.kind() == Kind::File).unwrap().index();
    let got = take(&origin, origin.read_files(vec![file], Class::Demand)).await;
    assert_eq!(got, [(file, b"deep".to_vec(), Ok(()))]);
}
