//! What is left after a restart, a torn write, a full disk; and what is never exceeded.

use rustix::fs::FallocateFlags;

use super::*;

#[tokio::test(start_paused = true)]
async fn nothing_is_fetched_twice_after_a_restart() {
    for filesystem in FILESYSTEMS {
        let files = [
            file("d/small", 70_000),
            file("large", 10 * MIB + 3),
            file("@1/deep/other", 300_000),
            file("none", 0),
        ];
        let bench = Bench::with(&files, WhenGone::Fail, filesystem);
        bench.check("d/small", 0, 70_000).await;
        bench.check("@1/deep/other", 0, 300_000).await;
        for (block, blocks) in [(0, 1), (7, 2), (160, 1)] {
            bench.check("large", block * BLOCK, blocks * BLOCK).await;
        }
        bench.replica.idle().await;
        let before = bench.counted().await;
        let bench = bench.reopened().await;
        let after = bench.counted().await;
        assert_eq!(after.blocks, Tally { resident: 2 + 5 + 4, total: 2 + 5 + 161 });
        assert_eq!(after.files, Tally { resident: 3, total: 4 });
        assert_eq!((after.blocks, after.bytes, after.files), (before.blocks, before.bytes, before.files));
        bench.origin.seen();
        bench.check("d/small", 0, 70_000).await;
        bench.check("@1/deep/other", 5, 299_000).await;
        bench.check("large", 7 * BLOCK + 1, 2 * BLOCK - 1).await;
        bench.check("large", 160 * BLOCK, BLOCK).await;
        assert_eq!(bench.origin.seen(), []);
        bench.check("large", 6 * BLOCK, 4 * BLOCK).await;
        let seen = bench.origin.seen();
        let asked: Vec<_> = seen.iter().flat_map(|r| &r.ranges).map(|r| (r.first.0, r.count)).collect();
        assert_eq!(asked[..2], [(6, 1), (9, 1)], "{seen:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_unfinished_file_lies_as_it_should() {
    let bench = Bench::new(&[file("d/f", 10 * MIB)]);
    bench.check("d/f", 3 * BLOCK, 1).await;
    bench.replica.idle().await;
    let path = bench.on_disk("d/f");
    let metadata = std::fs::metadata(&path).unwrap();
    use std::os::unix::fs::MetadataExt;
    assert_eq!((metadata.len(), metadata.mode() & 0o7777), (10 * MIB, 0o600));
    assert_eq!(metadata.blocks() * 512 / BLOCK, 1, "more is allocated than what came");
    let directory = std::fs::metadata(path.parent().unwrap()).unwrap();
    assert_eq!(directory.mode() & 0o7777, 0o700);
    let stated = state::get(std::fs::File::open(&path).unwrap()).unwrap();
    let state::Stated::Unfinished(stated) = stated else { panic!("{stated:?}") };
    assert_eq!(
        (stated.index, stated.mode, stated.remote_bytes),
        (Some(bench.tree.index("d/f")), 0o640, 10 * MIB)
    );
    assert_eq!((stated.mtime.sec, stated.mtime.nsec), (-5, 7));
}

#[tokio::test(start_paused = true)]
async fn torn_blocks_are_fetched_again_and_no_others() {
    for filesystem in FILESYSTEMS {
        let bench = Bench::with(&[file("f", 10 * BLOCK)], WhenGone::Fail, filesystem);
        bench.check("f", 0, 10 * BLOCK).await;
        bench.replica.close().await;
        let disk = std::fs::File::options().write(true).open(bench.on_disk("f")).unwrap();
        let punch = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        rustix::fs::fallocate(&disk, punch, 3 * BLOCK + 4096, 4096).unwrap();
        drop(disk);
        let bench = bench.reopened().await;
        bench.origin.seen();
        bench.check("f", 0, 10 * BLOCK).await;
        let seen = bench.origin.seen();
        assert_eq!(seen.len(), 1, "{filesystem}: {seen:?}");
        assert_eq!((seen[0].ranges[0].first.0, seen[0].ranges[0].count), (3, 1));
    }
}

/// Overwrites content on the disk as a write-back that fails leaves it, once its pages are gone from the cache.
fn lose(bench: &Bench, path: &str, range: std::ops::Range<u64>) {
    let disk = std::fs::File::options().write(true).open(bench.on_disk(path)).unwrap();
    std::os::unix::fs::FileExt::write_all_at(
        &disk,
        &vec![0; (range.end - range.start) as usize],
        range.start,
    )
    .unwrap();
}

#[tokio::test(start_paused = true)]
async fn what_the_disk_lost_after_taking_it_is_fetched_again() {
    for filesystem in FILESYSTEMS {
        let files = [file("f", 40 * BLOCK), file("d/small", 2 * BLOCK + 5), file("whole", 3 * BLOCK)];
        let bench = Bench::with(&files, WhenGone::Fail, filesystem);
        bench.check("whole", 0, 3 * BLOCK).await;
        bench.check("f", 0, BLOCK).await;
        bench.replica.idle().await;
        tokio::time::sleep(Duration::from_secs(6)).await;
        bench.check("f", 20 * BLOCK, BLOCK).await;
        bench.check("d/small", 0, BLOCK).await;
        bench.replica.idle().await;
        let before = bench.counted().await;
        assert_eq!(before.files, Tally { resident: 2, total: 3 });
        lose(&bench, "f", 20 * BLOCK..21 * BLOCK);
        lose(&bench, "d/small", BLOCK..2 * BLOCK + 5);
        bench.disk_loses.store(true, Relaxed);
        tokio::time::sleep(Duration::from_secs(6)).await;
        let lost = bench.counted().await;
        assert_eq!(lost.blocks.resident, before.blocks.resident - 1 - 3, "{filesystem}");
        assert_eq!(lost.bytes.resident, before.bytes.resident - BLOCK - 2 * BLOCK - 5);
        assert_eq!(lost.files, Tally { resident: 1, total: 3 });
        assert!(lost.errors[0].text.contains("the disk lost"), "{:?}", lost.errors);
        bench.origin.seen();
        for (path, offset, length) in [("whole", 0, 3 * BLOCK), ("f", 0, BLOCK), ("f", 20 * BLOCK, BLOCK)] {
            bench.check(path, offset, length).await;
        }
        bench.check("d/small", 0, 3 * BLOCK).await;
        let seen = bench.origin.seen();
        let asked: Vec<_> = seen.iter().flat_map(|r| &r.ranges).map(|r| (r.first.0, r.count)).collect();
        assert_eq!(asked[..1], [(20, 1)], "{filesystem}");
        assert!(asked.len() == 2 && seen[1].whole_files, "{filesystem}: {seen:?}");
        bench.replica.idle().await;
        let after = bench.counted().await;
        assert_eq!((after.blocks, after.bytes, after.files), (before.blocks, before.bytes, before.files));
    }
}

#[tokio::test(start_paused = true)]
async fn what_the_disk_lost_is_noticed_when_the_replica_is_closed() {
    let bench = Bench::new(&[file("f", 3 * BLOCK)]);
    bench.check("f", 0, 3 * BLOCK).await;
    bench.replica.idle().await;
    lose(&bench, "f", BLOCK..2 * BLOCK);
    bench.disk_loses.store(true, Relaxed);
    let bench = bench.reopened().await;
    bench.check("f", 0, 3 * BLOCK).await;
}

/// Mounts, inside `at`, an ext4 that believes it has 128 MiB on a tmpfs that has 16.
fn overcommitted_disk(at: &Path) -> Result<std::path::PathBuf, String> {
    small_disk(at, 16 * MIB).map_err(|errno| errno.to_string())?;
    let (image, mount_point) = (at.join("image"), at.join("ext4"));
    std::fs::File::create(&image).unwrap().set_len(128 * MIB).unwrap();
    std::fs::create_dir(&mount_point).unwrap();
    let run = |program: &str, arguments: &[&str]| {
        let output =
            std::process::Command::new(program).args(arguments).output().map_err(|e| e.to_string())?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        if output.status.success() { Ok(()) } else { Err(format!("{program}: {said}")) }
    };
    let [image, there] = [&image, &mount_point].map(|path| path.to_str().unwrap());
    // Without a journal, since an error in it would end all writing.
    run("mkfs.ext4", &["-q", "-F", "-O", "^has_journal", image])?;
    run("mount", &["-o", "loop,errors=continue", image, there])?;
    Ok(mount_point)
}

#[tokio::test(start_paused = true)]
async fn a_disk_that_cannot_write_back_never_shows_zeros() {
    let below = tempfile::tempdir().unwrap();
    let disk = match overcommitted_disk(below.path()) {
        Ok(disk) => disk,
        Err(why) => {
            eprintln!("SKIPPED: an overcommitted disk cannot be mounted here: {why}");
            return;
        }
    };
    let tree = TestTree::new(&[file("f", 40 * MIB)]);
    let origin = ScriptedOrigin::new(&tree);
    let f = tree.index("f");
    let config = ReplicaConfig::new(Layout::view_in(&disk.join("replica")).unwrap());
    let replica = Replica::open(config, tree.manifest.clone(), origin.clone(), Handle::current()).unwrap();
    let check = async || {
        for at in (0..40 * MIB).step_by(MIB as usize) {
            let bytes = replica.read(f, at, MIB as u32).await.unwrap();
            assert!(bytes == tree.content(f).slice(at as usize..(at + MIB) as usize), "other bytes at {at}");
        }
    };
    check().await;
    replica.idle().await;
    let whole = replica.status().blocks;
    assert_eq!(whole.resident, whole.total);
    timeout(Duration::from_secs(60), async {
        while replica.status().errors.is_empty() {
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    })
    .await
    .expect("the disk's loss was not noticed");
    let on_disk = std::fs::File::open(replica.layout().path().join("tree/f")).unwrap();
    rustix::fs::fadvise(&on_disk, 0, None, rustix::fs::Advice::DontNeed).unwrap();
    drop(on_disk);
    origin.seen();
    check().await;
    let again: u64 = origin.seen().iter().flat_map(|request| &request.ranges).map(|range| range.count).sum();
    assert!(again > 0, "nothing was fetched again");
    replica.close().await;
    drop(replica);
    for at in [disk.as_path(), below.path()] {
        rustix::mount::unmount(at, rustix::mount::UnmountFlags::DETACH).unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn the_disk_is_asked_only_while_something_is_written() {
    let bench = Bench::new(&[file("f", BLOCK)]);
    bench.disk_loses.store(true, Relaxed);
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert!(bench.disk_loses.load(Relaxed), "it was asked for nothing");
    bench.check("f", 0, BLOCK).await;
    bench.replica.idle().await;
    tokio::time::sleep(Duration::from_secs(6)).await;
    assert!(!bench.disk_loses.swap(true, Relaxed), "it was not asked");
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert!(bench.disk_loses.load(Relaxed), "it was asked again for nothing");
}

#[tokio::test(start_paused = true)]
async fn a_block_must_be_the_one_it_was() {
    for filesystem in FILESYSTEMS {
        let bench = Bench::with(&[file("f", 2 * BLOCK + 5)], WhenGone::WaitForever, filesystem);
        bench.check("f", 0, 3 * BLOCK).await;
        bench.replica.close().await;
        let disk = std::fs::File::options().write(true).open(bench.on_disk("f")).unwrap();
        let punch = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        rustix::fs::fallocate(&disk, punch, BLOCK, BLOCK).unwrap();
        drop(disk);
        let bench = bench.reopened().await;
        bench.origin.script([Act::OtherVersion]);
        let read = bench.read("f", BLOCK, 1).await;
        assert!(matches!(&read, Err(ReadError::Corrupt(why)) if why.contains("block 1")), "{read:?}");
        bench.check("f", 0, 3 * BLOCK).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_file_without_state_is_complete() {
    let bench = Bench::new(&[file("f", 100_000)]);
    std::fs::write(bench.on_disk("f"), vec![9; 100_000]).unwrap();
    assert_eq!(bench.read("f", 0, 100_000).await.unwrap(), vec![9; 100_000]);
    assert_eq!(bench.origin.seen(), []);
}

#[tokio::test(start_paused = true)]
async fn what_does_not_belong_there_is_an_error_and_is_left_alone() {
    let check = async |make: fn(&Path)| {
        let bench = Bench::new(&[file("f", 100_000)]);
        let path = bench.on_disk("f");
        make(&path);
        let read = bench.read("f", 0, 1).await;
        assert_eq!(read, Err(ReadError::Io(rustix::io::Errno::IO)));
        assert!(path.symlink_metadata().is_ok());
        let errors = bench.replica.status().errors;
        assert!(
            errors.iter().any(|line| line.text.contains("not the file that belongs there")),
            "{errors:?}"
        );
    };
    check(|path| std::fs::write(path, b"another size").unwrap()).await;
    check(|path| std::fs::create_dir(path).unwrap()).await;
    check(|path| std::os::unix::fs::symlink("/etc/passwd", path).unwrap()).await;
    check(|path| {
        std::fs::write(path, vec![0; 100_000]).unwrap();
        let flags = rustix::fs::XattrFlags::empty();
        rustix::fs::setxattr(path, state::XATTR, b"strange", flags).unwrap();
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn another_snapshot_does_not_mix_with_this_one() {
    let bench = Bench::new(&[file("f", 100_000)]);
    bench.replica.close().await;
    let other = TestTree::new(&[file("g", 100_000)]);
    let origin = ScriptedOrigin::new(&other);
    let config = || ReplicaConfig::new(Layout::view_in(bench.directory.path()).unwrap());
    let error =
        Replica::open(config(), other.manifest.clone(), origin.clone(), Handle::current()).unwrap_err();
    assert!(matches!(error, ReplicaError::HoldsAnother { .. }), "{error}");
    let error = Replica::open(config(), bench.tree.manifest.clone(), origin, Handle::current()).unwrap_err();
    assert!(matches!(error, ReplicaError::OtherSnapshot), "{error}");
}

/// Mounts a tmpfs of so many bytes that only this test sees, and that goes with it, however it ends.
#[expect(unsafe_code, reason = "a mount namespace for one thread")]
pub(super) fn small_disk(at: &Path, bytes: u64) -> Result<(), rustix::io::Errno> {
    use rustix::mount::{MountFlags, MountPropagationFlags};
    // SAFETY: only this thread, and the threads it starts from here on, leave the file system context they shared.
    unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::NEWNS) }?;
    rustix::mount::mount_change("/", MountPropagationFlags::REC | MountPropagationFlags::PRIVATE)?;
    let options = std::ffi::CString::new(format!("size={bytes}")).unwrap();
    rustix::mount::mount("twinshare-test", at, "tmpfs", MountFlags::empty(), Some(options.as_c_str()))
}

#[tokio::test(start_paused = true)]
async fn a_replica_on_a_full_disk_is_opened_again() {
    let disk = tempfile::tempdir().unwrap();
    if let Err(errno) = small_disk(disk.path(), 5 * MIB) {
        eprintln!("SKIPPED: a tmpfs cannot be mounted here: {errno}");
        return;
    }
    let tree = TestTree::new(&[file("f", 2 * MIB)]);
    let origin = ScriptedOrigin::new(&tree);
    let at = disk.path().join("replica");
    let replica = open(&at, &tree, &origin, WhenGone::Fail, &Arc::default());
    replica.read(tree.index("f"), 0, 2 * MIB as u32).await.unwrap();
    replica.close().await;
    drop(replica);
    let mut filler = std::fs::File::create(disk.path().join("filler")).unwrap();
    while std::io::Write::write(&mut filler, &[1; 4096]).is_ok() {}
    origin.otherwise(Act::Gone);
    let replica = open(&at, &tree, &origin, WhenGone::Fail, &Arc::default());
    let bytes = replica.read(tree.index("f"), 0, 2 * MIB as u32).await.unwrap();
    assert!(bytes == *tree.content(tree.index("f")));
    replica.close().await;
    drop((replica, filler));
    rustix::mount::unmount(disk.path(), rustix::mount::UnmountFlags::DETACH).unwrap();
}

#[tokio::test(start_paused = true)]
async fn what_is_in_the_way_of_one_file_is_no_full_disk() {
    let bench = Bench::new(&[file("d/f", 3 * BLOCK), file("g", BLOCK)]);
    // Comes in the way after the file was looked for and before its content arrives.
    bench.origin.script([Act::Serve(Duration::from_secs(1))]);
    let in_the_way = async {
        tokio::time::sleep(Duration::from_millis(500)).await;
        std::fs::write(bench.on_disk("d"), b"").unwrap();
    };
    tokio::join!(bench.check("d/f", 0, 3 * BLOCK), in_the_way);
    bench.replica.idle().await;
    let status = bench.replica.status();
    assert_eq!((&status.disk_refuses, status.memory_bytes), (&None, 0));
    assert!(
        status.errors.iter().any(|line| line.text.contains("d/f: it cannot be kept")),
        "{:?}",
        status.errors
    );
}

#[tokio::test(start_paused = true)]
async fn a_full_disk_still_answers() {
    let disk = tempfile::tempdir().unwrap();
    if let Err(errno) = small_disk(disk.path(), 5 * MIB) {
        eprintln!("SKIPPED: a tmpfs cannot be mounted here: {errno}");
        return;
    }
    let tree = TestTree::new(&[file("large", 40 * MIB), file("small", 50_000)]);
    let origin = ScriptedOrigin::new(&tree);
    let at = disk.path().join("replica");
    let replica = open(&at, &tree, &origin, WhenGone::Fail, &Arc::default());
    let large = tree.index("large");
    for step in 0..160u64 {
        let offset = step * 256 * 1024;
        let bytes = replica.read(large, offset, 256 * 1024).await.unwrap();
        assert!(bytes == tree.content(large).slice(offset as usize..offset as usize + 256 * 1024));
    }
    replica.idle().await;
    let status = replica.status();
    assert!(status.disk_refuses.is_some() && !status.errors.is_empty(), "{status:?}");
    assert!(status.bytes.resident > 3 * MIB && status.bytes.resident < 5 * MIB, "{status:?}");
    assert!(status.memory_bytes <= 8 * MIB, "{} bytes are kept in memory", status.memory_bytes);
    let fetched = status.fetched;
    assert!(fetched.demand + fetched.read_ahead < 90 * MIB, "fetched again and again: {fetched:?}");
    // What was here stays, and room is used again.
    let bytes = replica.read(large, 0, 256 * 1024).await.unwrap();
    assert!(bytes == tree.content(large).slice(..256 * 1024));
    rustix::mount::mount_remount(disk.path(), rustix::mount::MountFlags::empty(), "size=64m").unwrap();
    replica.read(tree.index("small"), 0, 10).await.unwrap();
    replica.idle().await;
    let status = replica.status();
    assert!(status.disk_refuses.is_none() && status.memory_bytes == 0, "{status:?}");
    // The mount lives as long as this thread; the directory beneath is then free to be removed.
    replica.close().await;
    drop(replica);
    rustix::mount::unmount(disk.path(), rustix::mount::UnmountFlags::DETACH).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn memory_stays_bounded_while_the_disk_is_slow() {
    let tree = TestTree::new(&[file("large", 64 * MIB)]);
    let origin = ScriptedOrigin::new(&tree);
    let directory = tempfile::tempdir_in("/dev/shm").unwrap();
    let config = ReplicaConfig {
        memory_bytes_max: 0,
        ..ReplicaConfig::new(Layout::view_in(directory.path()).unwrap())
    };
    let replica = Replica::open(config, tree.manifest.clone(), origin, Handle::current()).unwrap();
    let large = tree.index("large");
    let inode = replica.engine.inode(large.into()).unwrap();
    replica.read(large, 0, 1).await.unwrap();
    replica.idle().await;
    // Nothing can be written while somebody else holds the file's place on the disk.
    let (mut most, mut stuck) = (0, 0);
    for at in (0..64 * MIB).step_by(256 * 1024) {
        let held = (at / MIB).is_multiple_of(8).then(|| inode.data.lock().unwrap());
        inode.lock().file = None;
        let mut read = Box::pin(replica.read(large, at, 256 * 1024));
        let bytes = if held.is_some() {
            stuck += 1;
            poll_for(&mut read, Duration::from_millis(20)).await
        } else {
            None
        };
        most = most.max(replica.status().memory_bytes);
        drop(held);
        let bytes = match bytes {
            Some(bytes) => bytes,
            None => read.await,
        };
        assert!(bytes.unwrap() == tree.content(large).slice(at as usize..at as usize + 256 * 1024));
    }
    assert!(stuck > 0 && most > 8 * MIB, "{most}");
    assert!(most <= MEMORY_BYTES_MIN, "{most} bytes in memory");
}

async fn poll_for<F: Future + Unpin>(future: &mut F, limit: Duration) -> Option<F::Output> {
    timeout(limit, future).await.ok()
}
