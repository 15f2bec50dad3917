//! Opening what lies beneath a directory, and nothing else.
//!
//! A tree belongs to somebody who may change it at any moment, also while we resolve a path in it: a directory can
//! become a symbolic link to `/` between two system calls. So every path is resolved by the kernel in one call that
//! refuses symbolic links, `..` and other filesystems (`openat2`, Linux 5.6).

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

/// Bytes of a path that the kernel takes in one call (`PATH_MAX` less its NUL).
const PATH_BYTES_MAX: usize = 4095;

/// How often a call is repeated that met a rename on its way (`openat2(2)`: EAGAIN).
const TRIES: u32 = 16;

/// Opens `path` beneath `root` for the names it has, however long it is; the empty path is `root` itself.
///
/// The last component may be a symbolic link only with `PATH | NOFOLLOW`, and is opened, not followed. A component
/// that is a link is ELOOP, one on another filesystem EXDEV. Never waits for a FIFO's other end.
pub(crate) fn open_beneath(root: BorrowedFd<'_>, path: &[u8], flags: OFlags) -> io::Result<OwnedFd> {
    let mut rest = path;
    let mut at: Option<OwnedFd> = None;
    while rest.len() > PATH_BYTES_MAX {
        let cut = rest[..PATH_BYTES_MAX].iter().rposition(|byte| *byte == b'/').ok_or(Errno::NAMETOOLONG)?;
        let parent = at.as_ref().map_or(root, AsFd::as_fd);
        at = Some(open(parent, &rest[..cut], OFlags::PATH | OFlags::DIRECTORY)?);
        rest = &rest[cut + 1..];
    }
    let name = if rest.is_empty() { &b"."[..] } else { rest };
    Ok(open(at.as_ref().map_or(root, AsFd::as_fd), name, flags)?)
}

fn open(at: BorrowedFd<'_>, path: &[u8], flags: OFlags) -> Result<OwnedFd, Errno> {
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
            let found = open_beneath(root.as_fd(), path.as_bytes(), OFlags::RDONLY).map(|_| ());
            assert_eq!(found.map_err(|error| Errno::from_io_error(&error).unwrap()), expected, "{path}");
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
        let error = open_beneath(proc.as_fd(), b"proc/version", OFlags::RDONLY).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(Errno::XDEV.raw_os_error()));
        assert!(open_beneath(root.as_fd(), b"inside", OFlags::PATH).is_ok());
    }

    #[test]
    fn a_path_may_be_longer_than_the_kernel_takes_at_once() {
        let directory = tempfile::tempdir().unwrap();
        let root = File::open(directory.path()).unwrap();
        let name = "n".repeat(200);
        let mut at = root.try_clone().unwrap();
        let mut path = Vec::new();
        for _ in 0..60 {
            rustix::fs::mkdirat(&at, &name, Mode::RWXU).unwrap();
            at = open_beneath(at.as_fd(), name.as_bytes(), OFlags::RDONLY).unwrap().into();
            path.extend_from_slice(name.as_bytes());
            path.push(b'/');
        }
        let found = open_beneath(root.as_fd(), &path[..path.len() - 1], OFlags::RDONLY).unwrap();
        assert_eq!(File::from(found).metadata().unwrap().len(), at.metadata().unwrap().len());
        drop(at);
        // The standard library removes a tree by descriptors too, whatever its depth.
        directory.close().unwrap();
    }
}
