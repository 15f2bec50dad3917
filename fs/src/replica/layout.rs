//! The directory a replica lies in.
//!
//! A clone's is `.twinshare-xxxx` inside the directory it is mounted over; a view's lies in the node's cache. It is
//! opened before anything is mounted, and everything is reached through that descriptor from then on: by path the
//! mount would be in the way.
//!
//! | name | what |
//! |---|---|
//! | `README` | what this is, for whoever finds it |
//! | `manifest` | the snapshot's manifest |
//! | `tree/` | the workspace's own tree in the making |
//! | `companions/N/` | the tree of root `N` |
//! | `links/` | files with several names, each under its manifest index |
//! | `staging/` | what is being made or removed; emptied at every start |
//! | `digests` | the digests of the blocks that have been fetched |
//! | `changed` | which files changed at the origin before they were here, and what became of them |
//!
//! A view that follows its origin has such a directory for each [edition](super::editions), without trees: its content
//! lies beside them.

use std::fs::File;
use std::hash::{BuildHasher, RandomState};
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{
    AtomicBool,
    Ordering::{Acquire, Release},
};

use rustix::fs::{FlockOperation, Mode, OFlags, ResolveFlags, XattrFlags};
use rustix::io::Errno;

use super::editions::InView;
use super::numbers::Numbers;
use crate::digest::Digest;
use crate::manifest::{EntryIndex, Manifest, SnapshotId};
use crate::name::RelPath;

/// What a clone's replica directory is called, before four hexadecimal digits that keep it apart from names of the
/// workspace.
pub const PREFIX: &str = ".twinshare-";

/// The xattr of the directory that holds the snapshot's id.
const SNAPSHOT_XATTR: &str = "user.twinshare.snapshot";

/// The xattr of the directory that is there once the tree moves up to where it stays.
const SETTLING_XATTR: &str = "user.twinshare.settling";

/// The xattr of the directory that is there once something of the manifest may lie elsewhere in the tree.
const MOVES_XATTR: &str = "user.twinshare.moves";

/// The xattr of the directory that is there once something of a clone may have been changed.
const CHANGED_XATTR: &str = "user.twinshare.changed";

/// The text of `README`.
const README: &str = "\
This directory belongs to twinshare. It holds a copy of a workspace that is not complete yet: `tree` is the
workspace's own tree in the making, the rest is what twinshare needs to finish it.

Nothing in here should be changed by hand. The workspace appears in its place again when the node runs: start it with
`twinshare p2p start`. To give the copy up, run `twinshare workspace rm` with the directory above this one. Files in
`tree` that are not complete read as zeros where their content is missing.
";

/// Why a directory cannot become, or continue, a replica.
#[derive(Debug, thiserror::Error)]
pub enum LayoutError {
    /// It holds something else.
    #[error("{} is not empty: it holds `{found}`", .path.display())]
    NotEmpty {
        /// The directory.
        path: PathBuf,
        /// One of the names in it.
        found: String,
    },
    /// Another process serves it.
    #[error("the replica in {} is in use by another process", .path.display())]
    InUse {
        /// The replica's directory.
        path: PathBuf,
    },
    /// The disk failed, or it does not offer what is needed.
    #[error("the replica's directory {}: {doing}", .path.display())]
    Disk {
        /// The directory.
        path: PathBuf,
        /// What was tried.
        doing: &'static str,
        /// What the system said.
        source: io::Error,
    },
}

/// An open replica directory, locked against other processes until it is dropped.
#[derive(Debug)]
pub struct Layout {
    path: PathBuf,
    /// The directory that a clone is mounted over; none for a view.
    above: Option<OwnedFd>,
    /// The tree moves, or has moved, to the directory above.
    settling: AtomicBool,
    directory: OwnedFd,
    tree: OwnedFd,
    links: OwnedFd,
    companions: OwnedFd,
    /// That of an edition of a view, whose content lies by number; `tree`, `links` and `companions` are empty then.
    in_view: Option<InView>,
}

impl Layout {
    /// Opens the replica of a clone that is, or will be, mounted at `mount_point`; makes the directory and the replica
    /// where they do not exist. Must be called before the mount.
    ///
    /// A directory that holds anything but one replica is refused. Blocks for a few system calls.
    pub fn clone_at(mount_point: &Path) -> Result<Self, LayoutError> {
        Self::open_clone(mount_point, None)
    }

    /// As [`clone_at`](Self::clone_at), for the replica called `name`, of [`new_name`]'s making, and no other: whoever
    /// removes it again knows which one is its own.
    pub fn clone_as(mount_point: &Path, name: &str) -> Result<Self, LayoutError> {
        Self::open_clone(mount_point, Some(name))
    }

    fn open_clone(mount_point: &Path, wanted: Option<&str>) -> Result<Self, LayoutError> {
        let disk = |doing, errno: Errno| disk(mount_point, doing, errno);
        make_directories(mount_point).map_err(|errno| disk("it cannot be made", errno))?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let above = rustix::fs::open(mount_point, flags, Mode::empty())
            .map_err(|errno| disk("it cannot be opened", errno))?;
        let Existing { replica, other } =
            existing(&above).map_err(|errno| disk("it cannot be listed", errno))?;
        let not_empty = |found| LayoutError::NotEmpty { path: mount_point.into(), found };
        let name = match (replica, &other) {
            (Some(name), _) if wanted.is_none_or(|wanted| wanted == name) => name,
            (Some(name), _) => return Err(not_empty(name)),
            (None, None) => {
                let name = wanted.map_or_else(new_name, str::to_owned);
                rustix::fs::mkdirat(&above, name.as_str(), Mode::RWXU)
                    .map_err(|errno| disk("nothing can be made in it", errno))?;
                name
            }
            (None, Some(found)) => return Err(not_empty(found.clone())),
        };
        let path = mount_point.join(&name);
        let directory =
            subdirectory(&above, &name).map_err(|errno| self::disk(&path, "it cannot be opened", errno))?;
        match other {
            Some(found) if !is_settling(&directory) => Err(not_empty(found)),
            _ => Self::assemble(path, Some(above), directory),
        }
    }

    /// Opens the replica of a view, whose directory is `directory` itself; makes it where it does not exist.
    ///
    /// Blocks for a few system calls.
    pub fn view_in(directory: &Path) -> Result<Self, LayoutError> {
        let disk = |doing, errno| disk(directory, doing, errno);
        make_directories(directory).map_err(|errno| disk("it cannot be made", errno))?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let opened = rustix::fs::open(directory, flags, Mode::empty())
            .map_err(|errno| disk("it cannot be opened", errno))?;
        Self::assemble(directory.into(), None, opened)
    }

    fn assemble(path: PathBuf, above: Option<OwnedFd>, directory: OwnedFd) -> Result<Self, LayoutError> {
        match rustix::fs::flock(&directory, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(Errno::WOULDBLOCK) => return Err(LayoutError::InUse { path }),
            Err(errno) => return Err(disk(&path, "it cannot be locked", errno)),
        }
        let part = |name| {
            make_directory(&directory, name)
                .and_then(|()| subdirectory(&directory, name))
                .map_err(|errno| disk(&path, "nothing can be made in it", errno))
        };
        let (tree, links, companions) = (part("tree")?, part("links")?, part("companions")?);
        drop(part("staging")?);
        write_readme(&directory, README).map_err(|source| LayoutError::Disk {
            path: path.clone(),
            doing: "nothing can be written in it",
            source,
        })?;
        let settling = AtomicBool::new(is_settling(&directory));
        Ok(Self { path, above, settling, directory, tree, links, companions, in_view: None })
    }

    /// That of an edition of a view, which is locked as a whole.
    pub(super) fn edition(path: PathBuf, directory: OwnedFd, in_view: InView) -> Result<Self, LayoutError> {
        let part = |name| {
            make_directory(&directory, name)
                .and_then(|()| subdirectory(&directory, name))
                .map_err(|errno| disk(&path, "nothing can be made in it", errno))
        };
        let (tree, links, companions) = (part("none")?, part("none")?, part("none")?);
        let (above, settling) = (None, AtomicBool::new(false));
        Ok(Self { path, above, settling, directory, tree, links, companions, in_view: Some(in_view) })
    }

    /// Where it belongs, if it is an edition of a view.
    pub(super) fn in_view(&self) -> Option<&InView> {
        self.in_view.as_ref()
    }

    /// The numbers under which its content lies, of `entries` entries; none where it lies by path.
    pub(super) fn numbers(&self, entries: u32) -> io::Result<Option<Numbers>> {
        let numbers = |view: &InView| view.numbers(self.directory(), entries);
        self.in_view.as_ref().map(numbers).transpose()
    }

    /// The snapshot that the files here are of, once that has been noted.
    pub fn snapshot(&self) -> io::Result<Option<SnapshotId>> {
        let mut noted = [0; 33];
        match rustix::fs::fgetxattr(&self.directory, SNAPSHOT_XATTR, &mut noted[..]) {
            Ok(length) => Ok(noted[..length].try_into().ok().map(|id| SnapshotId(Digest(id)))),
            Err(Errno::NODATA) => Ok(None),
            Err(errno) => Err(errno.into()),
        }
    }

    /// Where it lies, for people: a mount may hide it.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Where the manifest's file is or belongs, through the open descriptor: reachable below a mount, valid while this
    /// lives, in this process alone.
    pub fn manifest_path(&self) -> PathBuf {
        PathBuf::from(format!("/proc/self/fd/{}/manifest", self.directory.as_raw_fd()))
    }

    /// Where the digests' file is or belongs, in the same way.
    pub(super) fn digests_path(&self) -> PathBuf {
        PathBuf::from(format!("/proc/self/fd/{}/digests", self.directory.as_raw_fd()))
    }

    /// Where the list of files that changed at the origin is or belongs, in the same way.
    pub(super) fn changed_path(&self) -> PathBuf {
        PathBuf::from(format!("/proc/self/fd/{}/changed", self.directory.as_raw_fd()))
    }

    /// Notes which snapshot the files here are of; false when they are of another one.
    pub(super) fn claim(&self, snapshot: SnapshotId) -> io::Result<bool> {
        let mut noted = [0; 33];
        match rustix::fs::fgetxattr(&self.directory, SNAPSHOT_XATTR, &mut noted[..]) {
            Ok(length) => Ok(noted[..length] == snapshot.0.0),
            Err(Errno::NODATA) => {
                let flags = XattrFlags::CREATE;
                rustix::fs::fsetxattr(&self.directory, SNAPSHOT_XATTR, &snapshot.0.0, flags)?;
                Ok(true)
            }
            Err(Errno::RANGE) => Ok(false),
            Err(errno) => Err(errno.into()),
        }
    }

    /// Lets other processes open it.
    pub(super) fn unlock(&self) {
        match &self.in_view {
            Some(in_view) => in_view.view().unlock(),
            // It can only fail for a descriptor that is none.
            None => drop(rustix::fs::flock(&self.directory, FlockOperation::Unlock)),
        }
    }

    /// Where a name of the manifest belongs: below which directory, and its path from there. `None` beyond what has
    /// arrived.
    pub(super) fn below(&self, manifest: &Manifest, entry: EntryIndex) -> Option<(BorrowedFd<'_>, RelPath)> {
        let (root, path) = manifest.locate(entry)?;
        if root.0 == 0 {
            return Some((self.tree(), path));
        }
        let number = root.0.to_string();
        let path = RelPath::from_names(std::iter::once(number.as_bytes()).chain(path.names())).ok()?;
        Some((self.companions(), path))
    }

    /// The directory to which the tree of a clone moves, once it does.
    pub(super) fn settled(&self) -> Option<BorrowedFd<'_>> {
        self.above.as_ref().filter(|_| self.settling.load(Acquire)).map(AsFd::as_fd)
    }

    /// Notes, durably, that the tree moves up from now on; the directory to which it does. None for a view.
    pub(super) fn settle(&self) -> Result<Option<BorrowedFd<'_>>, Errno> {
        if self.above.is_some() && !self.settling.load(Acquire) {
            rustix::fs::fsetxattr(&self.directory, SETTLING_XATTR, b"1", XattrFlags::empty())?;
            rustix::fs::fsync(&self.directory)?;
            self.settling.store(true, Release);
        }
        Ok(self.settled())
    }

    /// True once something of the manifest may lie elsewhere in the tree.
    pub(super) fn has_moves(&self) -> Result<bool, Errno> {
        self.is_noted(MOVES_XATTR)
    }

    /// Notes, durably, that something of the manifest may lie elsewhere in the tree from now on.
    pub(super) fn note_moves(&self) -> Result<(), Errno> {
        self.note(MOVES_XATTR)
    }

    /// True once somebody who uses the clone may have changed something.
    pub(super) fn has_changes(&self) -> Result<bool, Errno> {
        self.is_noted(CHANGED_XATTR)
    }

    /// Notes, durably, that somebody is about to change something.
    pub(super) fn note_changes(&self) -> Result<(), Errno> {
        self.note(CHANGED_XATTR)
    }

    fn is_noted(&self, xattr: &str) -> Result<bool, Errno> {
        match rustix::fs::fgetxattr(&self.directory, xattr, &mut [0; 8][..]) {
            Ok(_) => Ok(true),
            Err(Errno::NODATA) => Ok(false),
            Err(errno) => Err(errno),
        }
    }

    fn note(&self, xattr: &str) -> Result<(), Errno> {
        rustix::fs::fsetxattr(&self.directory, xattr, b"1", XattrFlags::empty())?;
        rustix::fs::fsync(&self.directory)
    }

    /// The directory itself.
    pub fn directory(&self) -> BorrowedFd<'_> {
        self.directory.as_fd()
    }

    /// True for a clone's, whose workspace may be written to; false for a view's.
    #[cfg(test)]
    pub(super) fn is_clone(&self) -> bool {
        self.above.is_some()
    }

    /// The tree of root 0.
    pub fn tree(&self) -> BorrowedFd<'_> {
        self.tree.as_fd()
    }

    /// The files with several names.
    pub fn links(&self) -> BorrowedFd<'_> {
        self.links.as_fd()
    }

    /// The directory of the companions' trees, each called by its number.
    pub fn companions(&self) -> BorrowedFd<'_> {
        self.companions.as_fd()
    }
}

pub(super) fn disk(path: &Path, doing: &'static str, errno: Errno) -> LayoutError {
    LayoutError::Disk { path: path.into(), doing, source: errno.into() }
}

/// What a mount point holds.
#[derive(Default)]
struct Existing {
    /// The name of a replica's directory.
    replica: Option<String>,
    /// Another name.
    other: Option<String>,
}

fn existing(directory: &OwnedFd) -> Result<Existing, Errno> {
    let mut found = Existing::default();
    for entry in rustix::fs::Dir::read_from(directory)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy();
        match name.as_ref() {
            "." | ".." => {}
            name if found.replica.is_none() && is_replica_name(name.as_bytes()) => {
                found.replica = Some(name.into())
            }
            name => found.other = Some(name.into()),
        }
    }
    Ok(found)
}

fn is_settling(directory: &OwnedFd) -> bool {
    let mut value = [0; 8];
    rustix::fs::fgetxattr(directory, SETTLING_XATTR, &mut value[..]).is_ok()
}

/// True for a name that the directory of a clone's replica may have.
pub fn is_replica_name(name: &[u8]) -> bool {
    let digits = name.strip_prefix(PREFIX.as_bytes()).unwrap_or_default();
    digits.len() == 4 && digits.iter().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

/// A name for the directory of a new clone's replica.
pub fn new_name() -> String {
    format!("{PREFIX}{:04x}", RandomState::new().hash_one(()) & 0xffff)
}

pub(super) fn make_directories(path: &Path) -> Result<(), Errno> {
    let error = |error: io::Error| Errno::from_io_error(&error).unwrap_or(Errno::IO);
    std::fs::create_dir_all(path).map_err(error)
}

pub(super) fn make_directory(parent: &OwnedFd, name: &str) -> Result<(), Errno> {
    match rustix::fs::mkdirat(parent, name, Mode::RWXU) {
        Ok(()) | Err(Errno::EXIST) => Ok(()),
        Err(errno) => Err(errno),
    }
}

/// Opens a directory for everything that is done with one: descriptors of `O_PATH` refuse fsync, listing and locks.
pub(super) fn subdirectory(parent: &OwnedFd, name: &str) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    // Without NO_XDEV a `..` or a mount below would lead out of the replica's own filesystem.
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_XDEV | ResolveFlags::NO_SYMLINKS;
    rustix::fs::openat2(parent, name, flags, Mode::empty(), resolve)
}

/// Writes it where it is missing. What is there stays: a full disk must not keep a replica from being opened.
pub(super) fn write_readme(directory: &OwnedFd, text: &str) -> io::Result<()> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mode = Mode::RUSR | Mode::WUSR | Mode::RGRP | Mode::ROTH;
    match rustix::fs::openat(directory, "README", flags, mode) {
        Ok(file) => File::from(file).write_all(text.as_bytes()),
        Err(Errno::EXIST) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(path: &Path) -> Vec<String> {
        let mut names: Vec<_> = std::fs::read_dir(path)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn a_clone_is_made_locked_and_continued() {
        let directory = tempfile::tempdir().unwrap();
        let at = directory.path().join("a/clone");
        let first = Layout::clone_at(&at).unwrap();
        let made = names(&at);
        assert!(made.len() == 1 && is_replica_name(made[0].as_bytes()), "{made:?}");
        assert_eq!(names(first.path()), ["README", "companions", "links", "staging", "tree"]);
        assert!(matches!(Layout::clone_at(&at), Err(LayoutError::InUse { .. })));
        drop(first);
        let again = Layout::clone_at(&at).unwrap();
        assert_eq!(names(&at), made);
        std::fs::write(again.manifest_path(), b"m").unwrap();
        assert_eq!(std::fs::read(again.path().join("manifest")).unwrap(), b"m");
    }

    #[test]
    fn a_directory_with_other_names_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        for found in ["file", ".twinshare-12", ".twinshare-XYZW"] {
            let path = directory.path().join(found);
            std::fs::write(&path, b"").unwrap();
            let error = Layout::clone_at(directory.path()).unwrap_err();
            assert!(error.to_string().contains(&format!("`{found}`")), "{error}");
            std::fs::remove_file(path).unwrap();
        }
        drop(Layout::clone_at(directory.path()).unwrap());
        std::fs::write(directory.path().join("zz"), b"").unwrap();
        assert!(matches!(Layout::clone_at(directory.path()), Err(LayoutError::NotEmpty { .. })));
    }

    #[test]
    fn a_clone_is_the_one_that_was_named() {
        let directory = tempfile::tempdir().unwrap();
        drop(Layout::clone_as(directory.path(), ".twinshare-00aa").unwrap());
        assert_eq!(names(directory.path()), [".twinshare-00aa"]);
        let other = Layout::clone_as(directory.path(), ".twinshare-00ab");
        assert!(matches!(other, Err(LayoutError::NotEmpty { .. })), "{other:?}");
        drop(Layout::clone_as(directory.path(), ".twinshare-00aa").unwrap());
        assert_eq!(names(directory.path()), [".twinshare-00aa"]);
    }

    #[test]
    fn a_view_lies_in_the_directory_itself() {
        let directory = tempfile::tempdir().unwrap();
        let view = Layout::view_in(&directory.path().join("v")).unwrap();
        assert_eq!(names(view.path()), ["README", "companions", "links", "staging", "tree"]);
    }

    #[test]
    fn a_symlink_in_place_of_a_part_is_not_followed() {
        let directory = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink("/tmp", directory.path().join("tree")).unwrap();
        assert!(matches!(Layout::view_in(directory.path()), Err(LayoutError::Disk { .. })));
    }
}
