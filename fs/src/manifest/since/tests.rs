//! What is sent to whom, from snapshots as a node keeps them.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;

use super::*;
use crate::manifest::carried::tests::Place;
use crate::manifest::walk::MANIFEST_FILE;
use crate::origin::{LocalOrigin, ReadPool};

/// Takes a snapshot and puts it where a node would.
fn snapshot(place: &Place) -> PathBuf {
    let made = place.snapshot("new", &[]);
    let id = Manifest::open(&made.join(MANIFEST_FILE)).unwrap().snapshot();
    let directory = made.with_file_name(id.to_string());
    fs::rename(made, &directory).unwrap();
    directory
}

/// Fetches the second of two snapshots over the manifest of the first, after `change` of the first's directory; how
/// much is carried.
async fn carried(change: impl FnOnce(&Path)) -> u32 {
    let place = Place::new();
    ["a/x", "a/y", "b"].into_iter().for_each(|path| place.write(path, "content"));
    let old = snapshot(&place);
    let path = place.at("../fetched");
    fs::copy(old.join(MANIFEST_FILE), &path).unwrap();
    let base = Manifest::open(&path).unwrap();
    place.write("a/y", "other content");
    let new = snapshot(&place);
    change(&old);
    let origin: Arc<dyn Origin> = Arc::new(LocalOrigin::open(&new, ReadPool::default()).unwrap());
    let (fetched, carried) = fetch_since(&*origin, &base, &path).await.unwrap();
    assert_eq!(fetched.snapshot(), origin.snapshot());
    assert!(fs::read(path).unwrap() == fs::read(new.join(MANIFEST_FILE)).unwrap());
    // The old one is still there for whoever has it open.
    assert_eq!(base.entry(crate::manifest::EntryIndex(1)).unwrap().name(), b"a");
    carried.entries()
}

#[tokio::test]
async fn what_an_origin_keeps_of_the_base_decides_what_it_sends() {
    assert_eq!(carried(|_| {}).await, 3);
    let remove = |file: &'static str| move |old: &Path| fs::remove_file(old.join(file)).unwrap();
    assert_eq!(carried(remove("stamps")).await, 0);
    assert_eq!(carried(remove(MANIFEST_FILE)).await, 0);
    assert_eq!(carried(|old| fs::remove_dir_all(old).unwrap()).await, 0);
    assert_eq!(carried(|old| fs::write(old.join("stamps"), "damaged").unwrap()).await, 0);
}
