//! A tree full of oddities, compared entry by entry: what the origin's user sees against what a mount shows, allowing exactly
//! the substitutions that `docs/semantics.md` lists.

use std::{collections::BTreeSet, fs, path::Path, time::Duration};

use anyhow::{Result, ensure};
use twinshare_tests::{
    host::{Disk, Host},
    oddities, substitution,
};

const BOUND: Duration = Duration::from_secs(60);

#[test]
fn the_page_and_the_rules_have_the_same_substitutions() -> Result<()> {
    let page = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/semantics.md"))?;
    let rules: BTreeSet<String> = substitution::keys().map(str::to_owned).collect();
    ensure!(
        substitution::documented(&page)? == rules,
        "{:?} and {rules:?}",
        substitution::documented(&page)?
    );
    Ok(())
}

/// The comparer itself: a faithful copy differs in nothing but what a copy cannot keep, and each thing a careless copy loses
/// is noticed.
#[test]
fn a_faithful_copy_is_like_the_original_and_a_careless_one_is_not() -> Result<()> {
    let host = Host::new("ada", Disk::Ext4)?;
    fs::create_dir_all(host.path("/srv/tree"))?;
    fs::create_dir_all(host.path("/srv/beside"))?;
    oddities::build(&host.path("/srv/tree"), &host.path("/srv/beside"))?;
    let original = host.observe("/srv/tree", false)?;
    ensure!(original.len() > 3150, "{}", original.len());

    // GNU cp stops at PATH_MAX.
    fs::rename(host.path("/srv/tree/depth"), host.path("/srv/depth"))?;
    let original = host.observe("/srv/tree", false)?;
    host.program("cp").args(["-a", "--sparse=always", "/srv/tree", "/srv/faithful"]).run(BOUND)?.success()?;
    let faithful = host.observe("/srv/faithful", false)?;
    let found: Vec<_> = substitution::differences(&original, &faithful)
        .into_iter()
        .filter(|line| {
            ![": ctime", ": atime", ": inode", ": blocks"].iter().any(|field| line.contains(field))
        })
        .filter(|line| !line.starts_with("\"holes/") && !line.starts_with("\"sizes/zeros"))
        .filter(|line| !line.contains("shared-with-outside") && !line.contains(": size should be"))
        .collect();
    ensure!(found.is_empty(), "{}", found.join("\n"));

    host.program("cp").args(["-r", "/srv/tree/times", "/srv/careless"]).run(BOUND)?.success()?;
    let times = host.observe("/srv/tree/times", false)?;
    let careless = substitution::differences(&times, &host.observe("/srv/careless", false)?);
    ensure!(careless.iter().any(|line| line.contains("mtime should be (-1, 999999999)")), "{careless:?}");
    Ok(())
}
