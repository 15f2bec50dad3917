//! How long reads wait, and when they do not.

use super::*;

const SECOND: Duration = Duration::from_secs(1);

fn bench(when_gone: WhenGone) -> Bench {
    Bench::with(&[file("f", 10 * MIB)], when_gone, "/tmp")
}

/// Reads a block that is not here and expects the error after so long.
async fn check_gone(bench: &Bench, block: u64, after: Duration) {
    let began = Instant::now();
    let read = bench.read("f", block * BLOCK, 10).await;
    assert!(matches!(read, Err(ReadError::Gone(_))), "{read:?}");
    let waited = began.elapsed();
    let slack = Duration::from_millis(5);
    assert!(waited >= after && waited <= after + slack, "waited {waited:?}, not {after:?}");
}

#[tokio::test(start_paused = true)]
async fn a_read_waits_for_its_limit_and_then_fails_at_once_until_the_origin_is_back() {
    let bench = bench(WhenGone::Wait(10 * SECOND));
    bench.check("f", 0, BLOCK).await;
    bench.origin.goes("unplugged");
    bench.origin.otherwise(Act::Gone);
    check_gone(&bench, 20, 10 * SECOND).await;
    check_gone(&bench, 20, Duration::ZERO).await;
    check_gone(&bench, 30, Duration::ZERO).await;
    bench.check("f", 5, BLOCK - 5).await;
    bench.origin.otherwise(Act::Serve(Duration::ZERO));
    bench.origin.returns();
    bench.check("f", 20 * BLOCK, 10).await;
    let demand = bench.replica.status().demand;
    assert_eq!((demand.waiting, demand.failed, demand.served), (0, 3, 2));
}

#[tokio::test(start_paused = true)]
async fn an_origin_that_comes_back_in_time_is_not_noticed() {
    let bench = Arc::new(bench(WhenGone::Wait(10 * SECOND)));
    bench.origin.goes("unplugged");
    bench.origin.otherwise(Act::Gone);
    let began = Instant::now();
    let reader = tokio::spawn({
        let bench = bench.clone();
        async move { bench.check("f", 0, 2 * BLOCK).await }
    });
    tokio::time::sleep(7 * SECOND).await;
    bench.origin.otherwise(Act::Serve(Duration::ZERO));
    bench.origin.returns();
    reader.await.unwrap();
    assert!(began.elapsed() < 8 * SECOND, "{:?}", began.elapsed());
}

#[tokio::test(start_paused = true)]
async fn fail_means_at_once() {
    let bench = bench(WhenGone::Fail);
    bench.origin.script([Act::Gone, Act::BreakOff(0), Act::Stall(0)]);
    check_gone(&bench, 0, Duration::ZERO).await;
    check_gone(&bench, 0, Duration::ZERO).await;
    check_gone(&bench, 0, WAIT_DEFAULT).await;
    bench.origin.goes("unplugged");
    check_gone(&bench, 40, Duration::ZERO).await;
    bench.origin.returns();
    bench.check("f", 80 * BLOCK, 10).await;
}

#[tokio::test(start_paused = true)]
async fn an_origin_that_is_busy_is_asked_again_under_every_policy() {
    for when_gone in [WhenGone::Fail, WhenGone::Wait(10 * SECOND), WhenGone::WaitForever] {
        let bench = bench(when_gone);
        bench.origin.script([Act::Busy; 4]);
        let began = Instant::now();
        bench.check("f", 0, 10).await;
        let waited = began.elapsed();
        assert!(waited >= Duration::from_millis(350) && waited < SECOND, "{when_gone}: {waited:?}");
        if when_gone == WhenGone::WaitForever {
            continue;
        }
        bench.origin.otherwise(Act::Busy);
        let began = Instant::now();
        let read = bench.read("f", 100 * BLOCK, 10).await;
        assert_eq!(read, Err(ReadError::Busy("scripted".into())), "{when_gone}");
        assert_eq!(began.elapsed(), 10 * SECOND, "{when_gone}");
        assert!(bench.origin.seen().len() < 30, "it is asked without pause");
    }
}

#[tokio::test(start_paused = true)]
async fn fail_ends_a_wait_that_began_while_the_origin_was_there() {
    let bench = bench(WhenGone::Fail);
    bench.origin.otherwise(Act::Stall(0));
    let leave = async {
        tokio::time::sleep(SECOND).await;
        bench.origin.goes("unplugged");
    };
    tokio::join!(check_gone(&bench, 0, SECOND), leave);
}

#[tokio::test(start_paused = true)]
async fn wait_means_for_ever() {
    let bench = Arc::new(bench(WhenGone::WaitForever));
    bench.origin.goes("unplugged");
    bench.origin.otherwise(Act::Gone);
    let read = timeout(3600 * SECOND, bench.read("f", 0, 10)).await;
    assert!(read.is_err());
    assert_eq!(bench.replica.status().demand.waiting, 0, "a dropped wait is still counted");
    let reader = tokio::spawn({
        let bench = bench.clone();
        async move { bench.check("f", 0, 2 * BLOCK).await }
    });
    tokio::time::sleep(3600 * SECOND).await;
    assert_eq!(bench.replica.status().demand.waiting, 1);
    bench.origin.otherwise(Act::Serve(Duration::ZERO));
    bench.origin.returns();
    timeout(2 * SECOND, reader).await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn readers_that_come_one_after_the_other_wait_together() {
    let bench = bench(WhenGone::Wait(10 * SECOND));
    bench.origin.otherwise(Act::Stall(0));
    check_gone(&bench, 0, 10 * SECOND).await;
    for _ in 0..7 {
        check_gone(&bench, 0, patience::MOMENT).await;
    }
    // Nobody has waited for this block yet.
    check_gone(&bench, 100, 10 * SECOND).await;
}

#[tokio::test(start_paused = true)]
async fn an_origin_that_comes_to_itself_answers_whoever_still_waits() {
    let bench = bench(WhenGone::Wait(10 * SECOND));
    bench.origin.otherwise(Act::Serve(12 * SECOND));
    check_gone(&bench, 0, 10 * SECOND).await;
    tokio::time::sleep(2 * SECOND - patience::MOMENT / 2).await;
    bench.check("f", 0, 10).await;
}

#[tokio::test(start_paused = true)]
async fn a_read_that_begins_after_the_origin_left_waits_for_the_rest_of_the_limit() {
    let bench = bench(WhenGone::Wait(10 * SECOND));
    bench.origin.goes("unplugged");
    bench.origin.otherwise(Act::Stall(0));
    tokio::time::sleep(4 * SECOND).await;
    check_gone(&bench, 0, 6 * SECOND).await;
    bench.origin.otherwise(Act::Gone);
    bench.origin.returns();
    bench.origin.goes("unplugged again");
    tokio::time::sleep(4 * SECOND).await;
    check_gone(&bench, 100, 6 * SECOND).await;
}

#[tokio::test(start_paused = true)]
async fn a_request_that_stalls_is_asked_again() {
    let bench = bench(WhenGone::WaitForever);
    bench.origin.script([Act::Stall(0)]);
    timeout(21 * SECOND, bench.check("f", 0, 10)).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_request_that_reads_ahead_and_brings_nothing_is_overtaken() {
    let bench = bench(WhenGone::Wait(10 * SECOND));
    bench.check("f", 0, BLOCK).await;
    bench.check("f", BLOCK, 2 * BLOCK).await;
    bench.replica.idle().await;
    bench.origin.otherwise(Act::Stall(0));
    bench.origin.seen();
    let mut at = 3;
    while bench.origin.seen().is_empty() {
        bench.check("f", at * BLOCK, BLOCK).await;
        at += 1;
        tokio::task::yield_now().await;
    }
    bench.origin.otherwise(Act::Serve(Duration::ZERO));
    let began = Instant::now();
    bench.check("f", at * BLOCK, 8 * BLOCK).await;
    assert!(began.elapsed() <= 3 * SECOND, "{:?}", began.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_slow_origin_that_makes_progress_is_waited_for() {
    let bench = bench(WhenGone::Wait(10 * SECOND));
    bench.origin.otherwise(Act::Serve(9 * SECOND));
    let began = Instant::now();
    bench.check("f", 0, MIB).await;
    assert!(began.elapsed() > 30 * SECOND);
}

#[tokio::test(start_paused = true)]
async fn what_had_come_before_the_origin_left_is_not_fetched_again() {
    let bench = bench(WhenGone::Wait(10 * SECOND));
    bench.origin.script([Act::BreakOff(2), Act::BreakOff(1), Act::Gone]);
    bench.check("f", 0, MIB).await;
    let firsts: Vec<_> =
        bench.origin.seen().iter().map(|seen| (seen.ranges[0].first.0, seen.ranges[0].count)).collect();
    assert_eq!(firsts, [(0, 16), (8, 8), (12, 4), (12, 4)]);
}

#[tokio::test(start_paused = true)]
async fn everything_here_stays_readable_while_the_origin_is_gone() {
    for filesystem in FILESYSTEMS {
        let bench = Bench::with(&[file("f", 10 * MIB), file("s", 5000)], WhenGone::default(), filesystem);
        bench.check("s", 0, 5000).await;
        for block in [3, 50, 51, 52, 159] {
            bench.check("f", block * BLOCK, BLOCK).await;
        }
        bench.origin.goes("unplugged");
        bench.origin.otherwise(Act::Gone);
        tokio::time::sleep(60 * SECOND).await;
        let began = Instant::now();
        bench.check("s", 0, 5000).await;
        bench.check("f", 50 * BLOCK, 3 * BLOCK).await;
        bench.check("f", 159 * BLOCK, 2 * BLOCK).await;
        check_gone(&bench, 0, Duration::ZERO).await;
        assert!(
            matches!(bench.read("f", 2 * BLOCK, 2 * BLOCK).await, Err(ReadError::Gone(_))),
            "a short read"
        );
        assert_eq!(began.elapsed(), Duration::ZERO);
    }
}

#[tokio::test(start_paused = true)]
async fn a_file_that_changed_is_stale_and_asked_for_again_later() {
    let bench = bench(WhenGone::Wait(10 * SECOND));
    bench.check("f", 0, BLOCK).await;
    bench.origin.script([Act::Changed]);
    assert_eq!(bench.read("f", 20 * BLOCK, 1).await, Err(ReadError::Stale));
    assert_eq!(bench.read("f", 30 * BLOCK, 1).await, Err(ReadError::Stale));
    bench.check("f", 5, 100).await;
    assert_eq!(bench.origin.seen().len(), 2);
    let status = bench.replica.status();
    assert_eq!((status.stale, status.stale_total), (vec!["f".to_string()], 1));
    tokio::time::sleep(6 * SECOND).await;
    bench.check("f", 20 * BLOCK, 1).await;
}

#[tokio::test(start_paused = true)]
async fn a_snapshot_that_is_gone_makes_everything_missing_stale() {
    let bench = bench(WhenGone::WaitForever);
    bench.origin.script([Act::SnapshotGone]);
    assert_eq!(bench.read("f", 0, 1).await, Err(ReadError::Stale));
    assert_eq!(bench.read("f", 100 * BLOCK, 1).await, Err(ReadError::Stale));
    assert_eq!(bench.replica.status().origin, OriginStatus::SnapshotGone);
    assert_eq!(bench.origin.seen().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn other_faults_are_told_apart() {
    let bench = bench(WhenGone::WaitForever);
    let mut block = 0;
    let mut check = async |act: Act, expected: fn(&ReadError) -> bool| {
        bench.origin.script([act]);
        block += 20;
        let read = bench.read("f", block * BLOCK, 6 * BLOCK).await;
        let error = read.map(|bytes| bytes.len()).expect_err("nothing was wrong");
        assert!(expected(&error), "{act:?}: {error}");
        assert!(error.to_string().len() < 400 && !error.to_string().contains('\n'), "{error}");
        bench.check("f", block * BLOCK, 6 * BLOCK).await;
    };
    check(Act::Refused, |error| matches!(error, ReadError::Refused(_))).await;
    check(Act::Unreadable, |error| matches!(error, ReadError::Unreadable(_))).await;
    for act in [Act::Invalid, Act::Corrupt, Act::Foreign, Act::EndsEarly] {
        check(act, |error| matches!(error, ReadError::Corrupt(_))).await;
    }
    assert!(!bench.replica.status().errors.is_empty());
}

#[tokio::test(start_paused = true)]
async fn one_bad_file_does_not_spoil_the_others_of_its_request() {
    let stalled: Vec<&'static str> =
        (0..scheduler::SMALL_REQUESTS_MAX).map(|i| &*format!("s{i}").leak()).collect();
    let mut files: Vec<_> = stalled.iter().map(|name| file(name, 100)).collect();
    files.extend(["a", "b", "c"].map(|name| file(name, 100)));
    let bench = Arc::new(Bench::with(&files, WhenGone::WaitForever, "/tmp"));
    // What comes while as many requests are outstanding as may be leaves together.
    bench.origin.script(stalled.iter().map(|_| Act::Stall(0)));
    for name in stalled.clone() {
        let bench = bench.clone();
        tokio::spawn(async move { bench.check(name, 0, 100).await });
    }
    while bench.origin.seen_so_far() < stalled.len() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    bench.origin.seen();
    bench.origin.script([Act::Corrupt]);
    let (a, b, c) = tokio::join!(bench.read("a", 0, 100), bench.read("b", 0, 100), bench.read("c", 0, 100));
    let seen = bench.origin.seen();
    assert_eq!(seen[0].ranges.len(), 3, "they did not travel together: {seen:?}");
    let results = [a, b, c];
    let bad = results.iter().filter(|read| matches!(read, Err(ReadError::Corrupt(_)))).count();
    assert!(bad == 1 && results.iter().filter(|read| read.is_ok()).count() == 2, "{results:?}");
}

#[tokio::test(start_paused = true)]
async fn reads_beyond_what_may_queue_fail_and_those_before_them_do_not() {
    let bench = Arc::new(Bench::with(&[file("f", 6000 * BLOCK)], WhenGone::WaitForever, "/tmp"));
    bench.origin.otherwise(Act::Stall(0));
    let most = scheduler::ORDERS_MAX + scheduler::RANGE_REQUESTS_MAX;
    let mut readers = tokio::task::JoinSet::new();
    for block in 0..6000 {
        let bench = bench.clone();
        // Backwards, so that nothing is read ahead.
        readers.spawn(async move { bench.read("f", (5999 - block) * BLOCK, 1).await });
    }
    let mut refused = 0;
    while let Ok(Some(read)) = timeout(SECOND, readers.join_next()).await {
        assert!(matches!(read.unwrap(), Err(ReadError::Gone(why)) if why.contains("too many")));
        refused += 1;
    }
    assert!(refused > 0 && readers.len() >= most, "{refused} were refused, {} wait", readers.len());
    bench.origin.otherwise(Act::Serve(Duration::ZERO));
    while let Some(read) = readers.join_next().await {
        assert_eq!(read.unwrap().map(|bytes| bytes.len()), Ok(1));
    }
}

#[tokio::test(start_paused = true)]
async fn a_closed_replica_reads_what_it_has() {
    let bench = bench(WhenGone::WaitForever);
    bench.check("f", 0, BLOCK).await;
    bench.replica.close().await;
    bench.check("f", 0, BLOCK).await;
    check_gone(&bench, 100, Duration::ZERO).await;
}

#[tokio::test(start_paused = true)]
async fn waits_end_when_the_replica_is_closed() {
    let bench = bench(WhenGone::Wait(10 * SECOND));
    bench.origin.otherwise(Act::Stall(0));
    let close = async {
        tokio::time::sleep(SECOND).await;
        bench.replica.close().await;
    };
    tokio::join!(check_gone(&bench, 0, SECOND), close);
}

#[tokio::test(start_paused = true)]
async fn an_origin_that_only_answers_when_asked_is_found_again() {
    let bench = bench(WhenGone::Wait(10 * SECOND));
    bench.origin.goes("unplugged");
    bench.origin.otherwise(Act::Gone);
    tokio::time::sleep(20 * SECOND).await;
    bench.origin.seen();
    for _ in 0..10 {
        check_gone(&bench, 0, Duration::ZERO).await;
    }
    bench.replica.idle().await;
    assert_eq!(bench.origin.seen().len(), 1, "it is asked once a second at most");
}
