//! The names of a clone against a plain directory: the same changes on both, and the same tree afterwards.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use proptest::prelude::*;
use rustix::fs::{AtFlags, CWD, RenameFlags};

use super::*;
use crate::manifest::walk::{WalkOptions, WalkProgress, build};
use crate::replica::layout::LayoutError;

mod cases;

/// A snapshot, a clone of its names, and a plain copy.
struct Pair {
    base: tempfile::TempDir,
    names: Option<Names>,
    manifest: Manifest,
    /// The keys that were seen, by the plain copy's inode numbers.
    known: HashMap<u64, InodeKey>,
    made: u16,
}

/// What is compared of a name.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Seen {
    kind: FileType,
    size: u64,
    mode: u32,
    target: Option<Vec<u8>>,
    /// Of anything but a directory.
    nlink: u64,
}

impl Pair {
    fn new(filesystem: &str) -> Self {
        let base = tempfile::tempdir_in(filesystem).unwrap();
        let at = |path: &str| base.path().join(path);
        for directory in ["a/b/c", "b", "c/a"] {
            fs::create_dir_all(at("origin").join(directory)).unwrap();
        }
        for (bytes, file) in ["a/a", "a/b/a", "a/b/c/b", "b/d", "d", "a/c", "c/b"].iter().enumerate() {
            fs::write(at("origin").join(file), vec![1; 10 + bytes]).unwrap();
        }
        fs::hard_link(at("origin/a/c"), at("origin/c/d")).unwrap();
        fs::hard_link(at("origin/a/c"), at("origin/a/b/d")).unwrap();
        symlink("../nowhere", at("origin/b/a")).unwrap();
        let copied = Command::new("cp").arg("-a").args([at("origin"), at("plain")]).status().unwrap();
        assert!(copied.success());
        let (cancel, progress) = (false.into(), WalkProgress::default());
        let options = WalkOptions { threads: 1, exclude: &[], cancel: &cancel, progress: &progress };
        fs::create_dir(at("snapshot")).unwrap();
        let manifest = build(&at("snapshot"), &[at("origin")], &options).unwrap();
        let mut pair = Self { base, names: None, manifest, known: HashMap::new(), made: 0 };
        pair.reopen();
        pair
    }

    /// As after the process that served the clone was killed.
    fn reopen(&mut self) {
        self.names = None;
        self.known.clear();
        let at = self.base.path().join("replica");
        // A process that another test starts at this moment may hold its lock until it has begun.
        let until = std::time::Instant::now() + std::time::Duration::from_secs(10);
        let layout = loop {
            match Layout::view_in(&at) {
                Err(LayoutError::InUse { .. }) if std::time::Instant::now() < until => {
                    std::thread::yield_now()
                }
                layout => break layout.unwrap(),
            }
        };
        self.names = Some(Names::open(Arc::new(layout), self.manifest.clone()).unwrap());
    }

    fn names(&self) -> &Names {
        self.names.as_ref().unwrap()
    }

    fn plain(&self, path: &str) -> PathBuf {
        self.base.path().join("plain").join(path)
    }

    /// The directory of a path, and its name there; none where the kernel would not get so far.
    fn resolve<'p>(&self, path: &'p str) -> Option<(InodeKey, &'p [u8])> {
        let (above, name) = path.rsplit_once('/').unwrap_or(("", path));
        let mut key = ROOT;
        for name in above.split('/').filter(|name| !name.is_empty()) {
            let found = self.names().lookup(key, name.as_bytes()).unwrap()?;
            if !found.is_directory() {
                return None;
            }
            let above_key = key;
            key = found.key();
            self.names().remember(&found, above_key, name.as_bytes());
        }
        Some((key, name.as_bytes()))
    }

    /// Makes one change on both sides; both must say the same.
    fn change(&mut self, change: &Change) {
        let plain = self.change_plain(change);
        let Some(names) = self.change_names(change) else {
            assert!(plain.is_err(), "{change:?} went well on the plain directory");
            return;
        };
        assert_eq!(names, plain, "{change:?}");
    }

    fn change_plain(&mut self, change: &Change) -> Result<(), Errno> {
        let mode = rustix::fs::Mode::from_raw_mode(self.next_mode().into());
        let at = |path: &String| self.plain(path);
        match change {
            Change::File(path) => {
                rustix::fs::mknodat(CWD, at(path), FileType::RegularFile, mode, 0)?;
                rustix::fs::chmod(at(path), mode)
            }
            Change::Directory(path) => {
                rustix::fs::mkdir(at(path), mode)?;
                rustix::fs::chmod(at(path), mode)
            }
            Change::Symlink(path) => rustix::fs::symlink("t", at(path)),
            Change::Unlink(path) => rustix::fs::unlink(at(path)),
            Change::RemoveDirectory(path) => rustix::fs::rmdir(at(path)),
            Change::Link(from, to) => rustix::fs::linkat(CWD, at(from), CWD, at(to), AtFlags::empty()),
            Change::Rename(from, to, how) => {
                let flags = match how {
                    Rename::Replace => RenameFlags::empty(),
                    Rename::NoReplace => RenameFlags::NOREPLACE,
                    Rename::Exchange => RenameFlags::EXCHANGE,
                };
                rustix::fs::renameat_with(CWD, at(from), CWD, at(to), flags)
            }
            Change::Forget | Change::Reopen | Change::ReopenAndFind => Ok(()),
        }
    }

    fn change_names(&mut self, change: &Change) -> Option<Result<(), Errno>> {
        let mode = self.made_mode();
        let done = match change {
            Change::Forget => {
                self.forget();
                Ok(())
            }
            Change::Reopen => {
                self.reopen();
                Ok(())
            }
            Change::ReopenAndFind => {
                let before = self.files();
                self.reopen();
                for (key, number) in before {
                    assert_eq!(self.number(key), number, "{key:?} is not found by itself");
                }
                Ok(())
            }
            Change::File(path) => self.make(path, &Made::File, mode)?,
            Change::Directory(path) => self.make(path, &Made::Directory, mode)?,
            Change::Symlink(path) => self.make(path, &Made::Symlink(b"t".to_vec()), mode)?,
            Change::Unlink(path) => {
                let (directory, name) = self.resolve(path)?;
                self.names().unlink(directory, name).map(drop)
            }
            Change::RemoveDirectory(path) => {
                let (directory, name) = self.resolve(path)?;
                self.names().remove_directory(directory, name).map(drop)
            }
            Change::Link(from, to) => {
                let (directory, name) = self.resolve(from)?;
                let found = self.names().lookup(directory, name).unwrap()?;
                if found.is_directory() {
                    // The kernel does not ask.
                    return Some(Err(if self.taken(to)? { Errno::EXIST } else { Errno::PERM }));
                }
                let (directory, name) = self.resolve(to)?;
                self.names().link(found.key(), directory, name).map(drop)
            }
            Change::Rename(from, to, how) => {
                let (from, to) = (self.resolve(from)?, self.resolve(to)?);
                let key = |(directory, name)| {
                    self.names().lookup(directory, name).unwrap().map(|found: Found<'_>| found.key())
                };
                match (key(from), key(to)) {
                    // Two names of one inode: the kernel does not ask.
                    (Some(one), Some(other)) if one == other => match how {
                        Rename::NoReplace => Err(Errno::EXIST.into()),
                        Rename::Replace | Rename::Exchange => Ok(()),
                    },
                    _ => self.names().rename(from, to, *how).map(drop),
                }
            }
        };
        Some(done.map_err(|error| match error {
            NamesError::System(errno) => errno,
            NamesError::NotYet(_) => panic!("the manifest is whole"),
        }))
    }

    fn taken(&self, path: &str) -> Option<bool> {
        let (directory, name) = self.resolve(path)?;
        Some(self.names().lookup(directory, name).unwrap().is_some())
    }

    fn make(&self, path: &str, made: &Made, mode: u16) -> Option<Result<(), NamesError>> {
        let (directory, name) = self.resolve(path)?;
        Some(self.names().make(directory, name, made, mode, None).map(drop))
    }

    /// Modes tell what is made apart.
    fn next_mode(&mut self) -> u16 {
        self.made += 1;
        self.made_mode()
    }

    fn made_mode(&self) -> u16 {
        0o700 | (self.made & 0o77)
    }

    /// Compares the trees, and the keys with the plain copy's inodes.
    fn check(&mut self) {
        let (mut plain, mut numbers) = (BTreeMap::new(), BTreeMap::new());
        look_at(&self.plain(""), Path::new(""), &mut |path, number, seen| {
            plain.insert(path.to_owned(), seen);
            numbers.insert(path.to_owned(), number);
        });
        let (mut found, mut keys) = (BTreeMap::new(), BTreeMap::new());
        self.walk(ROOT, Path::new(""), &mut |path, key, seen| {
            found.insert(path.to_owned(), seen);
            keys.insert(path.to_owned(), key);
        });
        assert_eq!(found, plain);
        let mut by_key: HashMap<InodeKey, u64> = HashMap::new();
        let mut by_number: HashMap<u64, InodeKey> = HashMap::new();
        for (path, key) in keys {
            let number = numbers[&path];
            assert_eq!(*by_key.entry(key).or_insert(number), number, "{path:?} shares {key:?}");
            assert_eq!(*by_number.entry(number).or_insert(key), key, "{path:?} has another key");
            if let Some(known) = self.known.get(&number) {
                assert_eq!(*known, key, "{path:?} changed its key");
            }
        }
        self.known = by_number;
    }

    /// The file that the content of an inode is kept in is the one that its names lead to.
    fn check_file(&self, found: &Found<'_>) {
        match found {
            Found::OnDisk(found) if found.is(FileType::RegularFile) => {
                let file = self.names().open_file(found.key, OFlags::PATH).unwrap().unwrap();
                assert_eq!(rustix::fs::fstat(&file).unwrap().st_ino, found.stat.st_ino);
            }
            Found::Virtual(entry) if entry.kind() == Kind::File => {
                assert!(self.names().open_file(found.key(), OFlags::PATH).unwrap().is_none());
            }
            _ => {}
        }
    }

    /// The manifest's files that can be seen, and are not ordinary ones by now, and their numbers on the disk.
    fn files(&self) -> Vec<(InodeKey, Option<u64>)> {
        let is_file = |index| self.manifest.entry(index).unwrap().kind() == Kind::File;
        let keys = self.known.values().filter(|key| key.entry().is_some_and(is_file));
        let is_told = |key: &&InodeKey| match self.names().stat(**key).unwrap() {
            Found::Virtual(_) => true,
            Found::OnDisk(found) => found.entry().is_some(),
        };
        keys.filter(is_told).map(|key| (*key, self.number(*key))).collect()
    }

    fn number(&self, key: InodeKey) -> Option<u64> {
        let file = self.names().open_file(key, OFlags::PATH).unwrap()?;
        Some(rustix::fs::fstat(&file).unwrap().st_ino)
    }

    /// As when the kernel needs memory.
    fn forget(&self) {
        for key in self.known.values() {
            self.names().forget(*key, u64::MAX);
            self.names().directories.forget(*key);
        }
    }

    /// Compares the names on the disk with the plain copy's.
    fn check_disk(&self) {
        let names = |top: &Path| {
            let mut names = Vec::new();
            look_at(top, Path::new(""), &mut |path, _, seen| names.push((path.to_owned(), seen.kind)));
            names.sort_by(|(one, _), (other, _)| one.cmp(other));
            names
        };
        let tree = self.base.path().join("replica/tree");
        assert_eq!(names(&tree), names(&self.plain("")));
    }

    fn walk(&self, directory: InodeKey, above: &Path, tell: &mut impl FnMut(&Path, InodeKey, Seen)) {
        let list = self.names().list(directory).unwrap();
        for position in 0..list.len() {
            let Some((name, _)) = list.at(self.names(), position).unwrap() else { continue };
            let found = self.names().lookup(directory, name).unwrap().unwrap();
            let (key, path) = (found.key(), above.join(std::ffi::OsStr::from_bytes(name)));
            self.names().remember(&found, directory, name);
            let stat = self.names().stat(key).unwrap();
            assert_eq!(stat.key(), key);
            self.check_file(&stat);
            tell(&path, key, self.seen(directory, name, &stat));
            if found.is_directory() {
                self.walk(key, &path, tell);
            }
        }
    }

    fn seen(&self, directory: InodeKey, name: &[u8], found: &Found<'_>) -> Seen {
        match found {
            Found::Virtual(entry) => {
                let kind = match entry.kind() {
                    Kind::Directory => FileType::Directory,
                    Kind::File => FileType::RegularFile,
                    Kind::Symlink => FileType::Symlink,
                };
                let is_link = kind == FileType::Symlink;
                Seen {
                    kind,
                    size: if kind == FileType::Directory { 0 } else { entry.size() },
                    mode: if is_link { 0o777 } else { entry.mode().into() },
                    target: is_link.then(|| entry.extra().target),
                    nlink: if kind == FileType::Directory { 0 } else { entry.nlink().into() },
                }
            }
            Found::OnDisk(found) => {
                let kind = FileType::from_raw_mode(found.stat.st_mode);
                let is_directory = kind == FileType::Directory;
                let parent = self.names().directory(directory).unwrap().unwrap();
                let target = (kind == FileType::Symlink)
                    .then(|| rustix::fs::readlinkat(parent.fd(), name, Vec::new()).unwrap().into_bytes());
                Seen {
                    kind,
                    size: if is_directory { 0 } else { found.stat.st_size as u64 },
                    mode: found.mode().into(),
                    target,
                    nlink: if is_directory { 0 } else { found.stat.st_nlink },
                }
            }
        }
    }
}

fn look_at(top: &Path, below: &Path, tell: &mut impl FnMut(&Path, u64, Seen)) {
    for entry in fs::read_dir(top.join(below)).unwrap() {
        let path = below.join(entry.unwrap().file_name());
        let metadata = fs::symlink_metadata(top.join(&path)).unwrap();
        let is_directory = metadata.is_dir();
        let target = metadata.is_symlink().then(|| fs::read_link(top.join(&path)).unwrap());
        let seen = Seen {
            kind: FileType::from_raw_mode(metadata.mode()),
            size: if is_directory { 0 } else { metadata.size() },
            mode: metadata.mode() & 0o7777,
            target: target.map(|target| target.into_os_string().as_bytes().to_vec()),
            nlink: if is_directory { 0 } else { metadata.nlink() },
        };
        tell(&path, metadata.ino(), seen);
        if is_directory {
            look_at(top, &path, tell);
        }
    }
}

#[derive(Clone, Debug)]
enum Change {
    File(String),
    Directory(String),
    Symlink(String),
    Unlink(String),
    RemoveDirectory(String),
    Link(String, String),
    Rename(String, String, Rename),
    Forget,
    Reopen,
    ReopenAndFind,
}

fn path() -> impl Strategy<Value = String> {
    prop::collection::vec("[a-d]", 1..4).prop_map(|names| names.join("/"))
}

fn change() -> impl Strategy<Value = Change> {
    let how =
        prop_oneof![4 => Just(Rename::Replace), 1 => Just(Rename::NoReplace), 2 => Just(Rename::Exchange)];
    prop_oneof![
        2 => path().prop_map(Change::File),
        2 => path().prop_map(Change::Directory),
        1 => path().prop_map(Change::Symlink),
        4 => path().prop_map(Change::Unlink),
        4 => path().prop_map(Change::RemoveDirectory),
        2 => (path(), path()).prop_map(|(from, to)| Change::Link(from, to)),
        6 => (path(), path(), how).prop_map(|(from, to, how)| Change::Rename(from, to, how)),
        1 => Just(Change::Forget),
        1 => Just(Change::Reopen),
        1 => Just(Change::ReopenAndFind),
    ]
}

/// The kernel does not ask for a rename of a directory into itself.
fn is_asked(change: &Change) -> bool {
    match change {
        Change::Rename(from, to, _) => {
            let within = |one: &str, other: &str| one == other || one.starts_with(&format!("{other}/"));
            !within(from, to) && !within(to, from)
        }
        _ => true,
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn names_change_as_on_a_plain_directory(
        changes in prop::collection::vec(change().prop_filter("asked", is_asked), 1..40),
        in_memory in any::<bool>(),
    ) {
        let mut pair = Pair::new(if in_memory { "/dev/shm" } else { "/tmp" });
        pair.check();
        for change in &changes {
            pair.change(change);
            pair.check();
        }
        pair.reopen();
        pair.check();
        // Completing shows nothing, and leaves the tree on the disk.
        pair.names().complete().unwrap();
        pair.check();
        pair.check_disk();
        pair.names().complete().unwrap();
        for change in &changes {
            pair.change(change);
            pair.check();
        }
        pair.check_disk();
    }
}
