//! Files that have moved, alone or with their directories, and have not changed.

use super::*;

/// A tree with a file three directories deep, another beside it, and one with two names.
fn place() -> Place {
    let place = Place::new();
    place.write("a/b/c/f", content(1, 200_000));
    place.write("a/b/c/g", content(2, 300_000));
    place.write("a/x", content(3, 100_000));
    fs::hard_link(place.at("a/x"), place.at("a/b/y")).unwrap();
    place
}

/// What is served of the files named after `change`; `None` is one that has changed.
async fn check(what: &str, change: impl Fn(&Place), expected: &[(&str, Option<u64>)]) {
    for read_before in [false, true] {
        let place = place();
        place.walk();
        let origin = place.open_quiet();
        let paths: Vec<_> = expected.iter().map(|(path, _)| *path).collect();
        if read_before {
            assert!(read(&origin, &paths).await.iter().all(|(.., end)| *end == Ok(())));
        }
        change(&place);
        for origin in [&origin, &place.open_quiet()] {
            for ((_, bytes, end), (path, seed)) in read(origin, &paths).await.into_iter().zip(expected) {
                match seed {
                    Some(seed) => {
                        assert!(
                            end == Ok(()) && bytes == content(*seed, bytes.len()),
                            "{what}: {path} is {end:?}"
                        );
                    }
                    None => assert_eq!((end, bytes.len()), (CHANGED, 0), "{what}: {path}"),
                }
            }
        }
    }
}

fn rename(place: &Place, from: &str, to: &str) {
    fs::rename(place.at(from), place.at(to)).unwrap();
}

#[tokio::test]
async fn what_has_moved_is_found_again() {
    let all = [("a/b/c/f", Some(1)), ("a/b/c/g", Some(2)), ("a/x", Some(3)), ("a/b/y", Some(3))];
    check("a directory", |place| rename(place, "a/b", "b"), &all).await;
    check("the one at the top", |place| rename(place, "a", "z"), &all).await;
    check(
        "one into another, both moved",
        |place| {
            rename(place, "a/b/c", "c");
            rename(place, "a", "c/a");
        },
        &all,
    )
    .await;
    check(
        "another is in its place",
        |place| {
            rename(place, "a", "z");
            place.write("a/b/c/f", content(9, 200_000));
            place.write("a/b/c/g", "x");
        },
        &all,
    )
    .await;
    check(
        "files alone",
        |place| {
            rename(place, "a/b/c/f", "f");
            rename(place, "a/b/c/g", "a/b/c/f");
            rename(place, "a/x", "a/z");
        },
        &all,
    )
    .await;
    check("one of two names is gone", |place| fs::remove_file(place.at("a/x")).unwrap(), &all).await;
    check(
        "the other one, and its directory moved",
        |place| {
            fs::remove_file(place.at("a/b/y")).unwrap();
            rename(place, "a", "z");
        },
        &all,
    )
    .await;
}

#[tokio::test]
async fn what_has_not_only_moved_is_changed() {
    let changed = [("a/b/c/f", None), ("a/b/c/g", Some(2))];
    check(
        "written to after",
        |place| {
            rename(place, "a", "z");
            fs::write(place.at("z/b/c/f"), content(9, 200_000)).unwrap();
        },
        &changed,
    )
    .await;
    check(
        "replaced after",
        |place| {
            rename(place, "a/b", "b");
            place.write("new", content(9, 200_001));
            rename(place, "new", "b/c/f");
        },
        &changed,
    )
    .await;
    check(
        "removed after",
        |place| {
            rename(place, "a/b", "b");
            fs::remove_file(place.at("b/c/f")).unwrap();
        },
        &changed,
    )
    .await;
    check(
        "outside",
        |place| {
            rename(place, "a/b/c/f", "g");
            fs::remove_file(place.at("g")).unwrap();
        },
        &changed,
    )
    .await;
}

#[tokio::test]
async fn one_walk_answers_for_all_files() {
    let place = Place::new();
    (0..500).for_each(|i| place.write(&format!("d/{}/{i}", i % 7), content(i, 1000)));
    (0..500).for_each(|i| place.write(&format!("e/{i}"), content(i, 1000)));
    let origin = place.serve();
    (0..500).for_each(|i| rename(&place, &format!("d/{}/{i}", i % 7), &format!("e{i}")));
    fs::remove_dir_all(place.at("e")).unwrap();
    let moved: Vec<_> = (0..500).map(|i| format!("d/{}/{i}", i % 7)).collect();
    let got = read(&origin, &moved.iter().map(String::as_str).collect::<Vec<_>>()).await;
    assert!(got.iter().zip(0..).all(|((_, bytes, end), i)| *end == Ok(()) && *bytes == content(i, 1000)));
    let seen = || origin.files.sighting(EntryIndex(0)).unwrap().began;
    let began = seen();
    let removed: Vec<_> = (0..500).map(|i| format!("e/{i}")).collect();
    let got = read(&origin, &removed.iter().map(String::as_str).collect::<Vec<_>>()).await;
    assert!(got.iter().all(|(.., end)| *end == CHANGED));
    assert_eq!(seen(), began, "a second walk");
}

#[tokio::test]
async fn what_moves_again_is_found_again() {
    let place = place();
    let origin = place.serve();
    for (from, to) in [("a", "z"), ("z/b", "b"), ("b", "z/e")] {
        rename(&place, from, to);
        assert_eq!(read_one(&origin, "a/b/c/f").await, Ok(content(1, 200_000)), "{to}");
    }
}

#[tokio::test]
async fn a_move_while_the_file_is_read_is_not_noticed() {
    let place = Place::new();
    place.write("d/f", content(1, 8 << 20));
    let origin = place.serve();
    let mut deliveries = origin.read_files(vec![index(&origin, "d/f")], Class::Demand);
    let Some(Ok(Delivery::Run(first))) = deliveries.recv().await else { panic!("no first run") };
    rename(&place, "d", "e");
    let mut bytes = first.bytes.to_vec();
    while let Some(delivery) = deliveries.recv().await {
        match delivery.unwrap() {
            Delivery::Run(run) => bytes.extend_from_slice(&run.bytes),
            Delivery::End(_) => break,
            Delivery::Fault(_, fault) => panic!("{fault}"),
        }
    }
    assert!(bytes == content(1, 8 << 20));
}
