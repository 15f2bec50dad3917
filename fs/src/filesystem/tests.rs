//! What a view shows, and what it does while something is missing. The origin is a script.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};

use super::*;
use crate::busy_directory::BusyDirectory;
use crate::digest::{BlockIndex, Digest, block_count};
use crate::git;
use crate::manifest::frame::Frames;
use crate::manifest::{
    Builder, Extra, Flags, LeftOutList, Meta, Mtime, NewEntry, Receiver, SnapshotId, frame,
};
use crate::origin::{Availability, BlockRange, Class, Deliveries, Delivery, Origin, Run};
use crate::replica::{Layout, ReplicaConfig, WhenGone};
use rustix::fs::FileType;

const OWNER: Owner = Owner { uid: 1234, gid: 567 };
const MTIME: Mtime = Mtime { sec: -7, nsec: 123_456_789 };

/// An entry of a tree to be: its path below the root, what it is, and what else it has.
struct Spec {
    path: &'static [u8],
    kind: Kind,
    mode: u16,
    size: u64,
    extra: Extra,
    flags: Flags,
    /// The first name of the same inode.
    link: Option<EntryIndex>,
}

fn directory(path: &'static [u8]) -> Spec {
    let extra = Extra::default();
    Spec { path, kind: Kind::Directory, mode: 0o755, size: 0, extra, flags: Flags::default(), link: None }
}

fn file(path: &'static [u8], size: u64) -> Spec {
    Spec { kind: Kind::File, mode: 0o644, size, ..directory(path) }
}

fn link(path: &'static [u8], target: &[u8]) -> Spec {
    let extra = Extra { target: target.to_vec(), ..Extra::default() };
    Spec { kind: Kind::Symlink, mode: 0o777, size: target.len() as u64, extra, ..directory(path) }
}

fn new_entry(spec: &Spec) -> NewEntry {
    NewEntry {
        name: spec.path.rsplit(|byte| *byte == b'/').next().unwrap().try_into().unwrap(),
        kind: spec.kind,
        mode: spec.mode,
        size: spec.size,
        mtime: MTIME,
        link: spec.link,
        flags: spec.flags,
        extra: spec.extra.clone(),
    }
}

/// The parent of a path; a path's first name is its root's number.
fn parent(path: &[u8]) -> &[u8] {
    &path[..path.iter().rposition(|byte| *byte == b'/').unwrap()]
}

/// A manifest of the entries, whose paths begin with the number of their root.
fn build(at: &std::path::Path, roots: usize, specs: &[Spec]) -> Manifest {
    let meta = Meta { roots: (0..roots).map(|i| format!("/r{i}").into_bytes()).collect() };
    let root = |_| new_entry(&directory(b"x/root"));
    let mut builder = Builder::new(at, &meta, (0..roots).map(root).collect()).unwrap();
    let mut paths: BTreeMap<u32, &[u8]> =
        (0..roots as u32).map(|i| (i, [&b"0"[..], b"1"][i as usize])).collect();
    while let Some(at) = builder.next_directory().unwrap() {
        let here = paths[&at.0];
        let mut children: Vec<_> = specs.iter().filter(|spec| parent(spec.path) == here).collect();
        children.sort_by_key(|spec| spec.path);
        let range = builder.list(children.iter().map(|spec| new_entry(spec)).collect()).unwrap();
        paths.extend(range.zip(children.iter().map(|spec| spec.path)));
    }
    builder.finish(&LeftOutList::default(), Digest([0; 32])).unwrap()
}

/// What the origin's files hold: the place tells the byte.
fn content(file: EntryIndex, range: Range<u64>) -> Vec<u8> {
    range.map(|at| (at % 251) as u8 ^ file.0 as u8).collect()
}

/// An origin that has every file, or says nothing at all.
#[derive(Debug)]
struct Script {
    manifest: Manifest,
    silent: bool,
    availability: watch::Sender<Availability>,
}

impl Script {
    fn new(manifest: Manifest, silent: bool) -> Arc<Self> {
        Arc::new(Self { manifest, silent, availability: watch::Sender::new(Availability::Reachable) })
    }

    fn run(&self, range: &BlockRange) -> Run {
        let size = self.manifest.entry(range.file).unwrap().size();
        let last = block_count(size).min(range.first.0 + range.count);
        let block = |i| content(range.file, BlockIndex(i).bytes_in(size));
        let bytes: Vec<u8> = (range.first.0..last).flat_map(block).collect();
        Run::hashed(range.file, range.first, size, bytes.into())
    }
}

impl Origin for Script {
    fn snapshot(&self) -> SnapshotId {
        self.manifest.snapshot()
    }

    fn read_manifest(&self) -> crate::origin::Frames {
        mpsc::channel(1).1
    }

    fn read_files(&self, files: Vec<EntryIndex>, class: Class) -> Deliveries {
        let whole = |file| BlockRange { file, first: BlockIndex(0), count: 16 };
        self.read_ranges(files.into_iter().map(whole).collect(), class)
    }

    fn read_ranges(&self, ranges: Vec<BlockRange>, _class: Class) -> Deliveries {
        let (sender, receiver) = mpsc::channel(2 * ranges.len().max(1));
        if self.silent {
            tokio::spawn(async move { sender.closed().await });
            return receiver;
        }
        for range in ranges {
            for delivery in [Delivery::Run(self.run(&range)), Delivery::End(range.file)] {
                sender.try_send(Ok(delivery)).unwrap();
            }
        }
        receiver
    }

    fn availability(&self) -> watch::Receiver<Availability> {
        self.availability.subscribe()
    }
}

/// A view of root `root` of a replica of `manifest` in `at`.
fn view(at: &std::path::Path, manifest: Manifest, root: u32, origin: Arc<Script>) -> TreeView {
    let layout = Layout::view_in(&at.join("replica")).unwrap();
    let when_gone = WhenGone::Wait(Duration::from_millis(200));
    let config = ReplicaConfig { when_gone, ..ReplicaConfig::new(layout) };
    let replica = Replica::open(config, manifest, origin, tokio::runtime::Handle::current()).unwrap();
    TreeView::new(replica, EntryIndex(root), OWNER)
}

/// The view of a tree of one root that is all there.
fn complete(at: &std::path::Path, specs: &[Spec]) -> TreeView {
    let manifest = build(&at.join("m"), 1, specs);
    view(at, manifest.clone(), 0, Script::new(manifest, false))
}

fn find(view: &TreeView, path: &str) -> Option<Attributes> {
    let mut found = view.attributes(NodeId::ROOT).unwrap();
    for name in path.split('/').filter(|name| !name.is_empty()) {
        match view.try_lookup(found.node, name.as_bytes()).unwrap() {
            Now::Ready(next) => found = next?,
            Now::Later => panic!("{path} has not arrived"),
        }
    }
    Some(found)
}

fn names(view: &TreeView, directory: NodeId, position: u64) -> Vec<Vec<u8>> {
    let Now::Ready(list) = view.try_list(directory, position).unwrap() else { panic!("not arrived") };
    list.map(|listed| listed.unwrap().name.to_vec()).collect()
}

#[tokio::test]
async fn stat_shows_what_the_manifest_says() {
    let at = BusyDirectory::new();
    let holes = Extra { holes: std::iter::once(65536..196_608).collect(), ..Extra::default() };
    let sticky = Spec { mode: 0o1777, ..directory(b"0/tmp") };
    let sparse = Spec { extra: holes, ..file(b"0/tmp/sparse", 200_000) };
    let view = complete(at.path(), &[sticky, sparse, link(b"0/to", b"/abs/../x"), file(b"0/\xff\n", 1)]);
    let root = view.attributes(NodeId::ROOT).unwrap();
    assert_eq!((root.kind, root.mode, root.size, root.nlink), (FileType::Directory, 0o755, 0, 3));
    let tmp = find(&view, "tmp").unwrap();
    assert_eq!((tmp.mode, tmp.nlink, tmp.owner, tmp.mtime), (0o1777, 2, OWNER, MTIME));
    let sparse = find(&view, "tmp/sparse").unwrap();
    assert_eq!((sparse.size, sparse.blocks_512), (200_000, (200_000 - 131_072u64).div_ceil(4096) * 8));
    let to = find(&view, "to").unwrap();
    assert_eq!((to.kind, to.size), (FileType::Symlink, 9));
    assert_eq!(view.read_link(to.node).unwrap(), &b"/abs/../x"[..]);
    let Now::Ready(Some(odd)) = view.try_lookup(NodeId::ROOT, b"\xff\n").unwrap() else { panic!("gone") };
    assert_eq!(odd.blocks_512, 8);
    assert_eq!(find(&view, "tmp/none"), None);
    assert_eq!(view.seek(sparse.node, 70_000, Seek::Data), Ok(196_608));
    assert_eq!(
        view.space(),
        Space {
            block_bytes: 4096,
            blocks: 200_001u64.div_ceil(4096),
            blocks_free: 0,
            blocks_available: 0,
            entries: 5,
            entries_free: 0,
        }
    );
}

#[tokio::test]
async fn calls_on_the_wrong_kind_of_entry_fail() {
    let at = BusyDirectory::new();
    let view = complete(at.path(), &[directory(b"0/d"), file(b"0/f", 10), link(b"0/l", b"f")]);
    let [d, f, l] = ["d", "f", "l"].map(|name| find(&view, name).unwrap().node);
    assert_eq!(view.try_lookup(f, b"x"), Err(ViewError::NotADirectory));
    assert_eq!(view.try_lookup(d, &[b'x'; 256]), Err(ViewError::NameTooLong));
    assert!(matches!(view.try_list(f, 0), Err(ViewError::NotADirectory)));
    assert_eq!(view.read_link(f), Err(ViewError::WrongKind));
    assert_eq!(view.open(d), Err(ViewError::IsADirectory));
    assert_eq!(view.open(l), Err(ViewError::WrongKind));
    assert_eq!(view.seek(f, 10, Seek::Hole), Err(ViewError::BeyondEnd));
    assert!(matches!(view.attributes(NodeId(99)), Err(ViewError::ManifestFailed(_))));
    assert!(matches!(view.attributes(NodeId(0)), Err(ViewError::ManifestFailed(_))));
}

#[tokio::test]
async fn a_listing_goes_on_where_it_stopped() {
    let at = BusyDirectory::new();
    let view =
        complete(at.path(), &[directory(b"0/d"), file(b"0/d/x", 1), file(b"0/d/y", 1), directory(b"0/d/e")]);
    let d = find(&view, "d").unwrap().node;
    assert_eq!(names(&view, d, 0), [&b"."[..], b"..", b"e", b"x", b"y"]);
    assert_eq!(names(&view, d, 3), [b"x", b"y"]);
    assert_eq!(names(&view, d, 5), [b""; 0]);
    assert_eq!(names(&view, d, u64::MAX), [b""; 0]);
    let Now::Ready(list) = view.try_list(d, 0).unwrap() else { panic!("not arrived") };
    let listed: Vec<_> = list.map(Result::unwrap).collect();
    assert_eq!(listed.iter().map(|entry| entry.next).collect::<Vec<_>>(), [1, 2, 3, 4, 5]);
    assert_eq!((listed[0].attributes.node, listed[1].attributes.node), (d, NodeId::ROOT));
    for entry in &listed[2..] {
        assert_eq!(Ok(entry.attributes), view.attributes(entry.attributes.node));
    }
}

#[tokio::test]
async fn names_of_one_file_share_its_number() {
    let at = BusyDirectory::new();
    let linked = Spec { link: Some(EntryIndex(1)), ..file(b"0/b", 70_000) };
    let view = complete(at.path(), &[file(b"0/a", 70_000), linked, file(b"0/c", 70_000)]);
    let [a, b, c] = ["a", "b", "c"].map(|name| find(&view, name).unwrap().node);
    assert!(a == b && b != c);
    let shared = view.read(b, 65_530, 20).await.unwrap();
    assert_eq!(shared, content(EntryIndex(1), 65_530..65_550));
}

#[tokio::test]
async fn what_git_would_act_on_is_replaced_whatever_the_manifest_says() {
    let at = BusyDirectory::new();
    let text = b"[core]\n\tbare = false\n\tfsmonitor = ./evil\n";
    let config = Extra { git_config: Some(text.to_vec()), ..Extra::default() };
    let view = complete(
        at.path(),
        &[
            directory(b"0/.git"),
            directory(b"0/.git/hooks"),
            Spec { mode: 0o755, ..file(b"0/.git/hooks/pre-commit", 5) },
            link(b"0/.git/hooks/post-commit", b"../../evil"),
            Spec { extra: config, ..file(b"0/.git/config", 12_345) },
            Spec { mode: 0o755, flags: Flags::GIT_HOOK, ..file(b"0/flagged", 5) },
            Spec { mode: 0o755, ..file(b"0/program", 5) },
        ],
    );
    let config = find(&view, ".git/config").unwrap();
    let expected = git::shown_config(text);
    assert_eq!((config.size, config.blocks_512), (expected.len() as u64, 8));
    assert_eq!(view.try_read(config.node, 0, 1 << 20), Ok(Now::Ready(expected.clone().into())));
    assert_eq!(view.read(config.node, 3, 4).await.unwrap(), expected[3..7]);
    assert_eq!(view.try_read(config.node, 1 << 40, 4), Ok(Now::Ready(Bytes::new())));
    assert_eq!(find(&view, ".git/hooks/pre-commit").unwrap().mode, 0o644);
    let withheld = find(&view, ".git/hooks/post-commit").unwrap();
    let target = view.read_link(withheld.node).unwrap();
    assert_eq!((&target[..], withheld.size), (git::WITHHELD_TARGET, git::WITHHELD_TARGET.len() as u64));
    assert_eq!(find(&view, "flagged").unwrap().mode, 0o644);
    assert_eq!(find(&view, "program").unwrap().mode, 0o755);
}

#[tokio::test]
async fn xattrs_are_the_users() {
    let at = BusyDirectory::new();
    let xattrs = vec![(b"user.a".to_vec(), b"1\0".to_vec()), (b"user.b".to_vec(), vec![])];
    let extra = Extra { xattrs, ..Extra::default() };
    let view = complete(at.path(), &[Spec { extra, ..directory(b"0/d") }, file(b"0/f", 0)]);
    let [d, f] = ["d", "f"].map(|name| find(&view, name).unwrap().node);
    assert_eq!(view.xattr(d, b"user.a"), Ok(b"1\0".to_vec()));
    assert_eq!(view.xattr_names(d), Ok(b"user.a\0user.b\0".to_vec()));
    assert_eq!(view.xattr(d, b"user.c"), Err(ViewError::NoXattr));
    assert_eq!(view.xattr(f, b"security.capability"), Err(ViewError::XattrNotSupported));
    assert_eq!(view.xattr_names(f), Ok(vec![]));
}

#[tokio::test]
async fn a_companion_is_a_tree_of_its_own() {
    let at = BusyDirectory::new();
    let manifest =
        build(&at.path().join("m"), 2, &[file(b"0/mine", 1), directory(b"1/lib"), file(b"1/lib/x", 9)]);
    let view = view(at.path(), manifest.clone(), 1, Script::new(manifest, false));
    assert_eq!(names(&view, NodeId::ROOT, 0), [&b"."[..], b"..", b"lib"]);
    assert_eq!(find(&view, "mine"), None);
    let Now::Ready(mut list) = view.try_list(NodeId::ROOT, 1).unwrap() else { panic!("not arrived") };
    assert_eq!(list.next().unwrap().unwrap().attributes.node, NodeId::ROOT);
    let x = find(&view, "lib/x").unwrap();
    assert_eq!(view.read(x.node, 0, 100).await.unwrap().len(), 9);
}

#[tokio::test]
async fn reads_are_whole_or_fail_in_time() {
    let at = BusyDirectory::new();
    let manifest = build(&at.path().join("m"), 1, &[file(b"0/f", 200_000), file(b"0/empty", 0)]);
    for silent in [false, true] {
        let at = at.path().join(silent.to_string());
        let view = view(&at, manifest.clone(), 0, Script::new(manifest.clone(), silent));
        let empty = find(&view, "empty").unwrap();
        assert_eq!(view.try_read(empty.node, 0, 4096), Ok(Now::Ready(Bytes::new())));
        let f = find(&view, "f").unwrap();
        view.open(f.node).unwrap();
        assert_eq!(view.try_read(f.node, 200_000, 1), Ok(Now::Ready(Bytes::new())));
        assert_eq!(view.try_read(f.node, 0, 4096), Ok(Now::Later));
        let read = view.read(f.node, 190_000, 1 << 20).await;
        match silent {
            false => assert_eq!(read.unwrap(), content(EntryIndex(2), 190_000..200_000)),
            true => assert!(matches!(read, Err(ViewError::Read(ReadError::Gone(_))))),
        }
        view.release(f.node);
    }
}

/// A manifest of which the head and the root's listing have arrived, and the frames still to come.
fn arriving(at: &std::path::Path) -> (Receiver, Vec<Vec<u8>>, TreeView) {
    let deep = [directory(b"0/d"), file(b"0/d/x", 1), directory(b"0/d/e"), file(b"0/d/e/y", 1)];
    let sent = build(&at.join("sent"), 1, &deep);
    let frames: Vec<_> = Frames::new(&sent).map(|frame| frame::encode(&frame).unwrap()).collect();
    let receiver = Receiver::new(&at.join("m"), sent.snapshot(), &frames[0]).unwrap();
    let view = view(at, receiver.manifest().clone(), 0, Script::new(sent, true));
    (receiver, frames[1..].to_vec(), view)
}

#[tokio::test]
async fn a_directory_is_waited_for_until_it_arrives() {
    let at = BusyDirectory::new();
    let (mut receiver, frames, view) = arriving(at.path());
    assert_eq!(view.try_lookup(NodeId::ROOT, b"d"), Ok(Now::Later));
    assert!(matches!(view.try_list(NodeId::ROOT, 0), Ok(Now::Later)));
    let arrive = async {
        for frame in &frames {
            receiver.accept(frame).unwrap();
        }
    };
    let (found, ()) = tokio::join!(view.lookup(NodeId::ROOT, b"d"), arrive);
    assert_eq!(found.unwrap().unwrap().kind, FileType::Directory);
    view.listed(NodeId::ROOT).await.unwrap();
    assert!(find(&view, "d/e/y").is_some());
}

#[tokio::test]
async fn a_directory_that_does_not_arrive_is_an_error() {
    let at = BusyDirectory::new();
    let (mut receiver, _, view) = arriving(at.path());
    assert_eq!(view.lookup(NodeId::ROOT, b"d").await, Err(ViewError::Late));
    receiver.accept(b"nonsense").unwrap_err();
    let failed = |error| matches!(error, ViewError::ManifestFailed(_));
    assert!(failed(view.lookup(NodeId::ROOT, b"d").await.unwrap_err()));
    assert!(failed(view.listed(NodeId::ROOT).await.unwrap_err()));
    assert!(failed(view.attributes(NodeId::ROOT).unwrap_err()));
}
