//! The OpenAPI document, made from the handlers' own annotations and types.

use axum::Json;
use utoipa::OpenApi;

use super::wire;
use super::{clones, doctor, mounts, node, operations, peers, runs, shares, workspaces};

/// The document. Every handler is named here; a test compares it with the routes' table.
#[derive(OpenApi)]
#[openapi(
    info(title = "twinshare node", version = "1", description = "What a node is asked on its own machine."),
    servers((url = "/api/v1", description = "On the Unix socket `run/api.sock` of the node's state directory")),
    paths(
        node::health, node::version, document, node::status, node::stop, doctor::examine,
        peers::list, peers::add, peers::workspaces,
        workspaces::list, workspaces::create, workspaces::show, shares::forget, shares::put, shares::delete,
        mounts::list, mounts::create, mounts::show, mounts::remove,
        clones::list, clones::create, clones::show, clones::remove,
        runs::plan,
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
