//! `/clones`: forks of peers' workspaces in directories of their own.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;

use super::error::ApiError;
use super::extract::{Body, Path};
use super::may_end::{NoSuchReplica, ReplicaNotBegun, ReplicaNotEnded, problems};
use super::replicas::{Asked, Begun, begin, detach, find};
use super::request::RequestId;
use super::routes::Shared;
use super::wire::{CloneRequest, List, Operation, Replica, ReplicaKind};

problems! {
    /// Of a request that settles a clone.
    ReplicaNotSettled {
        404: "`no_such_replica`",
        409: "`busy`, with `users`; `not_complete`",
    }
}

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
        ReplicaNotBegun,
    ),
)]
pub(super) async fn create(
    State(node): State<Shared>,
    id: RequestId,
    Body(asked): Body<CloneRequest>,
) -> Result<Begun, ApiError> {
    let CloneRequest { workspace, directory, when_gone, settle, relocate, plain } = asked;
    let (keep_mounted, keep_paths) = (settle == Some(false), relocate == Some(false));
    let plain = plain == Some(true);
    if plain && keep_mounted {
        let why = "`plain` and `settle: false` exclude each other: what is not mounted cannot stay so";
        return Err(ApiError::InvalidBody(why.to_owned()));
    }
    let kind = ReplicaKind::Clone;
    begin(&node, id, Asked { kind, workspace, directory, when_gone, keep_mounted, keep_paths, plain }).await
}

/// One clone.
#[utoipa::path(get, path = "/clones/{id}", tag = "clones",
    params(("id" = String, Path, description = "The clone")),
    responses(
        (status = 200, description = "As it is now", body = Replica),
        NoSuchReplica,
    ),
)]
pub(super) async fn show(
    State(node): State<Shared>,
    Path(id): Path<String>,
) -> Result<Json<Replica>, ApiError> {
    find(&node, ReplicaKind::Clone, id).await.map(Json)
}

/// Has a complete clone become an ordinary directory now; the answer is the clone as it is then. One that has settled
/// stays so.
#[utoipa::path(post, path = "/clones/{id}/settle", tag = "clones",
    params(("id" = String, Path, description = "The clone")),
    responses(
        (status = 200, description = "Settled, or about to be: its `state` says", body = Replica),
        ReplicaNotSettled,
    ),
)]
pub(super) async fn settle(
    State(node): State<Shared>,
    Path(id): Path<String>,
) -> Result<Json<Replica>, ApiError> {
    let clone = find(&node, ReplicaKind::Clone, id).await?;
    Ok(Json(node.replicas().settle(&clone.id).await?))
}

/// Unmounts a clone, plainly, and forgets it. What an unfinished clone has fetched goes with it; the directory of a
/// settled one stays, and what the node keeps of it goes.
#[utoipa::path(delete, path = "/clones/{id}", tag = "clones",
    params(("id" = String, Path, description = "The clone")),
    responses(
        (status = 204, description = "Unmounted and forgotten"),
        ReplicaNotEnded,
    ),
)]
pub(super) async fn remove(
    State(node): State<Shared>,
    Path(id): Path<String>,
) -> Result<StatusCode, ApiError> {
    detach(&node, ReplicaKind::Clone, id).await
}
