//! What random changes do not come by: crashes, strangers, and what happens at the same time.

use std::os::fd::AsFd;
use std::os::unix::fs::PermissionsExt;
use std::sync::atomic::Ordering::Release;

use super::*;
use crate::replica::store::StoreError;

/// Nobody looks for what was moved before, until somebody asks for an inode that is not in its place.
#[test]
fn what_was_moved_is_found_when_it_is_asked_for() {
    let mut pair = Pair::new("/tmp");
    let key = |pair: &Pair, path| {
        let (directory, name) = pair.resolve(path).unwrap();
        pair.names().lookup(directory, name).unwrap().unwrap().key()
    };
    let number = |pair: &Pair, key| {
        let file =
            pair.names().open_file(key, OFlags::PATH)?.map(|file| rustix::fs::fstat(&file).unwrap().st_ino);
        Ok::<_, StoreError>(file)
    };
    let paths = ["a/a", "a/b/a", "a/b/c/b", "a/c", "b/d", "d", "c/b"];
    let keys = paths.map(|path| key(&pair, path));
    // As a write to it does.
    pair.names().place(keys[2]).unwrap();
    let rename = |from: &str, to: &str| Change::Rename(from.into(), to.into(), Rename::Replace);
    let changes = [
        Change::Directory("m".into()),
        rename("a/a", "m/a"),
        rename("a/b/c", "m/c"),
        rename("a", "c/z"),
        Change::File("a".into()),
        Change::Unlink("b/d".into()),
        rename("c/b", "d"),
        rename("c/d", "b/d"),
    ];
    changes.iter().for_each(|change| pair.change(change));
    let numbers = keys.map(|key| number(&pair, key).ok().flatten());
    let found = numbers.map(|number| number.is_some());
    assert_eq!(found, [true, false, true, true, false, false, true], "nobody has used a/b/a");
    for first in 0..keys.len() {
        pair.reopen();
        let order = (first..keys.len()).chain(0..first);
        for at in order {
            let again = number(&pair, keys[at]);
            match paths[at] {
                "b/d" | "d" => assert!(matches!(again, Err(StoreError::Removed)), "{again:?}"),
                path => assert_eq!(again.unwrap(), numbers[at], "{path}"),
            }
        }
        pair.check();
    }
    // Also when it is moved on before that.
    pair.reopen();
    pair.change(&rename("m", "c/m"));
    pair.change(&rename("c/z", "m"));
    assert_eq!(numbers, keys.map(|key| number(&pair, key).ok().flatten()));
}

/// The directory that it lies in is moved on while it is looked for.
#[test]
fn what_was_moved_is_found_while_directories_are_moved() {
    let mut pair = Pair::new("/dev/shm");
    let (directory, name) = pair.resolve("a/a").unwrap();
    let key = pair.names().lookup(directory, name).unwrap().unwrap().key();
    let rename = |from: &str, to: &str| Change::Rename(from.into(), to.into(), Rename::Replace);
    let made = ["m", "m/n", "z", "z/y"].map(|path| Change::Directory(path.into()));
    made.iter().chain([&rename("a/a", "m/n/x")]).for_each(|change| pair.change(change));
    let number = pair.number(key);
    for _ in 0..100 {
        pair.reopen();
        let is_found = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let at = |path| pair.resolve(path).unwrap();
                while !is_found.load(Acquire) {
                    let (one, other) = (at("m/n"), at("z/y/n"));
                    pair.names().rename(one, other, Rename::Replace).unwrap();
                    pair.names().rename(other, one, Rename::Replace).unwrap();
                }
            });
            let found = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| pair.number(key)));
            is_found.store(true, Release);
            assert_eq!(found.unwrap(), number);
        });
    }
}

/// A directory that was made here and that its own user closed beneath the mount.
#[test]
fn a_directory_that_cannot_be_looked_into_is_opened() {
    let name = "replica::names::tests::cases::a_directory_that_cannot_be_looked_into_is_opened";
    crate::ordinary_user::run(name, || {
        let mut pair = Pair::new("/tmp");
        let (a, _) = pair.resolve("a/a").unwrap();
        let key = pair.names().lookup(a, b"a").unwrap().unwrap().key();
        pair.change(&Change::Directory("m".into()));
        pair.change(&Change::Rename("a/a".into(), "m/x".into(), Rename::Replace));
        let number = pair.number(key);
        let closed = pair.base.path().join("replica/tree/m");
        let close = |mode| fs::set_permissions(&closed, fs::Permissions::from_mode(mode)).unwrap();
        for by_name in [false, true] {
            close(0o010);
            pair.reopen();
            if by_name {
                let (m, _) = pair.resolve("m/x").unwrap();
                assert_eq!(pair.names().lookup(m, b"x").unwrap().unwrap().key(), key);
            }
            assert_eq!(pair.number(key), number);
            let Some(Found::OnDisk(found)) = pair.names().lookup(ROOT, b"m").unwrap() else { panic!("m") };
            assert_eq!(found.mode(), 0o010);
        }
        close(0);
        pair.reopen();
        pair.names().complete().unwrap();
    });
}

/// Where a crash leaves a directory that was moved onto a removed name, out of one in which nothing shows through.
#[test]
fn a_whiteout_that_is_left_over_is_not_seen() {
    for sweep in [
        |pair: &mut Pair| pair.names().complete().unwrap(),
        |pair: &mut Pair| {
            pair.change(&Change::RemoveDirectory("m".into()));
        },
    ] {
        let mut pair = Pair::new("/tmp");
        let (moved, removed) = ("m/x".to_owned(), "d".to_owned());
        for change in
            [Change::Unlink(removed.clone()), Change::Directory("m".into()), Change::Directory(moved)]
        {
            pair.change(&change);
        }
        let tree = fs::File::open(pair.base.path().join("replica/tree")).unwrap();
        staging::mark(tree.as_fd(), b"d").unwrap();
        rustix::fs::renameat_with(&tree, "m/x", &tree, "d", RenameFlags::EXCHANGE).unwrap();
        fs::rename(pair.plain("m/x"), pair.plain("d")).unwrap();
        pair.reopen();
        pair.check();
        sweep(&mut pair);
        pair.check();
        let left = fs::read_dir(pair.base.path().join("replica/tree/m"));
        assert!(left.is_err() || left.unwrap().next().is_none(), "it is still there");
    }
}

#[test]
fn a_whiteout_that_somebody_made_is_a_device() {
    let mut pair = Pair::new("/tmp");
    let device = Made::Special(FileType::CharacterDevice, 0);
    let make = |pair: &Pair, path: &str, mode| {
        pair.make(path, &device, mode).unwrap().map_err(|error| {
            assert_eq!(error, NamesError::System(Errno::PERM), "{path}");
        })
    };
    assert!(make(&pair, "here", 0o600).is_err(), "where names show it would hide one");
    pair.change(&Change::Directory("m".into()));
    assert!(make(&pair, "m/none", 0o5000).is_err(), "it would not be seen");
    for path in ["a/b/c/x", "m/x"] {
        if path.starts_with('a') {
            pair.names().complete().unwrap();
        }
        make(&pair, path, 0).unwrap();
        let plain = rustix::fs::mknodat(CWD, pair.plain(path), FileType::CharacterDevice, 0.into(), 0);
        plain.unwrap();
        pair.reopen();
        pair.check();
        pair.names().complete().unwrap();
        pair.check();
    }
}

/// Each of the names is taken away by a thread of its own.
#[test]
fn one_of_two_names_removed_at_once_is_the_last() {
    let mut pair = Pair::new("/dev/shm");
    for _ in 0..200 {
        pair.change(&Change::File("a/x".into()));
        pair.change(&Change::Link("a/x".into(), "b/x".into()));
        let names = ["a/x", "b/x"];
        let removed = std::thread::scope(|scope| {
            let remove = |path| {
                let (directory, name) = pair.resolve(path).unwrap();
                pair.names().unlink(directory, name).unwrap()
            };
            names.map(|path| scope.spawn(move || remove(path))).map(|thread| thread.join().unwrap())
        });
        assert!(removed.iter().any(|removed| removed.was_last), "{removed:?}");
        names.iter().for_each(|path| fs::remove_file(pair.plain(path)).unwrap());
    }
}
