//! What peers ask, answered.

use std::sync::Arc;
use std::time::{Instant, SystemTime};

use twinshare_fs::manifest::SnapshotId;
use twinshare_fs::origin::Origin;
use twinshare_transport::identity::PeerId;
use twinshare_transport::protocol::{Hello, Offer, Refusal, Request, SnapshotInfo, TreeSize};
use twinshare_transport::server::{Caller, Reply, Service};

use super::policy::Policy;
use super::{RENEWED_EVERY, Shares};
use crate::registry::{LeaseReason, RegistryError, SnapshotRecord, Tables, WorkspaceRecord};
use crate::snapshot::SnapshotError;

impl Service for Shares {
    fn admit(&self, caller: &Caller, request: &Request) -> Result<(), Refusal> {
        let by = self.visitor(caller);
        self.decide(|policy| policy.admit(by, request))
    }

    fn may_go_on(&self, caller: &Caller, snapshot: SnapshotId) -> Result<(), Refusal> {
        let by = self.visitor(caller);
        self.decide(|policy| policy.may_go_on(by, snapshot))
    }

    fn hello(&self, _caller: &Caller, _theirs: &Hello) -> Hello {
        Hello::new(self.name.as_str())
    }

    fn catalogue<'a>(&'a self, caller: &'a Caller) -> Reply<'a, Vec<Offer>> {
        Box::pin(async {
            let visible = self.decide(|policy| visible(policy, caller.peer));
            let records = visible.iter().map(|(record, _)| record.clone()).collect();
            let descriptions = self.descriptions.of(records).await;
            let descriptions = descriptions.ok_or_else(|| refuse(&SnapshotError::Stopping))?;
            let offer = |(record, size): (WorkspaceRecord, Option<TreeSize>)| Offer {
                workspace: record.name.as_str().into(),
                summary: descriptions.get(&record.id).map_or("", String::as_str).into(),
                readable: true,
                size,
            };
            Ok(visible.into_iter().map(offer).collect())
        })
    }

    fn open_snapshot<'a>(
        &'a self,
        caller: &'a Caller,
        workspace: &'a str,
        at: Option<SnapshotId>,
    ) -> Reply<'a, SnapshotInfo> {
        Box::pin(async move {
            let workspace = self.decide(|policy| policy.workspace(caller.peer, workspace).cloned())?;
            let record = match at {
                Some(snapshot) => self.reopen(workspace, snapshot, caller.peer).await?,
                None => {
                    let frozen = self.snapshots.freeze(workspace, caller.peer).await;
                    frozen.map_err(|error| refuse(&error))?
                }
            };
            self.leased(&record).await
        })
    }

    fn watch<'a>(
        &'a self,
        caller: &'a Caller,
        workspace: &'a str,
        base: SnapshotId,
    ) -> Reply<'a, SnapshotInfo> {
        Box::pin(async move {
            let may_read = || self.decide(|policy| policy.workspace(caller.peer, workspace).cloned());
            let mut open = self.open.subscribe();
            let mut news = std::pin::pin!(self.snapshots.watch(may_read()?, caller.peer, base));
            let news = loop {
                tokio::select! {
                    news = &mut news => break news,
                    // What is shared no more is watched no more.
                    _ = open.changed() => drop(may_read()?),
                }
            };
            let record = news.map_err(|error| refuse(&error))?;
            may_read()?;
            self.leased(&record).await
        })
    }

    fn origin<'a>(&'a self, caller: &'a Caller, snapshot: SnapshotId) -> Reply<'a, Arc<dyn Origin>> {
        Box::pin(async move {
            let origin = self.snapshots.origin(snapshot).await.map_err(|error| refuse(&error))?;
            if self.is_renewal_due(snapshot, caller.peer) {
                let peer = caller.peer;
                let renew = move |tables: &mut Tables| tables.renew_lease(snapshot, peer, SystemTime::now());
                self.registry.call(renew).await.map_err(|error| refuse(&error.into()))?;
            }
            Ok(origin)
        })
    }
}

impl Shares {
    /// What a peer is told of a snapshot on which it has a new lease: its next request needs that in the copy that the
    /// seam looks at.
    async fn leased(&self, record: &SnapshotRecord) -> Result<SnapshotInfo, Refusal> {
        let _changing = self.changing.lock().await;
        self.reload().await.map_err(|error| refuse(&error))?;
        Ok(SnapshotInfo { id: record.snapshot, size: record.size })
    }

    /// Gives the peer a lease on a snapshot that is kept.
    async fn reopen(
        &self,
        workspace: WorkspaceRecord,
        snapshot: SnapshotId,
        peer: PeerId,
    ) -> Result<SnapshotRecord, Refusal> {
        self.decide(|policy| policy.may_reopen(workspace.id, snapshot))?;
        // So that one that was damaged is told now, and not at the first read.
        self.snapshots.origin(snapshot).await.map_err(|error| refuse(&error))?;
        let lease = move |tables: &mut Tables| {
            let Some(record) = tables.snapshot(snapshot)? else {
                return Ok(None);
            };
            tables.add_snapshot(&record, peer, LeaseReason::Opened, SystemTime::now())?;
            Ok(Some(record))
        };
        let leased = self.registry.call(lease).await.map_err(|error| refuse(&error.into()))?;
        leased.ok_or(Refusal::SnapshotGone)
    }

    /// True once an hour for a peer that reads a snapshot.
    fn is_renewal_due(&self, snapshot: SnapshotId, peer: PeerId) -> bool {
        let mut renewed = self.renewed();
        let is_due = renewed.get(&(snapshot, peer)).is_none_or(|last| last.elapsed() >= RENEWED_EVERY);
        if is_due {
            renewed.insert((snapshot, peer), Instant::now());
        }
        is_due
    }
}

/// The workspaces a peer may know of, with their sizes where those are known.
fn visible(policy: &Policy, peer: PeerId) -> Vec<(WorkspaceRecord, Option<TreeSize>)> {
    let all = policy.visible_to(peer).into_iter();
    all.map(|record| {
        let size = policy.newest(record.id).map(|snapshot| snapshot.size);
        (record, size)
    })
    .collect()
}

/// Logs why a request failed, and says what the peer is told: texts name paths of this machine and are not for it.
fn refuse(error: &SnapshotError) -> Refusal {
    match error {
        SnapshotError::Busy | SnapshotError::Registry(RegistryError::Crowded) => return Refusal::TooBusy,
        SnapshotError::Stopping => {}
        _ => tracing::warn!(error = error as &dyn std::error::Error, "a peer's request failed"),
    }
    match error.is_lost() {
        true => Refusal::SnapshotGone,
        false => Refusal::Internal("the log of the node that shares it says why".into()),
    }
}
