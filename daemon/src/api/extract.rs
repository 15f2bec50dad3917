//! What handlers take from a request. Each rejection is an [`ApiError`], so that no answer escapes translation.

use axum::Json;
use axum::extract::{FromRequest, FromRequestParts, Request};
use axum::http::request::Parts;
use serde::de::DeserializeOwned;

use super::error::ApiError;

/// The JSON body as a document.
#[derive(Debug)]
pub(super) struct Body<T>(pub(super) T);

/// The query parameters as a document.
#[derive(Debug)]
pub(super) struct Query<T>(pub(super) T);

/// The variable segments of the path.
#[derive(Debug)]
pub(super) struct Path<T>(pub(super) T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for Body<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &S) -> Result<Self, ApiError> {
        let Json(document) = Json::from_request(request, state).await?;
        Ok(Self(document))
    }
}

impl<S: Send + Sync, T: DeserializeOwned> FromRequestParts<S> for Query<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let axum::extract::Query(document) = axum::extract::Query::from_request_parts(parts, state).await?;
        Ok(Self(document))
    }
}

impl<S: Send + Sync, T: DeserializeOwned + Send> FromRequestParts<S> for Path<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let axum::extract::Path(segments) = axum::extract::Path::from_request_parts(parts, state).await?;
        Ok(Self(segments))
    }
}
