//! Directories outside a workspace that are shared with it, read-only.

use std::io;
use std::path::{Component, Path, PathBuf};
use std::str::FromStr;

use twinshare_fs::manifest::{ROOTS_MAX, TARGET_BYTES_MAX};

use super::{is_within, nodes_directories, user_home};
use crate::checked_text::checked_text;
use crate::home::Home;

/// A companion as `twinshare.yaml` names it: an absolute path, or one in the user's home that begins with `~/`.
///
/// It has no `..`, so that everybody reads the same directory in it.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CompanionPath(String);

/// A text that names no companion.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{}` is not a companion: write an absolute path, or one that begins with `~/`, without `..`", .0.escape_debug())]
pub struct BadCompanion(String);

/// Why a workspace's companions cannot be shared.
#[derive(Debug, thiserror::Error)]
pub enum CompanionError {
    /// There is no such directory, or it cannot be looked at.
    #[error("the companion {path} cannot be used: {source}")]
    Disk {
        /// The companion.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// It holds more than may be shared along with something else.
    #[error("the companion {path} {why}: name the directory that is needed instead")]
    TooWide {
        /// The companion.
        path: PathBuf,
        /// What it holds.
        why: &'static str,
    },
    /// `~` was written, and there is no home.
    #[error("the companion {path} begins with `~`, and HOME is not set")]
    NoHome {
        /// The companion as written.
        path: String,
    },
    /// The owner was not shown it when the workspace was shared.
    #[error("the companion {path} is new in the workspace's file since it was shared, and not shared yet")]
    NotConfirmed {
        /// The companion.
        path: PathBuf,
    },
    /// More than a manifest takes.
    #[error("{0} companions are too many: at most {max} can be shared", max = ROOTS_MAX - 1)]
    TooMany(usize),
}

impl CompanionPath {
    /// The path as it was written.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The absolute path, for the user with this home directory.
    pub fn resolve(&self, user_home: Option<&Path>) -> Result<PathBuf, CompanionError> {
        match self.0.strip_prefix("~/") {
            Some(below) => {
                let home = user_home.ok_or_else(|| CompanionError::NoHome { path: self.0.clone() })?;
                Ok(home.join(below).components().collect())
            }
            None => Ok(Path::new(&self.0).components().collect()),
        }
    }
}

impl FromStr for CompanionPath {
    type Err = BadCompanion;

    fn from_str(text: &str) -> Result<Self, BadCompanion> {
        let path = text.strip_prefix('~').filter(|below| below.starts_with('/')).unwrap_or(text);
        let good = path.len() <= TARGET_BYTES_MAX
            && Path::new(path).is_absolute()
            && !path.contains('\0')
            && Path::new(path).components().any(|component| matches!(component, Component::Normal(_)))
            && Path::new(path).components().all(|component| component != Component::ParentDir);
        if good { Ok(Self(text.into())) } else { Err(BadCompanion(text.chars().take(200).collect())) }
    }
}

checked_text!(CompanionPath);

/// What a directory holds that forbids sharing it as a companion of `workspace`; `None` where nothing does. All paths
/// without links.
pub(super) fn too_wide(path: &Path, workspace: &Path, home: &Home) -> Option<&'static str> {
    let own = nodes_directories(home);
    let user_home = user_home().map(|user| user.canonicalize().unwrap_or(user));
    match path {
        _ if is_within(workspace, path) => Some("holds the workspace itself"),
        _ if user_home.is_some_and(|user| is_within(&user, path)) => Some("holds your home directory"),
        _ if own.iter().any(|own| is_within(own, path) || is_within(path, own)) => {
            Some("holds a node's own state")
        }
        _ => None,
    }
}

/// The trees to share: the workspace and those companions that lie in no other tree.
pub(super) fn roots(
    workspace: &Path,
    companions: &[CompanionPath],
    home: &Home,
) -> Result<Vec<PathBuf>, CompanionError> {
    let user_home = user_home();
    let mut roots = vec![workspace.to_path_buf()];
    for companion in companions {
        let path = companion.resolve(user_home.as_deref())?;
        let real = real_directory(&path)?;
        if let Some(why) = too_wide(&real, workspace, home) {
            return Err(CompanionError::TooWide { path, why });
        }
        roots.push(path);
    }
    let covered = |path: &PathBuf| roots.iter().any(|other| other != path && is_within(path, other));
    let mut kept: Vec<_> =
        roots.iter().filter(|path| *path == workspace || !covered(path)).cloned().collect();
    let mut seen = std::collections::HashSet::new();
    kept.retain(|path| seen.insert(path.clone()));
    match kept.len() > ROOTS_MAX as usize {
        true => Err(CompanionError::TooMany(kept.len() - 1)),
        false => Ok(kept),
    }
}

/// Checks that each of the companions among `roots` lies in one that was `confirmed`: the file that names them travels
/// with the workspace, and whoever changes it must not thereby choose what else this machine serves.
pub(super) fn check_confirmed(roots: &[PathBuf], confirmed: &[PathBuf]) -> Result<(), CompanionError> {
    let is_new = |path: &&PathBuf| !confirmed.iter().any(|known| is_within(path, known));
    match roots.iter().skip(1).find(is_new) {
        Some(path) => Err(CompanionError::NotConfirmed { path: path.clone() }),
        None => Ok(()),
    }
}

fn real_directory(path: &Path) -> Result<PathBuf, CompanionError> {
    let disk = |source| CompanionError::Disk { path: path.into(), source };
    let real = path.canonicalize().map_err(disk)?;
    match real.metadata().map_err(disk)?.is_dir() {
        true => Ok(real),
        false => Err(disk(io::ErrorKind::NotADirectory.into())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, expected: Option<&str>) {
        let resolved = text.parse::<CompanionPath>().ok();
        let resolved = resolved.map(|path| path.resolve(Some(Path::new("/home/a"))).unwrap());
        assert_eq!(resolved, expected.map(PathBuf::from), "{text}");
    }

    #[test]
    fn a_companion_is_an_absolute_path() {
        check("/opt/python3.11", Some("/opt/python3.11"));
        check("/opt/python3.11/", Some("/opt/python3.11"));
        check("/opt/./x", Some("/opt/x"));
        check("~/.cache/models", Some("/home/a/.cache/models"));
        for wrong in ["", "opt", "~", "~/", "/", "//", "~a/x", "/opt/../etc", "./x", "/a\0b"] {
            check(wrong, None);
        }
        check(&format!("/{}", "x/".repeat(2100)), None);
    }

    #[track_caller]
    fn check_new(roots: &[&str], confirmed: &[&str], expected: Option<&str>) {
        let paths = |all: &[&str]| all.iter().map(PathBuf::from).collect::<Vec<_>>();
        let new = match check_confirmed(&paths(roots), &paths(confirmed)) {
            Err(CompanionError::NotConfirmed { path }) => Some(path),
            other => other.map(|()| None).unwrap(),
        };
        assert_eq!(new, expected.map(PathBuf::from), "{roots:?} {confirmed:?}");
    }

    #[test]
    fn only_what_was_confirmed_is_shared() {
        check_new(&["/w"], &[], None);
        check_new(&["/w", "/opt"], &["/m", "/opt"], None);
        check_new(&["/w", "/opt/py"], &["/opt"], None);
        check_new(&["/w", "/opt"], &["/opt/py"], Some("/opt"));
        check_new(&["/w", "/opt", "/home/a/.ssh"], &["/opt"], Some("/home/a/.ssh"));
        check_new(&["/w", "/optional"], &["/opt"], Some("/optional"));
    }

    #[test]
    fn a_companion_is_shared_or_refused() {
        let base = tempfile::tempdir().unwrap();
        let base = base.path().canonicalize().unwrap();
        let home = Home::isolated(&base.join("home"));
        home.prepare().unwrap();
        let directory = |name: &str| {
            std::fs::create_dir_all(base.join(name)).unwrap();
            base.join(name)
        };
        let (workspace, opt) = (directory("all/w"), directory("opt"));
        directory("opt/py");
        directory("all/w/inner");
        std::fs::write(base.join("file"), "").unwrap();
        let check = |names: &[&str]| {
            let companions: Vec<_> =
                names.iter().map(|name| base.join(name).to_str().unwrap().parse().unwrap()).collect();
            roots(&workspace, &companions, &home).map_err(|error| error.to_string())
        };
        assert_eq!(check(&[]).unwrap(), std::slice::from_ref(&workspace));
        assert_eq!(
            check(&["opt/py", "opt", "opt/py", "opt", "all/w/inner"]).unwrap(),
            [workspace.clone(), opt]
        );
        for (name, expected) in [
            ("all", "holds the workspace"),
            ("home", "holds a node's own state"),
            ("home/state/run", "holds a node's own state"),
            ("gone", "No such file"),
            ("file", "not a directory"),
        ] {
            let error = check(&[name]).unwrap_err();
            assert!(error.contains(expected), "{error}");
        }
    }
}
