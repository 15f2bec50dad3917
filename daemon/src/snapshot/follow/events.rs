//! What the kernel tells of changes in the directories of a snapshot (inotify).
//!
//! A hint only: which directory or file it was is not even looked at. Where hearing of everything is not possible
//! (the user's watches are used up, or the tree lies on a filesystem that others change too), that is said, and
//! whoever listens looks now and then.

use std::collections::HashSet;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use rustix::fs::inotify::{self, CreateFlags, ReadFlags, WatchFlags};
use rustix::io::Errno;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::task::spawn_blocking;
use twinshare_fs::manifest::walk::MANIFEST_FILE;
use twinshare_fs::manifest::{EntryIndex, Kind, Manifest};

/// Watches of all workspaces at most; each takes about 1 KiB of the kernel's memory.
const WATCHES_MAX: usize = 1 << 17;

/// Of the watches that a user may have, others (editors, mostly) need theirs.
const SHARE_OF_USER: usize = 2;

/// Bytes of events read at once, and how often in a row: what is left then has certainly happened.
const BUFFER_BYTES: usize = 16 * 1024;
const READS_MAX: usize = 64;

/// Filesystems that other machines or processes change without this kernel telling (`linux/magic.h`): NFS, SMB, CIFS,
/// 9P, FUSE, Ceph.
const UNHEARD: [u32; 6] = [0x6969, 0xfe53_4d42, 0xff53_4d42, 0x0102_1997, 0x6573_5546, 0x00c3_6400];

/// What changes what is in a snapshot. Reading is not among it: a walk reads.
const CHANGES: WatchFlags = WatchFlags::MODIFY
    .union(WatchFlags::ATTRIB)
    .union(WatchFlags::CLOSE_WRITE)
    .union(WatchFlags::CREATE)
    .union(WatchFlags::DELETE)
    .union(WatchFlags::DELETE_SELF)
    .union(WatchFlags::MOVED_FROM)
    .union(WatchFlags::MOVED_TO)
    .union(WatchFlags::MOVE_SELF)
    .union(WatchFlags::ONLYDIR)
    .union(WatchFlags::DONT_FOLLOW)
    .union(WatchFlags::EXCL_UNLINK);

/// How many watches may still be made.
#[derive(Debug)]
pub(super) struct Allowance(AtomicUsize);

impl Allowance {
    /// Half of what the user may have.
    pub(super) fn of_user() -> Self {
        let text = std::fs::read_to_string("/proc/sys/fs/inotify/max_user_watches").unwrap_or_default();
        let of_user = text.trim().parse::<usize>().unwrap_or(WATCHES_MAX);
        Self(AtomicUsize::new(WATCHES_MAX.min(of_user / SHARE_OF_USER)))
    }

    #[cfg(test)]
    pub(super) fn of(watches: usize) -> Self {
        Self(AtomicUsize::new(watches))
    }

    fn take(&self) -> bool {
        self.0.fetch_update(Relaxed, Relaxed, |left| left.checked_sub(1)).is_ok()
    }

    fn give_back(&self, watches: usize) {
        self.0.fetch_add(watches, Relaxed);
    }

    #[cfg(test)]
    pub(super) fn left(&self) -> usize {
        self.0.load(Relaxed)
    }
}

/// The directories that are listened to.
#[derive(Debug)]
pub(super) struct Events {
    /// `None` where the user has no more instances; then nothing is heard.
    inotify: Option<AsyncFd<OwnedFd>>,
    watched: HashSet<i32>,
    /// Directories that were ever added.
    heard: u64,
    is_complete: bool,
    /// The kernel had to drop events, perhaps those that tell of watches that are no more.
    is_lost: bool,
    allowance: Arc<Allowance>,
}

impl Drop for Events {
    fn drop(&mut self) {
        self.allowance.give_back(self.watched.len());
    }
}

impl Events {
    /// Listens to nothing yet. Must be called within a Tokio runtime.
    pub(super) fn new(allowance: Arc<Allowance>) -> Self {
        let inotify = begin();
        let inotify = inotify.inspect_err(|error| tracing::debug!(%error, "changes cannot be heard of")).ok();
        let (watched, is_complete) = (HashSet::new(), false);
        Self { inotify, watched, heard: 0, is_complete, is_lost: false, allowance }
    }

    /// Whether every directory is listened to, and every change told of.
    pub(super) fn is_complete(&self) -> bool {
        self.is_complete && !self.is_lost
    }

    /// Whether it has to be begun anew, which [`cover`](Self::cover) does.
    pub(super) fn is_lost(&self) -> bool {
        self.is_lost
    }

    /// Grows with every directory that was added.
    pub(super) fn heard(&self) -> u64 {
        self.heard
    }

    /// Listens to all directories of the snapshot that lies in `directory` from now on, as far as that is possible.
    pub(super) async fn cover(mut self, directory: PathBuf) -> Self {
        if self.is_lost {
            let mut anew = Self::new(self.allowance.clone());
            anew.heard = self.heard;
            self = anew;
        }
        let allowance = self.allowance.clone();
        let covered = spawn_blocking(move || {
            self.cover_now(&directory);
            self
        });
        // It fails only when the runtime shuts down before it began.
        covered.await.unwrap_or_else(|_| Self::new(allowance))
    }

    fn cover_now(&mut self, directory: &Path) {
        self.is_complete = false;
        let Some(inotify) = &self.inotify else { return };
        let Ok(manifest) = Manifest::open(&directory.join(MANIFEST_FILE)) else { return };
        let roots: Vec<_> = manifest
            .meta()
            .roots
            .iter()
            .map(|root| PathBuf::from(std::ffi::OsStr::from_bytes(root)))
            .collect();
        let mut is_complete = !roots.iter().any(|root| is_unheard(root));
        for entry in manifest.iter().filter(|entry| entry.kind() == Kind::Directory) {
            let Some(path) = path_of(&manifest, &roots, entry.index()) else { continue };
            match inotify::add_watch(inotify.get_ref(), &path, CHANGES) {
                Ok(watch) if self.watched.contains(&watch) => {}
                Ok(watch) if self.allowance.take() => {
                    self.watched.insert(watch);
                    self.heard += 1;
                }
                Ok(watch) => {
                    // It fails where the directory is gone meanwhile, and the watch with it.
                    let _ = inotify::remove_watch(inotify.get_ref(), watch);
                    is_complete = false;
                    break;
                }
                Err(Errno::NOSPC | Errno::NOMEM) => {
                    is_complete = false;
                    break;
                }
                // It was removed, or cannot be listed, and so nothing in it is in a snapshot. The directory above tells
                // when that changes.
                Err(Errno::NOENT | Errno::NOTDIR | Errno::ACCESS) => {}
                Err(_) => is_complete = false,
            }
        }
        self.is_complete = is_complete;
    }

    /// Waits until something has happened. Safe to drop.
    pub(super) async fn happened(&mut self) {
        loop {
            let Some(inotify) = &self.inotify else { return std::future::pending().await };
            let Ok(mut ready) = inotify.readable().await else { return std::future::pending().await };
            ready.clear_ready();
            if self.clear() {
                return;
            }
        }
    }

    /// Takes what has happened until now; whether that is anything.
    pub(super) fn clear(&mut self) -> bool {
        let Some(inotify) = &self.inotify else { return false };
        let mut buffer = [MaybeUninit::uninit(); BUFFER_BYTES];
        let mut events = inotify::Reader::new(inotify.get_ref(), &mut buffer);
        let (mut happened, mut reads) = (false, 0);
        while reads < READS_MAX {
            reads += usize::from(events.is_buffer_empty());
            let Ok(event) = events.next() else { break };
            if event.events().contains(ReadFlags::IGNORED) {
                let was_watched = self.watched.remove(&event.wd());
                self.allowance.give_back(usize::from(was_watched));
                continue;
            }
            self.is_lost |= event.events().contains(ReadFlags::QUEUE_OVERFLOW);
            happened = true;
        }
        happened
    }
}

#[expect(unsafe_code, reason = "registering a descriptor with the runtime")]
fn begin() -> io::Result<AsyncFd<OwnedFd>> {
    let inotify = inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC)?;
    // SAFETY: the descriptor is open, belongs to the value that is registered, and is closed only with it.
    Ok(unsafe { AsyncFd::register_with_interest(inotify, Interest::READABLE) }?)
}

fn path_of(manifest: &Manifest, roots: &[PathBuf], directory: EntryIndex) -> Option<PathBuf> {
    let (root, path) = manifest.locate(directory)?;
    Some(roots.get(root.0 as usize)?.join(path.as_os_str()))
}

fn is_unheard(root: &Path) -> bool {
    rustix::fs::statfs(root).is_ok_and(|found| UNHEARD.contains(&(found.f_type as u32)))
}

#[cfg(test)]
mod tests;
