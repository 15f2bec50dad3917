//! The true modes and times of a finished tree's directories.
//!
//! Those below before those above: making something in a directory changes its time, and a mode may forbid to reach
//! what lies beneath. For the same reason what cannot be opened any more has been done already, with all beneath it.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{FileType, Mode, OFlags};
use rustix::io::Errno;

use super::finish::{FinishError, apply as apply_to, times};
use super::layout::Layout;
use super::state::{self, State, Stated};
use crate::beneath;
use crate::manifest::{EntryIndex, Kind, Manifest};

/// Permission bits without which a directory's own user cannot work in it.
pub(super) const OPEN: u16 = 0o700;

/// Gives the directories whose true mode `wanted` picks that mode, and their times and xattrs. `tops` are the roots'
/// own directories; the workspace's own is left as it is, and so is everything in roots before the `first`.
pub(super) fn apply(
    manifest: &Manifest,
    tops: &[OwnedFd],
    first: u32,
    wanted: impl Fn(u16) -> bool,
) -> Result<(), FinishError> {
    for index in (1..manifest.entries()).rev().map(EntryIndex) {
        let entry = manifest.entry(index).ok_or(FinishError::Manifest)?;
        if entry.kind() != Kind::Directory || !wanted(entry.mode()) {
            continue;
        }
        let (root, path) = manifest.locate(index).ok_or(FinishError::Manifest)?;
        if root.0 < first {
            continue;
        }
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

/// Gives the directories below `top` that still have a state their true mode and times, and takes the state from them.
/// `ours` is not looked into.
pub(super) fn finish_all(top: BorrowedFd<'_>, ours: &[u8]) -> Result<(), Errno> {
    let (mut unfinished, mut directories) = (Vec::new(), vec![Vec::new()]);
    while let Some(path) = directories.pop() {
        let directory = match beneath::open(top, &path, OFlags::RDONLY | OFlags::DIRECTORY) {
            Ok(directory) => directory,
            // It was finished, with all beneath it.
            Err(Errno::ACCESS) => continue,
            Err(errno) => return Err(errno),
        };
        let mut entries = rustix::fs::Dir::read_from(&directory)?;
        while let Some(entry) = entries.read() {
            let entry = entry?;
            let name = entry.file_name().to_bytes();
            let is_wanted = entry.file_type() == FileType::Directory && !matches!(name, b"." | b"..");
            if is_wanted && !(path.is_empty() && name == ours) {
                directories.push(if path.is_empty() {
                    name.to_vec()
                } else {
                    [&path, b"/".as_slice(), name].concat()
                });
            }
        }
        if !path.is_empty()
            && let Stated::Unfinished(state) = state::get(&directory)?
        {
            unfinished.push((path, state));
        }
    }
    // Those below come after those above, and must be done before them.
    for (path, state) in unfinished.into_iter().rev() {
        finish(&beneath::open(top, &path, OFlags::RDONLY | OFlags::DIRECTORY)?, &state)?;
    }
    Ok(())
}

/// Makes an ordinary directory of one of which everything is on the disk: its times, then its mode, the state before
/// the mode, which may forbid to take it.
pub(super) fn finish(directory: &OwnedFd, state: &State) -> Result<(), Errno> {
    rustix::fs::futimens(directory, &times(state.mtime))?;
    state::remove(directory)?;
    rustix::fs::fchmod(directory, Mode::from_raw_mode(state.mode.into()))
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
