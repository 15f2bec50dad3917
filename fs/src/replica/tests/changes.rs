//! Files that are written to, cut, grown, removed: what is read afterwards, what is fetched for it, and what is left
//! after a restart.

use std::os::unix::fs::{FileExt, MetadataExt};

use rustix::fs::FallocateFlags;

use super::*;
use crate::filesystem::Seek;
use crate::manifest::Mtime;

/// A file of which a part is a hole, and which ends within a page.
fn sparse(path: &'static str, blocks: u64, hole: std::ops::Range<u64>) -> TestFile {
    let mut sparse = file(path, blocks * BLOCK + 5000);
    let mut content = sparse.content.to_vec();
    content[hole.start as usize..hole.end as usize].fill(0);
    (sparse.content, sparse.holes) = (content.into(), vec![hole]);
    sparse
}

fn bytes(length: u64, with: u8) -> Bytes {
    vec![with; length as usize].into()
}

/// A file, and what should be in it.
struct Model<'b> {
    bench: &'b Bench,
    index: EntryIndex,
    content: Vec<u8>,
}

impl<'b> Model<'b> {
    fn of(bench: &'b Bench, path: &str) -> Self {
        let index = bench.tree.index(path);
        Self { bench, index, content: bench.tree.content(index).to_vec() }
    }

    async fn write(&mut self, offset: u64, length: u64, with: u8) -> Result<(), WriteError> {
        let written = self.bench.replica.write(self.index, offset, bytes(length, with)).await?;
        assert_eq!(written, length);
        let end = (offset + length) as usize;
        self.content.resize(self.content.len().max(end), 0);
        self.content[offset as usize..end].fill(with);
        Ok(())
    }

    async fn truncate(&mut self, size: u64) -> Result<(), WriteError> {
        self.bench.replica.truncate(self.index, size).await?;
        self.content.resize(size as usize, 0);
        Ok(())
    }

    async fn check(&self) {
        let bench = self.bench;
        let read = bench.replica.read(self.index, 0, u32::MAX).await.unwrap();
        let differs = read.iter().zip(&self.content).position(|(one, other)| one != other);
        assert!(*read == *self.content, "{} of {} bytes, {differs:?}", read.len(), self.content.len());
        assert_eq!(bench.replica.size(self.index), Some(self.content.len() as u64));
    }
}

fn asked(bench: &Bench) -> Vec<(u64, u64)> {
    let seen = bench.origin.seen();
    seen.iter().flat_map(|request| &request.ranges).map(|range| (range.first.0, range.count)).collect()
}

#[tokio::test(start_paused = true)]
async fn a_write_fetches_only_blocks_that_it_changes_in_part() {
    for filesystem in FILESYSTEMS {
        let check = async |offset: u64, length: u64, expected: &[(u64, u64)]| {
            let bench = Bench::writable(&[file("f", 10 * BLOCK + 5000)], filesystem);
            let mut model = Model::of(&bench, "f");
            model.write(offset, length, 7).await.unwrap();
            assert_eq!(asked(&bench), expected, "{offset}+{length}");
            model.check().await;
            bench.replica.idle().await;
            let index = model.index;
            let content = std::mem::take(&mut model.content);
            let bench = bench.reopened().await;
            Model { bench: &bench, index, content }.check().await;
        };
        check(0, BLOCK, &[]).await;
        check(BLOCK, 3 * BLOCK, &[]).await;
        check(BLOCK + 1, 10, &[(1, 1)]).await;
        check(BLOCK - 1, 2, &[(0, 1), (1, 1)]).await;
        check(2 * BLOCK, 2 * BLOCK + 1, &[(4, 1)]).await;
        check(10 * BLOCK, 5000, &[]).await;
        check(10 * BLOCK, 6000, &[]).await;
        check(10 * BLOCK + 1, 4999, &[(10, 1)]).await;
        // Behind the end, the block in which the origin's file ends is needed too.
        check(10 * BLOCK + 5000, 1, &[(10, 1)]).await;
        check(30 * BLOCK, 1, &[(10, 1)]).await;
    }
}

#[tokio::test(start_paused = true)]
async fn without_the_origin_whole_blocks_can_be_written_and_parts_cannot() {
    for filesystem in FILESYSTEMS {
        let bench = Bench::writable(&[sparse("f", 10, 2 * BLOCK + 5..6 * BLOCK)], filesystem);
        bench.origin.goes("scripted");
        bench.origin.otherwise(Act::Gone);
        let mut model = Model::of(&bench, "f");
        model.write(7 * BLOCK, BLOCK, 1).await.unwrap();
        // A hole is all here.
        model.write(4 * BLOCK + 17, 100, 2).await.unwrap();
        let part = model.write(8 * BLOCK + 1, 5, 3).await;
        assert!(matches!(part, Err(WriteError::Fetch(ReadError::Gone(_)))), "{part:?}");
        let part = model.truncate(8 * BLOCK + 1).await;
        assert!(matches!(part, Err(WriteError::Fetch(ReadError::Gone(_)))), "{part:?}");
        bench.origin.forgive();
        bench.origin.returns();
        model.check().await;
        bench.replica.idle().await;
        let content = model.content;
        let again = bench.tree.index("f");
        let bench = bench.reopened().await;
        Model { bench: &bench, index: again, content }.check().await;
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_cut_off_never_comes_back() {
    for filesystem in FILESYSTEMS {
        for (size, grown) in
            [(4 * BLOCK + 100, 9 * BLOCK), (4 * BLOCK, 9 * BLOCK + 1), (0, 3 * BLOCK), (1, 2)]
        {
            let bench = Bench::writable(&[sparse("f", 10, 2 * BLOCK..3 * BLOCK)], filesystem);
            let mut model = Model::of(&bench, "f");
            bench.check("f", 8 * BLOCK, BLOCK).await;
            model.truncate(size).await.unwrap();
            model.check().await;
            model.truncate(grown).await.unwrap();
            model.check().await;
            model.write(grown + 3, 5, 9).await.unwrap();
            model.check().await;
            bench.replica.idle().await;
            let (index, content) = (model.index, model.content);
            let bench = bench.reopened().await;
            Model { bench: &bench, index, content }.check().await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_crash_amid_a_cut_leaves_the_file_cut() {
    let bench = Bench::writable(&[file("f", 10 * BLOCK)], "/tmp");
    bench.check("f", 0, 10 * BLOCK).await;
    bench.replica.idle().await;
    bench.replica.close().await;
    let path = bench.on_disk("f");
    let disk = std::fs::File::options().write(true).open(&path).unwrap();
    disk.set_len(4 * BLOCK + 100).unwrap();
    let bench = bench.reopened().await;
    let mut model = Model::of(&bench, "f");
    model.content.truncate(4 * BLOCK as usize + 100);
    model.check().await;
    // The length that was noted before it could be, must be noted before it grows.
    model.truncate(9 * BLOCK).await.unwrap();
    let state::Stated::Unfinished(stated) = state::get(&disk).unwrap() else { panic!("no state") };
    assert_eq!(stated.remote_bytes, 4 * BLOCK);
    let (index, content) = (model.index, model.content);
    let bench = bench.reopened().await;
    Model { bench: &bench, index, content }.check().await;
}

#[tokio::test(start_paused = true)]
async fn an_emptied_file_is_an_ordinary_one() {
    let bench = Bench::writable(&[file("f", 10 * BLOCK)], "/tmp");
    bench.origin.goes("scripted");
    let mut model = Model::of(&bench, "f");
    model.truncate(0).await.unwrap();
    model.write(0, 10, 1).await.unwrap();
    let path = bench.on_disk("f");
    assert_eq!(state::get(std::fs::File::open(&path).unwrap()).unwrap(), state::Stated::Nothing);
    assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o7777, 0o640);
    assert_eq!(std::fs::read(&path).unwrap(), [1; 10]);
    let status = bench.counted().await;
    assert_eq!(status.files, Tally { resident: 1, total: 1 });
    assert_eq!(bench.replica.times(model.index), None);
    model.check().await;
}

#[tokio::test(start_paused = true)]
async fn a_block_that_is_written_over_is_no_longer_waited_for() {
    let bench = Arc::new(Bench::writable(&[file("f", 30 * BLOCK)], "/tmp"));
    bench.origin.otherwise(Act::Stall(0));
    let reading = {
        let bench = bench.clone();
        tokio::spawn(async move { bench.read("f", 3 * BLOCK, BLOCK).await })
    };
    while bench.origin.seen().is_empty() {
        tokio::task::yield_now().await;
    }
    let mut model = Model::of(&bench, "f");
    model.write(3 * BLOCK, BLOCK, 5).await.unwrap();
    let read = timeout(Duration::from_secs(1), reading).await.expect("it waits").unwrap();
    assert_eq!(read.unwrap(), bytes(BLOCK, 5));
}

#[tokio::test(start_paused = true)]
#[expect(clippy::await_holding_lock, reason = "it stands for a disk that is slow")]
async fn what_arrives_late_is_not_put_over_what_was_written() {
    for cut in [false, true] {
        let bench = Bench::writable(&[file("f", 30 * BLOCK)], "/tmp");
        let inode = bench.replica.engine.inode(bench.tree.index("f").into()).unwrap();
        bench.check("f", 0, 1).await;
        bench.replica.idle().await;
        // It has arrived, and cannot be put on the disk.
        let held = inode.data.lock().unwrap();
        bench.check("f", 5 * BLOCK, 2 * BLOCK).await;
        assert_eq!(inode.lock().held(0..30), std::slice::from_ref(&(5..7)));
        // What a write, or a cut, does while it holds that lock.
        match cut {
            false => inode.lock().stored(&inode, 5..6),
            true => inode.lock().cut(&inode, 6 * BLOCK),
        }
        drop(held);
        bench.replica.idle().await;
        let disk = std::fs::File::open(bench.on_disk("f")).unwrap();
        let is_there = |block: u64| {
            let mut bytes = vec![0; BLOCK as usize];
            disk.read_exact_at(&mut bytes, block * BLOCK).unwrap();
            bytes.iter().any(|byte| *byte != 0)
        };
        assert_eq!([5, 6].map(is_there), [cut, !cut]);
    }
}

#[tokio::test(start_paused = true)]
async fn the_sums_follow_what_is_cut_and_removed() {
    for filesystem in FILESYSTEMS {
        let files = [sparse("f", 10, 2 * BLOCK..6 * BLOCK), file("g", 3 * BLOCK), file("h", BLOCK)];
        let bench = Bench::writable(&files, filesystem);
        let before = bench.counted().await;
        assert_eq!(before.blocks, Tally { resident: 4, total: 11 + 3 + 1 });
        bench.replica.truncate(bench.tree.index("f"), 5 * BLOCK).await.unwrap();
        let after = bench.replica.status();
        assert_eq!(after.blocks, Tally { resident: 3, total: 5 + 3 + 1 });
        assert_eq!(after.bytes, Tally { resident: 3 * BLOCK, total: 9 * BLOCK });
        bench.check("f", 0, 2 * BLOCK).await;
        bench.replica.idle().await;
        let after = bench.replica.status();
        assert_eq!((after.files, after.blocks), (tally(1, 3, 0), Tally { resident: 5, total: 9 }));
        bench.check("g", 0, BLOCK).await;
        bench.replica.removing(bench.tree.index("g")).unwrap().done();
        bench.replica.removing(bench.tree.index("h")).unwrap().done();
        let after = bench.replica.status();
        assert_eq!((after.files, after.blocks), (tally(1, 1, 0), Tally { resident: 5, total: 5 }));
        // Whatever is thought of the disk, what was removed stays removed.
        bench.disk_loses.store(true, Relaxed);
        bench.replica.write(bench.tree.index("f"), 0, bytes(1, 1)).await.unwrap();
        tokio::time::sleep(Duration::from_secs(6)).await;
        let after = bench.counted().await;
        assert_eq!((after.files.total, after.blocks.total), (1, 5));
        let read = bench.read("g", 0, 1).await;
        assert!(read.is_err(), "{read:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_removed_file_that_is_open_goes_on() {
    for read_before in [false, true] {
        let bench = Bench::writable(&[file("f", 30 * BLOCK)], "/tmp");
        let mut model = Model::of(&bench, "f");
        bench.replica.opened(model.index);
        if read_before {
            model.write(3 * BLOCK + 5, 10, 3).await.unwrap();
        }
        let removal = bench.replica.removing(model.index).unwrap();
        if read_before {
            std::fs::remove_file(bench.on_disk("f")).unwrap();
        }
        removal.done();
        model.check().await;
        model.write(20 * BLOCK + 5, 10, 3).await.unwrap();
        bench.replica.idle().await;
        model.check().await;
        assert!(!bench.on_disk("f").exists(), "it has come back");
        bench.replica.released(model.index);
        assert!(bench.read("f", 0, 1).await.is_err());
        assert_eq!(bench.replica.status().files, Tally { resident: 0, total: 0 });
    }
}

#[tokio::test(start_paused = true)]
async fn an_ordinary_file_has_its_own_mode_and_times() {
    for filesystem in FILESYSTEMS {
        let bench = Bench::writable(&[sparse("f", 40, BLOCK..2 * BLOCK)], filesystem);
        let model = Model::of(&bench, "f");
        bench.replica.localize(model.index).await.unwrap();
        let metadata = std::fs::metadata(bench.on_disk("f")).unwrap();
        assert_eq!((metadata.mode() & 0o7777, metadata.mtime(), metadata.mtime_nsec()), (0o640, -5, 7));
        bench.origin.goes("scripted");
        model.check().await;
        assert!(*std::fs::read(bench.on_disk("f")).unwrap() == *model.content);
        let status = bench.counted().await;
        assert_eq!(status.blocks, Tally { resident: 41, total: 41 });
        bench.replica.localize(model.index).await.unwrap();
        let bench = bench.reopened().await;
        assert_eq!(bench.counted().await.blocks, Tally { resident: 41, total: 41 });
    }
}

#[tokio::test(start_paused = true)]
async fn allocating_and_punching_is_done_to_ordinary_files() {
    let bench = Bench::writable(&[file("f", 10 * BLOCK)], "/tmp");
    let mut model = Model::of(&bench, "f");
    let punch = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    bench.replica.allocate(model.index, punch, 100, BLOCK).await.unwrap();
    model.content[100..100 + BLOCK as usize].fill(0);
    model.check().await;
    bench.replica.allocate(model.index, FallocateFlags::empty(), 0, 12 * BLOCK).await.unwrap();
    model.content.resize(12 * BLOCK as usize, 0);
    model.check().await;
}

#[tokio::test(start_paused = true)]
async fn times_are_those_of_the_last_change_here() {
    let bench = Bench::writable(&[file("f", 10 * BLOCK)], "/tmp");
    let f = bench.tree.index("f");
    bench.check("f", 0, BLOCK).await;
    bench.replica.idle().await;
    let times = |bench: &Bench| bench.replica.times(f).unwrap();
    assert_eq!(times(&bench).mtime, Mtime { sec: -5, nsec: 7 });
    bench.replica.write(f, 0, bytes(10, 1)).await.unwrap();
    let written = times(&bench);
    assert!(written.mtime.sec > 1_700_000_000 && written.mtime == written.ctime, "{written:?}");
    bench.check("f", 5 * BLOCK, BLOCK).await;
    bench.replica.idle().await;
    assert_eq!(times(&bench), written, "what was fetched changed them");
    bench.replica.write(f, 0, bytes(10, 1)).await.unwrap();
    let written = times(&bench);
    let bench = bench.reopened().await;
    bench.check("f", 5 * BLOCK, 1).await;
    assert_eq!(times(&bench), written);
    let chosen = Mtime { sec: 1, nsec: 2 };
    bench.replica.set_times(f, Some(chosen), None).await.unwrap();
    assert_eq!(times(&bench).mtime, chosen);
    bench.replica.localize(f).await.unwrap();
    let metadata = std::fs::metadata(bench.on_disk("f")).unwrap();
    assert_eq!((metadata.mtime(), metadata.mtime_nsec()), (1, 2));
}

#[tokio::test(start_paused = true)]
async fn files_made_here_go_the_same_way() {
    let bench = Bench::writable(&[], "/tmp");
    let (names, root) = (bench.replica.names().unwrap(), InodeKey::Entry(EntryIndex(0)));
    let (made, file) = names.create(root, b"new", 0o400, None).unwrap();
    let key = made.key;
    bench.replica.made(key, file.into()).unwrap();
    assert_eq!(bench.replica.write(key, 100_000, bytes(10, 1)).await.unwrap(), 10);
    bench.replica.truncate(key, 100_005).await.unwrap();
    bench.replica.sync(key, false).await.unwrap();
    let read = bench.replica.read(key, 99_999, 100).await.unwrap();
    assert_eq!(*read, [0, 1, 1, 1, 1, 1]);
    assert_eq!(bench.replica.try_read(key, 99_999, 100), TryRead::Ready(read));
    let removal = bench.replica.removing(key).unwrap();
    names.unlink(root, b"new").unwrap();
    removal.done();
    assert_eq!(bench.replica.read(key, 100_000, 100).await.unwrap().len(), 5);
    bench.replica.released(key);
    assert_eq!(bench.replica.known(key), None);
    assert_eq!(bench.counted().await.blocks, Tally::default());
}

#[tokio::test(start_paused = true)]
async fn data_and_holes_are_those_of_the_origin_and_of_the_disk() {
    for filesystem in FILESYSTEMS {
        let bench = Bench::writable(&[sparse("f", 40, BLOCK + 5..20 * BLOCK)], filesystem);
        let f = bench.tree.index("f");
        let check = async |offset: u64, data: Option<u64>, hole: Option<u64>| {
            for (seek, expected) in [(Seek::Data, data), (Seek::Hole, hole)] {
                let found = bench.replica.seek(f, offset, seek).await.unwrap();
                assert_eq!(found, expected, "{filesystem} {seek:?} from {offset}");
            }
        };
        let end = 40 * BLOCK + 5000;
        check(0, Some(0), Some(BLOCK + 5)).await;
        check(BLOCK + 7, Some(20 * BLOCK), Some(BLOCK + 7)).await;
        check(25 * BLOCK, Some(25 * BLOCK), Some(end)).await;
        check(end, None, None).await;
        bench.replica.write(f, 10 * BLOCK + 4096, bytes(4096, 1)).await.unwrap();
        check(3 * BLOCK, Some(10 * BLOCK + 4096), Some(3 * BLOCK)).await;
        check(10 * BLOCK + 4097, Some(10 * BLOCK + 4097), Some(10 * BLOCK + 8192)).await;
        bench.check("f", 30 * BLOCK, BLOCK).await;
        bench.replica.idle().await;
        check(25 * BLOCK, Some(25 * BLOCK), Some(end)).await;
        bench.replica.truncate(f, 100 * BLOCK).await.unwrap();
        check(25 * BLOCK, Some(25 * BLOCK), Some(end.next_multiple_of(4096))).await;
        check(41 * BLOCK, None, Some(41 * BLOCK)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn what_was_written_here_is_not_fetched_when_the_disk_loses_it() {
    let bench = Bench::writable(&[file("f", 20 * BLOCK), file("g", BLOCK)], "/tmp");
    let mut model = Model::of(&bench, "f");
    bench.check("g", 0, 1).await;
    model.write(3 * BLOCK + 5, 10, 1).await.unwrap();
    model.write(7 * BLOCK, 2 * BLOCK, 2).await.unwrap();
    bench.replica.idle().await;
    // One of its blocks is gone from the extent map, as after a write-back that failed.
    let disk = std::fs::File::options().write(true).open(bench.on_disk("f")).unwrap();
    let punch = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    rustix::fs::fallocate(&disk, punch, 8 * BLOCK, BLOCK).unwrap();
    bench.disk_loses.store(true, Relaxed);
    tokio::time::sleep(Duration::from_secs(6)).await;
    bench.origin.seen();
    let read = async |offset, length: u64| bench.replica.read(model.index, offset, length as u32).await;
    assert!(*read(3 * BLOCK, BLOCK).await.unwrap() == model.content[3 * BLOCK as usize..4 * BLOCK as usize]);
    assert!(*read(7 * BLOCK, BLOCK).await.unwrap() == *bytes(BLOCK, 2));
    assert_eq!(asked(&bench), []);
    assert_eq!(read(8 * BLOCK, 1).await, Err(ReadError::Io(Errno::IO)));
    let errors = bench.replica.status().errors;
    assert!(errors.iter().any(|line| line.text.contains("f: the disk may have lost")), "{errors:?}");
    assert_eq!(bench.replica.sync(model.index, true).await, Err(WriteError::Disk(Errno::IO)));
    assert_eq!(bench.replica.sync(model.index, true).await, Ok(()));
    let part = bench.replica.write(model.index, 8 * BLOCK, bytes(10, 1)).await;
    assert_eq!(part, Err(WriteError::Disk(Errno::IO)));
    // What was fetched is fetched again.
    bench.check("g", 0, 1).await;
    assert_eq!(asked(&bench), [(0, 1)]);
    model.write(8 * BLOCK, BLOCK, 4).await.unwrap();
    model.check().await;
}

#[tokio::test(start_paused = true)]
async fn a_full_disk_reaches_the_writer_and_leaves_nothing_half_written() {
    let disk = tempfile::tempdir().unwrap();
    if let Err(errno) = super::restart::small_disk(disk.path(), 3 * MIB) {
        eprintln!("SKIPPED: a tmpfs cannot be mounted here: {errno}");
        return;
    }
    let mut bench = Bench::writable(&[file("f", 60 * BLOCK), file("g", 40 * BLOCK + 77)], "/tmp");
    let at = disk.path().join("clone");
    let config = |at: &Path| ReplicaConfig { when_gone: WhenGone::Fail, ..ReplicaConfig::new(writable(at)) };
    bench.replica.close().await;
    bench.replica = open_with(config(&at), &bench.tree, &bench.origin, &bench.disk_loses);
    let mut models = [Model::of(&bench, "f"), Model::of(&bench, "g")];
    let (mut refused, mut short) = (0, 0);
    let writes = [
        (0, 0, 20 * BLOCK),
        (0, 20 * BLOCK + 5, 20 * BLOCK),
        (0, 41 * BLOCK - 3, 19 * BLOCK),
        (1, 3 * BLOCK + 1, 2 * BLOCK),
        (1, 10 * BLOCK, BLOCK),
        (1, 40 * BLOCK + 7, 5),
        (0, 5, 10),
    ];
    for (file, at, length) in writes {
        let model = &mut models[file];
        match bench.replica.write(model.index, at, bytes(length, 7)).await {
            Ok(written) => {
                let end = (at + written) as usize;
                model.content.resize(model.content.len().max(end), 0);
                model.content[at as usize..end].fill(7);
                short += u32::from(written < length);
            }
            Err(error) => {
                assert_eq!(error, WriteError::Disk(Errno::NOSPC));
                refused += 1;
            }
        }
    }
    assert!(refused > 0 && short > 0, "the disk was never full: {refused} refused, {short} short");
    for model in &models {
        model.check().await;
    }
    rustix::mount::mount_remount(disk.path(), rustix::mount::MountFlags::empty(), "size=64m").unwrap();
    bench.replica.idle().await;
    let contents = models.map(|model| (model.index, model.content));
    bench.replica.close().await;
    bench.replica = open_with(config(&at), &bench.tree, &bench.origin, &bench.disk_loses);
    for (index, content) in contents {
        Model { bench: &bench, index, content }.check().await;
    }
    bench.replica.close().await;
    let elsewhere = bench.directory.path().join("elsewhere");
    bench.replica = open_with(config(&elsewhere), &bench.tree, &bench.origin, &bench.disk_loses);
    rustix::mount::unmount(disk.path(), rustix::mount::UnmountFlags::DETACH).unwrap();
}

#[tokio::test(start_paused = true)]
async fn what_was_removed_before_a_restart_is_not_fetched() {
    let mut bench = Bench::writable(&[file("d/f", 3 * BLOCK), file("g", BLOCK)], "/tmp");
    bench.replica.removing(bench.tree.index("d/f")).unwrap().done();
    let path = bench.on_disk("d/f");
    std::fs::create_dir(path.parent().unwrap()).unwrap();
    let none = rustix::fs::Mode::empty();
    rustix::fs::mknodat(rustix::fs::CWD, &path, rustix::fs::FileType::CharacterDevice, none, 0).unwrap();
    bench.hydrate = true;
    let bench = bench.reopened().await;
    timeout(Duration::from_secs(60), bench.replica.hydrated()).await.expect("it does not become complete");
    assert_eq!(asked(&bench), [(0, 1)]);
    let status = bench.counted().await;
    assert_eq!((status.files, status.blocks), (tally(1, 1, 0), tally(1, 1, 0)));
    assert!(bench.read("d/f", 0, 1).await.is_err());
}

/// What an ordinary user does to files whose modes forbid it to open them again.
async fn check_closed_modes() {
    let files: Vec<_> = ["a", "b", "c", "d", "e", "f"].map(|name| file(name, 3 * BLOCK)).into();
    let mut bench = Bench::writable(&files, "/tmp");
    bench.replica.close().await;
    let config =
        ReplicaConfig { descriptors_max: Some(1), ..ReplicaConfig::new(writable(bench.directory.path())) };
    bench.replica = open_with(config, &bench.tree, &bench.origin, &bench.disk_loses);
    let closed = SetAttributes { mode: Some(0o000), ..SetAttributes::default() };
    let mut models: Vec<_> = files.iter().map(|file| Model::of(&bench, file.path)).collect();
    for model in &mut models {
        bench.replica.opened(model.index);
        bench.replica.set_attributes(model.index, closed).await.unwrap();
        model.write(5, 10, 1).await.unwrap();
    }
    for (number, model) in models.iter_mut().enumerate() {
        match number % 2 {
            0 => bench.replica.localize(model.index).await.unwrap(),
            _ => model.truncate(0).await.unwrap(),
        }
    }
    // They are ordinary now, and still open.
    for model in &mut models {
        model.write(7, 10, 2).await.unwrap();
        model.check().await;
    }
    for model in &models {
        bench.replica.released(model.index);
        let metadata = std::fs::metadata(bench.on_disk("a")).unwrap();
        assert_eq!(metadata.mode() & 0o7777, 0);
    }
    bench.origin.seen();
    let index = models[0].index;
    let bench = bench.reopened().await;
    let time = Some(Mtime { sec: 3, nsec: 4 });
    bench.replica.set_times(index, time, time).await.unwrap();
    let read = bench.replica.read(index, 0, 1).await;
    if !rustix::process::geteuid().is_root() {
        assert_eq!(read, Err(ReadError::Io(Errno::ACCESS)));
    }
    let metadata = std::fs::metadata(bench.on_disk("a")).unwrap();
    assert_eq!((metadata.mtime(), metadata.mtime_nsec()), (3, 4));
    assert_eq!(asked(&bench), []);
}

#[test]
fn what_is_open_stays_so_whatever_its_mode() {
    let name = "replica::tests::changes::what_is_open_stays_so_whatever_its_mode";
    let check = || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
        runtime.unwrap().block_on(check_closed_modes());
    };
    crate::ordinary_user::run(name, check);
}

#[tokio::test(start_paused = true)]
async fn a_file_that_somebody_else_placed_says_what_it_is() {
    let placed = async |make: fn(&Path, &Bench)| {
        let bench = Bench::writable(&[sparse("f", 10, BLOCK..5 * BLOCK)], "/tmp");
        let f = bench.tree.index("f");
        // It has been looked for, and was not there.
        bench.check("f", 2 * BLOCK, 10).await;
        assert_eq!(asked(&bench), []);
        make(&bench.on_disk("f"), &bench);
        bench.replica.write(f, 3 * BLOCK + 5, bytes(3, 1)).await.unwrap();
        let read = bench.replica.read(f, 3 * BLOCK + 4, 4).await.unwrap();
        assert_eq!(*read, [0, 1, 1, 1]);
        bench
    };
    let bench = placed(|path, bench| {
        let entry = bench.replica.manifest().entry(bench.tree.index("f")).unwrap();
        let file = std::fs::File::create_new(path).unwrap();
        state::set(&file, &state::State::of(&entry, 0o600)).unwrap();
        file.set_len(entry.size()).unwrap();
    })
    .await;
    let f = bench.tree.index("f");
    bench.replica.localize(f).await.unwrap();
    assert_eq!(std::fs::metadata(bench.on_disk("f")).unwrap().mode() & 0o7777, 0o600, "it has another mode");
    let bench = placed(|path, _| std::fs::write(path, [0; 10]).unwrap()).await;
    assert_eq!(bench.replica.size(f), Some(3 * BLOCK + 8));
    assert_eq!(asked(&bench), []);
}
