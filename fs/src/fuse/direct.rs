//! Mounting, unmounting and read-ahead by system call: what needs CAP_SYS_ADMIN, and nothing else.
//!
//! Runs in the [privileged helper](super::helper) only.

use std::ffi::CString;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;

use rustix::io::Errno;
use rustix::mount::{MountFlags, UnmountFlags};
use serde::{Deserialize, Serialize};

use super::mountinfo::{self, Device, FS_TYPE};

/// The device through which a FUSE server talks to the kernel.
pub(super) const DEVICE: &str = "/dev/fuse";

/// What a mount shall be like.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Spec {
    /// The name shown in the table of mounts; free of `,`, `\` and bytes below 33.
    pub(super) source: String,
    /// The user and group the mount answers to.
    pub(super) owner: (u32, u32),
    /// Whether it also answers to every other user.
    pub(super) allow_other: bool,
    /// Whether nothing can be changed in it.
    pub(super) is_read_only: bool,
}

/// Opens `/dev/fuse`.
pub(super) fn open_device() -> io::Result<OwnedFd> {
    Ok(File::options().read(true).write(true).open(DEVICE)?.into())
}

/// Mounts at `at` and returns the descriptor through which the mount is served.
pub(super) fn mount(at: &Path, spec: &Spec) -> Result<OwnedFd, Errno> {
    let device = open_device().map_err(errno)?;
    let (uid, gid) = spec.owner;
    let allow_other = if spec.allow_other { ",allow_other" } else { "" };
    let options = format!(
        "fd={},rootmode=40000,user_id={uid},group_id={gid},default_permissions{allow_other}",
        device.as_raw_fd()
    );
    let options = CString::new(options).map_err(|_| Errno::INVAL)?;
    // Programs may be run from a workspace, so never noexec; but a peer hands out neither privileges nor devices.
    let flags = MountFlags::NOSUID | MountFlags::NODEV;
    let flags = if spec.is_read_only { flags | MountFlags::RDONLY } else { flags };
    rustix::mount::mount(spec.source.as_str(), at, FS_TYPE, flags, options.as_c_str())?;
    Ok(device)
}

/// Unmounts what is mounted at `at` if it is ours: plainly, so that EBUSY says somebody uses it.
pub(super) fn unmount(at: &Path) -> Result<(), Errno> {
    if !mountinfo::mounted_at(at).map_err(errno)?.is_some_and(|mounted| mounted.is_ours()) {
        return Err(Errno::INVAL);
    }
    rustix::mount::unmount(at, UnmountFlags::NOFOLLOW)
}

/// Sets how far the kernel reads ahead on a mount of ours. FUSE itself grants at most what the kernel offers in
/// INIT (128 KiB).
pub(super) fn set_read_ahead(device: Device, kib: u32) -> Result<(), Errno> {
    if !mountinfo::is_our_device(device).map_err(errno)? {
        return Err(Errno::INVAL);
    }
    let Device { major, minor } = device;
    let setting = format!("/sys/class/bdi/{major}:{minor}/read_ahead_kb");
    std::fs::write(setting, kib.to_string()).map_err(errno)
}

fn errno(error: io::Error) -> Errno {
    Errno::from_io_error(&error).unwrap_or(Errno::IO)
}
