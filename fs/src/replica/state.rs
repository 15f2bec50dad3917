//! What an unfinished file says about itself: one xattr on its inode.
//!
//! It moves with renames, dies with unlink, and becomes durable with the inode's own fsync. A file without it is an
//! ordinary, complete, local file. Which blocks are here is not in it: that is the file's own extent map.
//!
//! All integers are little-endian:
//!
//! | at | bytes | what |
//! |---|---|---|
//! | 0 | 1 | the version, 1 |
//! | 1 | 1 | zero |
//! | 2 | 2 | the true mode |
//! | 4 | 4 | the manifest index of the inode's first name |
//! | 8 | 8 | the shown mtime's seconds, signed |
//! | 16 | 4 | its nanoseconds |
//! | 20 | 8 | the remote length: blocks beyond it are not fetched |

use std::os::fd::AsFd;

use rustix::fs::XattrFlags;
use rustix::io::Errno;

use crate::manifest::{EntryIndex, Mtime};

/// The xattr's name.
pub(super) const XATTR: &str = "user.twinshare";

/// Bytes of the encoded state. Up to 56 fit into an ext4 inode of 256 bytes beside its own fields.
const STATE_BYTES: usize = 28;
const VERSION: u8 = 1;

/// The state of an unfinished file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct FileState {
    /// The inode's first name in the manifest.
    pub(super) index: EntryIndex,
    /// Permission bits the finished file will have.
    pub(super) mode: u16,
    /// The mtime the mount shows.
    pub(super) mtime: Mtime,
    /// Bytes of the file that the origin has.
    pub(super) remote_bytes: u64,
}

impl FileState {
    fn encode(&self) -> [u8; STATE_BYTES] {
        let mut out = [0; STATE_BYTES];
        out[0] = VERSION;
        out[2..4].copy_from_slice(&self.mode.to_le_bytes());
        out[4..8].copy_from_slice(&self.index.0.to_le_bytes());
        out[8..16].copy_from_slice(&self.mtime.sec.to_le_bytes());
        out[16..20].copy_from_slice(&self.mtime.nsec.to_le_bytes());
        out[20..28].copy_from_slice(&self.remote_bytes.to_le_bytes());
        out
    }

    /// The state in `bytes`; `None` for anything this version does not write.
    fn decode(bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; STATE_BYTES] = bytes.try_into().ok()?;
        if bytes[0..2] != [VERSION, 0] {
            return None;
        }
        let u32_at = |at: usize| Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?));
        let u64_at = |at: usize| Some(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?));
        let nsec = u32_at(16).filter(|nsec| *nsec < 1_000_000_000)?;
        Some(Self {
            index: EntryIndex(u32_at(4)?),
            mode: u16::from_le_bytes([bytes[2], bytes[3]]),
            mtime: Mtime { sec: u64_at(8)? as i64, nsec },
            remote_bytes: u64_at(20)?,
        })
    }
}

/// What a file says about itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stated {
    /// An ordinary, complete, local file.
    Nothing,
    /// It is unfinished.
    Unfinished(FileState),
    /// Something this version cannot read.
    Unknown,
}

/// Gives an unfinished file its state. Must come before its size and its name.
pub(super) fn set(file: impl AsFd, state: &FileState) -> Result<(), Errno> {
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
    match rustix::fs::fgetxattr(file, XATTR, &mut bytes[..]) {
        Ok(length) => Ok(FileState::decode(&bytes[..length]).map_or(Stated::Unknown, Stated::Unfinished)),
        Err(Errno::NODATA) => Ok(Stated::Nothing),
        Err(Errno::RANGE) => Ok(Stated::Unknown),
        Err(errno) => Err(errno),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STATE: FileState = FileState {
        index: EntryIndex(0x0102_0304),
        mode: 0o1755,
        mtime: Mtime { sec: -2, nsec: 999_999_999 },
        remote_bytes: 0x1122_3344_5566_7788,
    };

    #[test]
    fn the_bytes_are_these() {
        let expected: [u8; STATE_BYTES] = [
            1, 0, 0xed, 0x03, 4, 3, 2, 1, 0xfe, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xc9, 0x9a,
            0x3b, 0x88, 0x77, 0x66, 0x55, 0x44, 0x33, 0x22, 0x11,
        ];
        assert_eq!(STATE.encode(), expected);
        assert_eq!(FileState::decode(&expected), Some(STATE));
    }

    #[test]
    fn other_bytes_are_no_state() {
        let good = STATE.encode();
        let changed = |at: usize, to: u8| {
            let mut bytes = good;
            bytes[at] = to;
            bytes
        };
        assert_eq!(FileState::decode(&good[..27]), None);
        assert_eq!(FileState::decode(&[&good[..], &[0]].concat()), None);
        assert_eq!(FileState::decode(&changed(0, 2)), None);
        assert_eq!(FileState::decode(&changed(1, 1)), None);
        assert_eq!(FileState::decode(&changed(19, 0xff)), None);
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
