//! One request on one connection of its own, with a deadline and a bounded answer.

use std::io;
use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::header::{ACCEPT, CONTENT_TYPE, HOST};
use hyper::{Method, Request, Response, StatusCode, body::Incoming};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{ANSWER_WITHIN, ClientError, Result};
use crate::api::wire::{BASE_PATH, Problem};

/// Answers are lists of what one node holds: far below this, which only bounds what a wrong program may send.
const ANSWER_BYTES_MAX: usize = 64 << 20;

/// A request in the making.
#[derive(Debug)]
pub(super) struct Call {
    method: Method,
    target: String,
    body: Option<Bytes>,
    within: Duration,
}

impl Call {
    pub(super) fn new(method: Method, target: &str) -> Self {
        Self { method, target: format!("{BASE_PATH}{target}"), body: None, within: ANSWER_WITHIN }
    }

    pub(super) fn body<B: Serialize>(self, body: &B) -> Result<Self> {
        let body = serde_json::to_vec(body).map_err(protocol)?;
        Ok(Self { body: Some(body.into()), ..self })
    }

    pub(super) fn within(self, within: Duration) -> Self {
        Self { within, ..self }
    }

    /// Sends it and reads the document that comes back.
    pub(super) async fn answer<T: DeserializeOwned>(self, socket: &Path) -> Result<T> {
        let bytes = self.exchange(socket).await?;
        serde_json::from_slice(&bytes).map_err(protocol)
    }

    /// Sends it; the answer has no content.
    pub(super) async fn done(self, socket: &Path) -> Result<()> {
        self.exchange(socket).await.map(drop)
    }

    async fn exchange(self, socket: &Path) -> Result<Bytes> {
        let within = self.within;
        let exchange = async {
            let response = self.response(socket).await?;
            let status = response.status();
            let body =
                Limited::new(response.into_body(), ANSWER_BYTES_MAX).collect().await.map_err(protocol)?;
            accepted(status, body.to_bytes())
        };
        tokio::time::timeout(within, exchange).await.unwrap_or(Err(ClientError::TimedOut(within.as_secs())))
    }

    async fn response(self, socket: &Path) -> Result<Response<Incoming>> {
        let stream =
            crate::home::socket::connect(socket).await.map_err(|error| unreachable(socket, error))?;
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(protocol)?;
        // Ends with the exchange: `sender` is dropped after it. An error of it reaches the exchange itself.
        tokio::spawn(connection);
        let mut request = Request::builder().method(self.method).uri(self.target);
        request = request.header(HOST, "localhost").header(ACCEPT, "application/json");
        if self.body.is_some() {
            request = request.header(CONTENT_TYPE, "application/json");
        }
        let request = request.body(Full::new(self.body.unwrap_or_default())).map_err(protocol)?;
        sender.send_request(request).await.map_err(broken)
    }
}

fn accepted(status: StatusCode, body: Bytes) -> Result<Bytes> {
    if status.is_success() {
        return Ok(body);
    }
    match serde_json::from_slice::<Problem>(&body) {
        Ok(problem) => Err(ClientError::Problem(Box::new(problem))),
        Err(_) => Err(ClientError::Protocol(format!("status {status} without a problem document"))),
    }
}

fn unreachable(socket: &Path, source: io::Error) -> ClientError {
    let socket = socket.to_owned();
    match source.kind() {
        io::ErrorKind::PermissionDenied => ClientError::Forbidden { socket, source },
        _ => ClientError::NotRunning { socket, source },
    }
}

/// A parse error is somebody else's language; everything else is a connection that ended.
fn broken(error: hyper::Error) -> ClientError {
    match error.is_parse() || error.is_user() {
        true => protocol(error),
        false => ClientError::WentAway(error),
    }
}

fn protocol(error: impl std::fmt::Display) -> ClientError {
    ClientError::Protocol(error.to_string())
}
