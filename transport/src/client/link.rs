//! The connection to one peer, kept up as long as somebody may want it.
//!
//! One task per peer supervises it: connects at the first request, notices the end, and tries again, ever more slowly,
//! until the peer answers or nobody holds the link any more. Its state is the breaker: while the peer is gone, reads
//! fail at once instead of each waiting for a connection of its own.
//!
//! A reader is told of a lost connection only after [`Availability`] says so too, so whoever waits for news of the
//! peer's return cannot mistake the old state for it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use quinn::{Connection, ConnectionError};
use tokio::sync::{Notify, Semaphore, watch};
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep, timeout, timeout_at};
use twinshare_fs::origin::Availability;

use super::{CallError, Client, connect};
use crate::codes::{self, CloseCode};
use crate::identity::PeerId;
use crate::server::canonical;
use crate::tuning::IDLE_MAX;

/// The pause after a first failure.
const PAUSE_MIN: Duration = Duration::from_millis(250);

/// The pause after many: one small packet for each address every few seconds costs nobody anything, and a peer that
/// comes back is noticed before a person wonders.
const PAUSE_MAX: Duration = Duration::from_secs(4);

/// A connection that lived this long was a good one: the next failure starts with the shortest pause again.
const STABLE: Duration = Duration::from_secs(10);

/// How long a reader waits for the supervisor to notice what the reader has noticed.
const NOTICE_MAX: Duration = Duration::from_secs(1);

/// Reads for which nobody waits, at the same time. Each may fill one answer's window (see [`crate::tuning`]) when its
/// reader stops, and together they must leave room for those somebody waits for.
const UNHURRIED_MAX: usize = 6;

/// The link to one peer. Dropping it closes the connection.
pub(super) struct Link {
    shared: Arc<Shared>,
    supervisor: AbortHandle,
}

struct Shared {
    client: Client,
    peer: PeerId,
    addresses: watch::Sender<Vec<SocketAddr>>,
    state: watch::Sender<State>,
    availability: watch::Sender<Availability>,
    /// The first request has come.
    wanted: Notify,
    /// A person is waiting: try now.
    hurried: Notify,
    unhurried: Semaphore,
}

#[derive(Clone)]
enum State {
    /// Nobody has asked anything yet.
    Idle,
    /// The first attempt is under way.
    Connecting,
    Connected(Connection),
    /// Why, and how many attempts have ended without a connection.
    Gone(CallError, u64),
}

impl Link {
    /// Prepares the link; must be called within a Tokio runtime.
    pub(super) fn new(client: &Client, peer: PeerId, addresses: Vec<SocketAddr>) -> Self {
        let shared = Arc::new(Shared {
            client: client.clone(),
            peer,
            addresses: watch::Sender::new(addresses),
            state: watch::Sender::new(State::Idle),
            availability: watch::Sender::new(Availability::Reachable),
            wanted: Notify::new(),
            hurried: Notify::new(),
            unhurried: Semaphore::new(UNHURRIED_MAX),
        });
        let supervisor = tokio::spawn(supervise(Arc::clone(&shared))).abort_handle();
        Self { shared, supervisor }
    }

    pub(super) fn peer(&self) -> PeerId {
        self.shared.peer
    }

    pub(super) fn client(&self) -> &Client {
        &self.shared.client
    }

    pub(super) fn set_addresses(&self, addresses: Vec<SocketAddr>) {
        self.shared.addresses.send_if_modified(|known| {
            let changed = *known != addresses;
            *known = addresses;
            changed
        });
    }

    pub(super) fn availability(&self) -> watch::Receiver<Availability> {
        self.shared.availability.subscribe()
    }

    /// Where the peer is connected at present.
    pub(super) fn address(&self) -> Option<SocketAddr> {
        match &*self.shared.state.borrow() {
            State::Connected(connection) => Some(canonical(connection.remote_address())),
            State::Idle | State::Connecting | State::Gone(..) => None,
        }
    }

    /// Limits the reads for which nobody waits.
    pub(super) fn unhurried(&self) -> &Semaphore {
        &self.shared.unhurried
    }

    /// The connection; fails at once while the peer is gone.
    pub(super) async fn connection(&self) -> Result<Connection, CallError> {
        self.shared.wanted.notify_one();
        let mut state = self.shared.state.subscribe();
        let settled = |state: &State| matches!(state, State::Connected(_) | State::Gone(..));
        match state.wait_for(settled).await.as_deref() {
            Ok(State::Connected(connection)) => Ok(connection.clone()),
            Ok(State::Gone(why, _)) => Err(why.clone()),
            Ok(State::Idle | State::Connecting) | Err(_) => {
                Err(CallError::Unreachable("it is not wanted".into()))
            }
        }
    }

    /// The connection, after another attempt if need be; or the reason why that failed. At `end`, the last reason, where
    /// one is known.
    pub(super) async fn connection_by(&self, end: Instant) -> Result<Connection, Option<CallError>> {
        let mut state = self.shared.state.subscribe();
        let before = state.borrow().failures();
        self.shared.wanted.notify_one();
        if before.is_some() {
            // Also where the pause is about to begin.
            self.shared.hurried.notify_one();
        }
        let tried = |state: &State| match state {
            State::Connected(_) => true,
            State::Gone(_, failures) => Some(*failures) != before,
            State::Idle | State::Connecting => false,
        };
        // In time or not: what it has come to is what counts.
        drop(timeout_at(end, state.wait_for(tried)).await);
        match &*state.borrow() {
            State::Connected(connection) => Ok(connection.clone()),
            State::Gone(why, _) => Err(Some(why.clone())),
            State::Idle | State::Connecting => Err(None),
        }
    }

    /// After a failure on `connection`: whether it has ended. If so, waits until the link no longer offers it.
    pub(super) async fn notice_end_of(&self, connection: &Connection) -> bool {
        if connection.close_reason().is_none() {
            return false;
        }
        let ended = connection.stable_id();
        let mut state = self.shared.state.subscribe();
        let other = |state: &State| !matches!(state, State::Connected(c) if c.stable_id() == ended);
        // In time or not, the caller's own error stands.
        drop(timeout(NOTICE_MAX, state.wait_for(other)).await);
        true
    }
}

impl State {
    fn failures(&self) -> Option<u64> {
        match self {
            Self::Gone(_, failures) => Some(*failures),
            Self::Idle | Self::Connecting | Self::Connected(_) => None,
        }
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.supervisor.abort();
        if let State::Connected(connection) = &*self.shared.state.borrow() {
            connection.close(CloseCode::Finished.code(), b"");
        }
    }
}

async fn supervise(shared: Arc<Shared>) {
    let mut addresses = shared.addresses.subscribe();
    let mut pause = PAUSE_MIN;
    let mut failures = 0;
    shared.wanted.notified().await;
    shared.state.send_replace(State::Connecting);
    loop {
        let started = Instant::now();
        let (why, since) = match shared.connect(&mut addresses).await {
            Ok(connection) => {
                let end = shared.hold(connection, &mut addresses).await;
                (codes::connection_lost(&end), unheard_since(&end))
            }
            Err(why) => (why, Instant::now()),
        };
        failures += 1;
        shared.gone(why, since, failures);
        if started.elapsed() >= STABLE {
            pause = PAUSE_MIN;
        }
        tokio::select! {
            () = sleep(pause) => pause = (pause * 2).min(PAUSE_MAX),
            _ = addresses.changed() => pause = PAUSE_MIN,
            () = shared.hurried.notified() => {}
        }
    }
}

/// Since when nothing had been heard on a connection that ended so, at the latest: silence ends one only after
/// [`IDLE_MAX`], and the time a reader waits is counted from its beginning.
fn unheard_since(end: &ConnectionError) -> Instant {
    let now = Instant::now();
    match end {
        ConnectionError::TimedOut => now.checked_sub(IDLE_MAX).unwrap_or(now),
        ConnectionError::VersionMismatch
        | ConnectionError::TransportError(_)
        | ConnectionError::ConnectionClosed(_)
        | ConnectionError::ApplicationClosed(_)
        | ConnectionError::Reset
        | ConnectionError::LocallyClosed
        | ConnectionError::CidsExhausted => now,
    }
}

impl Shared {
    async fn connect(
        &self,
        addresses: &mut watch::Receiver<Vec<SocketAddr>>,
    ) -> Result<Connection, CallError> {
        let addresses = addresses.borrow_and_update().clone();
        let connected = connect::first(&self.client, &addresses, Some(self.peer)).await?;
        Ok(connected.connection)
    }

    /// Offers the connection until it ends; why it did.
    async fn hold(
        &self,
        mut connection: Connection,
        addresses: &mut watch::Receiver<Vec<SocketAddr>>,
    ) -> ConnectionError {
        loop {
            self.reachable(&connection);
            tokio::select! {
                end = connection.closed() => return end,
                // Requests under way on the old one end on it; it closes with the last of them.
                moved = self.moved(&connection, addresses) => connection = moved,
            }
        }
    }

    /// A connection to where the peer has moved, once its addresses no longer hold the present one and another of them
    /// answers.
    async fn moved(
        &self,
        connection: &Connection,
        addresses: &mut watch::Receiver<Vec<SocketAddr>>,
    ) -> Connection {
        loop {
            if addresses.changed().await.is_err() {
                // Nobody can change them any more: the link is about to be dropped.
                std::future::pending::<()>().await;
            }
            let here = canonical(connection.remote_address());
            if addresses.borrow().iter().any(|address| canonical(*address) == here) {
                continue;
            }
            if let Ok(moved) = self.connect(addresses).await {
                return moved;
            }
        }
    }

    fn reachable(&self, connection: &Connection) {
        self.state.send_replace(State::Connected(connection.clone()));
        let was_gone = self.availability.send_if_modified(|availability| {
            let was_gone = *availability != Availability::Reachable;
            *availability = Availability::Reachable;
            was_gone
        });
        if was_gone {
            tracing::info!(peer = %self.peer.short(), address = %connection.remote_address(), "the peer is back");
        }
    }

    fn gone(&self, why: CallError, since: Instant, failures: u64) {
        let text = why.to_string();
        let is_news = self.availability.send_if_modified(|availability| match availability {
            Availability::Gone { why, .. } => {
                let changed = *why != text;
                why.clone_from(&text);
                changed
            }
            Availability::Reachable => {
                *availability = Availability::Gone { since, why: text.clone() };
                true
            }
        });
        if is_news {
            tracing::info!(peer = %self.peer.short(), why = %text, "the peer is gone");
        }
        self.state.send_replace(State::Gone(why, failures));
    }
}
