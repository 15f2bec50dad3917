//! One request on a connection, and the frames of its answer.

use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use quinn::{Connection, RecvStream};
use tokio::time::timeout;
use twinshare_fs::origin::STALL_MAX;

use super::CallError;
use crate::codes::{self, StreamCode};
use crate::protocol::{
    ANSWER_BYTES_MAX, Answer, Hello, LENGTH_BYTES, OFFERS_MAX, Offer, Request, SnapshotInfo, decode_answer,
};
use crate::wire::{FrameError, FrameReader};

/// How long a read waits for the next frame with its payload: as long as the server waits for its own origin. A peer
/// that does not answer at all is found out by the connection long before.
const FRAME_MAX: Duration = STALL_MAX;

/// How long a request may take to be sent: it waits where 128 others are open.
const SEND_MAX: Duration = Duration::from_secs(30);

/// A request that has been sent. Dropping it cancels the request.
pub(super) struct Call {
    reader: FrameReader<RecvStream>,
}

impl Call {
    /// Sends a request.
    pub(super) async fn send(connection: &Connection, request: &Request) -> Result<Self, CallError> {
        let sent = timeout(SEND_MAX, send(connection, request)).await;
        let receive = sent.unwrap_or(Err(CallError::Deadline(SEND_MAX)))?;
        Ok(Self { reader: FrameReader::new(receive) })
    }

    /// The next frame of the answer, however long it takes. Not cancel-safe.
    pub(super) async fn answer(&mut self) -> Result<Answer, CallError> {
        match self.reader.message(ANSWER_BYTES_MAX, decode_answer).await {
            Ok(Some(Answer::Refused(refusal))) => Err(CallError::Refused(refusal)),
            Ok(Some(answer)) => Ok(answer),
            Ok(None) => Err(CallError::Unreachable("it broke off its answer".into())),
            Err(error) => Err(call_error(error)),
        }
    }

    /// The next frame and its payload, within a read's patience.
    pub(super) async fn frame(&mut self) -> Result<(Answer, Bytes), CallError> {
        timeout(FRAME_MAX, self.frame_unhurried()).await.unwrap_or(Err(CallError::Deadline(FRAME_MAX)))
    }

    async fn frame_unhurried(&mut self) -> Result<(Answer, Bytes), CallError> {
        let answer = self.answer().await?;
        match answer.payload_bytes() {
            0 => Ok((answer, Bytes::new())),
            bytes => Ok((answer, self.reader.payload(bytes).await.map_err(call_error)?)),
        }
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        // Fails where the answer has been read to its end.
        let _ = self.reader.source().stop(StreamCode::Cancelled.code());
    }
}

async fn send(connection: &Connection, request: &Request) -> Result<RecvStream, CallError> {
    let message = request.encode()?;
    let mut frame = BytesMut::with_capacity(LENGTH_BYTES + message.len());
    frame.put_u32_le(message.len() as u32);
    frame.put_slice(&message);
    let (mut send, receive) = connection.open_bi().await.map_err(|error| codes::connection_lost(&error))?;
    send.write_chunk(frame.freeze()).await.map_err(|error| codes::write_failed(&error))?;
    send.finish().map_err(|closed| codes::write_failed(&closed.into()))?;
    Ok(receive)
}

/// Sends a request whose whole answer is small, and waits for it.
pub(super) async fn exchange(connection: &Connection, request: &Request) -> Result<Vec<Answer>, CallError> {
    let mut call = Call::send(connection, request).await?;
    let mut answers = Vec::new();
    loop {
        match call.answer().await? {
            Answer::Done => return Ok(answers),
            answer if answers.len() < OFFERS_MAX && answer.payload_bytes() == 0 => answers.push(answer),
            answer => return Err(unexpected(&answer)),
        }
    }
}

/// The answer to hello.
pub(super) fn hello(answers: Vec<Answer>) -> Result<Hello, CallError> {
    only(answers, |answer| match answer {
        Answer::Hello(hello) => Ok(hello),
        other => Err(other),
    })
}

/// The answer to open snapshot.
pub(super) fn snapshot(answers: Vec<Answer>) -> Result<SnapshotInfo, CallError> {
    only(answers, |answer| match answer {
        Answer::Snapshot(info) => Ok(info),
        other => Err(other),
    })
}

/// The answer to watch: news, or none.
pub(super) fn news(answers: Vec<Answer>) -> Result<Option<SnapshotInfo>, CallError> {
    match answers.is_empty() {
        true => Ok(None),
        false => snapshot(answers).map(Some),
    }
}

/// The answer to catalogue.
pub(super) fn offers(answers: Vec<Answer>) -> Result<Vec<Offer>, CallError> {
    let offer = |answer| match answer {
        Answer::Offer(offer) => Ok(offer),
        other => Err(unexpected(&other)),
    };
    answers.into_iter().map(offer).collect()
}

fn only<T>(answers: Vec<Answer>, wanted: impl Fn(Answer) -> Result<T, Answer>) -> Result<T, CallError> {
    let mut answers = answers.into_iter();
    match (answers.next().map(wanted), answers.next()) {
        (Some(Ok(answer)), None) => Ok(answer),
        (Some(Err(other)), _) | (_, Some(other)) => Err(unexpected(&other)),
        (None, None) => Err(CallError::Invalid("its answer is empty".into())),
    }
}

/// An answer that does not belong to the question.
pub(super) fn unexpected(answer: &Answer) -> CallError {
    CallError::Invalid(format!("an answer of kind {:?} was not asked for", answer.number()))
}

fn call_error(error: FrameError) -> CallError {
    match error {
        FrameError::Truncated => CallError::Unreachable("it broke off its answer".into()),
        FrameError::Bad(error) => error.into(),
        FrameError::Stream(error) => codes::read_failed(&error),
        FrameError::Io(error) => CallError::Unreachable(error.to_string()),
    }
}
