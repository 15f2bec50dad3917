//! What a request of the kernel says, in the words of the filesystem.

use std::time::{SystemTime, UNIX_EPOCH};

use fuser::{Request, TimeOrNow};

use crate::filesystem::{Owner, When};
use crate::manifest::Mtime;

/// Permission bits of a mode, without its type.
pub(super) fn permissions(mode: u32) -> u16 {
    (mode & 0o7777) as u16
}

pub(super) fn owner(request: &Request) -> Owner {
    Owner { uid: request.uid(), gid: request.gid() }
}

pub(super) fn writes(flags: i32) -> bool {
    flags & libc::O_ACCMODE != libc::O_RDONLY
}

pub(super) fn when(time: TimeOrNow) -> When {
    match time {
        TimeOrNow::Now => When::Now,
        TimeOrNow::SpecificTime(time) => When::At(mtime(time)),
    }
}

/// The time that the kernel sent. For one before 1970 fuser takes seconds and nanoseconds both as lying before it, while
/// the kernel counts the nanoseconds forwards (`system_time_from_time` in fuser's `time.rs`).
fn mtime(time: SystemTime) -> Mtime {
    match time.duration_since(UNIX_EPOCH) {
        Ok(after) => Mtime { sec: after.as_secs().cast_signed(), nsec: after.subsec_nanos() },
        Err(before) => {
            let before = before.duration();
            Mtime { sec: -before.as_secs().cast_signed(), nsec: before.subsec_nanos() }
        }
    }
}
