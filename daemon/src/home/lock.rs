//! The lock that keeps a home to one node, and tells others which process that is.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

use super::{Home, HomeError};

impl Home {
    /// Takes the node's lock, or says which process holds it.
    ///
    /// The lock lives until the value is dropped. A child forked without exec would share it, so fork before.
    pub fn lock(&self) -> Result<NodeLock, HomeError> {
        let path = self.lock_file();
        let disk = |source| HomeError::Disk { path: path.clone(), source };
        let mut file = open_lock(&path).map_err(disk)?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(Errno::WOULDBLOCK) => return Err(HomeError::Running { pid: read_pid(&mut file) }),
            Err(errno) => return Err(disk(errno.into())),
        }
        file.set_len(0)
            .and_then(|()| file.write_all(format!("{}\n", std::process::id()).as_bytes()))
            .map_err(disk)?;
        Ok(NodeLock { _file: file })
    }

    /// The process of the running node, if there is one.
    pub fn running(&self) -> Result<Option<u32>, HomeError> {
        let path = self.lock_file();
        let disk = |source| HomeError::Disk { path: path.clone(), source };
        let mut file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(disk(error)),
        };
        // A shared lock, held for an instant, fails exactly when a node holds the exclusive one.
        match flock(&file, FlockOperation::NonBlockingLockShared) {
            Ok(()) => Ok(None),
            Err(Errno::WOULDBLOCK) => Ok(Some(read_pid(&mut file))),
            Err(errno) => Err(disk(errno.into())),
        }
    }
}

/// Proof that this process is the home's only node.
#[derive(Debug)]
pub struct NodeLock {
    _file: File,
}

fn open_lock(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path)
}

/// The pid in a lock file; 0 in the instant before its owner has written it.
fn read_pid(file: &mut File) -> u32 {
    let mut text = String::new();
    let read = file.take(16).read_to_string(&mut text);
    read.ok().and_then(|_| text.trim().parse().ok()).unwrap_or(0)
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
}
