//! What an unfinished file or directory says about itself: one xattr on its inode.
//!
//! It moves with renames, dies with unlink, and becomes durable with the inode's own fsync. What has none is ordinary,
//! complete and local, and the disk is the truth about it. Which blocks of a file are here is not in it: that is the
//! file's own extent map.
//!
//! All integers are little-endian:
//!
//! | at | bytes | what |
//! |---|---|---|
//! | 0 | 1 | the version, 1 |
//! | 1 | 1 | flags: 1 the manifest's names no longer show in it |
//! | 2 | 2 | the true mode |
//! | 4 | 4 | the manifest index of the inode's first name; all ones for what was made here |
//! | 8 | 8 | the shown mtime's seconds, signed |
//! | 16 | 4 | its nanoseconds |
//! | 20 | 8 | the remote length: blocks beyond it are not fetched |
//! | 28 | 8 | the shown ctime's seconds, signed |
//! | 36 | 4 | its nanoseconds |

use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use rustix::fs::XattrFlags;
use rustix::io::Errno;

use crate::manifest::{Entry, EntryIndex, Mtime};

/// The xattr's name.
pub(super) const XATTR: &str = "user.twinshare";

/// True for the names of xattrs that say something to a replica alone.
pub(super) fn is_ours(name: &[u8]) -> bool {
    name.strip_prefix(XATTR.as_bytes()).is_some_and(|rest| rest.is_empty() || rest.starts_with(b"."))
}

/// The namespace of xattrs that ordinary programs use, and the only one that is kept.
pub(super) const USER: &[u8] = b"user.";

/// Bytes of all names of an inode's xattrs at most (`XATTR_LIST_MAX`), and of a value (`XATTR_SIZE_MAX`).
const XATTR_BYTES_MAX: usize = 64 * 1024;

/// The value of an xattr, or the names of all, from a call that puts it into a buffer.
pub(super) fn xattr_by(read: impl FnOnce(&mut [u8]) -> Result<usize, Errno>) -> Result<Vec<u8>, Errno> {
    let mut bytes = vec![0; XATTR_BYTES_MAX];
    let length = read(&mut bytes)?;
    bytes.truncate(length);
    Ok(bytes)
}

/// Of the names that the disk lists, each ended by a NUL, those that are of the file and not ours.
pub(super) fn others(names: &[u8]) -> impl Iterator<Item = &[u8]> {
    names.split(|byte| *byte == 0).filter(|name| name.starts_with(USER) && !is_ours(name))
}

/// Names as `listxattr(2)` tells them: each followed by a NUL.
pub(super) fn ended<'n>(names: impl Iterator<Item = &'n [u8]>) -> Vec<u8> {
    names.flat_map(|name| name.iter().copied().chain([0])).collect()
}

/// Bytes of the encoded state. Up to 56 fit into an ext4 inode of 256 bytes beside its own fields.
const STATE_BYTES: usize = 40;
const VERSION: u8 = 1;

const COMPLETE: u8 = 1;

/// Stands for no manifest index: no manifest has so many entries.
const MADE_HERE: u32 = u32::MAX;

/// The state of an unfinished file or directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct State {
    /// The inode's first name in the manifest; none for what was made here.
    pub(super) index: Option<EntryIndex>,
    /// A directory in which the manifest's names no longer show.
    pub(super) complete: bool,
    /// Its permission bits, `0o7777` at most.
    pub(super) mode: u16,
    /// The mtime the mount shows.
    pub(super) mtime: Mtime,
    /// The ctime the mount shows.
    pub(super) ctime: Mtime,
    /// Bytes of the file that come from the origin; beyond them it is local.
    pub(super) remote_bytes: u64,
}

impl State {
    /// That of what has just been placed for `entry`, shown with these permission bits.
    pub(super) fn of(entry: &Entry<'_>, mode: u16) -> Self {
        Self {
            index: Some(entry.inode()),
            complete: false,
            mode,
            mtime: entry.mtime(),
            ctime: entry.mtime(),
            remote_bytes: entry.size(),
        }
    }

    fn encode(&self) -> [u8; STATE_BYTES] {
        let mut out = [0; STATE_BYTES];
        out[0] = VERSION;
        out[1] = if self.complete { COMPLETE } else { 0 };
        out[2..4].copy_from_slice(&self.mode.to_le_bytes());
        out[4..8].copy_from_slice(&self.index.map_or(MADE_HERE, |index| index.0).to_le_bytes());
        out[8..16].copy_from_slice(&self.mtime.sec.to_le_bytes());
        out[16..20].copy_from_slice(&self.mtime.nsec.to_le_bytes());
        out[20..28].copy_from_slice(&self.remote_bytes.to_le_bytes());
        out[28..36].copy_from_slice(&self.ctime.sec.to_le_bytes());
        out[36..40].copy_from_slice(&self.ctime.nsec.to_le_bytes());
        out
    }

    /// The state in `bytes`; `None` for anything this version does not write.
    fn decode(bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; STATE_BYTES] = bytes.try_into().ok()?;
        let flags = bytes[1];
        if bytes[0] != VERSION || flags & !COMPLETE != 0 {
            return None;
        }
        let u32_at = |at: usize| Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?));
        let u64_at = |at: usize| Some(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?));
        let time_at = |at: usize| {
            let nsec = u32_at(at + 8).filter(|nsec| *nsec < 1_000_000_000)?;
            Some(Mtime { sec: u64_at(at)?.cast_signed(), nsec })
        };
        Some(Self {
            index: Some(u32_at(4)?).filter(|index| *index != MADE_HERE).map(EntryIndex),
            complete: flags & COMPLETE != 0,
            mode: u16::from_le_bytes([bytes[2], bytes[3]]),
            mtime: time_at(8)?,
            ctime: time_at(28)?,
            remote_bytes: u64_at(20)?,
        })
    }
}

/// What stands for the number of a file, in a view, where others have their index. All numbers that a disk will ever hold
/// are told apart by the file's name; this is a check of it.
pub(super) fn numbered(number: u64) -> EntryIndex {
    EntryIndex((number % u64::from(MADE_HERE)) as u32)
}

/// What a file says about itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stated {
    /// An ordinary, complete, local file.
    Nothing,
    /// It is unfinished.
    Unfinished(State),
    /// Something this version cannot read.
    Unknown,
}

/// Gives an unfinished file its state. Must come before its size and its name.
pub(super) fn set(file: impl AsFd, state: &State) -> Result<(), Errno> {
    rustix::fs::fsetxattr(file, XATTR, &state.encode(), XattrFlags::empty())
}

/// Makes an unfinished file an ordinary one; nothing for one that is.
pub(super) fn remove(file: impl AsFd) -> Result<(), Errno> {
    match rustix::fs::fremovexattr(file, XATTR) {
        Ok(()) | Err(Errno::NODATA) => Ok(()),
        Err(errno) => Err(errno),
    }
}

/// Reads a file's state.
pub(super) fn get(file: impl AsFd) -> Result<Stated, Errno> {
    let mut bytes = [0; 64];
    let length = rustix::fs::fgetxattr(file, XATTR, &mut bytes[..]);
    read(length, &bytes)
}

/// Reads the state of what is called `name` in `directory`, without opening it.
pub(super) fn get_at(directory: BorrowedFd<'_>, name: &[u8]) -> Result<Stated, Errno> {
    let mut bytes = [0; 64];
    let path = [format!("/proc/self/fd/{}/", directory.as_raw_fd()).as_bytes(), name].concat();
    let length = rustix::fs::lgetxattr(path, XATTR, &mut bytes[..]);
    read(length, &bytes)
}

fn read(length: Result<usize, Errno>, bytes: &[u8]) -> Result<Stated, Errno> {
    match length {
        Ok(length) => Ok(State::decode(&bytes[..length]).map_or(Stated::Unknown, Stated::Unfinished)),
        Err(Errno::NODATA) => Ok(Stated::Nothing),
        Err(Errno::RANGE) => Ok(Stated::Unknown),
        Err(errno) => Err(errno),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STATE: State = State {
        index: Some(EntryIndex(0x0102_0304)),
        complete: false,
        mode: 0o1755,
        mtime: Mtime { sec: -2, nsec: 999_999_999 },
        ctime: Mtime { sec: 5, nsec: 6 },
        remote_bytes: 0x1122_3344_5566_7788,
    };

    #[test]
    fn the_bytes_are_these() {
        let expected: [u8; STATE_BYTES] = [
            1, 0, 0xed, 0x03, 4, 3, 2, 1, 0xfe, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xc9, 0x9a,
            0x3b, 0x88, 0x77, 0x66, 0x55, 0x44, 0x33, 0x22, 0x11, 5, 0, 0, 0, 0, 0, 0, 0, 6, 0, 0, 0,
        ];
        assert_eq!(STATE.encode(), expected);
        assert_eq!(State::decode(&expected), Some(STATE));
        let made_here = State { index: None, complete: true, ..STATE };
        assert_eq!(made_here.encode()[1..8], [1, 0xed, 0x03, 0xff, 0xff, 0xff, 0xff][..]);
        assert_eq!(State::decode(&made_here.encode()), Some(made_here));
    }

    #[test]
    fn other_bytes_are_no_state() {
        let good = STATE.encode();
        let changed = |at: usize, to: u8| {
            let mut bytes = good;
            bytes[at] = to;
            bytes
        };
        assert_eq!(State::decode(&good[..39]), None);
        assert_eq!(State::decode(&[&good[..], &[0]].concat()), None);
        assert_eq!(State::decode(&changed(0, 2)), None);
        assert_eq!(State::decode(&changed(1, 2)), None);
        assert_eq!(State::decode(&changed(19, 0xff)), None);
        assert_eq!(State::decode(&changed(39, 0xff)), None);
    }

    #[test]
    fn a_file_keeps_its_state() {
        let file = tempfile::tempfile().unwrap();
        assert_eq!(get(&file), Ok(Stated::Nothing));
        set(&file, &STATE).unwrap();
        assert_eq!(get(&file), Ok(Stated::Unfinished(STATE)));
        for strange in [&b"x"[..], &[7; 100]] {
            rustix::fs::fsetxattr(&file, XATTR, strange, XattrFlags::empty()).unwrap();
            assert_eq!(get(&file), Ok(Stated::Unknown));
        }
    }
}
