//! From what a view answers to what the kernel is sent.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use fuser::{
    Errno, FileAttr, FileType, Generation, INodeNo, ReplyAttr, ReplyData, ReplyDirectory, ReplyDirectoryPlus,
    ReplyEmpty, ReplyEntry, ReplyStatfs, ReplyXattr,
};

use rustix::fs::FileType as Kind;

use super::errno::errno;
use crate::filesystem::{Attributes, BLOCK_SIZE, Listed, ListedAt, NodeId, Now, Space, ViewError};
use crate::manifest::Mtime;

/// How long the kernel may keep names and attributes: it is told when they change.
pub(super) const TTL: Duration = Duration::from_secs(24 * 60 * 60);

/// A reply that takes one entry of a directory after the other.
pub(super) trait DirectoryReply: Send + 'static {
    /// Whether the kernel is told of the inodes, and will forget them.
    const TELLS: bool;
    /// Adds one, which the kernel may keep for so long; true when it did not fit.
    fn add(&mut self, listed: &Listed<'_>, ttl: Duration) -> bool;
    /// Sends what was added, or the error.
    fn send(self, result: Result<(), ViewError>);
}

impl DirectoryReply for ReplyDirectory {
    const TELLS: bool = false;

    fn add(&mut self, listed: &Listed<'_>, _ttl: Duration) -> bool {
        let attr = file_attr(&listed.attributes);
        ReplyDirectory::add(self, attr.ino, listed.next, attr.kind, OsStr::from_bytes(listed.name))
    }

    fn send(self, result: Result<(), ViewError>) {
        match result {
            Ok(()) => self.ok(),
            Err(error) => self.error(errno(&error)),
        }
    }
}

impl DirectoryReply for ReplyDirectoryPlus {
    const TELLS: bool = true;

    fn add(&mut self, listed: &Listed<'_>, ttl: Duration) -> bool {
        let attr = file_attr(&listed.attributes);
        let name = OsStr::from_bytes(listed.name);
        ReplyDirectoryPlus::add(
            self,
            attr.ino,
            listed.next,
            name,
            &ttl,
            &attr,
            Generation(listed.attributes.generation),
        )
    }

    fn send(self, result: Result<(), ViewError>) {
        match result {
            Ok(()) => self.ok(),
            Err(error) => self.error(errno(&error)),
        }
    }
}

/// Adds entries from `position` on until the reply is full. After an error nothing may be sent: what was added is not
/// the directory. Tells how many were added.
pub(super) fn fill(
    at: &ListedAt,
    directory: NodeId,
    position: u64,
    reply: &mut impl DirectoryReply,
) -> Result<Now<usize>, ViewError> {
    let Now::Ready(list) = at.tree()?.try_list(directory, position)? else {
        return Ok(Now::Later);
    };
    // What is listed to its end although it is not shown any more is true of the listing alone.
    let ttl = if at.is_shown { TTL } else { Duration::ZERO };
    let mut added = 0;
    for listed in list {
        if reply.add(&listed?, ttl) {
            break;
        }
        added += 1;
    }
    Ok(Now::Ready(added))
}

/// An entry, or word that there is none, which the kernel keeps as long.
pub(super) fn entry(reply: ReplyEntry, found: Result<Option<Attributes>, ViewError>) {
    match found {
        Ok(attributes) => {
            let generation = Generation(attributes.map_or(0, |attributes| attributes.generation));
            let attr = attributes.map_or(NO_ENTRY, |attributes| file_attr(&attributes));
            reply.entry(&TTL, &attr, generation);
        }
        Err(error) => reply.error(errno(&error)),
    }
}

/// What `stat` shows.
pub(super) fn attributes(reply: ReplyAttr, attributes: Result<Attributes, ViewError>) {
    match attributes {
        Ok(attributes) => reply.attr(&TTL, &file_attr(&attributes)),
        Err(error) => reply.error(errno(&error)),
    }
}

/// What `statfs` shows.
pub(super) fn space(reply: ReplyStatfs, space: &Space, name_bytes_max: u32) {
    let Space { block_bytes, blocks, blocks_free, blocks_available, entries, entries_free } = *space;
    reply.statfs(
        blocks,
        blocks_free,
        blocks_available,
        entries,
        entries_free,
        block_bytes,
        name_bytes_max,
        block_bytes,
    );
}

/// That something was done.
pub(super) fn done(reply: ReplyEmpty, done: Result<(), ViewError>) {
    match done {
        Ok(()) => reply.ok(),
        Err(error) => reply.error(errno(&error)),
    }
}

/// Bytes.
pub(super) fn data(reply: ReplyData, bytes: Result<Bytes, ViewError>) {
    match bytes {
        Ok(bytes) => reply.data(&bytes),
        Err(error) => reply.error(errno(&error)),
    }
}

/// An xattr, or a list of their names, into a buffer of `size`; 0 asks for the length.
pub(super) fn xattr(reply: ReplyXattr, size: u32, value: Result<Vec<u8>, ViewError>) {
    match value {
        // The manifest bounds all xattrs of an entry at 64 KiB.
        Ok(value) if size == 0 => reply.size(value.len() as u32),
        Ok(value) if value.len() > size as usize => reply.error(Errno::ERANGE),
        Ok(value) => reply.data(&value),
        Err(error) => reply.error(errno(&error)),
    }
}

/// What `stat` shows, for the kernel.
pub(super) fn file_attr(attributes: &Attributes) -> FileAttr {
    FileAttr {
        ino: INodeNo(attributes.node.0),
        size: attributes.size,
        blocks: attributes.blocks_512,
        atime: system_time(attributes.atime),
        mtime: system_time(attributes.mtime),
        ctime: system_time(attributes.ctime),
        crtime: system_time(attributes.mtime),
        kind: match attributes.kind {
            Kind::Directory => FileType::Directory,
            Kind::Symlink => FileType::Symlink,
            Kind::Fifo => FileType::NamedPipe,
            Kind::Socket => FileType::Socket,
            Kind::CharacterDevice => FileType::CharDevice,
            Kind::BlockDevice => FileType::BlockDevice,
            // There are no others on Linux.
            Kind::RegularFile | Kind::Unknown => FileType::RegularFile,
        },
        perm: attributes.mode,
        nlink: attributes.nlink,
        uid: attributes.owner.uid,
        gid: attributes.owner.gid,
        // The kernel's interface has 32 bits for it, as `new_encode_dev` puts them.
        rdev: attributes.device as u32,
        blksize: BLOCK_SIZE,
        flags: 0,
    }
}

/// The kernel takes the number 0 for "no such entry".
const NO_ENTRY: FileAttr = FileAttr {
    ino: INodeNo(0),
    size: 0,
    blocks: 0,
    atime: UNIX_EPOCH,
    mtime: UNIX_EPOCH,
    ctime: UNIX_EPOCH,
    crtime: UNIX_EPOCH,
    kind: FileType::RegularFile,
    perm: 0,
    nlink: 0,
    uid: 0,
    gid: 0,
    rdev: 0,
    blksize: 0,
    flags: 0,
};

/// The moment; 1970 for one beyond what a `SystemTime` holds, which no file system can either.
fn system_time(mtime: Mtime) -> SystemTime {
    let seconds = Duration::from_secs(mtime.sec.unsigned_abs());
    let whole = match mtime.sec {
        0.. => UNIX_EPOCH.checked_add(seconds),
        _ => UNIX_EPOCH.checked_sub(seconds),
    };
    whole.and_then(|whole| whole.checked_add(Duration::from_nanos(mtime.nsec.into()))).unwrap_or(UNIX_EPOCH)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(sec: i64, nsec: u32) {
        let time = system_time(Mtime { sec, nsec });
        let found = match time.duration_since(UNIX_EPOCH) {
            Ok(after) => i128::try_from(after.as_nanos()).unwrap(),
            Err(before) => -i128::try_from(before.duration().as_nanos()).unwrap(),
        };
        assert_eq!(found, i128::from(sec) * 1_000_000_000 + i128::from(nsec));
    }

    #[test]
    fn times_before_1970_and_far_away_are_exact() {
        check(0, 0);
        check(1_700_000_000, 123_456_789);
        check(-1, 999_999_999);
        check(-1, 1);
        check(-5_000_000_000, 0);
        check(i64::MAX, 999_999_999);
        check(i64::MIN, 0);
    }
}
