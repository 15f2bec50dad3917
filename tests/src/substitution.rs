//! What a mount may show differently from the origin: the table of `docs/semantics.md`, each row as a rule that turns what
//! the origin's user sees into what the mount has to show.
//!
//! The rows are read from the page (`` | `key` | what | why | ``) and the rules are here under the same keys, so a row without a
//! rule or a rule without a row is an error, and [`expected`] applies exactly what the page promises and nothing else.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Result, ensure};

use crate::tree::{Entry, Kind, Tree};

/// Who looks at the mount, and what of the origin's tree needs knowledge that the tree itself does not give.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    /// The user and group for whom the replica runs.
    pub owner: (u32, u32),
    /// Quoted path → what is shown in place of this git configuration.
    pub git_configs: BTreeMap<String, Vec<u8>>,
}

type Rule = fn(&mut Tree, &Facts);

/// Every substitution, in the order of the page. Those that remove entries come before those that count them.
const RULES: &[(&str, Rule)] = &[
    ("owner", owner),
    ("set-id", set_id),
    ("special-file", special_file),
    ("other-filesystem", other_filesystem),
    ("acl", acl),
    ("ctime-atime", ctime_atime),
    ("inode", inode),
    ("git-config", git_config),
    ("git-hook", git_hook),
    ("directory-size", directory_size),
    ("blocks", blocks),
    ("links-outside", links_outside),
    ("symlink-links", symlink_links),
];

/// The keys of all rules.
pub fn keys() -> impl Iterator<Item = &'static str> {
    RULES.iter().map(|(key, _)| *key)
}

/// The keys of the page's table.
///
/// # Errors
/// When a key stands there twice.
pub fn documented(page: &str) -> Result<BTreeSet<String>> {
    let mut keys = BTreeSet::new();
    let table = page.lines().skip_while(|line| !line.starts_with("| substitution |")).skip(2);
    for line in table.take_while(|line| line.starts_with('|')) {
        let key = line.trim_start_matches("| `").split('`').next().unwrap_or_default();
        ensure!(keys.insert(key.to_owned()), "the substitution {key} stands there twice");
    }
    Ok(keys)
}

/// What the mount has to show of `origin`, with every substitution but `without` applied.
pub fn expected(origin: &Tree, facts: &Facts, without: Option<&str>) -> Tree {
    let mut tree = origin.clone();
    for (key, rule) in RULES {
        if without != Some(key) {
            rule(&mut tree, facts);
        }
    }
    tree
}

/// Every difference between two trees, one a line.
pub fn differences(expected: &Tree, shown: &Tree) -> Vec<String> {
    let paths: BTreeSet<&String> = expected.keys().chain(shown.keys()).collect();
    let mut found = Vec::new();
    for path in paths {
        match (expected.get(path), shown.get(path)) {
            (Some(_), None) => found.push(format!("{path:?} is missing")),
            (None, Some(_)) => found.push(format!("{path:?} should not be there")),
            (Some(expected), Some(shown)) => found.extend(fields(path, expected, shown)),
            (None, None) => {}
        }
    }
    found
}

fn fields(path: &str, expected: &Entry, shown: &Entry) -> Vec<String> {
    let mut found = Vec::new();
    let mut compare = |field: &str, expected: String, shown: String| {
        if expected != shown {
            found.push(format!("{path:?}: {field} should be {}, is {}", brief(&expected), brief(&shown)));
        }
    };
    macro_rules! compare_each {
        ($($field:ident),*) => { $( compare(stringify!($field), format!("{:?}", expected.$field), format!("{:?}", shown.$field)); )* };
    }
    compare_each!(
        kind, mode, nlink, owner, size, blocks, mtime, atime, ctime, first_name, target, xattrs, data,
        content, listing
    );
    if expected.inode != (0, 0) {
        compare("inode", format!("{:?}", expected.inode), format!("{:?}", shown.inode));
    }
    found
}

fn brief(value: &str) -> String {
    const SHOWN: usize = 200;
    match value.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{}…", &value[..end]),
        None => value.to_owned(),
    }
}

fn owner(tree: &mut Tree, facts: &Facts) {
    tree.values_mut().for_each(|entry| entry.owner = facts.owner);
}

fn set_id(tree: &mut Tree, _: &Facts) {
    tree.values_mut().for_each(|entry| entry.mode &= !0o6000);
}

fn special_file(tree: &mut Tree, _: &Facts) {
    tree.retain(|_, entry| matches!(entry.kind, Kind::File | Kind::Directory | Kind::Symlink));
}

fn other_filesystem(tree: &mut Tree, _: &Facts) {
    let Some(home) = tree.get("").map(|root| root.inode.0) else { return };
    let foreign: Vec<String> =
        tree.iter().filter(|(_, entry)| entry.inode.0 != home).map(|(path, _)| format!("{path}/")).collect();
    tree.retain(|path, _| !foreign.iter().any(|above| path.starts_with(above.as_str())));
}

fn acl(tree: &mut Tree, _: &Facts) {
    for entry in tree.values_mut() {
        if let Ok(xattrs) = &mut entry.xattrs {
            xattrs.retain(|name, _| name.starts_with("user."));
        }
    }
}

fn ctime_atime(tree: &mut Tree, _: &Facts) {
    for entry in tree.values_mut() {
        (entry.atime, entry.ctime) = (entry.mtime, entry.mtime);
    }
}

fn symlink_links(tree: &mut Tree, _: &Facts) {
    for (path, entry) in tree.iter_mut().filter(|(_, entry)| entry.kind == Kind::Symlink) {
        (entry.nlink, entry.first_name) = (1, path.clone());
    }
}

/// Inode numbers are not compared any more; which names share one still is, by [`Entry::first_name`].
fn inode(tree: &mut Tree, _: &Facts) {
    tree.values_mut().for_each(|entry| entry.inode = (0, 0));
}

fn git_config(tree: &mut Tree, facts: &Facts) {
    for (path, bytes) in &facts.git_configs {
        let Some(entry) = tree.get_mut(path) else { continue };
        let size = bytes.len() as u64;
        entry.size = size;
        entry.data = Some(Ok(if size == 0 { Vec::new() } else { vec![(0, size)] }));
        entry.content = Some(Ok(blake3::hash(bytes).to_hex().to_string()));
    }
}

fn git_hook(tree: &mut Tree, _: &Facts) {
    let hooks: Vec<String> = tree
        .iter()
        .filter(|(path, entry)| entry.kind == Kind::File && is_hook(tree, path))
        .map(|(path, _)| path.clone())
        .collect();
    for path in hooks {
        if let Some(entry) = tree.get_mut(&path) {
            entry.mode &= !0o111;
        }
    }
}

fn is_hook(tree: &Tree, path: &str) -> bool {
    let parent = path.rsplit_once('/').and_then(|(parent, _)| parent.rsplit_once('/'));
    parent.is_some_and(|(repository, name)| name == "hooks" && is_repository(tree, repository))
}

/// What git takes for a repository: a directory called `.git`, or one that holds `objects` and `refs`.
fn is_repository(tree: &Tree, path: &str) -> bool {
    let holds = |name: &str| tree.contains_key(&format!("{path}/{name}"));
    path == ".git" || path.ends_with("/.git") || (holds("objects") && holds("refs"))
}

/// The quoted paths of all git configurations in a tree.
pub fn git_configs(tree: &Tree) -> impl Iterator<Item = &String> {
    let is_config = |path: &str| {
        let (parent, name) = path.rsplit_once('/').unwrap_or(("", path));
        name == "config.worktree" || (name == "config" && is_repository(tree, parent))
    };
    tree.iter().filter(move |(path, entry)| entry.kind == Kind::File && is_config(path)).map(|(path, _)| path)
}

fn directory_size(tree: &mut Tree, _: &Facts) {
    let mut below: BTreeMap<String, u64> = BTreeMap::new();
    for (path, entry) in tree.iter() {
        if entry.kind == Kind::Directory && !path.is_empty() {
            let parent = path.rsplit_once('/').map_or("", |(parent, _)| parent);
            *below.entry(parent.to_owned()).or_default() += 1;
        }
    }
    for (path, entry) in tree.iter_mut().filter(|(_, entry)| entry.kind == Kind::Directory) {
        entry.size = 0;
        entry.nlink = 2 + below.get(path).copied().unwrap_or(0);
    }
}

/// Pages of 4 KiB that hold data, in units of 512 bytes; nothing for what is not a regular file.
fn blocks(tree: &mut Tree, _: &Facts) {
    const PAGE: u64 = 4096;
    for entry in tree.values_mut() {
        let pages = match &entry.data {
            Some(Ok(runs)) => runs.iter().map(|(start, end)| end.div_ceil(PAGE) - start / PAGE).sum(),
            _ => 0,
        };
        entry.blocks = pages * (PAGE / 512);
    }
}

fn links_outside(tree: &mut Tree, _: &Facts) {
    let mut names: BTreeMap<String, u64> = BTreeMap::new();
    for entry in tree.values().filter(|entry| entry.kind != Kind::Directory) {
        *names.entry(entry.first_name.clone()).or_default() += 1;
    }
    for entry in tree.values_mut().filter(|entry| entry.kind != Kind::Directory) {
        entry.nlink = names.get(&entry.first_name).copied().unwrap_or(1);
    }
}
