//! What is left after a restart, a torn write, a full disk; and what is never exceeded.

use rustix::fs::FallocateFlags;

use super::*;

/// The files' content below the replica's tree, by their path.
fn on_disk(bench: &Bench, path: &str) -> std::path::PathBuf {
    bench.replica.layout().path().join("tree").join(path)
}

async fn counted(bench: &Bench) -> ReplicaStatus {
    timeout(Duration::from_secs(60), async {
        while !bench.replica.status().counted {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        bench.replica.status()
    })
    .await
    .expect("what is on the disk was not counted")
}

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
        let before = counted(&bench).await;
        let bench = bench.reopened().await;
        let after = counted(&bench).await;
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
    let path = on_disk(&bench, "d/f");
    let metadata = std::fs::metadata(&path).unwrap();
    use std::os::unix::fs::MetadataExt;
    assert_eq!((metadata.len(), metadata.mode() & 0o7777), (10 * MIB, 0o600));
    assert_eq!(metadata.blocks() * 512 / BLOCK, 1, "more is allocated than what came");
    let directory = std::fs::metadata(path.parent().unwrap()).unwrap();
    assert_eq!(directory.mode() & 0o7777, 0o700);
    let stated = state::get(std::fs::File::open(&path).unwrap()).unwrap();
    let state::Stated::Unfinished(stated) = stated else { panic!("{stated:?}") };
    assert_eq!((stated.index, stated.mode, stated.remote_bytes), (bench.tree.index("d/f"), 0o640, 10 * MIB));
    assert_eq!((stated.mtime.sec, stated.mtime.nsec), (-5, 7));
}

#[tokio::test(start_paused = true)]
async fn torn_blocks_are_fetched_again_and_no_others() {
    for filesystem in FILESYSTEMS {
        let bench = Bench::with(&[file("f", 10 * BLOCK)], WhenGone::Fail, filesystem);
        bench.check("f", 0, 10 * BLOCK).await;
        bench.replica.close().await;
        let disk = std::fs::File::options().write(true).open(on_disk(&bench, "f")).unwrap();
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

#[tokio::test(start_paused = true)]
async fn a_block_must_be_the_one_it_was() {
    for filesystem in FILESYSTEMS {
        let bench = Bench::with(&[file("f", 2 * BLOCK + 5)], WhenGone::WaitForever, filesystem);
        bench.check("f", 0, 3 * BLOCK).await;
        bench.replica.close().await;
        let disk = std::fs::File::options().write(true).open(on_disk(&bench, "f")).unwrap();
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
    std::fs::write(on_disk(&bench, "f"), vec![9; 100_000]).unwrap();
    assert_eq!(bench.read("f", 0, 100_000).await.unwrap(), vec![9; 100_000]);
    assert_eq!(bench.origin.seen(), []);
}

#[tokio::test(start_paused = true)]
async fn what_does_not_belong_there_is_an_error_and_is_left_alone() {
    let check = async |make: fn(&Path)| {
        let bench = Bench::new(&[file("f", 100_000)]);
        let path = on_disk(&bench, "f");
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
fn small_disk(at: &Path, bytes: u64) -> Result<(), rustix::io::Errno> {
    use rustix::mount::{MountFlags, MountPropagationFlags};
    // SAFETY: only this thread, and the threads it starts from here on, leave the file system context they shared.
    unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::NEWNS) }?;
    rustix::mount::mount_change("/", MountPropagationFlags::REC | MountPropagationFlags::PRIVATE)?;
    let options = std::ffi::CString::new(format!("size={bytes}")).unwrap();
    rustix::mount::mount("twinshare-test", at, "tmpfs", MountFlags::empty(), Some(options.as_c_str()))
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
    let replica = open(&at, &tree, &origin, WhenGone::Fail);
    let large = tree.index("large");
    for step in 0..160u64 {
        let offset = step * 256 * 1024;
        let bytes = replica.read(large, offset, 256 * 1024).await.unwrap();
        assert!(bytes == tree.content(large).slice(offset as usize..offset as usize + 256 * 1024));
    }
    replica.idle().await;
    let status = replica.status();
    assert!(status.disk_full && !status.errors.is_empty(), "{status:?}");
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
    assert!(!status.disk_full && status.memory_bytes == 0, "{status:?}");
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
    let inode = replica.engine.inode(large).unwrap();
    replica.read(large, 0, 1).await.unwrap();
    replica.idle().await;
    // Nothing can be written while somebody else holds the file's place on the disk.
    let (mut most, mut stuck) = (0, 0);
    for at in (0..64 * MIB).step_by(256 * 1024) {
        let held = (at / MIB).is_multiple_of(8).then(|| inode.disk.lock().unwrap());
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
