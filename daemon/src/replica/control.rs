//! How the node and a replica process talk: one JSON document a line over a Unix socket in the replica's state.
//!
//! The node asks, the process answers in order. The socket also tells each side that the other is gone: the node
//! notices a dead process by the end of the stream; the process does not care whether the node lives.
//!
//! A process outlives the node that started it, so the two may be of different versions. What is added here has a
//! default, and what is not understood is ignored, or answered with a failure. Where that does not do, [`PROTOCOL`] is
//! raised: the views' process of another protocol is then left to what it serves, and new views get a new process.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use twinshare_transport::identity::PeerId;

use super::spec::Spec;
use crate::api::wire::{
    Keep, Reading, ReplicaChanged, ReplicaFollowing, ReplicaLeftOut, ReplicaProgress, ReplicaSettling,
    WhyFound,
};
use crate::home::{Home, socket};

mod cache;

pub use cache::{CacheAnswer, CachePruned, CacheReport, CacheRequest, CachedView, PinReport, PinnedPath};

/// Name of the socket in the process's state directory.
pub const SOCKET: &str = "control.sock";

/// The protocol's number.
pub const PROTOCOL: u32 = 1;

/// Bytes of one document at most; a longer one ends the connection. What a peer has a say in is bounded for each of
/// [`REPLICAS_MAX`](super::REPLICAS_MAX) replicas: 6 KiB, which JSON may write as six times as much.
const LINE_BYTES_MAX: u64 = 12 * 1024 * 1024;

/// How long the node waits for an answer that a process has at hand.
pub const ANSWER_WITHIN: Duration = Duration::from_secs(5);

/// What the node asks.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Request {
    /// Which protocol does it speak?
    Hello,
    /// Serve this replica; answered when its root can be listed.
    Attach(Box<Spec>),
    /// Unmount it plainly and stop serving it. What is being attached is given up and undone before the answer.
    Detach {
        /// Which.
        id: String,
    },
    /// The peer is now found here.
    Addresses {
        /// Which peer.
        peer: PeerId,
        /// Best first.
        addresses: Vec<SocketAddr>,
    },
    /// Settle this clone now; answered when it is an ordinary directory, or soon will be.
    Settle {
        /// Which.
        id: String,
    },
    /// Keep this replica mounted for a moment: somebody is about to use it.
    Hold {
        /// Which.
        id: String,
    },
    /// Tell about all replicas that are mounted and served.
    Status,
    /// Tell what is known of one file or directory.
    Account {
        /// Of which replica.
        id: String,
        /// Below which of its roots.
        root: u32,
        /// Where below it.
        path: String,
    },
    /// About the cache of a process's views.
    Cache(CacheRequest),
    /// Decide about one file that changed both here and at the peer.
    Resolve {
        /// Of which clone.
        id: String,
        /// Where below its workspace.
        path: String,
        /// Which version is kept; without it, tell only.
        keep: Option<Keep>,
    },
}

/// What the process answers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// To [`Request::Hello`].
    Hello {
        /// Its [`PROTOCOL`].
        protocol: u32,
    },
    /// Done.
    Done,
    /// About every replica that is served.
    Status(Vec<Report>),
    /// About one file or directory; nothing where there is none.
    Account(Option<Box<WhyFound>>),
    /// Bytes of one file that never came; nothing where there is none.
    Resolved(Option<u64>),
    /// To [`Request::Cache`].
    Cache(CacheAnswer),
    /// Not done, and why.
    Failed(Failure),
}

/// One replica as its process sees it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// Which.
    pub id: String,
    /// How much is here.
    pub progress: ReplicaProgress,
    /// What the snapshot lacks.
    #[serde(default)]
    pub left_out: Option<ReplicaLeftOut>,
    /// How a clone comes to its end.
    #[serde(default)]
    pub settling: Option<ReplicaSettling>,
    /// Files that changed at the peer.
    #[serde(default)]
    pub changed: Option<ReplicaChanged>,
    /// Who waits for content.
    #[serde(default)]
    pub reading: Vec<Reading>,
    /// How a view follows.
    #[serde(default)]
    pub following: Option<ReplicaFollowing>,
}

/// Why something was not done; the node acts differently on each.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(rename_all = "snake_case")]
pub enum Failure {
    /// Not served here.
    #[error("no such replica")]
    NoSuchReplica,
    /// Programs use the mount.
    #[error("in use by {}", .0.join(", "))]
    Busy(Vec<String>),
    /// It is no longer mounted here, but copies of the mount elsewhere are still served.
    #[error("programs elsewhere still use copies of the mount")]
    Leaving,
    /// Not everything of it is here.
    #[error("not complete: {0}")]
    Incomplete(String),
    /// About a file.
    #[error("{0}")]
    NothingToDecide(String),
    /// It is an ordinary directory: there is nothing to serve.
    #[error("it has settled")]
    Settled,
    /// Given up and undone, since somebody wanted it gone.
    #[error("cancelled")]
    Cancelled,
    /// The place cannot hold it.
    #[error("{0}")]
    Directory(String),
    /// The peer did not answer.
    #[error("the peer cannot be reached: {0}")]
    Unreachable(String),
    /// The peer answered no.
    #[error("the peer refused: {0}")]
    Refused(String),
    /// This machine cannot mount.
    #[error("{0}")]
    Unsupported(String),
    /// Anything else.
    #[error("{0}")]
    Other(String),
}

/// Connects to the process called `key`; also tells its pid. Fails at once where none runs, and after
/// [`ANSWER_WITHIN`] where one does not take connections.
pub async fn connect(home: &Home, key: &str) -> io::Result<(Line, u32)> {
    let path = home.replica(key).join(SOCKET);
    let stream = within(ANSWER_WITHIN, socket::connect(&path)).await?;
    let pid = stream.peer_cred()?.pid().and_then(|pid| u32::try_from(pid).ok()).unwrap_or(0);
    Ok((Line::new(stream), pid))
}

/// Asks the process called `key` over a connection of its own, for `limit` at most.
pub async fn ask(home: &Home, key: &str, request: &Request, limit: Duration) -> io::Result<Answer> {
    let exchange = async {
        let (mut line, _) = connect(home, key).await?;
        line.ask(request, limit).await
    };
    within(limit, exchange).await
}

async fn within<T>(limit: Duration, exchange: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    tokio::time::timeout(limit, exchange).await.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?
}

fn invalid(error: serde_json::Error) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

/// One side of the conversation.
#[derive(Debug)]
pub struct Line {
    reader: BufReader<OwnedReadHalf>,
    writer: OwnedWriteHalf,
}

impl Line {
    /// Speaks over `stream`.
    pub fn new(stream: UnixStream) -> Self {
        let (reader, writer) = stream.into_split();
        Self { reader: BufReader::new(reader), writer }
    }

    /// Sends one document.
    pub async fn send<T: Serialize>(&mut self, document: &T) -> io::Result<()> {
        let mut line = serde_json::to_vec(document)?;
        line.push(b'\n');
        self.writer.write_all(&line).await
    }

    /// The next document; `None` when the other side is gone, `InvalidData` for one that is not understood, after
    /// which the next can be received. Not cancel-safe: a document half read is lost.
    pub async fn receive<T: DeserializeOwned>(&mut self) -> io::Result<Option<T>> {
        let mut line = Vec::new();
        let bytes = (&mut self.reader).take(LINE_BYTES_MAX).read_until(b'\n', &mut line).await?;
        match line.last() {
            _ if bytes == 0 => Ok(None),
            Some(b'\n') => Ok(Some(serde_json::from_slice(&line).map_err(invalid)?)),
            _ => Err(io::Error::new(io::ErrorKind::UnexpectedEof, "a line is too long or was cut short")),
        }
    }

    /// Asks and waits for the answer, for `limit` at most.
    pub async fn ask(&mut self, request: &Request, limit: Duration) -> io::Result<Answer> {
        let exchange = async {
            self.send(request).await?;
            self.receive().await?.ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
        };
        within(limit, exchange).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn pair() -> (Line, Line) {
        let (a, b) = UnixStream::pair().unwrap();
        (Line::new(a), Line::new(b))
    }

    #[tokio::test]
    async fn a_question_gets_its_answer() {
        let (mut node, mut process) = pair().await;
        let answering = tokio::spawn(async move {
            let asked: Request = process.receive().await.unwrap().unwrap();
            process.send(&Answer::Failed(Failure::Busy(vec!["bash (pid 1)".into()]))).await.unwrap();
            asked
        });
        let request = Request::Detach { id: "a".into() };
        let answer = node.ask(&request, ANSWER_WITHIN).await.unwrap();
        assert_eq!(answer, Answer::Failed(Failure::Busy(vec!["bash (pid 1)".into()])));
        assert_eq!(answering.await.unwrap(), request);
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_process_is_not_waited_for() {
        let (mut node, _process) = pair().await;
        let error = node.ask(&Request::Status, ANSWER_WITHIN).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }

    #[tokio::test]
    async fn what_a_newer_version_adds_is_ignored_or_answered() {
        let (mut node, mut process) = pair().await;
        for line in [r#"{"detach":{"id":"a","how":"later"}}"#, r#"{"dance":{}}"#, r#""status""#] {
            node.writer.write_all(format!("{line}\n").as_bytes()).await.unwrap();
        }
        assert_eq!(process.receive::<Request>().await.unwrap(), Some(Request::Detach { id: "a".into() }));
        let error = process.receive::<Request>().await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
        assert_eq!(process.receive::<Request>().await.unwrap(), Some(Request::Status));
    }

    #[tokio::test]
    async fn a_dead_process_and_a_torn_line_are_told_apart() {
        let (mut node, process) = pair().await;
        drop(process);
        assert_eq!(node.receive::<Answer>().await.unwrap(), None);
        let (mut node, mut process) = pair().await;
        process.writer.write_all(b"{\"status\"").await.unwrap();
        drop(process);
        assert!(node.receive::<Answer>().await.is_err());
    }
}
