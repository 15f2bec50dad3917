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
use std::time::Duration;

use rustix::fs::{Mode, OFlags};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, socket_with};

/// Longest socket path the kernel takes, without its NUL.
const PATH_BYTES_MAX: usize = 107;

/// Between two tries to get into a full queue.
const QUEUE_POLL: Duration = Duration::from_millis(10);

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

/// Connects to the socket at `path`. Waits while the queue of whoever listens there is full, as that of a process is
/// that was stopped: to be called under a deadline. Blocks no thread. Cancel-safe.
pub async fn connect(path: &Path) -> io::Result<tokio::net::UnixStream> {
    loop {
        match with_short(path, connect_at_once) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => tokio::time::sleep(QUEUE_POLL).await,
            connected => return tokio::net::UnixStream::from_std(connected?),
        }
    }
}

/// A blocking connect would wait in the kernel, beyond the reach of every deadline (`unix_stream_connect` in
/// `net/unix/af_unix.c`); this one fails with `WouldBlock`.
fn connect_at_once(path: &Path) -> io::Result<UnixStream> {
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    rustix::net::connect(&socket, &SocketAddrUnix::new(path)?)?;
    Ok(socket.into())
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
    use std::io::Read;

    use tokio::io::AsyncWriteExt;

    use super::*;

    async fn check(depth: usize) {
        let base = tempfile::tempdir().unwrap();
        let directory = (0..depth).fold(base.path().to_path_buf(), |at, _| at.join("a".repeat(50)));
        fs::create_dir_all(&directory).unwrap();
        let path = directory.join("api.sock");
        for _ in 0..2 {
            let listener = listen(&path).unwrap();
            assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
            connect(&path).await.unwrap().write_all(b"x").await.unwrap();
            let mut byte = [0];
            listener.accept().unwrap().0.read_exact(&mut byte).unwrap();
            assert_eq!(&byte, b"x");
        }
    }

    #[tokio::test]
    async fn short_and_long_paths_work() {
        for depth in [0, 1, 3, 20] {
            check(depth).await;
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_full_queue_blocks_nobody() {
        let base = tempfile::tempdir().unwrap();
        let path = base.path().join("s");
        let socket =
            socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None).unwrap();
        rustix::net::bind(&socket, &SocketAddrUnix::new(&path).unwrap()).unwrap();
        rustix::net::listen(&socket, 0).unwrap();
        let _queued = connect(&path).await.unwrap();
        let waiting = tokio::time::timeout(QUEUE_POLL * 100, connect(&path)).await;
        assert!(waiting.is_err(), "{waiting:?}");
        let listener = UnixListener::from(socket);
        listener.accept().unwrap();
        connect(&path).await.unwrap();
    }
}
