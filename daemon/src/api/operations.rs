//! `/operations`: work under way, and what became of it.

use std::time::Duration;

use axum::Json;
use axum::extract::State;
use serde::Deserialize;
use utoipa::IntoParams;

use super::error::ApiError;
use super::extract::{Path, Query};
use super::may_end::NoSuchOperation;
use super::routes::Shared;
use super::wire::{List, Operation};
use crate::client::LONG_POLL_MAX;

/// How long to wait, and for what.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct Wait {
    /// Seconds to wait for news at most; no more than 60 are granted.
    wait: Option<u64>,
    /// The revision already known: any later one is news. Without it, only the end is.
    since: Option<u64>,
}

/// Operations running and lately finished, oldest first.
#[utoipa::path(get, path = "/operations", tag = "operations", responses(
    (status = 200, description = "All of them", body = List<Operation>),
))]
pub(super) async fn list(State(node): State<Shared>) -> Json<List<Operation>> {
    Json(node.operations().list().into())
}

/// One operation, at once or when there is news of it.
#[utoipa::path(get, path = "/operations/{id}", tag = "operations",
    params(("id" = String, Path, description = "The operation"), Wait),
    responses(
        (status = 200, description = "As it is now", body = Operation),
        NoSuchOperation,
    ),
)]
pub(super) async fn show(
    State(node): State<Shared>,
    Path(id): Path<String>,
    Query(asked): Query<Wait>,
) -> Result<Json<Operation>, ApiError> {
    let wait = Duration::from_secs(asked.wait.unwrap_or(0)).min(LONG_POLL_MAX);
    let shown = tokio::select! {
        shown = node.operations().wait(&id, asked.since, wait) => shown,
        // A node that stops keeps nobody waiting.
        () = node.stopping().cancelled() => node.operations().find(&id),
    };
    shown.map(Json).ok_or(ApiError::NoSuchOperation(id))
}

/// Asks an operation to end early and undo what it began.
#[utoipa::path(delete, path = "/operations/{id}", tag = "operations",
    params(("id" = String, Path, description = "The operation")),
    responses(
        (status = 202, description = "Asked to end; as it is now", body = Operation),
        NoSuchOperation,
    ),
)]
pub(super) async fn cancel(
    State(node): State<Shared>,
    Path(id): Path<String>,
) -> Result<(axum::http::StatusCode, Json<Operation>), ApiError> {
    let now = node.operations().cancel(&id).ok_or(ApiError::NoSuchOperation(id))?;
    Ok((axum::http::StatusCode::ACCEPTED, Json(now)))
}
