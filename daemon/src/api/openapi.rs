//! The OpenAPI document, made from the handlers' own annotations and types.

use axum::Json;
use utoipa::OpenApi;

use super::wire;
use super::{cache, clones, doctor, mounts, node, operations, peers, resolve, runs, shares, why, workspaces};

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
        clones::list, clones::create, clones::show, clones::remove, clones::settle,
        cache::status, cache::prune, cache::pins, cache::pin, cache::unpin,
        why::tell, resolve::decide,
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

#[cfg(test)]
mod tests {
    use super::*;

    /// The words in backticks.
    fn codes(description: &str) -> impl Iterator<Item = &str> {
        let words = description.split('`').skip(1).step_by(2);
        words.filter(|word| !["candidates", "users"].contains(word))
    }

    #[test]
    fn every_code_of_a_problem_is_one_there_is() {
        let there_are = [
            include_str!("problem.rs"),
            include_str!("problem/peer.rs"),
            include_str!("problem/workspace.rs"),
        ]
        .concat();
        let document = serde_json::to_value(Document::openapi()).unwrap();
        let mut seen = 0;
        for (path, methods) in document["paths"].as_object().unwrap() {
            for (method, operation) in methods.as_object().unwrap() {
                let responses = operation["responses"].as_object().into_iter().flatten();
                for (status, response) in responses.filter(|(status, _)| status.as_str() >= "400") {
                    for code in codes(response["description"].as_str().unwrap()) {
                        let quoted = format!("\"{code}\"");
                        assert!(there_are.contains(&quoted), "{method} {path} {status}: {code}");
                        seen += 1;
                    }
                }
            }
        }
        assert!(seen > 20, "{seen}");
    }
}
