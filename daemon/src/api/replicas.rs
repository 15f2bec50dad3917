//! What mounts and clones have in common: how one begins, is found and ends.

use std::path::PathBuf;

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};

use super::error::ApiError;
use super::replica_control::{ReplicaError, ReplicaSpec};
use super::request::{self, RequestId};
use super::routes::Shared;
use super::wire::{BASE_PATH, Operation, OperationKind, OperationResult, Replica, ReplicaKind};
use crate::operation::Task;

/// A request for a mount or a clone.
pub(super) struct Asked {
    pub(super) kind: ReplicaKind,
    pub(super) workspace: String,
    pub(super) directory: Option<String>,
    pub(super) when_gone: Option<String>,
    pub(super) keep_mounted: bool,
    pub(super) keep_paths: bool,
    pub(super) plain: bool,
}

/// An operation that was just started: 202, with the place to watch it.
#[derive(Debug)]
pub(super) struct Begun(Operation);

impl IntoResponse for Begun {
    fn into_response(self) -> Response {
        let place = format!("{BASE_PATH}/operations/{}", self.0.id);
        let mut response = (StatusCode::ACCEPTED, Json(self.0)).into_response();
        if let Ok(place) = HeaderValue::from_str(&place) {
            response.headers_mut().insert(header::LOCATION, place);
        }
        response
    }
}

/// Finds the workspace that is meant, and starts to make a replica of it in the background.
pub(super) async fn begin(node: &Shared, id: RequestId, asked: Asked) -> Result<Begun, ApiError> {
    let directory = asked.directory.map(absolute).transpose()?;
    let when_gone =
        asked.when_gone.map(|text| text.parse().map_err(ApiError::InvalidWhenGone)).transpose()?;
    let found = node.peers().resolve(&asked.workspace).await?;
    let target = format!("{}/{}", found.peer.name, found.workspace);
    let spec = ReplicaSpec {
        kind: asked.kind,
        peer: found.peer.id,
        peer_name: Some(found.peer.name.to_string()),
        addresses: found.peer.addresses,
        workspace: found.workspace.to_string(),
        directory,
        keep_mounted: asked.keep_mounted,
        keep_paths: asked.keep_paths,
        plain: asked.plain,
        when_gone: when_gone.unwrap_or(node.config().when_gone),
    };
    let (kind, line) = match asked.kind {
        ReplicaKind::View => (OperationKind::Mount, format!("mount {target}")),
        ReplicaKind::Clone => (OperationKind::Clone, format!("clone {target}")),
    };
    let attaching = node.clone();
    let work = |task: Task| async move {
        attaching.replicas().attach(spec, task).await.map(OperationResult::Replica).map_err(|error| {
            let error = ApiError::from(error);
            request::log(&error, &id.0, &line);
            Box::new(error.problem(Some(&id.0)))
        })
    };
    Ok(Begun(node.operations().start(kind, target, work)?))
}

/// A path that means the same to the node as to whoever sent it.
pub(super) fn absolute(path: String) -> Result<PathBuf, ApiError> {
    match path.starts_with('/') {
        true => Ok(path.into()),
        false => Err(ApiError::RelativePath(path)),
    }
}

/// The replica with this id, if it is of the kind asked for.
pub(super) async fn find(node: &Shared, kind: ReplicaKind, id: String) -> Result<Replica, ApiError> {
    match node.replicas().status(&id).await {
        Ok(replica) if replica.kind == kind => Ok(replica),
        Ok(_) | Err(ReplicaError::NoSuchReplica(_)) => Err(ApiError::NoSuchReplica { kind, id }),
        Err(error) => Err(error.into()),
    }
}

/// Ends the replica with this id, if it is of the kind asked for.
pub(super) async fn detach(node: &Shared, kind: ReplicaKind, id: String) -> Result<StatusCode, ApiError> {
    let replica = find(node, kind, id).await?;
    node.replicas().detach(&replica.id).await?;
    Ok(StatusCode::NO_CONTENT)
}

#[cfg(test)]
mod tests;
