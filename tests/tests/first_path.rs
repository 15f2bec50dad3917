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

    let before = link.bytes_into_second()?;
    b.run(&["workspace", "clone", "gpt4-demo"])?;
    let clone = format!("{}/twinshare/gpt4-demo", b.home());

    // Without its companion the program cannot start: the interpreter is nowhere on this machine.
    ensure!(!b.host().path(INTERPRETER).exists() && !b.host().path(&project).join("main.py").exists());
    let bare = format!("exec {clone}/.venv/bin/python {clone}/main.py");
    let refused = b.program("sh").args(["-c", &bare]).run(BOUND)?.failure()?;
    ensure!(refused.contains("not found"), "{refused}");
    let interpreter = format!("{clone}/.venv/bin/python");
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

    every_byte_is_the_origins(a, b, &project, &clone)?;
    all_of_it_goes_or_nothing(b, &clone)
}

/// Somebody is in the companion alone: the workspace, which needs it, stays mounted with it.
fn all_of_it_goes_or_nothing(b: &User<'_>, clone: &str) -> Result<()> {
    let listed = b.json(&["workspace", "list"])?;
    let companion = listed["clones"][0]["roots"][1]["local"].as_str().context("no companion is listed")?;
    let inside = b.program("sleep").arg("300").dir(companion).start()?;
    let busy = b.twinshare(&["workspace", "rm", "gpt4-demo", "--yes"]).run(BOUND)?.failure()?;
    ensure!(busy.contains("sleep") && busy.contains(companion), "{busy}");
    b.program("cat").arg(format!("{clone}/main.py")).run(BOUND)?.success()?;
    drop(inside);
    b.run(&["workspace", "rm", "gpt4-demo", "--yes"])?;
    ensure!(!b.host().path(clone).exists(), "the clone's directory is still there");
    Ok(())
}

/// Reads everything through the mount, and compares content with the origin's.
fn every_byte_is_the_origins(a: &User<'_>, b: &User<'_>, project: &str, clone: &str) -> Result<()> {
    let sums = |user: &User<'_>, dir: &str| {
        let script = "find . -type f -print0 | sort -z | xargs -0 sha256sum";
        user.program("sh").args(["-c", script]).dir(dir).env("LC_ALL", "C").run(BOUND)?.success()
    };
    ensure!(sums(b, clone)? == sums(a, project)?, "the mount's content differs from the origin's");
    Ok(())
}
