//! The step inside the namespace: restricts itself once more, then becomes the command.
//!
//! Bubblewrap starts it as the namespace's first program. It receives its order on an inherited socket, lets
//! Landlock refuse every change outside the places of the plan, switches core dumps off, reports what it reached
//! together with a descriptor of its own process, waits until the launching process has told the user, and
//! replaces itself with the command. The socket closes at that moment.
//!
//! Landlock only says what mounts say already: all but the writable places is mounted read-only. It holds where a
//! mount does not: for descriptors passed in, for what a kernel bug or a later mount would open, and for the abstract
//! sockets that all processes of a network namespace share. Its rules lie on the places themselves: what is mounted
//! there stays mounted until the last process of the namespace is gone. Reading is not restricted.

use std::fs::File;
use std::io::{self, BufRead, BufReader, IoSlice, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, ExitCode};

use landlock::{
    ABI, Access, AccessFs, BitFlags, CompatLevel, Compatible, LandlockStatus, PathBeneath, PathFd, Ruleset,
    RulesetAttr, RulesetCreated, RulesetCreatedAttr, RulesetError, RulesetStatus, Scope,
};
use rustix::io::{Errno, FdFlags, fcntl_setfd};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use rustix::process::{PidfdFlags, Resource, Rlimit, getpid, pidfd_open, setrlimit};

use super::channel::{Failure, GO, MESSAGE_BYTES_MAX, Order, Report};

/// Where the step's own program is mounted inside the namespace.
pub(super) const PROGRAM: &str = "/run/twinshare/confine";

/// Signals the launching process hands on itself, and which the processes between it and the command ignore.
pub(super) const HANDED_ON: [i32; 4] = [libc::SIGINT, libc::SIGQUIT, libc::SIGTERM, libc::SIGHUP];

/// Exit code when the command was found and cannot be run, as in a shell.
pub const NOT_RUNNABLE: u8 = 126;
/// Exit code when there is no such command, as in a shell.
pub const NOT_FOUND: u8 = 127;
/// Exit code when the command was not reached, as in `env`, `nohup` and `timeout`.
pub const NOT_REACHED: u8 = 125;

/// Carries out the step on the inherited descriptors `channel`, the socket to the launching process, and `stderr`,
/// the command's standard error. Returns only if the command could not be run.
///
/// Must be called before the process has other threads: Landlock restricts the calling thread and those it starts.
pub fn main(channel: RawFd, stderr: RawFd) -> ExitCode {
    // Without a channel there is nobody to tell.
    let Ok((channel, stderr)) = inherit(channel).and_then(|channel| Ok((channel, inherit(stderr)?))) else {
        return ExitCode::from(NOT_REACHED);
    };
    let mut channel = UnixStream::from(channel);
    let Err(failure) = confine(&mut channel, stderr);
    let code = match failure {
        Failure::Directory(_) | Failure::Restriction(_) => NOT_REACHED,
        Failure::NotFound { .. } => NOT_FOUND,
        Failure::NotRunnable(_) => NOT_RUNNABLE,
    };
    // If nobody listens any more, the exit code has to do.
    let _ = write_line(&mut channel, &Report::Failed(failure));
    ExitCode::from(code)
}

/// Takes over a descriptor that was inherited under this number. The command does not inherit it.
fn inherit(number: RawFd) -> io::Result<OwnedFd> {
    if number <= 2 {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    #[expect(unsafe_code, reason = "a descriptor that was inherited is known by its number only")]
    // SAFETY: nothing else in this process knows the number: it was given by the launching process for this use.
    // That it is open is checked by the call below, which fails otherwise; nothing is done with it before.
    let fd = unsafe { OwnedFd::from_raw_fd(number) };
    match fcntl_setfd(&fd, FdFlags::CLOEXEC) {
        Ok(()) => Ok(fd),
        Err(errno) => {
            std::mem::forget(fd);
            Err(errno.into())
        }
    }
}

fn confine(channel: &mut UnixStream, stderr: OwnedFd) -> Result<std::convert::Infallible, Failure> {
    let order = read_order(channel).map_err(|e| Failure::Restriction(format!("the order: {e}")))?;
    let restriction = |what: &str, why: String| Failure::Restriction(format!("{what}: {why}"));
    rustix::stdio::dup2_stderr(&stderr).map_err(|e| restriction("standard error", e.to_string()))?;
    drop(stderr);
    std::env::set_current_dir(&order.directory).map_err(|e| Failure::Directory(e.to_string()))?;
    let landlock = restrict(&order.writable).map_err(|e| restriction("Landlock", e.to_string()))?;
    let no_core = Rlimit { current: Some(0), maximum: Some(0) };
    setrlimit(Resource::Core, no_core).map_err(|e| restriction("core dumps", e.to_string()))?;
    report_ready(channel, landlock).map_err(|e| restriction("the report", e.to_string()))?;
    let mut go = [0];
    channel.read_exact(&mut go).map_err(|e| restriction("the go-ahead", e.to_string()))?;
    if go != [GO] {
        return Err(restriction("the go-ahead", "not understood".to_owned()));
    }
    listen_to_signals(&order.ignored);
    Err(become_command(&order))
}

fn read_order(channel: &mut UnixStream) -> io::Result<Order> {
    let mut line = Vec::new();
    BufReader::new(channel.take(MESSAGE_BYTES_MAX as u64)).read_until(b'\n', &mut line)?;
    Ok(serde_json::from_slice(&line)?)
}

fn write_line(channel: &mut UnixStream, report: &Report) -> io::Result<()> {
    let mut line = serde_json::to_vec(report)?;
    line.push(b'\n');
    channel.write_all(&line)
}

/// Sends the report and, with its first byte, a descriptor of this process, to which signals can be sent from
/// outside the namespace.
fn report_ready(channel: &mut UnixStream, landlock: Option<u32>) -> io::Result<()> {
    let own = pidfd_open(getpid(), PidfdFlags::empty())?;
    let mut line = serde_json::to_vec(&Report::Ready { landlock })?;
    line.push(b'\n');
    let descriptors = [own.as_fd()];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    control.push(SendAncillaryMessage::ScmRights(&descriptors));
    let sent = sendmsg(&*channel, &[IoSlice::new(&line)], &mut control, SendFlags::NOSIGNAL)?;
    channel.write_all(&line[sent..])
}

/// Lets the command change files below `writable` only. Returns the version of Landlock's interface that is
/// enforced, or none where the kernel has no Landlock, or only the first version (before Linux 5.19): that one
/// refuses every rename between directories.
fn restrict(writable: &[String]) -> Result<Option<u32>, RulesetError> {
    let needed = Ruleset::default().set_compatibility(CompatLevel::HardRequirement);
    let Ok(ruleset) = needed.handle_access(AccessFs::Refer) else { return Ok(None) };
    // Writing to devices is judged by their permissions; `ioctl` on terminals and accelerators is left alone.
    let changes = AccessFs::from_write(ABI::V3);
    let mut ruleset = ruleset
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(changes)?
        .scope(Scope::from_all(ABI::V6))?
        .create()?;
    for place in writable {
        if let Ok(directory) = PathFd::new(place) {
            ruleset = ruleset.add_rule(PathBeneath::new(directory, changes))?;
        }
    }
    allow_reopening(&mut ruleset, AccessFs::WriteFile | AccessFs::Truncate);
    let status = ruleset.restrict_self()?;
    Ok(match (status.ruleset, status.landlock) {
        (RulesetStatus::NotEnforced, _) => None,
        (_, LandlockStatus::Available { effective_abi, .. }) => Some(effective_abi as u32),
        (_, LandlockStatus::NotEnabled | LandlockStatus::NotImplemented) => None,
    })
}

/// Lets programs open `/dev/stdout` and its like for writing where those are files or terminals outside.
fn allow_reopening(ruleset: &mut RulesetCreated, access: BitFlags<AccessFs>) {
    let (stdin, stdout, stderr) = (io::stdin(), io::stdout(), io::stderr());
    for fd in [stdin.as_fd(), stdout.as_fd(), stderr.as_fd()] {
        // Pipes need no rule, sockets cannot be reopened and the kernel takes no rule for them.
        let _ = (&mut *ruleset).add_rule(PathBeneath::new(fd, access));
    }
}

/// Takes back what the processes between the launching one and this one ignore.
fn listen_to_signals(ignored: &[i32]) {
    for signal in HANDED_ON.into_iter().filter(|signal| !ignored.contains(signal)) {
        #[expect(unsafe_code, reason = "the standard library does not reset ignored signals")]
        // SAFETY: the default disposition is valid for each of these signals, and no handler is replaced: this
        // process has installed none.
        unsafe {
            libc::signal(signal, libc::SIG_DFL);
        }
    }
}

fn become_command(order: &Order) -> Failure {
    let Some((program, arguments)) = order.command.split_first() else {
        return Failure::NotFound { interpreter: false };
    };
    let error = Command::new(program).args(arguments).env_clear().envs(&order.environment).exec();
    match error.raw_os_error().map(Errno::from_raw_os_error) {
        Some(Errno::NOENT) => Failure::NotFound { interpreter: program.contains('/') && exists(program) },
        _ => Failure::NotRunnable(error.to_string()),
    }
}

fn exists(program: &str) -> bool {
    Path::new(program).is_file() && File::open(program).is_ok()
}
