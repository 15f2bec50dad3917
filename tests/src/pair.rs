//! Two machines, each with a node: one shares a workspace, the other makes a clone of it.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rustix::process::Pid;
use serde_json::Value;
use twinshare_fs::git;

use crate::host::{Disk, Host, ORDINARY};
use crate::link::{Link, Rate};
use crate::node::{User, Who};
use crate::program::Running;
use crate::substitution::{self, Facts};
use crate::tree::{Entry, Kind, Tree, as_owner_sees};
use crate::wait;

/// For anything that has to happen at all.
pub const BOUND: Duration = Duration::from_secs(120);

/// Where the workspace is on the machine that has it.
pub const PROJECT: &str = "/home/project";

/// Two machines; Ada shares a workspace, Ben clones it.
pub struct Pair<'hosts> {
    /// Who shares, as root.
    pub ada: User<'hosts>,
    /// Who clones.
    pub ben: User<'hosts>,
    /// The cable between the two machines.
    pub link: &'hosts Link,
    /// The directory of the clone.
    pub clone: String,
    /// The workspace as it was when it was shared.
    pub origin: Tree,
    /// Ada's node.
    pub ada_node: Option<Running>,
    /// Ben's.
    pub ben_node: Option<Running>,
}

/// Shares what `make` makes in [`PROJECT`] with everybody, and has `act` go on once it is seen on the other machine, where
/// `who` is Ben.
///
/// # Errors
/// What went wrong, with both nodes' logs.
pub fn pair(
    rate: Rate,
    who: Who,
    make: impl FnOnce(&Host) -> Result<()>,
    act: impl FnOnce(&mut Pair<'_>) -> Result<()>,
) -> Result<()> {
    let (ada, ben) = (Host::new("ada", Disk::Ext4)?, Host::new("ben", Disk::Ext4)?);
    let link = Link::between(&ada, &ben, 1, rate)?;
    fs::create_dir_all(ada.path(PROJECT))?;
    make(&ada)?;
    let (ada, ben) = (User::new(&ada, Who::Root), User::new(&ben, who));
    let told = (|| {
        let (ada_node, ben_node) = (Some(ada.foreground()?), Some(ben.foreground()?));
        ada.run(&["workspace", "create", PROJECT, "--name", "project"])?;
        ada.run(&["workspace", "share", "project", "--open"])?;
        wait::until_true("the workspace to be listed", BOUND, || {
            Ok(ben.run(&["workspace", "list", "--remote"])?.contains("project"))
        })?;
        let clone = format!("{}/there", ben.home());
        let origin = ada.host().observe(PROJECT, false)?;
        act(&mut Pair { ada, ben, link: &link, clone, origin, ada_node, ben_node })
    })();
    told.with_context(|| format!("on ada:\n{}\non ben:\n{}", ada.log(), ben.log()))
}

impl Pair<'_> {
    /// Makes the clone.
    ///
    /// # Errors
    /// When a command fails.
    pub fn make_clone(&self, options: &[&str]) -> Result<()> {
        self.ben.run(&[&["workspace", "clone", "project", &self.clone][..], options].concat()).map(drop)
    }

    /// What `workspace status` says of it.
    ///
    /// # Errors
    /// When a command fails.
    pub fn status(&self) -> Result<Value> {
        self.ben.json(&["workspace", "status", &self.clone])
    }

    /// Whether that is its state.
    ///
    /// # Errors
    /// When a command fails.
    pub fn is(&self, state: &str) -> Result<bool> {
        Ok(self.status()?["state"] == *state)
    }

    /// Waits until it is an ordinary directory.
    ///
    /// # Errors
    /// When a command fails.
    pub fn settles(&self, within: Duration) -> Result<()> {
        wait::until_true("the clone to settle", within, || self.is("settled"))
            .with_context(|| format!("{:?}", self.status()))
    }

    /// How far it is on its way there.
    ///
    /// # Errors
    /// When a command fails.
    pub fn stage(&self) -> Result<String> {
        Ok(self.status()?["settling"]["stage"].as_str().unwrap_or_default().to_owned())
    }

    /// Whether it is mounted.
    ///
    /// # Errors
    /// When a command fails.
    pub fn is_mounted(&self) -> Result<bool> {
        let table = self.ben.host().program("cat").arg("/proc/self/mountinfo").run(BOUND)?.success()?;
        Ok(table.lines().any(|line| line.split(' ').nth(4) == Some(&self.clone)))
    }

    /// The clone's process, where one runs: the elder of it and its mount helper.
    pub fn process(&self) -> Result<Option<String>> {
        let found = self.ben.host().program("pgrep").args(["-o", "-f", "twinshare replica "]).run(BOUND)?;
        Ok(String::from_utf8(found.stdout)?.split_whitespace().next().map(str::to_owned))
    }

    /// The clone's process as it is called outside of the machine, where a signal takes microseconds: its last steps take
    /// some milliseconds.
    pub fn process_from_outside(&self) -> Result<Option<Pid>> {
        let listed = self.ben.json(&["workspace", "list"])?;
        let clones = listed["clones"].as_array().context("no clones")?;
        let clone = clones.iter().find(|clone| clone["directory"] == *self.clone).context("no clone")?;
        let line = format!("twinshare\0replica\0{}\0", clone["id"].as_str().context("no id")?);
        let all = fs::read_dir("/proc")?.flatten();
        let numbers = all.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
        let is_it = |number: &i32| {
            fs::read(format!("/proc/{number}/cmdline")).is_ok_and(|found| found == line.as_bytes())
        };
        // The elder of it and its mount helper.
        Ok(numbers.filter(is_it).min().and_then(Pid::from_raw))
    }

    /// Where the node keeps what it knows of its replicas, from outside of the machine.
    pub fn marks(&self) -> Result<Vec<PathBuf>> {
        let replicas = format!("{}/.local/state/twinshare/replicas", self.ben.home());
        let replicas = fs::read_dir(self.ben.host().path(replicas))?.flatten();
        Ok(replicas.map(|replica| replica.path().join("settled.json")).filter(|mark| mark.exists()).collect())
    }

    /// It is the origin's tree, and nothing of ours.
    pub fn is_ordinary(&self, who: Who) -> Result<()> {
        ensure!(!self.is_mounted()?, "it is still mounted");
        let found = self.ben.host().observe(&self.clone, who == Who::Ordinary)?;
        let mut git_configs = BTreeMap::new();
        for path in substitution::git_configs(&self.origin) {
            let text = fs::read(self.ada.host().path(PROJECT).join(path))?;
            git_configs.insert(path.clone(), git::shown_config(&text));
        }
        let owner = if who == Who::Root { (0, 0) } else { (ORDINARY.1, ORDINARY.1) };
        let expected = substitution::expected(&self.origin, &Facts { owner, git_configs }, None);
        let expected = if who == Who::Ordinary { as_owner_sees(&expected) } else { expected };
        let names = |tree: &Tree| tree.keys().cloned().collect::<Vec<_>>();
        let extra: Vec<_> = found.keys().filter(|name| !expected.contains_key(*name)).collect();
        let missing: Vec<_> = expected.keys().filter(|name| !found.contains_key(*name)).collect();
        ensure!(names(&found) == names(&expected), "extra {extra:?}, missing {missing:?}");
        for (name, entry) in &expected {
            let (wanted, there) = (facts(entry), facts(&found[name]));
            ensure!(wanted == there, "{name} should be {wanted}, and is {there}");
        }
        Ok(())
    }
}

/// What an ordinary directory and its origin have in common: not what describes inodes of one disk.
fn facts(entry: &Entry) -> String {
    let Entry { kind, mode, nlink, owner, size, mtime, first_name, target, xattrs, content, .. } = entry;
    let size = (*kind != Kind::Directory).then_some(size);
    let nlink = (*kind == Kind::File).then_some(nlink);
    format!(
        "{kind:?} {mode:o} {nlink:?} {owner:?} {size:?} {mtime:?} {first_name} {target:?} {xattrs:?} {content:?}"
    )
}
