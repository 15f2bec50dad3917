//! The one place where an error becomes a problem document: status, code, title and hint of each.
//!
//! A status is chosen by who has to react: 400 to 499 whoever asked (409 when the state of things is in the way),
//! 502 and 504 somebody else's machine, 503 nobody but time, 500 whoever wrote the node.

use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};

use super::error::ApiError;
use super::replica_control::ReplicaError;
use super::wire::Problem;

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
            Self::Internal(_) => kind(
                StatusCode::INTERNAL_SERVER_ERROR,
                "internal",
                "Internal error",
                "the node's log says more; look there for the request's id",
            ),
        }
    }

    fn candidates(&self) -> &[String] {
        &[]
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
        ReplicaError::Unreachable(_) => kind(
            StatusCode::BAD_GATEWAY,
            "peer_unreachable",
            "Peer cannot be reached",
            "is its node running? `twinshare p2p discover` shows who is seen; `twinshare doctor` checks this side",
        ),
        ReplicaError::Refused(_) => kind(
            StatusCode::FORBIDDEN,
            "peer_refused",
            "Peer refused",
            "ask its owner to share the workspace: `twinshare workspace share NAME --open`",
        ),
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

/// Carries the error to [`request`](super::request), which knows the request's id, writes the document and logs.
impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut response = self.status().into_response();
        response.extensions_mut().insert(std::sync::Arc::new(self));
        response
    }
}
