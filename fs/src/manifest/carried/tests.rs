//! What is carried, on real directories, and what nobody can claim to be.

use std::fs::{self, File};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;

use rustix::fs::{CWD, XattrFlags};

use super::*;
use crate::manifest::walk::{WalkOptions, WalkProgress, build};

/// A tree, and the directories of its snapshots.
pub(in crate::manifest) struct Place {
    base: tempfile::TempDir,
}

impl Place {
    pub(in crate::manifest) fn new() -> Self {
        let base = tempfile::tempdir().unwrap();
        fs::create_dir(base.path().join("w")).unwrap();
        Self { base }
    }

    pub(in crate::manifest) fn at(&self, path: impl AsRef<Path>) -> PathBuf {
        self.base.path().join("w").join(path)
    }

    pub(in crate::manifest) fn write(&self, path: &str, content: &str) {
        fs::create_dir_all(self.at(path).parent().unwrap()).unwrap();
        fs::write(self.at(path), content).unwrap();
    }

    /// Takes a snapshot of the tree, with the directories beside it that are named as companions.
    pub(in crate::manifest) fn snapshot(&self, name: &str, companions: &[&str]) -> PathBuf {
        let directory = self.base.path().join(name);
        fs::create_dir(&directory).unwrap();
        let mut roots = vec![self.at("")];
        roots.extend(companions.iter().map(|name| self.base.path().join(name)));
        roots[1..].iter().for_each(|root| fs::create_dir_all(root).unwrap());
        let (cancel, progress) = (AtomicBool::new(false), WalkProgress::default());
        let options = WalkOptions { threads: 2, exclude: &[], cancel: &cancel, progress: &progress };
        build(&directory, &roots, &options).unwrap();
        directory
    }
}

fn paths(snapshot: &Path, indices: impl Iterator<Item = EntryIndex>) -> Vec<String> {
    let manifest = Manifest::open(&snapshot.join(MANIFEST_FILE)).unwrap();
    let path = |index| String::from_utf8(manifest.locate(index).unwrap().1.as_bytes().to_vec()).unwrap();
    indices.map(path).collect()
}

/// What is not carried of a small tree after `change`, in the new snapshot; checks both directions of what is.
#[track_caller]
fn check(change: impl FnOnce(&Place), expected: &[&str]) {
    let place = Place::new();
    for path in ["a/x", "a/y", "b/c/z", "b/w", "t"] {
        place.write(path, "content");
    }
    fs::hard_link(place.at("a/x"), place.at("b/x2")).unwrap();
    symlink("t", place.at("s")).unwrap();
    let old = place.snapshot("old", &[]);
    change(&place);
    let new = place.snapshot("new", &[]);
    let carried = Carried::between(&old, &new).unwrap();
    let entries = Manifest::open(&new.join(MANIFEST_FILE)).unwrap().entries();
    let others = (1..entries).map(EntryIndex).filter(|index| carried.old_of(*index).is_none());
    assert_eq!(paths(&new, others), expected);
    let runs = carried.runs().iter();
    let pairs =
        runs.flat_map(|run| (0..run.len).map(|at| (EntryIndex(run.new.0 + at), EntryIndex(run.old.0 + at))));
    let (news, olds): (Vec<_>, Vec<_>) = pairs.unzip();
    assert_eq!(paths(&new, news.iter().copied()), paths(&old, olds.iter().copied()));
    assert_eq!(carried.entries() as usize, news.len());
    for (new, old) in news.into_iter().zip(olds) {
        assert_eq!((carried.old_of(new), carried.new_of(old)), (Some(old), Some(new)));
    }
}

#[test]
fn what_nothing_happened_to_is_carried() {
    check(|_| {}, &[]);
    // Another content that looks the same.
    let rewrite = |place: &Place| {
        let times = fs::metadata(place.at("b/c/z")).unwrap();
        let times = fs::FileTimes::new().set_modified(times.modified().unwrap());
        crate::clock::wait_for_step(crate::origin::stamps::Stamp::of(&stat(&place.at("b/c/z"))).ctime);
        place.write("b/c/z", "CONTENT");
        File::options().write(true).open(place.at("b/c/z")).unwrap().set_times(times).unwrap();
    };
    check(rewrite, &["b/c/z"]);
    check(|place| place.write("b/w", "more content"), &["b/w"]);
    check(|place| place.write("b/new", "content"), &["b", "b/new"]);
    check(|place| fs::remove_file(place.at("t")).unwrap(), &[]);
    // In manifest order, B/x2 comes to be the first name of its inode.
    let renamed = ["B", "B/c", "B/w", "B/x2", "a/x", "B/c/z"];
    check(|place| fs::rename(place.at("b"), place.at("B")).unwrap(), &renamed);
    check(|place| fs::rename(place.at("a/y"), place.at("t")).unwrap(), &["a", "t"]);
    check(|place| fs::set_permissions(place.at("t"), PermissionsExt::from_mode(0o700)).unwrap(), &["t"]);
    // A further name of an inode concerns them all.
    check(|place| fs::hard_link(place.at("a/x"), place.at("b/x3")).unwrap(), &["b", "a/x", "b/x2", "b/x3"]);
    check(|place| fs::remove_file(place.at("a/x")).unwrap(), &["a", "b/x2"]);
    let replaced = |place: &Place| {
        fs::remove_file(place.at("s")).unwrap();
        symlink("t", place.at("s")).unwrap();
    };
    check(replaced, &["s"]);
    let becomes_directory = |place: &Place| {
        fs::remove_file(place.at("t")).unwrap();
        place.write("t/inside", "content");
    };
    check(becomes_directory, &["t", "t/inside"]);
    let attribute = |place: &Place| {
        rustix::fs::lsetxattr(place.at("t"), "user.test", b"1", XattrFlags::CREATE).unwrap();
    };
    check(attribute, &["t"]);
}

fn stat(path: &Path) -> rustix::fs::Statx {
    let flags = rustix::fs::AtFlags::SYMLINK_NOFOLLOW;
    rustix::fs::statx(CWD, path, flags, rustix::fs::StatxFlags::BASIC_STATS).unwrap()
}

#[test]
fn nothing_is_carried_to_other_roots() {
    let place = Place::new();
    place.write("a/b", "content");
    let first = place.snapshot("1", &["c", "d"]);
    let carried = |name, companions: &[&str]| {
        Carried::between(&first, &place.snapshot(name, companions)).unwrap().entries()
    };
    assert_eq!(carried("2", &["c", "d"]), 2);
    assert_eq!(carried("3", &["d", "c"]), 0);
    assert_eq!(carried("4", &["c"]), 0);
    assert!(matches!(Carried::between(&first, &place.base.path().join("none")), Err(ManifestError::Disk(_))));
}

#[track_caller]
fn check_claim(runs: &[(u32, u32, u32)], expected: Option<&[(u32, u32, u32)]>) {
    let claimed =
        runs.iter().map(|run| CarriedRun { new: EntryIndex(run.0), old: EntryIndex(run.1), len: run.2 });
    let taken = Carried::new(claimed, 10, 20).ok();
    let found: Option<Vec<_>> =
        taken.map(|carried| carried.runs.iter().map(|run| (run.new.0, run.old.0, run.len)).collect());
    assert_eq!(found.as_deref(), expected, "{runs:?}");
}

#[test]
fn claims_are_checked() {
    check_claim(&[], Some(&[]));
    check_claim(&[(0, 10, 10)], Some(&[(0, 10, 10)]));
    check_claim(&[(0, 0, 2), (2, 2, 3), (5, 6, 1)], Some(&[(0, 0, 5), (5, 6, 1)]));
    check_claim(&[(0, 0, 0)], None);
    check_claim(&[(0, 0, 11)], None);
    check_claim(&[(0, 11, 10)], None);
    check_claim(&[(0, 0, 2), (1, 5, 1)], None);
    check_claim(&[(0, 0, 2), (5, 1, 1)], None);
    check_claim(&[(5, 5, 1), (1, 7, 1)], None);
    check_claim(&[(5, 5, 1), (7, 1, 1)], None);
    check_claim(&[(u32::MAX, 0, 1)], None);
    check_claim(&[(0, u32::MAX, 2)], None);
}
