//! What a delta promises: the same bytes as the whole manifest, and nothing carried that changed.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::{FileExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use proptest::prelude::*;
use rustix::fs::XattrFlags;

use super::*;
use crate::manifest::carried::tests::Place;
use crate::manifest::walk::MANIFEST_FILE;

fn open(snapshot: &Path) -> Manifest {
    Manifest::open(&snapshot.join(MANIFEST_FILE)).unwrap()
}

fn frames(old: &Path, new: &Path) -> Vec<DeltaFrame> {
    let carried = Carried::between(old, new).unwrap();
    DeltaFrames::new(open(old).snapshot(), &open(new), carried).collect()
}

/// Sends the manifest of `new` to somebody who has that of `old`; checks that it arrives as it is. Returns what is
/// carried and the bytes on the wire.
fn send(old: &Path, new: &Path) -> (Carried, usize) {
    let (base, sent) = (open(old), open(new));
    let frames: Vec<_> = frames(old, new).iter().map(|frame| encode(frame).unwrap()).collect();
    let path = new.join("received");
    let mut receiver = DeltaReceiver::new(&path, base, sent.snapshot(), &frames[0]).unwrap();
    for (at, frame) in frames.iter().enumerate().skip(1) {
        assert_eq!(receiver.accept(frame).unwrap(), at + 1 == frames.len());
    }
    let (received, carried) = receiver.finish();
    assert_eq!(received.snapshot(), sent.snapshot());
    assert!(
        fs::read(&path).unwrap() == fs::read(sent.path()).unwrap(),
        "other bytes than the whole manifest"
    );
    assert_eq!(carried, Carried::between(old, new).unwrap());
    (carried, frames.iter().map(Vec::len).sum())
}

/// One change somewhere in a tree of a few names. What cannot be done is not done.
#[derive(Clone, Debug)]
enum Change {
    Write(PathBuf, u8),
    /// Other bytes that look the same.
    Replace(PathBuf, u8),
    Sparse(PathBuf),
    Directory(PathBuf),
    Remove(PathBuf),
    Rename(PathBuf, PathBuf),
    HardLink(PathBuf, PathBuf),
    Symlink(PathBuf, u8),
    Xattr(PathBuf, u8),
    Mode(PathBuf, bool),
    GitConfig(PathBuf, u8),
    Socket(PathBuf),
}

fn path() -> impl Strategy<Value = PathBuf> {
    let name = prop_oneof![Just("a"), Just("b"), Just("c"), Just(".git")];
    prop::collection::vec(name, 1..4).prop_map(|names| names.iter().collect())
}

fn change() -> impl Strategy<Value = Change> {
    prop_oneof![
        4 => (path(), any::<u8>()).prop_map(|(path, byte)| Change::Write(path, byte)),
        2 => (path(), any::<u8>()).prop_map(|(path, byte)| Change::Replace(path, byte)),
        1 => path().prop_map(Change::Sparse),
        4 => path().prop_map(Change::Directory),
        2 => path().prop_map(Change::Remove),
        2 => (path(), path()).prop_map(|(from, to)| Change::Rename(from, to)),
        3 => (path(), path()).prop_map(|(from, to)| Change::HardLink(from, to)),
        1 => (path(), 1..9u8).prop_map(|(path, length)| Change::Symlink(path, length)),
        1 => (path(), any::<u8>()).prop_map(|(path, byte)| Change::Xattr(path, byte)),
        1 => (path(), any::<bool>()).prop_map(|(path, executable)| Change::Mode(path, executable)),
        1 => (path(), any::<u8>()).prop_map(|(path, byte)| Change::GitConfig(path, byte)),
        1 => path().prop_map(Change::Socket),
    ]
}

fn make(place: &Place, change: &Change) -> std::io::Result<()> {
    match change {
        Change::Write(path, byte) => fs::write(place.at(path), vec![*byte; 1 + usize::from(byte % 7)]),
        Change::Replace(path, byte) => {
            let times = fs::FileTimes::new().set_modified(fs::metadata(place.at(path))?.modified()?);
            let file = File::options().write(true).open(place.at(path))?;
            let length = file.metadata()?.len() as usize;
            file.write_all_at(&vec![*byte; length.min(100)], 0)?;
            file.set_times(times)
        }
        Change::Sparse(path) => {
            let file = File::create(place.at(path))?;
            file.set_len(1 << 20)?;
            file.write_all_at(b"middle", 300_000)
        }
        Change::Directory(path) => fs::create_dir(place.at(path)),
        Change::Remove(path) => {
            fs::remove_file(place.at(path)).or_else(|_| fs::remove_dir_all(place.at(path)))
        }
        Change::Rename(from, to) => fs::rename(place.at(from), place.at(to)),
        Change::HardLink(from, to) => fs::hard_link(place.at(from), place.at(to)),
        Change::Symlink(path, length) => symlink("t".repeat((*length).into()), place.at(path)),
        Change::Xattr(path, byte) => {
            Ok(rustix::fs::lsetxattr(place.at(path), "user.test", &[*byte], XattrFlags::empty())?)
        }
        Change::Mode(path, executable) => {
            let mode = if *executable { 0o755 } else { 0o640 };
            fs::set_permissions(place.at(path), PermissionsExt::from_mode(mode))
        }
        Change::GitConfig(path, byte) => {
            fs::write(place.at(path.join("config")), format!("[core]\n\tbare = {byte}\n"))
        }
        Change::Socket(path) => std::os::unix::net::UnixListener::bind(place.at(path)).map(drop),
    }
}

/// What all files of a tree hold, by path.
fn contents(place: &Place, snapshot: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let manifest = open(snapshot);
    let files = manifest.iter().filter(|entry| entry.kind() == Kind::File);
    let paths = files.map(|file| path_of(&manifest, file.index()));
    paths.map(|path| (path.clone(), fs::read(place.at(&path)).unwrap())).collect()
}

fn path_of(manifest: &Manifest, index: EntryIndex) -> PathBuf {
    use std::os::unix::ffi::OsStrExt;
    std::ffi::OsStr::from_bytes(manifest.locate(index).unwrap().1.as_bytes()).into()
}

/// No change after this can leave a file with the times it has now.
fn wait_for_step(place: &Place) {
    let now = rustix::fs::statx(
        rustix::fs::CWD,
        place.at(""),
        rustix::fs::AtFlags::empty(),
        rustix::fs::StatxFlags::BASIC_STATS,
    );
    crate::clock::wait_for_step(crate::origin::stamps::Stamp::of(&now.unwrap()).ctime);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn what_arrives_is_the_whole_manifest(
        first in prop::collection::vec(change(), 0..40),
        further in prop::collection::vec(prop::collection::vec(change(), 0..6), 1..4),
    ) {
        let place = Place::new();
        let mut taken: Option<(PathBuf, BTreeMap<PathBuf, Vec<u8>>)> = None;
        for (at, changes) in [first].into_iter().chain(further).enumerate() {
            // Not all of them can be done.
            let _ = changes.iter().map(|change| make(&place, change)).filter(Result::is_ok).count();
            fs::write(place.at("clock"), at.to_string()).unwrap();
            wait_for_step(&place);
            let snapshot = place.snapshot(&at.to_string(), &[]);
            let now = contents(&place, &snapshot);
            if let Some((before, then)) = taken {
                let (carried, _) = send(&before, &snapshot);
                let (old, new) = (open(&before), open(&snapshot));
                for run in carried.runs() {
                    for at in 0..run.len {
                        let path = path_of(&new, EntryIndex(run.new.0 + at));
                        prop_assert_eq!(&path, &path_of(&old, EntryIndex(run.old.0 + at)));
                        prop_assert_eq!(now.get(&path), then.get(&path), "{:?} has changed", path);
                    }
                }
            }
            taken = Some((snapshot, now));
        }
    }
}

#[test]
fn a_change_in_a_large_tree_takes_few_bytes() {
    let place = Place::new();
    for directory in 0..40 {
        for file in 0..250 {
            place.write(&format!("d{directory}/f{file}"), "");
        }
    }
    fs::create_dir(place.at("d7/empty")).unwrap();
    let old = place.snapshot("old", &[]);
    place.write("d20/f100", "now it has content");
    let new = place.snapshot("new", &[]);
    let (carried, bytes) = send(&old, &new);
    assert_eq!((carried.entries(), carried.runs().len()), (40 + 40 * 250, 2));
    assert!(bytes < 400, "{bytes} bytes");
    // Without anything in common it is all of it, in several frames.
    let nothing = DeltaFrames::new(open(&old).snapshot(), &open(&new), Carried::default());
    assert_eq!(nothing.count(), 1 + 3 + 1);
}

#[test]
fn companions_and_what_is_left_out_travel() {
    let place = Place::new();
    let write = |path: &str| place.write(path, "content");
    ["a/b", "../c/x", "../d/e/y"].into_iter().for_each(write);
    let old = place.snapshot("old", &["c", "d"]);
    write("../d/e/z");
    std::os::unix::net::UnixListener::bind(place.at("../c/socket")).map(drop).unwrap();
    let new = place.snapshot("new", &["c", "d"]);
    let (carried, _) = send(&old, &new);
    assert_eq!(open(&new).left_out().total, 1);
    assert_eq!(carried.entries(), 4);
    // Other roots: all of it, and nothing of the old one.
    let other = place.snapshot("other", &["c"]);
    assert_eq!(send(&new, &other).0, Carried::default());
}

/// What becomes of an honest stream after `change`.
#[track_caller]
fn check_refused(change: impl FnOnce(&mut Vec<DeltaFrame>), expected: &str) {
    let place = Place::new();
    ["a/x", "b/y", "b/z", "t"].into_iter().for_each(|path| place.write(path, "content"));
    fs::hard_link(place.at("a/x"), place.at("b/x2")).unwrap();
    let old = place.snapshot("old", &[]);
    place.write("b/y", "other content");
    let new = place.snapshot("new", &[]);
    let mut frames = frames(&old, &new);
    change(&mut frames);
    let (base, path) = (open(&old), new.join("received"));
    let mut frames = frames.iter().map(|frame| encode(frame).unwrap());
    let receive = || {
        let first = frames.next().unwrap();
        let mut receiver = DeltaReceiver::new(&path, base, open(&new).snapshot(), &first)?;
        frames.try_for_each(|frame| receiver.accept(&frame).map(drop))
    };
    let error = { receive }().unwrap_err().to_string();
    assert!(error.contains(expected), "{error}, not: {expected}");
    assert!(!path.exists());
}

/// Changes the items of the one frame of entries: a, b, t (copied), a/x, b/x2 (copied), b/y (full), b/z (copied).
fn items(change: impl FnOnce(&mut Vec<DeltaItem>)) -> impl FnOnce(&mut Vec<DeltaFrame>) {
    |frames| match &mut frames[1] {
        DeltaFrame::Entries(items) => {
            assert_eq!(items.len(), 3, "{items:?}");
            change(items);
        }
        other => panic!("{other:?}"),
    }
}

fn head(change: impl FnOnce(&mut DeltaHead)) -> impl FnOnce(&mut Vec<DeltaFrame>) {
    |frames| match &mut frames[0] {
        DeltaFrame::Head(head) => change(head),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_stream_that_lies_is_refused() {
    let copied = |old, len| DeltaItem::Copied { old: EntryIndex(old), len };
    let other = SnapshotId(crate::digest::Digest([1; 32]));
    check_refused(head(|head| head.base = other), "of another snapshot");
    check_refused(head(|head| head.head.snapshot = other), "another snapshot");
    check_refused(head(|head| head.children = vec![]), "how many entries each root");
    check_refused(head(|head| head.children = vec![2]), "invalid");
    check_refused(head(|head| head.children = vec![u32::MAX]), "invalid");
    check_refused(|frames| frames.swap(0, 1), "not a head");
    check_refused(|frames| frames[1] = frames[0].clone(), "second head");
    check_refused(|frames| frames[1] = DeltaFrame::Entries(vec![]), "adds nothing");
    check_refused(|frames| _ = frames.remove(1), "before every directory was listed");
    check_refused(items(|items| items[0] = copied(0, 6)), "invalid");
    check_refused(items(|items| items[0] = copied(1, 0)), "empty");
    check_refused(items(|items| items[0] = copied(1, 8)), "the earlier manifest lacks");
    check_refused(items(|items| items[2] = copied(u32::MAX, 1)), "the earlier manifest lacks");
    check_refused(items(|items| items[2] = copied(1, 1)), "overlap");
    check_refused(items(|items| items[2] = copied(6, 1)), "not sorted");
    check_refused(items(|items| items[1] = copied(6, 1)), "as large as announced");
    check_refused(items(|items| items.push(copied(7, 1))), "invalid");
    check_refused(items(|items| _ = items.pop()), "before every directory was listed");
    let lists = items(|items| match &mut items[1] {
        DeltaItem::Full { children, .. } => *children = 1,
        DeltaItem::Copied { .. } => panic!("it is copied"),
    });
    check_refused(lists, "no directory");
    // The first name of an inode in full, the further one copied.
    let split = |items: &mut Vec<DeltaItem>| {
        let DeltaItem::Full { entry, .. } = &items[1] else { panic!("it is copied") };
        let first = DeltaItem::Full {
            entry: Box::new(WireEntry { name: b"x".into(), ..*entry.clone() }),
            children: 0,
        };
        items.splice(0..1, [copied(1, 3), first, copied(5, 1)]);
    };
    check_refused(items(split), "a further name is copied");
}

#[test]
fn any_bytes_are_a_frame_or_an_error() {
    for bytes in [&b""[..], b"\0", &[0xff; 100], &frame::pack(&vec![7u8; 100]).unwrap()] {
        assert!(decode(bytes).is_err());
    }
}
