//! `/resolve`: which version of a file is kept that changed both here and at the peer.

use axum::Json;
use axum::extract::State;

use super::error::ApiError;
use super::extract::Body;
use super::may_end::problems;
use super::replicas::absolute;
use super::routes::Shared;
use super::wire::{ResolveRequest, Resolved};

problems! {
    /// Of a decision about a file.
    NotDecided {
        404: "`not_in_workspace`, `no_such_file`",
        409: "`not_served`, `nothing_to_decide`",
        422: "`relative_path`",
    }
}

/// Decides what becomes of a file of a clone that changed at the peer before all of it was here, and changed here too or
/// cannot be had in one version. `theirs` is fetched in the background.
#[utoipa::path(post, path = "/resolve", tag = "clones", request_body = ResolveRequest,
    responses(
        (status = 200, description = "Decided, or what would be decided about", body = Resolved),
        NotDecided,
    ),
)]
pub(super) async fn decide(
    State(node): State<Shared>,
    Body(asked): Body<ResolveRequest>,
) -> Result<Json<Resolved>, ApiError> {
    node.resolve_changed(&absolute(asked.path)?, asked.keep).await.map(Json)
}
