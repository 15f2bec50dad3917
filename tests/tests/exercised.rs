//! Files of a clone are read, written, mapped, cut and punched at random while what is missing of them still comes: they hold what
//! a plain file would, at every moment and after the clone has settled.

use std::fs;

use anyhow::{Context, Result, ensure};
use twinshare_tests::{
    host::Host,
    link::Rate,
    node::Who,
    pair::{BOUND, PROJECT, Pair, pair},
    random::noise,
};

/// Files, each with somebody at work on it.
const FILES: u64 = 6;
/// What they are at first.
const BYTES: usize = 3 << 20;
/// What is done to each, when nobody says how much (`TWINSHARE_OPERATIONS`), beginning with this (`TWINSHARE_SEED`).
const OPERATIONS: u64 = 800;

fn told(variable: &str, otherwise: u64) -> u64 {
    std::env::var(variable).ok().and_then(|said| said.parse().ok()).unwrap_or(otherwise)
}

/// What is in a file at first: every other one has holes, at the edges of blocks and elsewhere.
fn content(number: u64) -> Vec<u8> {
    let mut bytes = noise(BYTES + number as usize * 1001, number);
    if number.is_multiple_of(2) {
        for hole in [64 << 10..192 << 10, 1_000_000..1_300_000, (2 << 20)..(2 << 20) + 4096] {
            bytes[hole].fill(0);
        }
    }
    bytes
}

fn make(host: &Host) -> Result<()> {
    let files = host.path(PROJECT);
    for number in 0..FILES {
        let (at, bytes) = (files.join(format!("file-{number}")), content(number));
        fs::write(files.join("plain"), bytes)?;
        // Its zeros become holes.
        host.program("cp")
            .args(["--sparse=always", &format!("{PROJECT}/plain"), &format!("{PROJECT}/file-{number}")])
            .run(BOUND)?
            .success()?;
        ensure!(at.exists());
    }
    // It keeps the background busy, so that the files stay half here for some seconds.
    Ok(fs::write(files.join("plain"), noise(8 << 20, 99))?)
}

fn truth(pair: &Pair<'_>, number: u64) -> String {
    format!("{}/truth-{number}", pair.ben.home())
}

fn exercised(who: Who) -> Result<()> {
    let (operations, seed) = (told("TWINSHARE_OPERATIONS", OPERATIONS), told("TWINSHARE_SEED", 1));
    pair(Rate::Mbit(30), who, make, |pair| {
        for number in 0..FILES {
            let at = pair.ben.host().path(truth(pair, number));
            fs::write(&at, content(number))?;
            pair.ben.program("test").args(["-r", &truth(pair, number)]).run(BOUND)?.success()?;
            let owner = fs::metadata(pair.ben.host().path(pair.ben.home()))?;
            std::os::unix::fs::chown(&at, Some(std::os::unix::fs::MetadataExt::uid(&owner)), None)?;
        }
        pair.make_clone(&[])?;
        let at_work = (0..FILES).map(|number| {
            let file = format!("{}/file-{number}", pair.clone);
            let (operations, seed) = (operations.to_string(), (seed * FILES + number).to_string());
            let program = env!("CARGO_BIN_EXE_exercise");
            let worker = pair.ben.program(program);
            worker.args([&file, &truth(pair, number), &seed, &operations]).start()
        });
        let at_work = at_work.collect::<Result<Vec<_>>>()?;
        for worker in at_work {
            worker.wait(BOUND)?.success()?;
        }
        pair.settles(BOUND)?;
        for number in 0..FILES {
            let file = format!("{}/file-{number}", pair.clone);
            let same = pair.ben.program("cmp").args([&file, &truth(pair, number)]).run(BOUND)?;
            same.success().with_context(|| format!("file-{number} after settling"))?;
        }
        Ok(())
    })
}

#[test]
fn files_that_come_are_exercised_by_root() -> Result<()> {
    exercised(Who::Root)
}

#[test]
fn files_that_come_are_exercised_by_an_ordinary_user() -> Result<()> {
    exercised(Who::Ordinary)
}
