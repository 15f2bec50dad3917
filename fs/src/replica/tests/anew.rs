//! Files that changed at the origin before they were here: each gets one version as a whole, or stays what it was.

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::sync::Mutex;

use super::scripted::Now;
use super::status::{ChangedFiles, ChangedList};
use super::*;
use crate::origin::Version;
use crate::replica::anew::{Became, Decision, ResolveError, Watch};
use crate::replica::names::{Found, Rename};

const ROOT: InodeKey = InodeKey::Entry(EntryIndex(0));
const SIZE: u64 = 6 * BLOCK + 100;

/// A clone that fetches everything from now on, with these files.
async fn bench(files: &[TestFile], filesystem: &str, before: impl FnOnce(&ScriptedOrigin)) -> Bench {
    let bench = Bench::writable(files, filesystem);
    before(&bench.origin);
    hydrating(bench).await
}

/// Opens it again, to fetch everything.
async fn hydrating(mut bench: Bench) -> Bench {
    bench.hydrate = true;
    bench.reopened().await
}

impl Bench {
    fn names(&self) -> &Arc<names::Names> {
        self.replica.names().unwrap()
    }

    fn found(&self, path: &str) -> Option<Found<'_>> {
        let mut at = ROOT;
        let mut found = None;
        for name in path.split('/') {
            found = self.names().lookup(at, name.as_bytes()).unwrap();
            at = found.as_ref()?.key();
        }
        found
    }

    fn bytes_of(&self, path: &str) -> Vec<u8> {
        std::fs::read(self.on_disk(path)).unwrap()
    }

    fn changed(&self) -> ChangedFiles {
        self.replica.status().changed
    }
}

fn paths(list: &ChangedList) -> Vec<&str> {
    assert_eq!(list.total, list.listed.len() as u64);
    list.listed.iter().map(|file| file.path.as_str()).collect()
}

fn newer(content: &TestFile) -> Now {
    Now::File { content: content.content.clone(), mode: 0o755, names: vec![] }
}

fn newer_of(content: &TestFile, names: &[&'static str]) -> Now {
    match newer(content) {
        Now::File { content, mode, .. } => Now::File { content, mode, names: names.to_vec() },
        other => other,
    }
}

async fn until(what: &str, is_so: impl Fn() -> bool) {
    let waiting = async {
        while !is_so() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(Duration::from_secs(900), waiting).await.unwrap_or_else(|_| panic!("never: {what}"));
}

async fn hydrated(bench: &Bench) {
    timeout(Duration::from_secs(900), bench.replica.hydrated()).await.expect("it does not become complete");
}

#[tokio::test(start_paused = true)]
async fn a_changed_file_is_taken_as_a_whole_and_the_clone_becomes_complete() {
    for filesystem in FILESYSTEMS {
        for held in [false, true] {
            let (old, other) = (file("d/f", SIZE), file("g", 100_000));
            let mut new = file("new", SIZE + 3 * BLOCK);
            let mut content = new.content.to_vec();
            content[..3 * BLOCK as usize].copy_from_slice(&old.content[..3 * BLOCK as usize]);
            new.content = content.into();
            let bench = Bench::writable(&[old, other.clone()], filesystem);
            if held {
                bench.check("d/f", 0, 3 * BLOCK).await;
                bench.replica.idle().await;
            }
            bench.origin.changes("d/f", newer_of(&new, &["d/f"]));
            let bench = hydrating(bench).await;
            hydrated(&bench).await;
            assert!(bench.bytes_of("d/f") == new.content);
            assert_eq!(bench.origin.sent(), if held { (7, 3) } else { (10, 0) });
            let stat = std::fs::metadata(bench.on_disk("d/f")).unwrap();
            assert_eq!((stat.mode() & 0o7777, stat.mtime(), stat.mtime_nsec()), (0o755, 1_700_000_000, 5));
            assert_eq!(paths(&bench.changed().taken_anew), ["d/f"]);
            assert_eq!(bench.changed().taken_anew.listed[0].became, Some(Became::TakenAnew));
            // It is read as what it is, and finished like all others, also after a restart.
            let key = bench.found("d/f").unwrap().key();
            let read = bench.replica.read(key, 0, u32::MAX).await.unwrap();
            assert!(read == new.content);
            let bench = bench.reopened().await;
            hydrated(&bench).await;
            assert_eq!(paths(&bench.changed().taken_anew), ["d/f"]);
            let key = bench.found("d/f").unwrap().key();
            assert!(bench.replica.read(key, 0, u32::MAX).await.unwrap() == new.content);
            let finishing = bench.replica.clone();
            tokio::task::spawn_blocking(move || finishing.finish()).await.unwrap().unwrap();
            assert!(bench.bytes_of("d/f") == new.content && bench.bytes_of("g") == other.content);
            let names = std::fs::read_dir(bench.replica.layout().path().join("staging")).unwrap();
            assert_eq!(names.count(), 1, "only the whiteout is left in staging");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_no_file_any_more_is_none_here() {
    let link = Version::Symlink { target: b"../x".to_vec(), mtime: Default::default() };
    let files = ["d/gone", "d/link", "d/stays"].map(|path| file(path, SIZE));
    let bench = bench(&files, "/tmp", |origin| {
        origin.changes("d/gone", Now::Version(Version::Absent));
        origin.changes("d/link", Now::Version(link));
    })
    .await;
    hydrated(&bench).await;
    assert!(bench.found("d/gone").is_none());
    assert_eq!(std::fs::read_link(bench.on_disk("d/link")).unwrap(), Path::new("../x"));
    assert_eq!(paths(&bench.changed().removed), ["d/gone"]);
    assert_eq!(paths(&bench.changed().taken_anew), ["d/link"]);
    let bench = bench.reopened().await;
    hydrated(&bench).await;
    assert!(bench.found("d/gone").is_none() && bench.found("d/link").is_some());
    assert_eq!(paths(&bench.changed().removed), ["d/gone"]);
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_had_is_listed_and_asked_for_again() {
    let content = file("new", SIZE).content;
    let check = async |now: Now, expected: Became| {
        let bench = bench(&[file("f", SIZE)], "/tmp", |origin| origin.changes("f", now)).await;
        until("it is listed", || bench.changed().unsettled.total == 1).await;
        assert_eq!(bench.changed().unsettled.listed[0].became, Some(expected));
        assert!(!*bench.replica.engine.counters.hydrated.borrow());
        assert!(matches!(bench.found("f"), Some(Found::Virtual(_))), "it is as it was");
        // At last it can be had.
        let new = file("newest", 70_000);
        bench.origin.changes("f", newer_of(&new, &["f"]));
        hydrated(&bench).await;
        assert!(bench.bytes_of("f") == new.content);
        assert_eq!(paths(&bench.changed().taken_anew), ["f"]);
        assert_eq!(bench.changed().unsettled.total, 0);
    };
    check(Now::Changing(content.clone()), Became::KeepsChanging).await;
    check(Now::Unreadable, Became::Unreadable).await;
    check(Now::Version(Version::Other), Became::AnotherKind).await;
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_breaks_off_or_lies_changes_nothing() {
    let content = file("new", SIZE).content;
    for now in [Now::Halting(content.clone()), Now::Liar(content), Now::Unknown] {
        let bench = bench(&[file("f", SIZE)], "/tmp", |origin| origin.changes("f", now.clone())).await;
        tokio::time::sleep(Duration::from_secs(300)).await;
        assert_eq!(paths(&bench.changed().waiting), ["f"], "{now:?}");
        assert!(matches!(bench.found("f"), Some(Found::Virtual(_))));
        let bench = bench.reopened().await;
        let new = file("newest", 70_000);
        bench.origin.changes("f", newer_of(&new, &["f"]));
        hydrated(&bench).await;
        assert!(bench.bytes_of("f") == new.content);
    }
}

#[tokio::test(start_paused = true)]
async fn names_of_one_file_stay_one_and_others_part() {
    let files = || [file("a", SIZE), file("d/b=a", SIZE)];
    let new = file("new", 2 * BLOCK);
    let all = bench(&files(), "/tmp", |origin| origin.changes("a", newer_of(&new, &["a", "d/b=a"]))).await;
    hydrated(&all).await;
    let inode = |bench: &Bench, path: &str| std::fs::metadata(bench.on_disk(path)).unwrap().ino();
    assert_eq!(inode(&all, "a"), inode(&all, "d/b"));
    assert!(all.bytes_of("a") == new.content);
    let other = file("other", 3 * BLOCK);
    let parted = bench(&files(), "/tmp", |origin| {
        origin.changes("a", newer_of(&new, &["a"]));
        origin.changes("d/b=a", newer_of(&other, &["d/b=a"]));
    })
    .await;
    hydrated(&parted).await;
    assert!(parted.bytes_of("a") == new.content && parted.bytes_of("d/b") == other.content);
    for bench in [all, parted] {
        let bench = bench.reopened().await;
        hydrated(&bench).await;
        assert_eq!(paths(&bench.changed().taken_anew), ["a"]);
        for path in ["a", "d/b"] {
            let key = bench.found(path).unwrap().key();
            let read = bench.replica.read(key, 0, u32::MAX).await.unwrap();
            assert!(read == bench.bytes_of(path));
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_file_that_was_moved_here_is_replaced_where_it_is() {
    let new = file("new", 70_000);
    let bench = Bench::writable(&[file("d/f", SIZE), file("e/g", SIZE)], "/tmp");
    let (d, e) = (bench.found("d").unwrap().key(), bench.found("e").unwrap().key());
    bench.check("d/f", 0, BLOCK).await;
    bench.replica.idle().await;
    bench.names().rename((d, b"f"), (e, b"moved"), Rename::NoReplace).unwrap();
    bench.replica.changed(bench.tree.index("d/f")).unwrap();
    bench.origin.changes("d/f", newer_of(&new, &["d/f"]));
    let bench = hydrating(bench).await;
    hydrated(&bench).await;
    assert!(bench.bytes_of("e/moved") == new.content);
    assert!(bench.found("d/f").is_none());
    let bench = bench.reopened().await;
    hydrated(&bench).await;
    assert!(bench.found("e/moved").is_some() && bench.found("d/f").is_none());
}

#[tokio::test(start_paused = true)]
async fn a_file_that_was_changed_here_is_never_replaced() {
    let new = file("new", SIZE);
    for what in ["write", "write and hide it", "cut", "mode", "xattr", "link"] {
        let bench = Bench::writable(&[file("f", SIZE)], "/tmp");
        let key: InodeKey = bench.tree.index("f").into();
        bench.names().place(key).unwrap();
        match what {
            "write" => _ = bench.replica.write(key, 0, vec![9; BLOCK as usize].into()).await.unwrap(),
            "write and hide it" => {
                bench.replica.write(key, 0, vec![9; BLOCK as usize].into()).await.unwrap();
                let mtime = Some(bench.tree.manifest.entry(bench.tree.index("f")).unwrap().mtime());
                bench.replica.set_times(key, mtime, None).await.unwrap();
            }
            "cut" => bench.replica.truncate(key, 2 * BLOCK).await.unwrap(),
            "mode" => {
                let attributes = SetAttributes { mode: Some(0o600), ..Default::default() };
                bench.replica.set_attributes(key, attributes).await.unwrap();
            }
            "xattr" => {
                let flags = rustix::fs::XattrFlags::empty();
                bench.names().set_xattr(key, b"user.x", b"y", flags).unwrap();
            }
            _ => _ = bench.names().link(key, ROOT, b"other").unwrap(),
        }
        bench.origin.changes("f", newer_of(&new, &["f"]));
        let before = bench.bytes_of("f");
        let bench = hydrating(bench).await;
        until("it is listed", || bench.changed().conflicts.total == 1).await;
        tokio::time::sleep(Duration::from_secs(200)).await;
        assert!(bench.bytes_of("f") == before, "{what}");
        assert!(!*bench.replica.engine.counters.hydrated.borrow());
        let missing = bench.replica.read(key, BLOCK, 10).await;
        assert_eq!(missing, Err(ReadError::Stale), "{what}");
        // It is still listed after a restart, and resolved by removing it.
        let bench = bench.reopened().await;
        assert_eq!(paths(&bench.changed().conflicts), ["f"]);
        if what == "write" {
            bench.names().unlink(ROOT, b"f").unwrap();
            bench.replica.removing(key).unwrap().done();
            hydrated(&bench).await;
            until("it is no longer listed", || bench.changed().conflicts.total == 0).await;
        }
    }
}

/// A file that has become `new`, which is held back at the origin's gate.
async fn being_fetched(new: &TestFile) -> (Bench, InodeKey) {
    let bench = bench(&[file("f", SIZE)], "/tmp", |origin| {
        origin.set_gate(false);
        origin.changes("f", newer_of(new, &["f"]));
    })
    .await;
    let key = bench.tree.index("f").into();
    until("it is being fetched", || bench.origin.at_gate() > 0).await;
    (bench, key)
}

#[tokio::test(start_paused = true)]
async fn an_edit_that_begins_while_the_new_version_is_fetched_wins() {
    let new = file("new", SIZE);
    let (bench, key) = being_fetched(&new).await;
    bench.names().place(key).unwrap();
    bench.replica.write(key, BLOCK, vec![9; BLOCK as usize].into()).await.unwrap();
    bench.origin.set_gate(true);
    until("it is listed", || bench.changed().conflicts.total == 1).await;
    assert_eq!(bench.replica.read(key, BLOCK, 3).await.unwrap(), vec![9; 3]);
    assert_eq!(bench.found("f").unwrap().key(), key);
}

#[tokio::test(start_paused = true)]
async fn a_file_that_is_open_for_writing_is_replaced_when_it_is_closed() {
    let new = file("new", SIZE);
    let (bench, key) = being_fetched(&new).await;
    bench.replica.opened(key);
    bench.replica.opened_for_writing(key);
    bench.origin.set_gate(true);
    tokio::time::sleep(Duration::from_secs(300)).await;
    assert_eq!(paths(&bench.changed().waiting), ["f"]);
    bench.replica.released(key);
    hydrated(&bench).await;
    assert!(bench.bytes_of("f") == new.content);
}

/// What was told of files that got another inode.
#[derive(Debug, Default)]
struct Told(Mutex<Vec<(bool, InodeKey, Vec<String>)>>);

impl Watch for Told {
    fn replacing(&self, key: InodeKey) {
        self.0.lock().unwrap().push((false, key, vec![]));
    }

    fn replaced(&self, key: InodeKey, names: &[(InodeKey, Box<[u8]>)]) {
        let names = names.iter().map(|(_, name)| String::from_utf8_lossy(name).into_owned()).collect();
        self.0.lock().unwrap().push((true, key, names));
    }
}

#[tokio::test(start_paused = true)]
async fn who_has_the_old_version_open_keeps_what_is_here_of_it() {
    let (old, new) = (file("f", SIZE), file("new", SIZE));
    let bench = Bench::writable(std::slice::from_ref(&old), "/tmp");
    let key: InodeKey = bench.tree.index("f").into();
    bench.check("f", 0, BLOCK).await;
    bench.replica.idle().await;
    bench.origin.changes("f", newer_of(&new, &["f"]));
    let bench = hydrating(bench).await;
    let told = Arc::new(Told::default());
    let watch: Arc<dyn Watch> = told.clone();
    bench.replica.set_watch(Arc::downgrade(&watch));
    bench.replica.opened(key);
    hydrated(&bench).await;
    assert!(bench.replica.is_replaced(key));
    assert!(bench.replica.read(key, 0, BLOCK as u32).await.unwrap() == old.content[..BLOCK as usize]);
    assert_eq!(bench.replica.read(key, 3 * BLOCK, 1).await, Err(ReadError::Stale));
    let new_key = bench.found("f").unwrap().key();
    assert_ne!(new_key, key);
    assert!(bench.replica.read(new_key, 0, u32::MAX).await.unwrap() == new.content);
    bench.replica.released(key);
    assert!(bench.replica.read(key, 0, 1).await.is_err());
    let told = told.0.lock().unwrap();
    assert_eq!(*told, [(false, key, vec![]), (true, key, vec!["f".into()])]);
}

#[tokio::test(start_paused = true)]
async fn a_conflict_is_resolved_as_somebody_decides() {
    let (old, new) = (file("f", SIZE), file("new", 2 * SIZE));
    for mine in [true, false] {
        let bench = Bench::writable(&[old.clone(), file("same", SIZE)], "/tmp");
        let key: InodeKey = bench.tree.index("f").into();
        bench.replica.write(key, BLOCK, vec![9; BLOCK as usize].into()).await.unwrap();
        bench.replica.idle().await;
        bench.origin.changes("f", newer_of(&new, &["f"]));
        let bench = hydrating(bench).await;
        until("it is listed", || bench.changed().conflicts.total == 1).await;
        let resolve = |path: &str, decision| bench.replica.resolve(path.as_bytes(), decision);
        let nothing = resolve("same", Some(Decision::Theirs));
        assert!(matches!(nothing, Err(ResolveError::NothingToDecide)), "{nothing:?}");
        assert!(matches!(resolve("none", None), Err(ResolveError::NoSuchFile)));
        assert_eq!(resolve("f", None).unwrap(), SIZE - BLOCK);
        assert_eq!(bench.changed().conflicts.total, 1);
        if mine {
            assert_eq!(resolve("f", Some(Decision::Mine)).unwrap(), SIZE - BLOCK);
            let mut expected = vec![0; SIZE as usize];
            expected[BLOCK as usize..2 * BLOCK as usize].fill(9);
            hydrated(&bench).await;
            assert!(bench.bytes_of("f") == expected);
            assert_eq!(paths(&bench.changed().kept), ["f"]);
        } else {
            bench.origin.set_gate(false);
            resolve("f", Some(Decision::Theirs)).unwrap();
            assert_eq!(paths(&bench.changed().waiting), ["f"]);
            // It stays decided.
            let bench = bench.reopened().await;
            assert_eq!(paths(&bench.changed().waiting), ["f"]);
            bench.origin.set_gate(true);
            hydrated(&bench).await;
            assert!(bench.bytes_of("f") == new.content);
            assert_eq!(paths(&bench.changed().taken_anew), ["f"]);
            assert_eq!(bench.changed().conflicts.total, 0);
            continue;
        }
        assert_eq!(bench.changed().conflicts.total, 0);
        let stat = std::fs::metadata(bench.on_disk("f")).unwrap();
        assert_eq!(stat.permissions().mode() & 0o777, 0o640);
    }
}

#[tokio::test(start_paused = true)]
async fn a_crash_before_the_new_version_has_its_name_leaves_the_old_one() {
    let (old, new) = (file("f", SIZE), file("new", SIZE));
    let bench = Bench::writable(std::slice::from_ref(&old), "/tmp");
    bench.check("f", 0, BLOCK).await;
    bench.replica.idle().await;
    bench.origin.set_gate(false);
    bench.origin.changes("f", newer_of(&new, &["f"]));
    let bench = hydrating(bench).await;
    until("it is being fetched", || bench.origin.at_gate() > 0).await;
    // It is told of before it happens: what is on the disk then is the old one, and a word too many.
    bench.replica.engine.note(bench.tree.index("f"), Some(Became::TakenAnew));
    std::fs::write(bench.replica.layout().path().join("staging/17"), &new.content[..1000]).unwrap();
    let bench = bench.reopened().await;
    assert!(bench.bytes_of("f")[..BLOCK as usize] == old.content[..BLOCK as usize]);
    assert!(!bench.replica.layout().path().join("staging/17").exists());
    bench.origin.set_gate(true);
    hydrated(&bench).await;
    assert!(bench.bytes_of("f") == new.content);
    assert_eq!(paths(&bench.changed().taken_anew), ["f"]);
}
