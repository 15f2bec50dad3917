//! How this process may mount: through a privileged helper, or through `fusermount3`.
//!
//! A process that may mount by itself (it has CAP_SYS_ADMIN) forks a small [`super::helper`] while it has one
//! thread only, and gives the capability up. From then on nothing in it that talks to a network can mount anything
//! else, load a module or read another user's memory.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::Arc;

use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use rustix::process::{Pid, Signal, WaitOptions, waitpid};
use rustix::thread::{CapabilitySet, CapabilitySets};

use super::fusermount::Fusermount;
use super::helper::{self, Helper};

/// Mounts, and says how. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Mounter {
    pub(super) route: Arc<Route>,
}

/// The way to the kernel.
#[derive(Debug)]
pub(super) enum Route {
    Helper(HelperProcess),
    Fusermount(Fusermount),
}

/// How mounts are made; for status.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum MountMode {
    /// By a small process that kept CAP_SYS_ADMIN. Read-ahead can be raised.
    RootHelper,
    /// By the set-user-id program of the FUSE package. Read-ahead stays at what the kernel offers.
    Fusermount3,
}

impl std::fmt::Display for MountMode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::RootHelper => "root helper",
            Self::Fusermount3 => "fusermount3",
        })
    }
}

impl Mounter {
    /// Chooses the way to mount. Must be called while the process has one thread, hence before a runtime exists.
    ///
    /// With CAP_SYS_ADMIN it forks the helper, and the caller has lost the capability for good when it returns (a
    /// program it executes as root gets it again: only the bounding set would change that, and sandboxes need it).
    ///
    /// # Errors
    /// The process has several threads, or the kernel refused the fork or the change of capabilities.
    pub fn start() -> io::Result<Self> {
        let capabilities = rustix::thread::capabilities(None)?;
        let route = if capabilities.effective.contains(CapabilitySet::SYS_ADMIN) {
            let helper = HelperProcess::start()?;
            drop_sys_admin(capabilities)?;
            Route::Helper(helper)
        } else {
            Route::Fusermount(Fusermount)
        };
        Ok(Self { route: Arc::new(route) })
    }

    /// How it mounts.
    pub fn mode(&self) -> MountMode {
        match *self.route {
            Route::Helper(_) => MountMode::RootHelper,
            Route::Fusermount(_) => MountMode::Fusermount3,
        }
    }
}

/// The helper as a child of this process; it ends when this is dropped.
#[derive(Debug)]
pub(super) struct HelperProcess {
    /// `None` only while it is being dropped.
    line: Option<Helper>,
    pid: Pid,
}

impl HelperProcess {
    /// The line to the helper.
    pub(super) fn line(&self) -> &Helper {
        self.line.as_ref().expect("the line is taken by drop alone")
    }

    fn start() -> io::Result<Self> {
        if std::fs::read_dir("/proc/self/task")?.count() != 1 {
            return Err(io::Error::other("the mount helper must be started before any thread"));
        }
        let (ours, theirs) =
            socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
        match fork()? {
            Some(pid) => Ok(Self { line: Some(Helper::new(ours)), pid }),
            None => run(theirs),
        }
    }
}

impl Drop for HelperProcess {
    fn drop(&mut self) {
        // The helper ends when its line does, and would stay a zombie without the wait.
        self.line = None;
        if let Err(errno) = rustix::io::retry_on_intr(|| waitpid(Some(self.pid), WaitOptions::empty())) {
            tracing::debug!(%errno, "the mount helper had already been waited for");
        }
    }
}

/// The child's pid in the parent, `None` in the child.
#[expect(unsafe_code, reason = "the helper is a fork of this process")]
fn fork() -> io::Result<Option<Pid>> {
    // SAFETY: the process has one thread (checked by the caller), so no lock is held by a thread that the child
    // would lack, and the child may do whatever the parent may.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()),
        pid => Ok(Pid::from_raw(pid)),
    }
}

/// The helper's whole life.
fn run(socket: OwnedFd) -> ! {
    let status =
        match confine(&socket).map_err(io::Error::from).and_then(|()| Ok(helper::serve(socket.as_fd())?)) {
            Ok(()) => 0,
            Err(_) => 1,
        };
    exit(status)
}

/// Leaves the parent's terminal, directory and descriptors, and keeps what mounting takes.
fn confine(socket: &OwnedFd) -> rustix::io::Result<()> {
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
    // Ctrl-C is meant for the parent, which unmounts in an orderly way and needs the helper for it.
    rustix::process::setsid()?;
    // The parent's working directory may lie in a mount that is to be unmounted some day.
    rustix::process::chdir("/")?;
    rustix::thread::set_name(c"twinshare-mount")?;
    close_other_descriptors(socket)?;
    // DAC_READ_SEARCH: a mount point may lie in a directory of another user.
    let kept = CapabilitySet::SYS_ADMIN | CapabilitySet::DAC_READ_SEARCH;
    let held = rustix::thread::capabilities(None)?.permitted & kept;
    let sets = CapabilitySets { effective: held, permitted: held, inheritable: CapabilitySet::empty() };
    rustix::thread::set_capabilities(None, sets)?;
    rustix::thread::clear_ambient_capability_set()?;
    rustix::thread::set_no_new_privs(true)
}

/// Closes all descriptors but standard error and the socket: a lock file or a pipe held here would outlive its owner.
#[expect(unsafe_code, reason = "descriptors of the parent are closed by number")]
fn close_other_descriptors(socket: &OwnedFd) -> rustix::io::Result<()> {
    let keep = socket.as_raw_fd().unsigned_abs();
    for (first, last) in [(0, 1), (3, keep.saturating_sub(1)), (keep + 1, u32::MAX)] {
        // SAFETY: the values that own these descriptors belong to the parent's code, which never runs again in this
        // process: it ends by `_exit`.
        if first <= last && unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) } != 0 {
            return Err(rustix::io::Errno::from_io_error(&io::Error::last_os_error())
                .unwrap_or(rustix::io::Errno::IO));
        }
    }
    Ok(())
}

#[expect(unsafe_code, reason = "a forked child must not run the parent's exit handlers")]
fn exit(status: i32) -> ! {
    // SAFETY: `_exit` has no preconditions.
    unsafe { libc::_exit(status) }
}

/// Takes CAP_SYS_ADMIN from every set but the bounding set.
fn drop_sys_admin(held: CapabilitySets) -> io::Result<()> {
    let without = !CapabilitySet::SYS_ADMIN;
    rustix::thread::configure_capability_in_ambient_set(CapabilitySet::SYS_ADMIN, false)?;
    rustix::thread::set_capabilities(
        None,
        CapabilitySets {
            effective: held.effective & without,
            permitted: held.permitted & without,
            inheritable: held.inheritable & without,
        },
    )?;
    Ok(())
}
