//! A directory served on a mount by a process of its own, which the test can stall, kill and ask to unmount.
//!
//! As root each test thread gets a private mount namespace, so whatever happens to the test, its mounts go with it. As an
//! ordinary user the mounts are real ones, made through fusermount3, and the server unmounts when the test is gone.

use std::fs::{self, File, Permissions};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rustix::fs::{FileType, Mode, makedev, mknodat};
use rustix::mount::{MountFlags, MountPropagationFlags, UnmountFlags, mount, mount_bind, mount_change};
use rustix::process::{Pid, Signal, kill_process};
use rustix::thread::{UnshareFlags, unshare_unsafe};
use tempfile::TempDir;
use twinshare_tests::program::as_user;

/// The user that stands for everybody who is not root.
const NOBODY: u32 = 65_534;
/// The numbers of `/dev/fuse` (`Documentation/admin-guide/devices.txt`).
const FUSE_DEVICE: (u32, u32) = (10, 229);
/// A server that has not answered by then does not.
const ANSWER_BOUND: Duration = Duration::from_secs(20);

/// Who serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Who {
    /// The user who runs the tests.
    Myself,
    /// An ordinary user.
    Ordinary,
}

impl Who {
    /// Everybody this user can be: an ordinary user can be nobody else.
    pub(crate) fn all() -> &'static [Who] {
        if is_root() { &[Who::Myself, Who::Ordinary] } else { &[Who::Myself] }
    }

    fn is_nobody(self) -> bool {
        self == Who::Ordinary
    }
}

/// Directories for one test: what is served, and where.
#[derive(Debug)]
pub(crate) struct Place {
    directory: TempDir,
    who: Who,
}

impl Place {
    /// An empty source and an empty mount point.
    pub(crate) fn new(who: Who) -> Result<Place> {
        if is_root() {
            leave_mount_namespace()?;
        }
        let directory = tempfile::tempdir()?;
        fs::set_permissions(directory.path(), Permissions::from_mode(0o755))?;
        let place = Place { directory, who };
        for path in [place.source(), place.mount_point(), place.state()] {
            fs::create_dir(&path)?;
            if who.is_nobody() {
                chown(&path, Some(NOBODY), Some(NOBODY))?;
            }
        }
        place.open_device()?;
        Ok(place)
    }

    pub(crate) fn source(&self) -> PathBuf {
        self.directory.path().join("source")
    }

    pub(crate) fn mount_point(&self) -> PathBuf {
        self.directory.path().join("mount")
    }

    /// Where a plain copy of the source is put.
    pub(crate) fn plain(&self) -> PathBuf {
        self.directory.path().join("plain")
    }

    /// A file that exists once something was run that must not be.
    pub(crate) fn trap(&self) -> PathBuf {
        self.directory.path().join("trapped")
    }

    fn state(&self) -> PathBuf {
        self.directory.path().join("state")
    }

    /// Keeps what is served in memory where that can be done: files are made there in no time.
    pub(crate) fn use_memory(&self) -> Result<()> {
        if is_root() {
            mount("tmpfs", self.source(), "tmpfs", MountFlags::empty(), None)?;
        }
        Ok(())
    }

    /// A command run by whoever serves.
    pub(crate) fn command(&self, program: impl AsRef<Path>) -> Command {
        if !self.who.is_nobody() {
            return Command::new(program.as_ref());
        }
        let mut command = as_user(NOBODY);
        command.arg(program.as_ref());
        command
    }

    /// The server's executable, where an ordinary user may run it.
    pub(crate) fn server(&self) -> Result<PathBuf> {
        let built = Path::new(env!("CARGO_BIN_EXE_mount-server"));
        if !self.who.is_nobody() {
            return Ok(built.into());
        }
        let copy = self.directory.path().join("mount-server");
        if !copy.exists() {
            fs::copy(built, &copy)?;
        }
        Ok(copy)
    }

    /// Serves the source on the mount point. `when_gone` is what reads do while the origin is silent.
    pub(crate) fn serve(&self, when_gone: &str) -> Result<Served> {
        self.serve_as("view", when_gone)
    }

    /// As [`serve`](Self::serve), so that it can be changed; goes on with what is there.
    pub(crate) fn serve_clone(&self, when_gone: &str) -> Result<Served> {
        self.serve_as("clone", when_gone)
    }

    /// As [`serve_clone`](Self::serve_clone), so that it fetches everything once the server is asked to `resume`.
    pub(crate) fn serve_filling(&self, when_gone: &str) -> Result<Served> {
        self.serve_as("filling", when_gone)
    }

    fn serve_as(&self, kind: &str, when_gone: &str) -> Result<Served> {
        let mut child = self
            .command(self.server()?)
            .arg(kind)
            .args([&self.source(), &self.mount_point(), &self.state()])
            .arg(when_gone)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("starting the server")?;
        let stdin = child.stdin.take();
        let stdout = BufReader::new(child.stdout.take().context("the server has no output")?);
        let mut served = Served { child, stdin, stdout, at: self.mount_point() };
        let said = served.line()?;
        ensure!(said.starts_with("mounted "), "the server said: {said}");
        Ok(served)
    }

    /// Gives an ordinary user a `/dev/fuse` in this mount namespace, and looks at the one of the user who tests.
    fn open_device(&self) -> Result<()> {
        if self.who.is_nobody() {
            let node = self.directory.path().join("fuse");
            let everybody = Mode::from_raw_mode(0o666);
            let device = makedev(FUSE_DEVICE.0, FUSE_DEVICE.1);
            mknodat(rustix::fs::CWD, &node, FileType::CharacterDevice, everybody, device)?;
            fs::set_permissions(&node, Permissions::from_mode(0o666))?;
            mount_bind(&node, "/dev/fuse")?;
        }
        let opened = File::options().read(true).write(true).open("/dev/fuse");
        opened.context(
            "these tests mount for real: they need /dev/fuse open to you (as root: chmod 666 /dev/fuse)",
        )?;
        Ok(())
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        // Neither need be a mount point. What is one cannot be removed with the directory.
        if is_root() {
            let _ = rustix::mount::unmount(self.source(), UnmountFlags::empty());
        }
        if self.who.is_nobody() {
            let _ = rustix::mount::unmount("/dev/fuse", UnmountFlags::empty());
        }
    }
}

/// The server and its mount.
#[derive(Debug)]
pub(crate) struct Served {
    child: Child,
    stdin: Option<ChildStdin>,
    stdout: BufReader<ChildStdout>,
    at: PathBuf,
}

impl Served {
    /// Has the server do something; what it refuses is an error.
    pub(crate) fn ask(&mut self, what: &str) -> Result<()> {
        writeln!(self.stdin.as_mut().context("the server has been told to end")?, "{what}")?;
        match self.line()?.as_str() {
            "ok" => Ok(()),
            refused => bail!("{refused}"),
        }
    }

    /// Has the server do something, and waits for no answer.
    pub(crate) fn tell(&mut self, what: &str) -> Result<()> {
        Ok(writeln!(self.stdin.as_mut().context("the server has been told to end")?, "{what}")?)
    }

    /// Bytes of content that have come from the origin.
    pub(crate) fn fetched(&mut self) -> Result<u64> {
        writeln!(self.stdin.as_mut().context("the server has been told to end")?, "fetched")?;
        Ok(self.line()?.parse()?)
    }

    /// How many changed files were taken anew, removed, and are in conflict.
    pub(crate) fn changed(&mut self) -> Result<[u64; 3]> {
        writeln!(self.stdin.as_mut().context("the server has been told to end")?, "changed")?;
        let said = self.line()?;
        let numbers: Vec<u64> = said.split(' ').map(str::parse).collect::<Result<_, _>>()?;
        numbers.try_into().map_err(|_| anyhow::anyhow!("the server said: {said}"))
    }

    /// Kills the server; its mount is dead then.
    pub(crate) fn kill(&mut self) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// Stops the server; whatever asks the mount waits until it goes on.
    pub(crate) fn stop(&self) -> Result<()> {
        let pid = Pid::from_child(&self.child);
        kill_process(pid, Signal::STOP)?;
        let stat = format!("/proc/{}/stat", self.child.id());
        let stopped = || fs::read_to_string(&stat).is_ok_and(|stat| stat.contains(") T "));
        let until = Instant::now() + ANSWER_BOUND;
        while !stopped() {
            ensure!(Instant::now() < until, "the server does not stop");
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }

    /// Lets a stopped server go on.
    pub(crate) fn go_on(&self) -> Result<()> {
        Ok(kill_process(Pid::from_child(&self.child), Signal::CONT)?)
    }

    fn line(&mut self) -> Result<String> {
        let mut line = String::new();
        let length = self.stdout.read_line(&mut line)?;
        ensure!(length > 0, "the server has died");
        Ok(line.trim_end().to_owned())
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        // The end of its input tells the server to unmount and go.
        self.stdin = None;
        let until = Instant::now() + ANSWER_BOUND;
        while Instant::now() < until {
            if matches!(self.child.try_wait(), Ok(Some(_))) {
                break;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
        // Nothing more can be done about one that is in use.
        let _ = twinshare_fs::fuse::sweep_dead(&self.at);
    }
}

pub(crate) fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Gives this thread, and what it starts, mounts of their own.
#[expect(unsafe_code, reason = "leaving the process's mount namespace")]
fn leave_mount_namespace() -> Result<()> {
    // SAFETY: no descriptor table is unshared, so no descriptor changes its meaning for another thread.
    unsafe { unshare_unsafe(UnshareFlags::NEWNS) }.context("a mount namespace of its own")?;
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)?;
    Ok(())
}
