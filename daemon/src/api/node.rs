//! `/health`, `/version`, `/node`: the node itself.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;

use super::error::ApiError;
use super::routes::Shared;
use super::wire::{Health, NodeStatus, Version};

/// Whether the node is there and ready. It can be used before it is ready: mounts from before are still coming up then.
#[utoipa::path(get, path = "/health", tag = "node", responses(
    (status = 200, description = "It is", body = Health),
))]
pub(super) async fn health(State(node): State<Shared>) -> Json<Health> {
    let status = match (node.stopping().is_cancelled(), node.is_ready()) {
        (true, _) => "stopping",
        (false, true) => "ready",
        (false, false) => "starting",
    };
    Json(Health { status: status.to_owned() })
}

/// The versions the node speaks.
#[utoipa::path(get, path = "/version", tag = "node", responses(
    (status = 200, description = "Of program, interface and protocol", body = Version),
))]
pub(super) async fn version() -> Json<Version> {
    let protocol = String::from_utf8_lossy(twinshare_transport::protocol::ALPN).into_owned();
    Json(Version { version: env!("CARGO_PKG_VERSION").to_owned(), api: "v1".to_owned(), protocol })
}

/// Who the node is and what it holds.
#[utoipa::path(get, path = "/node", tag = "node", responses(
    (status = 200, description = "The node", body = NodeStatus),
))]
pub(super) async fn status(State(node): State<Shared>) -> Result<Json<NodeStatus>, ApiError> {
    Ok(Json(node.status().await?))
}

/// Stops the node. Mounts and running programs stay; the socket is gone when it has stopped.
#[utoipa::path(post, path = "/node/stop", tag = "node", responses(
    (status = 202, description = "It will stop within ten seconds"),
))]
pub(super) async fn stop(State(node): State<Shared>) -> StatusCode {
    tracing::info!("a stop was asked for");
    node.stopping().cancel();
    StatusCode::ACCEPTED
}
