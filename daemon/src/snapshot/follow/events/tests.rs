//! What is heard of directories on a real disk.

use std::fs;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use tokio::time::timeout;
use twinshare_fs::manifest::walk::{WalkOptions, WalkProgress, build};

use super::*;

const SOON: Duration = Duration::from_secs(20);

/// A tree with directories `a` and `a/b`, and the allowance of whoever listens to it.
struct Place {
    base: tempfile::TempDir,
    allowance: Arc<Allowance>,
}

impl Place {
    fn new(watches: usize) -> Self {
        let base = tempfile::tempdir().unwrap();
        fs::create_dir_all(base.path().join("w/a/b")).unwrap();
        fs::create_dir(base.path().join("snapshot")).unwrap();
        Self { base, allowance: Arc::new(Allowance::of(watches)) }
    }

    fn at(&self, path: &str) -> PathBuf {
        self.base.path().join("w").join(path)
    }

    /// Listens to the tree as it is now.
    async fn cover(&self, events: Events) -> Events {
        let directory = self.base.path().join("snapshot");
        let (cancel, progress) = (AtomicBool::new(false), WalkProgress::default());
        let options = WalkOptions { threads: 1, exclude: &[], cancel: &cancel, progress: &progress };
        build(&directory, &[self.at("")], &options).unwrap();
        events.cover(directory).await
    }

    async fn listen(&self) -> Events {
        self.cover(Events::new(self.allowance.clone())).await
    }
}

#[tokio::test]
async fn changes_are_heard_and_reading_is_not() {
    let place = Place::new(100);
    fs::write(place.at("a/b/f"), "content").unwrap();
    let mut events = place.listen().await;
    assert!(events.is_complete());
    assert_eq!((events.heard(), place.allowance.left()), (3, 97));
    assert!(!events.clear());
    fs::read(place.at("a/b/f")).unwrap();
    fs::read_dir(place.at("a")).unwrap().count();
    events = place.cover(events).await;
    assert!(!events.clear(), "reading is a change");
    assert_eq!(events.heard(), 3);
    let changes: [&dyn Fn() -> std::io::Result<()>; 6] = [
        &|| fs::write(place.at("a/b/f"), "other content"),
        &|| fs::write(place.at("new"), ""),
        &|| fs::rename(place.at("new"), place.at("a/new")),
        &|| fs::set_permissions(place.at("a/new"), std::os::unix::fs::PermissionsExt::from_mode(0o700)),
        &|| fs::remove_file(place.at("a/new")),
        &|| fs::create_dir(place.at("a/b/c")),
    ];
    for change in changes {
        change().unwrap();
        timeout(SOON, events.happened()).await.unwrap();
        while events.clear() {}
    }
    // Nothing is heard of what is in a new directory before it is covered.
    fs::write(place.at("a/b/c/f"), "").unwrap();
    assert!(!events.clear());
    events = place.cover(events).await;
    assert_eq!(events.heard(), 4);
    fs::write(place.at("a/b/c/f"), "content").unwrap();
    timeout(SOON, events.happened()).await.unwrap();
    fs::remove_dir_all(place.at("a")).unwrap();
    timeout(SOON, events.happened()).await.unwrap();
    while events.clear() {}
    assert_eq!(place.allowance.left(), 99, "what is removed takes no watch");
    drop(events);
    assert_eq!(place.allowance.left(), 100);
}

#[tokio::test]
async fn what_is_not_heard_is_said() {
    let place = Place::new(2);
    let mut events = place.listen().await;
    assert!(!events.is_complete());
    assert_eq!((events.heard(), place.allowance.left()), (2, 0));
    // The top of the tree is heard all the same.
    fs::write(place.at("f"), "").unwrap();
    timeout(SOON, events.happened()).await.unwrap();
    drop(events);
    assert_eq!(place.allowance.left(), 2);
}

#[tokio::test]
async fn lost_events_begin_it_anew() {
    let place = Place::new(100);
    let mut events = place.listen().await;
    let queued: usize =
        fs::read_to_string("/proc/sys/fs/inotify/max_queued_events").unwrap().trim().parse().unwrap();
    // Each makes three events that differ from those before.
    for _ in 0..=queued / 3 {
        fs::write(place.at("f"), "").unwrap();
        fs::remove_file(place.at("f")).unwrap();
    }
    while events.clear() {}
    assert!(events.is_lost() && !events.is_complete());
    events = place.cover(events).await;
    assert!(events.is_complete() && !events.clear());
    assert_eq!(place.allowance.left(), 97);
    fs::write(place.at("a/b/f"), "").unwrap();
    timeout(SOON, events.happened()).await.unwrap();
}

#[tokio::test]
async fn what_cannot_be_listed_is_heard_of_when_it_can() {
    use std::os::unix::fs::PermissionsExt;
    let place = Place::new(100);
    fs::create_dir(place.at("a/closed")).unwrap();
    let set = |mode| fs::set_permissions(place.at("a/closed"), PermissionsExt::from_mode(mode)).unwrap();
    set(0o000);
    let mut events = place.listen().await;
    assert!(events.is_complete(), "nothing in it is in a snapshot");
    set(0o700);
    timeout(SOON, events.happened()).await.unwrap();
}
