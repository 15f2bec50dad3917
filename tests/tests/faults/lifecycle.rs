//! Mounts as their processes see them: made twice at once, given up half made, unmounted under a running program, and
//! left by a process that dies.

use std::{
    fs,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use rustix::process::Signal;
use twinshare_tests::{
    host::{Disk, Host},
    link::{Link, Rate},
    node::{User, Who},
    program::Running,
    random::noise,
    wait,
};

const BOUND: Duration = Duration::from_secs(120);

/// Neither of these waits for the peer, whatever it does.
const GIVEN_UP: Duration = Duration::from_secs(10);

/// Two machines with a node each; Ada shares workspaces.
struct Pair<'hosts> {
    ada: User<'hosts>,
    ben: User<'hosts>,
    /// What was mounted on Ben's machine before: a test machine sees the mounts of the one it runs on.
    mounted_before: Vec<String>,
    _nodes: [Running; 2],
}

fn pair(rate: Rate, who: Who, act: impl FnOnce(&Pair<'_>) -> Result<()>) -> Result<()> {
    let (ada, ben) = (Host::new("ada", Disk::Ext4)?, Host::new("ben", Disk::Ext4)?);
    let _link = Link::between(&ada, &ben, 1, rate)?;
    let (ada, ben) = (User::new(&ada, Who::Root), User::new(&ben, who));
    let told = (|| {
        let mounted_before = mounts(&ben)?;
        act(&Pair { ada, ben, mounted_before, _nodes: [ada.foreground()?, ben.foreground()?] })
    })();
    told.with_context(|| format!("on ada:\n{}\non ben:\n{}", ada.log(), ben.log()))
}

/// The places where something of twinshare's is mounted.
fn mounts(user: &User<'_>) -> Result<Vec<String>> {
    let table = user.host().program("cat").arg("/proc/self/mountinfo").run(BOUND)?.success()?;
    let ours = table.lines().filter(|line| line.contains(" - fuse.twinshare "));
    Ok(ours.filter_map(|line| line.split(' ').nth(4)).map(str::to_owned).collect())
}

impl Pair<'_> {
    /// Shares a workspace of `files` files, and waits until it is seen.
    fn share(&self, name: &str, files: usize) -> Result<()> {
        let directory = format!("/home/{name}");
        fs::create_dir_all(self.ada.host().path(&directory))?;
        for number in 0..files {
            let path = self.ada.host().path(&directory).join(format!("{:x}", number * 0x9e37_79b9));
            fs::write(path, number.to_string())?;
        }
        fs::write(self.ada.host().path(&directory).join("cold"), noise(1 << 20, 5))?;
        self.ada.run(&["workspace", "create", &directory, "--name", name])?;
        self.ada.run(&["workspace", "share", name, "--open"])?;
        wait::until_true("the workspace to be listed", BOUND, || {
            Ok(self.ben.run(&["workspace", "list", "--remote"])?.contains(name))
        })
    }

    /// The places where something of ours is mounted on Ben's machine.
    fn mounted(&self) -> Result<Vec<String>> {
        let mut mounted = mounts(&self.ben)?;
        mounted.retain(|place| !self.mounted_before.contains(place));
        Ok(mounted)
    }

    /// The processes on Ben's machine whose command line holds `text`, the eldest first.
    fn processes(&self, text: &str) -> Result<Vec<String>> {
        let found = self.ben.host().program("pgrep").args(["-f", text]).run(BOUND)?;
        Ok(String::from_utf8(found.stdout)?.split_whitespace().map(str::to_owned).collect())
    }

    fn is_readable(&self, mount: &str) -> Result<bool> {
        let wanted = noise(1 << 20, 5);
        let read = self.ben.program("cat").arg(format!("{mount}/cold")).run(BOUND)?;
        ensure!(!read.status.success() || read.stdout == wanted, "{mount}/cold has other content");
        Ok(read.status.success())
    }
}

#[test]
fn a_mount_that_is_given_up_half_made_leaves_nothing() -> Result<()> {
    // The list of files alone takes seconds to arrive.
    pair(Rate::Mbit(1), Who::Root, |pair| {
        pair.share("project", 20_000)?;
        for command in
            [&["mount", "project", "/home/there"][..], &["workspace", "clone", "project", "/home/there"]]
        {
            let mounting = pair.ben.twinshare(command).start()?;
            wait::until_true("the replica to be attached", BOUND, || {
                Ok(!pair.processes("twinshare replica ")?.is_empty())
            })?;
            mounting.signal(Signal::INT)?;
            let ended = mounting.wait(GIVEN_UP)?;
            ensure!(!ended.status.success(), "it was mounted before it could be given up");
            wait::until_true("the mount point to be removed", GIVEN_UP, || {
                Ok(!pair.ben.host().path("/home/there").exists())
            })?;
            ensure!(pair.mounted()?.is_empty(), "{:?} is mounted", pair.mounted()?);
            wait::until_true("the process to end", BOUND, || {
                Ok(pair.processes("twinshare replica ")?.is_empty())
            })?;
            ensure!(pair.mounted()?.is_empty(), "{:?} came back", pair.mounted()?);
        }
        pair.ben.run(&["mount", "project", "/home/there"])?;
        ensure!(pair.is_readable("/home/there")?);
        Ok(())
    })
}

#[test]
fn two_who_want_the_same_at_once_get_one_mount() -> Result<()> {
    pair(Rate::Mbit(200), Who::Ordinary, |pair| {
        pair.share("project", 10)?;
        pair.share("other", 10)?;
        for command in [&["mount"][..], &["workspace", "clone", "--no-settle"]] {
            let ask = || pair.ben.twinshare(&[command, &["project"]].concat()).start();
            let asked = [ask()?, ask()?, ask()?];
            for asked in asked {
                asked.wait(BOUND)?.success()?;
            }
            let [mount] = pair.mounted()?.try_into().map_err(|all| anyhow::anyhow!("mounted: {all:?}"))?;
            ensure!(pair.is_readable(&mount)?);
            let end = if command == ["mount"] {
                &["unmount", &mount][..]
            } else {
                &["workspace", "rm", "--yes", &mount]
            };
            pair.ben.run(end)?;
            ensure!(pair.mounted()?.is_empty());
        }

        // Two workspaces on one directory: one of them, whole, and a reason for the other.
        let at = format!("{}/there", pair.ben.home());
        let clone =
            |name: &str| pair.ben.twinshare(&["workspace", "clone", "--no-settle", name, &at]).start();
        let asked = [clone("project")?, clone("other")?];
        let mut refused = Vec::new();
        for asked in asked {
            let ended = asked.wait(BOUND)?;
            if !ended.status.success() {
                refused.push(ended.failure()?);
            }
        }
        ensure!(refused.len() == 1 && refused[0].contains("is there already"), "{refused:?}");
        ensure!(pair.mounted()? == [at.clone()] && pair.is_readable(&at)?);
        Ok(())
    })
}

#[test]
fn a_process_that_dies_costs_no_view() -> Result<()> {
    pair(Rate::Mbit(200), Who::Root, |pair| {
        let names = ["one", "two", "three"];
        let at = |name| format!("/home/mounts/{name}");
        for name in names {
            pair.share(name, 10)?;
            pair.ben.run(&["mount", name, &at(name)])?;
        }
        let pid = pair.processes("twinshare replica ")?.into_iter().next().context("no process")?;
        // Somebody's shell is in one of them: its dead mount cannot be swept before the shell has left.
        let shell = pair.ben.program("sleep").arg("300").dir(at("two")).start()?;
        pair.ben.host().program("kill").args(["-KILL", &pid]).run(BOUND)?.success()?;
        for name in ["one", "three"] {
            wait::until_true("a mount to be repaired", BOUND, || pair.is_readable(&at(name)))?;
        }
        let busy = pair.ben.twinshare(&["unmount", &at("two")]).run(BOUND)?.failure()?;
        ensure!(busy.contains("in use"), "{busy}");
        drop(shell);
        wait::until_true("the mount to be repaired", BOUND, || pair.is_readable(&at("two")))?;
        ensure!(pair.mounted()?.len() == names.len(), "mounted: {:?}", pair.mounted()?);
        for name in names {
            pair.ben.run(&["unmount", &at(name)])?;
        }
        ensure!(pair.mounted()?.is_empty());
        Ok(())
    })
}

#[test]
fn a_process_that_is_killed_again_and_again_comes_back() -> Result<()> {
    pair(Rate::Mbit(200), Who::Root, |pair| {
        pair.share("project", 10)?;
        pair.ben.run(&["workspace", "clone", "project", "/home/there", "--no-settle"])?;
        for _ in 0..7 {
            wait::until_true("the mount to be repaired", BOUND, || pair.is_readable("/home/there"))?;
            let pid = pair.processes("twinshare replica ")?.into_iter().next().context("no process")?;
            pair.ben.host().program("kill").args(["-KILL", &pid]).run(BOUND)?.success()?;
        }
        wait::until_true("the pause to be told", BOUND, || {
            let shown = pair.ben.run(&["workspace", "status", "/home/there"])?;
            Ok(shown.contains("failed: its process died") && shown.contains("it is started again after"))
        })?;
        wait::until_true("the mount to be repaired", BOUND, || pair.is_readable("/home/there"))
    })
}

#[test]
fn a_dead_mount_is_repaired_as_soon_as_nobody_is_in_it() -> Result<()> {
    pair(Rate::Mbit(200), Who::Root, |pair| {
        pair.share("project", 10)?;
        pair.ben.run(&["workspace", "clone", "project", "/home/there", "--no-settle"])?;
        let inside = pair.ben.program("sleep").arg("300").dir("/home/there").start()?;
        let pid = pair.processes("twinshare replica ")?.into_iter().next().context("no process")?;
        pair.ben.host().program("kill").args(["-KILL", &pid]).run(BOUND)?.success()?;
        // Long enough for a pause that doubles to be longer than anybody waits.
        ensure!(!inside.ended_within(Duration::from_secs(12))?, "it was not to end: {}", inside.said());
        let shown = pair.ben.run(&["workspace", "show", "/home/there"])?;
        ensure!(shown.contains("in use by sleep"), "{shown}");
        drop(inside);
        let left = Instant::now();
        wait::until_true("the mount to be repaired", BOUND, || pair.is_readable("/home/there"))?;
        // A second, and a loaded machine.
        ensure!(left.elapsed() < Duration::from_secs(4), "it took {:?}", left.elapsed());
        Ok(())
    })
}

#[test]
fn a_copy_that_nobody_uses_is_in_nobodys_way_and_is_served() -> Result<()> {
    pair(Rate::Mbit(200), Who::Root, |pair| {
        pair.share("project", 10)?;
        let elsewhere = |directory: &str| {
            let script = format!("cd {directory} && echo there && exec sleep 300");
            let unshare = ["--mount", "--propagation", "private", "sh", "-c", &script];
            let started = pair.ben.host().program("unshare").args(unshare).start()?;
            wait::until_true("a mount namespace", BOUND, || Ok(started.stdout()?.starts_with(b"there")))?;
            Ok::<_, anyhow::Error>(started)
        };
        for (make, end) in [
            (&["mount"][..], &["unmount", "/home/there"][..]),
            (&["workspace", "clone", "--no-settle"], &["workspace", "rm", "--yes", "/home/there"]),
        ] {
            pair.ben.run(&[make, &["project", "/home/there"]].concat())?;
            let idle = elsewhere("/")?;
            let inside = pair.processes("sleep 300")?.pop().context("no process")?;
            let busy = elsewhere("/home/there")?;
            let refused = pair.ben.twinshare(end).run(BOUND)?.failure()?;
            ensure!(refused.contains("in use by sleep"), "{refused}");
            drop(busy);
            pair.ben.run(end)?;
            ensure!(pair.mounted()?.is_empty(), "{:?} is mounted", pair.mounted()?);
            let read = ["--target", &inside, "--mount", "cat", "/home/there/cold"];
            let read = pair.ben.host().program("nsenter").args(read).run(BOUND)?;
            ensure!(read.stdout == noise(1 << 20, 5), "the copy is not served: {}", read.told());
            drop(idle);
            wait::until_true("the process to end", BOUND, || {
                Ok(pair.processes("twinshare replica ")?.is_empty())
            })?;
            wait::until_true("the mount point to be removed", BOUND, || {
                Ok(!pair.ben.host().path("/home/there").exists())
            })?;
        }
        Ok(())
    })
}

/// Says that it runs; reads a file when told to, and says how that went.
const PROGRAM: &str = r#"
import hashlib, signal, sys
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])
print("running", flush=True)
signal.sigwait([signal.SIGUSR1])
print(hashlib.sha256(open("cold", "rb").read()).hexdigest(), flush=True)
"#;

#[test]
fn a_run_keeps_its_mount() -> Result<()> {
    for (who, by_hand) in [(Who::Root, false), (Who::Ordinary, false), (Who::Root, true)] {
        pair(Rate::Mbit(200), who, |pair| {
            pair.share("project", 10)?;
            let there = format!("{}/there", pair.ben.home());
            pair.ben.run(&["mount", "project", &there])?;
            let program = ["run", "project", "--", "/usr/bin/python3", "-c", PROGRAM];
            let program = pair.ben.twinshare(&program).start()?;
            wait::until_true("the program to run", BOUND, || {
                ensure!(!program.ended_within(Duration::ZERO)?, "it ended: {}", program.said());
                Ok(program.stdout()?.starts_with(b"running"))
            })?;
            if by_hand {
                pair.ben.program("umount").arg(&there).run(BOUND)?.success()?;
            } else {
                let busy = pair.ben.twinshare(&["unmount", &there]).run(BOUND)?.failure()?;
                ensure!(busy.contains("in use by") && busy.contains("python3"), "{busy}");
            }
            let inside = pair.processes("sigwait")?.pop().context("no program")?;
            pair.ben.host().program("kill").args(["-USR1", &inside]).run(BOUND)?.success()?;
            let said = program.wait(BOUND)?.success()?;
            let wanted = pair.ada.program("sha256sum").arg("/home/project/cold").run(BOUND)?.success()?;
            ensure!(said.lines().last() == wanted.split(' ').next(), "{said}");
            if !by_hand {
                pair.ben.run(&["unmount", &there])?;
            }
            wait::until_true("the process to end", BOUND, || {
                Ok(pair.processes("twinshare replica ")?.is_empty())
            })?;
            ensure!(pair.mounted()?.is_empty());
            Ok(())
        })?;
    }
    Ok(())
}
