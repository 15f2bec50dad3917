//! The true modes and times of a finished tree's directories.
//!
//! Those below before those above: making something in a directory changes its time, and a mode may forbid to reach
//! what lies beneath. For the same reason what cannot be opened any more has been done already, with all beneath it.

use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::OFlags;
use rustix::io::Errno;

use super::finish::{FinishError, apply as apply_to};
use super::layout::Layout;
use crate::beneath;
use crate::manifest::{EntryIndex, Kind, Manifest};

/// Permission bits without which a directory's own user cannot work in it.
pub(super) const OPEN: u16 = 0o700;

/// Gives the directories whose true mode `wanted` picks that mode, and their times and xattrs. `tops` are the roots'
/// own directories; the workspace's own is left as it is.
pub(super) fn apply(
    manifest: &Manifest,
    tops: &[OwnedFd],
    wanted: impl Fn(u16) -> bool,
) -> Result<(), FinishError> {
    for index in (1..manifest.entries()).rev().map(EntryIndex) {
        let entry = manifest.entry(index).ok_or(FinishError::Manifest)?;
        if entry.kind() != Kind::Directory || !wanted(entry.mode()) {
            continue;
        }
        let (root, path) = manifest.locate(index).ok_or(FinishError::Manifest)?;
        let top = tops.get(root.0 as usize).ok_or(FinishError::Manifest)?;
        let applied = match beneath::open(top.as_fd(), path.as_bytes(), OFlags::RDONLY | OFlags::DIRECTORY) {
            Ok(directory) => apply_to(&directory, &entry.extra(), entry.mode(), entry.mtime()),
            Err(Errno::ACCESS) => Ok(()),
            Err(errno) => Err(errno),
        };
        applied.map_err(|source| FinishError::Disk {
            path: path.to_string(),
            doing: "its mode and time cannot be set",
            source,
        })?;
    }
    Ok(())
}

/// The roots' own directories, where they are in the making.
pub(super) fn tops(layout: &Layout, manifest: &Manifest) -> Result<Vec<OwnedFd>, FinishError> {
    let open = |root| {
        let (top, path) = layout.below(manifest, root).ok_or(FinishError::Manifest)?;
        beneath::open(top, path.as_bytes(), OFlags::RDONLY | OFlags::DIRECTORY).map_err(|source| {
            FinishError::Disk { path: path.to_string(), doing: "it cannot be opened", source }
        })
    };
    manifest.roots().map(open).collect()
}
