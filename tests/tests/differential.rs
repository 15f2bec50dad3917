//! A tree full of oddities, compared entry by entry: what the origin's user sees against what a mount shows, allowing exactly
//! the substitutions that `docs/semantics.md` lists.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use twinshare_fs::git;
use twinshare_tests::{
    host::{Disk, Host, ORDINARY},
    link::{Link, Rate},
    node::{User, Who},
    oddities,
    substitution::{self, Facts},
    tree::{self, Tree},
    wait,
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

const TREE: &str = "/home/tree";
const MOUNT: &str = "/tmp/mount";

/// A repository whose configuration and hooks want to run programs, one inside another, a bare one, and a second work tree.
const REPOSITORIES: &str = r#"
export GIT_CONFIG_NOSYSTEM=1 GIT_AUTHOR_NAME=a GIT_AUTHOR_EMAIL=a@b GIT_COMMITTER_NAME=a GIT_COMMITTER_EMAIL=a@b
git init -q -b main repo
cd repo
echo tracked >file
git add file
git commit -qm first
git config core.fsmonitor "touch /tmp/owned"
git config core.sshCommand "touch /tmp/owned"
git config alias.x "!touch /tmp/owned"
git config remote.origin.url https://user:password@example.org/repo.git
printf '#!/bin/sh\ntouch /tmp/owned\n' >.git/hooks/post-checkout
chmod 755 .git/hooks/post-checkout
git worktree add -q ../second
git init -q -b main inner
cd ..
git init -q --bare bare
"#;

/// Ada's side: the oddities, repositories, and a foreign filesystem.
fn prepare(ada: &Host) -> Result<()> {
    fs::create_dir_all(ada.path(TREE))?;
    fs::create_dir_all(ada.path("/home/beside"))?;
    oddities::build(&ada.path(TREE), &ada.path("/home/beside"))?;
    ada.program("sh").args(["-ec", REPOSITORIES]).dir(TREE).run(BOUND)?.success()?;
    let foreign = "mkdir mounted && echo below >mounted/below && mount -t tmpfs none mounted && echo above >mounted/above";
    ada.program("sh").args(["-ec", foreign]).dir(TREE).run(BOUND)?.success().map(drop)
}

fn facts(ada: &Host, origin: &Tree, who: Who) -> Result<Facts> {
    let mut git_configs = BTreeMap::new();
    for path in substitution::git_configs(origin) {
        git_configs.insert(path.clone(), git::shown_config(&fs::read(ada.path(TREE).join(path))?));
    }
    ensure!(git_configs.len() >= 3, "{:?}", git_configs.keys());
    let owner = if who == Who::Root { (0, 0) } else { (ORDINARY.1, ORDINARY.1) };
    Ok(Facts { owner, git_configs })
}

fn compare(who: Who) -> Result<()> {
    let (ada, ben) = (Host::new("ada", Disk::Ext4)?, Host::new("ben", Disk::Ext4)?);
    let _link = Link::between(&ada, &ben, 1, Rate::Unlimited)?;
    prepare(&ada)?;
    let (a, b) = (User::new(&ada, Who::Root), User::new(&ben, who));
    a.start()?;
    b.start()?;
    let told = show(&a, &b).and_then(|()| judge(&ada, &ben, who));
    told.with_context(|| format!("on ada:\n{}\non ben:\n{}", a.log(), b.log()))
}

fn show(a: &User<'_>, b: &User<'_>) -> Result<()> {
    a.run(&["workspace", "create", TREE, "--name", "tree"])?;
    a.run(&["workspace", "share", "tree", "--open"])?;
    wait::until_true("the workspace to be listed", BOUND, || {
        Ok(b.run(&["workspace", "list", "--remote"])?.contains("tree"))
    })?;
    b.run(&["mount", "tree", MOUNT]).map(drop)
}

fn judge(ada: &Host, ben: &Host, who: Who) -> Result<()> {
    let origin = ada.observe(TREE, false)?;
    let facts = facts(ada, &origin, who)?;
    let shown = ben.observe(MOUNT, who == Who::Ordinary)?;
    let wanted = |without: Option<&str>| {
        let expected = substitution::expected(&origin, &facts, without);
        if who == Who::Ordinary { tree::as_owner_sees(&expected) } else { expected }
    };
    let found = substitution::differences(&wanted(None), &shown);
    let shown_first: Vec<_> = found.iter().take(60).map(String::as_str).collect();
    ensure!(found.is_empty(), "{} differences:\n{}", found.len(), shown_first.join("\n"));
    // And each substitution is really there: without it, something would differ.
    for key in substitution::keys() {
        let unneeded = substitution::differences(&wanted(Some(key)), &shown).is_empty();
        ensure!(!unneeded, "nothing in the tree needs the substitution {key}");
    }
    archives_agree(ada, ben, who)
}

/// Holes as a program meets them: GNU tar stores as little of the sparse files from the mount as from the origin.
fn archives_agree(ada: &Host, ben: &Host, who: Who) -> Result<()> {
    let archive = |host: &Host, dir: &str| {
        let script = format!("tar --sparse --create --file - --directory {dir}/holes . | wc --bytes");
        let program = host.program("sh").args(["-c", &script]);
        if who == Who::Ordinary { program.ordinary() } else { program }.run(BOUND)?.success()
    };
    let (origin, shown) = (archive(ada, TREE)?, archive(ben, MOUNT)?);
    ensure!(
        origin == shown,
        "tar -S makes {} bytes at the origin and {} through the mount",
        origin.trim(),
        shown.trim()
    );
    Ok(())
}

#[test]
fn a_mount_shows_what_the_origin_has_as_root() -> Result<()> {
    compare(Who::Root)
}

#[test]
fn a_mount_shows_what_the_origin_has_as_an_ordinary_user() -> Result<()> {
    compare(Who::Ordinary)
}
