//! Local copies of peers' workspaces: mounted views and clones.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{PeerRef, Reading, ReplicaChanged, ReplicaRelocation, UnixTime};

/// Mounts a peer's workspace as a read-only view.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct MountRequest {
    /// `NAME` where it is unique, else `PEER/NAME`; `PEER` is a peer's name, short id or id.
    pub workspace: String,
    /// Absolute path of the mount point; without it, one under the browsing root of all views.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub directory: Option<String>,
    /// What a read does while the peer is away: `wait=10s` (the default), `fail` or `wait`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub when_gone: Option<String>,
}

/// Clones a peer's workspace.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CloneRequest {
    /// `NAME` where it is unique, else `PEER/NAME`.
    pub workspace: String,
    /// Absolute path of the clone; without it, the workspace's name under the user's directory of clones.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub directory: Option<String>,
    /// What a read does while the peer is away: `wait=10s` (the default), `fail` or `wait`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub when_gone: Option<String>,
    /// Whether it becomes an ordinary directory by itself, once everything is here and nobody uses it (the default). If
    /// not, it stays mounted until it is settled on request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub settle: Option<bool>,
    /// Whether environments in it are edited, once it is an ordinary directory, so that they work at its path (the
    /// default). What was edited is listed in its receipt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub relocate: Option<bool>,
    /// Whether it is fetched without being mounted: where this machine has no FUSE. It can be used once it is complete and
    /// an ordinary directory, as which it then always ends.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub plain: Option<bool>,
}

/// What a replica is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ReplicaKind {
    /// Read-only, in the node's cache directory.
    View,
    /// Forked from one snapshot, in a directory of its own.
    Clone,
}

/// A local copy in the making.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Replica {
    /// Unique at this node and kept across restarts.
    pub id: String,
    /// View or clone.
    pub kind: ReplicaKind,
    /// The workspace's name at its peer.
    pub workspace: String,
    /// Whose workspace it is.
    pub peer: PeerRef,
    /// Where it is mounted.
    pub directory: String,
    /// How it does.
    pub state: ReplicaState,
    /// True for a clone that is not mounted while it is fetched.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub plain: bool,
    /// What is wrong, where the state says that something is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
    /// `wait=10s`, `fail` or `wait`.
    pub when_gone: String,
    /// The snapshot it shows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub snapshot: Option<String>,
    /// The process that serves it, while one does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pid: Option<u32>,
    /// When it was made.
    pub created_at: UnixTime,
    /// True in the answer to a request for what was there already: it stays as it was made, at `created_at`.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub was_there: bool,
    /// How a view follows its peer's workspace; absent for clones and while no process serves it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub following: Option<ReplicaFollowing>,
    /// Its directory trees: the workspace first, then the companions.
    pub roots: Vec<ReplicaRoot>,
    /// How much is here; absent while no process serves it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub progress: Option<ReplicaProgress>,
    /// What its origin's user has there and the snapshot lacks; absent where nothing is missing, and as long as that is
    /// not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub left_out: Option<ReplicaLeftOut>,
    /// Files that changed at the peer before they were here, and what became of them; absent where none did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub changed: Option<ReplicaChanged>,
    /// Who waits for content that is not here, the longest wait first; eight at most.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub reading: Vec<Reading>,
    /// How a clone is about to become an ordinary directory; absent for views and while no process serves it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub settling: Option<ReplicaSettling>,
    /// What a settled clone holds of its origin.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub receipt: Option<ReplicaReceipt>,
}

/// How a view follows its peer's workspace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ReplicaFollowing {
    /// The snapshot it shows.
    pub snapshot: String,
    /// When that was taken over.
    pub since: UnixTime,
    /// Why it shows no newer one for now, where something keeps it from following.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub paused: Option<String>,
}

/// How a clone is about to become an ordinary directory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ReplicaSettling {
    /// How far it is.
    pub stage: SettlingStage,
    /// Who keeps a complete one mounted, as far as can be seen: `bash (pid 4711) in src/`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub users: Vec<String>,
    /// What else is in the way, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
    /// Whether it happens by itself, once everything is here and nobody uses it.
    pub by_itself: bool,
}

/// How far a clone is on its way to an ordinary directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum SettlingStage {
    /// Not everything is here; what is missing is fetched in the background.
    Hydrating,
    /// Everything is here.
    Complete,
    /// Nobody uses it, and it is being unmounted.
    Leaving,
}

/// What a settled clone holds of its origin.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ReplicaReceipt {
    /// When it settled.
    pub settled_at: UnixTime,
    /// Directories, the workspace's and the companions' own included.
    pub directories: u64,
    /// Regular files; those with several names count once.
    pub files: u64,
    /// Symbolic links.
    pub symlinks: u64,
    /// Bytes of the files.
    pub bytes: u64,
    /// Those of them that are the companions', which the node keeps and removes with the clone.
    #[serde(default)]
    pub companion_bytes: u64,
    /// What was edited since, so that its environments work at its path; absent where nobody wanted that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub relocation: Option<ReplicaRelocation>,
}

/// What a snapshot lacks of the tree it was taken of: what could not be read, lies on another filesystem, kept changing
/// or exceeds a limit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ReplicaLeftOut {
    /// How many files and directories, at most: beyond a thousand, what lacks only a property may be counted too.
    pub total: u64,
    /// The first twenty.
    pub first: Vec<ReplicaLeftOutEntry>,
}

/// A file or directory that a snapshot lacks; a directory is there, and empty or incomplete.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ReplicaLeftOutEntry {
    /// Where it would be here.
    pub path: String,
    /// Why it is not, for people.
    pub reason: String,
}

/// How a replica does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ReplicaState {
    /// Its process starts or asks the peer for the snapshot.
    Starting,
    /// Mounted and served.
    Mounted,
    /// A plain clone that is being fetched: not mounted, and not to be used yet.
    Hydrating,
    /// Complete, being unmounted, and an ordinary directory in a moment.
    Settling,
    /// Complete and an ordinary directory.
    Settled,
    /// Not mounted; what was fetched is kept.
    Stopped,
    /// Its process died or could not mount; `detail` says why. It is tried again, after a minute at most.
    Failed,
}

/// One directory tree of a replica.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ReplicaRoot {
    /// The absolute path it had at its origin.
    pub origin: String,
    /// Where it is mounted here.
    pub local: String,
}

/// How much of a replica is here. What is counted after each start of its process is `null` until it has been: for a
/// moment, and as long as the list of files still arrives.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ReplicaProgress {
    /// Regular files in the snapshot; `null` while they are counted.
    pub files_total: Option<u64>,
    /// Files of which every block is here; `null` while they are counted.
    pub files_resident: Option<u64>,
    /// Bytes in the snapshot's files.
    pub bytes_total: u64,
    /// Bytes that are here, verified; `null` while they are counted.
    pub bytes_resident: Option<u64>,
    /// Bytes of content that came from the peer since the replica's process started.
    pub bytes_fetched: u64,
    /// Bytes of content that come in a second, while something is missing and comes in the background.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes_per_s: Option<u64>,
    /// Seconds until everything is here, at this rate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub left_s: Option<u64>,
    /// Whether somebody may have changed something here, in a clone that has not settled.
    #[serde(default)]
    pub changed: bool,
    /// Whether the peer answers.
    pub availability: Availability,
}

/// Whether a replica's peer answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Availability {
    /// The last exchange succeeded.
    Reachable,
    /// It does not answer; what is here stays readable.
    Gone,
}
