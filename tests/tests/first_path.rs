//! The first whole path, with nothing faked: two machines, six commands, and a colleague's program running from a mount
//! before its data has been copied.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use twinshare_tests::{
    environment::{self, INTERPRETER, MODEL_BYTES},
    host::{Disk, Host, ORDINARY},
    link::{Link, Rate},
    node::{User, Who},
    wait,
};

const BOUND: Duration = Duration::from_secs(120);

#[test]
fn a_colleagues_environment_runs_here_as_root() -> Result<()> {
    story(Who::Root, Who::Root)
}

#[test]
fn a_colleagues_environment_runs_here_as_an_ordinary_user() -> Result<()> {
    story(Who::Ordinary, Who::Ordinary)
}

fn story(origin: Who, receiver: Who) -> Result<()> {
    let (ada, ben) = (Host::new("ada", Disk::Ext4)?, Host::new("ben", Disk::Ext4)?);
    let link = Link::between(&ada, &ben, 1, Rate::Mbit(1000))?;
    let (a, b) = (User::new(&ada, origin), User::new(&ben, receiver));
    let told = tell(&a, &b, &link, origin);
    told.with_context(|| format!("on ada:\n{}\non ben:\n{}", a.log(), b.log()))
}

fn tell(a: &User<'_>, b: &User<'_>, link: &Link, origin: Who) -> Result<()> {
    let project = format!("{}/gpt4-demo", a.home());
    environment::build(a.host(), &project, if origin == Who::Root { 0 } else { ORDINARY.1 })?;
    let python = format!("{project}/.venv/bin/python");
    let here = a.program(&python).arg(format!("{project}/main.py")).run(BOUND)?.success()?;

    a.run(&["p2p", "start"])?;
    b.run(&["p2p", "start"])?;
    wait::until_true("ben to discover ada", BOUND, || Ok(b.run(&["p2p", "discover"])?.contains("ada")))?;
    a.run(&["workspace", "create", &project])?;
    a.run(&["workspace", "share", "gpt4-demo", "--open"])?;
    wait::until_true("the workspace to be listed", BOUND, || {
        Ok(b.run(&["workspace", "list", "--remote"])?.contains("gpt4-demo"))
    })?;

    // Measured on a mount, which fetches what is touched; a clone fetches the rest as well.
    let before = link.bytes_into_second()?;
    b.run(&["mount", "gpt4-demo"])?;
    let mount = format!("{}/twinshare/peers/ada/gpt4-demo", b.home());

    // Without its companion the program cannot start: the interpreter is nowhere on this machine.
    ensure!(!b.host().path(INTERPRETER).exists() && !b.host().path(&project).join("main.py").exists());
    let bare = format!("exec {mount}/.venv/bin/python {mount}/main.py");
    let refused = b.program("sh").args(["-c", &bare]).run(BOUND)?.failure()?;
    ensure!(refused.contains("not found"), "{refused}");
    let interpreter = format!("{mount}/.venv/bin/python");
    let leads_to = b.program("readlink").args(["-m", &interpreter]).run(BOUND)?.success()?;
    ensure!(leads_to.starts_with(&format!("{INTERPRETER}/bin/")), "{leads_to}");

    let there =
        b.twinshare(&["run", "gpt4-demo", "--", &python, &format!("{project}/main.py")]).run(BOUND)?;
    let told = String::from_utf8_lossy(&there.stderr).into_owned();
    ensure!(told.lines().any(|line| line.starts_with("isolation: ") && line.contains("mount")), "{told}");
    // The interpreter came along, and of the system it needs nothing that is not here.
    ensure!(!told.contains("missing here"), "{told}");
    let there = there.success()?;
    ensure!(there == here, "on ada:\n{here}\non ben:\n{there}");
    let crossed = link.bytes_into_second()? - before;
    ensure!(
        crossed < MODEL_BYTES as u64 / 2,
        "{crossed} bytes crossed for a run that needs a fraction of the workspace"
    );

    every_byte_is_the_origins(a, b, &project, &mount)?;
    all_of_it_goes_or_nothing(b, &mount)?;
    a_clone_runs_at_once_and_without_its_peer(a, b, &project, &here)
}

/// Its program runs while the rest is still on its way, and when the clone is an ordinary directory and nobody else is there.
fn a_clone_runs_at_once_and_without_its_peer(
    a: &User<'_>,
    b: &User<'_>,
    project: &str,
    here: &str,
) -> Result<()> {
    // As its origin has it, byte by byte: what is edited otherwise has tests of its own.
    b.run(&["workspace", "clone", "gpt4-demo", "--no-relocate"])?;
    let clone = format!("{}/twinshare/gpt4-demo", b.home());
    let (python, main) = (format!("{project}/.venv/bin/python"), format!("{project}/main.py"));
    let run = || b.run(&["run", "gpt4-demo", "--", &python, &main]);
    ensure!(run()? == here);
    b.run(&["workspace", "wait", "gpt4-demo", "--timeout", "100"])?;
    wait::until_true("the clone to settle", BOUND, || {
        Ok(b.run(&["workspace", "status", "gpt4-demo"])?.contains("settled: an ordinary directory"))
    })?;
    every_byte_is_the_origins(a, b, project, &clone)?;
    a.run(&["p2p", "stop"])?;
    ensure!(run()? == here);
    b.run(&["workspace", "rm", "gpt4-demo", "--yes"])?;
    ensure!(b.host().path(&clone).join("main.py").exists(), "the clone's files are gone");
    Ok(())
}

/// Somebody is in the companion alone: the workspace, which needs it, stays mounted with it.
fn all_of_it_goes_or_nothing(b: &User<'_>, mount: &str) -> Result<()> {
    let listed = b.json(&["workspace", "list"])?;
    let companion = listed["mounts"][0]["roots"][1]["local"].as_str().context("no companion is listed")?;
    let inside = b.program("sleep").arg("300").dir(companion).start()?;
    let busy = b.twinshare(&["unmount", "gpt4-demo"]).run(BOUND)?.failure()?;
    ensure!(busy.contains("sleep") && busy.contains(companion), "{busy}");
    b.program("cat").arg(format!("{mount}/main.py")).run(BOUND)?.success()?;
    drop(inside);
    b.run(&["unmount", "gpt4-demo"])?;
    ensure!(!b.host().path(mount).exists(), "the mount point is still there");
    Ok(())
}

/// Reads everything, and compares content with the origin's.
fn every_byte_is_the_origins(a: &User<'_>, b: &User<'_>, project: &str, there: &str) -> Result<()> {
    let sums = |user: &User<'_>, dir: &str| {
        let script = "find . -type f -print0 | sort -z | xargs -0 sha256sum";
        user.program("sh").args(["-c", script]).dir(dir).env("LC_ALL", "C").run(BOUND)?.success()
    };
    ensure!(sums(b, there)? == sums(a, project)?, "its content differs from the origin's");
    Ok(())
}
