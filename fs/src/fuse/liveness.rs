//! Asking about a path that may lie on a mount whose server has stopped.
//!
//! A server that has died answers ENOTCONN. One that is stopped (SIGSTOP, a debugger, a machine without memory) does
//! not answer at all, and the kernel lets nobody out of such a question but with SIGKILL. So it is put by a thread of
//! its own, which stays behind if need be: one for each path at most, until the server goes on or dies.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Condvar, Mutex, PoisonError, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::StatFs;
use rustix::io::Errno;

use super::mountinfo::{Mounted, mounted_at};

/// How long an answer is waited for.
const ANSWER_WITHIN: Duration = Duration::from_secs(2);

/// `FUSE_SUPER_MAGIC` (`linux/magic.h`).
const FUSE_MAGIC: u64 = 0x6573_5546;

/// The paths that are being asked about.
static ASKED: Mutex<BTreeSet<PathBuf>> = Mutex::new(BTreeSet::new());
/// Notified when one of them is answered.
static ANSWERED: Condvar = Condvar::new();

/// True for the answer of a FUSE file system, whoever serves it.
pub fn is_fuse(statfs: &StatFs) -> bool {
    // Its type differs between architectures.
    statfs.f_type as u64 == FUSE_MAGIC
}

/// True when a mount of ours is at `at` whose server has died. A server that does not answer lives. Blocks, 2 s at
/// worst.
pub fn is_dead(at: &Path) -> io::Result<bool> {
    Ok(dead_mount(at)?.is_some())
}

/// The mount at `at`, if it is ours and its server has died.
pub(super) fn dead_mount(at: &Path) -> io::Result<Option<Mounted>> {
    in_time(at, dead_mount_at).unwrap_or(Ok(None))
}

fn dead_mount_at(at: &Path) -> io::Result<Option<Mounted>> {
    // The mount point itself cannot be asked where it is.
    let (Some(parent), Some(name)) = (at.parent(), at.file_name()) else {
        return Ok(None);
    };
    let parent = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
    let parent = match parent.canonicalize() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        parent => parent?,
    };
    let Some(mount) = mounted_at(&parent.join(name))?.filter(Mounted::is_ours) else {
        return Ok(None);
    };
    let is_dead = rustix::fs::statfs(&mount.at).is_err_and(|errno| errno == Errno::NOTCONN);
    Ok(is_dead.then_some(mount))
}

/// What `question` finds out about `at`; `None` when it takes too long.
pub(super) fn in_time<T: Send + 'static>(
    at: &Path,
    question: impl FnOnce(&Path) -> T + Send + 'static,
) -> Option<T> {
    let until = Instant::now() + ANSWER_WITHIN;
    let asking = Asking::begin(at, until)?;
    let (answer, answered) = mpsc::sync_channel(1);
    let ask = move || {
        // Nobody may be left who wants to know.
        let _ = answer.send(question(&asking.at));
    };
    // A process that can start no thread learns as little as from a server that is silent.
    thread::Builder::new().name("statfs".into()).spawn(ask).ok()?;
    answered.recv_timeout(until.saturating_duration_since(Instant::now())).ok()
}

/// A path that is being asked about; dropped with the answer.
struct Asking {
    at: PathBuf,
}

impl Asking {
    /// Waits until nobody else asks; `None` when that takes too long.
    fn begin(at: &Path, until: Instant) -> Option<Self> {
        let asked = ASKED.lock().unwrap_or_else(PoisonError::into_inner);
        let left = until.saturating_duration_since(Instant::now());
        let waited = ANSWERED.wait_timeout_while(asked, left, |asked| asked.contains(at));
        let (mut asked, _) = waited.unwrap_or_else(PoisonError::into_inner);
        asked.insert(at.to_owned()).then(|| Self { at: at.to_owned() })
    }
}

impl Drop for Asking {
    fn drop(&mut self) {
        ASKED.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.at);
        ANSWERED.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn silence_is_no_answer_and_costs_one_thread() {
        let at = Path::new("/silent");
        let (release, released) = mpsc::channel::<()>();
        let began = Instant::now();
        assert_eq!(in_time(at, move |_| released.recv().is_ok()), None);
        assert_eq!(in_time(at, |_| panic!("a second thread asks")), None::<()>);
        let waited = began.elapsed();
        assert!(waited >= 2 * ANSWER_WITHIN && waited < 4 * ANSWER_WITHIN, "{waited:?}");
        assert_eq!(in_time(Path::new("/other"), |at| at.to_owned()), Some("/other".into()));
        release.send(()).unwrap();
        assert_eq!(in_time(at, |_| 5), Some(5));
    }

    #[test]
    fn what_is_no_mount_of_ours_is_not_dead() {
        for path in ["/", "/proc", "/tmp", "/does/not/exist", "relative", ""] {
            assert!(!is_dead(Path::new(path)).unwrap(), "{path}");
        }
    }
}
