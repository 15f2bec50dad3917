//! The two things a walk learns from inside a file: the text of a git configuration, and where a sparse file has holes.

use std::fs::File;
use std::io::{self, Read};
use std::ops::Range;
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{AtFlags, FileType, OFlags, SeekFrom, Statx};
use rustix::io::Errno;

use super::{Stamp, stat};
use crate::beneath;
use crate::clock;
use crate::git::shown_config;
use crate::manifest::{Extra, HOLES_MAX, LeftOutReason};

/// How often a file is read that changes while it is.
const TRIES: u32 = 4;

/// Bytes of a git configuration that are read at most. What is made of it is bounded by `GIT_CONFIG_BYTES_MAX`.
const CONFIG_BYTES_MAX: u64 = 1024 * 1024;

/// Holes looked for at most; behind the last one everything counts as data.
const HOLES_SEEN_MAX: usize = 4 * HOLES_MAX;

#[derive(Clone, Copy)]
pub(super) enum Wanted {
    Config,
    Holes,
}

pub(super) struct Inspected {
    /// The properties of the version that was looked into.
    pub(super) stat: Statx,
    /// The hole map, or the configuration as it is shown.
    pub(super) extra: Extra,
    pub(super) left_out: Option<LeftOutReason>,
}

/// Looks into the file `name`, whose properties were `stat`. What cannot be had is as if it were not there: no holes,
/// a configuration that says nothing.
pub(super) fn inspect(directory: &OwnedFd, name: &[u8], wanted: Wanted, mut stat: Statx) -> Inspected {
    let mut left_out = Some(LeftOutReason::Unsettled);
    for _ in 0..TRIES {
        match try_inspect(directory, name, wanted, &mut stat) {
            Ok(Some((extra, left_out))) => return Inspected { stat, extra, left_out },
            Ok(None) => {}
            Err(error) => {
                left_out = Some(LeftOutReason::Unreadable(error.to_string()));
                break;
            }
        }
    }
    let git_config = matches!(wanted, Wanted::Config).then(|| shown_config(b""));
    Inspected { stat, extra: Extra { git_config, ..Extra::default() }, left_out }
}

/// `None` when the file changed meanwhile.
fn try_inspect(
    directory: &OwnedFd,
    name: &[u8],
    wanted: Wanted,
    before: &mut Statx,
) -> io::Result<Option<(Extra, Option<LeftOutReason>)>> {
    let file = File::from(beneath::open(directory.as_fd(), name, OFlags::RDONLY)?);
    let now = stat(&file, b"", AtFlags::empty())?;
    if FileType::from_raw_mode(now.stx_mode.into()) != FileType::RegularFile {
        return Ok(None);
    }
    *before = now;
    // A further change within the same step of the kernel's clock would go unnoticed for ever, and what became data
    // would be shown as zeros.
    if clock::wait_for_step(Stamp::of(&now).ctime) {
        return Ok(None);
    }
    let result = match wanted {
        Wanted::Config => config(&file)?,
        Wanted::Holes => (Extra { holes: holes(&file, now.stx_size), ..Extra::default() }, None),
    };
    let after = Stamp::of(&stat(&file, b"", AtFlags::empty())?);
    Ok((after == Stamp::of(before)).then_some(result))
}

fn config(file: &File) -> io::Result<(Extra, Option<LeftOutReason>)> {
    let mut text = Vec::new();
    file.take(CONFIG_BYTES_MAX + 1).read_to_end(&mut text)?;
    let mut left_out = None;
    if text.len() as u64 > CONFIG_BYTES_MAX {
        text.clear();
        left_out = Some(LeftOutReason::Limit("a git configuration of more than 1 MiB".into()));
    }
    Ok((Extra { git_config: Some(shown_config(&text)), ..Extra::default() }, left_out))
}

/// The holes of a file of `size` bytes: all, or the largest [`HOLES_MAX`].
pub(crate) fn holes(file: &File, size: u64) -> Vec<Range<u64>> {
    let mut holes = Vec::new();
    let mut at = 0;
    while holes.len() < HOLES_SEEN_MAX {
        let Ok(start) = rustix::fs::seek(file, SeekFrom::Hole(at)) else { break };
        if start >= size {
            break;
        }
        let end = match rustix::fs::seek(file, SeekFrom::Data(start)) {
            Ok(end) => end.min(size),
            Err(Errno::NXIO) => size,
            Err(_) => break,
        };
        // The filesystem changed its mind between the two calls: the file is being written.
        if end <= start {
            break;
        }
        holes.push(start..end);
        at = end;
    }
    if holes.len() > HOLES_MAX {
        holes.sort_unstable_by_key(|hole| std::cmp::Reverse(hole.end - hole.start));
        holes.truncate(HOLES_MAX);
        holes.sort_unstable_by_key(|hole| hole.start);
    }
    holes
}
