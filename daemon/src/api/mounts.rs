//! `/mounts`: read-only views of peers' workspaces.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;

use super::error::ApiError;
use super::extract::{Body, Path};
use super::may_end::{NoSuchReplica, ReplicaNotBegun, ReplicaNotEnded};
use super::replicas::{Asked, Begun, begin, detach, find};
use super::request::RequestId;
use super::routes::Shared;
use super::wire::{List, MountRequest, Operation, Replica, ReplicaKind};

/// The views mounted here, oldest first.
#[utoipa::path(get, path = "/mounts", tag = "mounts", responses(
    (status = 200, description = "All of them", body = List<Replica>),
))]
pub(super) async fn list(State(node): State<Shared>) -> Json<List<Replica>> {
    Json(node.replicas().list(ReplicaKind::View).await.into())
}

/// Begins to mount a peer's workspace as a read-only view; the operation's result is the mount.
#[utoipa::path(post, path = "/mounts", tag = "mounts", request_body = MountRequest,
    responses(
        (status = 202, description = "Begun; `location` leads to the operation", body = Operation),
        ReplicaNotBegun,
    ),
)]
pub(super) async fn create(
    State(node): State<Shared>,
    id: RequestId,
    Body(asked): Body<MountRequest>,
) -> Result<Begun, ApiError> {
    let MountRequest { workspace, directory, when_gone } = asked;
    let (kind, keep_mounted, keep_paths, plain) = (ReplicaKind::View, true, true, false);
    begin(&node, id, Asked { kind, workspace, directory, when_gone, keep_mounted, keep_paths, plain }).await
}

/// One mounted view.
#[utoipa::path(get, path = "/mounts/{id}", tag = "mounts",
    params(("id" = String, Path, description = "The mount")),
    responses(
        (status = 200, description = "As it is now", body = Replica),
        NoSuchReplica,
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
        ReplicaNotEnded,
    ),
)]
pub(super) async fn remove(
    State(node): State<Shared>,
    Path(id): Path<String>,
) -> Result<StatusCode, ApiError> {
    detach(&node, ReplicaKind::View, id).await
}
