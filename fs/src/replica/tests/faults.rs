//! Random reads against an origin with random faults: the exact bytes or an error that fits, and never a wait without
//! end.

use proptest::prelude::*;

use super::*;

#[derive(Clone, Debug)]
enum Step {
    /// Reads of (file, offset, length) that run at the same time.
    Read(Vec<(usize, u64, u64)>),
    /// The next requests meet these.
    Script(Vec<Act>),
    Goes,
    Returns,
    /// Time passes.
    Sleep(u64),
    Restart,
    /// The next time the disk is asked, it says that it lost something.
    DiskLoses,
}

const NAMES: [&str; 5] = ["a", "b", "d/c", "e", "@1/f"];
const SIZES: [u64; 5] = [1, BLOCK, 3 * BLOCK + 1, 40 * BLOCK + 123, 9 * BLOCK];

fn files() -> Vec<TestFile> {
    let mut files: Vec<_> = NAMES.into_iter().zip(SIZES).map(|(name, size)| file(name, size)).collect();
    let mut content = files[3].content.to_vec();
    let hole = 10 * BLOCK + 5..13 * BLOCK;
    content[hole.start as usize..hole.end as usize].fill(0);
    (files[3].content, files[3].holes) = (content.into(), vec![hole]);
    files
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        4 => (0..300u64).prop_map(|ms| Act::Serve(Duration::from_millis(ms))),
        2 => Just(Act::Gone),
        3 => (0..6usize).prop_map(Act::BreakOff),
        2 => (0..6usize).prop_map(Act::Stall),
        1 => prop::sample::select(vec![
            Act::Refused, Act::Busy, Act::SnapshotGone, Act::Invalid, Act::Changed, Act::Unreadable, Act::Corrupt,
            Act::Twice, Act::Backwards, Act::Foreign, Act::EndsEarly,
        ]),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    let read = (0..5usize, 0..45u64, 0..BLOCK, prop_oneof![Just(1), 0..3 * BLOCK, Just(2 * MIB)])
        .prop_map(|(file, block, within, length)| (file, block * BLOCK + within, length));
    prop_oneof![
        6 => prop::collection::vec(read, 1..6).prop_map(Step::Read),
        3 => prop::collection::vec(act(), 1..5).prop_map(Step::Script),
        1 => Just(Step::Goes),
        2 => Just(Step::Returns),
        1 => (0..20_000u64).prop_map(Step::Sleep),
        1 => Just(Step::Restart),
        1 => Just(Step::DiskLoses),
    ]
}

/// The errors that an origin which did these things may cause.
#[derive(Default)]
struct Allowed {
    gone: bool,
    stale: bool,
    busy: bool,
    refused: bool,
    corrupt: bool,
    unreadable: bool,
}

impl Allowed {
    fn by(&mut self, act: Act) {
        match act {
            Act::Serve(_) | Act::Twice | Act::Backwards => {}
            Act::Gone | Act::BreakOff(_) | Act::Stall(_) => self.gone = true,
            Act::SnapshotGone | Act::Changed => self.stale = true,
            Act::Busy => self.busy = true,
            Act::Refused => self.refused = true,
            // A lie about a block that was never here cannot be told from the truth.
            Act::OtherVersion => unreachable!("not scripted here"),
            Act::Unreadable => self.unreadable = true,
            Act::Invalid | Act::Corrupt | Act::Foreign | Act::EndsEarly => {
                self.corrupt = true;
                // What shared a request with it is asked for again.
                self.gone = true;
            }
        }
    }

    fn allows(&self, error: &ReadError) -> bool {
        match error {
            ReadError::Gone(_) => self.gone,
            ReadError::Busy(_) => self.busy,
            ReadError::Stale => self.stale,
            ReadError::Refused(_) => self.refused,
            ReadError::Corrupt(_) => self.corrupt,
            ReadError::Unreadable(_) => self.unreadable,
            ReadError::NoSuchFile | ReadError::Io(_) => false,
        }
    }
}

async fn play(steps: Vec<Step>, when_gone: WhenGone, filesystem: &str) -> Result<(), TestCaseError> {
    let mut bench = Bench::with(&files(), when_gone, filesystem);
    let mut allowed = Allowed::default();
    for step in steps {
        match step {
            Step::Script(acts) => {
                acts.iter().for_each(|act| allowed.by(*act));
                bench.origin.script(acts);
            }
            Step::Goes => {
                allowed.gone = true;
                bench.origin.goes("scripted");
            }
            Step::Returns => bench.origin.returns(),
            Step::Sleep(ms) => tokio::time::sleep(Duration::from_millis(ms)).await,
            Step::Restart => bench = bench.reopened().await,
            Step::DiskLoses => bench.disk_loses.store(true, Relaxed),
            Step::Read(reads) => {
                let mut waiting = tokio::task::JoinSet::new();
                for (file, offset, length) in reads {
                    let (replica, index) = (bench.replica.clone(), bench.tree.index(NAMES[file]));
                    let expected = bench.expected(NAMES[file], offset, length);
                    waiting.spawn(async move {
                        let now = replica.try_read(index, offset, length as u32);
                        (now, replica.read(index, offset, length as u32).await, expected)
                    });
                }
                while let Some(done) = timeout(Duration::from_secs(600), waiting.join_next())
                    .await
                    .map_err(|_| TestCaseError::fail("a read hangs"))?
                {
                    let (now, read, expected) = done.unwrap();
                    if let TryRead::Ready(bytes) = now {
                        prop_assert!(bytes == expected, "other bytes without waiting");
                    }
                    match read {
                        Ok(bytes) => prop_assert!(bytes == expected, "other bytes"),
                        Err(error) => prop_assert!(allowed.allows(&error), "{}", error),
                    }
                }
            }
        }
    }
    recover(bench).await
}

/// Once the origin behaves, everything is here, and stays here.
async fn recover(bench: Bench) -> Result<(), TestCaseError> {
    bench.disk_loses.store(false, Relaxed);
    bench.origin.forgive();
    bench.origin.returns();
    tokio::time::sleep(Duration::from_secs(30)).await;
    for file in files() {
        bench.check(file.path, 0, file.content.len() as u64).await;
    }
    bench.replica.idle().await;
    prop_assert_eq!(bench.replica.status().memory_bytes, 0);
    let bench = bench.reopened().await;
    bench.origin.seen();
    for file in files() {
        bench.check(file.path, 0, file.content.len() as u64).await;
    }
    prop_assert_eq!(bench.origin.seen(), vec![]);
    Ok(())
}

/// Each case takes a tenth of a second; `PROPTEST_CASES` asks for more of them.
fn cases() -> u32 {
    std::env::var("PROPTEST_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(48)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(cases()))]

    #[test]
    fn a_read_is_exact_or_an_error(
        steps in prop::collection::vec(step(), 1..25),
        when_gone in prop::sample::select(vec![WhenGone::default(), WhenGone::Fail]),
        filesystem in prop::sample::select(FILESYSTEMS.to_vec()),
    ) {
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        runtime.block_on(play(steps, when_gone, filesystem))?;
    }
}
