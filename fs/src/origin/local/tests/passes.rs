//! Reading all of a file because some of it is wanted.

use super::*;

/// Bytes of a file that is not settled at once, and of one that is read in several steps of a pass.
const LARGE: usize = 40 << 20;

#[tokio::test]
async fn what_was_not_read_of_a_file_is_bound_soon() {
    let place = Place::new();
    place.write("d/f", content(1, 5 << 20));
    place.walk();
    let origin = place.open_quiet();
    assert_eq!(read_blocks(&origin, &[7]).await, [Ok(())]);
    until("the rest is bound", || is_bound(&origin)).await;
    // From now on, a change of its properties is told from one of its content.
    fs::hard_link(place.at("d/f"), place.at("d/g")).unwrap();
    assert_eq!(read_one(&origin, "d/f").await, Ok(content(1, 5 << 20)));
    until("all files are closed", || open_descriptors(&place) == 0).await;
}

#[tokio::test]
async fn a_file_that_changed_is_not_bound() {
    let place = Place::new();
    place.write("d/f", content(1, 5 << 20));
    place.walk();
    let origin = place.open_quiet();
    // Nothing is bound in the background as long as this is held.
    let held = [origin.pool.pass_permit().await.unwrap(), origin.pool.pass_permit().await.unwrap()];
    assert_eq!(read_blocks(&origin, &[7]).await, [Ok(())]);
    with_old_times(&place, |path| flip(path, 70 * BLOCK_BYTES));
    drop(held);
    assert_eq!(read_blocks(&origin, &[70, 7, 8]).await, [CHANGED, Ok(()), CHANGED]);
    assert!(!is_bound(&origin));
}

#[tokio::test]
async fn whoever_waits_for_a_large_hot_file_is_in_nobodys_way() {
    let place = Place::new();
    place.write("d/f", content(1, LARGE));
    place.write("other", "x");
    let origin = place.serve();
    let held = [origin.pool.pass_permit().await.unwrap(), origin.pool.pass_permit().await.unwrap()];
    let file = index(&origin, "d/f");
    let block = |first| vec![BlockRange { file, first: BlockIndex(first), count: 1 }];
    let mut waiting: Vec<_> = (0..20).map(|i| origin.read_ranges(block(i), Class::Demand)).collect();
    assert_eq!(read_one(&origin, "other").await, Ok(b"x".to_vec()));
    assert!(waiting.iter_mut().all(|deliveries| deliveries.try_recv().is_err()));
    // Nobody who gives up takes the pass with them.
    waiting.drain(1..);
    drop(held);
    assert_eq!(take(&origin, waiting.remove(0)).await[0].2, Ok(()));
    assert!(is_bound(&origin));
}

#[tokio::test]
async fn a_pass_goes_on_when_nobody_waits_for_it() {
    let place = Place::new();
    place.write("d/f", content(1, LARGE));
    let origin = place.serve();
    let held = [origin.pool.pass_permit().await.unwrap(), origin.pool.pass_permit().await.unwrap()];
    let mut given_up = origin.read_files(vec![index(&origin, "d/f")], Class::Demand);
    until("the pass has begun", || origin.moments.count() == 1).await;
    assert!(given_up.try_recv().is_err());
    drop((given_up, held));
    until("all is bound", || is_bound(&origin)).await;
    until("the pass is over", || origin.moments.count() == 0).await;
    // Served at once: it is compared with what was bound, whoever writes to it.
    let _writer = File::options().write(true).open(place.at("d/f")).unwrap();
    with_old_times(&place, |path| flip(path, 3 * BLOCK_BYTES));
    assert_eq!(read_blocks(&origin, &[2, 3, 4]).await, [Ok(()), CHANGED, Ok(())]);
}

#[tokio::test]
async fn a_file_that_changes_between_two_passes_is_changed() {
    let place = Place::new();
    place.write("d/f", content(1, LARGE));
    let file = File::options().read(true).write(true).open(place.at("d/f")).unwrap();
    #[expect(unsafe_code, reason = "mapping a file")]
    // SAFETY: nobody truncates the file.
    let mut map = unsafe { memmap2::MmapMut::map_mut(&file) }.unwrap();
    // Dirty pages: further stores leave no trace in the file's times.
    map.fill(0);
    let origin = place.serve();
    let mut wanted = origin.read_files(vec![index(&origin, "d/f")], Class::Demand);
    let stop = Arc::new(AtomicBool::new(false));
    let stopped = stop.clone();
    let writer = std::thread::spawn(move || {
        for n in (0..=u8::MAX).cycle().take_while(|_| !stopped.load(Relaxed)) {
            map[LARGE - 1] = n;
        }
    });
    let found = wanted.recv().await;
    stop.store(true, Relaxed);
    writer.join().unwrap();
    assert!(matches!(found, Some(Ok(Delivery::Fault(_, FileFault::Changed)))), "{found:?}");
}
