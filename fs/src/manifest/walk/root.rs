//! The directories a walk begins with.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::path::{Component, Path, PathBuf};
use std::sync::atomic::AtomicBool;

use rustix::fs::{AtFlags, Mode, OFlags};

use super::{ROOTS_MAX, Stamp, WalkError, entry, stat, xattr};
use crate::manifest::{Kind, LeftOutReason, NewEntry};
use crate::name::EntryName;

/// Which directory: its filesystem and inode, as long as it exists.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct DirectoryId {
    /// The device of its filesystem.
    pub device: u64,
    /// Its inode number there.
    pub inode: u64,
}

impl DirectoryId {
    /// The directory at `path`, symbolic links followed.
    pub fn of(path: &Path) -> io::Result<Self> {
        let stat = rustix::fs::stat(path)?;
        Ok(Self { device: stat.st_dev, inode: stat.st_ino })
    }
}

/// One directory tree to walk, held open.
pub(super) struct Root {
    pub(super) path: PathBuf,
    pub(super) directory: File,
    pub(super) entry: NewEntry,
    pub(super) stamp: Stamp,
    pub(super) left_out: Vec<LeftOutReason>,
    /// Set once the filesystem has answered that it keeps no xattrs.
    pub(super) without_xattrs: AtomicBool,
}

/// Opens the roots, without the companions that lie inside another root.
pub(super) fn open(paths: &[PathBuf]) -> Result<Vec<Root>, WalkError> {
    let climbs = |path: &PathBuf| path.components().any(|part| part == Component::ParentDir);
    let wrong = paths.iter().find(|path| !path.is_absolute() || climbs(path));
    // Without `//`, `/./` and a `/` at the end.
    let normal: Vec<PathBuf> = paths.iter().map(|path| path.components().collect()).collect();
    let paths = normal.as_slice();
    if let Some(path) = wrong.or(paths.get(ROOTS_MAX as usize)) {
        return Err(WalkError::NotARoot(path.clone()));
    }
    let real =
        paths.iter().map(|path| path.canonicalize().map_err(at(path))).collect::<Result<Vec<_>, _>>()?;
    let Some(workspace) = real.first() else {
        return Err(WalkError::NotARoot(PathBuf::new()));
    };
    if let Some(over) = real.iter().position(|other| other != workspace && workspace.starts_with(other)) {
        return Err(WalkError::Contains { companion: paths[over].clone(), workspace: paths[0].clone() });
    }
    let mut roots = Vec::new();
    for (i, path) in paths.iter().enumerate() {
        // One that is the same directory under another path (a link's) is a root of its own: whatever names it by
        // that path must find it there.
        let inside = |(j, other): (usize, &PathBuf)| {
            real[i].starts_with(other) && path.starts_with(&paths[j]) && (real[i] != *other || j < i)
        };
        if !real.iter().enumerate().any(inside) {
            roots.push(open_one(path).map_err(at(path))?);
        }
    }
    Ok(roots)
}

fn at(path: &Path) -> impl FnOnce(io::Error) -> WalkError {
    let path = path.to_owned();
    |source| WalkError::Root { path, source }
}

fn open_one(path: &Path) -> io::Result<Root> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let directory = File::from(rustix::fs::open(path, flags, Mode::empty())?);
    let without_xattrs = AtomicBool::new(false);
    let name = EntryName::try_from(&b"root"[..]).map_err(io::Error::other)?;
    let mut left_out = Vec::new();
    let stat = stat(&directory, b"", AtFlags::empty())?;
    let mut entry = entry::new(name, Kind::Directory, &stat, &mut left_out);
    let xattrs = format!("/proc/self/fd/{}/.", directory.as_raw_fd());
    entry.extra.xattrs = xattr::read(xattrs.as_bytes(), &without_xattrs, &mut left_out);
    let stamp = Stamp::of(&stat);
    Ok(Root { path: path.into(), directory, entry, stamp, left_out, without_xattrs })
}
