//! A mount, from the first request to the last.

use std::ffi::OsStr;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::Receiver;
use std::thread;

use fuser::{Config, Filesystem, INodeNo, Notifier, Session, SessionACL};
use rustix::io::Errno;
use tokio::runtime::Handle;
use tokio::sync::watch;

use super::adapter::Adapter;
use super::clone::CloneAdapter;
use super::copies::{copies, is_copied};
use super::direct::{DEVICE, Spec, open_device};
use super::fusermount::FusermountError;
use super::holders::{Holder, holders};
use super::liveness::{in_time, is_fuse};
use super::mountinfo::{Mounted, mounted_at};
use super::privilege::{Mounter, Route};
use super::unmount::{UnmountError, unmount};
use crate::filesystem::{Notice, Tree};

/// Bytes of a mount's name at most; the kernel cuts lines of its table of mounts at a page.
const NAME_BYTES_MAX: usize = 200;
/// Read-ahead that keeps a link busy: with an origin 10 ms away 4 MiB read twenty times as fast as the kernel's own
/// 128 KiB.
const READ_AHEAD_KIB: u32 = 4096;

/// What a mount shall be like.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MountOptions {
    /// What is shown as its source in the table of mounts: `<peer>/<workspace>`. What would break the table is
    /// replaced by `_`.
    pub name: String,
    /// Whether users other than the one it is mounted by may look into it. An ordinary user needs
    /// `user_allow_other` in `/etc/fuse.conf` for it.
    pub allow_other: bool,
}

/// Why nothing was mounted.
#[derive(Debug, thiserror::Error)]
pub enum MountError {
    /// The machine has no FUSE.
    #[error(
        "this machine has no {DEVICE}: load the kernel module (`modprobe fuse`), or pass the device into the \
         container (`--device {DEVICE}`)"
    )]
    NoDevice,
    /// FUSE is closed to this user.
    #[error("{DEVICE} may not be opened by this user: have the administrator run `chmod 666 {DEVICE}`")]
    DeviceClosed,
    /// The way to mount for an ordinary user is missing.
    #[error("fusermount3 is not installed: install the package `fuse3`")]
    NoFusermount,
    /// The mount point lies on FUSE already, or is a mount of ours.
    #[error("{} lies on a FUSE file system: choose a directory on a local disk", .0.display())]
    OnFuse(PathBuf),
    /// The process that served a mount there has died.
    #[error("the mount on {} is dead: unmount it first (`fusermount3 -u {}`)", .0.display(), .0.display())]
    DeadMount(PathBuf),
    /// What is mounted there, or above, does not answer.
    #[error(
        "{} lies on a mount that does not answer: let the process go on that serves it, or choose another directory",
        .0.display()
    )]
    Silent(PathBuf),
    /// There is no directory to mount on.
    #[error("{} cannot be mounted on", .at.display())]
    NoMountPoint {
        /// The mount point.
        at: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The kernel, or `fusermount3`, refused.
    #[error("mounting on {} failed: {why}", .at.display())]
    Refused {
        /// The mount point.
        at: PathBuf,
        /// What was said.
        why: String,
    },
    /// The mount could not be served.
    #[error("the mount on {} could not be served", .at.display())]
    NotServed {
        /// The mount point.
        at: PathBuf,
        /// What went wrong.
        source: io::Error,
    },
}

/// How serving a mount ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SessionEnd {
    /// The last copy of the mount is gone.
    Unmounted,
    /// The conversation with the kernel broke; the mount is dead.
    Failed(String),
}

/// A root that is mounted and served by a thread of its own.
///
/// Dropping it leaves the mount as it is. While copies of the mount exist in other mount namespaces, they are served
/// also after [`unmount`](Self::unmount).
#[derive(Debug)]
pub struct MountedRoot {
    at: PathBuf,
    mount: Mounted,
    mounter: Mounter,
    ended: watch::Receiver<Option<SessionEnd>>,
}

impl Mounter {
    /// Mounts `tree` on the directory `at`, a view read-only, and serves it: requests that wait become tasks on `runtime`,
    /// which must run for as long as the mount does.
    ///
    /// `at` is reached by its path here and when it is unmounted, never in between. Blocks for a few milliseconds,
    /// 12 s at worst.
    pub fn mount(
        &self,
        tree: impl Into<Tree>,
        at: &Path,
        options: &MountOptions,
        runtime: Handle,
    ) -> Result<MountedRoot, MountError> {
        let at = in_time(at, mount_point).unwrap_or_else(|| Err(MountError::Silent(at.into())))?;
        check_device()?;
        let owner = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
        let source = format!("twinshare:{}", cleaned(&options.name));
        let tree = tree.into();
        let is_read_only = matches!(tree, Tree::View(_));
        let spec = Spec { source, owner, allow_other: options.allow_other, is_read_only };
        let device = self.route.mount(&at, &spec)?;
        let served = match tree {
            Tree::View(view) => {
                let notices = view.watch();
                serve(Adapter::new(view, runtime), device, notices)
            }
            Tree::Clone(tree) => {
                let tree = Arc::new(tree);
                let notices = tree.watch();
                serve(CloneAdapter::new(tree, runtime), device, Some(notices))
            }
        };
        let served = served.and_then(|ended| {
            let mount = mounted_at(&at)?.filter(Mounted::is_ours);
            Ok((ended, mount.ok_or_else(|| io::Error::other("it has been unmounted at once"))?))
        });
        match served {
            Ok((ended, mount)) => {
                self.read_ahead(&mount);
                Ok(MountedRoot { at, mount, mounter: self.clone(), ended })
            }
            Err(source) => {
                if let Err(failure) = self.route.unmount(&at) {
                    tracing::warn!(at = %at.display(), ?failure, "a mount that is not served stays behind");
                }
                Err(MountError::NotServed { at, source })
            }
        }
    }

    fn read_ahead(&self, mount: &Mounted) {
        if let Err(errno) = self.route.set_read_ahead(mount.device, READ_AHEAD_KIB) {
            tracing::debug!(%errno, "the kernel's read-ahead stays as it is");
        }
    }
}

impl MountedRoot {
    /// Where it is mounted: absolute, without symlinks.
    pub fn at(&self) -> &Path {
        &self.at
    }

    /// Unmounts it: plainly, never by force. That it is no longer mounted is no error. Blocks, 10 s at worst.
    ///
    /// # Errors
    /// [`UnmountError::Busy`] names who uses it, as far as that can be seen; it is still mounted and served then. Those
    /// who use a copy of the mount that would stay, in a sandbox or a container, count as users.
    pub fn unmount(&self) -> Result<(), UnmountError> {
        let elsewhere = copies(&self.mount);
        if !elsewhere.is_empty() {
            return Err(UnmountError::Busy { at: self.at.clone(), holders: elsewhere });
        }
        unmount(&self.mount, |at| self.mounter.route.unmount(at))
    }

    /// Who uses it, here or in a sandbox or a container, as far as that can be seen. Blocks for a look at all processes.
    pub fn users(&self) -> Vec<Holder> {
        let mut users = copies(&self.mount);
        users.extend(holders(&self.mount));
        users
    }

    /// True when a copy of it is in another mount namespace, as far as that can be seen. Blocks for a look at all
    /// processes.
    pub fn is_copied(&self) -> bool {
        is_copied(self.mount.device)
    }

    /// Waits until the kernel has ended the session: the mount and all its copies are gone, or it has died. Cancel
    /// safe.
    pub async fn ended(&self) -> SessionEnd {
        let mut ended = self.ended.clone();
        let end = ended.wait_for(Option::is_some).await.ok().and_then(|end| end.clone());
        end.unwrap_or_else(|| SessionEnd::Failed("its thread has died".into()))
    }
}

impl Route {
    fn mount(&self, at: &Path, spec: &Spec) -> Result<OwnedFd, MountError> {
        let refused = |why: String| MountError::Refused { at: at.into(), why };
        match self {
            Self::Helper(helper) => helper.line().mount(at, spec).map_err(|errno| match errno {
                Errno::NODEV => MountError::NoDevice,
                Errno::PIPE | Errno::TIMEDOUT => {
                    refused(format!("the mount helper does not answer ({errno})"))
                }
                errno => refused(errno.to_string()),
            }),
            Self::Fusermount(program) => program.mount(at, spec).map_err(|error| match error {
                FusermountError::NotInstalled => MountError::NoFusermount,
                error => refused(error.to_string()),
            }),
        }
    }
}

/// The mount point as the table of mounts will name it.
fn mount_point(at: &Path) -> Result<PathBuf, MountError> {
    let no_mount_point = |source| MountError::NoMountPoint { at: at.into(), source };
    match rustix::fs::statfs(at) {
        Err(Errno::NOTCONN) => return Err(MountError::DeadMount(at.into())),
        Err(errno) => return Err(no_mount_point(errno.into())),
        Ok(statfs) if is_fuse(&statfs) => return Err(MountError::OnFuse(at.into())),
        Ok(_) => {}
    }
    let at = at.canonicalize().map_err(no_mount_point)?;
    match at.is_dir() {
        true => Ok(at),
        false => Err(MountError::NoMountPoint { source: Errno::NOTDIR.into(), at }),
    }
}

fn check_device() -> Result<(), MountError> {
    match open_device().map_err(|error| error.kind()) {
        Ok(_) => Ok(()),
        Err(io::ErrorKind::PermissionDenied) => Err(MountError::DeviceClosed),
        // There is no device file, or no driver behind it.
        Err(_) => Err(MountError::NoDevice),
    }
}

/// A name that breaks neither the table of mounts nor an option of `fusermount3`.
fn cleaned(name: &str) -> String {
    let clean =
        |c: char| if c.is_control() || c.is_whitespace() || matches!(c, ',' | '\\') { '_' } else { c };
    let mut name: String = name.chars().map(clean).collect();
    name.truncate(name.floor_char_boundary(NAME_BYTES_MAX));
    name
}

/// Greets the kernel and starts the thread that answers it.
fn serve(
    adapter: impl Filesystem,
    device: OwnedFd,
    notices: Option<Receiver<Notice>>,
) -> io::Result<watch::Receiver<Option<SessionEnd>>> {
    // Whom the mount answers is the kernel's to check, by the options of the mount; fuser would only check again, and
    // refuse requests that a set-user-id program makes.
    let session = Session::from_fd(adapter, device, SessionACL::All, Config::default())?;
    if let Some(notices) = notices {
        let notifier = session.notifier();
        thread::Builder::new().name("fuse-notices".into()).spawn(move || notify(&notifier, &notices))?;
    }
    let (ending, ended) = watch::channel(None);
    thread::Builder::new().name("fuse".into()).spawn(move || {
        let end = match session.run() {
            Ok(()) => SessionEnd::Unmounted,
            Err(error) => SessionEnd::Failed(error.to_string()),
        };
        ending.send_replace(Some(end));
    })?;
    Ok(ended)
}

/// Tells the kernel what it must forget, until the tree is gone. It may wait for whoever holds the directory, whose
/// request another thread answers.
fn notify(notifier: &Notifier, notices: &Receiver<Notice>) {
    for notice in notices {
        let told = match &notice {
            Notice::Name(directory, name) => {
                notifier.inval_entry(INodeNo(directory.0), OsStr::from_bytes(name))
            }
            // A negative offset means the attributes alone: the content is the old version's, and stays.
            Notice::Attributes(node) => notifier.inval_inode(INodeNo(node.0), -1, 0),
            Notice::All(_) => continue,
            // To the end of it: what is cached of a directory is its listing.
            Notice::Listing(node) => notifier.inval_inode(INodeNo(node.0), 0, 0),
        };
        match told {
            Ok(()) => {}
            // It knew nothing of it.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => tracing::debug!(%error, ?notice, "the kernel was not told"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_breaks_no_table() {
        assert_eq!(cleaned("ada/gpt-4 demo"), "ada/gpt-4_demo");
        assert_eq!(cleaned("a,allow_other\\,\n\0é"), "a_allow_other____é");
        assert_eq!(cleaned(&"é".repeat(500)).len(), NAME_BYTES_MAX);
    }

    #[test]
    fn a_mount_point_is_a_directory() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("x");
        assert!(matches!(mount_point(&file), Err(MountError::NoMountPoint { .. })));
        std::fs::write(&file, b"").unwrap();
        assert!(matches!(mount_point(&file), Err(MountError::NoMountPoint { .. })));
        assert!(mount_point(&directory.path().join("../")).unwrap().is_absolute());
    }
}
