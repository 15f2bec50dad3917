//! Building the manifest of directories on this disk.
//!
//! Directories are listed by several threads and appended by one, in the order in which they were found: that is
//! breadth-first, the order of a manifest. Nothing waits for a whole level, and what is held in memory is the queue
//! of directories still to be listed and the listings of a bounded number of them ([`AHEAD`]).
//!
//! The tree may change under the walk. Each directory is listed again until it did not change while it was listed;
//! what vanished in between is simply absent. The walk never follows a symbolic link, never leaves the filesystem of
//! its root ([confined](crate::beneath)), and never stops for what it may not read: that is listed in the manifest's
//! [`LeftOutList`], as is all else that does not travel.
//!
//! Two walks over a tree that did not change give the same bytes, whatever the number of threads. What differs
//! between two equal trees on one disk (inode numbers, ctimes) goes into the stamps beside the manifest, from which
//! the [local origin](crate::origin::local) tells one version of a file from the next; the manifest holds a digest of
//! them, so that a snapshot's id stands for the versions of its files, too.

use std::collections::VecDeque;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

use rustix::fs::{AtFlags, Statx, StatxFlags};

use super::{
    Builder, DEPTH_MAX, EntryIndex, Kind, LeftOut, LeftOutList, LeftOutReason, Manifest, ManifestError, Meta,
    ROOTS_MAX,
};
use crate::git::Surroundings;
use crate::origin::stamps::{Stamp, StampsWriter};

mod content;
mod entry;
mod links;
mod listing;
mod root;
mod target;
mod workers;
mod xattr;

pub(crate) use content::holes;
use listing::{Directory, Listed};
pub use root::DirectoryId;
use root::Root;
pub(crate) use xattr::read_open as open_xattrs;

/// The manifest's name in the directory of a snapshot.
pub const MANIFEST_FILE: &str = "manifest";
/// The name of the stamps beside it: which version of each file is meant.
pub const STAMPS_FILE: &str = "stamps";

/// Directories listed ahead of the one that is appended, for each thread.
const AHEAD: usize = 64;

/// Threads at most; beyond it the one that appends is the bottleneck.
const THREADS_MAX: usize = 16;

/// How to walk.
#[derive(Clone, Debug)]
pub struct WalkOptions<'w> {
    /// Threads that list directories, at least 1 and at most 16.
    pub threads: usize,
    /// Directories that are left out with all they hold: the node's own state.
    pub exclude: &'w [DirectoryId],
    /// Ends the walk soon after it becomes true.
    pub cancel: &'w AtomicBool,
    /// Where to count.
    pub progress: &'w WalkProgress,
}

/// How far a walk has come; read it from any thread.
#[derive(Debug, Default)]
pub struct WalkProgress {
    /// Directories appended.
    pub directories: AtomicU64,
    /// Entries of all kinds appended.
    pub entries: AtomicU64,
    /// Bytes of the files among them; those with several names count for each.
    pub bytes: AtomicU64,
}

/// Why a walk failed as a whole. What concerns a single entry is in the manifest's [`LeftOutList`] instead.
#[derive(Debug, thiserror::Error)]
pub enum WalkError {
    /// The cancel flag was set.
    #[error("the walk was cancelled")]
    Cancelled,
    /// A root's path is not absolute or holds `..`, or there are none or too many.
    #[error("a manifest has between 1 and {ROOTS_MAX} roots with absolute paths, without `..`; {} is none of them", .0.display())]
    NotARoot(PathBuf),
    /// A root cannot be opened.
    #[error("the directory {} cannot be opened", path.display())]
    Root {
        /// Its path.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A companion contains the workspace, which would be in the manifest twice.
    #[error("the companion {} contains the workspace {}: share it alone, or without this companion", companion.display(), workspace.display())]
    Contains {
        /// The companion.
        companion: PathBuf,
        /// The workspace.
        workspace: PathBuf,
    },
    /// The machine ran out of something (descriptors, memory): a manifest would lack entries for no fault of theirs.
    #[error("a directory could not be listed")]
    Exhausted(#[source] io::Error),
    /// The manifest could not be written.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    /// The stamps could not be written.
    #[error("the manifest's stamps")]
    Stamps(#[source] io::Error),
}

/// Walks `roots`, the workspace first and then its companions, and puts [`MANIFEST_FILE`] and [`STAMPS_FILE`] into
/// `directory`, durably, the manifest first.
///
/// A companion whose path lies inside the workspace or inside another companion is not walked twice: it is no root of
/// its own. One that contains the workspace is refused. Blocks for as long as the walk takes (100,000 files: about half
/// a second of each of two cores when the metadata is cached).
pub fn build(directory: &Path, roots: &[PathBuf], options: &WalkOptions<'_>) -> Result<Manifest, WalkError> {
    let roots = root::open(roots)?;
    let meta = Meta { roots: roots.iter().map(|root| root.path.as_os_str().as_bytes().to_vec()).collect() };
    let entries = roots.iter().map(|root| root.entry.clone()).collect();
    let builder = Builder::new(&directory.join(MANIFEST_FILE), &meta, entries)?;
    let stamps = StampsWriter::new(&directory.join(STAMPS_FILE)).map_err(WalkError::Stamps)?;
    let mut walk = Walk {
        builder,
        stamps,
        queue: VecDeque::new(),
        entries: 0,
        links: links::Links::default(),
        left_out: LeftOutList::default(),
        progress: options.progress,
    };
    walk.push_roots(&roots)?;
    workers::run(&roots, options, &mut walk)?;
    walk.finish()
}

/// What the appending thread holds.
struct Walk<'w> {
    builder: Builder,
    stamps: StampsWriter,
    /// Directories found and not handed out yet, in manifest order.
    queue: VecDeque<Directory>,
    entries: u32,
    links: links::Links,
    left_out: LeftOutList,
    progress: &'w WalkProgress,
}

impl Walk<'_> {
    fn push_roots(&mut self, roots: &[Root]) -> Result<(), WalkError> {
        for (at, root) in roots.iter().enumerate() {
            self.stamps.push(&root.stamp).map_err(WalkError::Stamps)?;
            self.queue.push_back(Directory {
                root: at,
                path: Vec::new(),
                parent: Surroundings::default(),
                closed: false,
            });
            self.left_out.named.extend(root.left_out.iter().cloned().map(|reason| LeftOut {
                root: at as u32,
                path: Vec::new(),
                reason,
            }));
        }
        self.left_out.total = self.left_out.named.len() as u64;
        self.entries = roots.len() as u32;
        Ok(())
    }

    /// Appends the listing of the directory whose turn it is.
    fn append(&mut self, directory: &Directory, listed: Listed) -> Result<(), WalkError> {
        let root = directory.root as u32;
        for (name, reason) in listed.left_out {
            self.left_out.push(LeftOut { root, path: directory.path_of(&name), reason });
        }
        let mut entries = Vec::with_capacity(listed.found.len());
        let deepest = directory.is_deepest();
        for found in listed.found {
            if deepest && found.entry.kind == Kind::Directory {
                let path = directory.path_of(found.entry.name.as_bytes());
                let reason = LeftOutReason::Limit(format!("more than {DEPTH_MAX} directories deep"));
                self.left_out.push(LeftOut { root, path, reason });
                continue;
            }
            let index = EntryIndex(self.entries);
            let found = self.links.join(directory.root, index, found);
            self.entries += 1;
            self.stamps.push(&found.stamp).map_err(WalkError::Stamps)?;
            self.progress.bytes.fetch_add(found.entry.size, Relaxed);
            if found.entry.kind == Kind::Directory {
                self.queue.push_back(Directory {
                    root: directory.root,
                    path: directory.path_of(found.entry.name.as_bytes()),
                    parent: listed.surroundings,
                    closed: found.closed,
                });
            }
            entries.push(found.entry);
        }
        self.progress.entries.fetch_add(entries.len() as u64, Relaxed);
        self.progress.directories.fetch_add(1, Relaxed);
        self.builder.list(entries)?;
        Ok(())
    }

    fn finish(mut self) -> Result<Manifest, WalkError> {
        for (index, nlink) in self.links.counts() {
            self.builder.set_nlink(index, nlink)?;
        }
        let manifest = self.builder.finish(&self.left_out, self.stamps.versions())?;
        self.stamps.finish(manifest.snapshot()).map_err(WalkError::Stamps)?;
        Ok(manifest)
    }
}

/// What `statx` knows about `name` in a directory, or about the descriptor itself where the name is empty.
fn stat(at: impl AsFd, name: &[u8], flags: AtFlags) -> rustix::io::Result<Statx> {
    let flags = flags | AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT | AtFlags::EMPTY_PATH;
    rustix::fs::statx(at, name, flags, StatxFlags::BASIC_STATS)
}

#[cfg(test)]
mod tests;
