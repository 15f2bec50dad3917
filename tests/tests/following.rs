//! A view follows its peer's workspace: what is changed there is seen here soon, in the same mount, and what is not changed
//! is not fetched again.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use twinshare_tests::{
    host::{Disk, Host},
    link::{Link, Rate},
    node::{User, Who},
    wait,
};

const BOUND: Duration = Duration::from_secs(120);

/// How long a change may take to be seen here. It is about half a second on a machine at rest.
const SEEN_WITHIN: Duration = Duration::from_secs(10);

/// Bytes of a file that never changes: content that does not compress.
const LARGE_BYTES: usize = 20_000_000;

#[test]
fn a_view_follows_as_root() -> Result<()> {
    story(Who::Root)
}

#[test]
fn a_view_follows_as_an_ordinary_user() -> Result<()> {
    story(Who::Ordinary)
}

fn story(who: Who) -> Result<()> {
    let (ada, ben) = (Host::new("ada", Disk::Ext4)?, Host::new("ben", Disk::Ext4)?);
    let link = Link::between(&ada, &ben, 1, Rate::Mbit(1000))?;
    let (a, b) = (User::new(&ada, who), User::new(&ben, who));
    let told = tell(&a, &b, &link);
    told.with_context(|| format!("on ada:\n{}\non ben:\n{}", a.log(), b.log()))
}

/// Runs a script in a directory, as somebody would at their prompt.
fn sh(user: &User<'_>, dir: &str, script: &str) -> Result<String> {
    user.program("sh").args(["-c", script]).dir(dir).run(BOUND)?.success()
}

fn tell(a: &User<'_>, b: &User<'_>, link: &Link) -> Result<()> {
    let there = format!("{}/demo", a.home());
    let fill = format!(
        "mkdir -p {there}/src && cd {there} && head -c {LARGE_BYTES} /dev/urandom > large && echo one > src/edited && echo old > src/removed"
    );
    sh(a, "/", &fill)?;
    a.run(&["p2p", "start"])?;
    b.run(&["p2p", "start"])?;
    a.run(&["workspace", "create", &there])?;
    a.run(&["workspace", "share", "demo", "--open"])?;
    wait::until_true("the workspace to be listed", BOUND, || {
        Ok(b.run(&["workspace", "list", "--remote"])?.contains("demo"))
    })?;
    b.run(&["mount", "demo"])?;
    let here = format!("{}/twinshare/peers/ada/demo", b.home());
    same(a, b, &there, &here)?;
    let first = snapshot(b)?;

    let before = link.bytes_into_second()?;
    sh(
        a,
        &there,
        "echo two > src/edited && rm src/removed && echo new > src/created && mkdir more && ln -s ../large more/link",
    )?;
    seen(b, &here, "test ! -e src/removed && test -L more/link && cat src/edited src/created", "two\nnew\n")?;
    same(a, b, &there, &here)?;
    let crossed = link.bytes_into_second()? - before;
    ensure!(crossed < LARGE_BYTES as u64 / 10, "{crossed} bytes crossed for a few that changed");
    ensure!(snapshot(b)? != first, "status shows the first snapshot");
    let status = b.run(&["workspace", "status", "demo"])?;
    ensure!(status.contains("shows          the workspace as it is"), "{status}");
    it_goes_on_after_its_process_died(a, b, &there, &here)?;
    it_stays_while_the_peer_is_gone(a, b, &there, &here)?;
    b.run(&["unmount", "demo"])?;
    ensure!(!b.host().path(&here).exists(), "the mount point is still there");
    Ok(())
}

fn it_goes_on_after_its_process_died(a: &User<'_>, b: &User<'_>, there: &str, here: &str) -> Result<()> {
    let shown = snapshot(b)?;
    let pid = b.json(&["workspace", "status", "demo"])?["pid"].as_u64().context("no process serves it")?;
    b.program("kill").args(["-9", &pid.to_string()]).run(BOUND)?.success()?;
    seen(b, here, "cat src/edited", "two\n")?;
    ensure!(snapshot(b)? == shown, "it opened as another snapshot");
    sh(a, there, "echo three > src/edited")?;
    seen(b, here, "cat src/edited", "three\n")?;
    same(a, b, there, here)
}

fn it_stays_while_the_peer_is_gone(a: &User<'_>, b: &User<'_>, there: &str, here: &str) -> Result<()> {
    a.run(&["p2p", "stop"])?;
    sh(a, there, "echo four > src/edited")?;
    ensure!(sh(b, here, "cat src/edited")? == "three\n");
    wait::until_true("status to say so", BOUND, || {
        Ok(b.run(&["workspace", "status", "demo"])?.contains("no newer one for now"))
    })?;
    a.run(&["p2p", "start"])?;
    wait::until_true("the change to be seen", BOUND, || Ok(sh(b, here, "cat src/edited")? == "four\n"))?;
    same(a, b, there, here)
}

/// Waits until a script says what it should; its failures meanwhile are those of a moment.
fn seen(user: &User<'_>, dir: &str, script: &str, expected: &str) -> Result<()> {
    wait::until_true(&format!("`{script}` to say {expected:?}"), SEEN_WITHIN, || {
        let ran = user.program("sh").args(["-c", &format!("cd {dir} && {script}")]).run(BOUND)?;
        Ok(ran.success().is_ok_and(|said| said == expected))
    })
}

fn snapshot(user: &User<'_>) -> Result<String> {
    let status = user.json(&["workspace", "status", "demo"])?;
    Ok(status["following"]["snapshot"].as_str().context("it does not say what it shows")?.to_owned())
}

/// Waits until both have the same names and content.
fn same(a: &User<'_>, b: &User<'_>, there: &str, here: &str) -> Result<()> {
    let script =
        "find . -printf '%p %y %T@ %l\\n' | sort && find . -type f -print0 | sort -z | xargs -0 sha256sum";
    let expected = sh(a, there, script)?;
    seen(b, here, script, &expected)
}
