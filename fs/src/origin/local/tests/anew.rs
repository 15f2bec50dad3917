//! What is given away of a file that is no longer what the snapshot names.

use super::*;
use crate::manifest::Mtime;
use crate::origin::{Anew, FileVersion, TakeAnew, Version};

/// Blocks of the file `d/f`, the last of which is short.
const BLOCKS: u64 = 5;
const BYTES: usize = 4 * BLOCK_BYTES as usize + 1234;

/// What was given away: what it is, its content (blocks that were kept are the old ones), and which were kept.
#[derive(Debug)]
struct Taken {
    version: Version,
    bytes: Vec<u8>,
    kept: Vec<u64>,
}

impl Taken {
    fn file(&self) -> &FileVersion {
        match &self.version {
            Version::File(file) => file,
            other => panic!("{other:?} is no file"),
        }
    }
}

async fn take_anew(origin: &LocalOrigin, path: &str, held: bool) -> Result<Taken, FileFault> {
    let old = content(1, BYTES);
    let held = if held { vec![(BlockIndex(0), BLOCKS)] } else { vec![] };
    let wanted = TakeAnew { entry: index(origin, path), held };
    let mut items = origin.take_anew(wanted, Class::Bulk);
    let version = match items.recv().await.unwrap().unwrap() {
        Anew::Is(version) => version,
        Anew::Fault(fault) => return Err(fault),
        other => panic!("{other:?} comes first"),
    };
    Version::decode(&version.encode().unwrap()).unwrap();
    let mut taken = Taken { version, bytes: vec![], kept: vec![] };
    let Version::File(file) = taken.version.clone() else { return Ok(taken) };
    taken.bytes = vec![0; file.size as usize];
    let mut next = 0;
    loop {
        match items.recv().await.expect("the answer has no end").unwrap() {
            Anew::Is(_) => panic!("a second version"),
            Anew::Reading(_) => {}
            Anew::Run(run) => {
                run.verify(file.size).unwrap();
                assert!(run.first.0 >= next);
                next = run.first.0 + run.digests.len() as u64;
                taken.bytes[run.first.offset() as usize..][..run.bytes.len()].copy_from_slice(&run.bytes);
            }
            Anew::Kept { first, digests } => {
                assert!(first.0 >= next);
                for (block, digest) in (first.0..).zip(&digests) {
                    let range = BlockIndex(block).bytes_in(file.size.min(BYTES as u64));
                    let bytes = &old[range.start as usize..range.end as usize];
                    assert_eq!(Digest::of_block(BlockIndex(block), file.size, bytes), *digest);
                    taken.bytes[range.start as usize..][..bytes.len()].copy_from_slice(bytes);
                    taken.kept.push(block);
                }
                next = first.0 + digests.len() as u64;
            }
            Anew::End => return Ok(taken),
            Anew::Fault(fault) => return Err(fault),
        }
    }
}

/// A tree with a file of which all blocks were served, and its origin.
async fn place() -> (Place, LocalOrigin) {
    let place = Place::new();
    place.write("d/f", content(1, BYTES));
    fs::hard_link(place.at("d/f"), place.at("d/same")).unwrap();
    let origin = place.serve();
    assert!(read_one(&origin, "d/f").await.is_ok());
    (place, origin)
}

/// What is given away of `d/f` after a change: the bytes that lie at `at`, of which the blocks `kept` are kept.
async fn check(what: &str, change: impl Fn(&Place), at: &str, kept: &[u64]) {
    let (place, origin) = place().await;
    change(&place);
    let expected = fs::read(place.at(at)).unwrap();
    for held in [true, false] {
        let taken = take_anew(&origin, "d/f", held).await.unwrap_or_else(|fault| panic!("{what}: {fault}"));
        let stat = fs::metadata(place.at(at)).unwrap();
        let file = taken.file();
        assert_eq!((file.size, u32::from(file.mode)), (stat.len(), stat.mode() & 0o1777), "{what}");
        assert_eq!(file.mtime, Mtime { sec: stat.mtime(), nsec: stat.mtime_nsec() as u32 }, "{what}");
        assert!(taken.bytes == expected, "{what}");
        assert_eq!(taken.kept, if held { kept } else { &[] }, "{what}");
    }
}

fn replace(place: &Place, bytes: impl AsRef<[u8]>) {
    place.write("new", bytes);
    fs::rename(place.at("new"), place.at("d/f")).unwrap();
}

#[tokio::test]
async fn what_is_there_now_is_given_away() {
    let path = "d/f";
    let with = |at: usize, byte: u8| {
        let mut bytes = content(1, BYTES);
        bytes[at] ^= byte;
        bytes
    };
    check("replaced", |place| replace(place, content(2, 300_000)), path, &[]).await;
    check("replaced, in part the same", |place| replace(place, with(2 * 65_536, 1)), path, &[0, 1, 3, 4])
        .await;
    check("written in place", |place| flip(&place.at("d/f"), 7), path, &[1, 2, 3, 4]).await;
    check("truncated", |place| replace(place, &content(1, BYTES)[..70_000]), path, &[0]).await;
    check("to one block", |place| replace(place, &content(1, BYTES)[..65_536]), path, &[]).await;
    check("emptied", |place| replace(place, ""), path, &[]).await;
    check(
        "grown",
        |place| replace(place, [content(1, BYTES), vec![7; 100_000]].concat()),
        path,
        &[0, 1, 2, 3],
    )
    .await;
    check("touched", |place| fs::write(place.at("d/f"), content(1, BYTES)).unwrap(), path, &[0, 1, 2, 3, 4])
        .await;
    check(
        "its mode only",
        |place| fs::set_permissions(place.at("d/f"), fs::Permissions::from_mode(0o4751)).unwrap(),
        path,
        &[0, 1, 2, 3, 4],
    )
    .await;
    check(
        "written through a mapping",
        |place| {
            let file = File::options().read(true).write(true).open(place.at("d/f")).unwrap();
            #[expect(unsafe_code, reason = "mapping a file")]
            // SAFETY: nobody truncates the file.
            let mut map = unsafe { memmap2::MmapMut::map_mut(&file) }.unwrap();
            map[3 * 65_536] ^= 1;
        },
        path,
        &[0, 1, 2, 4],
    )
    .await;
    check(
        "its directory moved, and written to",
        |place| {
            fs::rename(place.at("d"), place.at("e")).unwrap();
            flip(&place.at("e/f"), 7);
        },
        "e/f",
        &[1, 2, 3, 4],
    )
    .await;
    check(
        "its directory moved, and replaced",
        |place| {
            replace(place, content(2, 100));
            fs::remove_file(place.at("d/same")).unwrap();
            fs::rename(place.at("d"), place.at("e")).unwrap();
        },
        "e/f",
        &[],
    )
    .await;
}

#[tokio::test]
async fn what_is_no_file_any_more_is_said() {
    let check = async |change: fn(&Place), expected: Version| {
        let (place, origin) = place().await;
        fs::remove_file(place.at("d/same")).unwrap();
        change(&place);
        let mut found = take_anew(&origin, "d/f", true).await.unwrap().version;
        if let Version::Symlink { mtime, .. } = &mut found {
            *mtime = Mtime::default();
        }
        assert_eq!(found, expected);
    };
    check(|place| fs::remove_file(place.at("d/f")).unwrap(), Version::Absent).await;
    check(|place| fs::remove_dir_all(place.at("d")).unwrap(), Version::Absent).await;
    check(
        |place| {
            fs::remove_file(place.at("d/f")).unwrap();
            symlink("../x", place.at("d/f")).unwrap();
        },
        Version::Symlink { target: b"../x".to_vec(), mtime: Mtime::default() },
    )
    .await;
    check(
        |place| {
            fs::remove_file(place.at("d/f")).unwrap();
            fs::create_dir(place.at("d/f")).unwrap();
        },
        Version::Other,
    )
    .await;
}

#[tokio::test]
async fn what_gets_the_number_of_a_removed_file_is_not_taken_for_it() {
    let (place, origin) = place().await;
    fs::remove_file(place.at("d/same")).unwrap();
    let number = fs::metadata(place.at("d/f")).unwrap().ino();
    fs::remove_file(place.at("d/f")).unwrap();
    // Some filesystems give a number away again at once.
    for i in 0..50 {
        place.write(&format!("d/{i}"), content(2, 1000));
    }
    let reused = (0..50).any(|i| fs::metadata(place.at(&format!("d/{i}"))).unwrap().ino() == number);
    let found = take_anew(&origin, "d/f", true).await.unwrap().version;
    assert_eq!(found, Version::Absent, "{reused}");
    assert_eq!(read_one(&origin, "d/f").await, Err(FileFault::Changed));
}

#[tokio::test]
async fn a_tree_that_is_not_there_has_lost_no_file() {
    let (place, origin) = place().await;
    let moved = place.tree.path().with_extension("moved");
    fs::rename(place.tree.path(), &moved).unwrap();
    let nowhere = take_anew(&origin, "d/f", true).await;
    fs::create_dir(place.tree.path()).unwrap();
    let empty = take_anew(&origin, "d/f", true).await;
    fs::remove_dir_all(&moved).unwrap();
    assert!(matches!(nowhere, Err(FileFault::Unreadable(_))), "{nowhere:?}");
    assert!(matches!(empty, Err(FileFault::Unreadable(_))), "{empty:?}");
}

#[tokio::test]
async fn names_of_one_file_are_told_from_those_of_two() {
    let (place, origin) = place().await;
    let names = |paths: &[&str]| {
        let mut names: Vec<_> = paths.iter().map(|path| index(&origin, path)).collect();
        names.sort();
        names
    };
    flip(&place.at("d/f"), 7);
    assert_eq!(take_anew(&origin, "d/f", true).await.unwrap().file().names, names(&["d/f", "d/same"]));
    fs::hard_link(place.at("d/f"), place.at("other")).unwrap();
    assert_eq!(take_anew(&origin, "d/same", true).await.unwrap().file().names, names(&["d/f", "d/same"]));
    replace(&place, content(2, 10));
    assert_eq!(take_anew(&origin, "d/f", true).await.unwrap().file().names, names(&["d/f"]));
    assert_eq!(take_anew(&origin, "d/same", true).await.unwrap().file().names, names(&["d/same"]));
}

#[tokio::test]
async fn holes_and_xattrs_come_along() {
    let (place, origin) = place().await;
    let file = File::create(place.at("new")).unwrap();
    file.set_len(64 * BLOCK_BYTES).unwrap();
    file.write_all_at(&content(5, 1000), 10 * BLOCK_BYTES).unwrap();
    rustix::fs::fsetxattr(&file, "user.a", b"b", rustix::fs::XattrFlags::empty()).unwrap();
    rustix::fs::fsetxattr(&file, "user.twinshare", b"x", rustix::fs::XattrFlags::empty()).unwrap();
    fs::rename(place.at("new"), place.at("d/f")).unwrap();
    let taken = take_anew(&origin, "d/f", true).await.unwrap();
    assert_eq!(taken.file().xattrs, [(b"user.a".to_vec(), b"b".to_vec())]);
    assert!((0..64).all(|block| taken.file().is_hole(block) == (block != 10)), "{:?}", taken.file().holes);
    assert!(taken.bytes == fs::read(place.at("d/f")).unwrap());
}

#[tokio::test]
async fn a_git_configuration_is_never_given_away() {
    let place = Place::new();
    place.write(".git/config", "[core]\n\tsshCommand = id\n");
    let origin = place.serve();
    place.write(".git/config", "[core]\n\tsshCommand = other\n");
    assert_eq!(take_anew(&origin, ".git/config", false).await.unwrap_err(), FileFault::NoSuchBlock);
    let wanted = TakeAnew { entry: EntryIndex(0), held: vec![] };
    let first = origin.take_anew(wanted, Class::Bulk).recv().await;
    assert_eq!(first, Some(Ok(Anew::Fault(FileFault::NoSuchBlock))));
    let wanted = TakeAnew { entry: EntryIndex(1), held: vec![(BlockIndex(u64::MAX), 1)] };
    assert!(matches!(origin.take_anew(wanted, Class::Bulk).recv().await, Some(Err(OriginError::Invalid(_)))));
}

/// Words that all hold the number of the version they are of.
fn version(number: u64) -> Vec<u8> {
    number.to_le_bytes().repeat(300_000)
}

#[test]
fn what_is_given_away_of_a_file_that_is_being_written_is_one_version_or_nothing() {
    let place = Place::new();
    place.write("f", version(0));
    let origin = place.serve();
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let file = File::options().write(true).open(place.at("f")).unwrap();
            for number in 1.. {
                if stop.load(Relaxed) {
                    return;
                }
                file.write_all_at(&version(number), 0).unwrap();
                // Long enough for a reader to catch a quiet moment now and then.
                std::thread::sleep(Duration::from_millis(number % 8 * 10));
            }
        });
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let whole = runtime.block_on(async {
            let mut whole = 0;
            for _ in 0..30 {
                match take_anew(&origin, "f", false).await {
                    Ok(taken) => {
                        let (words, _) = taken.bytes.as_chunks::<8>();
                        assert!(words.iter().all(|word| word == &words[0]), "two versions in one");
                        whole += 1;
                    }
                    Err(fault) => assert_eq!(fault, FileFault::Changed),
                }
            }
            whole
        });
        stop.store(true, Relaxed);
        assert!(whole > 0, "no version was ever had");
    });
}
