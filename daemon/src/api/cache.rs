//! `/cache` and `/pins`: what of mounts is on the disk, and what stays there.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use serde::Deserialize;
use utoipa::IntoParams;

use super::error::ApiError;
use super::extract::{Body, Query};
use super::may_end::problems;
use super::replicas::absolute;
use super::routes::Shared;
use super::wire::{Cache, List, Pin, PinRequest, PruneRequest, Pruned};

/// Which pin.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct Asked {
    /// The absolute path that is pinned.
    path: String,
}

problems! {
    /// Of a request that pins a path.
    NotPinned {
        404: "`not_in_workspace`, `no_such_file`",
        409: "`not_a_mount`, `not_served`, `no_room`",
        422: "`relative_path`",
    }

    /// Of a request that removes a pin.
    NotUnpinned {
        404: "`not_in_workspace`, `no_such_pin`",
        409: "`not_a_mount`, `not_served`",
        422: "`relative_path`",
    }
}

/// What the content of mounts takes on the disk, and what it may take.
#[utoipa::path(get, path = "/cache", tag = "cache", responses(
    (status = 200, description = "As it is now", body = Cache),
))]
pub(super) async fn status(State(node): State<Shared>) -> Result<Json<Cache>, ApiError> {
    node.cache().await.map(Json)
}

/// Evicts content of mounts that is neither open nor pinned, and removes what mounts left that are gone.
#[utoipa::path(post, path = "/cache/prune", tag = "cache", request_body = PruneRequest, responses(
    (status = 200, description = "Evicted", body = Pruned),
))]
pub(super) async fn prune(
    State(node): State<Shared>,
    Body(asked): Body<PruneRequest>,
) -> Result<Json<Pruned>, ApiError> {
    node.prune_cache(asked.unused_s.unwrap_or(0)).await.map(Json)
}

/// What is pinned, by path.
#[utoipa::path(get, path = "/pins", tag = "cache", responses(
    (status = 200, description = "All of it", body = List<Pin>),
))]
pub(super) async fn pins(State(node): State<Shared>) -> Result<Json<List<Pin>>, ApiError> {
    node.pins().await.map(|pins| Json(pins.into()))
}

/// Pins a file or directory of a mount: all of it is fetched in the background, and not evicted. Pinned once more, it
/// stays so.
#[utoipa::path(post, path = "/pins", tag = "cache", request_body = PinRequest,
    responses(
        (status = 200, description = "Pinned; what of it is here now", body = Pin),
        NotPinned,
    ),
)]
pub(super) async fn pin(
    State(node): State<Shared>,
    Body(asked): Body<PinRequest>,
) -> Result<Json<Pin>, ApiError> {
    node.pin(&absolute(asked.path)?).await.map(Json)
}

/// Removes a pin. What it kept stays until it is evicted.
#[utoipa::path(delete, path = "/pins", tag = "cache", params(Asked),
    responses(
        (status = 204, description = "Not pinned any more"),
        NotUnpinned,
    ),
)]
pub(super) async fn unpin(
    State(node): State<Shared>,
    Query(asked): Query<Asked>,
) -> Result<StatusCode, ApiError> {
    node.unpin(&absolute(asked.path)?).await.map(|()| StatusCode::NO_CONTENT)
}
