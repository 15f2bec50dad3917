//! Unix sockets whose path may be longer than the kernel's address takes.
//!
//! `sun_path` holds 108 bytes with its NUL (`linux/un.h`), less than many a home directory below a test's temporary
//! one. A longer path is reached through a descriptor of its directory: `/proc/self/fd/N/api.sock`.

use std::ffi::OsStr;
use std::fs::{self, File, Permissions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};

/// Longest socket path the kernel takes, without its NUL.
const PATH_BYTES_MAX: usize = 107;

/// Listens at `path`, for this user only. A socket that a dead process left there is replaced, so the caller must
/// hold the lock that makes it the only one who listens there.
pub fn listen(path: &Path) -> io::Result<UnixListener> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = with_short(path, |short| UnixListener::bind(short))?;
    fs::set_permissions(path, Permissions::from_mode(0o600))?;
    Ok(listener)
}

/// Connects to the socket at `path`.
pub fn connect(path: &Path) -> io::Result<UnixStream> {
    with_short(path, |short| UnixStream::connect(short))
}

/// Calls `act` with a path of the same file that is short enough.
fn with_short<T>(path: &Path, act: impl FnOnce(&Path) -> io::Result<T>) -> io::Result<T> {
    if path.as_os_str().as_bytes().len() <= PATH_BYTES_MAX {
        return act(path);
    }
    let (Some(directory), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(io::ErrorKind::InvalidFilename.into());
    };
    let directory: File =
        rustix::fs::open(directory, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?
            .into();
    act(&through(&directory, name))
}

fn through(directory: &File, name: &OsStr) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", directory.as_raw_fd())).join(name)
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};

    use super::*;

    #[track_caller]
    fn check(depth: usize) {
        let base = tempfile::tempdir().unwrap();
        let directory = (0..depth).fold(base.path().to_path_buf(), |at, _| at.join("a".repeat(50)));
        fs::create_dir_all(&directory).unwrap();
        let path = directory.join("api.sock");
        for _ in 0..2 {
            let listener = listen(&path).unwrap();
            assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
            connect(&path).unwrap().write_all(b"x").unwrap();
            let mut byte = [0];
            listener.accept().unwrap().0.read_exact(&mut byte).unwrap();
            assert_eq!(&byte, b"x");
        }
    }

    #[test]
    fn short_and_long_paths_work() {
        check(0);
        check(1);
        check(3);
        check(20);
    }
}
