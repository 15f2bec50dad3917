//! Frames on a stream: the length, the message, and the payload some messages announce.
//!
//! The reader takes memory for what has arrived, not for what a length claims; a payload is read straight into the
//! buffer it is handed out in. The writer gathers what is small and passes on what is large without copying it.

use std::future::Future;
use std::io;
use std::time::Duration;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use quinn::{ReadError, SendStream, WriteError};
use tokio::io::{AsyncRead, AsyncReadExt};

use crate::protocol::{Answer, BadFrame, LENGTH_BYTES};

/// What the reader asks the stream for when it looks for a message. A run's header takes 0.6 KiB at most; what arrives
/// beyond it belongs to the payload and is copied once.
const READ_AHEAD_BYTES: usize = 8 * 1024;

/// Payloads up to this size are gathered with the messages around them: a bundle of small files becomes a few large
/// writes.
const GATHERED_PAYLOAD_MAX: usize = 8 * 1024;

/// What is gathered at most before it is written.
const GATHERED_BYTES_MAX: usize = 32 * 1024;

/// Why no frame could be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FrameError {
    /// The stream ended inside a frame.
    #[error("the stream ended inside a frame")]
    Truncated,
    /// What arrived is no frame.
    #[error(transparent)]
    Bad(#[from] BadFrame),
    /// The stream failed.
    #[error(transparent)]
    Stream(ReadError),
    /// The source failed in a way no stream does.
    #[error(transparent)]
    Io(io::Error),
}

impl From<io::Error> for FrameError {
    fn from(error: io::Error) -> Self {
        error.downcast::<ReadError>().map_or_else(Self::Io, Self::Stream)
    }
}

/// Reads frames from a stream. Not cancel-safe: after a dropped future the place in the stream is lost.
pub(crate) struct FrameReader<R> {
    source: R,
    /// What was read and not yet handed out.
    ahead: BytesMut,
}

impl<R: AsyncRead + Unpin> FrameReader<R> {
    pub(crate) fn new(source: R) -> Self {
        Self { source, ahead: BytesMut::new() }
    }

    /// The next message, of at most `bytes_max`; `None` where the stream ends instead.
    pub(crate) async fn message<T>(
        &mut self,
        bytes_max: usize,
        decode: impl FnOnce(&[u8]) -> Result<T, BadFrame>,
    ) -> Result<Option<T>, FrameError> {
        if !self.fill(LENGTH_BYTES).await? {
            return if self.ahead.is_empty() { Ok(None) } else { Err(FrameError::Truncated) };
        }
        let bytes = self.ahead.get_u32_le() as usize;
        if bytes > bytes_max {
            return Err(BadFrame::Limit.into());
        }
        if !self.fill(bytes).await? {
            return Err(FrameError::Truncated);
        }
        let message = decode(&self.ahead[..bytes])?;
        self.ahead.advance(bytes);
        Ok(Some(message))
    }

    /// The payload that the last message announced; the caller has bounded `bytes`.
    pub(crate) async fn payload(&mut self, bytes: usize) -> Result<Bytes, FrameError> {
        let mut payload = BytesMut::with_capacity(bytes);
        let ahead = self.ahead.len().min(bytes);
        payload.extend_from_slice(&self.ahead[..ahead]);
        self.ahead.advance(ahead);
        while payload.len() < bytes {
            let missing = bytes - payload.len();
            if self.source.read_buf(&mut (&mut payload).limit(missing)).await? == 0 {
                return Err(FrameError::Truncated);
            }
        }
        Ok(payload.freeze())
    }

    /// The stream itself, to be stopped.
    pub(crate) fn source(&mut self) -> &mut R {
        &mut self.source
    }

    /// Reads until `bytes` lie ahead; false where the stream ends before.
    async fn fill(&mut self, bytes: usize) -> Result<bool, FrameError> {
        while self.ahead.len() < bytes {
            self.ahead.reserve(READ_AHEAD_BYTES);
            if self.source.read_buf(&mut self.ahead).await? == 0 {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

/// Why an answer could not be written on.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AnswerLost {
    /// The stream failed, or the other side stopped it.
    #[error(transparent)]
    Stream(#[from] WriteError),
    /// The other side took nothing in time.
    #[error("the peer did not take its answer in time")]
    Stalled,
    /// This side tried to send what the protocol does not allow.
    #[error(transparent)]
    Bad(#[from] BadFrame),
}

/// Writes answers to a stream.
pub(crate) struct FrameWriter {
    stream: SendStream,
    gathered: BytesMut,
    /// How long one write may take.
    deadline: Duration,
}

impl FrameWriter {
    pub(crate) fn new(stream: SendStream, deadline: Duration) -> Self {
        Self { stream, gathered: BytesMut::new(), deadline }
    }

    /// Adds an answer; its payload, where it has one, must follow.
    pub(crate) async fn answer(&mut self, answer: &Answer) -> Result<(), AnswerLost> {
        let message = answer.encode()?;
        self.gathered.reserve(LENGTH_BYTES + message.len());
        self.gathered.put_u32_le(message.len() as u32);
        self.gathered.put_slice(&message);
        self.flush_above(GATHERED_BYTES_MAX).await
    }

    /// Adds the payload of the last answer.
    pub(crate) async fn payload(&mut self, payload: Bytes) -> Result<(), AnswerLost> {
        if payload.len() <= GATHERED_PAYLOAD_MAX {
            self.gathered.put_slice(&payload);
            return self.flush_above(GATHERED_BYTES_MAX).await;
        }
        let mut chunks = [self.gathered.split().freeze(), payload];
        in_time(self.deadline, self.stream.write_all_chunks(&mut chunks)).await
    }

    /// Writes what was gathered, when it is time for it.
    pub(crate) async fn flush(&mut self) -> Result<(), AnswerLost> {
        self.flush_above(0).await
    }

    /// Writes what was gathered and ends the stream.
    pub(crate) async fn finish(mut self) -> Result<(), AnswerLost> {
        self.flush().await?;
        self.stream.finish().map_err(|closed| AnswerLost::Stream(closed.into()))
    }

    /// The stream itself, to be reset.
    pub(crate) fn stream(&mut self) -> &mut SendStream {
        &mut self.stream
    }

    async fn flush_above(&mut self, bytes: usize) -> Result<(), AnswerLost> {
        if self.gathered.len() <= bytes {
            return Ok(());
        }
        let chunk = self.gathered.split().freeze();
        in_time(self.deadline, self.stream.write_chunk(chunk)).await
    }
}

async fn in_time(
    deadline: Duration,
    write: impl Future<Output = Result<(), WriteError>>,
) -> Result<(), AnswerLost> {
    match tokio::time::timeout(deadline, write).await {
        Ok(written) => Ok(written?),
        Err(_) => Err(AnswerLost::Stalled),
    }
}
