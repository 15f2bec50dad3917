//! Mounting and unmounting through `fusermount3`, the set-user-id program every FUSE package brings.
//!
//! It mounts for whoever owns the mount point, and hands the FUSE descriptor back over a socket whose number it
//! finds in `_FUSE_COMMFD`.

use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use rustix::io::{Errno, FdFlags};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use super::direct::Spec;
use super::helper::{await_readable, receive};
use super::mountinfo::mounted_at;

/// Where to look for it: a node started by a service manager may have a short PATH.
const PROGRAMS: [&str; 4] =
    ["fusermount3", "/usr/bin/fusermount3", "/bin/fusermount3", "/usr/local/bin/fusermount3"];
/// How long it may take; it waits for nothing but the file system the mount point lies on.
const WITHIN: Duration = Duration::from_secs(10);
/// How long its end is waited for once it has been killed.
const GIVEN_UP_WITHIN: Duration = Duration::from_secs(1);
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
    /// Mounts at `at` and returns the descriptor through which the mount is served. Nothing stays mounted on an error.
    pub(super) fn mount(&self, at: &Path, spec: &Spec) -> Result<OwnedFd, FusermountError> {
        mount(&PROGRAMS, at, spec, Instant::now() + WITHIN)
    }

    /// Unmounts `at`: plainly, so that it fails while somebody uses it.
    pub(super) fn unmount(&self, at: &Path) -> Result<(), FusermountError> {
        let mut child = spawn(&PROGRAMS, |command| {
            command.arg("-u").arg("--").arg(at);
        })?;
        let unmounted = finish(&mut child, Instant::now() + WITHIN);
        if unmounted.is_err() {
            give_up(child, None);
        }
        unmounted
    }
}

fn mount(programs: &[&str], at: &Path, spec: &Spec, until: Instant) -> Result<OwnedFd, FusermountError> {
    let (ours, theirs) = socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)
        .map_err(io::Error::from)?;
    let allow_other = if spec.allow_other { ",allow_other" } else { "" };
    let access = if spec.is_read_only { "ro" } else { "rw" };
    let options = format!(
        "{access},nosuid,nodev,default_permissions,fsname={},subtype=twinshare{allow_other}",
        spec.source
    );
    let mut child = spawn(programs, |command| {
        command.arg("-o").arg(&options).arg("--").arg(at);
        command.env("_FUSE_COMMFD", theirs.as_raw_fd().to_string());
        inherit(command, &theirs);
    })?;
    // Its exit is noticed as the end of the socket, so ours must be the only other end.
    drop(theirs);
    let mounted = hand_over(&mut child, ours, until);
    if mounted.is_err() {
        give_up(child, Some(at.to_owned()));
    }
    mounted
}

/// Takes the descriptor and waits for the program's end.
fn hand_over(child: &mut Child, ours: OwnedFd, until: Instant) -> Result<OwnedFd, FusermountError> {
    let device = match await_readable(ours.as_fd(), until).and_then(|()| receive(ours.as_fd())) {
        Ok(Some((_, device))) => device,
        Ok(None) | Err(Errno::TIMEDOUT) => None,
        Err(errno) => return Err(io::Error::from(errno).into()),
    };
    drop(ours);
    finish(child, until)?;
    device.ok_or_else(|| FusermountError::Refused("it handed over no descriptor".into()))
}

/// Ends the program, and what it has mounted at `at` by then: nobody would serve it. A program that the kernel does not
/// let go is waited for by a thread that stays behind.
fn give_up(mut child: Child, at: Option<PathBuf>) {
    let (done, ended) = mpsc::sync_channel(1);
    let end = move || {
        // It may have ended by itself.
        let _ = child.kill();
        let _ = child.wait();
        if let Some(at) = at
            && matches!(mounted_at(&at), Ok(Some(mount)) if mount.is_ours())
            && let Err(error) = Fusermount.unmount(&at)
        {
            tracing::warn!(at = %at.display(), %error, "a mount that is not served stays behind");
        }
        let _ = done.send(());
    };
    if thread::Builder::new().name("fusermount".into()).spawn(end).is_ok() {
        let _ = ended.recv_timeout(GIVEN_UP_WITHIN);
    }
}

fn spawn(programs: &[&str], prepare: impl Fn(&mut Command)) -> Result<Child, FusermountError> {
    for program in programs {
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

/// Waits for its end; what it wrote to standard error is the error. Who gets another error gives the program up.
fn finish(child: &mut Child, until: Instant) -> Result<(), FusermountError> {
    let ended = pidfd_open(Pid::from_child(child), PidfdFlags::empty())
        .and_then(|process| await_readable(process.as_fd(), until));
    match ended {
        Ok(()) => {}
        Err(Errno::TIMEDOUT) => return Err(FusermountError::Late),
        Err(errno) => return Err(io::Error::from(errno).into()),
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

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    /// Has `script` mount, and expects this error and nothing left of it.
    #[track_caller]
    fn check(script: &str, expected: &str) {
        let directory = tempfile::tempdir().unwrap();
        let (program, pid) = (directory.path().join("fusermount3"), directory.path().join("pid"));
        fs::write(&program, format!("#!/bin/sh\necho $$ > {}\n{script}", pid.display())).unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        let spec =
            Spec { source: "twinshare:a/b".into(), owner: (0, 0), allow_other: false, is_read_only: true };
        let until = Instant::now() + Duration::from_secs(1);
        let mounted = mount(&[program.to_str().unwrap()], directory.path(), &spec, until);
        let error = mounted.unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
        let pid = fs::read_to_string(pid).unwrap();
        assert!(!Path::new(&format!("/proc/{}", pid.trim())).exists(), "it is still there, or not reaped");
    }

    #[test]
    fn a_program_that_fails_leaves_nothing_behind() {
        check("exec sleep 1000", "did not answer");
        check("exec sleep 1000 <&-", "did not answer");
        check("echo fusermount3: no >&2; exit 1", "no");
        check("exit 0", "it handed over no descriptor");
    }
}
