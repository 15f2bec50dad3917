//! Why a request to a node failed.

use std::io;
use std::path::PathBuf;

use crate::api::wire::Problem;

/// Why a request to a node failed.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody listens on the socket.
    #[error("no node is running (nobody answers at {}); start one with `twinshare p2p start`", socket.display())]
    NotRunning {
        /// The socket that was tried.
        socket: PathBuf,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// The socket is there, but this user may not use it.
    #[error("the node at {} belongs to another user", socket.display())]
    Forbidden {
        /// The socket that was tried.
        socket: PathBuf,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// The node answered, and the answer is no.
    #[error("{0}")]
    Problem(Box<Problem>),
    /// The node took longer than the request may take.
    #[error("the node did not answer within {0} seconds; `twinshare doctor` and the node's log may say why")]
    TimedOut(u64),
    /// The connection ended before the answer did: the node was stopped, or it died.
    #[error("the node went away before it answered ({0}); `twinshare p2p status` shows whether it runs")]
    WentAway(#[source] hyper::Error),
    /// What arrived is not what this version of the interface sends.
    #[error("the node's answer cannot be used: {0}")]
    Protocol(String),
}

impl ClientError {
    /// The node's problem document, if that is what came back.
    pub fn problem(&self) -> Option<&Problem> {
        match self {
            Self::Problem(problem) => Some(problem),
            Self::NotRunning { .. }
            | Self::Forbidden { .. }
            | Self::TimedOut(_)
            | Self::WentAway(_)
            | Self::Protocol(_) => None,
        }
    }
}
