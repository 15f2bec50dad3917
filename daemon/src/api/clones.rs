//! `/clones`: forks of peers' workspaces in directories of their own.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;

use super::error::ApiError;
use super::extract::{Body, Path};
use super::replicas::{Asked, Begun, begin, detach, find};
use super::request::RequestId;
use super::routes::Shared;
use super::wire::{CloneRequest, List, Operation, Problem, Replica, ReplicaKind};

/// The clones here, oldest first.
#[utoipa::path(get, path = "/clones", tag = "clones", responses(
    (status = 200, description = "All of them", body = List<Replica>),
))]
pub(super) async fn list(State(node): State<Shared>) -> Json<List<Replica>> {
    Json(node.replicas().list(ReplicaKind::Clone).await.into())
}

/// Begins to clone a peer's workspace; the operation's result is the clone.
#[utoipa::path(post, path = "/clones", tag = "clones", request_body = CloneRequest,
    responses(
        (status = 202, description = "Begun; `location` leads to the operation", body = Operation),
        (status = 403, description = "`peer_refused`",
            body = Problem, content_type = "application/problem+json"),
        (status = 404, description = "`no_such_peer`, `no_such_remote_workspace`",
            body = Problem, content_type = "application/problem+json"),
        (status = 409, description = "`ambiguous_name`, with `candidates`",
            body = Problem, content_type = "application/problem+json"),
        (status = 422, description = "`invalid_name`, `invalid_when_gone`, `relative_path`",
            body = Problem, content_type = "application/problem+json"),
        (status = 502, description = "`peer_unreachable`, `other_peer`, `peer_protocol`, `peer_failed`",
            body = Problem, content_type = "application/problem+json"),
        (status = 503, description = "`too_many_operations`, `peer_busy`",
            body = Problem, content_type = "application/problem+json"),
    ),
)]
pub(super) async fn create(
    State(node): State<Shared>,
    id: RequestId,
    Body(asked): Body<CloneRequest>,
) -> Result<Begun, ApiError> {
    let CloneRequest { workspace, directory, when_gone } = asked;
    begin(&node, id, Asked { kind: ReplicaKind::Clone, workspace, directory, when_gone }).await
}

/// One clone.
#[utoipa::path(get, path = "/clones/{id}", tag = "clones",
    params(("id" = String, Path, description = "The clone")),
    responses(
        (status = 200, description = "As it is now", body = Replica),
        (status = 404, description = "`no_such_replica`",
            body = Problem, content_type = "application/problem+json"),
    ),
)]
pub(super) async fn show(
    State(node): State<Shared>,
    Path(id): Path<String>,
) -> Result<Json<Replica>, ApiError> {
    find(&node, ReplicaKind::Clone, id).await.map(Json)
}

/// Unmounts a clone, plainly, and forgets it. What an unfinished clone has fetched goes with it.
#[utoipa::path(delete, path = "/clones/{id}", tag = "clones",
    params(("id" = String, Path, description = "The clone")),
    responses(
        (status = 204, description = "Unmounted and forgotten"),
        (status = 404, description = "`no_such_replica`",
            body = Problem, content_type = "application/problem+json"),
        (status = 409, description = "`busy`, with `users`",
            body = Problem, content_type = "application/problem+json"),
    ),
)]
pub(super) async fn remove(
    State(node): State<Shared>,
    Path(id): Path<String>,
) -> Result<StatusCode, ApiError> {
    detach(&node, ReplicaKind::Clone, id).await
}
