//! Files that somebody goes on reading from a later snapshot.

use super::*;
use crate::manifest::{Carried, fetch_since};

/// Two snapshots of a tree in which `d/f` and its other name `e/g` stayed as they were.
struct Pair {
    place: Place,
    old: LocalOrigin,
    new: LocalOrigin,
}

impl Pair {
    fn new() -> Self {
        let place = Place::new();
        place.write("d/f", content(1, 10 * BLOCK_BYTES as usize));
        place.write("e/h", content(2, 3 * BLOCK_BYTES as usize));
        fs::hard_link(place.at("d/f"), place.at("e/g")).unwrap();
        let old = open(&snapshot(&place));
        place.write("e/other", "changed in between");
        let new = open(&snapshot(&place));
        Self { place, old, new }
    }

    /// Whether `d/f`, its other name and `e/h` are carried, as somebody is told who has the old snapshot.
    async fn carried(&self) -> [bool; 3] {
        let path = self.place.snapshot.path().join("received");
        let (_, carried): (_, Carried) = fetch_since(&self.new, self.old.manifest(), &path).await.unwrap();
        ["d/f", "e/g", "e/h"].map(|path| carried.old_of(index(&self.new, path)).is_some())
    }

    /// Puts other bytes into block 2, which looks the same.
    fn change(&self) {
        with_old_times(&self.place, |path| flip(path, 2 * BLOCK_BYTES + 7));
    }
}

/// Takes a snapshot and puts it beside the others, under its id.
fn snapshot(place: &Place) -> PathBuf {
    let made = place.snapshot.path().join("new");
    fs::create_dir(&made).unwrap();
    let (cancel, progress) = (AtomicBool::new(false), WalkProgress::default());
    let options = WalkOptions { threads: 2, exclude: &[], cancel: &cancel, progress: &progress };
    let id = build(&made, &[place.tree.path().into()], &options).unwrap().snapshot();
    let directory = made.with_file_name(id.to_string());
    fs::rename(made, &directory).unwrap();
    directory
}

/// As if all changes were long ago.
fn open(directory: &Path) -> LocalOrigin {
    LocalOrigin::open_with(directory, ReadPool::default(), Duration::ZERO).unwrap()
}

#[tokio::test]
async fn what_the_earlier_snapshot_gave_away_binds_the_later_one() {
    let pair = Pair::new();
    assert_eq!(read_blocks(&pair.old, &[0, 2]).await, [Ok(()), Ok(())]);
    assert_eq!(pair.carried().await, [true, true, true]);
    pair.change();
    assert_eq!(read_blocks(&pair.new, &[2, 0]).await, [CHANGED, Ok(())]);
    let again = open(pair.new.manifest().path().parent().unwrap());
    assert_eq!(read_blocks(&again, &[2, 0]).await, [CHANGED, Ok(())], "after a restart");
}

#[tokio::test]
async fn what_it_gives_away_later_binds_too() {
    let pair = Pair::new();
    assert_eq!(pair.carried().await, [true, true, true]);
    assert_eq!(read_blocks(&pair.old, &[0]).await, [Ok(())]);
    pair.change();
    assert_eq!(read_blocks(&pair.new, &[2]).await, [CHANGED]);
}

#[tokio::test]
async fn what_both_gave_away_differently_is_not_carried() {
    let pair = Pair::new();
    assert_eq!(read_blocks(&pair.old, &[2]).await, [Ok(())]);
    pair.change();
    assert_eq!(read_blocks(&pair.new, &[2]).await, [Ok(())]);
    assert_eq!(pair.carried().await, [false, false, true]);
}

#[tokio::test]
async fn what_nobody_has_may_be_another_that_looks_the_same() {
    let pair = Pair::new();
    assert_eq!(pair.carried().await, [true, true, true]);
    pair.change();
    assert_eq!(read_blocks(&pair.new, &[2, 0]).await, [Ok(()), Ok(())]);
}
