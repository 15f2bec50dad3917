//! Unmounting: plainly, and with a word on who is in the way.

use std::fmt;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use rustix::io::Errno;

use super::direct;
use super::fusermount::{Fusermount, FusermountError};
use super::holders::{Holder, holders};
use super::liveness::dead_mount;
use super::mountinfo::{Device, Mounted, mounted_at};
use super::privilege::{Mounter, Route};

/// How long a mount is tried that is busy although nobody is seen in it: whoever looks into `/proc/PID/cwd`, as many
/// tools do to all processes, holds what it leads to for a moment.
const MOMENT: Duration = Duration::from_secs(1);
const BETWEEN_TRIES: Duration = Duration::from_millis(50);

/// Why a mount is still there.
#[derive(Debug, thiserror::Error)]
pub enum UnmountError {
    /// Somebody uses it.
    #[error("{} is in use{}: close what uses it and try again", .at.display(), By(.holders))]
    Busy {
        /// The mount point.
        at: PathBuf,
        /// Who uses it, as far as this user may see; at most eight.
        holders: Vec<Holder>,
    },
    /// Something else is in the way.
    #[error("{} cannot be unmounted: {why}", .at.display())]
    Refused {
        /// The mount point.
        at: PathBuf,
        /// What was said.
        why: String,
    },
}

/// ` by these`, or nothing.
struct By<'h>(&'h [Holder]);

impl fmt::Display for By<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, holder) in self.0.iter().enumerate() {
            write!(f, "{}{holder}", if index == 0 { " by " } else { ", " })?;
        }
        Ok(())
    }
}

/// What the system said.
#[derive(Debug)]
pub(super) enum Failure {
    Busy,
    NotPermitted,
    Other(String),
}

impl From<Errno> for Failure {
    fn from(errno: Errno) -> Self {
        match errno {
            Errno::BUSY => Self::Busy,
            Errno::PERM => Self::NotPermitted,
            errno => Self::Other(errno.to_string()),
        }
    }
}

impl From<FusermountError> for Failure {
    fn from(error: FusermountError) -> Self {
        if error.is_busy() { Self::Busy } else { Self::Other(error.to_string()) }
    }
}

impl Route {
    pub(super) fn unmount(&self, at: &Path) -> Result<(), Failure> {
        match self {
            Self::Helper(helper) => Ok(helper.line().unmount(at)?),
            Self::Fusermount(program) => Ok(program.unmount(at)?),
        }
    }

    pub(super) fn set_read_ahead(&self, device: Device, kib: u32) -> Result<(), Errno> {
        match self {
            Self::Helper(helper) => helper.line().set_read_ahead(device, kib),
            // The setting belongs to root.
            Self::Fusermount(_) => Err(Errno::PERM),
        }
    }
}

impl Mounter {
    /// As [`sweep_dead`], in the way this process mounts.
    pub fn sweep_dead(&self, at: &Path) -> Result<bool, UnmountError> {
        sweep(at, |at| self.route.unmount(at))
    }
}

/// Unmounts a mount of ours whose server has died; false when there is none at `at`. Never touches one that lives, or
/// whose server is silent, or one of another kind. Needs no [`Mounter`], hence works for any process of the user.
/// Blocks, 12 s at worst.
pub fn sweep_dead(at: &Path) -> Result<bool, UnmountError> {
    sweep(at, |at| match direct::unmount(at).map_err(Failure::from) {
        Err(Failure::NotPermitted) => Ok(Fusermount.unmount(at)?),
        done => done,
    })
}

fn sweep(at: &Path, by: impl Fn(&Path) -> Result<(), Failure>) -> Result<bool, UnmountError> {
    match dead_mount(at) {
        Ok(Some(mount)) => unmount(&mount, by).map(|()| true),
        Ok(None) => Ok(false),
        Err(error) => Err(UnmountError::Refused { at: at.into(), why: error.to_string() }),
    }
}

/// Unmounts `mount` unless something else is mounted there by now.
pub(super) fn unmount(
    mount: &Mounted,
    by: impl Fn(&Path) -> Result<(), Failure>,
) -> Result<(), UnmountError> {
    let at = mount.at.as_path();
    let refused = |why| UnmountError::Refused { at: at.into(), why };
    let began = Instant::now();
    loop {
        let there = mounted_at(at).map_err(|error| refused(error.to_string()))?;
        if there.as_ref() != Some(mount) {
            return Ok(());
        }
        match by(at) {
            Ok(()) => return Ok(()),
            Err(Failure::NotPermitted) => return Err(refused("it belongs to another user".into())),
            Err(Failure::Other(why)) => return Err(refused(why)),
            Err(Failure::Busy) => match holders(mount) {
                nobody if nobody.is_empty() && began.elapsed() < MOMENT => thread::sleep(BETWEEN_TRIES),
                holders => return Err(UnmountError::Busy { at: at.into(), holders }),
            },
        }
    }
}
