//! Whether a filesystem can hold a replica, tried out rather than guessed from its name.
//!
//! A replica lies on the extent maps of its files, on xattrs and on files that get their name last. Where one of them
//! is missing or behaves otherwise, a hole could be shown as content; such a filesystem is refused with the reason.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::FileExt;

use rustix::fs::{AtFlags, Mode, OFlags, XattrFlags};
use rustix::io::{Errno, ReadWriteFlags};

use super::block_set::BlockSet;
use super::extents::{Method, blocks_on_disk};
use super::state::{self, State};
use super::store::link_into;
use crate::digest::{BLOCK_BYTES, BlockIndex};
use crate::fuse::is_fuse;
use crate::manifest::Mtime;

/// What was found out about a filesystem that can hold a replica.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Backing {
    /// How files tell which of their blocks hold data.
    pub(super) extents: Method,
    /// How a read says that it would wait.
    pub(super) cached_reads: CachedReads,
}

/// How to read only what needs no waiting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum CachedReads {
    /// `preadv2` with `RWF_NOWAIT`.
    NoWait,
    /// Any read: the filesystem lies in memory.
    Always,
    /// Not at all.
    Never,
}

/// Why it cannot.
#[derive(Debug)]
pub(super) enum Refusal {
    /// It lacks something.
    Lacks(String),
    /// Trying failed.
    Failed(io::Error),
}

impl From<io::Error> for Refusal {
    fn from(error: io::Error) -> Self {
        Self::Failed(error)
    }
}

impl From<Errno> for Refusal {
    fn from(errno: Errno) -> Self {
        Self::Failed(errno.into())
    }
}

/// `TMPFS_MAGIC` of `linux/magic.h`.
const TMPFS: i64 = 0x0102_1994;

/// The xattr of a replica's directory that holds what was found out when it was last tried out: a version and one byte
/// for each field of [`Backing`].
const BACKING_XATTR: &str = "user.twinshare.backing";
const BACKING_VERSION: u8 = 1;

/// The file tried out: large enough that huge pages, where a tmpfs uses them, show themselves as too much data.
const TRIED_BYTES: u64 = 8 * 1024 * 1024;
/// A block of content, and one of zeros, each with holes around.
const WRITTEN: [(u64, u8); 2] = [(65, 1), (97, 0)];

/// Finds out what the filesystem of a replica's directory can do. A full one cannot be tried out; what was found the
/// last time then holds, so that what is in the replica stays readable.
pub(super) fn backing(directory: BorrowedFd<'_>) -> Result<Backing, Refusal> {
    let full = |error: &io::Error| matches!(Errno::from_io_error(error), Some(Errno::NOSPC | Errno::DQUOT));
    match probe(directory) {
        Ok(backing) => {
            // Without it the replica cannot be opened on a full disk, and is as good otherwise.
            let _ = rustix::fs::fsetxattr(directory, BACKING_XATTR, &backing.encode(), XattrFlags::empty());
            Ok(backing)
        }
        Err(Refusal::Failed(error)) if full(&error) => recall(directory).ok_or(Refusal::Failed(error)),
        refused => refused,
    }
}

fn recall(directory: BorrowedFd<'_>) -> Option<Backing> {
    let mut bytes = [0; 8];
    let length = rustix::fs::fgetxattr(directory, BACKING_XATTR, &mut bytes[..]).ok()?;
    Backing::decode(bytes.get(..length)?)
}

impl Backing {
    fn encode(self) -> [u8; 3] {
        let extents = match self.extents {
            Method::Fiemap => 0,
            Method::Seek => 1,
        };
        let cached_reads = match self.cached_reads {
            CachedReads::NoWait => 0,
            CachedReads::Always => 1,
            CachedReads::Never => 2,
        };
        [BACKING_VERSION, extents, cached_reads]
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let [BACKING_VERSION, extents, cached_reads] = *bytes else { return None };
        let extents = [Method::Fiemap, Method::Seek].get(usize::from(extents)).copied()?;
        let ways = [CachedReads::NoWait, CachedReads::Always, CachedReads::Never];
        Some(Self { extents, cached_reads: ways.get(usize::from(cached_reads)).copied()? })
    }
}

/// Tries the filesystem of `directory` out with a file that never gets a name that stays.
fn probe(directory: BorrowedFd<'_>) -> Result<Backing, Refusal> {
    let statfs = rustix::fs::fstatfs(directory)?;
    let magic = statfs.f_type as i64;
    if is_fuse(&statfs) {
        return Err(lacks("it is a FUSE filesystem itself"));
    }
    refuse_torn_writes(directory)?;
    let file = unnamed_file(directory)?;
    let (mtime, ctime) = (Mtime::default(), Mtime::default());
    let state = State { index: None, complete: false, mode: 0, mtime, ctime, remote_bytes: 0 };
    match state::set(&file, &state) {
        Ok(()) => {}
        Err(Errno::OPNOTSUPP | Errno::PERM) => return Err(lacks("it keeps no user xattrs")),
        Err(errno) => return Err(errno.into()),
    }
    file.set_len(TRIED_BYTES)?;
    for (block, byte) in WRITTEN {
        file.write_all_at(&[byte; BLOCK_BYTES as usize], BlockIndex(block).offset())?;
    }
    let extents = extents(&file)?;
    link(directory, &file)?;
    Ok(Backing { extents, cached_reads: cached_reads(&file, magic)? })
}

fn lacks(what: &str) -> Refusal {
    Refusal::Lacks(what.into())
}

fn unnamed_file(directory: BorrowedFd<'_>) -> Result<File, Refusal> {
    let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
    match rustix::fs::openat(directory, ".", flags, Mode::RUSR | Mode::WUSR) {
        Ok(file) => Ok(file.into()),
        // A kernel or filesystem without O_TMPFILE takes the flag for a directory opened for writing.
        Err(Errno::OPNOTSUPP | Errno::ISDIR | Errno::INVAL) => {
            Err(lacks("it has no files without a name (O_TMPFILE)"))
        }
        Err(errno) => Err(errno.into()),
    }
}

/// Gives the file a name, as every fetched file gets one, and takes it away again.
fn link(directory: BorrowedFd<'_>, file: &File) -> Result<(), Refusal> {
    let name = format!("probe-{}", std::process::id());
    let _ = rustix::fs::unlinkat(directory, &name, AtFlags::empty());
    match link_into(file.as_fd(), directory, name.as_bytes()) {
        Ok(()) => Ok(rustix::fs::unlinkat(directory, &name, AtFlags::empty())?),
        Err(Errno::OPNOTSUPP | Errno::PERM | Errno::NOENT) => {
            Err(lacks("a file without a name cannot be given one there"))
        }
        Err(errno) => Err(errno.into()),
    }
}

/// The first way of asking that tells exactly what was written, zeros included.
fn extents(file: &File) -> Result<Method, Refusal> {
    let mut expected = BlockSet::empty(TRIED_BYTES / BLOCK_BYTES);
    for (block, _) in WRITTEN {
        expected.insert(block..block + 1);
    }
    for method in [Method::Fiemap, Method::Seek] {
        match blocks_on_disk(file.as_fd(), TRIED_BYTES, method) {
            Ok(found) if found == expected => return Ok(method),
            // A filesystem with FIEMAP has unwritten extents, which SEEK_DATA takes for data.
            Ok(_) => break,
            Err(_) => {}
        }
    }
    Err(lacks("it does not report exactly what was written to a file and what was not"))
}

fn cached_reads(file: &File, magic: i64) -> Result<CachedReads, Refusal> {
    let mut bytes = [0; 512];
    let into = &mut [io::IoSliceMut::new(&mut bytes)];
    let at = BlockIndex(WRITTEN[0].0).offset();
    match rustix::io::preadv2(file, into, at, ReadWriteFlags::NOWAIT) {
        Ok(_) | Err(Errno::AGAIN) => Ok(CachedReads::NoWait),
        Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL) if magic == TMPFS => Ok(CachedReads::Always),
        Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL) => Ok(CachedReads::Never),
        Err(errno) => Err(errno.into()),
    }
}

/// ext4 with data=writeback maps an extent before its data is written, which delayed allocation alone makes up for.
fn refuse_torn_writes(directory: BorrowedFd<'_>) -> Result<(), Refusal> {
    let device = rustix::fs::fstat(directory)?.st_dev;
    let device = format!("{}:{}", rustix::fs::major(device), rustix::fs::minor(device));
    // Without /proc nothing else here works either.
    let mounts = std::fs::read("/proc/self/mountinfo")?;
    match maps_before_writing(&String::from_utf8_lossy(&mounts), &device) {
        true => {
            Err(lacks("it is mounted with data=writeback and nodelalloc, so a crash leaves garbage in files"))
        }
        false => Ok(()),
    }
}

/// Looks for `device` in the lines of `/proc/self/mountinfo` (proc(5)): the options of the superblock come last.
fn maps_before_writing(mounts: &str, device: &str) -> bool {
    let of_device = |line: &&str| line.split(' ').nth(2) == Some(device);
    mounts.lines().filter(of_device).filter_map(|line| line.rsplit(' ').next()).any(|options| {
        let has = |wanted| options.split(',').any(|option| option == wanted);
        has("data=writeback") && has("nodelalloc")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_usual_filesystems_can() {
        for directory in ["/tmp", "/dev/shm"] {
            let directory = tempfile::tempdir_in(directory).unwrap();
            let fd = File::open(directory.path()).unwrap();
            let backing = probe(fd.as_fd()).unwrap();
            assert_ne!(backing.cached_reads, CachedReads::Never, "{directory:?}");
            assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0, "something was left behind");
        }
    }

    #[test]
    fn what_was_found_is_kept_beside_the_replica() {
        for extents in [Method::Fiemap, Method::Seek] {
            for cached_reads in [CachedReads::NoWait, CachedReads::Always, CachedReads::Never] {
                let backing = Backing { extents, cached_reads };
                assert_eq!(Backing::decode(&backing.encode()), Some(backing));
            }
        }
        for wrong in [&[][..], &[1, 0], &[1, 2, 0], &[1, 0, 3], &[2, 0, 0], &[1, 0, 0, 0]] {
            assert_eq!(Backing::decode(wrong), None, "{wrong:?}");
        }
        let directory = tempfile::tempdir_in("/tmp").unwrap();
        let fd = File::open(directory.path()).unwrap();
        assert_eq!(recall(fd.as_fd()), None);
        let found = backing(fd.as_fd()).unwrap();
        assert_eq!(recall(fd.as_fd()), Some(found));
    }

    #[test]
    fn filesystems_that_keep_no_files_cannot() {
        let fd = File::open("/sys").unwrap();
        let refused = probe(fd.as_fd());
        match rustix::process::geteuid().is_root() {
            true => {
                assert!(
                    matches!(&refused, Err(Refusal::Lacks(what)) if what.contains("O_TMPFILE")),
                    "{refused:?}"
                );
            }
            // May not even try there.
            false => assert!(refused.is_err()),
        }
    }

    #[test]
    fn dangerous_options_are_found() {
        let check = |options: &str, expected| {
            let mounts = format!(
                "22 1 8:1 / / rw - ext4 /dev/a rw,data=writeback,nodelalloc\n30 22 8:2 / /x rw,shared:1 - ext4 /dev/b {options}\n"
            );
            assert_eq!(maps_before_writing(&mounts, "8:2"), expected, "{options}");
        };
        check("rw", false);
        check("rw,data=writeback", false);
        check("rw,nodelalloc", false);
        check("rw,nodelalloc,data=writeback", true);
    }
}
