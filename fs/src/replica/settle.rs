//! The last steps of a clone: its finished tree moves up to where it stays, and nothing of ours is left.
//!
//! 1. While it is still mounted, [`move_up`] renames what lies in the tree into the directory above, beneath the mount.
//!    Names are looked up in the tree first and then above, so no lookup ever fails.
//! 2. It is unmounted, by whoever mounted it: plainly, when the kernel finds nobody in it.
//! 3. [`conclude`] removes what is ours, and applies what had to wait.
//!
//! Once the first step has begun the clone can only go on: after an interruption, [`conclude`] alone does what is left.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::fs::{OFlags, RenameFlags};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use super::directories;
use super::finish::{FinishError, apply};
use super::layout::{Layout, LayoutError};
use super::names::Names;
use super::state::{self, State, Stated};
use crate::beneath;
use crate::manifest::{EntryIndex, Extra, Manifest, ManifestError, Mtime};

/// Name of the file, among what is kept, that says what the clone's own directory is like in the end.
const TOP: &str = "top";

/// Why the last steps cannot be taken. Nothing is lost: they can be tried again.
#[derive(Debug, thiserror::Error)]
pub enum SettleError {
    /// It is a view, whose tree stays where it is.
    #[error("a view does not settle")]
    View,
    /// The clone's directory cannot be opened.
    #[error(transparent)]
    Layout(#[from] LayoutError),
    /// It is not finished.
    #[error("{} is not complete", .path.display())]
    Unfinished {
        /// The clone's directory.
        path: PathBuf,
    },
    /// Its manifest cannot be read.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    /// A directory's mode or time cannot be applied.
    #[error(transparent)]
    Finish(#[from] FinishError),
    /// The disk failed.
    #[error("{}: {doing}", .path.display())]
    Disk {
        /// What is concerned.
        path: PathBuf,
        /// What was tried.
        doing: &'static str,
        /// What the system said.
        source: io::Error,
    },
}

/// Renames the names in the tree of a finished clone into the directory above. May be repeated.
pub(super) fn move_up(layout: &Layout) -> Result<(), SettleError> {
    let disk = |doing, errno: Errno| disk(layout.path(), doing, errno.into());
    let above = layout.settle().map_err(|errno| disk("it cannot be marked", errno))?;
    let above = above.ok_or(SettleError::View)?;
    let tree = layout.tree();
    for name in beneath::names(tree, b"").map_err(|errno| disk("its tree cannot be listed", errno))? {
        let name = name.as_slice();
        rustix::fs::renameat_with(tree, name, above, name, RenameFlags::NOREPLACE).map_err(|errno| {
            let path = layout.path().join(OsStr::from_bytes(name));
            self::disk(&path, "it cannot be moved up", errno.into())
        })?;
    }
    rustix::fs::fsync(above).map_err(|errno| disk("its directory cannot be written back", errno))
}

/// As [`move_up`], of a tree whose names can be changed meanwhile.
pub(super) fn move_names_up(layout: &Layout, names: &Names) -> Result<(), SettleError> {
    names.move_up().map_err(|error| disk(layout.path(), "its tree cannot be moved up", error.into()))
}

/// Makes an ordinary directory of the clone at `directory`, whose tree has begun to move up and which is not mounted
/// any more. `name` is that of its replica's directory.
///
/// What a node keeps of it goes to `keep`, which is made: the manifest and the digests, and the companions' trees, each
/// called by its number. May be repeated after any interruption, with the same `keep`. Blocks; `keep` on another
/// filesystem means copying the companions.
pub fn conclude(directory: &Path, name: &str, keep: &Path) -> Result<(), SettleError> {
    let ours = directory.join(name);
    match fs::symlink_metadata(&ours) {
        Ok(_) => {
            let layout = Layout::clone_as(directory, name)?;
            if layout.settled().is_none() {
                return Err(SettleError::Unfinished { path: directory.into() });
            }
            leave(&layout, directory, keep)?;
            drop(layout);
            fs::remove_dir_all(&ours).map_err(|source| disk(&ours, "it cannot be removed", source))?;
        }
        // It was removed before an interruption; where it cannot be looked for, the true mode is there already.
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::PermissionDenied) => {}
        Err(source) => return Err(disk(&ours, "it cannot be looked at", source)),
    }
    close(directory, keep)
}

/// Brings everything out of the replica's directory to where it stays.
fn leave(layout: &Layout, directory: &Path, keep: &Path) -> Result<(), SettleError> {
    let manifest_path = layout.manifest_path();
    if !manifest_path.exists() {
        // It is removed last: an earlier attempt came that far.
        return Ok(());
    }
    move_up(layout)?;
    let manifest = Manifest::open(&manifest_path)?;
    keep_what_is_needed(layout, keep)?;
    let above = layout.settled().ok_or(SettleError::View)?.try_clone_to_owned();
    let mut tops = vec![above.map_err(|source| disk(directory, "it cannot be opened", source))?];
    for root in manifest.roots().skip(1) {
        let path = keep.join(root.0.to_string());
        let opened = File::open(&path).map_err(|source| disk(&path, "it cannot be opened", source))?;
        tops.push(opened.into());
    }
    // A tree that could be changed says itself what it is like.
    let changed =
        match state::get(layout.tree()).map_err(|errno| disk(directory, "its state", errno.into()))? {
            Stated::Unfinished(state) => Some(state),
            Stated::Nothing | Stated::Unknown => None,
        };
    if changed.is_some() {
        let name = layout.path().file_name().unwrap_or_default().as_bytes();
        directories::finish_all(tops[0].as_fd(), name)
            .map_err(|errno| disk(directory, "the modes of its directories cannot be set", errno.into()))?;
    }
    let first = u32::from(changed.is_some());
    directories::apply(&manifest, &tops, first, |mode| mode & directories::OPEN != directories::OPEN)?;
    let root = manifest.entry(EntryIndex(0)).ok_or(FinishError::Manifest)?;
    let top = match changed {
        Some(State { mode, mtime, .. }) => Top {
            extra: xattrs(layout)
                .map_err(|errno| disk(directory, "its xattrs cannot be read", errno.into()))?,
            mode,
            mtime,
        },
        None => Top { extra: root.extra(), mode: root.mode(), mtime: root.mtime() },
    };
    top.save(keep).map_err(|source| disk(keep, "what is kept of the clone cannot be put there", source))?;
    // Before anything else of ours goes, durably: what is found without it only has to be removed.
    fs::remove_file(&manifest_path)
        .map_err(|source| disk(layout.path(), "its manifest cannot be removed", source))?;
    rustix::fs::fsync(layout.directory())
        .map_err(|errno| disk(layout.path(), "it cannot be written back", errno.into()))
}

/// What the clone's own directory is like in the end: known before the last of ours goes, and applied after it.
#[derive(Debug, Serialize, Deserialize)]
struct Top {
    extra: Extra,
    mode: u16,
    mtime: Mtime,
}

impl Top {
    fn save(&self, keep: &Path) -> io::Result<()> {
        let bytes = postcard::to_allocvec(self).map_err(io::Error::other)?;
        let mut file = File::create(keep.join(TOP))?;
        file.write_all(&bytes)?;
        file.sync_all()?;
        File::open(keep)?.sync_all()
    }

    fn load(keep: &Path) -> io::Result<Self> {
        postcard::from_bytes(&fs::read(keep.join(TOP))?).map_err(io::Error::other)
    }
}

/// Gives the clone's own directory what it has in the end.
fn close(directory: &Path, keep: &Path) -> Result<(), SettleError> {
    let Top { extra, mode, mtime } =
        Top::load(keep).map_err(|source| disk(keep, "what is kept of the clone cannot be read", source))?;
    let above = match File::open(directory) {
        Ok(above) => above,
        // Its own user may not open it: it has its true mode.
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => return Ok(()),
        Err(source) => return Err(disk(directory, "it cannot be opened", source)),
    };
    apply(&above, &extra, mode, mtime)
        .and_then(|()| rustix::fs::fsync(&above))
        .map_err(|errno| disk(directory, "its mode and time cannot be set", errno.into()))
}

/// The xattrs of the tree's own directory, without ours.
fn xattrs(layout: &Layout) -> Result<Extra, Errno> {
    let tree = beneath::open(layout.tree(), b"", OFlags::RDONLY | OFlags::DIRECTORY)?;
    let names = state::xattr_by(|names| rustix::fs::flistxattr(&tree, names))?;
    let mut found = Extra::default();
    for name in state::others(&names) {
        let value = state::xattr_by(|value| rustix::fs::fgetxattr(&tree, name, value))?;
        found.xattrs.push((name.to_vec(), value));
    }
    Ok(found)
}

/// Brings the manifest, the digests and the companions to `keep`, durably.
fn keep_what_is_needed(layout: &Layout, keep: &Path) -> Result<(), SettleError> {
    let failed = |source| disk(keep, "what is kept of the clone cannot be put there", source);
    fs::create_dir_all(keep).map_err(failed)?;
    for name in ["manifest", "digests"] {
        let (from, to) = (layout.path().join(name), keep.join(name));
        fs::copy(&from, &to).and_then(|_| File::open(&to)?.sync_all()).map_err(failed)?;
    }
    let companions = layout.path().join("companions");
    for entry in fs::read_dir(&companions).map_err(failed)? {
        let from = entry.map_err(failed)?.path();
        let to = keep.join(from.file_name().unwrap_or_default());
        match rustix::fs::renameat(rustix::fs::CWD, &from, rustix::fs::CWD, &to) {
            Ok(()) => {}
            Err(Errno::XDEV) => copy_tree(&from, &to).map_err(failed)?,
            Err(errno) => return Err(failed(errno.into())),
        }
    }
    rustix::fs::syncfs(&File::open(keep).map_err(failed)?).map_err(|errno| failed(errno.into()))
}

/// Copies a tree with all that belongs to it; a copy that was begun before is made anew.
fn copy_tree(from: &Path, to: &Path) -> io::Result<()> {
    let partial = to.with_extension("partial");
    for leftover in [&partial, to] {
        match fs::remove_dir_all(leftover) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    // It keeps links, times, xattrs and holes, and shares extents where it can.
    let copied = Command::new("cp").args(["-a", "--reflink=auto", "--"]).args([from, &partial]).output()?;
    if !copied.status.success() {
        return Err(io::Error::other(String::from_utf8_lossy(&copied.stderr).into_owned()));
    }
    fs::rename(&partial, to)
}

fn disk(path: &Path, doing: &'static str, source: io::Error) -> SettleError {
    SettleError::Disk { path: path.into(), doing, source }
}
