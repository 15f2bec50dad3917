//! A clone from its first byte to an ordinary directory: in the background, whoever dies or leaves meanwhile, and never under
//! somebody's feet.

use std::{
    fs,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use rustix::process::Signal;
use serde_json::Value;
use twinshare_tests::{
    host::Host,
    link::Rate,
    node::Who,
    oddities,
    pair::{BOUND, PROJECT, Pair, pair},
    random::{Random, noise},
    wait,
};

/// Between the last user's leaving and an ordinary directory: two seconds between tries, and a loaded machine.
const SETTLES_WITHIN: Duration = Duration::from_secs(20);

/// Some hundred small files, some of them linked, and a large one with a hole.
fn files(bytes: usize) -> impl Fn(&Host) -> Result<()> {
    move |host| {
        let at = |name: &str| host.path(PROJECT).join(name);
        for number in 0..300 {
            fs::create_dir_all(at(&format!("d{}", number % 7)))?;
            fs::write(at(&format!("d{}/{number}", number % 7)), noise(number * 37, number as u64))?;
        }
        fs::hard_link(at("d3/3"), at("linked"))?;
        std::os::unix::fs::symlink("d1/1", at("link"))?;
        fs::write(at("big"), noise(bytes, 3))?;
        let sparse = fs::File::create(at("sparse"))?;
        sparse.set_len(1 << 20)?;
        Ok(std::os::unix::fs::FileExt::write_at(&sparse, b"end", (1 << 20) - 3).map(drop)?)
    }
}

fn becomes_ordinary(who: Who) -> Result<()> {
    let oddities = |host: &Host| {
        fs::create_dir_all(host.path("/home/beside"))?;
        oddities::build(&host.path(PROJECT), &host.path("/home/beside"))
    };
    pair(Rate::Mbit(1000), who, oddities, |pair| {
        pair.make_clone(&[])?;
        let said = pair.ben.run(&["workspace", "wait", &pair.clone, "--timeout", "100"])?;
        ensure!(said.contains("settled: an ordinary directory"), "{said}");
        pair.is_ordinary(who)?;
        wait::until_true("its process to end", BOUND, || Ok(pair.process()?.is_none()))?;

        // The node knows it, serves it no more, and leaves it alone.
        let shown = pair.ben.run(&["workspace", "status", &pair.clone])?;
        ensure!(shown.contains("settled: an ordinary directory since"), "{shown}");
        let refused = pair.ben.twinshare(&["unmount", &pair.clone]).run(BOUND)?.failure()?;
        ensure!(refused.contains("nothing to unmount"), "{refused}");
        let again = pair.ben.json(&["workspace", "clone", "project", &pair.clone])?;
        ensure!(again["was_there"] == true && again["state"] == "settled", "{again}");
        pair.ben_node.take().context("no node")?.kill();
        pair.ben_node = Some(pair.ben.foreground()?);
        pair.settles(Duration::from_secs(5))?;
        ensure!(pair.process()?.is_none(), "it is served again");
        let said = pair.ben.run(&["workspace", "rm", "--yes", &pair.clone])?;
        ensure!(said.contains("forgotten") && said.contains("files stay"), "{said}");
        ensure!(pair.marks()?.is_empty(), "{:?}", pair.marks());
        pair.is_ordinary(who)
    })
}

#[test]
fn roots_clone_becomes_an_ordinary_directory() -> Result<()> {
    becomes_ordinary(Who::Root)
}

#[test]
fn an_ordinary_users_clone_becomes_an_ordinary_directory() -> Result<()> {
    becomes_ordinary(Who::Ordinary)
}

/// Has a file open and mapped, looks at it again and again until it is told to end, and says so when anything is not as it was.
const WORKER: &str = r#"
import hashlib, mmap, os, signal, sys
file = open("big", "rb")
mapped = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
first, names = hashlib.sha256(mapped).hexdigest(), sorted(os.listdir("."))
print("working", flush=True)
while not signal.sigtimedwait([signal.SIGUSR1], 0.05):
    assert hashlib.sha256(mapped).hexdigest() == first
    assert hashlib.sha256(open("big", "rb").read()).hexdigest() == first
    assert sorted(os.listdir(".")) == names and os.getcwd() == sys.argv[1]
print(first, flush=True)
"#;

#[test]
fn whoever_works_in_it_notices_nothing_and_it_settles_when_they_leave() -> Result<()> {
    for who in [Who::Root, Who::Ordinary] {
        pair(Rate::Mbit(40), who, files(8 << 20), |pair| {
            pair.make_clone(&[])?;
            let blocked = format!(
                "import signal\nsignal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])\n{WORKER}"
            );
            let worker = pair.ben.program("/usr/bin/python3").args(["-c", &blocked, &pair.clone]);
            let worker = worker.dir(&pair.clone).start()?;
            let shell = pair.ben.program("sleep").arg("300").dir(format!("{}/d1", pair.clone)).start()?;
            let said = pair.ben.run(&["workspace", "wait", &pair.clone, "--timeout", "100"])?;
            ensure!(said.contains("complete, in use by"), "{said}");
            let refused = pair.ben.twinshare(&["workspace", "settle", &pair.clone]).run(BOUND)?;
            ensure!(refused.status.code() == Some(6), "{}", refused.told());
            let refused = refused.failure()?;
            ensure!(refused.contains("sleep") && refused.contains("in d1/"), "{refused}");
            ensure!(pair.is_mounted()? && pair.stage()? == "complete");

            let wanted = pair.ada.program("sha256sum").arg(format!("{PROJECT}/big")).run(BOUND)?.success()?;
            worker.signal(Signal::USR1)?;
            let saw = worker.wait(BOUND)?.success()?;
            ensure!(saw.lines().last() == wanted.split(' ').next(), "{saw}");
            ensure!(pair.is_mounted()?, "the shell is still in it");
            drop(shell);
            let left = Instant::now();
            pair.settles(SETTLES_WITHIN)?;
            ensure!(left.elapsed() < SETTLES_WITHIN);
            pair.is_ordinary(who)
        })?;
    }
    Ok(())
}

/// Looks at every file by its path, from outside, until it is told to end.
const ONLOOKER: &str = r#"
import os, signal, sys
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])
top, rounds, seen = sys.argv[1], 0, None
while not signal.sigtimedwait([signal.SIGUSR1], 0.2):
    names = {}
    for path, below, files in os.walk(top, onerror=lambda error: sys.exit(str(error))):
        # What is unmounted has it for a moment.
        below[:] = [name for name in below if not name.startswith(".twinshare-")]
        for name in files:
            at = os.path.join(path, name)
            names[at] = (os.stat(at).st_size, open(at, "rb").read())
    assert seen is None or names == seen, set(names) ^ set(seen)
    seen, rounds = names, rounds + 1
    print(rounds, len(names), flush=True)
"#;

#[test]
fn whoever_looks_at_it_from_outside_never_misses_anything() -> Result<()> {
    pair(Rate::Mbit(200), Who::Root, files(1 << 20), |pair| {
        pair.make_clone(&[])?;
        let onlooker = pair.ben.program("/usr/bin/python3").args(["-c", ONLOOKER, &pair.clone]).start()?;
        // It is in the way for most of the time, and not for all of it.
        pair.settles(BOUND)?;
        let rounds = || Ok::<_, anyhow::Error>(String::from_utf8(onlooker.stdout()?)?.lines().count());
        let before = rounds()?;
        wait::until_true("two rounds more", BOUND, || {
            Ok(rounds()? >= before + 2 || onlooker.ended_within(Duration::ZERO)?)
        })?;
        onlooker.signal(Signal::USR1)?;
        onlooker.wait(BOUND)?.success()?;
        pair.is_ordinary(Who::Root)
    })
}

#[test]
fn one_that_is_kept_settles_on_request_alone() -> Result<()> {
    pair(Rate::Mbit(200), Who::Ordinary, files(8 << 20), |pair| {
        pair.make_clone(&["--no-settle"])?;
        let refused = pair.ben.twinshare(&["workspace", "settle", &pair.clone]).run(BOUND)?.failure()?;
        ensure!(refused.contains("is not complete"), "{refused}");
        let said = pair.ben.run(&["workspace", "wait", &pair.clone])?;
        ensure!(said.contains("it stays so until `twinshare workspace settle`"), "{said}");
        let late = pair.ben.run(&["workspace", "wait", &pair.clone, "--timeout", "1"])?;
        ensure!(pair.is_mounted()? && late == said, "{late}");
        let said = pair.ben.run(&["workspace", "settle", &pair.clone])?;
        ensure!(said.contains("is an ordinary directory now"), "{said}");
        pair.is_ordinary(Who::Ordinary)
    })
}

#[test]
fn it_settles_whenever_its_process_is_killed() -> Result<()> {
    for who in [Who::Root, Who::Ordinary] {
        pair(Rate::Mbit(100), who, files(4 << 20), |pair| {
            let (mut random, mut struck) = (Random::new(7), [0; 2]);
            for round in 0..10 {
                pair.clone = format!("{}/round-{round}", pair.ben.home());
                pair.make_clone(&[])?;
                for _ in 0..=round % 2 {
                    if let Some(is_on_its_last_steps) = killed_once(pair, &mut random, round)? {
                        struck[usize::from(is_on_its_last_steps)] += 1;
                    }
                }
                pair.settles(BOUND).with_context(|| format!("round {round}"))?;
                pair.is_ordinary(who).with_context(|| format!("round {round}"))?;
                pair.ben.run(&["workspace", "rm", "--yes", &pair.clone])?;
            }
            ensure!(struck.iter().all(|times| *times > 1), "killed {struck:?} times, early and late");
            Ok(())
        })?;
    }
    Ok(())
}

/// Kills the clone's process in the middle of whatever it does, of hydration and finishing, or of its last steps: which of the
/// two, if it came in time.
fn killed_once(pair: &Pair<'_>, random: &mut Random, round: usize) -> Result<Option<bool>> {
    let is_late = !round.is_multiple_of(3);
    let Some(pid) = pair.process_from_outside()? else { return Ok(None) };
    let began = Instant::now();
    if is_late {
        while pair.marks()?.is_empty() && began.elapsed() < BOUND {
            std::thread::sleep(Duration::from_micros(100));
        }
    }
    let moment = Duration::from_micros(random.below(if is_late { 20_000 } else { 900_000 }) as u64);
    // The moment is what is tested; nothing is waited for.
    std::thread::sleep(moment);
    if rustix::process::kill_process(pid, Signal::KILL).is_err() {
        return Ok(None);
    }
    let marks = pair.marks()?;
    let Some(mark) = marks.first() else { return Ok(Some(false)) };
    let mark: Value = serde_json::from_slice(&fs::read(mark)?)?;
    Ok((mark["concluded"] == false).then_some(true))
}

#[test]
fn it_needs_no_node() -> Result<()> {
    pair(Rate::Mbit(20), Who::Ordinary, files(12 << 20), |pair| {
        pair.make_clone(&[])?;
        ensure!(pair.stage()? == "hydrating", "{}", pair.stage()?);
        pair.ben_node.take().context("no node")?.kill();
        wait::until_true("the clone to be unmounted", BOUND, || Ok(!pair.is_mounted()?))?;
        wait::until_true("its process to end", BOUND, || Ok(pair.process()?.is_none()))?;
        pair.is_ordinary(Who::Ordinary)?;
        pair.ben_node = Some(pair.ben.foreground()?);
        ensure!(pair.is("settled")?, "{}", pair.status()?);
        // Neither does a run of it need its peer.
        pair.ada_node.take().context("no node")?.kill();
        let script = format!("sha256sum {PROJECT}/big && touch {PROJECT}/mine");
        let run = pair.ben.run(&["run", &pair.clone, "--", "/bin/sh", "-c", &script])?;
        let wanted = pair.ada.program("sha256sum").arg(format!("{PROJECT}/big")).run(BOUND)?.success()?;
        ensure!(run == wanted, "{run}");
        ensure!(pair.ben.host().path(&pair.clone).join("mine").exists(), "what a run writes is not there");
        Ok(())
    })
}

#[test]
fn it_waits_for_its_peer_and_goes_on() -> Result<()> {
    pair(Rate::Mbit(20), Who::Root, files(12 << 20), |pair| {
        pair.make_clone(&[])?;
        wait::until_true("some of it to be here", BOUND, || {
            Ok(pair.status()?["progress"]["bytes_resident"].as_u64().unwrap_or(0) > 1 << 20)
        })?;
        pair.ada_node.take().context("no node")?.kill();
        wait::until_true("the peer to be missed", BOUND, || {
            Ok(pair.status()?["settling"]["detail"]
                .as_str()
                .is_some_and(|detail| detail.contains("does not answer")))
        })?;
        let late = pair
            .ben
            .twinshare(&["workspace", "wait", &pair.clone, "--timeout", "2"])
            .run(BOUND)?
            .failure()?;
        ensure!(late.contains("is not complete after 2"), "{late}");
        ensure!(pair.stage()? == "hydrating" && pair.is_mounted()?);
        pair.ada_node = Some(pair.ada.foreground()?);
        pair.settles(BOUND)?;
        pair.is_ordinary(Who::Root)
    })
}

/// Nobody can mount anything there.
fn without_fuse(pair: &Pair<'_>) -> Result<()> {
    let script = "mknod /mnt/none c 0 0 && mount --bind /mnt/none /dev/fuse";
    pair.ben.host().program("/bin/sh").args(["-c", script]).run(BOUND)?.success().map(drop)
}

fn plain(who: Who) -> Result<()> {
    pair(Rate::Mbit(20), who, files(12 << 20), |pair| {
        without_fuse(pair)?;
        let refused =
            pair.ben.twinshare(&["workspace", "clone", "project", &pair.clone]).run(BOUND)?.failure()?;
        ensure!(refused.contains("/dev/fuse") && refused.contains("clone --plain"), "{refused}");
        let directory = pair.ben.host().path(&pair.clone);
        ensure!(!directory.exists(), "a refused clone leaves its directory");

        let begin = || pair.ben.twinshare(&["workspace", "clone", "project", &pair.clone, "--plain"]).start();
        let hydrates = || {
            wait::until_true("some of it to be here", BOUND, || {
                let listed = pair.ben.json(&["workspace", "list"])?;
                let here = listed["clones"][0]["progress"]["bytes_resident"].as_u64().unwrap_or(0);
                Ok(listed["clones"][0]["state"] == "hydrating" && here > 1 << 20)
            })
        };
        let given_up = begin()?;
        hydrates()?;
        given_up.signal(Signal::INT)?;
        let said = given_up.wait(BOUND)?;
        ensure!(said.status.code() == Some(130), "{}", said.told());
        ensure!(said.failure()?.contains("it goes on in the background"));
        pair.ben.run(&["workspace", "rm", "--yes", &pair.clone])?;
        ensure!(!directory.exists(), "what was given up leaves its directory");
        wait::until_true("its process to end", BOUND, || Ok(pair.process()?.is_none()))?;

        // Somebody puts something where the workspace has to come.
        let waits = begin()?;
        hydrates()?;
        fs::write(directory.join("big"), "in the way")?;
        let said = waits.wait(BOUND)?.failure()?;
        ensure!(said.contains("no ordinary directory yet") && said.contains("it goes on"), "{said}");
        fs::remove_file(directory.join("big"))?;
        pair.ben.run(&["workspace", "settle", &pair.clone])?;
        pair.ben.run(&["workspace", "rm", "--yes", &pair.clone])?;
        fs::remove_dir_all(&directory)?;

        let waits = begin()?;
        hydrates()?;
        ensure!(!pair.is_mounted()?, "it is mounted");
        let names =
            fs::read_dir(&directory)?.map(|entry| Ok(entry?.file_name())).collect::<Result<Vec<_>>>()?;
        ensure!(names.len() == 1 && names[0].to_string_lossy().starts_with(".twinshare-"), "{names:?}");
        let refused = pair.ben.twinshare(&["run", &pair.clone, "--", "true"]).run(BOUND)?.failure()?;
        ensure!(refused.contains("once all of it is here"), "{refused}");
        rustix::process::kill_process(pair.process_from_outside()?.context("no process")?, Signal::KILL)?;
        pair.ada_node.take().context("no node")?.kill();
        wait::until_true("the peer to be missed", BOUND, || {
            let why = &pair.status()?["settling"]["detail"];
            Ok(why.as_str().is_some_and(|why| why.contains("does not answer")))
        })?;
        pair.ada_node = Some(pair.ada.foreground()?);
        let said = waits.wait(BOUND)?.success()?;
        ensure!(said.contains("project is in") && said.contains("twinshare run"), "{said}");
        ensure!(pair.is("settled")?, "{}", pair.status()?);
        pair.is_ordinary(who)
    })
}

#[test]
fn root_without_fuse_gets_a_plain_clone() -> Result<()> {
    plain(Who::Root)
}

#[test]
fn an_ordinary_user_without_fuse_gets_a_plain_clone() -> Result<()> {
    plain(Who::Ordinary)
}
