//! How a replica ends: it is unmounted, and then what the node keeps of it is removed, now or when the last user has gone.

use std::sync::Arc;
use std::time::Duration;

use super::control::Request;
use super::spec::Spec;
use super::supervisor::Stopped;
use super::{Replicas, blocking, disk, from_failure, place};
use crate::api::replica_control::ReplicaError;
use crate::api::wire::{Replica, ReplicaKind};

/// Between two looks at a replica that is no longer mounted but still used elsewhere.
const LEFT_POLL: Duration = Duration::from_secs(2);

impl Replicas {
    /// Settles a clone now, or says who is in the way.
    pub(super) async fn settle_now(&self, id: &str) -> Result<Replica, ReplicaError> {
        let spec = self.find(id)?.spec;
        let request = Request::Settle { id: id.to_owned() };
        let ordered = self.supervisor.order_served(&spec, &request).await;
        ordered.unwrap_or(Ok(())).map_err(|failure| from_failure(failure, &spec))?;
        self.show(id).await
    }

    /// Keeps a clone from settling for a moment. One that is about to has settled soon, and is shown so.
    pub(super) async fn hold_mounted(&self, id: &str) -> Result<Replica, ReplicaError> {
        let spec = self.find(id)?.spec;
        let ordered = match spec.kind {
            ReplicaKind::Clone => {
                let request = Request::Hold { id: id.to_owned() };
                self.supervisor.order_served(&spec, &request).await
            }
            ReplicaKind::View => None,
        };
        if let Some(Err(failure)) = ordered {
            tracing::debug!(replica = id, %failure, "it cannot be kept mounted");
        }
        self.show(id).await
    }

    /// Ends a replica, whatever is being done with it.
    pub(super) async fn interrupt_and_end(self: Arc<Self>, id: String) -> Result<(), ReplicaError> {
        let mount_point = self.find(&id)?.spec.mount_point;
        self.supervisor.claims.interrupt(&mount_point);
        let _claim = self.supervisor.claims.claim(&mount_point).await;
        let spec = self.find(&id)?.spec;
        self.end(spec).await
    }

    /// Unmounts and forgets. A view's cached data goes with it; a clone's directory goes when nothing else is in it.
    /// To be called under its claim.
    pub(super) async fn end(&self, spec: Spec) -> Result<(), ReplicaError> {
        let stopped = self.supervisor.stop(&spec).await.map_err(|failure| from_failure(failure, &spec))?;
        let spec = Spec { ended: true, ..spec };
        // From here on a node that is started anew goes on removing, and does not mount it again.
        if let Err(error) = self.save(&spec).await {
            tracing::debug!(replica = spec.id, %error, "its end cannot be noted");
        }
        if stopped == Stopped::Leaving {
            self.known().remove(&spec.id);
            self.remove_when_left(spec);
            return Ok(());
        }
        let (home, gone) = (self.home.clone(), spec.clone());
        blocking(move || place::remove(&home, &gone))
            .await
            .map_err(|error| disk("what is left of it cannot be removed", error))?;
        self.known().remove(&spec.id);
        Ok(())
    }

    /// Removes what is left of a replica that has been unmounted, as soon as nothing is served from it any more.
    pub(super) fn remove_when_left(&self, spec: Spec) {
        let (home, supervisor) = (self.home.clone(), self.supervisor.clone());
        tokio::spawn(async move {
            // Nothing of it before that, not even the mount point: the kernel takes every copy away that lies on a directory
            // when that is removed (`detach_mounts` in `fs/namespace.c`).
            while supervisor.detach(&spec).await != Ok(Stopped::Over) {
                tokio::time::sleep(LEFT_POLL).await;
            }
            let id = spec.id.clone();
            if let Err(error) = blocking(move || place::remove(&home, &spec)).await {
                tracing::warn!(replica = id, %error, "what is left of it cannot be removed");
            }
        });
    }
}
