//! Carries out a plan: starts the command so that terminal, signals and exit code are the caller's own.
//!
//! ```text
//! caller's process ──► bwrap ──► bwrap, first in the namespace ──► confine, which becomes the command
//! ```
//!
//! - **Terminal.** All of them share the caller's process group and standard streams, so the command reads and draws
//!   on the terminal itself and job control works (the [`super::filter`] keeps it from typing for the user).
//!   bwrap's own messages go to a pipe.
//! - **Signals.** INT, QUIT, TERM and HUP are ignored by the two in the middle: either would end, and with it the
//!   namespace, while the command still handles the signal. What a terminal sends to the group reaches the command
//!   directly; what is sent to the caller's process alone is handed on through a process descriptor.
//! - **End.** The namespace ends with the command: what it left in the background is killed. If the caller's process
//!   dies first, everything in the namespace is killed, so that nothing is left behind.

use std::ffi::OsString;
use std::io::{self, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use rustix::fs::{MemfdFlags, memfd_create};
use rustix::io::{FdFlags, fcntl_setfd};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use rustix::pipe::{PipeFlags, pipe_with};
use tokio::io::{AsyncReadExt, AsyncWriteExt, Interest};
use tokio::net::UnixStream;
use tokio::net::unix::pipe;
use tokio::process::{Child, Command};
use tokio::time::timeout;

use super::channel::{Failure, GO, Order, Report};
use super::confine::{HANDED_ON, PROGRAM};
use super::signals::{self, Signals};
use super::{Level, Plan, bubblewrap, environment, filter};

/// How long the namespace may take to be ready. It takes some 20 ms; only a mount that does not answer takes longer.
const READY_WITHIN: Duration = Duration::from_secs(20);

/// Bytes of bubblewrap's messages that are kept.
const MESSAGES_BYTES_MAX: u64 = 4096;

/// Why a command did not run.
#[derive(Debug, thiserror::Error)]
pub enum LaunchError {
    /// bubblewrap is not installed.
    #[error("bubblewrap, which separates the command from this machine, is not installed")]
    NoBubblewrap,
    /// bubblewrap could not make the namespaces.
    #[error("the command cannot be separated from this machine: {why}")]
    Refused {
        /// What bubblewrap said.
        why: String,
        /// What to do, where that is known.
        fix: Option<String>,
    },
    /// The namespaces did not get ready.
    #[error("the command's surroundings were not ready within {} seconds", READY_WITHIN.as_secs())]
    TimedOut,
    /// The namespaces are there; a further restriction could not be applied.
    #[error("the command cannot be restricted: {why}")]
    Restriction {
        /// What failed.
        why: String,
    },
    /// The directory to start in cannot be entered.
    #[error("the command cannot start in {directory}: {why}")]
    Directory {
        /// The directory.
        directory: String,
        /// What the system said.
        why: String,
    },
    /// There is no such command.
    #[error("{command}: {}", if *interpreter { "its interpreter is missing" } else { "no such command" })]
    NotFound {
        /// The command.
        command: String,
        /// True if the file is there and the interpreter it names is not.
        interpreter: bool,
    },
    /// The command is there and cannot be run.
    #[error("{command} cannot be run: {why}")]
    NotRunnable {
        /// The command.
        command: String,
        /// What the system said.
        why: String,
    },
    /// This process could not start or watch the command.
    #[error("the command could not be started: {source}")]
    Start {
        /// What the system said.
        source: io::Error,
    },
}

impl From<io::Error> for LaunchError {
    fn from(source: io::Error) -> Self {
        Self::Start { source }
    }
}

/// Runs the command of `plan` to its end. `announce` is told the level of isolation reached, before the command's
/// first output. Returns the command's exit code, or 128 and the number of the signal that ended it.
///
/// `program` is the executable whose hidden command `confine` is [`super::confine::main`]: this one, in a product.
///
/// To be called on the process's main thread, on a runtime without others: the kernel kills the namespace when the
/// *thread* that started it ends. Dropping the future kills it, too.
pub async fn launch(plan: &Plan, program: PathBuf, announce: impl FnOnce(&Level)) -> Result<u8, LaunchError> {
    let ignored = signals::ignored();
    let mut signals = Signals::listen(&ignored)?;
    let mut run = Run::start(plan, program)?;
    let order = order(plan, ignored);
    let prepared = tokio::select! {
        prepared = timeout(READY_WITHIN, run.prepare(&order)) => prepared.map_err(|_| LaunchError::TimedOut)??,
        signal = signals.next() => return Ok(code_of_signal(signal.as_raw())),
    };
    let Some((landlock, command)) = prepared else { return Err(run.refused().await) };
    announce(&Level { landlock, ..plan.level.clone() });
    run.channel.write_all(&[GO]).await?;
    let status = loop {
        tokio::select! {
            status = run.child.wait() => break status?,
            signal = signals.next() => signals::hand_on(&command, signal),
        }
    };
    match run.last_report().await {
        Some(Report::Failed(failure)) => Err(explain(failure, &order)),
        Some(Report::Ready { .. }) | None => Ok(exit_code(status)),
    }
}

fn order(plan: &Plan, ignored: Vec<i32>) -> Order {
    let text =
        |(name, value): (OsString, OsString)| Some((name.into_string().ok()?, value.into_string().ok()?));
    Order {
        command: plan.inside.command.clone(),
        directory: plan.inside.directory.clone(),
        environment: environment::compose(&plan.inside, std::env::vars_os().filter_map(text)),
        writable: plan.inside.writable.clone(),
        ignored,
    }
}

/// A namespace in the making, then a running command.
struct Run {
    child: Child,
    channel: UnixStream,
    /// What bubblewrap says.
    messages: pipe::Receiver,
}

/// What the step reached, and the process that becomes the command.
type Prepared = (Option<u32>, OwnedFd);

impl Run {
    fn start(plan: &Plan, program: PathBuf) -> Result<Self, LaunchError> {
        let (ours, theirs) = std::os::unix::net::UnixStream::pair()?;
        let (messages, their_messages) = pipe_with(PipeFlags::CLOEXEC).map_err(io::Error::from)?;
        let stderr = io::stderr().as_fd().try_clone_to_owned()?;
        let filter = filter::program().filter(|_| plan.level.system_call_filter);
        let filter = filter.map(|program| in_memory(&program)).transpose()?;

        let mut command = Command::new(bubblewrap::find()?);
        command.args(&plan.sandbox).arg("--ro-bind").arg(program).arg(PROGRAM);
        if let Some(filter) = &filter {
            command.args(["--seccomp", &filter.as_raw_fd().to_string()]);
        }
        let numbers = [theirs.as_raw_fd(), stderr.as_raw_fd()];
        command.args(["--", PROGRAM, "confine"]).args(numbers.map(|fd| fd.to_string()));
        command.env_clear().current_dir("/").stderr(Stdio::from(their_messages)).kill_on_drop(true);
        prepare_child(
            &mut command,
            numbers.into_iter().chain(filter.as_ref().map(AsRawFd::as_raw_fd)).collect(),
        );
        let child = command.spawn()?;
        // The child's ends, which the command holds too, are closed here: what ends there must be seen.
        drop(command);
        ours.set_nonblocking(true)?;
        Ok(Self {
            child,
            channel: UnixStream::from_std(ours)?,
            messages: pipe::Receiver::from_owned_fd(messages)?,
        })
    }

    /// Hands the order in and waits until it is prepared. None if the step was not reached.
    async fn prepare(&mut self, order: &Order) -> Result<Option<Prepared>, LaunchError> {
        let mut line = serde_json::to_vec(order).map_err(io::Error::from)?;
        line.push(b'\n');
        // A step that was not reached does not read; that it does not answer either is found below.
        let _ = self.channel.write_all(&line).await;
        let mut answer = [0; 1024];
        let channel = &self.channel;
        let received = channel.async_io(Interest::READABLE, || receive(channel.as_fd(), &mut answer)).await;
        let Ok((length, command)) = received else { return Ok(None) };
        match (serde_json::from_slice(&answer[..length]), command) {
            (Ok(Report::Ready { landlock }), Some(command)) => Ok(Some((landlock, command))),
            (Ok(Report::Failed(failure)), _) => Err(explain(failure, order)),
            (Ok(Report::Ready { .. }) | Err(_), _) => Ok(None),
        }
    }

    /// What the step said last, after its end.
    async fn last_report(&mut self) -> Option<Report> {
        let mut line = Vec::new();
        (&mut self.channel).take(MESSAGES_BYTES_MAX).read_to_end(&mut line).await.ok()?;
        serde_json::from_slice(&line).ok()
    }

    /// Why bubblewrap gave up.
    async fn refused(mut self) -> LaunchError {
        let mut text = Vec::new();
        if let Err(source) = self.child.wait().await {
            return LaunchError::Start { source };
        }
        // Whatever was read before an error is worth showing.
        let _ = self.messages.take(MESSAGES_BYTES_MAX).read_to_end(&mut text).await;
        bubblewrap::refused(&text)
    }
}

/// Lets the child inherit `descriptors` and makes it deaf to the signals that are the command's.
fn prepare_child(command: &mut Command, descriptors: Vec<RawFd>) {
    let prepare = move || {
        for &number in &descriptors {
            #[expect(
                unsafe_code,
                reason = "a closure that runs after the fork cannot borrow the descriptors"
            )]
            // SAFETY: the parent keeps the descriptors open until the child has been started.
            let descriptor = unsafe { BorrowedFd::borrow_raw(number) };
            fcntl_setfd(descriptor, FdFlags::empty())?;
        }
        for signal in HANDED_ON {
            #[expect(unsafe_code, reason = "the standard library has no way to ignore a signal")]
            // SAFETY: SIG_IGN is valid for each of these signals.
            unsafe {
                libc::signal(signal, libc::SIG_IGN);
            }
        }
        Ok(())
    };
    #[expect(unsafe_code, reason = "what a child inherits is decided between fork and exec")]
    // SAFETY: the closure only calls fcntl and signal, which are async-signal-safe, and allocates nothing.
    unsafe {
        command.pre_exec(prepare);
    }
}

/// A file in memory with this content, to be read from its start.
fn in_memory(content: &[u8]) -> io::Result<OwnedFd> {
    let file = memfd_create("twinshare-filter", MemfdFlags::CLOEXEC)?;
    // Written at its place, so that the descriptor's own offset stays at the start.
    let written = rustix::io::pwrite(&file, content, 0)?;
    match written == content.len() {
        true => Ok(file),
        false => Err(io::ErrorKind::WriteZero.into()),
    }
}

/// Receives once: bytes, and a descriptor if one came along.
fn receive(channel: BorrowedFd<'_>, bytes: &mut [u8]) -> io::Result<(usize, Option<OwnedFd>)> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let received = recvmsg(channel, &mut [IoSliceMut::new(bytes)], &mut control, RecvFlags::CMSG_CLOEXEC)?;
    let descriptor = control.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut descriptors) => descriptors.next(),
        _ => None,
    });
    Ok((received.bytes, descriptor))
}

fn explain(failure: Failure, order: &Order) -> LaunchError {
    let command = order.command.first().cloned().unwrap_or_default();
    match failure {
        Failure::Directory(why) => LaunchError::Directory { directory: order.directory.clone(), why },
        Failure::NotFound { interpreter } => LaunchError::NotFound { command, interpreter },
        Failure::NotRunnable(why) => LaunchError::NotRunnable { command, why },
        Failure::Restriction(why) => LaunchError::Restriction { why },
    }
}

fn exit_code(status: ExitStatus) -> u8 {
    match (status.code(), status.signal()) {
        (Some(code), _) => u8::try_from(code).unwrap_or(u8::MAX),
        (None, Some(signal)) => code_of_signal(signal),
        (None, None) => u8::MAX,
    }
}

fn code_of_signal(signal: i32) -> u8 {
    u8::try_from(128 + signal).unwrap_or(u8::MAX)
}
