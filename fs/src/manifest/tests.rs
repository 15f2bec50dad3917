//! What a manifest promises: the same bytes at both ends, readable while it arrives, and no entry that breaks a rule.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::frame::{Frame, Frames, Part, WireEntry};
use super::*;
use crate::digest::BlockIndex;

/// A directory tree with a tiny alphabet of names, so that collisions and neighbours are common.
#[derive(Clone, Debug)]
enum Node {
    File(u64, i64),
    Link(Vec<u8>),
    Directory(BTreeMap<Vec<u8>, Node>),
}

fn node() -> impl Strategy<Value = Node> {
    let leaf = prop_oneof![
        (0..1u64 << 40, any::<i64>()).prop_map(|(size, sec)| Node::File(size, sec)),
        prop::collection::vec(1..255u8, 1..20).prop_map(Node::Link),
    ];
    let name = prop::collection::vec(prop_oneof![Just(b'a'), Just(0xff), Just(b'\n')], 1..4);
    leaf.prop_recursive(5, 200, 8, move |inner| {
        prop::collection::btree_map(name.clone(), inner, 0..8).prop_map(Node::Directory)
    })
}

fn entry(name: &[u8], node: &Node) -> NewEntry {
    let (kind, size, sec, target) = match node {
        Node::File(size, sec) => (Kind::File, *size, *sec, vec![]),
        Node::Link(target) => (Kind::Symlink, 0, -1, target.clone()),
        Node::Directory(_) => (Kind::Directory, 0, 5, vec![]),
    };
    NewEntry {
        name: name.try_into().unwrap(),
        kind,
        mode: 0o755,
        size,
        mtime: Mtime { sec, nsec: 999_999_999 },
        link: None,
        flags: Flags::default(),
        extra: Extra { target, ..Extra::default() },
    }
}

fn meta() -> Meta {
    Meta { roots: vec![b"/home/a/w".to_vec()] }
}

fn build(path: &Path, top: &BTreeMap<Vec<u8>, Node>) -> Manifest {
    let root = Node::Directory(top.clone());
    let mut builder = Builder::new(path, &meta(), vec![entry(b"ignored", &root)]).unwrap();
    let mut nodes = BTreeMap::from([(0, &root)]);
    while let Some(directory) = builder.next_directory().unwrap() {
        let Node::Directory(children) = nodes[&directory.0] else { panic!("not a directory") };
        let range =
            builder.list(children.iter().rev().map(|(name, node)| entry(name, node)).collect()).unwrap();
        nodes.extend(range.zip(children.values()));
    }
    builder.finish(&LeftOutList::default(), Digest([0; 32])).unwrap()
}

/// A small tree whose stream has several frames.
pub(super) fn sample(path: &Path) -> Manifest {
    let files: BTreeMap<_, _> =
        (0..5000u32).map(|n| (n.to_string().into_bytes(), Node::File(n.into(), 1))).collect();
    let top = BTreeMap::from([(b"a".to_vec(), Node::Directory(files)), (b"b".to_vec(), Node::File(1, 2))]);
    build(path, &top)
}

fn encoded(manifest: &Manifest) -> Vec<Vec<u8>> {
    Frames::new(manifest).map(|frame| frame::encode(&frame).unwrap()).collect()
}

fn compare(manifest: &Manifest, directory: EntryIndex, children: &BTreeMap<Vec<u8>, Node>) {
    let Listing::Known(range) = manifest.children(directory) else { panic!("not listed") };
    assert_eq!(range.len(), children.len());
    for (index, (name, node)) in range.zip(children) {
        let found = manifest.lookup(directory, name).unwrap().unwrap();
        assert_eq!((found.index().0, found.name()), (index, name.as_slice()));
        assert_eq!(found.parent(), directory);
        match node {
            Node::File(size, sec) => assert_eq!((found.size(), found.mtime().sec), (*size, *sec)),
            Node::Link(target) => assert_eq!(&found.extra().target, target),
            Node::Directory(children) => compare(manifest, found.index(), children),
        }
    }
}

proptest! {
    #[test]
    fn a_received_manifest_equals_the_sent_one(top in node()) {
        let Node::Directory(top) = top else { return Ok(()) };
        let directory = tempfile::tempdir().unwrap();
        let sent = build(&directory.path().join("a"), &top);
        compare(&sent, EntryIndex(0), &top);
        let frames = encoded(&sent);
        let mut receiver = Receiver::new(&directory.path().join("b"), sent.snapshot(), &frames[0]).unwrap();
        let last = frames.len() - 1;
        for (at, frame) in frames.iter().enumerate().skip(1) {
            prop_assert_eq!(receiver.accept(frame).unwrap(), at == last);
            if at == 1 {
                // The root answers as soon as its own frame is in.
                prop_assert!(receiver.manifest().children(EntryIndex(0)) != Listing::NotYet);
            }
        }
        let received = receiver.manifest();
        prop_assert_eq!(received.snapshot(), sent.snapshot());
        compare(&received, EntryIndex(0), &top);
        drop(receiver);
        compare(&received, EntryIndex(0), &top);
        let read = |name| std::fs::read(directory.path().join(name)).unwrap();
        prop_assert!(read("a") == read("b"));
        compare(&Manifest::open(&directory.path().join("b")).unwrap(), EntryIndex(0), &top);
    }

    #[test]
    fn any_bytes_are_a_frame_or_an_error(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let _ = frame::decode(&bytes);
        let _ = frame::decode(&zstd::bulk::compress(&bytes, 1).unwrap());
    }

    #[test]
    fn a_damaged_stream_never_completes(top in node(), at in any::<prop::sample::Index>(), bit in 0..8u32) {
        let Node::Directory(top) = top else { return Ok(()) };
        let directory = tempfile::tempdir().unwrap();
        let sent = build(&directory.path().join("a"), &top);
        let mut frames: Vec<_> = Frames::new(&sent).map(|f| postcard::to_stdvec(&f).unwrap()).collect();
        let total: usize = frames.iter().map(Vec::len).sum();
        let mut at = at.index(total);
        let frame = frames.iter_mut().find(|frame| { let hit = at < frame.len(); if !hit { at -= frame.len() } hit }).unwrap();
        frame[at] ^= 1 << bit;
        let frames: Vec<_> = frames.iter().map(|raw| zstd::bulk::compress(raw, 1).unwrap()).collect();
        let Ok(mut receiver) = Receiver::new(&directory.path().join("b"), sent.snapshot(), &frames[0]) else { return Ok(()) };
        let complete = frames[1..].iter().try_fold(false, |_, frame| receiver.accept(frame));
        prop_assert!(!matches!(complete, Ok(true)), "a flipped bit went unnoticed");
        let failed = matches!(*receiver.manifest().arrival().borrow(), Arrival::Failed(_));
        prop_assert!(failed);
    }
}

fn wire(name: &[u8], kind: Kind) -> WireEntry {
    WireEntry {
        name: name.into(),
        kind,
        mode: 0o644,
        size: 0,
        mtime: Mtime::default(),
        nlink: if kind == Kind::Directory { 2 } else { 1 },
        link: None,
        flags: 0,
        extra: None,
    }
}

fn head() -> frame::Head {
    frame::Head {
        snapshot: SnapshotId(Digest([1; 32])),
        entries: 10,
        heap_bytes: 1000,
        left_out_bytes: 2,
        blocks: 0,
        file_bytes: 0,
        versions: Digest([0; 32]),
        meta: meta(),
        roots: vec![wire(b"", Kind::Directory)],
    }
}

/// Sends frames of parts and expects the first fault, which must be in the last frame, to be `expected`.
#[track_caller]
fn check_parts_refused(head: frame::Head, frames: Vec<Vec<Part>>, expected: &str) {
    let directory = tempfile::tempdir().unwrap();
    let encode = |frame| frame::encode(&frame).unwrap();
    let (path, snapshot) = (directory.path().join("m"), head.snapshot);
    let mut receiver = Receiver::new(&path, snapshot, &encode(Frame::Head(head))).unwrap();
    let last = frames.len() - 1;
    for (at, parts) in frames.into_iter().enumerate() {
        let accepted = receiver.accept(&encode(Frame::Entries(parts)));
        if at < last {
            accepted.unwrap();
            continue;
        }
        let error = accepted.unwrap_err();
        assert!(error.to_string().contains(expected), "{error} is not about: {expected}");
    }
    assert!(receiver.manifest().entry(EntryIndex(0)).is_none(), "a failed manifest still answers");
    drop(receiver);
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0, "something is left");
}

/// Sends one listing of the root.
#[track_caller]
fn check_refused(entries: Vec<WireEntry>, expected: &str) {
    let subdirectories = entries.iter().filter(|entry| entry.kind == Kind::Directory).count() as u32;
    let root = WireEntry { nlink: 2 + subdirectories, ..wire(b"", Kind::Directory) };
    let head = frame::Head { roots: vec![root], ..head() };
    check_parts_refused(head, vec![vec![Part { entries, last: true }]], expected);
}

#[test]
fn hostile_heads_are_refused() {
    let check = |head: frame::Head, expected: &str| {
        let directory = tempfile::tempdir().unwrap();
        let (path, snapshot) = (directory.path().join("m"), SnapshotId(Digest([1; 32])));
        std::fs::write(&path, "before").unwrap();
        let frame = frame::encode(&Frame::Head(head)).unwrap();
        let error = Receiver::new(&path, snapshot, &frame).err().unwrap();
        assert!(error.to_string().contains(expected), "{error} is not about: {expected}");
        assert_eq!(std::fs::read(path).unwrap(), b"before");
    };
    check(frame::Head { snapshot: SnapshotId(Digest([2; 32])), ..head() }, "another snapshot");
    check(frame::Head { entries: ENTRIES_MAX + 1, ..head() }, "more entries");
    check(frame::Head { heap_bytes: 1 << 32, ..head() }, "more entries");
    check(frame::Head { roots: vec![], ..head() }, "between one and 64");
    check(frame::Head { roots: vec![wire(b"", Kind::File)], ..head() }, "not a directory");
    check(frame::Head { roots: vec![wire(b"x", Kind::Directory)], ..head() }, "without a name");
    let roots = |paths: &[&str]| frame::Head {
        meta: Meta { roots: paths.iter().map(|path| path.as_bytes().to_vec()).collect() },
        roots: vec![wire(b"", Kind::Directory); paths.len()],
        ..head()
    };
    for path in ["", "a/b", "/a/../b", "/a//b", "/a/", "/./a", "/a\0b", &format!("/{}", "a/".repeat(2048))] {
        check(roots(&["/w", path]), "not normal");
    }
    check(roots(&["/w", "/c", "/w"]), "one path");
    check(roots(&["/w"; 65]), "between one and 64");
    let root = WireEntry { nlink: 0, ..wire(b"", Kind::Directory) };
    check(frame::Head { roots: vec![root], ..head() }, "links");
}

#[test]
fn frames_that_add_nothing_are_refused() {
    let empty = || Part { entries: vec![], last: false };
    let file = |name: &[u8]| Part { entries: vec![wire(name, Kind::File)], last: false };
    check_parts_refused(head(), vec![vec![]], "adds nothing");
    check_parts_refused(
        head(),
        vec![vec![empty(), file(b"a")], vec![file(b"b")], vec![empty()]],
        "adds nothing",
    );
}

#[test]
fn directories_have_a_bounded_depth_and_the_links_they_claim() {
    let directory = |name: &[u8], nlink| WireEntry { nlink, ..wire(name, Kind::Directory) };
    let deep =
        frame::Head { entries: 2 * DEPTH_MAX, heap_bytes: 1 << 20, roots: vec![directory(b"", 3)], ..head() };
    let part = || Part { entries: vec![directory(b"d", 3)], last: true };
    let frames = vec![(0..DEPTH_MAX).map(|_| part()).collect(), vec![part()]];
    check_parts_refused(deep, frames, "too deep");
    let wrong = |claimed, entries| {
        let head = frame::Head { roots: vec![directory(b"", claimed)], ..head() };
        check_parts_refused(head, vec![vec![Part { entries, last: true }]], "wrong number of links");
    };
    wrong(3, vec![wire(b"f", Kind::File)]);
    wrong(2, vec![directory(b"d", 2)]);
    wrong(u32::MAX, vec![]);
}

#[test]
fn hostile_entries_are_refused() {
    let file = |name: &[u8]| wire(name, Kind::File);
    let with = |extra| WireEntry { extra: Some(Box::new(extra)), size: 100, ..file(b"a") };
    check_refused(vec![file(b"..")], "`..`");
    check_refused(vec![file(b"a/b")], "`/`");
    check_refused(vec![file(b"")], "empty");
    check_refused(vec![file(b"b"), file(b"a")], "sorted");
    check_refused(vec![file(b"a"), file(b"a")], "twice");
    check_refused(vec![WireEntry { mode: 0o4755, ..file(b"a") }], "mode bits");
    check_refused(vec![WireEntry { size: u64::MAX, ..file(b"a") }], "larger than");
    check_refused(vec![WireEntry { link: Some(EntryIndex(7)), ..file(b"a") }], "hard link");
    check_refused(vec![WireEntry { link: Some(EntryIndex(0)), ..file(b"a") }], "hard link");
    check_refused(vec![wire(b"a", Kind::Symlink)], "target is empty");
    check_refused(vec![WireEntry { size: 9, ..wire(b"a", Kind::Symlink) }], "size");
    check_refused((0..20u8).map(|i| file(&[b'a' + i])).collect(), "more entries");
    check_refused(
        vec![with(Extra { xattrs: vec![(b"trusted.x".into(), vec![])], ..Extra::default() })],
        "xattrs",
    );
    check_refused(
        vec![with(Extra { xattrs: vec![(b"user.twinshare".into(), vec![])], ..Extra::default() })],
        "xattrs",
    );
    check_refused(vec![file(b"a"), WireEntry { link: Some(EntryIndex(1)), ..file(b"config") }], "git");
    #[expect(clippy::single_range_in_vec_init, reason = "a hole map of one hole")]
    check_refused(vec![with(Extra { holes: vec![50..101], ..Extra::default() })], "hole map");
    check_refused(vec![with(Extra { holes: vec![0..10, 10..20], ..Extra::default() })], "hole map");
    check_refused(vec![WireEntry { nlink: 0, ..file(b"a") }], "links");
    let target = Extra { target: b"t".to_vec(), ..Extra::default() };
    let link = WireEntry { size: 1, extra: Some(Box::new(target)), ..wire(b"l", Kind::Symlink) };
    check_refused(vec![WireEntry { nlink: 2, ..link.clone() }], "links");
    check_refused(vec![WireEntry { flags: 2, ..file(b"a") }], "flags");
    check_refused(vec![WireEntry { link: Some(EntryIndex(1)), nlink: 7, ..file(b"b") }], "hard link");
    check_refused(
        vec![file(b"a"), WireEntry { link: Some(EntryIndex(1)), nlink: 2, ..file(b"b") }],
        "hard link",
    );
    // The limits of single entries.
    let nanoseconds = Mtime { sec: 0, nsec: 1_000_000_000 };
    check_refused(vec![WireEntry { mtime: nanoseconds, ..file(b"a") }], "nanoseconds");
    check_refused(vec![WireEntry { size: 1, ..wire(b"d", Kind::Directory) }], "a directory has a size");
    check_refused(vec![with(Extra { target: b"t".to_vec(), ..Extra::default() })], "has a target");
    let target = |target: Vec<u8>| {
        let size = target.len() as u64;
        let extra = Some(Box::new(Extra { target, ..Extra::default() }));
        WireEntry { size, extra, ..wire(b"l", Kind::Symlink) }
    };
    check_refused(vec![target(vec![b'a'; TARGET_BYTES_MAX + 1])], "too long");
    check_refused(vec![target(b"a\0b".to_vec())], "NUL");
    let config = |bytes| Extra { git_config: Some(vec![b'x'; bytes]), ..Extra::default() };
    check_refused(vec![with(config(GIT_CONFIG_BYTES_MAX + 1))], "configuration is too long");
    check_refused(
        vec![WireEntry { size: 0, ..with(config(1)) }]
            .into_iter()
            .map(|entry| WireEntry { kind: Kind::Directory, nlink: 2, ..entry })
            .collect(),
        "no file",
    );
    let xattrs = |xattrs| with(Extra { xattrs, ..Extra::default() });
    let named = |name: &[u8]| (name.to_vec(), vec![]);
    check_refused(vec![xattrs(vec![(b"user.x".to_vec(), vec![0; XATTR_BYTES_MAX])])], "xattrs");
    check_refused(vec![xattrs(vec![named(b"user.a\0b")])], "xattrs");
    check_refused(vec![xattrs(vec![named(b"user.b"), named(b"user.a")])], "xattrs");
    let holes = (0..=HOLES_MAX as u64).map(|at| 2 * at..2 * at + 1).collect();
    check_refused(vec![WireEntry { size: 1 << 20, ..with(Extra { holes, ..Extra::default() }) }], "hole map");
}

#[test]
fn names_of_one_inode_share_its_blocks() {
    let directory = tempfile::tempdir().unwrap();
    let root = entry(b"r", &Node::Directory(BTreeMap::new()));
    let mut builder = Builder::new(&directory.path().join("m"), &meta(), vec![root]).unwrap();
    let file = entry(b"a", &Node::File(200_000, 1));
    let linked =
        NewEntry { name: (&b"b"[..]).try_into().unwrap(), link: Some(EntryIndex(1)), ..file.clone() };
    builder.list(vec![linked, file]).unwrap();
    for index in [1, 2] {
        builder.set_nlink(EntryIndex(index), 2).unwrap();
    }
    let manifest = builder.finish(&LeftOutList::default(), Digest([0; 32])).unwrap();
    let [a, b] = [1, 2].map(|index| manifest.entry(EntryIndex(index)).unwrap());
    assert_eq!((a.inode(), b.inode()), (EntryIndex(1), EntryIndex(1)));
    assert_eq!((a.blocks(), b.blocks(), b.nlink()), (0..4, 0..4, 2));
    assert_eq!((manifest.blocks(), manifest.file_bytes()), (4, 200_000));
    assert_eq!(manifest.locate(EntryIndex(2)).unwrap().1.as_bytes(), b"b");
}

#[test]
fn holes_are_blocks_that_lie_wholly_in_them() {
    let size = 5 * 65536 + 7;
    let holes = [0..65536, 70_000..3 * 65536, 4 * 65536 + 1..size];
    let found: Vec<_> = (0..7).filter(|i| is_hole(&holes, BlockIndex(*i), size)).collect();
    assert_eq!(found, [0, 2, 5]);
}
