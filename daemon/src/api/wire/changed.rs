//! Files of a clone that changed at its peer before they were here, and what becomes of them.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::UnixTime;

/// The files of a clone that changed at its peer before all of them was here, by what became of them. The clone is not
/// complete while any waits, is in conflict or unsettled.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ReplicaChanged {
    /// Their new version is being fetched, or about to be.
    #[serde(default)]
    pub waiting: ReplicaChangedFiles,
    /// The version that the peer had later is here.
    #[serde(default)]
    pub taken_anew: ReplicaChangedFiles,
    /// They were gone at the peer, and are gone here.
    #[serde(default)]
    pub removed: ReplicaChangedFiles,
    /// They were changed here too: somebody must decide.
    #[serde(default)]
    pub conflicts: ReplicaChangedFiles,
    /// No version of them can be had at present.
    #[serde(default)]
    pub unsettled: ReplicaChangedFiles,
    /// Somebody decided to keep what is here of them.
    #[serde(default)]
    pub kept: ReplicaChangedFiles,
}

/// Files to which the same happened.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ReplicaChangedFiles {
    /// All of them.
    pub total: u64,
    /// The first of them, as many as fit.
    #[serde(default)]
    pub first: Vec<ReplicaChangedFile>,
}

/// A file that changed at the peer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ReplicaChangedFile {
    /// Its path in the snapshot, below the workspace.
    pub path: String,
    /// Why it is where it is listed, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Since when it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at: Option<UnixTime>,
}

/// Which version of a file somebody wants that changed both here and at the peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Keep {
    /// What is here; what never came is zeros.
    Mine,
    /// The peer's; what was changed here is dropped.
    Theirs,
}

/// Decides what becomes of a file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ResolveRequest {
    /// The absolute path of a file in a clone.
    pub path: String,
    /// Which version is kept; without it, nothing happens, and the answer tells what would be decided about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keep: Option<Keep>,
}

/// What was decided about.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Resolved {
    /// The file.
    pub path: String,
    /// Which version is kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keep: Option<Keep>,
    /// Bytes of the version here that never came: zeros, where it is kept.
    pub bytes_missing: u64,
}
