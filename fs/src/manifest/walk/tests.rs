//! What a walk makes of trees on a real disk, also while they change.

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::os::unix::net::UnixListener;

use rustix::fs::{CWD, Mode, OFlags, Timespec, Timestamps, XattrFlags};

use super::*;
use crate::git::shown_config;
use crate::manifest::{Entry, Flags, LeftOutReason, Listing, Mtime};
use crate::ordinary_user;

/// A directory to walk, and one for the results.
struct Place {
    tree: tempfile::TempDir,
    out: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        // A manifest is written durably; where it lies in memory, a busy disk does not slow the tests down.
        let out = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
        Self { tree: tempfile::tempdir().unwrap(), out }
    }

    fn at(&self, path: &str) -> PathBuf {
        self.tree.path().join(path)
    }

    fn write(&self, path: &str, content: &str) {
        fs::create_dir_all(self.at(path).parent().unwrap()).unwrap();
        fs::write(self.at(path), content).unwrap();
    }

    fn walk_roots(
        &self,
        roots: &[PathBuf],
        threads: usize,
        exclude: &[DirectoryId],
    ) -> Result<Manifest, WalkError> {
        let (cancel, progress) = (AtomicBool::new(false), WalkProgress::default());
        let options = WalkOptions { threads, exclude, cancel: &cancel, progress: &progress };
        let manifest = build(self.out.path(), roots, &options)?;
        assert_eq!(
            progress.entries.into_inner() + manifest.roots().count() as u64,
            u64::from(manifest.entries())
        );
        Ok(manifest)
    }

    fn walk(&self) -> Manifest {
        self.walk_roots(&[self.tree.path().into()], 2, &[]).unwrap()
    }
}

fn find<'m>(manifest: &'m Manifest, path: &str) -> Entry<'m> {
    let mut at = manifest.entry(EntryIndex(0)).unwrap();
    for name in path.split('/').filter(|name| !name.is_empty()) {
        at = manifest.lookup(at.index(), name.as_bytes()).unwrap().unwrap_or_else(|| panic!("no {path}"));
    }
    at
}

fn names(manifest: &Manifest, directory: &str) -> Vec<String> {
    let Listing::Known(children) = manifest.children(find(manifest, directory).index()) else {
        panic!("{directory} is not listed")
    };
    let name = |index| manifest.entry(EntryIndex(index)).unwrap().name().escape_ascii().to_string();
    children.map(name).collect()
}

fn left_out(manifest: &Manifest) -> Vec<(String, LeftOutReason)> {
    let list = manifest.left_out();
    assert_eq!(list.total, list.named.len() as u64);
    list.named.into_iter().map(|item| (item.path.escape_ascii().to_string(), item.reason)).collect()
}

fn set_times(path: &Path, mtime: Mtime) {
    let time = Timespec { tv_sec: mtime.sec, tv_nsec: mtime.nsec.into() };
    let times = Timestamps { last_access: time, last_modification: time };
    rustix::fs::utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW).unwrap();
}

#[test]
fn another_file_that_looks_the_same_makes_another_snapshot() {
    let place = Place::new();
    place.write("d/f", "content");
    let first = place.walk().snapshot();
    assert_eq!(place.walk().snapshot(), first);
    // As `cp -p` and an archive that is unpacked once more leave it.
    let (directory, file) = (fs::metadata(place.at("d")).unwrap(), fs::metadata(place.at("d/f")).unwrap());
    place.write("new", "CONTENT");
    fs::rename(place.at("new"), place.at("d/f")).unwrap();
    for (path, was) in [("d/f", file), ("d", directory)] {
        set_times(&place.at(path), Mtime { sec: was.mtime(), nsec: was.mtime_nsec() as u32 });
    }
    assert_ne!(place.walk().snapshot(), first);
}

#[test]
fn the_whole_of_an_entry_travels() {
    let place = Place::new();
    place.write("f", "content");
    place.write("a\nb\u{1}/ü/x", "");
    symlink("f", place.at("link")).unwrap();
    fs::set_permissions(place.at("f"), fs::Permissions::from_mode(0o640)).unwrap();
    fs::set_permissions(place.at("a\nb\u{1}"), fs::Permissions::from_mode(0o1777)).unwrap();
    rustix::fs::setxattr(place.at("f"), "user.b", b"2", XattrFlags::empty()).unwrap();
    rustix::fs::setxattr(place.at("f"), "user.a", b"\0\xff", XattrFlags::empty()).unwrap();
    let old = Mtime { sec: -86_400, nsec: 999_999_999 };
    set_times(&place.at("f"), old);
    set_times(&place.at("link"), Mtime { sec: 5, nsec: 6 });
    let manifest = place.walk();
    assert_eq!(names(&manifest, ""), ["a\\nb\\x01", "f", "link"]);
    let file = find(&manifest, "f");
    assert_eq!((file.kind(), file.mode(), file.size(), file.mtime()), (Kind::File, 0o640, 7, old));
    let xattrs = [(b"user.a".to_vec(), b"\0\xff".to_vec()), (b"user.b".to_vec(), b"2".to_vec())];
    assert_eq!(file.extra().xattrs, xattrs);
    let link = find(&manifest, "link");
    assert_eq!((link.kind(), link.extra().target, link.mtime().nsec), (Kind::Symlink, b"f".to_vec(), 6));
    assert_eq!(find(&manifest, "a\nb\u{1}").mode(), 0o1777);
    assert_eq!(find(&manifest, "a\nb\u{1}").nlink(), 3);
    assert_eq!(left_out(&manifest), []);
    assert_eq!(manifest.meta().roots, [place.tree.path().as_os_str().as_bytes()]);
}

#[test]
fn what_does_not_travel_is_listed() {
    let place = Place::new();
    let acl = [
        &2u32.to_le_bytes()[..],
        // user::rw-, user:1:r--, group::r--, mask::r--, other::---
        &[1, 0, 6, 0, 255, 255, 255, 255, 2, 0, 4, 0, 1, 0, 0, 0, 4, 0, 4, 0, 255, 255, 255, 255],
        &[16, 0, 4, 0, 255, 255, 255, 255, 32, 0, 0, 0, 255, 255, 255, 255],
    ]
    .concat();
    for name in ["acl", "own", "set", "d/f"] {
        place.write(name, name);
    }
    rustix::fs::setxattr(place.at("acl"), "system.posix_acl_access", &acl, XattrFlags::empty()).unwrap();
    rustix::fs::setxattr(place.at("own"), "user.twinshare", b"x", XattrFlags::empty()).unwrap();
    fs::set_permissions(place.at("set"), fs::Permissions::from_mode(0o6755)).unwrap();
    fs::set_permissions(place.at("d"), fs::Permissions::from_mode(0o2755)).unwrap();
    rustix::fs::mknodat(CWD, place.at("fifo"), rustix::fs::FileType::Fifo, Mode::RUSR, 0).unwrap();
    let _socket = UnixListener::bind(place.at("socket")).unwrap();
    symlink("/usr/bin/python3", place.at("out")).unwrap();
    symlink("../../x", place.at("d/up")).unwrap();
    let manifest = place.walk();
    assert_eq!(names(&manifest, ""), ["acl", "d", "out", "own", "set"]);
    assert_eq!(find(&manifest, "set").mode(), 0o755);
    assert_eq!(find(&manifest, "acl").extra().xattrs, []);
    let above = place.tree.path().parent().unwrap().join("x").into_os_string().into_encoded_bytes();
    let expected = [
        ("acl", LeftOutReason::Xattr),
        ("d", LeftOutReason::SetId),
        ("fifo", LeftOutReason::SpecialFile),
        ("out", LeftOutReason::LeavesTheTree(b"/usr/bin/python3".into())),
        ("own", LeftOutReason::Xattr),
        ("set", LeftOutReason::SetId),
        ("socket", LeftOutReason::SpecialFile),
        ("d/up", LeftOutReason::LeavesTheTree(above)),
    ];
    assert_eq!(left_out(&manifest), expected.map(|(path, reason)| (path.to_string(), reason)));
}

#[test]
#[expect(clippy::single_range_in_vec_init, reason = "a hole map of one hole")]
fn holes_are_found_where_there_are_any() {
    let place = Place::new();
    let file = File::create(place.at("sparse")).unwrap();
    file.write_all_at(&[1; 4096], 1 << 20).unwrap();
    file.set_len(3 << 20).unwrap();
    File::create(place.at("empty")).unwrap().set_len(1 << 40).unwrap();
    place.write("dense", &"x".repeat(100_000));
    place.write("short", "x");
    let manifest = place.walk();
    assert_eq!(find(&manifest, "sparse").extra().holes, [0..1 << 20, (1 << 20) + 4096..3 << 20]);
    assert_eq!(find(&manifest, "empty").extra().holes, [0..1 << 40]);
    assert!(!find(&manifest, "dense").has_extra() && !find(&manifest, "short").has_extra());
}

#[test]
fn names_of_one_file_are_one_group() {
    let place = Place::new();
    place.write("b/first", "x");
    let links = ["b/second", "c/d/third", "c/.git/hooks/pre-push", "c/.git/config", "config"];
    fs::create_dir_all(place.at("c/d")).unwrap();
    fs::create_dir_all(place.at("c/.git/hooks")).unwrap();
    links.iter().for_each(|name| fs::hard_link(place.at("b/first"), place.at(name)).unwrap());
    let manifest = place.walk();
    let first = find(&manifest, "b/first").index();
    for name in ["b/first", "b/second", "c/d/third"] {
        assert_eq!((find(&manifest, name).inode(), find(&manifest, name).nlink()), (first, 3), "{name}");
    }
    // What git might act on never shares its inode with anything.
    for name in ["c/.git/hooks/pre-push", "c/.git/config", "config"] {
        let entry = find(&manifest, name);
        assert_eq!((entry.inode(), entry.nlink()), (entry.index(), 1), "{name}");
    }
}

#[test]
fn a_git_configuration_never_travels_as_it_is() {
    let place = Place::new();
    let text = "[core]\n\tbare = false\n\tfsmonitor = id\n[remote \"o\"]\n\turl = https://me:secret@h/x\n";
    place.write("p/.git/config", text);
    place.write("p/.git/hooks/pre-commit", "#!/bin/sh\n");
    place.write("p/.git/refs/heads/config", "0000");
    place.write("bare.git/objects/x", "");
    place.write("bare.git/refs/x", "");
    place.write("bare.git/config", &"x".repeat(2 << 20));
    place.write("bare.git/config.worktree", "");
    symlink("x", place.at("bare.git/hooks")).unwrap();
    let manifest = place.walk();
    let config = find(&manifest, "p/.git/config");
    let shown = shown_config(text.as_bytes());
    assert_eq!((config.size(), config.extra().git_config), (shown.len() as u64, Some(shown)));
    assert_eq!(find(&manifest, "p/.git/hooks/pre-commit").flags(), Flags::GIT_HOOK);
    assert_eq!(find(&manifest, "bare.git/hooks").flags(), Flags::GIT_HOOK);
    assert_eq!(find(&manifest, "p/.git/refs/heads/config").extra().git_config, None);
    for name in ["bare.git/config", "bare.git/config.worktree"] {
        assert_eq!(find(&manifest, name).extra().git_config, Some(shown_config(b"")), "{name}");
    }
    let limit = LeftOutReason::Limit("a git configuration of more than 1 MiB".into());
    assert_eq!(left_out(&manifest), [("bare.git/config".into(), limit)]);
}

#[test]
fn a_path_may_be_longer_than_any_system_call_takes() {
    let place = Place::new();
    let name = "d".repeat(250);
    let mut at = File::open(place.tree.path()).unwrap();
    for _ in 0..40 {
        rustix::fs::mkdirat(&at, &name, Mode::RWXU).unwrap();
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        at = rustix::fs::openat(&at, &name, flags, Mode::empty()).unwrap().into();
    }
    rustix::fs::symlinkat("target", &at, "link").unwrap();
    let manifest = place.walk();
    assert_eq!(manifest.entries(), 42);
    let (_, path) = manifest.locate(EntryIndex(41)).unwrap();
    assert_eq!(path.as_bytes().len(), 40 * 251 + 4);
    assert_eq!(left_out(&manifest), []);
}

#[test]
fn a_tree_has_one_manifest_whoever_walks_it_how_often() {
    let place = Place::new();
    for i in 0..3000 {
        place.write(&format!("t/d{}/e{}/f{i}", i % 7, i % 31), "x");
    }
    let root = place.at("t");
    let snapshot = |threads| place.walk_roots(std::slice::from_ref(&root), threads, &[]).unwrap().snapshot();
    let first = snapshot(1);
    assert_eq!([snapshot(1), snapshot(2), snapshot(7)], [first; 3]);
    fs::write(root.join("d0/new"), "").unwrap();
    assert_ne!(snapshot(2), first);
    assert_eq!(
        fs::read_dir(place.out.path()).unwrap().count(),
        2,
        "a walk leaves the manifest and its stamps"
    );
}

#[test]
fn a_directory_of_many_files_is_one_listing() {
    let place = Place::new();
    let root = File::open(place.tree.path()).unwrap();
    for i in 0..20_000 {
        rustix::fs::mknodat(&root, format!("{i}"), rustix::fs::FileType::RegularFile, Mode::RUSR, 0).unwrap();
    }
    assert_eq!(place.walk().entries(), 20_001);
}

#[test]
fn a_companion_under_two_paths_is_two_roots() {
    let place = Place::new();
    place.write("w/f", "");
    place.write("python-3.11.9/bin/python", "x");
    symlink(place.at("python-3.11.9"), place.at("python-3.11")).unwrap();
    let paths = ["w", "python-3.11", "python-3.11.9"].map(|name| place.at(name));
    let manifest = place.walk_roots(&paths, 2, &[]).unwrap();
    let expected = paths.map(|path| path.into_os_string().into_encoded_bytes());
    assert_eq!(manifest.meta().roots, expected);
    for root in [1, 2] {
        assert!(manifest.lookup(EntryIndex(root), b"bin").unwrap().is_some());
    }
}

#[test]
fn companions_are_roots_unless_they_lie_in_one() {
    let place = Place::new();
    for name in ["w/sub", "c/in", "other"] {
        place.write(&format!("{name}/f"), "");
    }
    symlink(place.at("c"), place.at("w/to-c")).unwrap();
    symlink(place.at("other"), place.at("w/to-other")).unwrap();
    let paths = |names: &[&str]| names.iter().map(|name| place.at(name)).collect::<Vec<_>>();
    let walk = |names| place.walk_roots(&paths(names), 2, &[]);
    let manifest = walk(&["w", "c/in", "c", "w/sub", "c"]).unwrap();
    let expected = paths(&["w", "c"]).into_iter().map(|path| path.into_os_string().into_encoded_bytes());
    assert_eq!(manifest.meta().roots, expected.collect::<Vec<_>>());
    assert!(manifest.lookup(EntryIndex(1), b"in").unwrap().is_some());
    let outside = place.at("other").into_os_string().into_encoded_bytes();
    assert_eq!(left_out(&manifest), [("to-other".into(), LeftOutReason::LeavesTheTree(outside))]);
    assert!(matches!(walk(&["w/sub", "c", "w"]), Err(WalkError::Contains { .. })));
    assert!(matches!(walk(&["w", "none"]), Err(WalkError::Root { .. })));
    assert!(matches!(walk(&["w/sub/f"]), Err(WalkError::Root { .. })));
    assert!(matches!(place.walk_roots(&["w".into()], 1, &[]), Err(WalkError::NotARoot(_))));
    assert!(matches!(place.walk_roots(&[], 1, &[]), Err(WalkError::NotARoot(_))));
}

#[test]
fn the_nodes_own_state_is_not_entered() {
    let place = Place::new();
    place.write("a/state/secret", "x");
    // What a clone that is not complete has of its files: zeros where something is missing.
    place.write("b/.twinshare-4f1c/tree/f", "x");
    place.write("b/.twinshare-mine", "x");
    let state = DirectoryId::of(&place.at("a/state")).unwrap();
    let manifest = place.walk_roots(&[place.tree.path().into()], 2, &[state]).unwrap();
    assert_eq!(names(&manifest, "a"), Vec::<String>::new());
    assert_eq!(names(&manifest, "b"), [".twinshare-mine"]);
    let left_out = left_out(&manifest);
    let expected = ["a/state", "b/.twinshare-4f1c"].map(|path| (path.into(), LeftOutReason::NodeState));
    assert_eq!(left_out, expected);
}

#[test]
fn a_cancelled_walk_leaves_nothing() {
    let place = Place::new();
    place.write("a/b", "");
    let (cancel, progress) = (AtomicBool::new(true), WalkProgress::default());
    let options = WalkOptions { threads: 2, exclude: &[], cancel: &cancel, progress: &progress };
    let result = build(place.out.path(), &[place.tree.path().into()], &options);
    assert!(matches!(result, Err(WalkError::Cancelled)));
    assert_eq!(fs::read_dir(place.out.path()).unwrap().count(), 0);
}

#[test]
fn an_ordinary_user_gets_what_may_be_read_and_a_list_of_the_rest() {
    const NAME: &str = "manifest::walk::tests::an_ordinary_user_gets_what_may_be_read_and_a_list_of_the_rest";
    ordinary_user::run(NAME, || {
        let place = Place::new();
        for name in ["closed/f", "blind/f", "readonly/f", "secret", "p/.git/config"] {
            place.write(name, "x");
        }
        let modes = [
            ("closed", 0o000),
            ("blind", 0o444),
            ("readonly", 0o555),
            ("secret", 0o000),
            ("p/.git/config", 0o000),
        ];
        let chmod =
            |path: &str, mode| fs::set_permissions(place.at(path), fs::Permissions::from_mode(mode)).unwrap();
        modes.iter().for_each(|(path, mode)| chmod(path, *mode));
        let manifest = place.walk();
        assert_eq!(names(&manifest, ""), ["blind", "closed", "p", "readonly", "secret"]);
        assert_eq!((find(&manifest, "secret").mode(), find(&manifest, "secret").size()), (0, 1));
        assert_eq!(names(&manifest, "closed"), Vec::<String>::new());
        assert_eq!(names(&manifest, "blind"), Vec::<String>::new());
        assert_eq!(names(&manifest, "readonly"), ["f"]);
        assert_eq!(find(&manifest, "p/.git/config").extra().git_config, Some(shown_config(b"")));
        let denied = LeftOutReason::Unreadable("Permission denied (os error 13)".into());
        let expected = ["blind/f", "closed", "p/.git/config"].map(|path| (path.to_string(), denied.clone()));
        assert_eq!(left_out(&manifest), expected);
        for path in ["closed", "blind", "readonly"] {
            chmod(path, 0o755);
        }
    });
}

#[test]
fn other_filesystems_are_empty_directories() {
    ordinary_user::with_mounts("manifest::walk::tests::other_filesystems_are_empty_directories", || {
        let place = Place::new();
        place.write("m/hidden", "x");
        place.write("bound", "below");
        place.write("f", "x");
        let none = rustix::mount::MountFlags::empty();
        rustix::mount::mount("none", place.at("m"), "tmpfs", none, Some(c"mode=0700")).unwrap();
        rustix::mount::mount_bind(place.at("f"), place.at("bound")).unwrap();
        place.write("m/other", "x");
        let manifest = place.walk();
        assert_eq!(names(&manifest, ""), ["f", "m"]);
        assert_eq!(names(&manifest, "m"), Vec::<String>::new());
        let other = |path: &str| (path.to_string(), LeftOutReason::OtherFilesystem);
        assert_eq!(left_out(&manifest), [other("bound"), other("m")]);
        for path in ["m", "bound"] {
            rustix::mount::unmount(place.at(path), rustix::mount::UnmountFlags::empty()).unwrap();
        }
    });
}

/// Ends a thread however the test ends.
struct StopAtEnd<'t>(&'t AtomicBool);

impl Drop for StopAtEnd<'_> {
    fn drop(&mut self) {
        self.0.store(true, Relaxed);
    }
}

#[test]
fn a_tree_that_changes_is_walked_to_its_end() {
    let place = Place::new();
    for i in 0..200 {
        place.write(&format!("busy/{i:03}"), "x");
        place.write(&format!("calm/{i:03}"), "x");
    }
    place.write("flip/in/f", "x");
    let stop = AtomicBool::new(false);
    let rename = |from: &str, to: &str| fs::rename(place.at(from), place.at(to)).unwrap();
    std::thread::scope(|scope| {
        let _stop = StopAtEnd(&stop);
        // The file that is looked at last, so that there is most time to miss it.
        scope.spawn(|| {
            while !stop.load(Relaxed) {
                rename("busy/199", "busy/x");
                rename("busy/x", "busy/199");
            }
        });
        scope.spawn(|| {
            while !stop.load(Relaxed) {
                rename("flip/in", "flip/out");
                symlink("/", place.at("flip/in")).unwrap();
                fs::remove_file(place.at("flip/in")).unwrap();
                rename("flip/out", "flip/in");
            }
        });
        for _ in 0..20 {
            let manifest = place.walk();
            assert_eq!(names(&manifest, "calm").len(), 200);
            let unsettled = left_out(&manifest).contains(&("busy".into(), LeftOutReason::Unsettled));
            let busy = names(&manifest, "busy").len();
            assert!(unsettled || busy == 200, "{busy} of 200 names and no word of it");
            // Nothing of the directory that the link leads to.
            assert!(manifest.entries() < 420);
        }
    });
}

#[test]
fn paths_of_roots_are_normal() {
    let place = Place::new();
    place.write("w/f", "");
    place.write("c/f", "");
    let untidy = |path: &str| PathBuf::from(format!("{}/{path}", place.tree.path().display()));
    let manifest = place.walk_roots(&[untidy("w/"), untidy("./c//.")], 1, &[]).unwrap();
    let expected = ["w", "c"].map(|name| place.at(name).into_os_string().into_encoded_bytes());
    assert_eq!(manifest.meta().roots, expected);
    let climbs = place.walk_roots(&[untidy("w/../c")], 1, &[]);
    assert!(matches!(climbs, Err(WalkError::NotARoot(_))));
}

#[test]
fn what_lies_too_deep_is_left_out() {
    let place = Place::new();
    let mut at = File::open(place.tree.path()).unwrap();
    for _ in 0..=DEPTH_MAX {
        rustix::fs::mkdirat(&at, "d", Mode::RWXU).unwrap();
        let flags = OFlags::RDONLY | OFlags::DIRECTORY;
        at = rustix::fs::openat(&at, "d", flags, Mode::empty()).unwrap().into();
    }
    let manifest = place.walk();
    assert_eq!(manifest.entries(), DEPTH_MAX + 1);
    let left_out = manifest.left_out();
    assert!(matches!(left_out.named[0].reason, LeftOutReason::Limit(_)));
    assert_eq!((left_out.total, left_out.named[0].path.len()), (1, 2 * DEPTH_MAX as usize + 1));
}
