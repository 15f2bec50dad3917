//! Mounting and unmounting through `fusermount3`, the set-user-id program every FUSE package brings.
//!
//! It mounts for whoever owns the mount point, and hands the FUSE descriptor back over a socket whose number it
//! finds in `_FUSE_COMMFD`.

use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::io::{Errno, FdFlags};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use super::direct::Spec;
use super::helper::{await_readable, receive};

/// Where to look for it: a node started by a service manager may have a short PATH.
const PROGRAMS: [&str; 4] =
    ["fusermount3", "/usr/bin/fusermount3", "/bin/fusermount3", "/usr/local/bin/fusermount3"];
/// How long it may take; it waits for nothing but the file system the mount point lies on.
const WITHIN: Duration = Duration::from_secs(10);
/// Bytes of its complaint that are kept.
const COMPLAINT_BYTES_MAX: u64 = 4096;

/// The program.
#[derive(Debug)]
pub(super) struct Fusermount;

/// Why it did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub(super) enum FusermountError {
    #[error("fusermount3 is not installed")]
    NotInstalled,
    /// What it wrote to standard error, without its name in front.
    #[error("{0}")]
    Refused(String),
    #[error("fusermount3 did not answer within {} s", WITHIN.as_secs())]
    Late,
    #[error("fusermount3 could not be run: {0}")]
    Io(#[from] io::Error),
}

impl Fusermount {
    /// Mounts at `at` and returns the descriptor through which the mount is served.
    pub(super) fn mount(&self, at: &Path, spec: &Spec) -> Result<OwnedFd, FusermountError> {
        let (ours, theirs) = socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)
            .map_err(io::Error::from)?;
        let allow_other = if spec.allow_other { ",allow_other" } else { "" };
        let options = format!(
            "ro,nosuid,nodev,default_permissions,fsname={},subtype=twinshare{allow_other}",
            spec.source
        );
        let mut child = spawn(|command| {
            command.arg("-o").arg(&options).arg("--").arg(at);
            command.env("_FUSE_COMMFD", theirs.as_raw_fd().to_string());
            inherit(command, &theirs);
        })?;
        // Its exit is noticed as the end of the socket, so ours must be the only other end.
        drop(theirs);
        let until = Instant::now() + WITHIN;
        let device = match await_readable(ours.as_fd(), until).and_then(|()| receive(ours.as_fd())) {
            Ok(Some((_, device))) => device,
            Ok(None) => None,
            Err(Errno::TIMEDOUT) => None,
            Err(errno) => return Err(io::Error::from(errno).into()),
        };
        drop(ours);
        finish(&mut child, until)?;
        device.ok_or_else(|| FusermountError::Refused("it handed over no descriptor".into()))
    }

    /// Unmounts `at`: plainly, so that it fails while somebody uses it.
    pub(super) fn unmount(&self, at: &Path) -> Result<(), FusermountError> {
        let mut child = spawn(|command| {
            command.arg("-u").arg("--").arg(at);
        })?;
        finish(&mut child, Instant::now() + WITHIN)
    }
}

fn spawn(prepare: impl Fn(&mut Command)) -> Result<Child, FusermountError> {
    for program in PROGRAMS {
        let mut command = Command::new(program);
        // Its messages are read, and it translates them.
        command.env("LC_ALL", "C").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        prepare(&mut command);
        match command.spawn() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            spawned => return Ok(spawned?),
        }
    }
    Err(FusermountError::NotInstalled)
}

/// Lets the child keep `socket` across exec.
#[expect(unsafe_code, reason = "a descriptor is inherited by clearing close-on-exec in the child")]
fn inherit(command: &mut Command, socket: &OwnedFd) {
    let number = socket.as_raw_fd();
    let clear = move || {
        // SAFETY: the socket outlives the spawn, and the child of a fork has every descriptor of its parent.
        let socket = unsafe { rustix::fd::BorrowedFd::borrow_raw(number) };
        Ok(rustix::io::fcntl_setfd(socket, FdFlags::empty())?)
    };
    // SAFETY: between fork and exec it makes one system call and neither allocates nor locks.
    unsafe { command.pre_exec(clear) };
}

/// Waits for its end; what it wrote to standard error is the error.
fn finish(child: &mut Child, until: Instant) -> Result<(), FusermountError> {
    let ended = pidfd_open(Pid::from_child(child), PidfdFlags::empty())
        .and_then(|process| await_readable(process.as_fd(), until));
    if let Err(errno) = ended {
        child.kill()?;
        child.wait()?;
        return Err(if errno == Errno::TIMEDOUT {
            FusermountError::Late
        } else {
            io::Error::from(errno).into()
        });
    }
    let status = child.wait()?;
    if status.success() { Ok(()) } else { Err(FusermountError::Refused(complaint(child))) }
}

fn complaint(child: &mut Child) -> String {
    let mut bytes = Vec::new();
    if let Some(stderr) = child.stderr.take() {
        // What cannot be read is left out; the failure itself is reported either way.
        let _ = stderr.take(COMPLAINT_BYTES_MAX).read_to_end(&mut bytes);
    }
    let text = String::from_utf8_lossy(&bytes);
    let lines: Vec<_> = text.lines().map(|line| line.trim_start_matches("fusermount3: ").trim()).collect();
    if lines.is_empty() { "it gave no reason".into() } else { lines.join("; ") }
}

impl FusermountError {
    /// True when the mount is in use.
    pub(super) fn is_busy(&self) -> bool {
        matches!(self, Self::Refused(text) if text.contains("busy"))
    }
}
