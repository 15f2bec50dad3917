//! What a node says about itself.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::UnixTime;

/// The answer to "are you there": a node that answers can be used.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Health {
    /// `starting` while mounts from before the node's start are served again, for some seconds at most; then `ready`;
    /// `stopping` once a stop was asked for.
    pub status: String,
}

/// The versions a node speaks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Version {
    /// The program's version.
    pub version: String,
    /// The version of this interface.
    pub api: String,
    /// The protocol spoken with peers.
    pub protocol: String,
}

/// With whose rights the node was started.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// By root: mounts get a larger read-ahead.
    Root,
    /// By an ordinary user: everything works, through `fusermount3`.
    User,
}

/// Who the node is and what it holds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct NodeStatus {
    /// The node's own peer id.
    pub peer_id: String,
    /// The first characters of the peer id: enough for people.
    pub short_id: String,
    /// The name under which peers see it.
    pub name: String,
    /// The program's version.
    pub version: String,
    /// The node's process.
    pub pid: u32,
    /// With whose rights it was started.
    pub mode: Mode,
    /// Where its state lies.
    pub home: String,
    /// When it became ready.
    pub started_at: UnixTime,
    /// Whole seconds since then.
    pub uptime_s: u64,
    /// The addresses on which peers reach it (`address:port`, QUIC over UDP).
    pub listen_addresses: Vec<String>,
    /// The UDP port of discovery; absent while discovery does not run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub discovery_port: Option<u16>,
    /// Every network interface, and whether discovery uses it.
    pub discovery_interfaces: Vec<DiscoveryInterface>,
    /// Workspaces registered here.
    pub workspaces: u64,
    /// How many of them are shared.
    pub shares: u64,
    /// Peers known or seen.
    pub peers: u64,
    /// How many of those have the name of another one that was met before them.
    pub namesakes: u64,
    /// Views mounted here.
    pub mounts: u64,
    /// Clones of peers' workspaces here.
    pub clones: u64,
}

/// A network interface as discovery sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DiscoveryInterface {
    /// The kernel's name, such as `eth0`.
    pub name: String,
    /// Whether it is used.
    pub state: InterfaceState,
    /// Why it is ignored or failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// Whether discovery uses an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum InterfaceState {
    /// Beacons are sent and heard.
    Used,
    /// Left out by rule or configuration.
    Ignored,
    /// Should be used, but the kernel refused.
    Failed,
}
