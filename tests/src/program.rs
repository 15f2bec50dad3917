//! A command under a deadline, on a host or beside the tests, with everything it said kept.
//!
//! Output goes to unnamed files, not to pipes: a command that leaves a daemon behind would hold a pipe open for ever, and a
//! file can be read while the command is still running.

use std::{
    ffi::{OsStr, OsString},
    fmt::Write as _,
    fs::File,
    os::{fd::OwnedFd, unix::fs::FileExt},
    process::{Child, Command, ExitStatus, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal},
};

use crate::host::{BINARY_DIR, Namespaces, ORDINARY};

/// The `PATH` of every command on a host.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Names the run of all tests that a process belongs to.
const MARK: &str = "TWINSHARE_TEST_RUN";

/// How long a command that was told to die may take: it is SIGKILL, so only a process stuck in the kernel needs more.
const DEATH_BOUND: Duration = Duration::from_secs(20);

/// A command to be started. Set up like [`std::process::Command`], run with [`Program::run`] or [`Program::start`].
#[derive(Clone, Debug)]
pub struct Program {
    inside: Option<Arc<Namespaces>>,
    argv: Vec<OsString>,
    environment: Vec<(OsString, OsString)>,
    dir: OsString,
    ordinary: bool,
}

impl Program {
    /// A command on the machine the tests run on, with the tests' own environment.
    pub fn here(name: impl Into<OsString>) -> Program {
        Program {
            inside: None,
            argv: vec![name.into()],
            environment: std::env::vars_os().collect(),
            dir: "/".into(),
            ordinary: false,
        }
    }

    pub(crate) fn inside(namespaces: Arc<Namespaces>, name: String) -> Program {
        let mut environment = vec![
            ("PATH", format!("{BINARY_DIR}:{PATH}")),
            ("HOME", "/root".into()),
            ("LC_ALL", "C.UTF-8".into()),
            ("RUST_BACKTRACE", "1".into()),
        ];
        // By it `tests/run` finds what a test has left running.
        if let Ok(mark) = std::env::var(MARK) {
            environment.push((MARK, mark));
        }
        Program {
            inside: Some(namespaces),
            argv: vec![name.into()],
            environment: environment.into_iter().map(|(name, value)| (name.into(), value.into())).collect(),
            dir: "/".into(),
            ordinary: false,
        }
    }

    /// Adds one argument.
    #[must_use]
    pub fn arg(mut self, arg: impl AsRef<OsStr>) -> Program {
        self.argv.push(arg.as_ref().into());
        self
    }

    /// Adds arguments.
    #[must_use]
    pub fn args(mut self, args: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Program {
        self.argv.extend(args.into_iter().map(|arg| arg.as_ref().into()));
        self
    }

    /// Sets one variable of the environment.
    #[must_use]
    pub fn env(mut self, name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Program {
        self.environment.retain(|(existing, _)| existing != name.as_ref());
        self.environment.push((name.as_ref().into(), value.as_ref().into()));
        self
    }

    /// Sets the working directory, `/` otherwise.
    #[must_use]
    pub fn dir(mut self, dir: impl AsRef<OsStr>) -> Program {
        self.dir = dir.as_ref().into();
        self
    }

    /// Runs it as the host's ordinary user, with that user's home and without any capability.
    #[must_use]
    pub fn ordinary(mut self) -> Program {
        self.ordinary = true;
        self.env("HOME", format!("/home/{}", ORDINARY.0))
            .env("USER", ORDINARY.0)
            .env("XDG_RUNTIME_DIR", format!("/run/user/{}", ORDINARY.1))
    }

    /// Starts it.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(self) -> Result<Running> {
        let shown = self.shown();
        let (stdout, stderr) = (tempfile::tempfile()?, tempfile::tempfile()?);
        let mut command = self.command();
        command
            .stdin(Stdio::null())
            .stdout(stdout.try_clone().context("sharing the output file")?)
            .stderr(stderr.try_clone().context("sharing the error file")?);
        let mut spawn = move || command.spawn().map_err(anyhow::Error::from);
        let child = match &self.inside {
            Some(namespaces) => namespaces.with(spawn),
            None => spawn(),
        }
        .with_context(|| format!("starting {shown}"))?;
        let pid = Pid::from_child(&child);
        let handle = pidfd_open(pid, PidfdFlags::empty()).context("opening the process")?;
        Ok(Running { shown, child, handle, stdout, stderr, started: Instant::now(), reaped: false })
    }

    /// Runs it to its end, at most for `bound`.
    ///
    /// # Errors
    /// When it cannot be started, or is still running after `bound` (it is killed then). How it ended is for the caller to
    /// judge: [`Ended::success`].
    pub fn run(self, bound: Duration) -> Result<Ended> {
        self.start()?.wait(bound)
    }

    fn command(&self) -> Command {
        let mut words = self.argv.iter();
        let mut command = if self.ordinary {
            let mut command = as_user(ORDINARY.1);
            // As that user: root may not enter a FUSE mount of somebody else's.
            command.args(["env", "--chdir"]).arg(&self.dir);
            command
        } else {
            Command::new(words.next().map_or(OsStr::new("true"), OsString::as_os_str))
        };
        command.args(words).env_clear().envs(self.environment.iter().map(|(name, value)| (name, value)));
        command.current_dir(if self.ordinary { OsStr::new("/") } else { &self.dir });
        command
    }

    fn shown(&self) -> String {
        let words: Vec<_> = self.argv.iter().map(|word| word.to_string_lossy()).collect();
        words.join(" ")
    }
}

/// A command that runs the program and arguments that are added to it as the user and group `id`, without privilege.
pub fn as_user(id: u32) -> Command {
    let text = id.to_string();
    let mut command = Command::new("setpriv");
    command.args(["--reuid", &text, "--regid", &text, "--clear-groups", "--inh-caps=-all", "--"]);
    command
}

/// A command that was started. Dropping it kills it.
#[derive(Debug)]
pub struct Running {
    shown: String,
    child: Child,
    handle: OwnedFd,
    stdout: File,
    stderr: File,
    started: Instant,
    reaped: bool,
}

impl Running {
    /// Waits for the end, at most for `bound`.
    ///
    /// # Errors
    /// When `bound` passes; the command is killed then, and the error has what it said.
    pub fn wait(mut self, bound: Duration) -> Result<Ended> {
        if !self.ended_within(bound)? {
            let said = self.said();
            self.kill();
            bail!("`{}` was still running after {bound:?} and was killed\n{said}", self.shown);
        }
        let status = self.child.wait().context("collecting the command")?;
        self.reaped = true;
        Ok(Ended {
            shown: self.shown.clone(),
            status,
            stdout: contents(&self.stdout)?,
            stderr: contents(&self.stderr)?,
            took: self.started.elapsed(),
        })
    }

    /// Whether it ends within `bound`. It keeps running if not.
    ///
    /// # Errors
    /// Only when the kernel cannot be asked.
    pub fn ended_within(&self, bound: Duration) -> Result<bool> {
        let bound =
            Timespec { tv_sec: bound.as_secs().cast_signed(), tv_nsec: i64::from(bound.subsec_nanos()) };
        let ready = poll(&mut [PollFd::new(&self.handle, PollFlags::IN)], Some(&bound));
        Ok(ready.context("waiting for the command")? > 0)
    }

    /// Sends it a signal.
    ///
    /// # Errors
    /// When it has ended already.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        pidfd_send_signal(&self.handle, signal).with_context(|| format!("signalling `{}`", self.shown))
    }

    /// What it has written to standard output so far.
    ///
    /// # Errors
    /// As the file system says.
    pub fn stdout(&self) -> Result<Vec<u8>> {
        contents(&self.stdout)
    }

    /// Everything it has said so far, for messages.
    pub fn said(&self) -> String {
        said(&contents(&self.stdout).unwrap_or_default(), &contents(&self.stderr).unwrap_or_default())
    }

    /// Kills it with SIGKILL and collects it. What it had started on its own goes on.
    pub fn kill(&mut self) {
        if self.reaped {
            return;
        }
        let _ = self.signal(Signal::KILL);
        // A stopped process dies of SIGKILL too; one in an uninterruptible wait does not, and must not hang the test.
        if self.ended_within(DEATH_BOUND).unwrap_or(false) {
            let _ = self.child.wait();
            self.reaped = true;
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A command that has ended.
#[derive(Debug)]
pub struct Ended {
    shown: String,
    /// How it ended.
    pub status: ExitStatus,
    /// Its standard output.
    pub stdout: Vec<u8>,
    /// Its standard error.
    pub stderr: Vec<u8>,
    /// How long it ran.
    pub took: Duration,
}

impl Ended {
    /// Its standard output as text, if it succeeded.
    ///
    /// # Errors
    /// When it failed, with all it said.
    pub fn success(self) -> Result<String> {
        ensure!(self.status.success(), "{}", self.told());
        Ok(String::from_utf8_lossy(&self.stdout).into_owned())
    }

    /// Its standard error as text, if it failed by itself (not by a signal).
    ///
    /// # Errors
    /// When it succeeded or was killed, with all it said.
    pub fn failure(self) -> Result<String> {
        ensure!(self.status.code().is_some_and(|code| code != 0), "a failure was expected: {}", self.told());
        Ok(String::from_utf8_lossy(&self.stderr).into_owned())
    }

    /// The whole story, for messages.
    pub fn told(&self) -> String {
        format!(
            "`{}` ended with {} after {:?}\n{}",
            self.shown,
            self.status,
            self.took,
            said(&self.stdout, &self.stderr)
        )
    }
}

fn said(stdout: &[u8], stderr: &[u8]) -> String {
    let mut text = String::new();
    for (name, bytes) in [("stdout", stdout), ("stderr", stderr)] {
        if !bytes.is_empty() {
            let _ = writeln!(text, "--- {name}\n{}", String::from_utf8_lossy(bytes).trim_end());
        }
    }
    text
}

fn contents(file: &File) -> Result<Vec<u8>> {
    let length = usize::try_from(file.metadata().context("measuring the output")?.len())?;
    let mut bytes = vec![0; length];
    file.read_exact_at(&mut bytes, 0).context("reading the output")?;
    Ok(bytes)
}
