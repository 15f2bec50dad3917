//! What crosses the API socket: one type per document, shared by the handlers and the Rust client.
//!
//! Conventions of version 1:
//! - JSON objects with `snake_case` fields. Unknown fields in an answer are to be ignored; in a request they are
//!   an error, so that a misspelt option is never silently dropped.
//! - A list is an object with one field `items`.
//! - Ids are strings without inner structure. Paths are absolute and UTF-8 (a path that is not is refused).
//! - Times are whole seconds since 1970-01-01T00:00:00Z ([`UnixTime`]); durations carry their unit in their name.
//! - What is not known is absent, never an empty string or zero.
//! - Errors are problem details ([`Problem`]) with a stable `code`.

mod cache;
mod changed;
mod doctor;
mod node;
mod operation;
mod peer;
mod problem;
mod relocation;
mod replica;
mod run;
mod why;
mod workspace;

use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

pub use cache::{Cache, CachedMount, Pin, PinRequest, PruneRequest, Pruned};
pub use changed::{Keep, ReplicaChanged, ReplicaChangedFile, ReplicaChangedFiles, ResolveRequest, Resolved};
pub use doctor::{Check, CheckState};
pub use node::{DiscoveryInterface, Health, InterfaceState, Mode, NodeStatus, Version};
pub use operation::{Operation, OperationKind, OperationResult, OperationState, Progress, ProgressUnit};
pub use peer::{AddPeer, Peer, PeerRef, PeerSource};
pub use problem::{PROBLEM_MEDIA_TYPE, Problem};
pub use relocation::{EditKind, ReplacedPath, ReplicaEdit, ReplicaNotEdited, ReplicaRelocation};
pub use replica::{
    Availability, CloneRequest, MountRequest, Replica, ReplicaFollowing, ReplicaKind, ReplicaLeftOut,
    ReplicaLeftOutEntry, ReplicaProgress, ReplicaReceipt, ReplicaRoot, ReplicaSettling, ReplicaState,
    SettlingStage,
};
pub use run::RunRequest;
pub use why::{
    Program, Reading, Why, WhyCame, WhyDirectory, WhyFile, WhyFound, WhyPlace, WhyPresence, WhyWaitEnd,
    WhyWaited,
};
pub use workspace::{
    Companion, CreateWorkspace, CreatedWorkspace, LeavingLink, PeerFailure, RemoteWorkspace,
    RemoteWorkspaces, Requirement, Share, ShareRequest, Workspace, WorkspaceDetails,
};

/// Answers of this version lie under this path.
pub const BASE_PATH: &str = "/api/v1";

/// All documents of one kind.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct List<T> {
    /// The documents, in an order the request documents.
    pub items: Vec<T>,
}

impl<T> From<Vec<T>> for List<T> {
    fn from(items: Vec<T>) -> Self {
        Self { items }
    }
}

/// A moment: whole seconds since 1970-01-01T00:00:00Z.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(transparent)]
pub struct UnixTime(pub i64);

impl From<SystemTime> for UnixTime {
    fn from(time: SystemTime) -> Self {
        let seconds = |d: std::time::Duration| i64::try_from(d.as_secs()).unwrap_or(i64::MAX);
        Self(match time.duration_since(UNIX_EPOCH) {
            Ok(since) => seconds(since),
            Err(before) => -seconds(before.duration()),
        })
    }
}

impl UnixTime {
    /// The moment of the call, by the system's clock.
    pub fn now() -> Self {
        SystemTime::now().into()
    }
}
