//! The side that asks: first contact with an address, and everything about one known peer.

use std::fmt;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use quinn::{Endpoint, TokioRuntime};
use twinshare_fs::origin::OriginError;

use crate::codes::CloseCode;
use crate::identity::{Identity, PeerId};
use crate::protocol::{BadFrame, Hello, Refusal, Request};
use crate::tuning;

mod call;
mod connect;
mod expected;
mod link;
mod origin;
mod remote;

pub use remote::{Remote, Watched};

/// Why a call to a peer failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// Nothing answers, or what answered went away; worth trying again.
    #[error("the peer cannot be reached: {0}")]
    Unreachable(String),
    /// Somebody else answers at the address.
    #[error("expected peer {}, but {} answers there", expected.short(), found.short())]
    OtherPeer {
        /// Who should have answered.
        expected: PeerId,
        /// Who did.
        found: PeerId,
    },
    /// It answers, and says no.
    #[error("refused: {0}")]
    Refused(Refusal),
    /// It did not answer in time.
    #[error("the peer did not answer within {} s", .0.as_secs_f32())]
    Deadline(Duration),
    /// What it sent breaks the protocol, or it speaks another version of it.
    #[error("the peer does not speak this protocol: {0}")]
    Invalid(String),
}

impl From<BadFrame> for CallError {
    fn from(error: BadFrame) -> Self {
        Self::Invalid(error.to_string())
    }
}

impl From<CallError> for OriginError {
    fn from(error: CallError) -> Self {
        let text = error.to_string();
        match error {
            CallError::Unreachable(why) => Self::Gone(why),
            CallError::OtherPeer { .. } | CallError::Deadline(_) => Self::Gone(text),
            CallError::Invalid(why) => Self::Invalid(why),
            CallError::Refused(refusal) => match refusal {
                Refusal::NotGranted | Refusal::NoSuchWorkspace | Refusal::NotNear => {
                    Self::Refused(refusal.to_string())
                }
                Refusal::SnapshotGone => Self::SnapshotGone,
                Refusal::TooBusy | Refusal::Internal(_) => Self::Busy(refusal.to_string()),
                Refusal::BadRequest => Self::Invalid(refusal.to_string()),
            },
        }
    }
}

/// Who answered at an address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Greeting {
    /// The peer, proven by its handshake.
    pub peer: PeerId,
    /// The address it answered at.
    pub address: SocketAddr,
    /// How it introduced itself.
    pub hello: Hello,
}

/// This node's side of all its outgoing connections: one UDP socket. Cheap to clone; clones share it.
#[derive(Clone)]
pub struct Client {
    endpoint: Endpoint,
    identity: Identity,
    hello: Arc<Hello>,
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("identity", &self.identity).finish_non_exhaustive()
    }
}

impl Client {
    /// Opens the socket; `hello` is how this node introduces itself. Must be called within a Tokio runtime.
    pub fn new(identity: &Identity, hello: Hello) -> io::Result<Self> {
        let socket = tuning::outgoing()?;
        let endpoint = Endpoint::new(tuning::client_endpoint(), None, socket, Arc::new(TokioRuntime))?;
        Ok(Self { endpoint, identity: identity.clone(), hello: Arc::new(hello) })
    }

    /// First contact: says hello to whoever answers first at `addresses`, or only to `expected`. Cancel-safe.
    ///
    /// Tries all addresses (at most [`ADDRESSES_MAX`](Self::ADDRESSES_MAX)), and gives up after `deadline`.
    pub async fn greet(
        &self,
        addresses: &[SocketAddr],
        expected: Option<PeerId>,
        deadline: Duration,
    ) -> Result<Greeting, CallError> {
        within(deadline, self.greet_in_time(addresses, expected)).await
    }

    async fn greet_in_time(
        &self,
        addresses: &[SocketAddr],
        expected: Option<PeerId>,
    ) -> Result<Greeting, CallError> {
        let connected = connect::first(self, addresses, expected).await?;
        let introduction = Request::Hello(self.introduction().clone());
        let hello = call::hello(call::exchange(&connected.connection, &introduction).await?)?;
        connected.connection.close(CloseCode::Finished.code(), b"");
        Ok(Greeting { peer: connected.peer, address: connected.address, hello })
    }

    /// Addresses of one peer that are tried at most; further ones are ignored.
    pub const ADDRESSES_MAX: usize = 16;

    fn introduction(&self) -> &Hello {
        &self.hello
    }
}

async fn within<T>(
    deadline: Duration,
    call: impl Future<Output = Result<T, CallError>>,
) -> Result<T, CallError> {
    tokio::time::timeout(deadline, call).await.unwrap_or(Err(CallError::Deadline(deadline)))
}
