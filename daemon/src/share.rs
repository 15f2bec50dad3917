//! What is offered to whom: the owner's side of sharing, and the seam every request of a peer passes.
//!
//! The registry holds what was decided; [`Shares`] keeps a copy in memory, because the seam must not block, and is
//! the only place where either changes. So what a peer may do changes at once: after `unshare`, requests are refused, and
//! answers under way end before their next item.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError, RwLock};
use std::time::{Duration, Instant, SystemTime};

use tokio::sync::{Mutex as AsyncMutex, watch};
use tokio::task::spawn_blocking;
use twinshare_fs::manifest::SnapshotId;
use twinshare_transport::identity::PeerId;
use twinshare_transport::server::Caller;

mod near;
mod offers;
mod policy;
mod service;

#[cfg(test)]
mod tests;

use crate::config::NodeName;
use crate::home::Home;
use crate::registry::{Registry, RegistryError, ShareMode, Tables, WorkspaceRecord};
use crate::snapshot::{SnapshotError, Snapshots};
use crate::workspace::{Workspace, WorkspaceError, WorkspaceName, check_place};
use near::Neighbourhood;
use offers::Descriptions;
use policy::{Policy, Visitor};

/// A lease in use is renewed this often: far more often than it must be, far less often than it is used.
const RENEWED_EVERY: Duration = Duration::from_secs(60 * 60);

/// Why a workspace is not shared, or not any more.
#[derive(Debug, thiserror::Error)]
pub enum ShareError {
    /// The registry refused, or failed.
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// It cannot be shared as it is.
    #[error(transparent)]
    Workspace(#[from] WorkspaceError),
    /// The snapshots failed.
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
}

/// The node's shares, and its answers to peers.
#[derive(Debug)]
pub struct Shares {
    home: Home,
    registry: Registry,
    snapshots: Snapshots,
    name: NodeName,
    /// Takes no other lock.
    neighbourhood: Neighbourhood,
    /// What workspaces say about themselves, as it was lately.
    descriptions: Descriptions,
    /// What the registry says. Held for look-ups and replacement only; never across an `.await`, and never together
    /// with another lock.
    policy: RwLock<Policy>,
    /// One change at a time, so that the copy in memory ends up as the last of them. Taken before the others.
    changing: AsyncMutex<()>,
    /// When leases were last renewed. Held for map operations only.
    renewed: Mutex<HashMap<(SnapshotId, PeerId), Instant>>,
    open: watch::Sender<Vec<WorkspaceName>>,
}

impl Shares {
    /// Reads what is shared from the registry, and removes the snapshots that no lease keeps any more. `name` is how
    /// the node introduces itself to peers.
    pub async fn open(home: Home, registry: Registry, name: NodeName) -> Result<Self, ShareError> {
        let (at, kept) = (home.clone(), registry.clone());
        let opened = spawn_blocking(move || Snapshots::open(at, kept)).await;
        let snapshots = opened.unwrap_or(Err(SnapshotError::Stopping))?;
        let shares = Self {
            home,
            registry,
            snapshots,
            name,
            neighbourhood: Neighbourhood::default(),
            descriptions: Descriptions::default(),
            policy: RwLock::default(),
            changing: AsyncMutex::default(),
            renewed: Mutex::default(),
            open: watch::Sender::default(),
        };
        shares.collect(SystemTime::now()).await?;
        Ok(shares)
    }

    /// The workspaces that everyone may see, by name, and news of them: what discovery announces.
    pub fn open_to_all(&self) -> watch::Receiver<Vec<WorkspaceName>> {
        self.open.subscribe()
    }

    /// Offers a workspace with the companions that its file names now, which the record that is returned lists.
    /// [`ShareMode::Closed`] admits nobody yet, only the owner's own lists show it. Without a `mode` it is shared as
    /// before, and closed where it was not: what the workspace's file suggests opens nothing, since the file travels.
    ///
    /// The workspace is checked as it would be for a peer's request, so that what is wrong with it is told to its
    /// owner and not to the first peer.
    pub async fn share(
        &self,
        name: &WorkspaceName,
        mode: Option<ShareMode>,
    ) -> Result<WorkspaceRecord, ShareError> {
        let workspace = name.clone();
        let record = self.registry.call(move |tables| tables.workspace(&workspace)).await?;
        let companions =
            self.check(record.ok_or_else(|| RegistryError::NoSuchWorkspace(name.to_string()))?).await?;
        let workspace = name.clone();
        self.change(move |tables| tables.share(&workspace, mode, &companions, SystemTime::now())).await
    }

    /// No longer offers a workspace; true if it was. Peers' requests for it are refused from then on, and answers under
    /// way end. Snapshots stay
    /// until their leases end, so that sharing it again lets mounts and clones go on.
    pub async fn unshare(&self, name: &WorkspaceName) -> Result<bool, ShareError> {
        let workspace = name.clone();
        self.change(move |tables| tables.unshare(&workspace)).await
    }

    /// Forgets a workspace, its share and its snapshots; its files stay. Also needed after workspaces were added or
    /// removed behind this type's back.
    pub async fn remove_workspace(&self, name: &WorkspaceName) -> Result<(), ShareError> {
        let workspace = name.clone();
        self.change(move |tables| tables.remove_workspace(&workspace)).await?;
        self.collect(SystemTime::now()).await
    }

    /// Ends leases whose time is over and removes the snapshots that none keeps. To be called now and then.
    pub async fn collect(&self, now: SystemTime) -> Result<(), ShareError> {
        let _changing = self.changing.lock().await;
        self.snapshots.collect(now).await?;
        self.renewed().retain(|_, renewed| renewed.elapsed() < RENEWED_EVERY);
        Ok(self.reload().await?)
    }

    /// Changes the registry, and then the copy in memory.
    async fn change<T: Send + 'static>(
        &self,
        act: impl FnOnce(&mut Tables) -> Result<T, RegistryError> + Send + 'static,
    ) -> Result<T, ShareError> {
        let _changing = self.changing.lock().await;
        let changed = self.registry.call(act).await;
        // Also after an error: what is known then is what the registry says.
        self.reload().await?;
        self.descriptions.forget();
        Ok(changed?)
    }

    /// Makes the copy in memory what the registry says. To be called while `changing` is held.
    async fn reload(&self) -> Result<(), SnapshotError> {
        let read = |tables: &mut Tables| Ok((tables.workspaces()?, tables.snapshots()?, tables.leases()?));
        let (workspaces, snapshots, leases) = self.registry.call(read).await?;
        let open = {
            let mut policy = self.policy.write().unwrap_or_else(PoisonError::into_inner);
            policy.set_workspaces(workspaces);
            policy.set_snapshots(snapshots, &leases);
            policy.open()
        };
        self.open.send_if_modified(|known| {
            let changed = *known != open;
            *known = open;
            changed
        });
        Ok(())
    }

    /// Whether the workspace can be shared; its companions.
    async fn check(&self, record: WorkspaceRecord) -> Result<Vec<PathBuf>, ShareError> {
        let home = self.home.clone();
        let checked = spawn_blocking(move || {
            check_place(&record.directory, &home).map_err(WorkspaceError::from)?;
            let roots = Workspace::load(&record)?.roots(&home)?;
            Ok(roots.into_iter().skip(1).collect())
        });
        checked.await.unwrap_or(Err(SnapshotError::Stopping.into()))
    }

    /// Decides on what is known now.
    fn decide<T>(&self, decide: impl FnOnce(&Policy) -> T) -> T {
        decide(&self.policy.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn visitor(&self, caller: &Caller) -> Visitor {
        Visitor { peer: caller.peer, is_near: self.neighbourhood.holds(caller.address.ip()) }
    }

    fn renewed(&self) -> MutexGuard<'_, HashMap<(SnapshotId, PeerId), Instant>> {
        self.renewed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
