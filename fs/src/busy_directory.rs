//! A directory for a test whose replica may still be writing into it when the test is over.

use std::path::Path;
use std::time::{Duration, Instant};

use tempfile::TempDir;

/// What is on its way to the disk when a replica is dropped is there by then.
const BOUND: Duration = Duration::from_secs(10);

/// Removed with all that is in it, once nothing comes to be in it any more.
#[derive(Debug)]
pub(crate) struct BusyDirectory(TempDir);

impl BusyDirectory {
    pub(crate) fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    pub(crate) fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for BusyDirectory {
    fn drop(&mut self) {
        let until = Instant::now() + BOUND;
        // A directory into which something is put while it is removed is not empty in the end.
        while std::fs::remove_dir_all(self.path()).is_err() && self.path().exists() && Instant::now() < until
        {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}
