//! Other nodes.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::UnixTime;

/// Which peer: how other documents name one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PeerRef {
    /// The peer id.
    pub id: String,
    /// The first characters of the peer id: enough for people.
    pub short_id: String,
    /// The name the peer gives itself; not unique, not trusted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
}

impl PeerRef {
    /// True if `text` is this peer's id or short id, in either case, or its name.
    pub fn is_called(&self, text: &str) -> bool {
        let ids = [&self.id, &self.short_id];
        ids.iter().any(|id| id.eq_ignore_ascii_case(text)) || self.name.as_deref() == Some(text)
    }
}

/// A node that was found or is remembered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Peer {
    /// The peer id.
    pub id: String,
    /// The first characters of the peer id.
    pub short_id: String,
    /// The name the peer gives itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Where it was last reached or heard (`address:port`), best first.
    pub addresses: Vec<String>,
    /// When it was last heard or reached; absent if never since it was added.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_seen_at: Option<UnixTime>,
    /// True while its beacons arrive or a connection to it lives.
    pub online: bool,
    /// How this node came to know it.
    pub sources: Vec<PeerSource>,
    /// Workspaces it announces to everyone; a hint, not a catalogue.
    pub workspaces: Vec<String>,
    /// How many it announces, where they do not all fit into its beacon.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workspaces_total: Option<u64>,
    /// The short id of another peer of this name that was met before this one, which may pretend to be it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name_of: Option<String>,
}

/// How a peer came to be known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum PeerSource {
    /// Its beacons are heard.
    Multicast,
    /// It was added by address.
    Manual,
    /// It was met before.
    Remembered,
}

/// Greets a node by address and remembers it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct AddPeer {
    /// `host`, `host:port`, `address` or `[address]:port`; without a port, 37778.
    pub address: String,
}
