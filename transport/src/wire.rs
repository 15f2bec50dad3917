//! Frames on a stream: the length, the message, and the payload some messages announce.
//!
//! The reader takes memory for what has arrived, not for what a length claims; a payload is read straight into the
//! buffer it is handed out in. The writer gathers what is small and passes on what is large without copying it.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use quinn::{ReadError, SendStream, WriteError};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::time::{Instant, timeout};
use twinshare_fs::origin::Class;

use crate::outlet::Outlet;
use crate::precedence::{PIECE_BYTES, rank};
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
    /// How long it may take until what was gathered, or a payload, is written.
    deadline: Duration,
    outlet: Arc<Outlet>,
    class: Class,
}

impl FrameWriter {
    /// A writer that nothing precedes, until its class is set.
    pub(crate) fn new(stream: SendStream, deadline: Duration, outlet: Arc<Outlet>) -> Self {
        Self { stream, gathered: BytesMut::new(), deadline, outlet, class: Class::Demand }
    }

    /// Sets how urgent the answer is.
    pub(crate) fn set_class(&mut self, class: Class) {
        self.class = class;
        // QUIC sends what has the higher number first. Fails only for a stream that has ended, which the first write
        // finds out.
        let _ = self.stream.set_priority(rank(class).into());
    }

    /// The connection's way out.
    pub(crate) fn outlet(&self) -> &Outlet {
        &self.outlet
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
        let gathered = self.gathered.split().freeze();
        self.write([gathered, payload]).await
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
        let gathered = self.gathered.split().freeze();
        self.write([gathered, Bytes::new()]).await
    }

    async fn write(&mut self, chunks: [Bytes; 2]) -> Result<(), AnswerLost> {
        match timeout(self.deadline, self.write_pieces(chunks)).await {
            Ok(written) => Ok(written?),
            Err(_) => Err(AnswerLost::Stalled),
        }
    }

    /// Writes in pieces, between which whatever is more urgent may overtake.
    async fn write_pieces(&mut self, [mut first, mut second]: [Bytes; 2]) -> Result<(), WriteError> {
        while !first.is_empty() || !second.is_empty() {
            let of_first = first.split_to(first.len().min(PIECE_BYTES));
            let of_second = second.split_to(second.len().min(PIECE_BYTES - of_first.len()));
            let bytes = of_first.len() + of_second.len();
            let _writing = self.outlet.enter(self.class).await;
            let started = Instant::now();
            self.stream.write_all_chunks(&mut [of_first, of_second]).await?;
            self.outlet.wrote(self.class, bytes, started);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::pin::Pin;
    use std::task::{Context, Poll};

    use proptest::collection::vec;
    use proptest::prelude::*;
    use tokio::io::ReadBuf;

    use super::*;

    /// Gives out its bytes in pieces of the sizes given, then one by one.
    struct Pieces {
        bytes: Bytes,
        sizes: Vec<usize>,
    }

    impl AsyncRead for Pieces {
        fn poll_read(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
            buffer: &mut ReadBuf<'_>,
        ) -> Poll<io::Result<()>> {
            let size = self.sizes.pop().unwrap_or(1).min(buffer.remaining()).min(self.bytes.len());
            let piece = self.bytes.split_to(size);
            buffer.put_slice(&piece);
            Poll::Ready(Ok(()))
        }
    }

    fn frame(message: &[u8]) -> Vec<u8> {
        [&(message.len() as u32).to_le_bytes()[..], message].concat()
    }

    /// Messages whose first byte says how many hundreds of bytes of payload follow.
    async fn read_all(bytes: Vec<u8>, sizes: Vec<usize>) -> Result<Vec<(Vec<u8>, Bytes)>, FrameError> {
        let mut reader = FrameReader::new(Pieces { bytes: bytes.into(), sizes });
        let mut frames = Vec::new();
        while let Some(message) = reader.message(1000, |message| Ok(message.to_vec())).await? {
            let payload = message.first().map_or(0, |hundreds| usize::from(*hundreds) * 100);
            frames.push((message, reader.payload(payload).await?));
        }
        Ok(frames)
    }

    fn block_on<T>(future: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(future)
    }

    proptest! {
        #[test]
        fn frames_come_whole_however_they_are_cut(
            messages in vec(vec(any::<u8>(), 1..200), 0..6),
            sizes in vec(1usize..20_000, 0..40),
        ) {
            let payload = |message: &[u8]| Bytes::from(vec![message[0] ^ 0xff; usize::from(message[0]) * 100]);
            let expected: Vec<_> = messages.into_iter().map(|m| (m.clone(), payload(&m))).collect();
            let bytes = expected.iter().flat_map(|(m, p)| [frame(m), p.to_vec()].concat()).collect();
            prop_assert_eq!(block_on(read_all(bytes, sizes)).unwrap(), expected);
        }

        #[test]
        fn a_stream_cut_short_is_never_complete(message in vec(any::<u8>(), 1..50), keep in any::<prop::sample::Index>()) {
            let mut bytes = frame(&message);
            bytes.resize(bytes.len() + usize::from(message[0]) * 100, 0);
            bytes.truncate(1 + keep.index(bytes.len() - 1));
            let read = block_on(read_all(bytes, vec![]));
            prop_assert!(matches!(read, Err(FrameError::Truncated)), "{:?}", read);
        }
    }

    #[test]
    fn a_length_beyond_the_limit_takes_no_memory() {
        let mut bytes = u32::MAX.to_le_bytes().to_vec();
        bytes.resize(100, 0);
        let read = block_on(read_all(bytes, vec![]));
        assert!(matches!(read, Err(FrameError::Bad(BadFrame::Limit))), "{read:?}");
    }
}
