//! The file's own extent map: which of its blocks hold data.
//!
//! It is the ledger of what has been fetched. It needs no fsync: a filesystem maps an extent after its data has been
//! written, so whatever a power cut leaves mapped is whole; what a write that fails leaves is not, and is told by
//! other means (see [`super::flusher`]). It must be read before anything reads the file: an extent
//! that was left unwritten is a hole to FIEMAP, but becomes "data" to SEEK_DATA once its zeros are in the page cache.

use std::io;
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd};

use rustix::fs::SeekFrom;
use rustix::io::Errno;
use rustix::ioctl::{self, Opcode, Updater};

use super::block_set::BlockSet;
use crate::digest::{BLOCK_BYTES, block_count};

/// How a filesystem tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Method {
    /// `FS_IOC_FIEMAP` with `FIEMAP_FLAG_SYNC`; unwritten extents count as holes.
    Fiemap,
    /// `SEEK_DATA` and `SEEK_HOLE`, where FIEMAP does not exist (tmpfs, which has no unwritten extents).
    Seek,
}

/// The blocks of a file of `size` bytes that are wholly covered by data.
///
/// Waits until what is still only in the page cache has been allocated.
pub(super) fn blocks_on_disk(file: BorrowedFd<'_>, size: u64, method: Method) -> io::Result<BlockSet> {
    let mut covered = Covered { size, set: BlockSet::empty(block_count(size)), pending: 0..0 };
    match method {
        Method::Fiemap => fiemap(file, size, |extent| covered.add(extent))?,
        Method::Seek => seek(file, size, |extent| covered.add(extent))?,
    }
    Ok(covered.finish())
}

/// Joins neighbouring extents and keeps the blocks that lie wholly inside.
struct Covered {
    size: u64,
    set: BlockSet,
    pending: Range<u64>,
}

impl Covered {
    fn add(&mut self, extent: Range<u64>) {
        if extent.start > self.pending.end {
            self.close();
            self.pending = extent;
        } else {
            self.pending.end = self.pending.end.max(extent.end);
        }
    }

    fn close(&mut self) {
        let first = self.pending.start.div_ceil(BLOCK_BYTES);
        // The last block ends with the file, wherever that is within the block.
        let end = match self.pending.end >= self.size {
            true => block_count(self.size),
            false => self.pending.end / BLOCK_BYTES,
        };
        if first < end {
            self.set.insert(first..end);
        }
    }

    fn finish(mut self) -> BlockSet {
        self.close();
        self.set
    }
}

fn seek(file: BorrowedFd<'_>, size: u64, mut each: impl FnMut(Range<u64>)) -> io::Result<()> {
    let mut at = 0;
    while at < size {
        let start = match rustix::fs::seek(file, SeekFrom::Data(at)) {
            Ok(start) => start,
            Err(Errno::NXIO) => break,
            Err(errno) => return Err(errno.into()),
        };
        let end = rustix::fs::seek(file, SeekFrom::Hole(start))?;
        each(start..end);
        // A file that is cut off meanwhile must not hold the loop.
        at = end.max(start + 1);
    }
    Ok(())
}

/// Extents asked for in one call; 1,024 are listed in 2 to 7 ms.
const EXTENTS: usize = 128;

const FIEMAP_FLAG_SYNC: u32 = 1;
const FIEMAP_EXTENT_LAST: u32 = 0x1;
const FIEMAP_EXTENT_UNKNOWN: u32 = 0x2;
const FIEMAP_EXTENT_DELALLOC: u32 = 0x4;
const FIEMAP_EXTENT_UNWRITTEN: u32 = 0x800;
/// Extents whose bytes are not, or not surely, on the disk.
const NOT_DATA: u32 = FIEMAP_EXTENT_UNKNOWN | FIEMAP_EXTENT_DELALLOC | FIEMAP_EXTENT_UNWRITTEN;

/// `struct fiemap_extent` of `linux/fiemap.h`.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Extent {
    logical: u64,
    physical: u64,
    length: u64,
    reserved64: [u64; 2],
    flags: u32,
    reserved: [u32; 3],
}

/// `struct fiemap` of `linux/fiemap.h` with room for its extents.
#[repr(C)]
struct Request {
    start: u64,
    length: u64,
    flags: u32,
    mapped_extents: u32,
    extent_count: u32,
    reserved: u32,
    extents: [Extent; EXTENTS],
}

/// `FS_IOC_FIEMAP` of `linux/fs.h`: `_IOWR('f', 11, struct fiemap)`, whose size is that of the header alone.
const FS_IOC_FIEMAP: Opcode = ioctl::opcode::read_write::<[u64; 4]>(b'f', 11);

fn fiemap(file: BorrowedFd<'_>, size: u64, mut each: impl FnMut(Range<u64>)) -> io::Result<()> {
    let (mut at, mut flags) = (0, FIEMAP_FLAG_SYNC);
    while at < size {
        let request = fiemap_once(file, at, size - at, flags)?;
        let mapped = &request.extents[..(request.mapped_extents as usize).min(EXTENTS)];
        for extent in mapped {
            let end = extent.logical.saturating_add(extent.length);
            if extent.flags & NOT_DATA == 0 {
                each(extent.logical..end);
            }
            at = at.max(end);
        }
        if mapped.last().is_none_or(|extent| extent.flags & FIEMAP_EXTENT_LAST != 0 || extent.length == 0) {
            break;
        }
        flags = 0;
    }
    Ok(())
}

#[expect(unsafe_code, reason = "FIEMAP has no safe wrapper")]
fn fiemap_once(file: BorrowedFd<'_>, start: u64, length: u64, flags: u32) -> io::Result<Request> {
    let mut request = Request {
        start,
        length,
        flags,
        mapped_extents: 0,
        extent_count: EXTENTS as u32,
        reserved: 0,
        extents: [Extent::default(); EXTENTS],
    };
    // SAFETY: `Request` is laid out as FS_IOC_FIEMAP wants it, header first and `extent_count` extents after it, and
    // the kernel writes no more extents than that (`fiemap_fill_next_extent` in fs/ioctl.c).
    let update = unsafe { Updater::<FS_IOC_FIEMAP, Request>::new(&mut request) };
    // SAFETY: as above; the argument outlives the call.
    unsafe { ioctl::ioctl(file.as_fd(), update) }?;
    Ok(request)
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::unix::fs::FileExt;

    use rustix::fs::FallocateFlags;

    use super::*;

    const KIB: u64 = 1024;

    /// Writes `data` into a file of `size` bytes and expects exactly `expected` blocks, by every method that works.
    #[track_caller]
    fn check(directory: &str, size: u64, data: &[Range<u64>], expected: &[u64]) {
        let file = tempfile::tempfile_in(directory).unwrap();
        file.set_len(size).unwrap();
        for range in data {
            file.write_all_at(&vec![0; (range.end - range.start) as usize], range.start).unwrap();
        }
        for method in methods(directory) {
            let set = blocks_on_disk(file.as_fd(), size, method).unwrap();
            let found: Vec<_> = (0..block_count(size)).filter(|block| set.contains(*block)).collect();
            assert_eq!(found, expected, "{directory} {method:?} {data:?}");
        }
    }

    fn methods(directory: &str) -> Vec<Method> {
        let file = tempfile::tempfile_in(directory).unwrap();
        let fiemap = blocks_on_disk(file.as_fd(), 1, Method::Fiemap).is_ok();
        [Method::Fiemap, Method::Seek].into_iter().filter(|m| *m == Method::Seek || fiemap).collect()
    }

    #[test]
    #[expect(clippy::single_range_in_vec_init, reason = "files with one extent")]
    fn only_blocks_that_are_whole_count() {
        for directory in ["/tmp", "/dev/shm"] {
            check(directory, 0, &[], &[]);
            check(directory, 1, &[], &[]);
            check(directory, 1, &[0..1], &[0]);
            check(directory, 64 * KIB, &[0..60 * KIB], &[]);
            check(directory, 64 * KIB, &[0..64 * KIB], &[0]);
            check(directory, 300 * KIB, &[64 * KIB..128 * KIB, 256 * KIB..300 * KIB], &[1, 4]);
            check(directory, 300 * KIB, &[4 * KIB..300 * KIB], &[1, 2, 3, 4]);
            check(directory, 300 * KIB, &[0..100 * KIB, 100 * KIB..192 * KIB], &[0, 1, 2]);
            check(directory, 64 * KIB + 1, &[64 * KIB..64 * KIB + 1], &[1]);
        }
    }

    #[test]
    fn more_extents_than_one_call_returns() {
        for directory in ["/tmp", "/dev/shm"] {
            let data: Vec<_> = (0..300).map(|i| i * 128 * KIB..i * 128 * KIB + 64 * KIB).collect();
            let expected: Vec<_> = (0..300).map(|i| i * 2).collect();
            check(directory, 300 * 128 * KIB, &data, &expected);
        }
    }

    #[test]
    fn unwritten_extents_are_holes() {
        let file: File = tempfile::tempfile_in("/tmp").unwrap();
        if blocks_on_disk(file.as_fd(), 1, Method::Fiemap).is_err() {
            eprintln!("SKIPPED: /tmp has no FIEMAP");
            return;
        }
        rustix::fs::fallocate(&file, FallocateFlags::empty(), 0, 256 * KIB).unwrap();
        file.write_all_at(&[1; 65536], 128 * KIB).unwrap();
        file.read_exact_at(&mut [0; 65536], 0).unwrap();
        let set = blocks_on_disk(file.as_fd(), 256 * KIB, Method::Fiemap).unwrap();
        assert_eq!((0..4).map(|block| set.contains(block)).collect::<Vec<_>>(), [false, false, true, false]);
    }
}
