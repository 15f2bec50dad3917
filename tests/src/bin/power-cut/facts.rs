//! What is said to be durable, and the tree it is about.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail};
use twinshare_tests::random::noise;

/// Where the clone lies on its disk, and what is kept of it.
pub(crate) const CLONE: &str = "clone";
pub(crate) const KEPT: &str = "kept";

/// Files of each kind.
pub(crate) const FILES: u64 = 24;

/// Files that are written to in place, and bytes of a place.
pub(crate) const EDITED: u64 = 3;
pub(crate) const SLOT: u64 = 4096;
pub(crate) const SLOTS: u64 = 200;

/// Bytes of the files that are cut, before and after.
pub(crate) const LONG: u64 = 150_000;
pub(crate) const SHORT: u64 = 70_000;

/// What has been said, up to one moment.
#[derive(Debug, Default)]
pub(crate) struct Facts {
    /// The clone is there.
    pub(crate) began: bool,
    /// The newest version of a place of a file.
    pub(crate) slots: BTreeMap<(u64, u64), u64>,
    pub(crate) made: BTreeSet<u64>,
    pub(crate) moved: BTreeSet<u64>,
    pub(crate) removed: BTreeSet<u64>,
    pub(crate) cut: BTreeSet<u64>,
}

impl Facts {
    pub(crate) fn read(log: &str) -> Result<Self> {
        let mut facts = Self::default();
        for line in log.lines() {
            let mut words = line.split(' ');
            let what = words.next().unwrap_or_default();
            let numbers = words.map(str::parse).collect::<Result<Vec<u64>, _>>()?;
            match (what, &numbers[..]) {
                ("began", []) => facts.began = true,
                ("slot", [file, slot, version]) => drop(facts.slots.insert((*file, *slot), *version)),
                ("made", [number]) => drop(facts.made.insert(*number)),
                ("moved", [number]) => drop(facts.moved.insert(*number)),
                ("removed", [number]) => drop(facts.removed.insert(*number)),
                ("cut", [number]) => drop(facts.cut.insert(*number)),
                ("hydrated" | "finished" | "settled", []) => {}
                _ => bail!("what is `{line}`?"),
            }
        }
        Ok(facts)
    }
}

/// The bytes of one version of a place.
pub(crate) fn slot(file: u64, slot: u64, version: u64) -> Vec<u8> {
    let line = format!("{file} {slot} {version}\n");
    line.bytes().cycle().take(SLOT as usize).collect()
}

/// The version in the bytes of a place, if it is one.
pub(crate) fn version_of(file: u64, at: u64, bytes: &[u8]) -> Option<u64> {
    let line = bytes.split(|byte| *byte == b'\n').next()?;
    let version = std::str::from_utf8(line).ok()?.rsplit(' ').next()?.parse().ok()?;
    (slot(file, at, version) == bytes).then_some(version)
}

/// The content of a file that is made.
pub(crate) fn made(number: u64) -> Vec<u8> {
    noise((number * 977 % 90_000) as usize, number)
}

/// Makes the tree that is cloned.
pub(crate) fn make_tree(at: &Path) -> Result<()> {
    let mut files = Vec::new();
    for number in 0..FILES {
        files.push((format!("keep/deep/k{number}"), (number * 13_007 % 200_000) as usize));
        files.push((format!("move/m{number}"), (number * 9_001 % 150_000) as usize));
        files.push((format!("gone/g{number}"), 20_000));
        files.push((format!("cut/c{number}"), LONG as usize));
    }
    files.extend((0..EDITED).map(|number| (format!("edit/e{number}"), (SLOT * SLOTS) as usize)));
    files.push(("keep/large".into(), 6 << 20));
    files.push(("new/first".into(), 10));
    files.push(("moved/first".into(), 10));
    for (number, (name, bytes)) in files.into_iter().enumerate() {
        let path = at.join(&name);
        fs::create_dir_all(path.parent().context("no parent")?)?;
        fs::write(&path, noise(bytes, number as u64 + 1000))?;
    }
    fs::hard_link(at.join("keep/large"), at.join("keep/deep/again"))?;
    Ok(std::os::unix::fs::symlink("deep/k1", at.join("keep/link"))?)
}
