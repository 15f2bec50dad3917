//! `/mounts`: read-only views of peers' workspaces.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;

use super::error::ApiError;
use super::extract::Path;
use super::replica_control::ReplicaError;
use super::routes::Shared;
use super::wire::{List, Problem, Replica, ReplicaKind};

/// The views mounted here, oldest first.
#[utoipa::path(get, path = "/mounts", tag = "mounts", responses(
    (status = 200, description = "All of them", body = List<Replica>),
))]
pub(super) async fn list(State(node): State<Shared>) -> Json<List<Replica>> {
    Json(node.replicas().list(ReplicaKind::View).await.into())
}

/// One mounted view.
#[utoipa::path(get, path = "/mounts/{id}", tag = "mounts",
    params(("id" = String, Path, description = "The mount")),
    responses(
        (status = 200, description = "As it is now", body = Replica),
        (status = 404, description = "`no_such_replica`", body = Problem, content_type = "application/problem+json"),
    ),
)]
pub(super) async fn show(
    State(node): State<Shared>,
    Path(id): Path<String>,
) -> Result<Json<Replica>, ApiError> {
    find(&node, ReplicaKind::View, id).await.map(Json)
}

/// Unmounts a view, plainly: while somebody uses it, it stays.
#[utoipa::path(delete, path = "/mounts/{id}", tag = "mounts",
    params(("id" = String, Path, description = "The mount")),
    responses(
        (status = 204, description = "Unmounted"),
        (status = 404, description = "`no_such_replica`", body = Problem, content_type = "application/problem+json"),
        (status = 409, description = "`busy`, with `users`", body = Problem, content_type = "application/problem+json"),
    ),
)]
pub(super) async fn remove(
    State(node): State<Shared>,
    Path(id): Path<String>,
) -> Result<StatusCode, ApiError> {
    detach(&node, ReplicaKind::View, id).await
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
