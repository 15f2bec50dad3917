//! A workspace that its owner goes on working in while a colleague's clone of it fills: the clone ends as one that has each
//! file in one version, and what was changed on both sides is decided by somebody.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use twinshare_tests::{
    host::Host,
    link::Rate,
    node::Who,
    pair::{BOUND, PROJECT, Pair, pair},
    random::noise,
    wait,
};

/// Bytes of each file that changes: more than is fetched with its first block.
const BYTES: usize = 1 << 20;

/// Bytes of the file that is fetched first, which leaves time to change the others.
const FIRST_BYTES: usize = 24 << 20;

/// What the owner changes while the clone fills.
const CHANGES: &str = r"set -e
head -c 3000000 /dev/urandom > new && mv new replaced
printf x >> grown
rm gone
mv dir moved
head -c 2000000 /dev/urandom > new && mv new mine
head -c 2000000 /dev/urandom > new && mv new theirs
";

fn files(host: &Host) -> Result<()> {
    let at = |name: &str| host.path(PROJECT).join(name);
    fs::create_dir_all(at("dir/deeper"))?;
    fs::write(at("a-first"), noise(FIRST_BYTES, 1))?;
    for (number, name) in
        ["replaced", "grown", "gone", "mine", "theirs", "dir/f", "dir/deeper/g"].iter().enumerate()
    {
        fs::write(at(name), noise(BYTES, number as u64 + 2))?;
    }
    Ok(())
}

#[test]
fn a_clone_of_what_changes_has_each_file_in_one_version() -> Result<()> {
    pair(Rate::Mbit(30), Who::Root, files, story)
}

fn story(pair: &mut Pair<'_>) -> Result<()> {
    pair.make_clone(&[])?;
    pair.ada.program("sh").args(["-c", CHANGES]).dir(PROJECT).run(BOUND)?.success()?;
    // A whole block, for which nothing is fetched.
    for name in ["mine", "theirs"] {
        let write = format!("dd if=/dev/zero of={}/{name} bs=65536 count=1 conv=notrunc", pair.clone);
        pair.ben.program("sh").args(["-c", &write]).run(BOUND)?.success()?;
    }
    let total = |status: &Value, list: &str| status["changed"][list]["total"].as_u64().unwrap_or(0);
    wait::until_true("what can be taken anew to be", BOUND, || {
        let status = pair.status()?;
        Ok(["taken_anew", "removed", "conflicts"].map(|list| total(&status, list)) == [2, 1, 2])
    })
    .with_context(|| format!("{:?}", pair.status()))?;
    ensure!(pair.is_mounted()? && pair.stage()? == "hydrating");
    let said = pair.ben.run(&["workspace", "status", &pair.clone])?;
    for part in [
        "conflict       2 files",
        "\n                 mine\n",
        "taken anew     2 files",
        "removed        1 file",
    ] {
        ensure!(said.contains(part), "{part:?} is not in {said}");
    }
    let missing = format!("tail -c 10 {}/mine", pair.clone);
    let missing = pair.ben.program("sh").args(["-c", &missing]).run(BOUND)?.failure()?;
    ensure!(missing.contains("Stale file handle"), "{missing}");

    let [mine, theirs] = ["mine", "theirs"].map(|name| format!("{}/{name}", pair.clone));
    let refused = pair.ben.twinshare(&["workspace", "resolve", "--mine", &mine]).run(BOUND)?.failure()?;
    ensure!(
        refused.contains("983 kB that never came become zeros") && refused.contains("--yes"),
        "{refused}"
    );
    let said = pair.ben.run(&["workspace", "resolve", "--mine", "--yes", &mine])?;
    ensure!(said.contains("is kept as it is here"), "{said}");
    pair.ben.run(&["workspace", "resolve", "--theirs", "--yes", &theirs])?;
    pair.settles(BOUND)?;

    let sum = |user: &str, path: String| -> Result<String> {
        let user = if user == "ada" { &pair.ada } else { &pair.ben };
        let sum = user.program("sha256sum").arg(path).run(BOUND)?.success()?;
        Ok(sum.split(' ').next().unwrap_or_default().to_owned())
    };
    for (here, there) in [
        ("a-first", "a-first"),
        ("replaced", "replaced"),
        ("grown", "grown"),
        ("theirs", "theirs"),
        ("dir/f", "moved/f"),
        ("dir/deeper/g", "moved/deeper/g"),
    ] {
        let (found, expected) =
            (sum("ben", format!("{}/{here}", pair.clone))?, sum("ada", format!("{PROJECT}/{there}"))?);
        ensure!(found == expected, "{here} is another one");
    }
    ensure!(fs::read(pair.ben.host().path(&mine))? == vec![0; BYTES]);
    ensure!(!pair.ben.host().path(format!("{}/gone", pair.clone)).exists());
    let status = pair.status()?;
    let lists = ["taken_anew", "removed", "conflicts", "kept"].map(|list| total(&status, list));
    ensure!(lists == [3, 1, 0, 1], "after it has settled: {status}");
    wait::until_true("its process to end", Duration::from_secs(20), || Ok(pair.process()?.is_none()))
}
