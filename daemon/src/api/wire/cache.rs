//! What is kept on the disk of what mounts show: the cache, and the pins in it.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{PeerRef, UnixTime};

/// The cache that the content of all mounts shares.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Cache {
    /// Bytes that content takes on the disk.
    pub bytes: u64,
    /// What they may be at most: beyond it, what was used longest ago is evicted.
    pub bytes_max: u64,
    /// Bytes that are free on the disk.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub free_bytes: Option<u64>,
    /// What stays free: with less, content is evicted.
    pub free_bytes_min: u64,
    /// What each mount has in it, oldest mount first.
    pub mounts: Vec<CachedMount>,
}

/// What a mount has in the cache.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct CachedMount {
    /// The mount.
    pub id: String,
    /// Whose workspace.
    pub peer: PeerRef,
    /// The workspace's name at the peer.
    pub workspace: String,
    /// Where it is mounted.
    pub directory: String,
    /// Bytes on the disk; absent while it is not served or they are being counted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes: Option<u64>,
    /// Bytes of what is pinned.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pinned_bytes: Option<u64>,
    /// Those of them that are here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pinned_bytes_here: Option<u64>,
    /// When something of it that is here was used last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_use: Option<UnixTime>,
}

/// What to evict.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PruneRequest {
    /// Only what was not used for so many seconds; 0 without it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unused_s: Option<u64>,
}

/// What was evicted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Pruned {
    /// Files of mounts.
    pub files: u64,
    /// Bytes of the disk that they took.
    pub bytes: u64,
    /// Files that mounts had left that are not there any more.
    pub left_files: u64,
    /// Bytes of the disk that those took.
    pub left_bytes: u64,
    /// False when there is more, since it took too long: asked again, the node goes on.
    pub done: bool,
}

/// What to pin.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PinRequest {
    /// An absolute path in a mount.
    pub path: String,
}

/// Something of a mount that is fetched completely and not evicted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Pin {
    /// The path.
    pub path: String,
    /// The mount.
    pub mount: String,
    /// Files below it; those with several names count once. Absent while nothing lies there, or it is not known yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub files_total: Option<u64>,
    /// Those of them that are here as a whole.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub files_here: Option<u64>,
    /// Their bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes_total: Option<u64>,
    /// Those that are here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes_here: Option<u64>,
    /// True when all of it is here: it can be used without the peer.
    pub complete: bool,
}
