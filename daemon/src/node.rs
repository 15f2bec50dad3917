//! A running node: its parts, built and wired here and nowhere else.

mod address;
mod announce;
mod cache;
mod detached;
mod doctor;
mod firewall;
mod known;
mod lifecycle;
mod listen;
mod local;
mod peers;
mod privilege;
mod resolve;
mod signals;
mod status;
mod target;
#[cfg(test)]
pub(crate) mod testing;
mod user;
mod why;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use twinshare_transport::identity::PeerId;

use crate::api::replica_control::ReplicaControl;
use crate::api::wire::UnixTime;
use crate::config::Config;
use crate::home::Home;
use crate::operation::Operations;
use crate::registry::Registry;
use crate::share::Shares;

pub use address::AddressError;
pub use detached::{READY_WITHIN, StartError, StopError, start_detached, stop_detached};
pub use doctor::examine_without_node;
pub use lifecycle::{NodeError, RunningNode, STOP_WITHIN, run};
pub(crate) use local::LocalWorkspace;
pub use peers::Peers;
pub(crate) use user::User;

/// How long peers that were asked get to answer: they spread their answers over a twentieth of a second.
const ASK_WITHIN: Duration = Duration::from_millis(300);

/// The parts of a running node, as the API's handlers use them.
#[derive(Debug)]
pub struct Node {
    life: String,
    home: Home,
    config: Config,
    peer: PeerId,
    /// Where peers are listened for.
    listening: SocketAddr,
    started: (UnixTime, Instant),
    registry: Registry,
    shares: Arc<Shares>,
    peers: Arc<Peers>,
    replicas: Arc<dyn ReplicaControl>,
    operations: Operations,
    /// Rung to have discovery ask who is there.
    asked: Notify,
    ready: AtomicBool,
    stopping: CancellationToken,
}

impl Node {
    /// A name for this life of the node, unlike that of any other: it starts the ids that are not kept on disk.
    pub fn life(&self) -> &str {
        &self.life
    }

    /// Where its things lie.
    pub fn home(&self) -> &Home {
        &self.home
    }

    /// What the user chose.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Where it listens for peers.
    pub fn listening(&self) -> SocketAddr {
        self.listening
    }

    /// What it remembers.
    pub fn registry(&self) -> &Registry {
        &self.registry
    }

    /// What it offers.
    pub fn shares(&self) -> &Shares {
        &self.shares
    }

    /// Other nodes.
    pub fn peers(&self) -> &Arc<Peers> {
        &self.peers
    }

    /// Mounts and clones.
    pub fn replicas(&self) -> &dyn ReplicaControl {
        &*self.replicas
    }

    /// Work that outlasts a request.
    pub fn operations(&self) -> &Operations {
        &self.operations
    }

    /// True once the mounts that were there before are served again, or it is known why not.
    pub fn is_ready(&self) -> bool {
        self.ready.load(Relaxed)
    }

    /// Cancelled when the node is to stop; cancelling it stops the node.
    pub fn stopping(&self) -> &CancellationToken {
        &self.stopping
    }

    /// Asks the network who is there, and waits until those who are have answered. Nothing to do without discovery.
    pub(crate) async fn ask_who_is_there(&self) {
        if self.config.discovery.enabled {
            self.asked.notify_one();
            tokio::time::sleep(ASK_WITHIN).await;
        }
    }
}
