//! The OpenAPI document, made from the handlers' own annotations and types.

use axum::Json;
use utoipa::OpenApi;

use super::wire;
use super::{clones, mounts, node, operations};

/// The document. Every handler is named here; a test compares it with the routes' table.
#[derive(OpenApi)]
#[openapi(
    info(title = "twinshare node", version = "1", description = "What a node is asked on its own machine."),
    servers((url = "/api/v1", description = "On the Unix socket `run/api.sock` of the node's state directory")),
    paths(
        node::health, node::version, document, node::stop,
        mounts::list, mounts::show, mounts::remove,
        clones::list, clones::show, clones::remove,
        operations::list, operations::show, operations::cancel,
    ),
    components(schemas(wire::Problem)),
)]
pub(super) struct Document;

/// This document.
#[utoipa::path(get, path = "/openapi.json", tag = "node", responses(
    (status = 200, description = "OpenAPI 3.1", body = Object),
))]
pub(super) async fn document() -> Json<utoipa::openapi::OpenApi> {
    Json(Document::openapi())
}
