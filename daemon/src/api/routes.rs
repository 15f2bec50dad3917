//! The table of all routes, and the router made from it.

use std::sync::Arc;

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::handler::Handler;
use axum::http::{Method, Uri};
use axum::routing::{MethodFilter, MethodRouter, on};

use super::error::ApiError;
use super::request::{self, RequestIds};
use super::wire::BASE_PATH;
use super::{
    BODY_BYTES_MAX, cache, clones, doctor, mounts, node, openapi, operations, peers, resolve, runs, shares,
    why, workspaces,
};
use crate::node::Node;

/// What handlers run on.
pub(super) type Shared = Arc<Node>;

/// One route of the interface: its method, its path below [`BASE_PATH`], and who answers.
pub(super) type Route = (Method, &'static str, MethodRouter<Shared>);

/// Every route there is. The OpenAPI document is tested against it.
pub(super) fn table() -> Vec<Route> {
    vec![
        get("/health", node::health),
        get("/version", node::version),
        get("/openapi.json", openapi::document),
        get("/node", node::status),
        post("/node/stop", node::stop),
        get("/doctor", doctor::examine),
        get("/peers", peers::list),
        post("/peers", peers::add),
        get("/remote-workspaces", peers::workspaces),
        get("/workspaces", workspaces::list),
        post("/workspaces", workspaces::create),
        get("/workspaces/{name}", workspaces::show),
        delete("/workspaces/{name}", shares::forget),
        put("/workspaces/{name}/share", shares::put),
        delete("/workspaces/{name}/share", shares::delete),
        get("/mounts", mounts::list),
        post("/mounts", mounts::create),
        get("/mounts/{id}", mounts::show),
        delete("/mounts/{id}", mounts::remove),
        get("/clones", clones::list),
        post("/clones", clones::create),
        get("/clones/{id}", clones::show),
        delete("/clones/{id}", clones::remove),
        post("/clones/{id}/settle", clones::settle),
        post("/resolve", resolve::decide),
        get("/cache", cache::status),
        post("/cache/prune", cache::prune),
        get("/pins", cache::pins),
        post("/pins", cache::pin),
        delete("/pins", cache::unpin),
        get("/why", why::tell),
        post("/runs", runs::plan),
        get("/operations", operations::list),
        get("/operations/{id}", operations::show),
        delete("/operations/{id}", operations::cancel),
    ]
}

fn get<H: Handler<T, Shared>, T: 'static>(path: &'static str, handler: H) -> Route {
    (Method::GET, path, on(MethodFilter::GET, handler))
}

fn post<H: Handler<T, Shared>, T: 'static>(path: &'static str, handler: H) -> Route {
    (Method::POST, path, on(MethodFilter::POST, handler))
}

fn put<H: Handler<T, Shared>, T: 'static>(path: &'static str, handler: H) -> Route {
    (Method::PUT, path, on(MethodFilter::PUT, handler))
}

fn delete<H: Handler<T, Shared>, T: 'static>(path: &'static str, handler: H) -> Route {
    (Method::DELETE, path, on(MethodFilter::DELETE, handler))
}

/// The whole interface on `node`.
pub fn router(node: Arc<Node>) -> Router {
    let ids = RequestIds::new(node.life());
    let at = |path| format!("{BASE_PATH}{path}");
    table()
        .into_iter()
        .fold(Router::new(), |all, (_, path, handler)| all.route(&at(path), handler))
        .fallback(no_such_route)
        .method_not_allowed_fallback(method_not_allowed)
        .with_state(node)
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
        .layer(axum::middleware::from_fn_with_state(ids, request::wrap))
}

async fn no_such_route(uri: Uri) -> ApiError {
    ApiError::NoSuchRoute(uri.path().to_owned())
}

async fn method_not_allowed(method: Method, uri: Uri) -> ApiError {
    ApiError::MethodNotAllowed { method, path: uri.path().to_owned() }
}

#[cfg(test)]
mod tests;
