//! What a mount keeps on the disk: never more than the budget, whatever is read, and what is pinned without the peer.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use twinshare_tests::{
    host::Host,
    link::Rate,
    node::Who,
    pair::{BOUND, PROJECT, Pair, pair},
    random::noise,
    wait,
};

/// Files that are read, and bytes of each: more than twice the budget.
const FILES: u64 = 40;
const FILE_BYTES: usize = 1 << 20;

/// Bytes the cache may hold.
const BUDGET: u64 = 16_000_000;

/// What writes under way may add.
const SLACK: u64 = 4_000_000;

const CONFIGURE: &str = r"set -e
mkdir -p -m 700 ~/.config/twinshare
echo 'cache: {bytes_max: 16MB, free_bytes_min: 1MB}' > ~/.config/twinshare/config.yaml
";

fn files(host: &Host) -> Result<()> {
    let at = |name: &str| host.path(PROJECT).join(name);
    fs::create_dir_all(at("data"))?;
    fs::create_dir_all(at("kept/deeper"))?;
    for number in 0..FILES {
        fs::write(at(&format!("data/f{number}")), noise(FILE_BYTES, number + 1))?;
    }
    for number in 0..30u64 {
        fs::write(at(&format!("kept/deeper/small{number}")), noise(20_000, number + 100))?;
    }
    fs::write(at("kept/large"), noise(3 << 20, 99))?;
    fs::hard_link(at("kept/large"), at("kept/again"))?;
    Ok(())
}

#[test]
fn a_mount_keeps_to_its_budget_and_what_is_pinned_is_there_without_the_peer() -> Result<()> {
    pair(Rate::Unlimited, Who::Ordinary, files, story)
}

/// The digests of all files below a directory, as `sha256sum` tells them.
fn digests(pair: &Pair<'_>, by_ben: bool, directory: &str) -> Result<String> {
    let script = "find . -type f | LC_ALL=C sort | xargs sha256sum";
    let user = if by_ben { &pair.ben } else { &pair.ada };
    user.program("sh").args(["-c", script]).dir(directory).run(BOUND)?.success()
}

/// Bytes of content that the cache says it holds; the disk must agree.
fn held(pair: &Pair<'_>) -> Result<u64> {
    let bytes = pair.ben.json(&["cache", "status"])?["bytes"].as_u64().context("no number")?;
    let du = "du -s --block-size=1 ~/.cache/twinshare/views | cut -f1";
    let used = pair.ben.program("sh").args(["-c", du]).run(BOUND)?.success()?;
    let used: u64 = used.trim().parse()?;
    // What came is written in the background, and directories take some.
    ensure!(used < BUDGET + SLACK && bytes < BUDGET + SLACK, "{used} bytes are used, {bytes} are said to be");
    Ok(bytes)
}

fn story(pair: &mut Pair<'_>) -> Result<()> {
    pair.ben.program("sh").args(["-c", CONFIGURE]).run(BOUND)?.success()?;
    let at = format!("{}/view", pair.ben.home());
    pair.ben.run(&["mount", "project", &at, "--when-gone", "fail"])?;
    let kept = format!("{at}/kept");

    let refused = pair.ben.twinshare(&["pin", &format!("{at}/data")]).run(BOUND)?.failure()?;
    ensure!(refused.contains("it has 41.9 MB") && refused.contains("16.0 MB at most"), "{refused}");
    let said = pair.ben.run(&["pin", &kept, "--wait", "--timeout", "60"])?;
    ensure!(said.contains("is pinned and all here: 3.7 MB"), "{said}");
    let listed = pair.ben.run(&["pin"])?;
    ensure!(listed.contains(&kept) && listed.contains("complete"), "{listed}");

    for number in 0..FILES {
        let file = format!("data/f{number}");
        let read = |user: &str, at: &str| -> Result<String> {
            let user = if user == "ben" { &pair.ben } else { &pair.ada };
            user.program("sha256sum").arg(file.clone()).dir(at).run(BOUND)?.success()
        };
        ensure!(read("ben", &at)? == read("ada", PROJECT)?, "{file} is another one");
        held(pair)?;
    }
    ensure!(held(pair)? > BUDGET / 2, "hardly anything is kept");

    // A pin holds for what the peer makes of it later.
    fs::write(pair.ada.host().path(PROJECT).join("kept/new"), noise(50_000, 7))?;
    wait::until_true("what is new to be pinned", BOUND, || {
        let pins = pair.ben.json(&["pin"])?;
        Ok(pins[0]["files_total"] == 32 && pins[0]["complete"] == true)
    })?;

    // The peer goes, and the process that serves the mount dies: the next one has what is pinned, and knows that.
    let expected = digests(pair, false, &format!("{PROJECT}/kept"))?;
    pair.ada_node.take().context("no node")?.kill();
    for is_new in [false, true] {
        if is_new {
            let process = pair.process()?.context("no process")?;
            pair.ben.host().program("kill").args(["-KILL", &process]).run(BOUND)?.success()?;
        }
        wait::until_true("what is pinned to be read", Duration::from_secs(60), || {
            Ok(digests(pair, true, &kept).is_ok_and(|found| found == expected))
        })
        .with_context(|| format!("in a new process: {is_new}"))?;
    }
    let gone = pair.ben.program("cat").arg(format!("{at}/data/f0")).run(BOUND)?.failure()?;
    ensure!(gone.contains("Input/output error"), "{gone}");
    wait::until_true("the pins to be counted again", Duration::from_secs(60), || {
        Ok(pair.ben.json(&["pin"])?[0]["complete"] == true)
    })?;

    let pruned = pair.ben.run(&["cache", "prune"])?;
    ensure!(pruned.contains("freed"), "{pruned}");
    ensure!(digests(pair, true, &kept)? == expected, "what is pinned was evicted");
    pair.ben.run(&["unpin", &kept])?;
    let again = pair.ben.twinshare(&["unpin", &kept]).run(BOUND)?.failure()?;
    ensure!(again.contains("is not pinned"), "{again}");
    wait::until_true("all to be evicted", Duration::from_secs(60), || {
        pair.ben.run(&["cache", "prune"])?;
        Ok(pair.ben.json(&["cache", "status"])?["bytes"] == 0)
    })?;
    pair.ben.run(&["unmount", &at]).map(drop)
}
