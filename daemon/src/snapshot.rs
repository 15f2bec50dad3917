//! Frozen manifests: how they are made, where they lie, and what serves them.
//!
//! A snapshot is a directory in the node's state, named by its id, with the manifest and what the
//! [local origin](twinshare_fs::origin) needs beside it. It outlives the node's process; what keeps it are leases in
//! the [registry](crate::registry). Freezing the same tree twice gives the same snapshot.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;

use twinshare_fs::manifest::walk::WalkError;
use twinshare_fs::manifest::{ManifestError, SnapshotId};
use twinshare_fs::origin::Origin;
use twinshare_fs::origin::local::LocalOriginError;
use twinshare_transport::identity::PeerId;

mod follow;
mod freeze;
mod origins;
mod store;

#[cfg(test)]
mod tests;

use crate::home::Home;
use crate::registry::{LeaseReason, Registry, RegistryError, SnapshotRecord, WorkspaceRecord};
use crate::workspace::WorkspaceError;
use follow::Followers;
use freeze::Queues;
use origins::Origins;
use store::Store;

/// Why a snapshot cannot be made or served.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// The workspace cannot be shared any more.
    #[error(transparent)]
    Workspace(#[from] WorkspaceError),
    /// The tree cannot be walked.
    #[error(transparent)]
    Walk(#[from] WalkError),
    /// The node's own disk failed.
    #[error("{path}: {source}")]
    Disk {
        /// What was being written or read.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A snapshot cannot be opened.
    #[error("the snapshot in {path} cannot be opened")]
    Open {
        /// Its directory.
        path: PathBuf,
        /// Why.
        source: LocalOriginError,
    },
    /// The registry failed.
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// More ask for one workspace than can wait.
    #[error("too many are waiting for a snapshot of this workspace")]
    Busy,
    /// The node stops.
    #[error("the node is stopping")]
    Stopping,
}

impl SnapshotError {
    /// True when the snapshot is gone or damaged for good, rather than out of reach for the moment.
    pub(crate) fn is_lost(&self) -> bool {
        let Self::Open { source, .. } = self else {
            return false;
        };
        let error = match source {
            LocalOriginError::Manifest(ManifestError::Invalid(_) | ManifestError::Name(_)) => return true,
            LocalOriginError::Manifest(ManifestError::Disk(error))
            | LocalOriginError::Stamps(error)
            | LocalOriginError::Digests(error) => error,
        };
        matches!(
            error.kind(),
            io::ErrorKind::NotFound | io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof
        )
    }
}

/// The node's snapshots. Dropping it ends the walks under way.
#[derive(Debug)]
pub(crate) struct Snapshots {
    queues: Arc<Queues>,
    followers: Followers,
    origins: Origins,
    store: Arc<Store>,
}

impl Drop for Snapshots {
    fn drop(&mut self) {
        self.store.stop();
    }
}

impl Snapshots {
    /// Those in `home`; what an earlier process left unfinished there is removed. Blocks on the disk.
    pub(crate) fn open(home: Home, registry: Registry) -> Result<Self, SnapshotError> {
        let store = Arc::new(Store::open(home, registry)?);
        let queues = Arc::new(Queues::default());
        let followers = Followers::new(store.clone(), queues.clone());
        Ok(Self { queues, followers, origins: Origins::default(), store })
    }

    /// Freezes the workspace as it is after this call began, and gives `peer` a lease on the result. Requests that
    /// wait at the same time share one walk. Dropping the future does not end the walk: who asks again finds the
    /// disk's caches warm.
    pub(crate) async fn freeze(
        &self,
        workspace: WorkspaceRecord,
        peer: PeerId,
    ) -> Result<SnapshotRecord, Arc<SnapshotError>> {
        self.queues.freeze(&self.store, workspace, peer, LeaseReason::Opened).await
    }

    /// Waits for a snapshot of the workspace other than `base`, and gives `peer` a lease on it. Never ends by itself while
    /// there is none. What was frozen is kept for the peer until it has been told of some later ones.
    pub(crate) async fn watch(
        &self,
        workspace: WorkspaceRecord,
        peer: PeerId,
        base: SnapshotId,
    ) -> Result<SnapshotRecord, Arc<SnapshotError>> {
        self.followers.watch(workspace, peer, base).await
    }

    /// What serves a snapshot; opened once and kept for a while.
    pub(crate) async fn origin(&self, snapshot: SnapshotId) -> Result<Arc<dyn Origin>, SnapshotError> {
        self.origins.open(snapshot, self.store.directory(snapshot)).await
    }

    /// Ends leases whose time is over, and removes the snapshots that none keeps.
    pub(crate) async fn collect(&self, now: SystemTime) -> Result<(), SnapshotError> {
        let kept = self.store.collect(now).await?;
        self.origins.retain(|snapshot| kept.iter().any(|record| record.snapshot == *snapshot));
        Ok(())
    }
}
