//! Everything about one known peer.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};
use twinshare_fs::manifest::SnapshotId;
use twinshare_fs::origin::{Availability, Origin};

use super::link::Link;
use super::origin::RemoteOrigin;
use super::{CallError, Client, call};
use crate::identity::PeerId;
use crate::protocol::{Answer, Hello, Offer, OpenSnapshot, Refusal, Request, SnapshotInfo, Watch};

/// How long a watch may take: the server answers within [`WATCH_MAX`](crate::protocol::WATCH_MAX), after a turn that
/// takes at most ten seconds.
const WATCH_ANSWER_MAX: Duration = Duration::from_secs(75);

/// What a wait for news has come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Watched {
    /// The workspace has this snapshot now, on which the caller has a lease.
    New(SnapshotInfo),
    /// Nothing has changed; to be asked again.
    Nothing,
    /// The peer's software is older than that and never says more.
    NotOffered,
}

/// Everything about one peer: its addresses, the connection to it, whether it answers. Cheap to clone; clones share
/// all of it, and the connection ends with the last of them, of the origins made from it and of their reads.
///
/// The calls below make one attempt to connect where there is no connection, within their deadline, and are cancel-safe: dropping one
/// cancels it at the peer too.
#[derive(Clone)]
pub struct Remote {
    link: Arc<Link>,
}

impl fmt::Debug for Remote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Remote").field("peer", &self.peer()).finish_non_exhaustive()
    }
}

impl Remote {
    /// Knows `peer` under `addresses`. Connects when something is asked of it, not before. Must be called within a
    /// Tokio runtime.
    pub fn new(client: &Client, peer: PeerId, addresses: Vec<SocketAddr>) -> Self {
        Self { link: Arc::new(Link::new(client, peer, addresses)) }
    }

    /// The peer.
    pub fn peer(&self) -> PeerId {
        self.link.peer()
    }

    /// Where it is connected at present: the one address at which it has proven to be.
    pub fn address(&self) -> Option<SocketAddr> {
        self.link.address()
    }

    /// Where it may be found from now on. While it is gone they are tried at once; while it is connected, only where
    /// the address in use is not among them, and it is left only for one that answers.
    pub fn set_addresses(&self, addresses: Vec<SocketAddr>) {
        self.link.set_addresses(addresses);
    }

    /// Whether it answers at present, and news of it. Reachable until the first failure; once something has been asked
    /// of it, kept up to date without further requests.
    pub fn availability(&self) -> watch::Receiver<Availability> {
        self.link.availability()
    }

    /// Who it says it is.
    pub async fn hello(&self, deadline: Duration) -> Result<Hello, CallError> {
        let introduction = Request::Hello(self.link.client().introduction().clone());
        call::hello(self.call(deadline, &introduction).await?)
    }

    /// The workspaces it offers to this node.
    pub async fn catalogue(&self, deadline: Duration) -> Result<Vec<Offer>, CallError> {
        call::offers(self.call(deadline, &Request::Catalogue).await?)
    }

    /// A snapshot of `workspace`: of this moment, or `at` again. Freezing a large tree can take the peer minutes.
    pub async fn open_snapshot(
        &self,
        workspace: &str,
        at: Option<SnapshotId>,
        deadline: Duration,
    ) -> Result<SnapshotInfo, CallError> {
        let request = Request::OpenSnapshot(OpenSnapshot { workspace: workspace.into(), at });
        call::snapshot(self.call(deadline, &request).await?)
    }

    /// Waits, at most about a minute, until the workspace has a snapshot other than `base`. To be called again for as
    /// long as somebody wants to know. What was told of in this way is kept by the peer until it has told of
    /// [a few](crate::protocol::WATCHED_KEPT) others.
    pub async fn watch(&self, workspace: &str, base: SnapshotId) -> Result<Watched, CallError> {
        let request = Request::Watch(Watch { workspace: workspace.into(), base });
        match self.call(WATCH_ANSWER_MAX, &request).await {
            Ok(answers) => Ok(call::news(answers)?.map_or(Watched::Nothing, Watched::New)),
            // It decodes whatever it knows, and this node sends nothing that breaks a limit.
            Err(CallError::Refused(Refusal::BadRequest)) => Ok(Watched::NotOffered),
            Err(error) => Err(error),
        }
    }

    /// The content of a snapshot. Its reads fail at once while the peer is gone, and end with an error when nothing
    /// has come for 30 seconds; a peer that answers nothing at all is noticed within five.
    pub fn origin(&self, snapshot: SnapshotId) -> Arc<dyn Origin> {
        Arc::new(RemoteOrigin::new(Arc::clone(&self.link), snapshot))
    }

    /// Makes a call; and again, once, where its connection turns out to have ended: that may have been long ago, and
    /// every call can be repeated.
    async fn call(&self, deadline: Duration, request: &Request) -> Result<Vec<Answer>, CallError> {
        let end = Instant::now() + deadline;
        let late = || CallError::Deadline(deadline);
        let mut is_repeated = false;
        loop {
            let connection = self.link.connection_by(end).await.map_err(|why| why.unwrap_or_else(late))?;
            let answer = timeout_at(end, call::exchange(&connection, request)).await;
            let answer = answer.unwrap_or_else(|_| Err(late()));
            let has_ended = answer.is_err() && self.link.notice_end_of(&connection).await;
            if !has_ended || is_repeated {
                return answer;
            }
            is_repeated = true;
        }
    }
}
