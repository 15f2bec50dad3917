//! The lock that keeps a home to one node, and tells others which process that is.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

use super::{Home, HomeError};

/// How long a lock is tried for that somebody holds: whoever only looks holds one too, for some microseconds.
const LOCK_WITHIN: Duration = Duration::from_millis(100);

/// How long the holder's pid is waited for, which it writes as soon as it has the lock.
const PID_WITHIN: Duration = Duration::from_secs(1);

/// Between two tries.
const PAUSE: Duration = Duration::from_millis(1);

impl Home {
    /// Takes the node's lock, or says which process holds it. Blocks, a second at worst.
    ///
    /// The lock lives until the value is dropped. A child forked without exec would share it, so fork before.
    pub fn lock(&self) -> Result<NodeLock, HomeError> {
        let path = self.lock_file();
        let disk = |source| HomeError::Disk { path: path.clone(), source };
        let mut file = open_lock(&path).map_err(disk)?;
        let began = Instant::now();
        loop {
            match flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => break,
                Err(Errno::WOULDBLOCK) if began.elapsed() < LOCK_WITHIN => thread::sleep(PAUSE),
                Err(Errno::WOULDBLOCK) => match (read_pid(&mut file).map_err(disk)?, began.elapsed()) {
                    (0, waited) if waited < PID_WITHIN => thread::sleep(PAUSE),
                    (pid, _) => return Err(HomeError::Running { pid }),
                },
                Err(errno) => return Err(disk(errno.into())),
            }
        }
        file.set_len(0)
            .and_then(|()| file.rewind())
            .and_then(|()| file.write_all(format!("{}\n", std::process::id()).as_bytes()))
            .map_err(disk)?;
        Ok(NodeLock { file })
    }

    /// The process of the running node, if there is one. Blocks, a second at worst.
    pub fn running(&self) -> Result<Option<u32>, HomeError> {
        let path = self.lock_file();
        let disk = |source| HomeError::Disk { path: path.clone(), source };
        let mut file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(disk(error)),
        };
        let began = Instant::now();
        loop {
            // A shared lock, held for an instant, fails exactly when a node holds the exclusive one.
            match flock(&file, FlockOperation::NonBlockingLockShared) {
                Ok(()) => return Ok(None),
                Err(Errno::WOULDBLOCK) => match (read_pid(&mut file).map_err(disk)?, began.elapsed()) {
                    (0, waited) if waited < PID_WITHIN => thread::sleep(PAUSE),
                    (pid, _) => return Ok(Some(pid)),
                },
                Err(errno) => return Err(disk(errno.into())),
            }
        }
    }
}

/// Proof that this process is the home's only node.
#[derive(Debug)]
pub struct NodeLock {
    file: File,
}

impl Drop for NodeLock {
    fn drop(&mut self) {
        // The next holder is not to be taken for this one. What is left by a crash goes when the lock is next taken.
        let _ = self.file.set_len(0);
    }
}

fn open_lock(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path)
}

/// The pid in a lock file; 0 in the instant before its owner has written it.
fn read_pid(file: &mut File) -> io::Result<u32> {
    let mut text = String::new();
    file.rewind()?;
    file.take(16).read_to_string(&mut text)?;
    Ok(text.trim().parse().unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_node_runs_on_a_home() {
        let base = tempfile::tempdir().unwrap();
        let home = Home::isolated(base.path());
        assert_eq!(home.running().unwrap(), None);
        home.prepare().unwrap();
        let lock = home.lock().unwrap();
        let pid = std::process::id();
        assert!(matches!(home.lock(), Err(HomeError::Running { pid: held }) if held == pid));
        assert_eq!(home.running().unwrap(), Some(pid));
        drop(lock);
        assert_eq!(home.running().unwrap(), None);
        drop(home.lock().unwrap());
    }

    /// Whoever looks holds a lock for an instant too, and the file is empty for one.
    #[test]
    fn those_who_look_are_in_nobodys_way_and_are_told_the_pid() {
        let base = tempfile::tempdir().unwrap();
        let home = Home::isolated(base.path());
        home.prepare().unwrap();
        let done = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    while !done.load(std::sync::atomic::Ordering::Relaxed) {
                        assert_ne!(home.running().unwrap(), Some(0));
                    }
                });
            }
            let locked: Vec<_> = (0..500).map(|_| home.lock().map(drop)).collect();
            done.store(true, std::sync::atomic::Ordering::Relaxed);
            let refused: Vec<_> = locked.into_iter().filter_map(Result::err).collect();
            assert!(refused.is_empty(), "{} of 500: {refused:?}", refused.len());
        });
    }
}
