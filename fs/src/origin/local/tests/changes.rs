//! Files that are other ones, or seem to be, after the snapshot was taken.

use super::*;

/// A change to the file `d/f`, of 200,000 bytes, and what is served after it.
struct Change {
    what: &'static str,
    change: fn(&Place),
    /// The file is read before the change too.
    served_before: bool,
    expected: Result<(), FileFault>,
}

const CHANGES: &[Change] = &[
    Change { what: "nothing", change: |_| {}, served_before: true, expected: Ok(()) },
    Change {
        what: "appended to",
        change: |place| {
            let file = File::options().append(true).open(place.at("d/f")).unwrap();
            std::io::Write::write_all(&mut &file, b"x").unwrap();
        },
        served_before: true,
        expected: CHANGED,
    },
    Change {
        what: "truncated",
        change: |place| File::options().write(true).open(place.at("d/f")).unwrap().set_len(199_999).unwrap(),
        served_before: false,
        expected: CHANGED,
    },
    Change {
        what: "overwritten",
        change: |place| fs::write(place.at("d/f"), content(8, 200_000)).unwrap(),
        served_before: true,
        expected: CHANGED,
    },
    Change {
        what: "replaced by the same content",
        change: |place| {
            fs::copy(place.at("d/f"), place.at("new")).unwrap();
            fs::rename(place.at("new"), place.at("d/f")).unwrap();
        },
        served_before: true,
        expected: CHANGED,
    },
    Change {
        what: "removed",
        change: |place| fs::remove_file(place.at("d/f")).unwrap(),
        served_before: true,
        expected: CHANGED,
    },
    Change {
        what: "renamed",
        change: |place| fs::rename(place.at("d/f"), place.at("d/g")).unwrap(),
        served_before: false,
        expected: Ok(()),
    },
    Change {
        what: "renamed and back",
        change: |place| {
            fs::rename(place.at("d"), place.at("e")).unwrap();
            fs::rename(place.at("e/f"), place.at("f")).unwrap();
            fs::create_dir(place.at("d")).unwrap();
            fs::rename(place.at("f"), place.at("d/f")).unwrap();
        },
        served_before: true,
        expected: Ok(()),
    },
    Change {
        what: "its directory renamed",
        change: |place| fs::rename(place.at("d"), place.at("e")).unwrap(),
        served_before: true,
        expected: Ok(()),
    },
    Change {
        what: "its directory replaced by a link to itself",
        change: |place| {
            fs::rename(place.at("d"), place.at("e")).unwrap();
            symlink("e", place.at("d")).unwrap();
        },
        served_before: true,
        expected: Ok(()),
    },
    Change {
        what: "replaced by a link",
        change: |place| {
            fs::rename(place.at("d/f"), place.at("f")).unwrap();
            symlink("../f", place.at("d/f")).unwrap();
        },
        served_before: false,
        expected: Ok(()),
    },
    Change {
        what: "replaced by a FIFO",
        change: |place| {
            fs::remove_file(place.at("d/f")).unwrap();
            rustix::fs::mknodat(CWD, place.at("d/f"), rustix::fs::FileType::Fifo, Mode::RUSR, 0).unwrap();
        },
        served_before: true,
        expected: CHANGED,
    },
    Change {
        what: "replaced by a directory",
        change: |place| {
            fs::remove_file(place.at("d/f")).unwrap();
            fs::create_dir(place.at("d/f")).unwrap();
        },
        served_before: true,
        expected: CHANGED,
    },
    Change {
        what: "given other permissions",
        change: |place| fs::set_permissions(place.at("d/f"), fs::Permissions::from_mode(0o600)).unwrap(),
        served_before: true,
        expected: Ok(()),
    },
    Change {
        what: "given another name",
        change: |place| fs::hard_link(place.at("d/f"), place.at("d/g")).unwrap(),
        served_before: false,
        expected: Ok(()),
    },
    Change {
        what: "written with the same bytes and its old times",
        change: |place| with_old_times(place, |path| fs::write(path, content(1, 200_000)).unwrap()),
        served_before: true,
        expected: Ok(()),
    },
    Change {
        what: "written with other bytes and its old times",
        change: |place| with_old_times(place, |path| fs::write(path, content(2, 200_000)).unwrap()),
        served_before: true,
        expected: CHANGED,
    },
    Change {
        what: "its root renamed",
        change: |place| {
            let moved = place.tree.path().with_extension("moved");
            fs::rename(place.tree.path(), &moved).unwrap();
            fs::rename(&moved, place.tree.path().with_extension("again")).unwrap();
        },
        served_before: true,
        expected: CHANGED,
    },
    Change {
        what: "replaced by a copy with its times",
        change: |place| {
            with_old_times(place, |path| {
                fs::copy(path, place.at("new")).unwrap();
                fs::rename(place.at("new"), path).unwrap();
            });
        },
        served_before: true,
        expected: Ok(()),
    },
    Change {
        what: "replaced by another file with its times",
        change: |place| {
            with_old_times(place, |path| {
                fs::write(place.at("new"), content(2, 200_000)).unwrap();
                fs::rename(place.at("new"), path).unwrap();
            });
        },
        served_before: true,
        expected: CHANGED,
    },
    Change {
        what: "moved to a new root",
        change: |place| {
            let moved = place.tree.path().with_extension("again");
            fs::rename(place.tree.path(), &moved).unwrap();
            fs::create_dir(place.tree.path()).unwrap();
            fs::rename(moved.join("d"), place.at("d")).unwrap();
        },
        served_before: true,
        expected: Ok(()),
    },
    Change {
        what: "its root replaced",
        change: |place| {
            fs::rename(place.tree.path(), place.tree.path().with_extension("again")).unwrap();
            place.write("d/f", content(1, 200_000));
        },
        served_before: true,
        expected: CHANGED,
    },
];

#[tokio::test]
async fn a_changed_file_is_a_fault_and_never_bytes() {
    for case in CHANGES {
        // With everything hot, as it is right after a change, and as if the change were long ago.
        for hot in [HOT, Duration::ZERO] {
            let place = Place::new();
            place.write("d/f", content(1, 200_000));
            place.walk();
            let open = || LocalOrigin::open_with(place.snapshot.path(), ReadPool::default(), hot).unwrap();
            let origin = open();
            if case.served_before {
                assert_eq!(read_one(&origin, "d/f").await.unwrap(), content(1, 200_000));
            }
            (case.change)(&place);
            let found = [read_one(&origin, "d/f").await, read_one(&origin, "d/f").await];
            // A restart changes nothing.
            let found = [&found[..], &[read_one(&open(), "d/f").await]].concat();
            let expected = case.expected.clone().map(|()| content(1, 200_000));
            assert!(
                found.iter().all(|found| *found == expected),
                "{}: {:?}",
                case.what,
                found[0].as_ref().err()
            );
            let _ = fs::remove_dir_all(place.tree.path().with_extension("again"));
        }
    }
}

/// What is served of a file of ten blocks after `change`, if block 0 was read before it, or all of it.
async fn check(what: &str, whole: bool, change: impl Fn(&Path), expected: &[(u64, Result<(), FileFault>)]) {
    let place = Place::new();
    place.write("d/f", content(1, 10 * BLOCK_BYTES as usize));
    place.walk();
    let origin = place.open_quiet();
    match whole {
        true => assert!(read_one(&origin, "d/f").await.is_ok()),
        false => assert_eq!(read_blocks(&origin, &[0]).await, [Ok(())]),
    }
    with_old_times(&place, change);
    let (blocks, expected): (Vec<_>, Vec<_>) = expected.iter().cloned().unzip();
    assert_eq!(read_blocks(&origin, &blocks).await, expected, "{what}");
    assert_eq!(read_blocks(&place.open_quiet(), &blocks).await, expected, "{what}, after a restart");
}

#[tokio::test]
async fn a_block_is_of_the_version_of_those_before_it_or_none() {
    let flipped = |block: u64| move |path: &Path| flip(path, block * BLOCK_BYTES + 7);
    let ok = |block| (block, Ok(()));
    let changed = |block| (block, CHANGED);
    // Block 0 is the same in both versions, and the one that is read next is not.
    check("another block", false, flipped(2), &[ok(0), changed(2), ok(0)]).await;
    check("the block itself", false, flipped(0), &[changed(0)]).await;
    check("a block of many", true, flipped(5), &[ok(0), ok(4), changed(5), ok(6), ok(9)]).await;
    let replaced = |path: &Path| {
        let new = path.with_extension("new");
        fs::copy(path, &new).unwrap();
        flip(&new, 2 * BLOCK_BYTES);
        fs::rename(new, path).unwrap();
    };
    check("another file", false, replaced, &[ok(0), changed(2)]).await;
    check("another file, read before", true, replaced, &[ok(0), ok(1), changed(2), ok(3)]).await;
}

#[tokio::test]
async fn a_file_nobody_has_read_yet_may_be_another_that_looks_the_same() {
    for hot in [HOT, Duration::ZERO] {
        let place = Place::new();
        place.write("d/f", content(1, 200_000));
        place.walk();
        with_old_times(&place, |path| {
            fs::write(place.at("new"), content(2, 200_000)).unwrap();
            fs::rename(place.at("new"), path).unwrap();
        });
        let origin = LocalOrigin::open_with(place.snapshot.path(), ReadPool::default(), hot).unwrap();
        assert_eq!(read_one(&origin, "d/f").await, Ok(content(2, 200_000)));
    }
}
