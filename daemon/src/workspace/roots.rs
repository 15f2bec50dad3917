//! Directory trees that are not where they were made, and where a path leads in them.
//!
//! An absolute link in a workspace means a path of its origin. This follows paths as the origin's kernel would, in
//! the trees as they can be read here, and says where a path leaves them. On the origin both places are the same; on
//! another machine the trees are mounts.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::fs::{self, File};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Component, Path, PathBuf};

use rustix::fs::OFlags;

/// Links followed in one path at most, as in the kernel (`MAXSYMLINKS` in `linux/namei.h`).
const LINKS_MAX: usize = 40;

/// Components walked in one path at most, whatever its links add.
const COMPONENTS_MAX: usize = 4096;

/// One directory tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Root {
    /// The absolute path it has on its origin.
    pub origin: PathBuf,
    /// Where it can be read.
    pub here: PathBuf,
}

impl Root {
    /// A tree that is still where it was made.
    pub fn in_place(path: PathBuf) -> Self {
        Self { origin: path.clone(), here: path }
    }
}

/// Several trees: a workspace and its companions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Roots {
    all: Vec<Root>,
}

/// Where a path leads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Followed {
    /// To something in one of the trees, which is not a link itself.
    Inside {
        /// Its path on the origin, without links.
        origin: PathBuf,
        /// Where it can be read.
        here: PathBuf,
    },
    /// Out of the trees; this is the path on the origin at which it leaves them.
    Outside(PathBuf),
    /// To nothing, or round in circles.
    Nowhere,
}

/// What one component of a path is.
enum Step {
    /// A directory above a tree: there is nothing to look at.
    Above,
    /// In a tree, and no link.
    Inside,
    /// In a tree: a link with this target.
    Link(PathBuf),
    /// In no tree.
    Outside,
    /// In a tree, where nothing has the name.
    Nothing,
}

impl Roots {
    /// The trees, the workspace first.
    pub fn new(all: impl IntoIterator<Item = Root>) -> Self {
        Self { all: all.into_iter().collect() }
    }

    /// The trees, the workspace first.
    pub fn all(&self) -> &[Root] {
        &self.all
    }

    /// Adds a tree.
    pub(super) fn push(&mut self, root: Root) {
        self.all.push(root);
    }

    /// Where a path of the origin can be read here, without following links: `None` outside the trees.
    fn here(&self, origin: &Path) -> Option<PathBuf> {
        let root = self.root_of(origin)?;
        let below = origin.strip_prefix(&root.origin).ok()?;
        Some(if below.as_os_str().is_empty() { root.here.clone() } else { root.here.join(below) })
    }

    /// Follows an absolute path of the origin to its end. Blocks on the disk.
    pub fn follow(&self, path: &Path) -> Followed {
        let mut at = PathBuf::from("/");
        let mut ahead: VecDeque<OsString> = names(path).collect();
        let mut links = 0;
        for _ in 0..COMPONENTS_MAX {
            let Some(name) = ahead.pop_front() else {
                return match self.here(&at) {
                    Some(here) => Followed::Inside { origin: at, here },
                    None => Followed::Outside(at),
                };
            };
            if name == ".." {
                at.pop();
                continue;
            }
            let next = at.join(&name);
            match self.step(&next) {
                Step::Above | Step::Inside => at = next,
                Step::Link(target) => {
                    links += 1;
                    if target.is_absolute() {
                        at = PathBuf::from("/");
                    }
                    names(&target).rev().for_each(|name| ahead.push_front(name));
                }
                Step::Outside => return Followed::Outside(rest(next, ahead)),
                Step::Nothing => return Followed::Nowhere,
            }
            if links > LINKS_MAX {
                break;
            }
        }
        Followed::Nowhere
    }

    /// Opens a regular file by its path on the origin, wherever in the trees its links lead; `None` for anything else.
    pub(super) fn open(&self, origin: &Path) -> Option<File> {
        let Followed::Inside { here, .. } = self.follow(origin) else {
            return None;
        };
        // The path has no links left. NONBLOCK: a FIFO must not hold whoever looks.
        let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
        let file = File::options().read(true).custom_flags(flags.bits() as i32).open(here).ok()?;
        file.metadata().ok()?.is_file().then_some(file)
    }

    /// The names in a directory, by its path on the origin, wherever in the trees its links lead; none for anything
    /// that is not a directory.
    pub(super) fn names(&self, origin: &Path) -> Vec<OsString> {
        let Followed::Inside { here, .. } = self.follow(origin) else {
            return Vec::new();
        };
        let entries = fs::read_dir(here).into_iter().flatten().flatten();
        let mut names: Vec<_> = entries.map(|entry| entry.file_name()).collect();
        names.sort();
        names
    }

    fn step(&self, path: &Path) -> Step {
        let Some(root) = self.root_of(path) else {
            return match self.all.iter().any(|root| root.origin.starts_with(path)) {
                true => Step::Above,
                false => Step::Outside,
            };
        };
        // The tree's own directory may be reached by a link on its origin; in the trees it is a directory.
        if root.origin == path {
            return Step::Inside;
        }
        let here = self.here(path).unwrap_or_default();
        match fs::symlink_metadata(&here) {
            Ok(metadata) if metadata.is_symlink() => fs::read_link(&here).map_or(Step::Nothing, Step::Link),
            Ok(_) => Step::Inside,
            Err(_) => Step::Nothing,
        }
    }

    /// The innermost tree that holds `path`.
    fn root_of(&self, path: &Path) -> Option<&Root> {
        let holding = self.all.iter().filter(|root| path.starts_with(&root.origin));
        holding.max_by_key(|root| root.origin.components().count())
    }
}

/// The names of a path; `..` stays, `.` and slashes do not.
fn names(path: &Path) -> impl DoubleEndedIterator<Item = OsString> {
    path.components().filter_map(|component| match component {
        Component::Normal(name) => Some(name.to_owned()),
        Component::ParentDir => Some("..".into()),
        Component::RootDir | Component::CurDir | Component::Prefix(_) => None,
    })
}

/// `path` and the names after it, as far as they can be told without looking.
fn rest(path: PathBuf, ahead: VecDeque<OsString>) -> PathBuf {
    ahead.into_iter().fold(path, |mut path, name| {
        if name == ".." {
            path.pop();
        } else {
            path.push(name);
        }
        path
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    /// Two trees of the origin, `/w` and `/opt/py`, that lie elsewhere here.
    fn bench() -> (tempfile::TempDir, Roots) {
        let base = tempfile::tempdir().unwrap();
        let (w, py) = (base.path().join("mnt-w"), base.path().join("mnt-py"));
        for directory in [w.join("venv/bin"), py.join("bin"), py.join("lib")] {
            fs::create_dir_all(directory).unwrap();
        }
        fs::write(py.join("bin/python3.11"), "x").unwrap();
        for (link, target) in [
            ("venv/bin/python", "/opt/py/bin/python3"),
            ("venv/bin/python3", "python"),
            ("venv/up", "../.."),
            ("venv/etc", "../../../etc/passwd"),
            ("venv/usr", "/usr/bin/python3"),
            ("venv/loop", "loop"),
            ("venv/gone", "nothing/here"),
            ("venv/above", "/opt"),
            ("lib64", "/opt/py/lib/../lib"),
        ] {
            symlink(target, w.join(link)).unwrap();
        }
        symlink("python3.11", py.join("bin/python3")).unwrap();
        let root = |origin: &str, here| Root { origin: origin.into(), here };
        (base, Roots::new([root("/w", w), root("/opt/py", py)]))
    }

    #[test]
    fn paths_are_followed_as_on_the_origin() {
        let (base, roots) = bench();
        let inside = |origin: &str, here: &str| Followed::Inside {
            origin: origin.into(),
            here: base.path().join(here),
        };
        let outside = |path: &str| Followed::Outside(path.into());
        for (path, expected) in [
            ("/w", inside("/w", "mnt-w")),
            ("/w/venv/bin/python3", inside("/opt/py/bin/python3.11", "mnt-py/bin/python3.11")),
            ("/w/lib64", inside("/opt/py/lib", "mnt-py/lib")),
            ("/w/venv/up", outside("/")),
            ("/w/venv/up/w/venv", inside("/w/venv", "mnt-w/venv")),
            ("/w/venv/etc", outside("/etc/passwd")),
            ("/w/venv/usr", outside("/usr/bin/python3")),
            ("/w/venv/above", outside("/opt")),
            ("/w/venv/above/py/bin/../lib", inside("/opt/py/lib", "mnt-py/lib")),
            ("/opt/other/x", outside("/opt/other/x")),
            ("/wide/x/../y", outside("/wide/y")),
            ("/w/venv/loop", Followed::Nowhere),
            ("/w/venv/gone", Followed::Nowhere),
        ] {
            assert_eq!(roots.follow(Path::new(path)), expected, "{path}");
        }
    }

    #[test]
    fn a_tree_reached_by_a_link_counts_as_a_directory() {
        let (base, mut roots) = bench();
        symlink("mnt-py", base.path().join("linked")).unwrap();
        roots.push(Root { origin: "/l".into(), here: base.path().join("linked") });
        let expected = Followed::Inside { origin: "/l/lib".into(), here: base.path().join("linked/lib") };
        assert_eq!(roots.follow(Path::new("/l/lib")), expected);
    }
}
