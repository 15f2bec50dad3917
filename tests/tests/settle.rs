//! A clone from its first byte to an ordinary directory: in the background, whoever dies or leaves meanwhile, and never under
//! somebody's feet.

use std::{
    fs,
    path::PathBuf,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use rustix::process::{Pid, Signal};
use serde_json::Value;
use twinshare_fs::git;
use twinshare_tests::{
    host::{Disk, Host, ORDINARY},
    link::{Link, Rate},
    node::{User, Who},
    oddities,
    program::Running,
    random::{Random, noise},
    substitution::{self, Facts},
    tree::{Entry, Kind, Tree, as_owner_sees},
    wait,
};

const BOUND: Duration = Duration::from_secs(120);

/// Between the last user's leaving and an ordinary directory: two seconds between tries, and a loaded machine.
const SETTLES_WITHIN: Duration = Duration::from_secs(20);

const PROJECT: &str = "/home/project";

/// Two machines; Ada shares a workspace, Ben clones it.
struct Pair<'hosts> {
    ada: User<'hosts>,
    ben: User<'hosts>,
    clone: String,
    origin: Tree,
    ada_node: Option<Running>,
    ben_node: Option<Running>,
}

fn pair(
    rate: Rate,
    who: Who,
    make: impl FnOnce(&Host) -> Result<()>,
    act: impl FnOnce(&mut Pair<'_>) -> Result<()>,
) -> Result<()> {
    let (ada, ben) = (Host::new("ada", Disk::Ext4)?, Host::new("ben", Disk::Ext4)?);
    let _link = Link::between(&ada, &ben, 1, rate)?;
    fs::create_dir_all(ada.path(PROJECT))?;
    make(&ada)?;
    let (ada, ben) = (User::new(&ada, Who::Root), User::new(&ben, who));
    let told = (|| {
        let (ada_node, ben_node) = (Some(ada.foreground()?), Some(ben.foreground()?));
        ada.run(&["workspace", "create", PROJECT, "--name", "project"])?;
        ada.run(&["workspace", "share", "project", "--open"])?;
        wait::until_true("the workspace to be listed", BOUND, || {
            Ok(ben.run(&["workspace", "list", "--remote"])?.contains("project"))
        })?;
        let clone = format!("{}/there", ben.home());
        let origin = ada.host().observe(PROJECT, false)?;
        act(&mut Pair { ada, ben, clone, origin, ada_node, ben_node })
    })();
    told.with_context(|| format!("on ada:\n{}\non ben:\n{}", ada.log(), ben.log()))
}

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

impl Pair<'_> {
    fn make_clone(&self, options: &[&str]) -> Result<()> {
        self.ben.run(&[&["workspace", "clone", "project", &self.clone][..], options].concat()).map(drop)
    }

    fn status(&self) -> Result<Value> {
        self.ben.json(&["workspace", "status", &self.clone])
    }

    fn is(&self, state: &str) -> Result<bool> {
        Ok(self.status()?["state"] == *state)
    }

    fn settles(&self, within: Duration) -> Result<()> {
        wait::until_true("the clone to settle", within, || self.is("settled"))
            .with_context(|| format!("{:?}", self.status()))
    }

    fn stage(&self) -> Result<String> {
        Ok(self.status()?["settling"]["stage"].as_str().unwrap_or_default().to_owned())
    }

    fn is_mounted(&self) -> Result<bool> {
        let table = self.ben.host().program("cat").arg("/proc/self/mountinfo").run(BOUND)?.success()?;
        Ok(table.lines().any(|line| line.split(' ').nth(4) == Some(&self.clone)))
    }

    /// The clone's process, where one runs: the elder of it and its mount helper.
    fn process(&self) -> Result<Option<String>> {
        let found = self.ben.host().program("pgrep").args(["-o", "-f", "twinshare replica "]).run(BOUND)?;
        Ok(String::from_utf8(found.stdout)?.split_whitespace().next().map(str::to_owned))
    }

    /// The clone's process as it is called outside of the machine, where a signal takes microseconds: its last steps take
    /// some milliseconds.
    fn process_from_outside(&self) -> Result<Option<Pid>> {
        let listed = self.ben.json(&["workspace", "list"])?;
        let clones = listed["clones"].as_array().context("no clones")?;
        let clone = clones.iter().find(|clone| clone["directory"] == *self.clone).context("no clone")?;
        let line = format!("twinshare\0replica\0{}\0", clone["id"].as_str().context("no id")?);
        let all = fs::read_dir("/proc")?.flatten();
        let numbers = all.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
        let is_it = |number: &i32| {
            fs::read(format!("/proc/{number}/cmdline")).is_ok_and(|found| found == line.as_bytes())
        };
        // The elder of it and its mount helper.
        Ok(numbers.filter(is_it).min().and_then(Pid::from_raw))
    }

    /// Where the node keeps what it knows of its replicas, from outside of the machine.
    fn marks(&self) -> Result<Vec<PathBuf>> {
        let replicas = format!("{}/.local/state/twinshare/replicas", self.ben.home());
        let replicas = fs::read_dir(self.ben.host().path(replicas))?.flatten();
        Ok(replicas.map(|replica| replica.path().join("settled.json")).filter(|mark| mark.exists()).collect())
    }

    /// It is the origin's tree, and nothing of ours.
    fn is_ordinary(&self, who: Who) -> Result<()> {
        ensure!(!self.is_mounted()?, "it is still mounted");
        let found = self.ben.host().observe(&self.clone, who == Who::Ordinary)?;
        let mut git_configs = std::collections::BTreeMap::new();
        for path in substitution::git_configs(&self.origin) {
            let text = fs::read(self.ada.host().path(PROJECT).join(path))?;
            git_configs.insert(path.clone(), git::shown_config(&text));
        }
        let owner = if who == Who::Root { (0, 0) } else { (ORDINARY.1, ORDINARY.1) };
        let expected = substitution::expected(&self.origin, &Facts { owner, git_configs }, None);
        let expected = if who == Who::Ordinary { as_owner_sees(&expected) } else { expected };
        let names = |tree: &Tree| tree.keys().cloned().collect::<Vec<_>>();
        let extra: Vec<_> = found.keys().filter(|name| !expected.contains_key(*name)).collect();
        let missing: Vec<_> = expected.keys().filter(|name| !found.contains_key(*name)).collect();
        ensure!(names(&found) == names(&expected), "extra {extra:?}, missing {missing:?}");
        for (name, entry) in &expected {
            let (wanted, there) = (facts(entry), facts(&found[name]));
            ensure!(wanted == there, "{name} should be {wanted}, and is {there}");
        }
        Ok(())
    }
}

/// What an ordinary directory and its origin have in common: not what describes inodes of one disk.
fn facts(entry: &Entry) -> String {
    let Entry { kind, mode, nlink, owner, size, mtime, first_name, target, xattrs, content, .. } = entry;
    let size = (*kind != Kind::Directory).then_some(size);
    let nlink = (*kind == Kind::File).then_some(nlink);
    format!(
        "{kind:?} {mode:o} {nlink:?} {owner:?} {size:?} {mtime:?} {first_name} {target:?} {xattrs:?} {content:?}"
    )
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
