//! Where in a tree environments and links lie.

use std::collections::VecDeque;

use rustix::fs::FileType;

use super::tree::{Tree, join};

/// Directories below the top that are looked into.
const DEPTH_MAX: usize = 24;

/// Names looked at, at most: a second or two.
const NAMES_MAX: usize = 1_000_000;

/// Links that lead to absolute paths, at most.
const LINKS_MAX: usize = 10_000;

/// Directories with many names, and nothing that refers to where it lies.
const SKIPPED: [&str; 6] = [".git", ".hg", ".svn", "__pycache__", ".cache", "node_modules"];

/// The environments below a conda installation's own.
const CONDA_ENVIRONMENTS: &str = "envs";

/// What was found.
#[derive(Debug, Default)]
pub(super) struct Found {
    pub(super) environments: Vec<Environment>,
    /// Links outside of environments that lead to absolute paths, with where.
    pub(super) links: Vec<(String, String)>,
    /// False when a bound ended the look.
    pub(super) complete: bool,
}

/// A directory with `bin` and `lib`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Environment {
    pub(super) path: String,
    pub(super) kind: EnvironmentKind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum EnvironmentKind {
    /// Of venv, virtualenv or uv.
    Virtual,
    Conda,
    /// A Python installation.
    Python,
}

/// Looks at the whole tree, no further than the bounds.
pub(super) fn find(tree: &Tree) -> Found {
    let mut found = Found { complete: true, ..Found::default() };
    let mut ahead = VecDeque::from([(String::new(), 0)]);
    let mut seen = 0;
    while let Some((path, depth)) = ahead.pop_front() {
        let names = tree.list(&path);
        seen += names.len();
        if seen > NAMES_MAX || found.links.len() > LINKS_MAX {
            found.complete = false;
            break;
        }
        let kind = environment(tree, &path, &names);
        if let Some(kind) = kind {
            found.environments.push(Environment { path: path.clone(), kind });
        }
        for (name, is) in names {
            let below = join(&path, &name);
            match is {
                FileType::Symlink if kind.is_none() => {
                    let target = tree.target(&below).filter(|target| target.starts_with('/'));
                    found.links.extend(target.map(|target| (below, target)));
                }
                FileType::Directory if !is_looked_into(&name, kind) => {}
                FileType::Directory if depth < DEPTH_MAX => ahead.push_back((below, depth + 1)),
                FileType::Directory => found.complete = false,
                _ => {}
            }
        }
    }
    found
}

fn is_looked_into(name: &str, parent: Option<EnvironmentKind>) -> bool {
    match parent {
        Some(EnvironmentKind::Virtual | EnvironmentKind::Python) => false,
        Some(EnvironmentKind::Conda) => name == CONDA_ENVIRONMENTS,
        None => !SKIPPED.contains(&name),
    }
}

fn environment(tree: &Tree, path: &str, names: &[(String, FileType)]) -> Option<EnvironmentKind> {
    let has = |name: &str, kind| names.iter().any(|(other, is)| other == name && *is == kind);
    if has("pyvenv.cfg", FileType::RegularFile) {
        return Some(EnvironmentKind::Virtual);
    }
    if !has("bin", FileType::Directory) {
        return None;
    }
    if has("conda-meta", FileType::Directory) {
        return Some(EnvironmentKind::Conda);
    }
    let is_python = has("lib", FileType::Directory)
        && libraries(tree, path)
            .iter()
            .any(|library| tree.list(library).iter().any(|(name, _)| name == "os.py"));
    is_python.then_some(EnvironmentKind::Python)
}

/// `lib/python3.11` and the like of an environment.
pub(super) fn libraries(tree: &Tree, environment: &str) -> Vec<String> {
    let mut all = Vec::new();
    for lib in ["lib", "lib64"].map(|lib| join(environment, lib)) {
        let names = tree.list(&lib).into_iter().filter(|(name, kind)| {
            *kind == FileType::Directory && (name.starts_with("python3") || name.starts_with("pypy"))
        });
        all.extend(names.map(|(name, _)| join(&lib, &name)));
    }
    all
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn environments_and_absolute_links_are_found() {
        let base = tempfile::tempdir().unwrap();
        let at = |name: &str| base.path().join(name);
        for directory in [
            "a/.venv/bin",
            "a/.venv/lib/inner",
            "c/bin",
            "c/conda-meta",
            "c/envs/e/bin",
            "c/envs/e/conda-meta",
            "c/lib/x",
            "p/bin",
            "p/lib/python3.11",
            "q/bin",
            "q/lib/python3.11",
            "node_modules/v",
            ".git/v",
        ] {
            fs::create_dir_all(at(directory)).unwrap();
        }
        for file in [
            "a/.venv/pyvenv.cfg",
            "a/.venv/lib/inner/pyvenv.cfg",
            "p/lib/python3.11/os.py",
            "node_modules/v/pyvenv.cfg",
            ".git/v/pyvenv.cfg",
            "c/lib/x/pyvenv.cfg",
        ] {
            fs::write(at(file), "").unwrap();
        }
        for (target, link) in
            [("/w/x", "a/data"), ("x", "a/relative"), ("/w", "a/.venv/lib64"), ("/w", "c/l")]
        {
            symlink(target, at(link)).unwrap();
        }
        symlink(at("a"), at("again")).unwrap();
        let found = find(&Tree::open(base.path()).unwrap());
        let environments: Vec<_> =
            found.environments.iter().map(|found| (found.path.as_str(), found.kind)).collect();
        assert_eq!(
            environments,
            [
                ("c", EnvironmentKind::Conda),
                ("p", EnvironmentKind::Python),
                ("a/.venv", EnvironmentKind::Virtual),
                ("c/envs/e", EnvironmentKind::Conda),
            ]
        );
        let again = at("a").to_str().unwrap().to_owned();
        assert_eq!(found.links, [("again".into(), again), ("a/data".into(), "/w/x".into())]);
        assert!(found.complete);
    }
}
