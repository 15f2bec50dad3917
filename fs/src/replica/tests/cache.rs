//! A cache: what it evicts nobody misses, what is open or pinned stays, and its limits hold.

use super::*;
use crate::replica::pins::PinError;

/// What writes under way may add.
const SLACK: u64 = 4 * MIB;

const GB: u64 = 1_000_000_000;

/// A cache of so many bytes that leaves nothing free.
fn cache(bytes_max: u64) -> Arc<Cache> {
    Cache::new(CacheLimits { bytes_max, free_bytes_min: 0 })
}

fn pin(path: &str) -> Pin {
    Pin { root: 0, path: path.into() }
}

/// Opens a view again as a part of a cache.
async fn cached(mut bench: Bench, cache: &Arc<Cache>, pins: &[&str]) -> Bench {
    bench.replica.close().await;
    let layout = (bench.layout)(bench.directory.path());
    let config = ReplicaConfig {
        when_gone: WhenGone::Fail,
        cache: Some(cache.clone()),
        pins: pins.iter().map(|path| pin(path)).collect(),
        ..ReplicaConfig::new(layout)
    };
    bench.replica = open_with(config, &bench.tree, &bench.origin, &bench.disk_loses);
    bench.counted().await;
    until("the pins are not known", || bench.replica.engine.cached.as_ref().unwrap().pins.files().is_some())
        .await;
    bench
}

async fn bench(files: &[TestFile], filesystem: &str, cache: &Arc<Cache>) -> Bench {
    cached(Bench::with(files, WhenGone::Fail, filesystem), cache, &[]).await
}

async fn until(what: &str, is_so: impl Fn() -> bool) {
    let waiting = async {
        while !is_so() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    timeout(Duration::from_secs(60), waiting).await.expect(what);
}

/// Small files and large ones, a hole, several names.
fn files() -> Vec<TestFile> {
    let mut sparse = file("sparse", 20 * BLOCK);
    sparse.holes.push(BLOCK..14 * BLOCK);
    let mut content = sparse.content.to_vec();
    content[BLOCK as usize..14 * BLOCK as usize].fill(0);
    sparse.content = content.into();
    let mut files =
        vec![sparse, file("named", 5 * BLOCK), TestFile { path: "z/b=named", ..file("named", 5 * BLOCK) }];
    files.extend((0..6).map(|i| file(format!("large{i}").leak(), 2 * MIB + i * 7777)));
    files.extend((0..40).map(|i| file(format!("d{}/small{i}", i % 3).leak(), 1000 + i * 5000)));
    files
}

/// Bytes that the files of a view take on the disk.
fn on_the_disk(at: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    let below = |entry: std::fs::DirEntry| match entry.metadata().unwrap() {
        of if of.is_dir() => on_the_disk(&entry.path()),
        of => of.blocks() * 512,
    };
    std::fs::read_dir(at).unwrap().flatten().map(below).sum()
}

fn content_on_disk(bench: &Bench) -> u64 {
    ["tree", "links", "companions"]
        .iter()
        .map(|part| on_the_disk(&bench.replica.layout().path().join(part)))
        .sum()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_is_evicted_every_read_is_right_and_the_budget_holds() {
    for filesystem in FILESYSTEMS {
        let (files, cache) = (files(), cache(3 * MIB));
        let bench = Arc::new(bench(&files, filesystem, &cache).await);
        let readers: Vec<_> = (0..8u64)
            .map(|reader| {
                let (bench, files, cache) = (bench.clone(), files.clone(), cache.clone());
                tokio::spawn(async move {
                    let mut random = reader.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
                    let mut next = |below: u64| {
                        random ^= random << 13;
                        random ^= random >> 7;
                        random ^= random << 17;
                        random % below
                    };
                    for _ in 0..150 {
                        let file = &files[next(files.len() as u64) as usize];
                        let index = bench.tree.index(file.path);
                        let is_opened = next(2) == 0;
                        if is_opened {
                            bench.replica.opened(index);
                        }
                        let (offset, length) = (next(file.content.len() as u64), 1 + next(300_000));
                        bench.check(file.path, offset, length).await;
                        if let TryRead::Ready(bytes) = bench.replica.try_read(index, offset, length as u32) {
                            assert!(bytes == bench.expected(file.path, offset, length), "{}", file.path);
                        }
                        assert!(cache.bytes() <= 3 * MIB + SLACK, "{}", cache.bytes());
                        if is_opened {
                            bench.replica.released(index);
                        }
                    }
                })
            })
            .collect();
        for reader in readers {
            reader.await.unwrap();
        }
        bench.replica.idle().await;
        bench.replica.engine.flusher.ask(&bench.replica.engine);
        assert!(bench.replica.status().fetched.demand > 20 * MIB, "nothing was evicted");
        assert_eq!(cache.bytes(), content_on_disk(&bench), "{filesystem}");
        // Whoever goes on finds what is there, and nothing that is not.
        let bench = cached(Arc::into_inner(bench).unwrap(), &cache, &[]).await;
        assert_eq!(cache.bytes(), content_on_disk(&bench), "{filesystem}");
        bench.origin.otherwise(Act::Gone);
        let mut here = 0;
        for file in &files {
            for block in 0..file.content.len() as u64 / BLOCK {
                if let Ok(bytes) = bench.read(file.path, block * BLOCK, BLOCK).await {
                    assert!(bytes == bench.expected(file.path, block * BLOCK, BLOCK), "{}", file.path);
                    here += 1;
                }
            }
        }
        assert!(here > 10, "{here}");
    }
}

#[tokio::test(start_paused = true)]
async fn the_least_recently_used_goes_first_and_what_is_open_stays() {
    for filesystem in FILESYSTEMS {
        let names: Vec<&'static str> = (0..8).map(|i| &*format!("f{i}").leak()).collect();
        let files: Vec<_> = names.iter().map(|name| file(name, 2 * BLOCK)).collect();
        let cache = cache(8 * 2 * BLOCK);
        let bench = bench(&files, filesystem, &cache).await;
        let uses = &bench.replica.engine.cached.as_ref().unwrap().uses;
        for (name, second) in names.iter().zip([80, 10, 70, 20, 60, 30, 50, 40]) {
            bench.check(name, 0, 2 * BLOCK).await;
            bench.replica.idle().await;
            uses.evicted(bench.tree.index(name));
            uses.found(bench.tree.index(name), second);
        }
        bench.replica.opened(bench.tree.index("f3"));
        uses.evicted(bench.tree.index("f3"));
        uses.found(bench.tree.index("f3"), 20);
        // Three blocks are wanted, and one more is evicted along: two files.
        assert_eq!(cache.admits(&bench.replica.engine, 3 * BLOCK), Ok(()));
        let left = || names.iter().copied().filter(|name| bench.on_disk(name).exists()).collect::<Vec<_>>();
        assert_eq!(left(), ["f0", "f2", "f3", "f4", "f6", "f7"], "{filesystem}");
        assert_eq!(cache.bytes(), 6 * 2 * BLOCK);
        // Nothing but what is open.
        names
            .iter()
            .filter(|name| **name != "f3")
            .for_each(|name| bench.replica.opened(bench.tree.index(name)));
        assert_eq!(cache.prune(0, Instant::now() + Duration::from_secs(60)), (Evicted::default(), true));
        bench.check("f1", 0, 2 * BLOCK).await;
        bench.check("f5", 0, 2 * BLOCK).await;
        bench.replica.idle().await;
        assert_eq!(cache.bytes(), 8 * 2 * BLOCK);
        assert!(cache.admits(&bench.replica.engine, 1).is_err());
        names.iter().for_each(|name| bench.replica.released(bench.tree.index(name)));
        let all = Evicted { files: 8, bytes: 8 * 2 * BLOCK };
        bench.replica.idle().await;
        assert_eq!(cache.prune(0, Instant::now() + Duration::from_secs(60)), (all, true));
        assert_eq!((cache.bytes(), left()), (0, vec![]));
        bench.check("f0", 0, 2 * BLOCK).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_file_that_does_not_fit_is_served_and_not_stored() {
    let cache = cache(MIB);
    let bench = bench(&[file("huge", 12 * MIB), file("small", 1000)], "/tmp", &cache).await;
    bench.replica.opened(bench.tree.index("huge"));
    for at in 0..48 {
        bench.check("huge", at * MIB / 4, MIB / 4).await;
        assert!(cache.bytes() <= MIB + SLACK);
    }
    bench.replica.idle().await;
    let refuses = bench.replica.status().disk_refuses.unwrap();
    assert!(refuses.contains("open or pinned"), "{refuses}");
    bench.replica.released(bench.tree.index("huge"));
    tokio::time::sleep(Duration::from_secs(2)).await;
    bench.check("small", 0, 1000).await;
    bench.replica.idle().await;
    assert_eq!(bench.replica.status().disk_refuses, None);
    assert!(bench.on_disk("small").exists());
}

#[tokio::test(start_paused = true)]
async fn the_disk_keeps_its_floor() {
    let cache = Cache::new(CacheLimits { bytes_max: GB, free_bytes_min: u64::MAX });
    let bench = bench(&[file("a", BLOCK)], "/tmp", &cache).await;
    bench.check("a", 0, BLOCK).await;
    bench.replica.idle().await;
    assert_eq!(cache.bytes(), 0);
    let refuses = bench.replica.status().disk_refuses.unwrap();
    assert!(refuses.contains("less free"), "{refuses}");
    bench.check("a", 0, BLOCK).await;
}

#[tokio::test(start_paused = true)]
async fn what_is_pinned_comes_stays_and_is_read_without_the_origin() {
    for filesystem in FILESYSTEMS {
        let (files, cache) = (files(), cache(6 * MIB));
        let bench = bench(&files, filesystem, &cache).await;
        bench.check("large0", 0, MIB).await;
        bench.check("d0/small3", 0, 10).await;
        let pins = ["d0", "large1", "named"];
        for path in pins {
            bench.replica.pin(pin(path)).unwrap();
        }
        assert_eq!(bench.replica.pin(pin("d0")).unwrap().len(), 3, "pinned once");
        let complete = |bench: &Bench| {
            let kept = bench.replica.pins().into_iter().map(|status| status.kept.unwrap());
            kept.clone().all(|kept| kept.files == kept.files_here && kept.bytes == kept.bytes_here)
                && kept.count() == 3
        };
        until("it does not become complete", || complete(&bench)).await;
        for file in &files {
            bench.check(file.path, 0, file.content.len() as u64).await;
        }
        bench.replica.idle().await;
        cache.prune(0, Instant::now() + Duration::from_secs(60));
        bench.replica.close().await;
        let bench = cached(bench, &cache, &pins).await;
        let pinned: u64 = bench.replica.pins().iter().map(|status| status.kept.unwrap().bytes_here).sum();
        assert_eq!(bench.replica.cached().unwrap().pinned_bytes_here, pinned);
        assert!(cache.bytes() >= pinned && cache.bytes() < pinned + MIB, "{}", cache.bytes());
        assert!(complete(&bench));
        bench.origin.otherwise(Act::Gone);
        let is_pinned = |file: &&TestFile| {
            file.path.starts_with("d0/") || ["large1", "named", "z/b=named"].contains(&file.path)
        };
        for file in files.iter().filter(is_pinned) {
            bench.check(file.path, 0, file.content.len() as u64).await;
        }
        assert!(bench.read("large0", 0, 1).await.is_err(), "it was to be evicted");
        assert_eq!(bench.replica.unpin(&pin("nothing")), None);
        assert_eq!(bench.replica.unpin(&pin("large1")).unwrap().len(), 2);
        until("it stays pinned", || {
            let until = Instant::now() + Duration::from_secs(60);
            cache.prune(0, until).0.files == 1
        })
        .await;
        assert!(!bench.on_disk("large1").exists());
    }
}

#[tokio::test(start_paused = true)]
async fn what_would_not_fit_is_not_pinned() {
    let files = [file("d/a", 2 * MIB), file("d/b", MIB), file("c", 2 * MIB)];
    let cache = cache(4 * MIB);
    let bench = bench(&files, "/tmp", &cache).await;
    bench.replica.pin(pin("d")).unwrap();
    let over = PinError::OverBudget { wanted: 2 * MIB, pinned: 3 * MIB, bytes_max: 4 * MIB };
    assert_eq!(bench.replica.pin(pin("c")), Err(over));
    assert_eq!(
        bench.replica.pin(pin("")).unwrap_err(),
        PinError::OverBudget { wanted: 2 * MIB, pinned: 3 * MIB, bytes_max: 4 * MIB }
    );
    assert_eq!(bench.replica.pin(pin("d/a")).unwrap().len(), 2, "it is pinned already");
    assert_eq!(bench.replica.pin(pin("d/x")), Err(PinError::NoSuchFile));
    let floor = Cache::new(CacheLimits { bytes_max: GB, free_bytes_min: u64::MAX });
    let bench = cached(bench, &floor, &[]).await;
    let missing = bench.replica.pin(pin("c")).unwrap_err();
    assert!(matches!(missing, PinError::NoSpace { missing: n, room: 0 } if n == 2 * MIB), "{missing}");
    let bench = bench.reopened().await;
    assert_eq!(bench.replica.pin(pin("c")), Err(PinError::NotCached));
}

#[tokio::test(start_paused = true)]
async fn the_last_use_is_known_after_a_restart() {
    let cache = cache(GB);
    let bench = bench(&[file("a", 10), file("b", 10)], "/tmp", &cache).await;
    for name in ["a", "b"] {
        bench.check(name, 0, 10).await;
        bench.replica.idle().await;
        let old = std::time::SystemTime::UNIX_EPOCH + Duration::from_secs(1000);
        let times = std::fs::FileTimes::new().set_accessed(old).set_modified(old);
        std::fs::File::open(bench.on_disk(name)).unwrap().set_times(times).unwrap();
    }
    let second = |bench: &Bench, name: &str| {
        let uses = &bench.replica.engine.cached.as_ref().unwrap().uses;
        uses.all().find(|(_, file)| *file == bench.tree.index(name)).unwrap().0
    };
    let bench = cached(bench, &cache, &[]).await;
    assert_eq!((second(&bench, "a"), second(&bench, "b")), (1000, 1000));
    bench.replica.opened(bench.tree.index("a"));
    bench.replica.released(bench.tree.index("a"));
    let accessed = || std::fs::metadata(bench.on_disk("a")).unwrap().accessed().unwrap();
    until("the use is not written down", || accessed().elapsed().unwrap() < Duration::from_secs(3600)).await;
    let bench = cached(bench, &cache, &[]).await;
    assert!(second(&bench, "a") > 1_000_000 && second(&bench, "b") == 1000);
}
