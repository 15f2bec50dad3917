//! The application codes of QUIC that the two sides send, and what every error of QUIC means to a caller.

use quinn::{ConnectError, ConnectionError, ReadError, TransportErrorCode, VarInt, WriteError};

use crate::client::CallError;
use crate::protocol::Text;

/// Why one side closes a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub(crate) enum CloseCode {
    /// The client needs it no longer.
    Finished = 0,
    /// The server stops.
    ShuttingDown = 1,
    /// A bound of the server is reached.
    TooBusy = 2,
    /// What this peer may do has changed: it is to connect and ask again.
    AskAgain = 3,
}

impl CloseCode {
    /// As QUIC sends it.
    pub(crate) fn code(self) -> VarInt {
        VarInt::from_u32(self as u32)
    }

    fn of(code: VarInt) -> Option<Self> {
        match code.into_inner() {
            0 => Some(Self::Finished),
            1 => Some(Self::ShuttingDown),
            2 => Some(Self::TooBusy),
            3 => Some(Self::AskAgain),
            _ => None,
        }
    }

    fn meaning(self) -> &'static str {
        match self {
            Self::Finished => "it closed the connection",
            Self::ShuttingDown => "it is shutting down",
            Self::TooBusy => "it has too many connections",
            Self::AskAgain => "what it lets us do has changed",
        }
    }
}

/// Why one side gives up a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub(crate) enum StreamCode {
    /// Nobody waits for the answer any more.
    Cancelled = 0x10,
    /// The other side took or sent nothing for too long.
    Stalled = 0x11,
}

impl StreamCode {
    /// As QUIC sends it.
    pub(crate) fn code(self) -> VarInt {
        VarInt::from_u32(self as u32)
    }

    fn of(code: VarInt) -> Option<Self> {
        match code.into_inner() {
            0x10 => Some(Self::Cancelled),
            0x11 => Some(Self::Stalled),
            _ => None,
        }
    }
}

/// What a failed attempt to begin a connection means.
pub(crate) fn cannot_connect(error: &ConnectError) -> CallError {
    match error {
        ConnectError::EndpointStopping
        | ConnectError::CidsExhausted
        | ConnectError::InvalidServerName(_)
        | ConnectError::InvalidRemoteAddress(_)
        | ConnectError::NoDefaultClientConfig
        | ConnectError::UnsupportedVersion => CallError::Unreachable(error.to_string()),
    }
}

/// What the end of a connection means.
pub(crate) fn connection_lost(error: &ConnectionError) -> CallError {
    match error {
        ConnectionError::ApplicationClosed(close) => match CloseCode::of(close.error_code) {
            Some(code) => CallError::Unreachable(code.meaning().into()),
            None => CallError::Invalid(format!("it closed the connection with code {}", close.error_code)),
        },
        ConnectionError::VersionMismatch => CallError::Invalid("it speaks another version of QUIC".into()),
        ConnectionError::TransportError(error) => crypto_failure(error.code, &error.reason),
        ConnectionError::ConnectionClosed(close) => {
            crypto_failure(close.error_code, &String::from_utf8_lossy(&close.reason))
        }
        ConnectionError::Reset => CallError::Unreachable("it has restarted".into()),
        ConnectionError::TimedOut => CallError::Unreachable("nothing was heard from it in time".into()),
        ConnectionError::LocallyClosed => CallError::Unreachable("the connection was closed here".into()),
        ConnectionError::CidsExhausted => CallError::Unreachable("no connection id is left".into()),
    }
}

/// TLS's alert "no application protocol" (RFC 7301 section 3.2).
const NO_APPLICATION_PROTOCOL: u8 = 120;

/// What an error of QUIC or TLS themselves means. Either side may have found it; the reason may be the peer's words.
fn crypto_failure(code: TransportErrorCode, reason: &str) -> CallError {
    match code {
        // A server at its bound answers a first packet so.
        TransportErrorCode::CONNECTION_REFUSED => {
            CallError::Unreachable("it refuses connections at present".into())
        }
        _ if code == TransportErrorCode::crypto(NO_APPLICATION_PROTOCOL) => {
            CallError::Invalid("it speaks another version of twinshare".into())
        }
        _ => CallError::Invalid(format!("{code}: {}", Text::new(reason))),
    }
}

/// What a failed read of an answer means.
pub(crate) fn read_failed(error: &ReadError) -> CallError {
    match error {
        ReadError::Reset(code) => match StreamCode::of(*code) {
            Some(StreamCode::Cancelled) => CallError::Unreachable("it gave up answering".into()),
            Some(StreamCode::Stalled) => CallError::Unreachable("its answer was taken too slowly".into()),
            None => CallError::Invalid(format!("it gave up answering with code {code}")),
        },
        ReadError::ConnectionLost(error) => connection_lost(error),
        ReadError::ClosedStream | ReadError::IllegalOrderedRead | ReadError::ZeroRttRejected => {
            CallError::Unreachable(error.to_string())
        }
    }
}

/// What a failed write of a request means.
pub(crate) fn write_failed(error: &WriteError) -> CallError {
    match error {
        WriteError::ConnectionLost(error) => connection_lost(error),
        WriteError::Stopped(_) | WriteError::ClosedStream | WriteError::ZeroRttRejected => {
            CallError::Unreachable(error.to_string())
        }
    }
}

#[cfg(test)]
mod tests {
    use quinn::ApplicationClose;

    use super::*;

    fn closed(code: u32) -> CallError {
        let close =
            ApplicationClose { error_code: VarInt::from_u32(code), reason: b"\x1b[2J".as_slice().into() };
        connection_lost(&ConnectionError::ApplicationClosed(close))
    }

    #[test]
    fn every_code_is_read_back() {
        for code in [CloseCode::Finished, CloseCode::ShuttingDown, CloseCode::TooBusy, CloseCode::AskAgain] {
            assert_eq!(CloseCode::of(code.code()), Some(code));
            assert_eq!(closed(code as u32), CallError::Unreachable(code.meaning().into()));
        }
        for code in [StreamCode::Cancelled, StreamCode::Stalled] {
            assert_eq!(StreamCode::of(code.code()), Some(code));
        }
    }

    #[test]
    fn a_code_nobody_knows_is_invalid_and_its_words_are_not_shown() {
        assert_eq!(closed(4711), CallError::Invalid("it closed the connection with code 4711".into()));
        let unknown = read_failed(&ReadError::Reset(VarInt::from_u32(1)));
        assert!(matches!(unknown, CallError::Invalid(_)), "{unknown}");
    }
}
