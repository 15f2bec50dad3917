//! Random changes against a model, while the origin comes and goes: never wrong bytes, and errors only where content
//! must be fetched.

use proptest::prelude::*;

use super::*;

#[derive(Clone, Debug)]
enum Step {
    Write(usize, u64, u64, u8),
    Truncate(usize, u64),
    Read(usize, u64, u64),
    Localize(usize),
    Sync(usize),
    Goes,
    Returns,
    /// The process ends and another one goes on, with or without fetching everything.
    Restart(bool),
    /// The next time the disk is asked, it says that it lost something; it did not.
    DiskLoses,
    Sleep(u64),
}

const NAMES: [&str; 3] = ["a", "d/b", "c"];
const SIZES: [u64; 3] = [100, 7 * BLOCK + 4096 + 77, 5 * BLOCK];

fn files() -> Vec<TestFile> {
    let mut files: Vec<_> = NAMES.into_iter().zip(SIZES).map(|(name, size)| file(name, size)).collect();
    let holes = [(1, BLOCK + 100..4 * BLOCK), (1, 7 * BLOCK - 5..SIZES[1]), (2, 0..2 * BLOCK)];
    for (file, hole) in holes {
        let mut content = files[file].content.to_vec();
        content[hole.start as usize..hole.end as usize].fill(0);
        files[file].content = content.into();
        files[file].holes.push(hole);
    }
    files
}

/// Offsets near the edges of blocks and pages, and anywhere.
fn offset() -> impl Strategy<Value = u64> {
    let near = (0..9u64, 0..3u64, 0..3u64).prop_map(|(block, page, byte)| block * BLOCK + page * 4096 + byte);
    prop_oneof![3 => near.prop_map(|at| at.saturating_sub(1)), 1 => 0..9 * BLOCK]
}

fn length() -> impl Strategy<Value = u64> {
    prop_oneof![1..10u64, 4090..4100u64, BLOCK - 2..BLOCK + 3, 1..4 * BLOCK]
}

fn step() -> impl Strategy<Value = Step> {
    let file = || 0..NAMES.len();
    prop_oneof![
        8 => (file(), offset(), length(), 1..255u8).prop_map(|(f, at, length, with)| Step::Write(f, at, length, with)),
        4 => (file(), prop_oneof![offset(), Just(0)]).prop_map(|(f, size)| Step::Truncate(f, size)),
        6 => (file(), offset(), length()).prop_map(|(f, at, length)| Step::Read(f, at, length)),
        1 => file().prop_map(Step::Localize),
        1 => file().prop_map(Step::Sync),
        2 => Just(Step::Goes),
        3 => Just(Step::Returns),
        3 => any::<bool>().prop_map(Step::Restart),
        1 => Just(Step::DiskLoses),
        1 => (0..8000u64).prop_map(Step::Sleep),
    ]
}

/// True for what an origin that is gone may cause.
fn is_gone(error: &WriteError) -> bool {
    matches!(error, WriteError::Fetch(ReadError::Gone(_)))
}

struct Play {
    bench: Bench,
    contents: Vec<Vec<u8>>,
    origin_went: bool,
    disk_lost: bool,
}

impl Play {
    async fn step(&mut self, step: Step) -> Result<(), TestCaseError> {
        let index = |file: usize| self.bench.tree.index(NAMES[file]);
        let replica = &self.bench.replica;
        match step {
            Step::Write(file, offset, length, with) => {
                let bytes = vec![with; length as usize].into();
                match replica.write(index(file), offset, bytes).await {
                    Ok(written) => {
                        prop_assert_eq!(written, length);
                        let (content, end) = (&mut self.contents[file], (offset + length) as usize);
                        content.resize(content.len().max(end), 0);
                        content[offset as usize..end].fill(with);
                    }
                    Err(error) => prop_assert!(self.origin_went && is_gone(&error), "{error}"),
                }
            }
            Step::Truncate(file, size) => match replica.truncate(index(file), size).await {
                Ok(()) => self.contents[file].resize(size as usize, 0),
                Err(error) => prop_assert!(self.origin_went && is_gone(&error), "{error}"),
            },
            Step::Read(file, offset, length) => self.read(file, offset, length).await?,
            Step::Localize(file) => match replica.localize(index(file)).await {
                Ok(()) => {
                    let disk = std::fs::read(self.bench.on_disk(NAMES[file])).unwrap();
                    prop_assert!(disk == self.contents[file], "the disk has something else");
                }
                Err(error) => prop_assert!(self.origin_went && is_gone(&error), "{error}"),
            },
            Step::Sync(file) => {
                let synced = replica.sync(index(file), true).await;
                prop_assert!(synced.is_ok() || self.disk_lost, "{synced:?}");
            }
            Step::Goes => {
                self.origin_went = true;
                self.bench.origin.otherwise(Act::Gone);
                self.bench.origin.goes("scripted");
            }
            Step::Returns => {
                self.bench.origin.forgive();
                self.bench.origin.returns();
            }
            Step::DiskLoses => {
                self.disk_lost = true;
                self.bench.disk_loses.store(true, Relaxed);
            }
            Step::Sleep(ms) => tokio::time::sleep(Duration::from_millis(ms)).await,
            Step::Restart(_) => unreachable!("played by whoever owns the bench"),
        }
        Ok(())
    }

    async fn read(&self, file: usize, offset: u64, length: u64) -> Result<(), TestCaseError> {
        let content = &self.contents[file];
        let start = content.len().min(offset as usize);
        let expected = &content[start..content.len().min((offset + length) as usize)];
        let index = self.bench.tree.index(NAMES[file]);
        if let TryRead::Ready(bytes) = self.bench.replica.try_read(index, offset, length as u32) {
            prop_assert!(*bytes == *expected, "other bytes without waiting");
        }
        match self.bench.replica.read(index, offset, length as u32).await {
            Ok(bytes) => {
                prop_assert!(*bytes == *expected, "other bytes: {} of {}", bytes.len(), expected.len())
            }
            Err(error) => prop_assert!(self.origin_went && is_gone(&error.clone().into()), "{error}"),
        }
        Ok(())
    }

    async fn check_all(&self) -> Result<(), TestCaseError> {
        for file in 0..NAMES.len() {
            self.read(file, 0, 40 * BLOCK).await?;
        }
        Ok(())
    }
}

async fn play(steps: Vec<Step>, filesystem: &str) -> Result<(), TestCaseError> {
    let contents = files().iter().map(|file| file.content.to_vec()).collect();
    let bench = Bench::writable(&files(), filesystem);
    let mut play = Play { bench, contents, origin_went: false, disk_lost: false };
    for step in steps {
        match step {
            Step::Restart(hydrate) => {
                play.bench.hydrate = hydrate;
                play.bench = play.bench.reopened().await;
            }
            step => play.step(step).await?,
        }
    }
    play.bench.origin.forgive();
    play.bench.origin.returns();
    play.bench.disk_loses.store(false, Relaxed);
    play.origin_went = false;
    play.check_all().await?;
    play.bench.hydrate = true;
    play.bench = play.bench.reopened().await;
    timeout(Duration::from_secs(600), play.bench.replica.hydrated())
        .await
        .map_err(|_| TestCaseError::fail("it does not become complete"))?;
    play.bench.origin.seen();
    play.check_all().await?;
    prop_assert_eq!(play.bench.origin.seen(), vec![]);
    let status = play.bench.counted().await;
    for tally in [status.files, status.blocks, status.bytes] {
        prop_assert_eq!(tally.resident, tally.total, "{:?}", status);
    }
    Ok(())
}

fn cases() -> u32 {
    std::env::var("PROPTEST_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(48)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(cases()))]

    #[test]
    fn changes_are_kept_and_nothing_else_changes(
        steps in prop::collection::vec(step(), 1..40),
        filesystem in prop::sample::select(FILESYSTEMS.to_vec()),
    ) {
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        runtime.block_on(play(steps, filesystem))?;
    }
}

/// Writers whose bytes lie apart, but not their blocks, while everything is fetched.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writing_goes_on_while_everything_is_fetched() {
    const WRITERS: u64 = 4;
    const SLICE: u64 = 7_777;
    for filesystem in FILESYSTEMS {
        let size = 60 * BLOCK + 123;
        let mut bench = Bench::writable(&[file("f", size)], filesystem);
        bench.origin.otherwise(Act::Serve(Duration::from_millis(2)));
        bench.hydrate = true;
        let bench = Arc::new(bench.reopened().await);
        let f = bench.tree.index("f");
        let mut expected = bench.tree.content(f).to_vec();
        let mut writers = tokio::task::JoinSet::new();
        for writer in 0..WRITERS {
            let bench = bench.clone();
            writers.spawn(async move {
                for at in (writer * SLICE..size + 3 * BLOCK).step_by((WRITERS * SLICE * 3) as usize) {
                    let bytes = vec![writer as u8 + 1; SLICE as usize].into();
                    assert_eq!(bench.replica.write(f, at, bytes).await.unwrap(), SLICE);
                    let read = bench.replica.read(f, at, SLICE as u32).await.unwrap();
                    assert!(read.iter().all(|byte| *byte == writer as u8 + 1), "{at}");
                }
            });
        }
        while let Some(done) = writers.join_next().await {
            done.unwrap();
        }
        for writer in 0..WRITERS {
            for at in (writer * SLICE..size + 3 * BLOCK).step_by((WRITERS * SLICE * 3) as usize) {
                let end = (at + SLICE) as usize;
                expected.resize(expected.len().max(end), 0);
                expected[at as usize..end].fill(writer as u8 + 1);
            }
        }
        timeout(Duration::from_secs(60), bench.replica.hydrated())
            .await
            .expect("it does not become complete");
        let read = bench.replica.read(f, 0, u32::MAX).await.unwrap();
        assert!(*read == *expected, "other bytes");
        bench.replica.localize(f).await.unwrap();
        assert!(std::fs::read(bench.on_disk("f")).unwrap() == expected, "the disk has something else");
    }
}

/// Numbers that look random, the same each time.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % end
    }
}

/// One who changes a file in every way, while others read it and everything is fetched: reads never fail, and whoever
/// changes it sees exactly what it did.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reads_never_fail_while_a_file_is_changed() {
    for (seed, filesystem) in [(1, "/tmp"), (2, "/dev/shm")] {
        let files = [files().remove(1), file("large", 50 * BLOCK + 9)];
        let mut bench = Bench::writable(&files, filesystem);
        bench.origin.otherwise(Act::Serve(Duration::from_millis(1)));
        bench.hydrate = true;
        let bench = Arc::new(bench.reopened().await);
        let indices = files.map(|file| bench.tree.index(file.path));
        let mut contents = indices.map(|index| bench.tree.content(index).to_vec());
        let done = Arc::new(AtomicBool::new(false));
        let readers: Vec<_> = (0..2)
            .map(|reader| {
                let (bench, done) = (bench.clone(), done.clone());
                tokio::spawn(async move {
                    let mut numbers = Numbers(reader);
                    while !done.load(Relaxed) {
                        let (at, length) = (numbers.below(50 * BLOCK), numbers.below(3 * BLOCK));
                        let index = indices[numbers.below(2) as usize];
                        bench.replica.read(index, at, length as u32).await.unwrap();
                    }
                })
            })
            .collect();
        let mut numbers = Numbers(seed);
        for step in 0..150 {
            let file = numbers.below(2) as usize;
            let (index, content) = (indices[file], &mut contents[file]);
            let at = numbers.below(content.len() as u64 + BLOCK);
            match numbers.below(8) {
                0 => {
                    bench.replica.truncate(index, at).await.unwrap();
                    content.resize(at as usize, 0);
                }
                1 => bench.replica.sync(index, false).await.unwrap(),
                2 if step > 100 => bench.replica.localize(index).await.unwrap(),
                with => {
                    let length = 1 + numbers.below(2 * BLOCK);
                    let bytes = vec![with as u8; length as usize].into();
                    assert_eq!(bench.replica.write(index, at, bytes).await.unwrap(), length);
                    let end = (at + length) as usize;
                    content.resize(content.len().max(end), 0);
                    content[at as usize..end].fill(with as u8);
                }
            }
            let read = bench.replica.read(index, 0, u32::MAX).await.unwrap();
            let differs = read.iter().zip(&*content).position(|(one, other)| one != other);
            assert!(*read == **content, "seed {seed}, step {step}: {} bytes, {differs:?}", read.len());
        }
        done.store(true, Relaxed);
        for reader in readers {
            reader.await.unwrap();
        }
    }
}
