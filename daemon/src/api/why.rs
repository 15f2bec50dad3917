//! `/why`: what is known of one path.

use axum::Json;
use axum::extract::State;
use serde::Deserialize;
use utoipa::IntoParams;

use super::error::ApiError;
use super::extract::Query;
use super::may_end::problems;
use super::replicas::absolute;
use super::routes::Shared;
use super::wire::Why;

/// What is asked about.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct Asked {
    /// An absolute path in a workspace, mount or clone.
    path: String,
}

problems! {
    /// Of a request for what is known of a path.
    NotTold {
        404: "`not_in_workspace`, `no_such_file`",
        409: "`not_served`",
        422: "`relative_path`",
    }
}

/// What of a file or directory is here, how it came and who waits for it. Links in the path are not followed.
#[utoipa::path(get, path = "/why", tag = "why", params(Asked),
    responses(
        (status = 200, description = "What is known now", body = Why),
        NotTold,
    ),
)]
pub(super) async fn tell(
    State(node): State<Shared>,
    Query(asked): Query<Asked>,
) -> Result<Json<Why>, ApiError> {
    node.why(&absolute(asked.path)?).await.map(Json)
}
