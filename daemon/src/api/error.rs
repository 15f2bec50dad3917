//! Every way in which a request can fail, as the handlers see it.
//!
//! A variant exists only where whoever asked acts differently, or where the words of another module end. What each
//! becomes on the wire is decided in `problem` alone.

use std::error::Error;
use std::path::PathBuf;

use axum::extract::rejection::{JsonRejection, PathRejection, QueryRejection};
use axum::http::{Method, StatusCode};

use twinshare_transport::client::CallError;

use super::replica_control::ReplicaError;
use super::wire::ReplicaKind;
use crate::chain::chain;
use crate::node::AddressError;
use crate::operation::TableFull;
use crate::registry::RegistryError;
use crate::runtime::PlanError;
use crate::share::ShareError;
use crate::workspace::{BadWorkspaceName, CreateError, WorkspaceError};
use twinshare_fs::replica::NotAWhenGone;

/// Why a request failed. The text is for whoever asked; the node's log also has the chain of causes.
#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    /// The body is not JSON, or not the document expected.
    #[error("{0}")]
    InvalidBody(String),
    /// The body is larger than any this interface takes.
    #[error("the body is larger than {} KiB", super::BODY_BYTES_MAX / 1024)]
    BodyTooLarge,
    /// The body is not declared as JSON.
    #[error("the body must be JSON, declared by `content-type: application/json`")]
    MediaType,
    /// A query parameter is unknown or has no usable value.
    #[error("{0}")]
    InvalidQuery(String),
    /// A segment of the path is not UTF-8 or not what it should be.
    #[error("{0}")]
    InvalidPath(String),
    /// No such resource in this version.
    #[error("there is nothing at {0}")]
    NoSuchRoute(String),
    /// The resource is there, but not for this method.
    #[error("{path} does not take {method}")]
    MethodNotAllowed {
        /// The method tried.
        method: Method,
        /// The resource.
        path: String,
    },
    /// The node is about to stop.
    #[error("the node is stopping")]
    Stopping,
    /// The request took longer than any may.
    #[error("the request took longer than {0} seconds and was given up")]
    TimedOut(u64),
    /// The text is not the name of a workspace, or not `[PEER/]NAME`.
    #[error(transparent)]
    InvalidName(#[from] BadWorkspaceName),
    /// The text says nothing of what to do while the peer is away.
    #[error("`when_gone`: {0}")]
    InvalidWhenGone(NotAWhenGone),
    /// The path is not absolute.
    #[error("`{0}` is not an absolute path")]
    RelativePath(String),
    /// The text is not an address, or its host is unknown.
    #[error(transparent)]
    Address(#[from] AddressError),
    /// The address is this node's own.
    #[error("the node at {0} is this one")]
    OwnAddress(String),
    /// Nobody known is called so.
    #[error("no peer is called `{0}`")]
    NoSuchPeer(String),
    /// None of the peers that answered offers a workspace of the name.
    #[error("no peer offers `{workspace}` ({asked} asked{})", silent_text(silent))]
    NoSuchRemoteWorkspace {
        /// The name.
        workspace: String,
        /// How many peers were asked.
        asked: usize,
        /// Who of them did not answer.
        silent: Vec<String>,
    },
    /// None of the peers that may offer it answered.
    #[error("no peer answered that may offer `{workspace}`{}", silent_text(silent))]
    NobodyAnswered {
        /// The name.
        workspace: String,
        /// Who was asked.
        silent: Vec<String>,
    },
    /// Several workspaces have the name.
    #[error("`{name}` is the name of several: {}", candidates.join(", "))]
    AmbiguousName {
        /// What was asked for.
        name: String,
        /// The full names among which to choose.
        candidates: Vec<String>,
    },
    /// Several peers have the name.
    #[error(
        "{} nodes call themselves `{peer}`{}: {}",
        candidates.len(), first_text(first.as_deref()), candidates.join(", ")
    )]
    SeveralPeers {
        /// The name.
        peer: String,
        /// The one that was met first, where one was met.
        first: Option<String>,
        /// The full names among which to choose, with the peers' ids.
        candidates: Vec<String>,
    },
    /// The peer offers the workspace, but not to this node.
    #[error("{0} is not open to this node")]
    NotAdmitted(String),
    /// A peer did not answer, or not as it should.
    #[error("{peer}: {error}")]
    Call {
        /// The peer's name or address.
        peer: String,
        /// What happened.
        error: CallError,
    },
    /// The registry refused or failed.
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// The directory cannot become a workspace.
    #[error(transparent)]
    Create(#[from] CreateError),
    /// The directory is a clone that has settled.
    #[error("{directory} is a clone of {workspace} that has settled{}", lacking_text(*companions))]
    IsClone {
        /// The directory.
        directory: String,
        /// Of what, as `PEER/NAME`.
        workspace: String,
        /// How many companions the node keeps for it.
        companions: usize,
    },
    /// A workspace cannot be used as it is.
    #[error(transparent)]
    Workspace(#[from] WorkspaceError),
    /// A workspace is not shared, or not any more.
    #[error(transparent)]
    Share(#[from] ShareError),
    /// Nothing here is called so.
    #[error("`{0}` is neither a workspace of this node nor mounted here")]
    NotHere(String),
    /// The directory is in no workspace.
    #[error("{0} lies in no workspace, mount or clone of this node")]
    NotInWorkspace(String),
    /// Nothing lies at the path.
    #[error("there is nothing at {0}")]
    NoSuchFile(String),
    /// Only what lies in a mount can be pinned.
    #[error("{path} lies {why}")]
    NotAMount {
        /// The path.
        path: String,
        /// In what it lies.
        why: &'static str,
    },
    /// The path is not pinned.
    #[error("{0} is not pinned")]
    NoSuchPin(String),
    /// The mount or clone is not served at present.
    #[error("{directory} is not mounted now{}", detail.as_ref().map(|why| format!(": {why}")).unwrap_or_default())]
    NotServed {
        /// Which of the two it is.
        kind: ReplicaKind,
        /// Where it would be.
        directory: String,
        /// Why, where that is known.
        detail: Option<String>,
    },
    /// The files of a workspace that say how to run something in it could not be read in time.
    #[error("the files in {directory} could not be read within {within_s} seconds")]
    NotRead {
        /// The workspace.
        directory: String,
        /// How long it was tried.
        within_s: u64,
    },
    /// A path that has to travel as text is none.
    #[error("{} is not UTF-8, so no command can be run there", .0.display())]
    NotUtf8(PathBuf),
    /// A run cannot be planned.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// No operation has this id (any more).
    #[error("there is no operation {0}")]
    NoSuchOperation(String),
    /// Too many operations are running.
    #[error(transparent)]
    TooManyOperations(#[from] TableFull),
    /// No replica of the kind asked for has this id.
    #[error("there is no {} {id}", word(*kind))]
    NoSuchReplica {
        /// The kind.
        kind: ReplicaKind,
        /// What was asked for.
        id: String,
    },
    /// A replica could not be made, shown or ended.
    #[error(transparent)]
    Replica(#[from] ReplicaError),
    /// The node itself failed.
    #[error("something went wrong inside the node")]
    Internal(#[source] Box<dyn Error + Send + Sync>),
}

impl ApiError {
    /// A failure of the node itself; `cause` goes to the log only.
    pub fn internal(cause: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self::Internal(cause.into())
    }

    /// The error with everything that caused it: for the log.
    pub fn chain(&self) -> String {
        chain(self)
    }
}

fn first_text(first: Option<&str>) -> String {
    first.map(|id| format!("; this node knows {id} longest")).unwrap_or_default()
}

/// Names that a message holds at most: a network may have hundreds of nodes.
const SILENT_SHOWN_MAX: usize = 5;

fn silent_text(silent: &[String]) -> String {
    match silent {
        [] => String::new(),
        silent if silent.len() > SILENT_SHOWN_MAX => format!(
            "; no answer from {} and {} others",
            silent[..SILENT_SHOWN_MAX].join(", "),
            silent.len() - SILENT_SHOWN_MAX
        ),
        silent => format!("; no answer from {}", silent.join(", ")),
    }
}

fn lacking_text(companions: usize) -> String {
    match companions {
        0 => String::new(),
        1 => "; a workspace made of it would lack the companion that the node keeps for it".to_owned(),
        many => {
            format!("; a workspace made of it would lack the {many} companions that the node keeps for it")
        }
    }
}

fn word(kind: ReplicaKind) -> &'static str {
    match kind {
        ReplicaKind::View => "mount",
        ReplicaKind::Clone => "clone",
    }
}

impl From<JsonRejection> for ApiError {
    fn from(rejection: JsonRejection) -> Self {
        match rejection.status() {
            StatusCode::PAYLOAD_TOO_LARGE => Self::BodyTooLarge,
            StatusCode::UNSUPPORTED_MEDIA_TYPE => Self::MediaType,
            _ => Self::InvalidBody(rejection.body_text()),
        }
    }
}

impl From<QueryRejection> for ApiError {
    fn from(rejection: QueryRejection) -> Self {
        Self::InvalidQuery(rejection.body_text())
    }
}

impl From<PathRejection> for ApiError {
    fn from(rejection: PathRejection) -> Self {
        Self::InvalidPath(rejection.body_text())
    }
}
