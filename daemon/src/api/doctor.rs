//! `/doctor`: what keeps the node from working well.

use axum::Json;
use axum::extract::State;

use super::routes::Shared;
use super::wire::{Check, List};

/// Looks at the node's surroundings. Each finding says what to do about it.
#[utoipa::path(get, path = "/doctor", tag = "node", responses(
    (status = 200, description = "Every check, good or bad", body = List<Check>),
))]
pub(super) async fn examine(State(node): State<Shared>) -> Json<List<Check>> {
    Json(node.examine().await.into())
}
