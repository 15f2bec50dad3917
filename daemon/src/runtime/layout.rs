//! The directory tree a command sees: which mount lies where, computed before anything is mounted.
//!
//! The tree starts as this host's root directory, entry by entry and read-only. Directories are then hidden under
//! empty ones, and every root of the workspace is placed at its origin path. Where that path exists here, the root
//! lies over it. Where it does not, and its nearest existing parent is the host's, that parent is *rebuilt*: an
//! empty directory with the host's entries mounted into it one by one, beside which there is room for the path.
//! Nothing is ever created in the host's own directories.
//!
//! Symbolic links of the host on the way to a place are followed, as the command's own look-ups will.

use std::collections::BTreeMap;
use std::ops::Bound;

use super::PlanError;
use super::host::{HostEntry, HostTree};

/// Entries of a directory that may be rebuilt: each becomes a mount, and bubblewrap takes 9,000 arguments.
pub(super) const REBUILT_ENTRIES_MAX: usize = 1024;

/// Symbolic links followed on the way to a place (`MAXSYMLINKS` in `linux/namei.h`).
const LINKS_MAX: usize = 40;

/// What is mounted or made at a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Mount {
    /// What the host has there, read-only.
    Host,
    /// An empty directory into which the host's entries are mounted one by one; read-only in the end.
    Rebuilt,
    /// An empty directory in memory.
    Empty { writable: bool },
    /// A directory of this host, from another place.
    From { host: String, writable: bool },
    /// A symbolic link with its target.
    Symlink(String),
    /// Nothing to read where the host has a file.
    Blank,
    /// A device, usable.
    Device,
    /// The processes of the namespace.
    Proc,
    /// The standard devices, terminals and shared memory of the namespace.
    Dev,
}

/// The tree in the making. Paths are absolute and without `.`, `..` and empty components.
pub(super) struct Layout<'h> {
    host: &'h dyn HostTree,
    /// By path; a parent sorts before what lies in it.
    mounts: BTreeMap<String, Mount>,
}

impl<'h> Layout<'h> {
    /// The host's root directory, rebuilt.
    pub(super) fn new(host: &'h dyn HostTree) -> Result<Self, PlanError> {
        let mut layout = Self { host, mounts: BTreeMap::new() };
        layout.rebuild("/")?;
        Ok(layout)
    }

    /// The mounts, parents before what lies in them.
    pub(super) fn mounts(&self) -> impl DoubleEndedIterator<Item = (&str, &Mount)> {
        self.mounts.iter().map(|(path, mount)| (path.as_str(), mount))
    }

    /// Puts `mount` at `path` itself, whatever is there.
    pub(super) fn set(&mut self, path: &str, mount: Mount) {
        self.mounts.insert(path.to_owned(), mount);
    }

    /// Puts `mount` where `path` leads, making room for it. Returns the place.
    pub(super) fn place(&mut self, path: &str, mount: Mount) -> Result<String, PlanError> {
        let place = self.resolve(path)?;
        if self.entry(&place) != Some(HostEntry::Directory) {
            self.make_room(&place)?;
        }
        self.set(&place, mount);
        Ok(place)
    }

    /// Where `path` leads once links are followed. Components that do not exist are kept as they are.
    pub(super) fn resolve(&self, path: &str) -> Result<String, PlanError> {
        let mut rest: Vec<String> = components(path).rev().map(str::to_owned).collect();
        let mut place = String::new();
        let mut links = 0;
        while let Some(name) = rest.pop() {
            if name == ".." {
                place.truncate(place.rfind('/').unwrap_or(0));
                continue;
            }
            let next = format!("{place}/{name}");
            let Some(HostEntry::Symlink(target)) = self.entry(&next) else {
                place = next;
                continue;
            };
            links += 1;
            if links > LINKS_MAX {
                return Err(PlanError::Links { path: path.to_owned() });
            }
            if target.starts_with('/') {
                place.clear();
            }
            rest.extend(components(&target).rev().map(str::to_owned));
        }
        Ok(if place.is_empty() { "/".to_owned() } else { place })
    }

    /// What a look-up of `path` finds in the tree as it is so far, a link in the end not followed.
    pub(super) fn entry(&self, path: &str) -> Option<HostEntry> {
        let (at, mount) = self.cover(path)?;
        let here = at == path;
        match mount {
            Mount::Host => self.host.entry(path),
            Mount::From { host, .. } => match below(path, at) {
                "" => Some(HostEntry::Directory),
                rest => self.host.entry(&join(host, rest)),
            },
            Mount::Symlink(target) if here => Some(HostEntry::Symlink(target.clone())),
            Mount::Blank | Mount::Device if here => Some(HostEntry::Other),
            Mount::Rebuilt | Mount::Empty { .. } | Mount::Proc | Mount::Dev => {
                (here || self.holds_mounts(path)).then_some(HostEntry::Directory)
            }
            Mount::Symlink(_) | Mount::Blank | Mount::Device => None,
        }
    }

    /// The mount in which `path` lies, and where that is.
    pub(super) fn cover(&self, path: &str) -> Option<(&str, &Mount)> {
        let mut at = path;
        loop {
            if let Some((found, mount)) = self.mounts.get_key_value(at) {
                return Some((found, mount));
            }
            at = parent(at)?;
        }
    }

    fn holds_mounts(&self, path: &str) -> bool {
        let inside = format!("{path}/");
        let mut after = self.mounts.range::<str, _>((Bound::Included(inside.as_str()), Bound::Unbounded));
        after.next().is_some_and(|(next, _)| next.starts_with(&inside))
    }

    /// Sees to it that a directory can be made at `place`, where there is none.
    fn make_room(&mut self, place: &str) -> Result<(), PlanError> {
        let mut existing = place;
        while let Some(above) = parent(existing) {
            existing = above;
            if self.entry(existing) == Some(HostEntry::Directory) {
                break;
            }
        }
        let existing = existing.to_owned();
        match self.cover(&existing) {
            Some((_, Mount::Host)) => self.rebuild(&existing)?,
            Some((_, Mount::From { .. })) => {
                return Err(PlanError::Inside { path: place.to_owned(), other: existing });
            }
            _ => {}
        }
        // A file in the way gives way: it is one of the entries just mounted one by one.
        let mut in_the_way = Some(place);
        while let Some(path) = in_the_way.filter(|path| *path != existing) {
            self.mounts.remove(path);
            in_the_way = parent(path);
        }
        Ok(())
    }

    /// Replaces the host's directory by one that holds the same entries and has room for others.
    fn rebuild(&mut self, directory: &str) -> Result<(), PlanError> {
        let names = self.host.list(directory).map_err(|source| PlanError::Rebuild {
            directory: directory.to_owned(),
            why: source.to_string(),
        })?;
        if names.len() > REBUILT_ENTRIES_MAX {
            return Err(PlanError::Crowded { directory: directory.to_owned(), entries: names.len() });
        }
        for name in names {
            let path = join(directory, &name);
            let mount = match self.host.entry(&path) {
                Some(HostEntry::Symlink(target)) => Mount::Symlink(target),
                Some(HostEntry::Directory | HostEntry::Other) => Mount::Host,
                None => continue,
            };
            self.mounts.entry(path).or_insert(mount);
        }
        self.set(directory, Mount::Rebuilt);
        Ok(())
    }
}

/// The names in a path, `..` included.
fn components(path: &str) -> impl DoubleEndedIterator<Item = &str> {
    path.split('/').filter(|name| !matches!(*name, "" | "."))
}

/// The directory a path lies in; none for `/`.
pub(super) fn parent(path: &str) -> Option<&str> {
    match path.rfind('/') {
        _ if path == "/" => None,
        Some(0) => Some("/"),
        Some(end) => Some(&path[..end]),
        None => None,
    }
}

/// `name` in `directory`.
pub(super) fn join(directory: &str, name: &str) -> String {
    format!("{}/{name}", directory.trim_end_matches('/'))
}

/// True if `path` is `directory` or lies in it.
pub(super) fn is_within(path: &str, directory: &str) -> bool {
    path.strip_prefix(directory)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with('/') || directory.ends_with('/'))
}

/// The part of `path` below `directory`, in which it lies.
fn below<'p>(path: &'p str, directory: &str) -> &'p str {
    path.get(directory.len()..).unwrap_or_default().trim_start_matches('/')
}

/// True for a path that can be a place: absolute, without `.`, `..`, empty components or a trailing slash, shorter
/// than `PATH_MAX`.
pub(super) fn is_plain(path: &str) -> bool {
    let names = path.strip_prefix('/');
    names.is_some_and(|names| names.split('/').all(|name| !matches!(name, "" | "." | "..")))
        && path.len() < 4096
        && !path.contains('\0')
}
