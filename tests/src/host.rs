//! A machine for a test: its own network, mounts, processes, name and files, made of namespaces.
//!
//! `/home`, `/root`, `/opt`, `/srv`, `/media`, `/tmp`, `/var/tmp` and `/run` of a host are its own and empty, so what one host
//! has there does not exist on another; the rest (`/usr`, `/etc`) is the machine's. The executable under test is `twinshare` on
//! every host's `PATH`. Each host has one ordinary user, [`ORDINARY`].
//!
//! A host lives as long as a pipe to its first process: when the test process ends, however it ends, the kernel closes the
//! pipe, the first process exits, and everything on the host, FUSE mounts and loop devices included, goes with it.

use std::{
    fs::File,
    io::{Read, Write},
    os::fd::AsFd,
    path::{Path, PathBuf},
    process::{Child, ChildStdin, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space, unshare_unsafe},
};

use crate::{
    binary,
    program::Program,
    tree::{self, Tree},
};

/// The ordinary user of every host: name, and user and group id. It exists on hosts alone.
pub const ORDINARY: (&str, u32) = ("ordinary", 21_450);

/// Where every host has the executable under test.
pub(crate) const BINARY_DIR: &str = "/run/twinshare-test";

/// Laying out a host takes 50 ms; on a loaded machine, with a file system to make, not more than this.
const READY_BOUND: Duration = Duration::from_secs(30);

/// What a host's own directories lie on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Disk {
    /// Memory: fast, with user xattrs, without an extent map worth the name.
    Tmpfs,
    /// A fresh ext4 of 8 GiB (sparse) on a loop device: what people have.
    Ext4,
}

impl Disk {
    fn name(self) -> &'static str {
        match self {
            Disk::Tmpfs => "tmpfs",
            Disk::Ext4 => "ext4",
        }
    }
}

/// One machine. Dropping it ends everything on it.
#[derive(Debug)]
pub struct Host {
    name: String,
    namespaces: Arc<Namespaces>,
    links: AtomicU32,
    holder: Child,
    lifeline: Option<ChildStdin>,
}

impl Host {
    /// Makes a machine called `name` and waits until it is ready.
    ///
    /// # Errors
    /// When namespaces may not be made here, with what the system said.
    pub fn new(name: &str, disk: Disk) -> Result<Host> {
        let mut holder = holder(name, disk, binary::twinshare()?, &binary::observer()?)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .context("starting unshare (package util-linux)")?;
        let lifeline = holder.stdin.take();
        if let Err(error) = await_ready(&mut holder) {
            drop(lifeline);
            let said = last_words(&mut holder);
            return Err(error.context(format!("making the test host {name} failed (it needs root): {said}")));
        }
        let namespaces = Arc::new(Namespaces::of(holder.id())?);
        Ok(Host { name: name.to_owned(), namespaces, links: AtomicU32::new(0), holder, lifeline })
    }

    /// The host's name, which is also its hostname.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// A command on this host, as root, with a small environment of its own.
    pub fn program(&self, name: impl Into<String>) -> Program {
        Program::inside(Arc::clone(&self.namespaces), name.into())
    }

    /// A file or directory of this host as the test process can reach it. Mounts on the host are seen through it too, but
    /// absolute symbolic links lead out of it.
    pub fn path(&self, absolute: impl AsRef<Path>) -> PathBuf {
        let beneath = absolute.as_ref().strip_prefix("/").unwrap_or(absolute.as_ref()).to_owned();
        PathBuf::from(format!("/proc/{}/root", self.holder.id())).join(beneath)
    }

    /// Everything under `dir` as root on this host sees it, or as the ordinary user.
    ///
    /// # Errors
    /// When the directory itself cannot be described within two minutes.
    pub fn observe(&self, dir: &str, ordinary: bool) -> Result<Tree> {
        let observer = self.program("twinshare-observe").arg(dir);
        let observer = if ordinary { observer.ordinary() } else { observer };
        tree::parse(&observer.run(Duration::from_secs(120))?.success()?)
    }

    /// Whether any process on the host was started from the executable `name`.
    ///
    /// # Errors
    /// When the process list cannot be had.
    pub fn runs(&self, name: &str) -> Result<bool> {
        let ended = self.program("pgrep").args(["-x", name]).run(Duration::from_secs(10))?;
        Ok(ended.status.success())
    }

    /// The process whose namespaces are the host's, for `ip link ... netns PID`.
    pub(crate) fn holder_pid(&self) -> u32 {
        self.holder.id()
    }

    pub(crate) fn namespaces(&self) -> Arc<Namespaces> {
        Arc::clone(&self.namespaces)
    }

    /// The name of the next interface on this host: what `ip link add type veth` itself would choose, and so what
    /// whoever joins two namespaces by hand has.
    pub(crate) fn next_interface(&self) -> String {
        format!("veth{}", self.links.fetch_add(1, Ordering::Relaxed))
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        drop(self.lifeline.take());
        let _ = self.holder.wait();
    }
}

fn holder(name: &str, disk: Disk, twinshare: &Path, observer: &Path) -> Command {
    let mut command = Command::new("unshare");
    command
        .args(["--net", "--mount", "--pid", "--uts", "--ipc", "--fork", "--kill-child", "--"])
        .args(["bash", "-c", include_str!("host/init.sh"), "twinshare-test-host", name, disk.name()])
        .args([&ORDINARY.1.to_string(), ORDINARY.0])
        .arg("twinshare")
        .arg(twinshare)
        .arg("twinshare-observe")
        .arg(observer);
    command
}

fn await_ready(holder: &mut Child) -> Result<()> {
    let mut stdout = holder.stdout.take().context("the host has no output")?;
    let started = Instant::now();
    let mut said = Vec::new();
    while !said.ends_with(b"ready\n") {
        let left = READY_BOUND.checked_sub(started.elapsed()).context("it was not ready in time")?;
        let left = Timespec { tv_sec: left.as_secs().cast_signed(), tv_nsec: i64::from(left.subsec_nanos()) };
        poll(&mut [PollFd::new(&stdout, PollFlags::IN)], Some(&left)).context("waiting for the host")?;
        let mut chunk = [0; 256];
        let length = stdout.read(&mut chunk).context("reading from the host")?;
        ensure!(length > 0, "its first process ended");
        said.extend_from_slice(&chunk[..length]);
    }
    Ok(())
}

fn last_words(holder: &mut Child) -> String {
    let mut said = String::new();
    if let Some(mut stderr) = holder.stderr.take() {
        let _ = stderr.read_to_string(&mut said);
    }
    let _ = holder.wait();
    said.trim().to_owned()
}

/// Descriptors of a host's namespaces: what a command has to enter before it starts.
#[derive(Debug)]
pub(crate) struct Namespaces {
    held: Vec<(File, LinkNameSpaceType)>,
}

impl Namespaces {
    fn of(holder: u32) -> Result<Namespaces> {
        let kinds = [
            ("net", LinkNameSpaceType::Network),
            ("uts", LinkNameSpaceType::HostNameAndNISDomainName),
            ("ipc", LinkNameSpaceType::InterProcessCommunication),
            ("pid_for_children", LinkNameSpaceType::ProcessID),
            // Last: it moves the thread's root directory, and with it what every other path means.
            ("mnt", LinkNameSpaceType::Mount),
        ];
        let mut held = Vec::new();
        for (name, kind) in kinds {
            let link = format!("/proc/{holder}/ns/{name}");
            held.push((File::open(&link).with_context(|| format!("opening {link}"))?, kind));
        }
        Ok(Namespaces { held })
    }

    /// Runs `act` on a thread that has entered the namespaces; children it starts live there entirely.
    pub(crate) fn with<T: Send>(&self, act: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        std::thread::scope(|scope| {
            let entered = scope.spawn(|| {
                self.enter()?;
                act()
            });
            entered.join().unwrap_or_else(|_| bail!("the thread inside the host panicked"))
        })
    }

    fn enter(&self) -> Result<()> {
        // SAFETY: CLONE_FS only gives this thread its own working directory, root and umask; descriptor tables, which the
        // function warns about, stay shared. setns(2) refuses mount namespaces to threads that share them.
        #[expect(unsafe_code, reason = "unshare is unsafe for CLONE_FILES, which is not used")]
        unsafe { unshare_unsafe(UnshareFlags::FS) }.context("leaving the shared working directory")?;
        for (namespace, kind) in &self.held {
            move_into_link_name_space(namespace.as_fd(), Some(*kind)).context("entering the host")?;
        }
        Ok(())
    }
}

/// Writes `text` to a file of a host, with the parents it needs.
///
/// # Errors
/// As the file system says.
pub fn write_file(host: &Host, at: &str, text: &[u8]) -> Result<()> {
    let path = host.path(at);
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent).with_context(|| format!("creating the directory of {at}"))?;
    }
    File::create(&path).and_then(|mut file| file.write_all(text)).with_context(|| format!("writing {at}"))
}
