//! A running node: its parts, built and wired here and nowhere else.

mod privilege;
#[cfg(test)]
pub(crate) mod testing;

use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use crate::api::replica_control::ReplicaControl;
use crate::operation::Operations;

/// The parts of a running node, as the API's handlers use them.
#[derive(Debug)]
pub struct Node {
    life: String,
    operations: Operations,
    replicas: Arc<dyn ReplicaControl>,
    stopping: CancellationToken,
}

impl Node {
    /// A name for this life of the node, unlike that of any other: it starts the ids that are not kept on disk.
    pub fn life(&self) -> &str {
        &self.life
    }

    /// Work that outlasts a request.
    pub fn operations(&self) -> &Operations {
        &self.operations
    }

    /// Mounts and clones.
    pub fn replicas(&self) -> &dyn ReplicaControl {
        &*self.replicas
    }

    /// Cancelled when the node is to stop; cancelling it stops the node.
    pub fn stopping(&self) -> &CancellationToken {
        &self.stopping
    }
}
