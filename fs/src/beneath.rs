//! Reaching what lies beneath a directory, and nothing else.
//!
//! A tree belongs to somebody who may change it at any moment, also while we resolve a path in it: a directory can
//! become a symbolic link to `/` between two system calls. So every path is resolved by the kernel in one call that
//! refuses symbolic links, a way out and other filesystems (`openat2`, Linux 5.6). Beneath a mount point, one climb
//! would end in the mount itself, and wait for the process that asks.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{Dir, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use crate::name::RelPath;

/// Bytes of a path that the kernel takes in one call (`PATH_MAX` less its NUL).
const PATH_BYTES_MAX: usize = 4095;

/// How often a call is repeated that met a rename on its way (`openat2(2)`: EAGAIN).
const TRIES: u32 = 16;

/// Opens `path` beneath `root` for the names it has, however long it is; the empty path is `root` itself.
///
/// The last component may be a symbolic link only with `PATH | NOFOLLOW`, and is opened, not followed. A component
/// that is a link is ELOOP, one on another filesystem EXDEV. Never waits for a FIFO's other end.
pub fn open(root: BorrowedFd<'_>, path: &[u8], flags: OFlags) -> Result<OwnedFd, Errno> {
    let mut rest = path;
    let mut at: Option<OwnedFd> = None;
    while rest.len() > PATH_BYTES_MAX {
        let cut = rest[..PATH_BYTES_MAX].iter().rposition(|byte| *byte == b'/').ok_or(Errno::NAMETOOLONG)?;
        let parent = at.as_ref().map_or(root, AsFd::as_fd);
        at = Some(step(parent, &rest[..cut], OFlags::PATH | OFlags::DIRECTORY)?);
        rest = &rest[cut + 1..];
    }
    let name = if rest.is_empty() { &b"."[..] } else { rest };
    step(at.as_ref().map_or(root, AsFd::as_fd), name, flags)
}

/// Opens the directory at `path` beneath `root`, making what is missing of it with mode 0700. The descriptor is good
/// for reaching names in it alone (`O_PATH`).
pub fn make_directories(root: BorrowedFd<'_>, path: &RelPath) -> Result<OwnedFd, Errno> {
    let flags = OFlags::PATH | OFlags::DIRECTORY;
    match open(root, path.as_bytes(), flags) {
        Err(Errno::NOENT) => {}
        found => return found,
    }
    let mut at = step(root, b".", flags)?;
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

/// The names in the directory at `path` beneath `root`, without `.` and `..`, in no order.
pub fn names(root: BorrowedFd<'_>, path: &[u8]) -> Result<Vec<Vec<u8>>, Errno> {
    // Opened for this list alone: a descriptor that was listed before stands at its end.
    let directory = open(root, path, OFlags::RDONLY | OFlags::DIRECTORY)?;
    let mut names = Vec::new();
    for entry in Dir::read_from(&directory)? {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if !matches!(name, b"." | b"..") {
            names.push(name.to_vec());
        }
    }
    Ok(names)
}

fn step(at: BorrowedFd<'_>, path: &[u8], flags: OFlags) -> Result<OwnedFd, Errno> {
    let flags = flags | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let flags = if flags.contains(OFlags::PATH) { flags } else { flags | OFlags::NONBLOCK | OFlags::NOCTTY };
    let resolve = ResolveFlags::BENEATH
        | ResolveFlags::NO_SYMLINKS
        | ResolveFlags::NO_MAGICLINKS
        | ResolveFlags::NO_XDEV;
    let mut tries = 0;
    loop {
        match rustix::fs::openat2(at, path, flags, Mode::empty(), resolve) {
            Err(Errno::AGAIN | Errno::INTR) if tries < TRIES => tries += 1,
            result => return result,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn nothing_but_what_lies_beneath_is_opened() {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        fs::create_dir_all(at("d/e")).unwrap();
        fs::write(at("d/e/f"), "x").unwrap();
        symlink("d", at("inside")).unwrap();
        symlink("/", at("outside")).unwrap();
        let root = File::open(directory.path()).unwrap();
        let check = |path: &str, expected: Result<(), Errno>| {
            let found = open(root.as_fd(), path.as_bytes(), OFlags::RDONLY).map(|_| ());
            assert_eq!(found, expected, "{path}");
        };
        check("", Ok(()));
        check("d/e/f", Ok(()));
        check("d/../d/e/f", Ok(()));
        check("d/none", Err(Errno::NOENT));
        check("d/e/f/g", Err(Errno::NOTDIR));
        check("inside", Err(Errno::LOOP));
        check("inside/e/f", Err(Errno::LOOP));
        check("outside/etc", Err(Errno::LOOP));
        check("..", Err(Errno::XDEV));
        check("/etc", Err(Errno::XDEV));
        let proc = File::open("/").unwrap();
        assert_eq!(open(proc.as_fd(), b"proc/version", OFlags::RDONLY).unwrap_err(), Errno::XDEV);
        assert!(open(root.as_fd(), b"inside", OFlags::PATH).is_ok());
    }

    fn path(names: &[&[u8]]) -> RelPath {
        RelPath::from_names(names.iter().copied()).unwrap()
    }

    #[test]
    fn a_path_may_be_longer_than_the_kernel_takes_at_once() {
        let directory = tempfile::tempdir().unwrap();
        let root = File::open(directory.path()).unwrap();
        let names = vec![&[b'n'; 200][..]; 60];
        let deep = path(&names);
        assert!(deep.as_bytes().len() > 2 * PATH_BYTES_MAX);
        assert_eq!(open(root.as_fd(), deep.as_bytes(), OFlags::RDONLY).unwrap_err(), Errno::NOENT);
        let made = make_directories(root.as_fd(), &deep).unwrap();
        let again = make_directories(root.as_fd(), &deep).unwrap();
        let found = open(root.as_fd(), deep.as_bytes(), OFlags::RDONLY).unwrap();
        let inode = |fd: &OwnedFd| rustix::fs::fstat(fd).unwrap().st_ino;
        assert_eq!([inode(&made), inode(&again)], [inode(&found); 2]);
        drop((made, again, found));
        // The standard library removes a tree by descriptors too, whatever its depth.
        directory.close().unwrap();
    }

    #[test]
    fn symlinks_and_files_in_the_way_are_errors() {
        let directory = tempfile::tempdir().unwrap();
        symlink("/", directory.path().join("link")).unwrap();
        fs::write(directory.path().join("file"), b"").unwrap();
        let root = File::open(directory.path()).unwrap();
        let check = |names: &[&[u8]], expected| {
            assert_eq!(make_directories(root.as_fd(), &path(names)).unwrap_err(), expected);
        };
        check(&[b"link", b"tmp"], Errno::LOOP);
        check(&[b"file", b"x"], Errno::NOTDIR);
    }

    #[test]
    fn a_directory_can_be_listed_again() {
        let directory = tempfile::tempdir().unwrap();
        fs::create_dir_all(directory.path().join("d/e")).unwrap();
        fs::write(directory.path().join("d/f"), b"").unwrap();
        let root = File::open(directory.path()).unwrap();
        let check = |path: &str, expected: Result<&[&[u8]], Errno>| {
            let mut found = names(root.as_fd(), path.as_bytes());
            found.iter_mut().for_each(|names| names.sort());
            assert_eq!(
                found,
                expected.map(|names| names.iter().map(|name| name.to_vec()).collect()),
                "{path}"
            );
        };
        for _ in 0..2 {
            check("", Ok(&[b"d"]));
            check("d", Ok(&[b"e", b"f"]));
            check("d/e", Ok(&[]));
        }
        check("none", Err(Errno::NOENT));
        check("d/f", Err(Errno::NOTDIR));
    }
}
