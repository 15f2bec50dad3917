//! A look at the top of a workspace: its virtual environments, and its links.
//!
//! Bounded in depth and number, because a workspace may hold a million files and somebody waits. What people put
//! links and environments into lies near the top; the snapshot's walk lists every link that leaves the tree anyway.

use std::collections::VecDeque;
use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::Root;

/// Directories below the workspace's own that are looked into.
const DEPTH_MAX: usize = 5;

/// Entries looked at, at most: a tenth of a second on a warm cache.
const ENTRIES_MAX: usize = 50_000;

/// Links remembered at most.
const LINKS_MAX: usize = 5_000;

/// Directories with many entries and nothing to find.
const SKIPPED: [&str; 6] = [".git", ".hg", ".svn", "__pycache__", ".cache", ".tox"];

/// The marker of a Python virtual environment (PEP 405).
pub(super) const VENV_FILE: &str = "pyvenv.cfg";

/// What was seen. All paths are those of the origin.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Scan {
    /// Directories of virtual environments.
    pub(super) venvs: Vec<PathBuf>,
    /// Symbolic links.
    pub(super) links: Vec<PathBuf>,
    /// False when a bound ended the look.
    pub(super) complete: bool,
}

/// Looks at the tree. Directories that cannot be listed are passed over.
pub(super) fn scan(root: &Root) -> Scan {
    let mut scan = Scan { complete: true, ..Scan::default() };
    let mut ahead = VecDeque::from([(PathBuf::new(), 0)]);
    let mut seen = 0;
    while let Some((below, depth)) = ahead.pop_front() {
        let Ok(entries) = list(&root.here.join(&below)) else {
            continue;
        };
        seen += entries.len();
        if seen > ENTRIES_MAX || scan.links.len() > LINKS_MAX {
            scan.complete = false;
            break;
        }
        let is_venv = entries.iter().any(|entry| entry.name() == VENV_FILE);
        if is_venv {
            scan.venvs.push(root.origin.join(&below));
        }
        for entry in entries {
            let path = below.join(entry.name());
            match entry.kind {
                Kind::Link => scan.links.push(root.origin.join(path)),
                Kind::Directory if !is_worthwhile(&below, entry.name(), is_venv) => {}
                Kind::Directory if depth < DEPTH_MAX => ahead.push_back((path, depth + 1)),
                Kind::Directory => scan.complete = false,
                Kind::Other => {}
            }
        }
    }
    scan
}

/// False for directories in which there is nothing to find: of an environment only `bin` is looked at, and of
/// installed packages only whether they are links.
fn is_worthwhile(parent: &Path, name: &OsStr, in_venv: bool) -> bool {
    match parent.file_name() {
        _ if in_venv => name == "bin",
        _ if SKIPPED.iter().any(|skipped| name == *skipped) => false,
        Some(parent) if parent == "node_modules" => name.as_bytes().starts_with(b"@"),
        Some(scope) if scope.as_bytes().starts_with(b"@") => false,
        _ => true,
    }
}

struct Seen {
    path: PathBuf,
    kind: Kind,
}

enum Kind {
    Directory,
    Link,
    Other,
}

impl Seen {
    fn name(&self) -> &OsStr {
        self.path.file_name().unwrap_or_default()
    }
}

/// The entries of a directory by name; no more than can be looked at.
fn list(directory: &Path) -> io::Result<Vec<Seen>> {
    let mut entries = Vec::new();
    for entry in fs::read_dir(directory)?.take(ENTRIES_MAX + 1) {
        let entry = entry?;
        let kind = match entry.file_type()? {
            kind if kind.is_dir() => Kind::Directory,
            kind if kind.is_symlink() => Kind::Link,
            _ => Kind::Other,
        };
        entries.push(Seen { path: entry.path(), kind });
    }
    entries.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(entries)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn the_top_is_looked_at_and_the_rest_left() {
        let base = tempfile::tempdir().unwrap();
        let here = base.path();
        for directory in [
            "a/.venv/bin",
            "a/.venv/lib/python3.11/site-packages",
            "node_modules/@scope/plain",
            "node_modules/pkg/deep",
            ".git",
            "1/2/3/4/5/6/7",
        ] {
            fs::create_dir_all(here.join(directory)).unwrap();
        }
        fs::write(here.join("a/.venv/pyvenv.cfg"), "").unwrap();
        for link in [
            "l",
            "a/.venv/bin/python",
            "a/.venv/lib/hidden",
            "node_modules/linked",
            "node_modules/@scope/linked",
            "node_modules/pkg/hidden",
            "node_modules/@scope/plain/hidden",
            ".git/hidden",
            "1/2/3/4/5/l",
            "1/2/3/4/5/6/hidden",
        ] {
            symlink("/x", here.join(link)).unwrap();
        }
        let found = scan(&Root { origin: "/w".into(), here: here.into() });
        assert_eq!(found.venvs, [PathBuf::from("/w/a/.venv")]);
        let links = [
            "/w/l",
            "/w/node_modules/linked",
            "/w/node_modules/@scope/linked",
            "/w/a/.venv/bin/python",
            "/w/1/2/3/4/5/l",
        ];
        assert_eq!(found.links, links.map(PathBuf::from));
        assert!(!found.complete);
    }
}
