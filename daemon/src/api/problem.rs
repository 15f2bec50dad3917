//! The one place where an error becomes a problem document: status, code, title and hint of each.
//!
//! A status is chosen by who has to react: 400 to 499 whoever asked (409 when the state of things is in the way),
//! 502 and 504 somebody else's machine, 503 nobody but time, 500 whoever wrote the node.

use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};

use super::error::ApiError;
use super::replica_control::ReplicaError;
use super::wire::{Problem, ReplicaKind};
use crate::node::AddressError;

mod peer;
mod workspace;

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
            Self::Address(AddressError::Form(_) | AddressError::Port { .. }) => kind(
                StatusCode::UNPROCESSABLE_ENTITY,
                "invalid_address",
                "Invalid address",
                "as `anna.local`, `anna.local:37778`, `192.0.2.7` or `[2001:db8::7]:37778`",
            ),
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
            Self::NobodyAnswered { .. } => peer::peer_unreachable(),
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
            Self::NotAdmitted(_) => peer::peer_refused(),
            Self::Call { error, .. } => peer::call_kind(error),
            Self::Registry(error) => workspace::registry_kind(error),
            Self::Create(error) => workspace::create_kind(error),
            Self::IsClone { .. } => kind(
                StatusCode::CONFLICT,
                "is_clone",
                "Directory is a clone",
                "it can be used as it is, also with `twinshare run DIR`; to make a workspace of your own of it all the \
                 same, forget the clone first: `twinshare workspace rm DIR` leaves the files",
            ),
            Self::Workspace(error) => workspace::workspace_kind(error),
            Self::Share(error) => workspace::share_kind(error),
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
            Self::NoSuchFile(_) => kind(
                StatusCode::NOT_FOUND,
                "no_such_file",
                "No such file",
                "check the spelling; names are compared exactly",
            ),
            Self::NotAMount { .. } => kind(
                StatusCode::CONFLICT,
                "not_a_mount",
                "Not in a mount",
                "only what lies in a read-only mount is pinned: `twinshare workspace list` shows which there are",
            ),
            Self::NoSuchPin(_) => kind(
                StatusCode::NOT_FOUND,
                "no_such_pin",
                "Not pinned",
                "`twinshare pin` without a path lists what is",
            ),
            Self::NotServed { kind: replica, .. } => kind(
                StatusCode::CONFLICT,
                "not_served",
                "Not mounted now",
                match replica {
                    ReplicaKind::View => "`twinshare mount` with the same name mounts it again",
                    ReplicaKind::Clone => {
                        "`twinshare workspace wait` waits for a plain one; any other, `twinshare workspace clone` with the same name and directory mounts again, and what it has stays"
                    }
                },
            ),
            Self::NotRead { .. } => kind(
                StatusCode::CONFLICT,
                "not_read",
                "Not readable now",
                "its peer may be away: `twinshare workspace show` says whether it answers; try again when it does",
            ),
            Self::NotUtf8(_) => kind(
                StatusCode::CONFLICT,
                "not_utf8",
                "Path is not text",
                "give the directory a name in UTF-8",
            ),
            Self::Plan(error) => workspace::plan_kind(error),
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
            Self::NoSuchReplica { .. } => peer::no_such_replica(),
            Self::Replica(error) => peer::replica_kind(error),
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

fn internal() -> Kind {
    kind(
        StatusCode::INTERNAL_SERVER_ERROR,
        "internal",
        "Internal error",
        "the node's log says more; look there for the request's id",
    )
}

/// Carries the error to `request`, which knows the request's id, writes the document and logs.
impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut response = self.status().into_response();
        response.extensions_mut().insert(std::sync::Arc::new(self));
        response
    }
}
