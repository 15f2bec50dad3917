//! What the node remembers: workspaces, shares, peers, snapshots and their leases, in one SQLite file.
//!
//! [`Registry`] is a handle on a thread that owns the database; [`Registry::call`] runs a closure there, on
//! [`Tables`], so nothing that waits for the disk runs on an async thread, and whatever one closure does is not
//! interleaved with another's. Replicas are not here: their processes need what is known of them while no node runs,
//! so each has a file of its own.
//!
//! A database that is damaged, or was written by a newer version, is an error that says so. It is never replaced by
//! an empty one: that would forget what is shared with whom.

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::{Connection, ErrorCode};
use tokio::sync::{mpsc, oneshot};

mod columns;
mod leases;
mod peers;
mod schema;
mod workspaces;

pub use leases::{
    IDLE_AFTER, LEASE_TIME, LEASES_PER_PEER_MAX, LEASES_PER_SNAPSHOT_MAX, Lease, LeaseReason,
    SNAPSHOTS_PER_WORKSPACE_MAX, SnapshotRecord,
};
pub use peers::{PEERS_MAX, PeerRecord, Sighting};
pub use workspaces::{ShareMode, ShareRecord, WorkspaceId, WorkspaceRecord};

use crate::workspace::WorkspaceName;

/// Closures waiting for the database at most; whoever comes next waits.
const CALLS_WAITING_MAX: usize = 64;

/// How long a statement waits for another process that writes.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// Why the registry did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    /// The file is not the registry, or not whole.
    #[error(
        "{path} is damaged ({what}). Move it away and start the node again: workspaces and clones stay as they are, \
         but have to be registered and shared again"
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What was found.
        what: String,
    },
    /// The file has a newer form than this program knows.
    #[error("{path} was written by a newer version of twinshare: use that version")]
    Newer {
        /// The file.
        path: PathBuf,
    },
    /// Another workspace has the name.
    #[error("a workspace named {name} is registered already, in {directory}: choose another name")]
    NameTaken {
        /// The name.
        name: WorkspaceName,
        /// Where that workspace is.
        directory: PathBuf,
    },
    /// The directory is registered under another name.
    #[error("{directory} is registered already, as {name}")]
    DirectoryTaken {
        /// The directory.
        directory: PathBuf,
        /// Its workspace's name.
        name: WorkspaceName,
    },
    /// No such workspace.
    #[error("no workspace named `{0}` is registered here")]
    NoSuchWorkspace(String),
    /// Other peers use all the snapshots or leases there can be.
    #[error("too many peers use this workspace")]
    Crowded,
    /// The disk or SQLite failed.
    #[error("the registry failed: {0}")]
    Failed(#[source] rusqlite::Error),
    /// The thread that owns the database has ended.
    #[error("the registry is closed")]
    Closed,
}

impl From<rusqlite::Error> for RegistryError {
    fn from(error: rusqlite::Error) -> Self {
        match error.sqlite_error_code() {
            Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => {
                Self::Damaged { path: PathBuf::new(), what: error.to_string() }
            }
            _ => Self::Failed(error),
        }
    }
}

impl RegistryError {
    /// Says which file it was.
    fn at(self, file: &Path) -> Self {
        match self {
            Self::Damaged { what, .. } => Self::Damaged { path: file.into(), what },
            other => other,
        }
    }
}

/// The database itself. Its methods block; they are called through [`Registry::call`].
#[derive(Debug)]
pub struct Tables {
    connection: Connection,
}

impl Tables {
    /// Opens the file, creates it where there is none, and brings it to the present form.
    pub fn open(file: &Path) -> Result<Self, RegistryError> {
        let open = || {
            let mut connection = Connection::open(file)?;
            connection.busy_timeout(BUSY_TIMEOUT)?;
            schema::prepare(&mut connection, file)?;
            Ok(Self { connection })
        };
        open().map_err(|error: RegistryError| error.at(file))
    }
}

/// A handle on the registry. Cheap to clone; the database is closed after the last of them is dropped.
#[derive(Clone)]
pub struct Registry {
    calls: mpsc::Sender<Call>,
    file: PathBuf,
}

type Call = Box<dyn FnOnce(&mut Tables) + Send>;

impl fmt::Debug for Registry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Registry").field("file", &self.file).finish_non_exhaustive()
    }
}

impl Registry {
    /// Opens the file as [`Tables::open`] does, and starts the thread that owns it.
    pub async fn open(file: PathBuf) -> Result<Self, RegistryError> {
        let (calls, mut waiting) = mpsc::channel::<Call>(CALLS_WAITING_MAX);
        let (opened, result) = oneshot::channel();
        let path = file.clone();
        let serve = move || match Tables::open(&path) {
            Ok(mut tables) => {
                let _ = opened.send(Ok(()));
                while let Some(call) = waiting.blocking_recv() {
                    call(&mut tables);
                }
            }
            Err(error) => drop(opened.send(Err(error))),
        };
        std::thread::Builder::new()
            .name("registry".into())
            .spawn(serve)
            .map_err(|_| RegistryError::Closed)?;
        result.await.map_err(|_| RegistryError::Closed)??;
        Ok(Self { calls, file })
    }

    /// Runs `act` on the database.
    ///
    /// Dropping the future before the call was taken up may or may not prevent it; after that the call runs to its
    /// end. Each call should be one unit: what must not be seen half done happens in one.
    pub async fn call<T, F>(&self, act: F) -> Result<T, RegistryError>
    where
        T: Send + 'static,
        F: FnOnce(&mut Tables) -> Result<T, RegistryError> + Send + 'static,
    {
        let (done, result) = oneshot::channel();
        let call: Call = Box::new(move |tables| drop(done.send(act(tables))));
        self.calls.send(call).await.map_err(|_| RegistryError::Closed)?;
        result.await.map_err(|_| RegistryError::Closed)?.map_err(|error| error.at(&self.file))
    }
}

#[cfg(test)]
mod tests;
