//! Reaching files below a directory's descriptor without ever leaving it.
//!
//! Every step is an `openat2` that refuses symlinks, other filesystems and `..`: beneath a mount point one climb would
//! end in the mount itself, and wait for the process that asks. Paths may be longer than `PATH_MAX`; they are then
//! walked in several steps.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use crate::name::RelPath;

/// Bytes of a path in one step; below `PATH_MAX` (4096), with the last name whole.
const STEP_BYTES_MAX: usize = 3 * 1024;

/// Opens what lies at `path` below `directory`; the directory itself for the empty path.
pub(super) fn open(directory: BorrowedFd<'_>, path: &RelPath, flags: OFlags) -> Result<OwnedFd, Errno> {
    let steps = steps(path);
    let Some((last, before)) = steps.split_last() else {
        return step(directory, b".", flags);
    };
    let mut at: Option<OwnedFd> = None;
    for name in before {
        let from = at.as_ref().map_or(directory, AsFd::as_fd);
        at = Some(step(from, name, OFlags::PATH | OFlags::DIRECTORY)?);
    }
    step(at.as_ref().map_or(directory, AsFd::as_fd), last, flags)
}

/// Opens the directory at `path` below `directory`, making what is missing of it with mode 0700. The descriptor is
/// good for reaching names in it alone (`O_PATH`).
pub(super) fn make_directories(directory: BorrowedFd<'_>, path: &RelPath) -> Result<OwnedFd, Errno> {
    let flags = OFlags::PATH | OFlags::DIRECTORY;
    match open(directory, path, flags) {
        Err(Errno::NOENT) => {}
        found => return found,
    }
    let mut at = step(directory, b".", flags)?;
    for name in path.names() {
        at = match step(at.as_fd(), name, flags) {
            Err(Errno::NOENT) => {
                match rustix::fs::mkdirat(&at, name, Mode::RWXU) {
                    Ok(()) | Err(Errno::EXIST) => {}
                    Err(errno) => return Err(errno),
                }
                step(at.as_fd(), name, flags)?
            }
            found => found?,
        };
    }
    Ok(at)
}

fn step(directory: BorrowedFd<'_>, path: &[u8], flags: OFlags) -> Result<OwnedFd, Errno> {
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_XDEV | ResolveFlags::NO_SYMLINKS;
    let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat2(directory, path, flags, Mode::empty(), resolve)
}

/// The path in parts that the kernel takes, each of whole names.
fn steps(path: &RelPath) -> Vec<Vec<u8>> {
    let mut steps: Vec<Vec<u8>> = Vec::new();
    for name in path.names() {
        match steps.last_mut() {
            Some(step) if step.len() + 1 + name.len() <= STEP_BYTES_MAX => {
                step.push(b'/');
                step.extend_from_slice(name);
            }
            _ => steps.push(name.to_vec()),
        }
    }
    steps
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(names: &[&[u8]]) -> RelPath {
        RelPath::from_names(names.iter().copied()).unwrap()
    }

    fn top() -> (tempfile::TempDir, OwnedFd) {
        let directory = tempfile::tempdir().unwrap();
        let flags = OFlags::RDONLY | OFlags::DIRECTORY;
        let fd = rustix::fs::open(directory.path(), flags, Mode::empty()).unwrap();
        (directory, fd)
    }

    #[test]
    fn paths_longer_than_the_kernel_takes_are_made_and_found() {
        let (_directory, fd) = top();
        let names = vec![&[b'n'; 250][..]; 40];
        let deep = path(&names);
        assert!(deep.as_bytes().len() > 2 * 4096);
        let flags = OFlags::RDONLY | OFlags::DIRECTORY;
        assert_eq!(open(fd.as_fd(), &deep, flags).unwrap_err(), Errno::NOENT);
        make_directories(fd.as_fd(), &deep).unwrap();
        make_directories(fd.as_fd(), &deep).unwrap();
        open(fd.as_fd(), &deep, flags).unwrap();
        open(fd.as_fd(), &RelPath::default(), flags).unwrap();
    }

    #[test]
    fn symlinks_and_files_in_the_way_are_errors() {
        let (directory, fd) = top();
        std::os::unix::fs::symlink("/", directory.path().join("link")).unwrap();
        std::fs::write(directory.path().join("file"), b"").unwrap();
        let made = |names: &[&[u8]]| make_directories(fd.as_fd(), &path(names)).unwrap_err();
        assert_eq!(made(&[b"link", b"tmp"]), Errno::LOOP);
        assert_eq!(made(&[b"file", b"x"]), Errno::NOTDIR);
        assert_eq!(open(fd.as_fd(), &path(&[b"link"]), OFlags::RDONLY).unwrap_err(), Errno::LOOP);
    }
}
