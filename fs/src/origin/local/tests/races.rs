//! Owners who change a tree at the very moment it is read.

use super::*;

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

/// Runs `write(number)` for ever-higher numbers while snapshots are taken and read. Whatever is delivered of the file
/// must satisfy `is_one`, whole or not.
fn check(write: impl Fn(&Path, u64) + Sync, is_one: impl Fn(&[u64]) -> bool) {
    let place = Place::new();
    place.write("f", version(0));
    let path = place.at("f");
    let (stop, written) = (AtomicBool::new(false), AtomicU64::new(0));
    let (mut whole, mut refused) = (0, 0);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Relaxed) {
                let number = written.load(Relaxed) + 1;
                write(&path, number);
                written.store(number, Relaxed);
                // Now and then a pause, so that both answers come.
                std::thread::sleep(Duration::from_millis(number % 4 * 25));
            }
        });
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(async {
            for _ in 0..25 {
                let origin = place.serve();
                let file = index(&origin, "f");
                let size = origin.manifest().entry(file).unwrap().size();
                // Twice, so that the second reading meets what the first has bound.
                let mut seen = Vec::new();
                for (_, bytes, end) in take(&origin, origin.read_files(vec![file; 2], Class::Bulk)).await {
                    assert!(is_one(&numbers(&bytes)), "two versions in one: {:?}", summary(&bytes));
                    match end {
                        Ok(()) if size == BYTES as u64 => whole += 1,
                        Ok(()) => assert_eq!(size, bytes.len() as u64),
                        Err(fault) => {
                            refused += 1;
                            assert!(matches!(fault, FileFault::Changed | FileFault::Unreadable(_)));
                        }
                    }
                    seen.push(bytes);
                }
                let common = seen[0].len().min(seen[1].len());
                assert!(seen[0][..common] == seen[1][..common], "the same blocks with two contents");
            }
        });
        stop.store(true, Relaxed);
    });
    assert!(whole > 0, "never delivered, {refused} times refused");
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
                if at % 8192 == 0 {
                    std::thread::sleep(Duration::from_micros(50));
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
    let stop = AtomicBool::new(false);
    let mut served = 0;
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Relaxed) {
                fs::rename(place.at("d"), place.at("hidden")).unwrap();
                symlink(outside.path(), place.at("d")).unwrap();
                fs::remove_file(place.at("d")).unwrap();
                fs::rename(place.at("hidden"), place.at("d")).unwrap();
            }
        });
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(async {
            let names: Vec<_> = (0..20).map(|i| format!("d/e/{i}")).collect();
            let names: Vec<_> = names.iter().map(String::as_str).collect();
            for _ in 0..100 {
                for (_, bytes, end) in read(&origin, &names).await {
                    match end {
                        Ok(()) => assert_eq!(bytes, b"inside!"),
                        Err(fault) => assert_eq!((bytes.len(), fault), (0, FileFault::Changed)),
                    }
                    served += usize::from(!bytes.is_empty());
                }
            }
        });
        stop.store(true, Relaxed);
    });
    assert!(served > 0);
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
    let origin = LocalOrigin::open_with(place.snapshot.path(), ReadPool::default(), Duration::ZERO).unwrap();
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
