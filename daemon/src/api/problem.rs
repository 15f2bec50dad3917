//! The one place where an error becomes a problem document: status, code, title and hint of each.
//!
//! A status is chosen by who has to react: 400 to 499 whoever asked (409 when the state of things is in the way),
//! 502 and 504 somebody else's machine, 503 nobody but time, 500 whoever wrote the node.

use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};

use super::error::ApiError;
use twinshare_transport::client::CallError;
use twinshare_transport::protocol::Refusal;

use super::replica_control::ReplicaError;
use super::wire::Problem;
use crate::node::AddressError;
use crate::registry::RegistryError;
use crate::runtime::PlanError;
use crate::share::ShareError;
use crate::snapshot::SnapshotError;
use crate::workspace::{CompanionError, CreateError, FileError, PlaceError, WorkspaceError};

/// What is the same each time an error of one kind occurs.
struct Kind {
    status: StatusCode,
    code: &'static str,
    title: &'static str,
    hint: Option<&'static str>,
}

const fn kind(status: StatusCode, code: &'static str, title: &'static str, hint: &'static str) -> Kind {
    Kind { status, code, title, hint: Some(hint) }
}

impl ApiError {
    /// The HTTP status.
    pub fn status(&self) -> StatusCode {
        self.kind().status
    }

    /// The stable code.
    pub fn code(&self) -> &'static str {
        self.kind().code
    }

    /// The document for whoever asked in `request_id`.
    pub fn problem(&self, request_id: Option<&str>) -> Problem {
        let Kind { status, code, title, hint } = self.kind();
        Problem {
            r#type: format!("urn:twinshare:problem:{code}"),
            title: title.to_owned(),
            status: status.as_u16(),
            code: code.to_owned(),
            detail: self.to_string(),
            hint: hint.map(str::to_owned),
            request_id: request_id.map(str::to_owned),
            candidates: self.candidates().to_vec(),
            users: self.users().to_vec(),
        }
    }

    fn kind(&self) -> Kind {
        const DOCUMENTED: &str = "GET /api/v1/openapi.json describes what is expected";
        match self {
            Self::InvalidBody(_) => {
                kind(StatusCode::BAD_REQUEST, "invalid_body", "Invalid request body", DOCUMENTED)
            }
            Self::BodyTooLarge => {
                kind(StatusCode::PAYLOAD_TOO_LARGE, "body_too_large", "Request body too large", DOCUMENTED)
            }
            Self::MediaType => kind(
                StatusCode::UNSUPPORTED_MEDIA_TYPE,
                "unsupported_media_type",
                "Unsupported media type",
                DOCUMENTED,
            ),
            Self::InvalidQuery(_) => {
                kind(StatusCode::BAD_REQUEST, "invalid_query", "Invalid query", DOCUMENTED)
            }
            Self::InvalidPath(_) => kind(StatusCode::BAD_REQUEST, "invalid_path", "Invalid path", DOCUMENTED),
            Self::NoSuchRoute(_) => kind(StatusCode::NOT_FOUND, "no_such_route", "No such route", DOCUMENTED),
            Self::MethodNotAllowed { .. } => kind(
                StatusCode::METHOD_NOT_ALLOWED,
                "method_not_allowed",
                "Method not allowed",
                "the `allow` header names the methods that are",
            ),
            Self::Stopping => kind(
                StatusCode::SERVICE_UNAVAILABLE,
                "stopping",
                "Node is stopping",
                "start it again with `twinshare p2p start`",
            ),
            Self::TimedOut(_) => kind(
                StatusCode::GATEWAY_TIMEOUT,
                "timed_out",
                "Request timed out",
                "`twinshare doctor` and the node's log may say why",
            ),
            Self::InvalidName(_) => kind(
                StatusCode::UNPROCESSABLE_ENTITY,
                "invalid_name",
                "Invalid name",
                "a workspace of a peer is named `NAME` or `PEER/NAME`",
            ),
            Self::InvalidWhenGone(_) => kind(
                StatusCode::UNPROCESSABLE_ENTITY,
                "invalid_when_gone",
                "Invalid option",
                "the default is `wait=10s`",
            ),
            Self::RelativePath(_) => kind(
                StatusCode::UNPROCESSABLE_ENTITY,
                "relative_path",
                "Path is not absolute",
                "the node does not know the caller's working directory: send the whole path",
            ),
            Self::Address(AddressError::Form(_)) => {
                kind(StatusCode::UNPROCESSABLE_ENTITY, "invalid_address", "Invalid address", DOCUMENTED)
            }
            Self::Address(AddressError::UnknownHost { .. }) => kind(
                StatusCode::UNPROCESSABLE_ENTITY,
                "unknown_host",
                "Unknown host",
                "check the spelling, or use the address",
            ),
            Self::OwnAddress(_) => kind(
                StatusCode::UNPROCESSABLE_ENTITY,
                "own_address",
                "Own address",
                "a node need not be told of itself",
            ),
            Self::NoSuchPeer(_) => kind(
                StatusCode::NOT_FOUND,
                "no_such_peer",
                "No such peer",
                "`twinshare p2p discover` lists those that are seen; `twinshare p2p add HOST` adds others",
            ),
            Self::NoSuchRemoteWorkspace { .. } => kind(
                StatusCode::NOT_FOUND,
                "no_such_remote_workspace",
                "No peer offers it",
                "`twinshare workspace list --remote` shows what is offered",
            ),
            Self::AmbiguousName { .. } => kind(
                StatusCode::CONFLICT,
                "ambiguous_name",
                "Name is not unique",
                "use one of those in place of the name",
            ),
            Self::SeveralPeers { .. } => kind(
                StatusCode::CONFLICT,
                "ambiguous_name",
                "Name is not unique",
                "anybody can take a name: ask the owner for their node's id, which `twinshare p2p status` shows there, \
                 and use it in place of the name",
            ),
            Self::NotAdmitted(_) => peer_refused(),
            Self::Call { error, .. } => call_kind(error),
            Self::Registry(error) => registry_kind(error),
            Self::Create(error) => create_kind(error),
            Self::Workspace(error) => workspace_kind(error),
            Self::Share(error) => share_kind(error),
            Self::NotHere(_) => kind(
                StatusCode::NOT_FOUND,
                "not_here",
                "Not on this machine",
                "mount it first: `twinshare mount [PEER/]NAME`",
            ),
            Self::NotInWorkspace(_) => kind(
                StatusCode::NOT_FOUND,
                "not_in_workspace",
                "Not in a workspace",
                "`twinshare workspace list` shows the directories that are",
            ),
            Self::NotServed { .. } => kind(
                StatusCode::CONFLICT,
                "not_served",
                "Not mounted now",
                "mount it again; the replica's log says why it ended",
            ),
            Self::NotUtf8(_) => kind(
                StatusCode::CONFLICT,
                "not_utf8",
                "Path is not text",
                "give the directory a name in UTF-8",
            ),
            Self::Plan(error) => plan_kind(error),
            Self::NoSuchOperation(_) => kind(
                StatusCode::NOT_FOUND,
                "no_such_operation",
                "No such operation",
                "finished operations are forgotten after an hour and when the node restarts",
            ),
            Self::TooManyOperations(_) => kind(
                StatusCode::SERVICE_UNAVAILABLE,
                "too_many_operations",
                "Too many operations",
                "wait for one to end, or cancel one",
            ),
            Self::NoSuchReplica { .. } => no_such_replica(),
            Self::Replica(error) => replica_kind(error),
            Self::Internal(_) => internal(),
        }
    }

    fn candidates(&self) -> &[String] {
        match self {
            Self::AmbiguousName { candidates, .. } | Self::SeveralPeers { candidates, .. } => candidates,
            _ => &[],
        }
    }

    fn users(&self) -> &[String] {
        match self {
            Self::Replica(ReplicaError::Busy { users, .. }) => users,
            _ => &[],
        }
    }
}

fn no_such_replica() -> Kind {
    kind(
        StatusCode::NOT_FOUND,
        "no_such_replica",
        "No such mount or clone",
        "`twinshare workspace list` shows those that are there",
    )
}

fn replica_kind(error: &ReplicaError) -> Kind {
    match error {
        ReplicaError::NoSuchReplica(_) => no_such_replica(),
        ReplicaError::Directory { .. } => kind(
            StatusCode::CONFLICT,
            "unusable_directory",
            "Directory cannot be used",
            "choose another directory, empty or not there yet",
        ),
        ReplicaError::Busy { .. } => kind(
            StatusCode::CONFLICT,
            "busy",
            "In use",
            "leave the directory and close its files in the programs named, then try again",
        ),
        ReplicaError::Call(error) => call_kind(error),
        ReplicaError::Unreachable(_) => peer_unreachable(),
        ReplicaError::Refused(_) => peer_refused(),
        ReplicaError::Unsupported(_) => kind(
            StatusCode::NOT_IMPLEMENTED,
            "unsupported_here",
            "Not possible on this machine",
            "`twinshare doctor` says what to install or to allow",
        ),
        ReplicaError::Cancelled => {
            Kind { status: StatusCode::CONFLICT, code: "cancelled", title: "Cancelled", hint: None }
        }
        ReplicaError::Failed { .. } => kind(
            StatusCode::INTERNAL_SERVER_ERROR,
            "replica_failed",
            "Mount or clone failed",
            "the node's log and the replica's own say more",
        ),
    }
}

fn peer_unreachable() -> Kind {
    kind(
        StatusCode::BAD_GATEWAY,
        "peer_unreachable",
        "Peer cannot be reached",
        "is its node running? `twinshare p2p discover` shows who is seen; `twinshare doctor` checks this side",
    )
}

fn peer_refused() -> Kind {
    kind(
        StatusCode::FORBIDDEN,
        "peer_refused",
        "Peer refused",
        "ask its owner to share the workspace: `twinshare workspace share NAME --open`",
    )
}

fn call_kind(error: &CallError) -> Kind {
    match error {
        CallError::Unreachable(_) | CallError::Deadline(_) => peer_unreachable(),
        CallError::Refused(refusal) => refusal_kind(refusal),
        CallError::OtherPeer { .. } => kind(
            StatusCode::BAD_GATEWAY,
            "other_peer",
            "Another node answers",
            "the node there has another key than before: ask its owner why before you add it anew",
        ),
        CallError::Invalid(_) => peer_protocol(),
    }
}

fn peer_protocol() -> Kind {
    kind(
        StatusCode::BAD_GATEWAY,
        "peer_protocol",
        "Peer speaks another protocol",
        "install the same version of twinshare on both sides",
    )
}

fn refusal_kind(refusal: &Refusal) -> Kind {
    match refusal {
        Refusal::NotGranted | Refusal::NoSuchWorkspace => peer_refused(),
        Refusal::NotNear => Kind {
            hint: Some("connect both machines to one network; what is open is open to that only"),
            ..peer_refused()
        },
        Refusal::SnapshotGone => kind(
            StatusCode::GONE,
            "snapshot_gone",
            "Snapshot is gone",
            "mount or clone the workspace anew: that takes a new snapshot",
        ),
        Refusal::TooBusy => {
            kind(StatusCode::SERVICE_UNAVAILABLE, "peer_busy", "Peer is busy", "try again in a moment")
        }
        Refusal::Internal(_) => kind(
            StatusCode::BAD_GATEWAY,
            "peer_failed",
            "Peer failed",
            "ask its owner to look into their node's log; sharing the workspace again may mend it",
        ),
        Refusal::BadRequest => peer_protocol(),
    }
}

fn create_kind(error: &CreateError) -> Kind {
    match error {
        CreateError::Workspace(error) => workspace_kind(error),
        CreateError::NameDiffers { .. } => kind(
            StatusCode::CONFLICT,
            "name_differs",
            "File says another name",
            "the name in `twinshare.yaml` is the workspace's: change it there",
        ),
        CreateError::NoName { .. } => kind(
            StatusCode::UNPROCESSABLE_ENTITY,
            "invalid_name",
            "Invalid name",
            "choose a name with `--name`",
        ),
        CreateError::Write { .. } => kind(
            StatusCode::CONFLICT,
            "unusable_place",
            "Directory cannot be used",
            "a workspace's directory must be writable once, for its `twinshare.yaml`; or put one there yourself",
        ),
        CreateError::Registry(error) => registry_kind(error),
    }
}

fn workspace_kind(error: &WorkspaceError) -> Kind {
    match error {
        WorkspaceError::Place(error) => place_kind(error),
        WorkspaceError::File(error) => file_kind(error),
        WorkspaceError::Companion(error) => companion_kind(error),
    }
}

fn place_kind(error: &PlaceError) -> Kind {
    let hint = match error {
        PlaceError::Disk { .. } => "name a directory that exists and that you may read",
        PlaceError::HoldsIdentity { .. } => {
            "share a directory in it, or move the node's own state elsewhere with TWINSHARE_HOME"
        }
        PlaceError::NodeState { .. } => "name a directory outside the node's own",
        PlaceError::Replica { .. } => "share it on the node it comes from",
    };
    kind(StatusCode::UNPROCESSABLE_ENTITY, "unusable_place", "Directory cannot be used", hint)
}

fn file_kind(error: &FileError) -> Kind {
    let hint = match error {
        FileError::Missing { .. } => "write it anew with `twinshare workspace create DIR`",
        FileError::Disk { .. } => "the file has to be readable by the node's user",
        FileError::Invalid { .. } => "correct the file at the place named",
    };
    kind(StatusCode::UNPROCESSABLE_ENTITY, "invalid_file", "`twinshare.yaml` cannot be used", hint)
}

fn share_kind(error: &ShareError) -> Kind {
    match error {
        ShareError::Registry(error) => registry_kind(error),
        ShareError::Workspace(error) => workspace_kind(error),
        ShareError::Snapshot(error) => snapshot_kind(error),
    }
}

fn snapshot_kind(error: &SnapshotError) -> Kind {
    match error {
        SnapshotError::Workspace(error) => workspace_kind(error),
        SnapshotError::Registry(error) => registry_kind(error),
        SnapshotError::Busy | SnapshotError::Stopping => busy_node(),
        SnapshotError::Walk(_) | SnapshotError::Disk { .. } | SnapshotError::Open { .. } => internal(),
    }
}

fn busy_node() -> Kind {
    kind(StatusCode::SERVICE_UNAVAILABLE, "busy_node", "Node is busy", "try again in a moment")
}

fn plan_kind(error: &PlanError) -> Kind {
    match error {
        PlanError::NoCommand => kind(
            StatusCode::UNPROCESSABLE_ENTITY,
            "no_command",
            "No command",
            "name one after `--`, or set `command` of an environment in the workspace's `twinshare.yaml`",
        ),
        PlanError::Roots(_)
        | PlanError::NotPlain { .. }
        | PlanError::Reserved { .. }
        | PlanError::Inside { .. }
        | PlanError::Links { .. }
        | PlanError::Rebuild { .. }
        | PlanError::Crowded { .. } => kind(
            StatusCode::CONFLICT,
            "unplannable",
            "Cannot be run here",
            "its files can be used from the mount; only running at the origin's paths is not possible",
        ),
    }
}

fn internal() -> Kind {
    kind(
        StatusCode::INTERNAL_SERVER_ERROR,
        "internal",
        "Internal error",
        "the node's log says more; look there for the request's id",
    )
}

fn companion_kind(error: &CompanionError) -> Kind {
    let hint = match error {
        CompanionError::NotConfirmed { .. } => "look at it, and share the workspace again if it may be read",
        CompanionError::Disk { .. }
        | CompanionError::TooWide { .. }
        | CompanionError::NoHome { .. }
        | CompanionError::TooMany(_) => "change `companions` in the workspace's `twinshare.yaml`",
    };
    kind(StatusCode::UNPROCESSABLE_ENTITY, "unusable_companion", "Companion cannot be shared", hint)
}

fn registry_kind(error: &RegistryError) -> Kind {
    match error {
        RegistryError::NameTaken { .. } => kind(
            StatusCode::CONFLICT,
            "name_taken",
            "Name is taken",
            "choose another one with `--name`, or remove the other workspace",
        ),
        RegistryError::DirectoryTaken { .. } => kind(
            StatusCode::CONFLICT,
            "directory_taken",
            "Directory is registered already",
            "use it under its name, or remove it first with `twinshare workspace rm NAME`",
        ),
        RegistryError::NoSuchWorkspace => kind(
            StatusCode::NOT_FOUND,
            "no_such_workspace",
            "No such workspace",
            "`twinshare workspace list` shows those registered here",
        ),
        RegistryError::Damaged { .. } => kind(
            StatusCode::INTERNAL_SERVER_ERROR,
            "registry_unusable",
            "Registry cannot be used",
            "move the file away and restart the node; then register and share the workspaces again",
        ),
        RegistryError::Newer { .. } => kind(
            StatusCode::INTERNAL_SERVER_ERROR,
            "registry_unusable",
            "Registry cannot be used",
            "install the version of twinshare that was used here last, or a newer one",
        ),
        RegistryError::Crowded => busy_node(),
        RegistryError::Failed(_) | RegistryError::Closed => internal(),
    }
}

/// Carries the error to `request`, which knows the request's id, writes the document and logs.
impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut response = self.status().into_response();
        response.extensions_mut().insert(std::sync::Arc::new(self));
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(refusal: Refusal, status: u16, code: &str) {
        let call = || CallError::Refused(refusal.clone());
        // However the peer was asked.
        for error in [
            ApiError::Call { peer: "anna".to_owned(), error: call() },
            ApiError::Replica(ReplicaError::Call(call())),
        ] {
            assert_eq!((error.status().as_u16(), error.code()), (status, code), "{error}");
        }
    }

    #[test]
    fn a_peers_no_says_who_has_to_react() {
        check(Refusal::NotGranted, 403, "peer_refused");
        check(Refusal::NoSuchWorkspace, 403, "peer_refused");
        check(Refusal::NotNear, 403, "peer_refused");
        check(Refusal::SnapshotGone, 410, "snapshot_gone");
        check(Refusal::TooBusy, 503, "peer_busy");
        check(Refusal::Internal("disk".into()), 502, "peer_failed");
        check(Refusal::BadRequest, 502, "peer_protocol");
    }
}
