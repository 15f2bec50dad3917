//! Fetching everything in the background: it ends, gives way, goes on where it was, and loses nothing.

use super::*;

/// Small files, large ones, a hole, several names, a companion's file, nothing at all.
fn files() -> Vec<TestFile> {
    let mut sparse = file("sparse", 6 * BLOCK);
    sparse.holes.push(BLOCK..4 * BLOCK);
    let mut content = sparse.content.to_vec();
    content[BLOCK as usize..4 * BLOCK as usize].fill(0);
    sparse.content = content.into();
    let mut files = vec![sparse, file("large", 9 * MIB + 5), file("none", 0), file("@1/d/other", 300_000)];
    files.extend(["d/a", "d/b", "e/c"].map(|name| file(name, 70_000)));
    files
}

/// A replica that fetches everything.
fn hydrating(bench: &Bench) -> Arc<Replica> {
    let config = ReplicaConfig {
        when_gone: WhenGone::Fail,
        hydrate: true,
        ..ReplicaConfig::new(Layout::view_in(bench.directory.path()).unwrap())
    };
    Replica::open(config, bench.tree.manifest.clone(), bench.origin.clone(), Handle::current()).unwrap()
}

/// A bench whose replica fetches everything from now on.
async fn bench(files: &[TestFile], filesystem: &str, before: impl FnOnce(&ScriptedOrigin)) -> Bench {
    let mut bench = Bench::with(files, WhenGone::Fail, filesystem);
    bench.replica.close().await;
    before(&bench.origin);
    bench.replica = hydrating(&bench);
    bench
}

/// Waits until so many requests have been sent: without answers there are never more than four in bulk.
async fn asked(bench: &Bench, requests: usize) {
    let mut seen = 0;
    let asking = async {
        while seen < requests {
            seen += bench.origin.seen().len();
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    timeout(Duration::from_secs(60), asking).await.expect("nothing is asked for");
}

async fn hydrated(bench: &Bench) {
    timeout(Duration::from_secs(600), bench.replica.hydrated()).await.expect("it does not become complete");
}

/// Everything is here: nothing is asked for any more, whatever is read.
async fn check_complete(bench: &Bench, files: &[TestFile]) {
    bench.origin.seen();
    for file in files {
        bench.check(file.path, 0, file.content.len() as u64 + 1).await;
    }
    assert_eq!(bench.origin.seen(), []);
    let status = bench.counted().await;
    for tally in [status.files, status.blocks, status.bytes] {
        assert_eq!(tally.resident, tally.total, "{status:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn everything_comes_and_each_byte_once() {
    for filesystem in FILESYSTEMS {
        let files = files();
        let bench = bench(&files, filesystem, |_| {}).await;
        hydrated(&bench).await;
        let seen = bench.origin.seen();
        assert!(seen.iter().all(|request| request.class == Class::Bulk), "{seen:?}");
        let content: u64 = files.iter().map(|file| file.content.len() as u64).sum();
        assert_eq!(bench.replica.status().fetched.bulk, content - 3 * BLOCK);
        check_complete(&bench, &files).await;
        // Small files travel in bundles.
        assert!(seen.iter().any(|request| request.whole_files && request.ranges.len() == 3), "{seen:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn it_goes_on_where_it_was() {
    let files = files();
    // All but the first requests stall, as if the process had been killed then.
    let mut bench = bench(&files, "/tmp", |origin| {
        origin.script([Act::Serve(Duration::ZERO), Act::Stall(3)]);
        origin.otherwise(Act::Stall(0));
    })
    .await;
    asked(&bench, 4).await;
    bench.replica.close().await;
    let before = bench.replica.status().fetched.bulk;
    bench.origin.forgive();
    bench.replica = hydrating(&bench);
    let again = bench;
    hydrated(&again).await;
    let content: u64 = files.iter().map(|file| file.content.len() as u64).sum();
    assert_eq!(before + again.replica.status().fetched.bulk, content - 3 * BLOCK);
    check_complete(&again, &files).await;
}

#[tokio::test(start_paused = true)]
async fn it_goes_on_when_the_origin_is_back() {
    let files = files();
    let bench = bench(&files, "/tmp", |origin| {
        origin.goes("scripted");
        origin.otherwise(Act::Gone);
    })
    .await;
    tokio::time::sleep(Duration::from_secs(300)).await;
    assert_eq!(bench.origin.seen(), [], "an origin that is gone is asked in bulk");
    bench.origin.forgive();
    bench.origin.returns();
    hydrated(&bench).await;
    check_complete(&bench, &files).await;
}

#[tokio::test(start_paused = true)]
async fn what_fails_is_asked_for_again() {
    for act in [Act::Gone, Act::BreakOff(1), Act::Corrupt, Act::Unreadable, Act::Changed, Act::Stall(0)] {
        let files = files();
        let bench = bench(&files, "/tmp", |origin| origin.script([act; 3])).await;
        hydrated(&bench).await;
        check_complete(&bench, &files).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_reader_never_waits_for_it() {
    let files = files();
    // What is asked for in bulk never comes.
    let bench = bench(&files, "/tmp", |origin| origin.script([Act::Stall(0); 4])).await;
    asked(&bench, 4).await;
    for path in ["large", "d/a", "e/c", "sparse", "@1/d/other"] {
        let read = timeout(Duration::from_secs(1), bench.read(path, 0, 5 * BLOCK)).await;
        assert!(read.expect(path).unwrap() == bench.expected(path, 0, 5 * BLOCK), "{path}");
    }
    let seen = bench.origin.seen();
    assert!(seen.iter().any(|request| request.class == Class::Demand), "{seen:?}");
}

#[tokio::test(start_paused = true)]
async fn the_budget_is_kept_and_readers_keep_their_half() {
    let files = [file("large", 40 * MIB)];
    let bench = bench(&files, "/dev/shm", |origin| {
        origin.otherwise(Act::Serve(Duration::from_millis(5)));
    })
    .await;
    let mut most = 0;
    let watching = async {
        loop {
            most = most.max(bench.replica.status().memory_bytes);
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::select! {
        () = watching => {}
        () = hydrated(&bench) => {}
    }
    assert!(most > 4 * MIB && most <= 16 * MIB, "{most}");
    check_complete(&bench, &files).await;
}
