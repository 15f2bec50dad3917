//! `/clones`: forks of peers' workspaces in directories of their own.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;

use super::error::ApiError;
use super::extract::Path;
use super::mounts::{detach, find};
use super::routes::Shared;
use super::wire::{List, Problem, Replica, ReplicaKind};

/// The clones here, oldest first.
#[utoipa::path(get, path = "/clones", tag = "clones", responses(
    (status = 200, description = "All of them", body = List<Replica>),
))]
pub(super) async fn list(State(node): State<Shared>) -> Json<List<Replica>> {
    Json(node.replicas().list(ReplicaKind::Clone).await.into())
}

/// One clone.
#[utoipa::path(get, path = "/clones/{id}", tag = "clones",
    params(("id" = String, Path, description = "The clone")),
    responses(
        (status = 200, description = "As it is now", body = Replica),
        (status = 404, description = "`no_such_replica`", body = Problem, content_type = "application/problem+json"),
    ),
)]
pub(super) async fn show(
    State(node): State<Shared>,
    Path(id): Path<String>,
) -> Result<Json<Replica>, ApiError> {
    find(&node, ReplicaKind::Clone, id).await.map(Json)
}

/// Unmounts a clone, plainly, and forgets it. Its directory stays.
#[utoipa::path(delete, path = "/clones/{id}", tag = "clones",
    params(("id" = String, Path, description = "The clone")),
    responses(
        (status = 204, description = "Unmounted and forgotten"),
        (status = 404, description = "`no_such_replica`", body = Problem, content_type = "application/problem+json"),
        (status = 409, description = "`busy`, with `users`", body = Problem, content_type = "application/problem+json"),
    ),
)]
pub(super) async fn remove(
    State(node): State<Shared>,
    Path(id): Path<String>,
) -> Result<StatusCode, ApiError> {
    detach(&node, ReplicaKind::Clone, id).await
}
