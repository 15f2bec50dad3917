//! Work that outlasts a request.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{Problem, Replica, UnixTime};

/// A piece of work the node does in the background.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Operation {
    /// Unique for the life of the node's process and not used again by a later one.
    pub id: String,
    /// What is done.
    pub kind: OperationKind,
    /// To what, in the words of whoever asked.
    pub target: String,
    /// How far it is.
    pub state: OperationState,
    /// Grows with every change of this document; `?since=` waits for the next.
    pub revision: u64,
    /// How much is done.
    pub progress: Progress,
    /// What came of it, once it succeeded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub result: Option<OperationResult>,
    /// Why it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<Problem>,
    /// When it was asked for.
    pub created_at: UnixTime,
    /// When it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finished_at: Option<UnixTime>,
}

/// What came of an operation. A client is to ignore types that it does not know.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum OperationResult {
    /// A mount or a clone.
    Replica(Replica),
}

impl From<Replica> for OperationResult {
    fn from(replica: Replica) -> Self {
        Self::Replica(replica)
    }
}

impl Operation {
    /// The mount or clone that came of it.
    pub fn replica(&self) -> Option<&Replica> {
        self.result.as_ref().map(|OperationResult::Replica(replica)| replica)
    }
}

/// What an operation does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum OperationKind {
    /// Mounts a view; the result is the mount.
    Mount,
    /// Makes a clone; the result is the clone.
    Clone,
}

/// How far an operation is. The last three are final.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum OperationState {
    /// Still at it.
    Running,
    /// Done; `result` says what came of it.
    Succeeded,
    /// Given up; `problem` says why.
    Failed,
    /// Cancelled on request, and what it had begun was undone.
    Cancelled,
}

impl OperationState {
    /// True once nothing will change any more.
    pub fn is_final(self) -> bool {
        match self {
            Self::Running => false,
            Self::Succeeded | Self::Failed | Self::Cancelled => true,
        }
    }
}

/// How much of an operation is done.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Progress {
    /// What is being done now, for people: "reading the manifest".
    pub step: String,
    /// Units done in this step.
    pub done: u64,
    /// Units in this step, once known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub total: Option<u64>,
    /// What is counted.
    pub unit: ProgressUnit,
}

/// What progress counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ProgressUnit {
    /// Steps without a finer measure.
    #[default]
    Steps,
    /// Entries of a manifest.
    Entries,
    /// Files.
    Files,
    /// Bytes.
    Bytes,
}
