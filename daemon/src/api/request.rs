//! What happens to every request: it gets an id and a deadline, and its errors become problem documents.

use std::panic::AssertUnwindSafe;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use axum::Json;
use axum::extract::{FromRequestParts, Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderValue, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use super::error::ApiError;
use super::wire::PROBLEM_MEDIA_TYPE;
use crate::client::{ANSWER_WITHIN, LONG_POLL_MAX};

/// The header that carries a request's id back.
const REQUEST_ID: &str = "x-request-id";

/// No request lasts longer, whatever it waits for: one long poll and what any other request may take.
const REQUEST_MAX: Duration = LONG_POLL_MAX.saturating_add(ANSWER_WITHIN);

/// Hands out ids for requests: those of one life of a node share a prefix, so that its log is unambiguous.
#[derive(Clone, Debug)]
pub(super) struct RequestIds {
    prefix: Arc<str>,
    next: Arc<AtomicU64>,
}

/// The id of the request being handled, for handlers whose work outlasts it.
#[derive(Clone, Debug)]
pub(super) struct RequestId(pub(super) String);

/// Every request has one: [`wrap`] puts it there.
impl<S: Sync> FromRequestParts<S> for RequestId {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        parts.extensions.get().cloned().ok_or_else(|| ApiError::internal("a request without an id"))
    }
}

impl RequestIds {
    pub(super) fn new(prefix: &str) -> Self {
        Self { prefix: prefix.into(), next: Arc::new(AtomicU64::new(1)) }
    }

    fn next(&self) -> RequestId {
        RequestId(format!("{}-r{}", self.prefix, self.next.fetch_add(1, Ordering::Relaxed)))
    }
}

/// Wraps every request, including those that lead nowhere.
pub(super) async fn wrap(State(ids): State<RequestIds>, mut request: Request, next: Next) -> Response {
    let id = ids.next();
    let line = format!("{} {}", request.method(), request.uri().path());
    request.extensions_mut().insert(id.clone());
    let begun = Instant::now();
    let handled = tokio::time::timeout(REQUEST_MAX, catch(next.run(request))).await;
    let response = match handled {
        Ok(Ok(response)) => response,
        Ok(Err(panicked)) => panicked.into_response(),
        Err(_elapsed) => ApiError::TimedOut(REQUEST_MAX.as_secs()).into_response(),
    };
    let mut response = explain(response, &id, &line);
    tracing::debug!(request = id.0, line, status = response.status().as_u16(), took = ?begun.elapsed(), "answered");
    if let Ok(value) = HeaderValue::from_str(&id.0) {
        response.headers_mut().insert(REQUEST_ID, value);
    }
    response
}

/// Gives a response that carries an error its document, and logs it. Other headers (`allow`) stay.
fn explain(response: Response, id: &RequestId, line: &str) -> Response {
    let Some(error) = response.extensions().get::<Arc<ApiError>>().cloned() else { return response };
    log(&error, &id.0, line);
    let (mut parts, _) = response.into_parts();
    let body = Json(error.problem(Some(&id.0))).into_response().into_body();
    parts.headers.remove(header::CONTENT_LENGTH);
    parts.headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(PROBLEM_MEDIA_TYPE));
    Response::from_parts(parts, body)
}

/// Only what somebody should look at is more than information.
pub(super) fn log(error: &ApiError, request: &str, line: &str) {
    let (code, error_chain) = (error.code(), error.chain());
    match error.status().is_server_error() {
        true => tracing::error!(request, line, code, error = error_chain, "request failed"),
        false => tracing::info!(request, line, code, error = error_chain, "request refused"),
    }
}

/// Runs `work`; a panic in it is an error of this request and of nothing else.
async fn catch<T>(work: impl Future<Output = T>) -> Result<T, ApiError> {
    let mut work = pin!(work);
    std::future::poll_fn(|context| {
        std::panic::catch_unwind(AssertUnwindSafe(|| work.as_mut().poll(context)))
            .map_or_else(|panic| std::task::Poll::Ready(Err(panicked(&*panic))), |polled| polled.map(Ok))
    })
    .await
}

fn panicked(panic: &(dyn std::any::Any + Send)) -> ApiError {
    let text = panic.downcast_ref::<&str>().copied();
    let text = text.or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    ApiError::internal(format!("a handler panicked: {}", text.unwrap_or("without a message")))
}
