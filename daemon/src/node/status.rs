//! What the node says about itself.

use super::{Node, listen, privilege};
use crate::api::ApiError;
use crate::api::wire::{DiscoveryInterface, InterfaceState, NodeStatus, ReplicaKind};
use crate::discovery::{self, InterfaceStatus};

impl Node {
    /// Who it is and what it holds.
    pub(crate) async fn status(&self) -> Result<NodeStatus, ApiError> {
        let records = self.registry.call(|tables| tables.workspaces()).await?;
        let (mounts, clones) =
            tokio::join!(self.replicas.list(ReplicaKind::View), self.replicas.list(ReplicaKind::Clone));
        let peers = self.peers.all().await?;
        let (started_at, since) = self.started;
        Ok(NodeStatus {
            peer_id: self.peer.to_string(),
            short_id: self.peer.short(),
            name: self.config.name.to_string(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            mode: privilege::mode(),
            home: self.home.state().to_string_lossy().into_owned(),
            started_at,
            uptime_s: since.elapsed().as_secs(),
            listen_addresses: listen::reachable(self.listening).iter().map(ToString::to_string).collect(),
            discovery_port: self.config.discovery.enabled.then_some(self.config.discovery.port),
            discovery_interfaces: self.peers.seen().interfaces.iter().map(interface).collect(),
            workspaces: records.len() as u64,
            shares: records.iter().filter(|record| record.share.is_some()).count() as u64,
            peers: peers.len() as u64,
            namesakes: peers.iter().filter(|peer| peer.namesake.is_some()).count() as u64,
            mounts: mounts.len() as u64,
            clones: clones.len() as u64,
        })
    }
}

fn interface(status: &InterfaceStatus) -> DiscoveryInterface {
    DiscoveryInterface {
        name: status.name.clone(),
        state: match status.state {
            discovery::InterfaceState::Used => InterfaceState::Used,
            discovery::InterfaceState::Ignored => InterfaceState::Ignored,
            discovery::InterfaceState::Failed => InterfaceState::Failed,
        },
        reason: status.reason.clone(),
    }
}
