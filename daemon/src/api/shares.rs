//! `/workspaces/{name}/share`, and the end of a workspace: what changes what peers may see.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;

use super::error::ApiError;
use super::extract::{Body, Path};
use super::may_end::{NoSuchWorkspace, problems};
use super::routes::Shared;
use super::wire::{Share, ShareRequest};
use super::workspaces::{parse, share_document};
use crate::registry::{RegistryError, ShareMode};

problems! {
    /// Of a request to share a workspace.
    NotShared {
        404: "`no_such_workspace`",
        422: "`invalid_file`, `unusable_place`, `unusable_companion`",
    }
}

/// Offers a workspace with the companions its file names now, or changes how it is offered.
#[utoipa::path(put, path = "/workspaces/{name}/share", tag = "workspaces", request_body = ShareRequest,
    params(("name" = String, Path, description = "The workspace")),
    responses(
        (status = 200, description = "The share", body = Share),
        NotShared,
    ),
)]
pub(super) async fn put(
    State(node): State<Shared>,
    Path(name): Path<String>,
    Body(asked): Body<ShareRequest>,
) -> Result<Json<Share>, ApiError> {
    let mode = asked.open.map(|open| if open { ShareMode::Open } else { ShareMode::Closed });
    let record = node.shares().share(&parse(&name)?, mode).await?;
    // It was shared a moment ago; somebody else may have ended that already.
    let share = record.share.as_ref().map(share_document).map(Json);
    share.ok_or_else(|| RegistryError::NoSuchWorkspace(name).into())
}

/// Ends a share: peers that use it are refused from then on.
#[utoipa::path(delete, path = "/workspaces/{name}/share", tag = "workspaces",
    params(("name" = String, Path, description = "The workspace")),
    responses(
        (status = 204, description = "No longer offered"),
        NoSuchWorkspace,
    ),
)]
pub(super) async fn delete(
    State(node): State<Shared>,
    Path(name): Path<String>,
) -> Result<StatusCode, ApiError> {
    node.shares().unshare(&parse(&name)?).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Forgets a workspace with its share and snapshots. Its directory is left as it is.
#[utoipa::path(delete, path = "/workspaces/{name}", tag = "workspaces",
    params(("name" = String, Path, description = "The workspace")),
    responses(
        (status = 204, description = "Forgotten"),
        NoSuchWorkspace,
    ),
)]
pub(super) async fn forget(
    State(node): State<Shared>,
    Path(name): Path<String>,
) -> Result<StatusCode, ApiError> {
    node.shares().remove_workspace(&parse(&name)?).await?;
    Ok(StatusCode::NO_CONTENT)
}
