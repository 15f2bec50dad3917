//! What a reader sees when the peer dies, stalls, or falls silent in the middle of a file, and when processes on its own side
//! die: never a short file without an error, an answer within the deadline, and everything back when the peer is.

mod clone;
mod lifecycle;

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

/// Takes ten seconds to cross the link, so that a fault falls into the middle of it.
const BIG_BYTES: usize = 256 << 20;
const LINK_MBIT: u32 = 200;
/// Where the big file is when the fault strikes.
const STRUCK_BYTES: u64 = 24 << 20;

/// The default of `--when-gone` is ten seconds from when the peer stops answering; the rest is noticing that, and a loaded
/// machine.
const ERROR_BOUND: Duration = Duration::from_secs(25);
/// What one read waits, whatever the kernel makes of it; the rest is a loaded machine.
const READ_BOUND: Duration = Duration::from_secs(12);
/// Data that is here, and Ctrl-C, take milliseconds.
const AT_ONCE: Duration = Duration::from_secs(1);
const BOUND: Duration = Duration::from_secs(120);

/// Reads a file from start to end and says how it went: `at N` as it proceeds, then `end N SHA256`, `error ERRNO N SECONDS`, or
/// `short N` for an end that is none. A read that meets an error part way returns what came before; the next one fails.
const READER: &str = r#"
import errno, hashlib, os, sys, time
path, shown, offset, digest = sys.argv[1], 0, 0, hashlib.sha256()
file = os.open(path, os.O_RDONLY)
size = os.fstat(file).st_size
while True:
    began = time.monotonic()
    try:
        data = os.read(file, 1 << 20)
    except OSError as error:
        print("error", errno.errorcode[error.errno], offset, round(time.monotonic() - began, 2), flush=True)
        sys.exit(1)
    digest.update(data)
    offset += len(data)
    if not data and offset < size:
        print("short", offset, flush=True)
        sys.exit(2)
    if not data:
        print("end", offset, digest.hexdigest(), flush=True)
        sys.exit(0)
    if offset - shown >= 1 << 20:
        shown = offset
        print("at", offset, flush=True)
"#;

/// Two machines with a node each; Ada shares a workspace, and Ben has mounted it.
struct Scene<'hosts> {
    a: User<'hosts>,
    b: User<'hosts>,
    link: &'hosts Link,
    ada: Option<Running>,
    ben: Option<Running>,
    mount: String,
}

const PROJECT: &str = "/home/project";
const CACHED: &[u8] = b"here since the beginning\n";

fn scene(act: impl FnOnce(&mut Scene<'_>) -> Result<()>) -> Result<()> {
    let (ada, ben) = (Host::new("ada", Disk::Ext4)?, Host::new("ben", Disk::Ext4)?);
    let link = Link::between(&ada, &ben, 1, Rate::Mbit(LINK_MBIT))?;
    let (a, b) = (User::new(&ada, Who::Root), User::new(&ben, Who::Root));
    fs::create_dir_all(ada.path(PROJECT))?;
    fs::write(ada.path(PROJECT).join("big"), noise(BIG_BYTES, 3))?;
    fs::write(ada.path(PROJECT).join("cached"), CACHED)?;
    let mut scene = Scene { a, b, link: &link, ada: None, ben: None, mount: "/home/mount".into() };
    let told = scene.open().and_then(|()| act(&mut scene));
    told.with_context(|| format!("on ada:\n{}\non ben:\n{}", a.log(), b.log()))
}

impl Scene<'_> {
    fn open(&mut self) -> Result<()> {
        self.ada = Some(self.a.foreground()?);
        self.ben = Some(self.b.foreground()?);
        self.a.run(&["workspace", "create", PROJECT, "--name", "project"])?;
        self.a.run(&["workspace", "share", "project", "--open"])?;
        wait::until_true("the workspace to be listed", BOUND, || {
            Ok(self.b.run(&["workspace", "list", "--remote"])?.contains("project"))
        })?;
        self.b.run(&["mount", "project", &self.mount])?;
        self.cached_is_readable()
    }

    /// What is here is read at once, whatever the peer does.
    fn cached_is_readable(&self) -> Result<()> {
        let ended = self.b.program("cat").arg(format!("{}/cached", self.mount)).run(AT_ONCE * 10)?;
        ensure!(ended.took < AT_ONCE, "{}", ended.told());
        ensure!(ended.success()?.as_bytes() == CACHED, "the cached file has other content");
        Ok(())
    }

    /// A reader in the middle of the big file.
    fn reader(&self) -> Result<Running> {
        let path = format!("{}/big", self.mount);
        let reader = self.b.program("/usr/bin/python3").args(["-c", READER, &path]).start()?;
        wait::until_true("the reader to be in the middle of the file", BOUND, || {
            Ok(position(&reader)? >= STRUCK_BYTES)
        })?;
        Ok(reader)
    }

    /// The reader gets an error in time and before the end, and meanwhile what is here stays readable.
    fn fails_in_time(&self, reader: Running) -> Result<()> {
        let began = Instant::now();
        while !reader.ended_within(Duration::from_millis(500))? {
            self.cached_is_readable()?;
            ensure!(began.elapsed() < ERROR_BOUND, "no error after {ERROR_BOUND:?}: {}", reader.said());
        }
        let said = String::from_utf8(reader.wait(AT_ONCE)?.stdout)?;
        let last = said.lines().last().unwrap_or_default();
        ensure!(last.starts_with("error EIO "), "instead of EIO the reader got {last:?}");
        let took: f64 = last.rsplit(' ').next().context("no time")?.parse()?;
        ensure!(took < READ_BOUND.as_secs_f64(), "the read that failed took {took} seconds");
        Ok(())
    }

    /// The whole file can be read, and is the origin's.
    fn recovers(&self) -> Result<()> {
        let wanted = self.a.program("sha256sum").arg(format!("{PROJECT}/big")).run(BOUND)?.success()?;
        let wanted = wanted.split(' ').next().unwrap_or_default().to_owned();
        wait::until_true("the file to be readable again", BOUND, || {
            let path = format!("{}/big", self.mount);
            let ended = self.b.program("/usr/bin/python3").args(["-c", READER, &path]).run(BOUND)?;
            let said = String::from_utf8(ended.stdout)?;
            let last = said.lines().last().unwrap_or_default();
            ensure!(!last.starts_with("short"), "{last}");
            ensure!(
                !last.starts_with("end") || last.ends_with(&wanted),
                "the mount's content differs: {last}, not {wanted}"
            );
            Ok(last.starts_with("end"))
        })
    }

    /// The process that serves the mount: the elder of it and its mount helper.
    fn replica_pid(&self) -> Result<String> {
        let found =
            self.b.host().program("pgrep").args(["-o", "-f", "twinshare replica "]).run(BOUND)?.success()?;
        let pids: Vec<_> = found.split_whitespace().collect();
        ensure!(pids.len() == 1, "one replica process is expected: {pids:?}");
        Ok(pids[0].to_owned())
    }
}

fn position(reader: &Running) -> Result<u64> {
    let said = String::from_utf8(reader.stdout()?)?;
    ensure!(!reader.ended_within(Duration::ZERO)?, "the reader ended early: {}", reader.said());
    let last = said.lines().rev().find_map(|line| line.strip_prefix("at ")?.parse().ok());
    Ok(last.unwrap_or(0))
}

#[test]
fn the_origin_is_killed() -> Result<()> {
    scene(|scene| {
        let reader = scene.reader()?;
        scene.ada.take().context("no node")?.kill();
        scene.fails_in_time(reader)?;
        scene.ada = Some(scene.a.foreground()?);
        scene.recovers()
    })
}

#[test]
fn the_origin_is_stopped() -> Result<()> {
    scene(|scene| {
        let reader = scene.reader()?;
        scene.ada.as_ref().context("no node")?.signal(Signal::STOP)?;
        scene.fails_in_time(reader)?;
        scene.ada.as_ref().context("no node")?.signal(Signal::CONT)?;
        scene.recovers()
    })
}

#[test]
fn the_link_swallows_everything() -> Result<()> {
    scene(|scene| {
        let reader = scene.reader()?;
        scene.link.black_hole(true)?;
        scene.fails_in_time(reader)?;
        scene.link.black_hole(false)?;
        scene.recovers()
    })
}

#[test]
fn the_cable_is_pulled() -> Result<()> {
    scene(|scene| {
        let reader = scene.reader()?;
        scene.link.set_up(false)?;
        scene.fails_in_time(reader)?;
        scene.link.set_up(true)?;
        scene.recovers()
    })
}

#[test]
fn a_reader_who_waits_can_be_interrupted() -> Result<()> {
    for signal in [Signal::INT, Signal::KILL] {
        scene(|scene| {
            let reader = scene.reader()?;
            scene.link.black_hole(true)?;
            wait::until_true("the reader to stall", BOUND, || {
                let before = position(&reader)?;
                Ok(!reader.ended_within(Duration::from_secs(1))? && position(&reader)? == before)
            })?;
            let asked = Instant::now();
            reader.signal(signal)?;
            ensure!(reader.ended_within(AT_ONCE * 5)?, "{signal:?} did not end the reader in five seconds");
            ensure!(asked.elapsed() <= AT_ONCE, "{signal:?} ended the reader after {:?}", asked.elapsed());
            Ok(())
        })?;
    }
    Ok(())
}

#[test]
fn a_short_outage_is_waited_for() -> Result<()> {
    scene(|scene| {
        let reader = scene.reader()?;
        scene.link.black_hole(true)?;
        ensure!(!reader.ended_within(Duration::from_secs(3))?, "the reader did not wait: {}", reader.said());
        scene.link.black_hole(false)?;
        let ended = reader.wait(BOUND)?;
        ensure!(ended.status.success(), "{}", ended.told());
        Ok(())
    })
}

#[test]
fn a_restart_of_the_readers_node_is_not_noticed() -> Result<()> {
    scene(|scene| {
        let reader = scene.reader()?;
        let served_by = scene.replica_pid()?;
        scene.ben.take().context("no node")?.kill();
        scene.cached_is_readable()?;
        let ended = reader.wait(BOUND)?;
        ensure!(ended.status.success(), "{}", ended.told());
        scene.ben = Some(scene.b.foreground()?);
        scene.cached_is_readable()?;
        ensure!(scene.replica_pid()? == served_by, "the mount is served by another process");
        scene.b.run(&["unmount", &scene.mount])?;
        ensure!(!scene.b.host().runs("fusermount3")?);
        Ok(())
    })
}

#[test]
fn after_a_reboot_a_started_node_is_one_that_can_be_used() -> Result<()> {
    scene(|scene| {
        let pid = scene.replica_pid()?;
        scene.ben.take().context("no node")?.kill();
        scene.b.host().program("kill").args(["-KILL", &pid]).run(BOUND)?.success()?;
        scene.b.host().program("umount").arg(&scene.mount).run(BOUND)?.success()?;
        scene.b.start()?;
        scene.cached_is_readable()?;
        let cached = scene.b.run(&["run", "project", "--", "cat", "cached"])?;
        ensure!(cached.as_bytes() == CACHED, "{cached}");
        // Stopped, it says what it leaves behind, which stays as it is.
        let stopped = scene.b.run(&["p2p", "stop"])?;
        let server = scene.replica_pid()?;
        for part in ["node stopped", &scene.mount, &format!("pid {server}"), "twinshare unmount"] {
            ensure!(stopped.contains(part), "{part} is missing in: {stopped}");
        }
        scene.cached_is_readable()?;
        scene.b.start()?;
        let stopped = scene.b.json(&["p2p", "stop"])?;
        ensure!(stopped["stays"][0]["directory"] == *scene.mount && stopped["stopped"] == true, "{stopped}");
        ensure!(scene.replica_pid()? == server, "another process serves it");
        scene.b.start()?;
        scene.b.run(&["unmount", &scene.mount])?;
        scene.b.run(&["p2p", "stop"]).map(drop)
    })
}

#[test]
fn a_mount_whose_process_died_is_repaired_at_the_next_start() -> Result<()> {
    scene(|scene| {
        let pid = scene.replica_pid()?;
        scene.ben.take().context("no node")?.kill();
        scene.b.host().program("kill").args(["-KILL", &pid]).run(BOUND)?.success()?;
        let dead = scene.b.program("cat").arg(format!("{}/cached", scene.mount)).run(BOUND)?.failure()?;
        // A request that was on its way when the process died is aborted; those after it find nobody.
        ensure!(dead.contains("not connected") || dead.contains("connection abort"), "{dead}");
        scene.ben = Some(scene.b.foreground()?);
        wait::until_true("the mount to be repaired", BOUND, || {
            Ok(scene.b.program("cat").arg(format!("{}/cached", scene.mount)).run(BOUND)?.status.success())
        })?;
        scene.cached_is_readable()?;
        scene.recovers()
    })
}
