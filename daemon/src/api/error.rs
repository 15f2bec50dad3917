//! Every way in which a request can fail, as the handlers see it.
//!
//! Each variant is one problem code: a variant exists only where whoever asked acts differently. What a variant
//! becomes on the wire is decided in [`problem`](super::problem) alone.

use std::error::Error;

use axum::extract::rejection::{JsonRejection, PathRejection, QueryRejection};
use axum::http::{Method, StatusCode};

use super::replica_control::ReplicaError;
use super::wire::ReplicaKind;
use crate::operation::TableFull;

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
        let mut text = self.to_string();
        let mut cause = self.source();
        while let Some(next) = cause {
            text.push_str(": ");
            text.push_str(&next.to_string());
            cause = next.source();
        }
        text
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
