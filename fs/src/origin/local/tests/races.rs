//! Owners who change a tree at the very moment it is read.

use std::cell::Cell;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::SeqCst;
use std::sync::mpsc;

use super::*;
use crate::manifest::Mtime;
use crate::origin::files::Read;

/// Bytes of the file that is written all the time.
const BYTES: usize = 600_000;
/// Words of eight bytes in it, each holding the number of its version.
const WORDS: usize = BYTES / 8;

fn version(number: u64) -> Vec<u8> {
    number.to_le_bytes().repeat(WORDS)
}

fn numbers(bytes: &[u8]) -> Vec<u64> {
    let (words, _) = bytes.as_chunks::<8>();
    words.iter().map(|word| u64::from_le_bytes(*word)).collect()
}

/// Ends a thread however the test ends.
struct StopAtEnd<'t>(&'t AtomicBool);

impl Drop for StopAtEnd<'_> {
    fn drop(&mut self) {
        self.0.store(true, Relaxed);
    }
}

/// A thread that writes higher and higher numbers, as many as it is granted.
struct Writer {
    grants: mpsc::Sender<()>,
    granted: Cell<u64>,
    written: Arc<AtomicU64>,
}

impl Writer {
    /// Starts the thread; it ends when the writer is dropped.
    fn start<'s>(scope: &'s std::thread::Scope<'s, '_>, write: impl Fn(u64) + Send + 's) -> Self {
        let (grants, granted) = mpsc::channel();
        let written = Arc::new(AtomicU64::new(0));
        let count = written.clone();
        scope.spawn(move || {
            for ((), number) in granted.iter().zip(1..) {
                write(number);
                count.store(number, SeqCst);
            }
        });
        Self { grants, granted: Cell::new(0), written }
    }

    fn grant(&self, count: u64) {
        self.granted.set(self.granted.get() + count);
        (0..count).for_each(|_| self.grants.send(()).unwrap());
    }

    /// Waits until all that was granted is written; returns the last number.
    async fn is_idle(&self) -> u64 {
        until("the writer is done", || self.written.load(SeqCst) == self.granted.get()).await;
        self.granted.get()
    }
}

/// Takes and reads snapshots while `write(number)` rewrites the file, or just before, or just after. Whatever is
/// delivered of it must satisfy `is_one`, whole or not, and a file nobody writes to meanwhile is delivered whole.
fn check(write: impl Fn(&Path, u64) + Send + Sync, is_one: impl Fn(&[u64]) -> bool) {
    let place = Place::new();
    place.write("f", version(0));
    let path = place.at("f");
    std::thread::scope(|scope| {
        let writer = Writer::start(scope, |number| write(&path, number));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(async {
            for round in 0..24 {
                let (before, between) = [(0, 0), (3, 0), (0, 1), (0, 3)][round % 4];
                writer.is_idle().await;
                writer.grant(before);
                let origin = place.serve();
                writer.grant(between);
                check_round(&origin, &is_one, before + between == 0).await;
            }
        });
    });
}

async fn check_round(origin: &LocalOrigin, is_one: impl Fn(&[u64]) -> bool, calm: bool) {
    let file = index(origin, "f");
    // Twice, so that the second reading meets what the first has bound.
    let got = take(origin, origin.read_files(vec![file; 2], Class::Bulk)).await;
    for (_, bytes, end) in &got {
        assert!(is_one(&numbers(bytes)), "two versions in one: {:?}", summary(bytes));
        match end {
            Ok(()) => assert_eq!(origin.manifest().entry(file).unwrap().size(), bytes.len() as u64),
            Err(fault) => {
                assert!(!calm, "a file nobody writes to is {fault}");
                assert!(matches!(fault, FileFault::Changed | FileFault::Unreadable(_)));
            }
        }
    }
    let [(_, first, _), (_, second, _)] = &got[..] else { panic!("two answers for two files") };
    let common = first.len().min(second.len());
    assert!(first[..common] == second[..common], "the same blocks with two contents");
}

/// Runs of equal numbers.
fn summary(bytes: &[u8]) -> Vec<(u64, usize)> {
    let mut runs: Vec<(u64, usize)> = Vec::new();
    for number in numbers(bytes) {
        match runs.last_mut() {
            Some((last, count)) if *last == number => *count += 1,
            _ => runs.push((number, 1)),
        }
    }
    runs
}

fn all_equal(numbers: &[u64]) -> bool {
    numbers.windows(2).all(|pair| pair[0] == pair[1])
}

/// What a file looks like at one moment while it is overwritten from its start: new, and then old by one.
fn is_one_moment(numbers: &[u64]) -> bool {
    numbers.is_sorted_by(|a, b| a >= b)
        && numbers.first().zip(numbers.last()).is_none_or(|(first, last)| first - last <= 1)
}

#[test]
fn a_file_replaced_by_rename_is_one_version() {
    check(
        |path, number| {
            let new = path.with_extension("new");
            fs::write(&new, version(number)).unwrap();
            fs::rename(&new, path).unwrap();
        },
        all_equal,
    );
}

#[test]
fn a_file_overwritten_in_place_is_one_moment() {
    check(
        |path, number| {
            File::options().write(true).open(path).unwrap().write_all_at(&version(number), 0).unwrap();
        },
        is_one_moment,
    );
}

#[test]
fn a_file_cut_and_written_again_is_one_moment() {
    check(|path, number| fs::write(path, version(number)).unwrap(), all_equal);
}

#[test]
fn a_file_written_through_a_mapping_is_one_moment() {
    // One mapping for all versions: its pages stay dirty and writable, and the times of the file stand still.
    let map = std::sync::Mutex::new(None);
    check(
        |path, number| {
            let mut map = map.lock().unwrap();
            let map = map.get_or_insert_with(|| {
                let file = File::options().read(true).write(true).open(path).unwrap();
                #[expect(unsafe_code, reason = "mapping a file")]
                // SAFETY: nobody truncates the file.
                unsafe { memmap2::MmapMut::map_mut(&file) }.unwrap()
            });
            for (at, word) in map.as_chunks_mut::<8>().0.iter_mut().enumerate() {
                *word = number.to_le_bytes();
                // Slow enough that readers meet it in the middle.
                if at % 16_384 == 0 {
                    std::thread::yield_now();
                }
            }
        },
        is_one_moment,
    );
}

/// A directory that is a symbolic link half of the time, to one with a file of the same name and size: nothing of
/// that one is ever served.
#[test]
fn nothing_outside_is_served_while_a_directory_becomes_a_link() {
    let place = Place::new();
    let outside = tempfile::tempdir().unwrap();
    for i in 0..20 {
        place.write(&format!("d/e/{i}"), b"inside!");
        fs::create_dir_all(outside.path().join("e")).unwrap();
        fs::write(outside.path().join(format!("e/{i}")), b"outside").unwrap();
    }
    let origin = place.serve();
    let names: Vec<_> = (0..20).map(|i| format!("d/e/{i}")).collect();
    let names: Vec<_> = names.iter().map(String::as_str).collect();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let _stop = StopAtEnd(&stop);
        scope.spawn(|| {
            while !stop.load(Relaxed) {
                fs::rename(place.at("d"), place.at("hidden")).unwrap();
                symlink(outside.path(), place.at("d")).unwrap();
                fs::remove_file(place.at("d")).unwrap();
                fs::rename(place.at("hidden"), place.at("d")).unwrap();
            }
        });
        for _ in 0..100 {
            for (_, bytes, end) in runtime.block_on(read(&origin, &names)) {
                match end {
                    Ok(()) => assert_eq!(bytes, b"inside!"),
                    Err(fault) => assert_eq!((bytes.len(), fault), (0, FileFault::Changed)),
                }
            }
        }
    });
    // Once it is quiet, the directory is what it was.
    let got = runtime.block_on(read(&origin, &names));
    assert!(got.iter().all(|(_, bytes, end)| (bytes.as_slice(), end) == (b"inside!", &Ok(()))));
}

#[tokio::test]
async fn a_file_somebody_may_write_to_is_bound_before_its_first_block_is_served() {
    let place = Place::new();
    place.write("f", version(1));
    let file = File::options().read(true).write(true).open(place.at("f")).unwrap();
    #[expect(unsafe_code, reason = "mapping a file")]
    // SAFETY: nobody truncates the file.
    let mut map = unsafe { memmap2::MmapMut::map_mut(&file) }.unwrap();
    // Dirty pages: further stores leave no trace in the file's times.
    map.fill(0);
    place.walk();
    // As if all this were long ago: what remains is that somebody could write.
    let origin = place.open_quiet();
    let range = |first| BlockRange { file: index(&origin, "f"), first: BlockIndex(first), count: 1 };
    let first = take(&origin, origin.read_ranges(vec![range(0)], Class::Demand)).await;
    assert_eq!(first[0].2, Ok(()));
    let before = place.at("f").metadata().unwrap();
    map[300_000] = 1;
    let after = place.at("f").metadata().unwrap();
    assert_eq!(
        (before.mtime_nsec(), before.ctime_nsec()),
        (after.mtime_nsec(), after.ctime_nsec()),
        "a trace"
    );
    let later = take(&origin, origin.read_ranges(vec![range(0), range(4), range(5)], Class::Demand)).await;
    let ends: Vec<_> = later.into_iter().map(|(.., end)| end).collect();
    assert_eq!(ends, [Ok(()), CHANGED, Ok(())]);
}

/// The times of a file are compared after its bytes are in, too.
#[test]
fn a_change_between_two_looks_at_a_quiet_file_is_seen() {
    let check = |what: &str, change: &dyn Fn(&Path), expected: Result<usize, FileFault>| {
        let place = Place::new();
        place.write("f", version(0));
        let path = place.at("f");
        let metadata = path.metadata().unwrap();
        crate::clock::wait_for_step(Mtime { sec: metadata.mtime(), nsec: metadata.mtime_nsec() as u32 });
        place.walk();
        let origin = place.open_quiet();
        let files = &origin.files;
        let entry = origin.manifest().entry(index(&origin, "f")).unwrap();
        let file = files.open(&files.root(EntryIndex(0)).unwrap(), b"f", &entry).unwrap();
        let changed = Cell::new(false);
        let result = files.read_by(&file, BlockIndex(0), 2, || {
            let mut bytes = file.bytes(BlockIndex(0), 1)?;
            if !changed.replace(true) {
                change(&path);
                bytes.extend(file.bytes(BlockIndex(1), 1)?);
                return Ok(bytes);
            }
            file.bytes(BlockIndex(0), 2)
        });
        let bytes = result.map(|read| match read {
            Read::Done { bytes, .. } => bytes.len(),
            Read::Unsettled => panic!("a small file is settled at once"),
        });
        assert_eq!(bytes, expected, "{what}");
    };
    let write = |path: &Path, range: std::ops::Range<usize>| {
        let file = File::options().write(true).open(path).unwrap();
        file.write_all_at(&version(1)[range.clone()], range.start as u64).unwrap();
    };
    check("nothing", &|_| {}, Ok(2 * 65_536));
    let changed = || CHANGED.map(|()| 0);
    check("overwritten", &|path| write(path, 0..BYTES), changed());
    check("overwritten far behind", &|path| write(path, BYTES - 8..BYTES), changed());
    check("cut", &|path| drop(File::create(path).unwrap()), changed());
    check("removed", &|path| fs::remove_file(path).unwrap(), changed());
    let private = || fs::Permissions::from_mode(0o600);
    check("made private", &|path| fs::set_permissions(path, private()).unwrap(), Ok(2 * 65_536));
}
