//! Workspaces here and at peers.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{PeerRef, UnixTime};

/// A workspace registered at this node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Workspace {
    /// Unique at this node.
    pub name: String,
    /// The directory it is.
    pub directory: String,
    /// What it is for, as its `twinshare.yaml` says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// When it was registered.
    pub created_at: UnixTime,
    /// The share, if it is offered to peers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub share: Option<Share>,
}

/// That a workspace is offered, and to whom.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Share {
    /// True if anyone on this network may come in. Without it, nobody is admitted yet.
    pub open: bool,
    /// Since when.
    pub since: UnixTime,
    /// The directories outside the workspace that are read with it. One that its `twinshare.yaml` names later is not
    /// served until the workspace is shared again.
    #[serde(default)]
    pub companions: Vec<String>,
}

/// A workspace with everything its configuration says.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct WorkspaceDetails {
    /// What lists show, too.
    #[serde(flatten)]
    pub workspace: Workspace,
    /// `twinshare.yaml`, parsed.
    #[schema(value_type = Object)]
    pub config: serde_json::Value,
    /// The read-only directories outside the workspace that belong to it.
    pub companions: Vec<Companion>,
    /// What it needs from a machine and does not bring along.
    pub requirements: Vec<Requirement>,
}

/// A workspace that was just registered, with what was noticed on the way.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct CreatedWorkspace {
    /// The workspace.
    #[serde(flatten)]
    pub details: WorkspaceDetails,
    /// True if its `twinshare.yaml` was written; one that was there stays as it is.
    pub file_written: bool,
    /// What else leads out of the workspace; its owner decides whether it belongs to it.
    pub leaving: Vec<LeavingLink>,
    /// False if the workspace was too large to be looked at wholly.
    pub complete: bool,
}

/// Something that a workspace needs from the machine it runs on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Requirement {
    /// Its absolute path.
    pub path: String,
    /// What needs it.
    pub reason: String,
}

/// Something in a workspace that leads out of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct LeavingLink {
    /// The link, or the file that names the target, below the workspace.
    pub link: String,
    /// Where it leads.
    pub target: String,
}

/// A directory outside the workspace that is shared with it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Companion {
    /// Where it lies.
    pub path: String,
    /// Why it belongs to the workspace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// Registers a directory as a workspace and writes its `twinshare.yaml` where there is none.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateWorkspace {
    /// Absolute path of an existing directory.
    pub directory: String,
    /// The name; without it, the one in its `twinshare.yaml`, else the directory's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
}

/// Offers a workspace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ShareRequest {
    /// Whether anyone on this network is let in. Absent, as before; where it was not shared, nobody is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub open: Option<bool>,
}

/// What the reachable peers offer, and which of them did not answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RemoteWorkspaces {
    /// The workspaces, by name and then by peer.
    pub items: Vec<RemoteWorkspace>,
    /// The peers whose catalogue could not be had.
    pub failures: Vec<PeerFailure>,
}

/// A workspace a peer offers to this node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RemoteWorkspace {
    /// Unique at the peer.
    pub name: String,
    /// Who offers it.
    pub peer: PeerRef,
    /// What it is for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// Entries of all kinds in its roots, where the peer knows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub entries: Option<u64>,
    /// Bytes in its files, where the peer knows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes: Option<u64>,
    /// True if this node may mount and clone it now.
    pub admitted: bool,
}

/// A peer whose catalogue could not be had.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PeerFailure {
    /// Who.
    pub peer: PeerRef,
    /// The stable code of the problem, as in problem details.
    pub code: String,
    /// What happened.
    pub detail: String,
}
