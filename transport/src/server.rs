//! The side that answers: accepts connections, lets one seam admit each request, and serves any origin.
//!
//! Everything a stranger can make this node spend is bounded, here and in [`crate::tuning`]:
//!
//! | what | bound | at the bound |
//! |---|---|---|
//! | handshakes under way | 64, each 5 s | above 16 the address must prove itself (Retry), above 64 it is refused |
//! | connections | 256, per address (of IPv6, network of 64 bits) 64, per peer 16 | the new one is closed as too busy |
//! | requests open on a connection | 128 | QUIC gives no more stream credit; the client waits |
//! | time to send a request | 10 s | refused |
//! | reads in the making | demand 96, others 32; per address 48 and 16; per peer 32 and 12 | waits 10 s, then refused as too busy |
//! | snapshots and manifests, catalogues in the making | 64, 32; per address 32, 16; per peer 8, 4 | the same |
//! | watches | 256; per address 128; per peer 32; each at most a minute | the same |
//! | memory of an answer | the origin's channel of 2 MiB, one run, 32 KiB gathered | the origin waits |
//! | unacknowledged bytes of a connection | twice what its link holds, 1 to 16 MiB; above 1 MiB, 256 MiB of all | the answer waits |
//! | time for one run to be taken | 60 s | the stream is reset: a reader that takes less than 17 KiB/s |
//! | time for the origin to deliver | 60 s | refused as failed |
//! | a connection without a sign of life | 5 s | ends, and all its requests with it |

use std::fmt;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Weak};
use std::time::Duration;

use quinn::{AsyncUdpSocket, Connection, Endpoint, Incoming, Runtime, TokioRuntime};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use twinshare_fs::manifest::SnapshotId;
use twinshare_fs::origin::Origin;

use crate::codes::CloseCode;
use crate::identity::{Identity, PeerId};
use crate::protocol::{Hello, Offer, Refusal, Request, SnapshotInfo};
use crate::{tls, tuning};

mod deliver;
mod peers;
mod request;

use peers::{Peers, Place};
use request::Work;

/// Handshakes under way at most; each holds some 10 KiB.
const HANDSHAKES_MAX: usize = 64;

/// Above this many, an address has to prove that it receives what is sent to it, which keeps forged ones out.
const HANDSHAKES_UNPROVEN_MAX: usize = 16;

/// How long a handshake may take: a few round trips, some lost.
const HANDSHAKE_MAX: Duration = Duration::from_secs(5);

/// How long a shutdown waits for the peers to hear of it.
const FAREWELL_MAX: Duration = Duration::from_secs(1);

/// How often it looks whether the port is free.
const POLL: Duration = Duration::from_millis(1);

/// What a [`Service`] returns: a future that yields the answer or the reason why there is none.
pub type Reply<'a, T> = Pin<Box<dyn Future<Output = Result<T, Refusal>> + Send + 'a>>;

/// Who asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Caller {
    /// The peer, proven by its handshake.
    pub peer: PeerId,
    /// Where its packets come from at present.
    pub address: SocketAddr,
}

/// What a node offers to its peers. The server decides nothing by itself: this trait does.
///
/// The futures are dropped when the peer cancels the request, its connection ends or the server's own limit for the
/// request has passed; whatever must not be left half done belongs into a task of its own.
pub trait Service: Send + Sync + 'static {
    /// The one seam: called for every request, with its whole content, before anything else is done for it. The other
    /// methods are called only for requests that passed. Must not block.
    fn admit(&self, caller: &Caller, request: &Request) -> Result<(), Refusal>;

    /// Whether an answer that reads `snapshot` may go on: asked before each of its items, so that what is withdrawn
    /// ends answers that are under way. Must not block.
    fn may_go_on(&self, caller: &Caller, snapshot: SnapshotId) -> Result<(), Refusal>;

    /// Who this node is; `theirs` is how the caller introduced itself (a hint, not a proof). Must not block.
    fn hello(&self, caller: &Caller, theirs: &Hello) -> Hello;

    /// The workspaces this caller may know of; at most [`crate::protocol::OFFERS_MAX`] are sent. Has ten seconds.
    fn catalogue<'a>(&'a self, caller: &'a Caller) -> Reply<'a, Vec<Offer>>;

    /// Freezes a snapshot of `workspace`, or with `at` makes sure that one still is. Has ten minutes, less where the
    /// caller has less patience.
    fn open_snapshot<'a>(
        &'a self,
        caller: &'a Caller,
        workspace: &'a str,
        at: Option<SnapshotId>,
    ) -> Reply<'a, SnapshotInfo>;

    /// Waits until `workspace` has a snapshot other than `base`, and gives the caller what
    /// [`open_snapshot`](Self::open_snapshot) would. Dropped after a minute
    /// ([`WATCH_MAX`](crate::protocol::WATCH_MAX)), which is no failure.
    fn watch<'a>(
        &'a self,
        caller: &'a Caller,
        workspace: &'a str,
        base: SnapshotId,
    ) -> Reply<'a, SnapshotInfo>;

    /// What serves a snapshot to this caller. Has ten seconds.
    fn origin<'a>(&'a self, caller: &'a Caller, snapshot: SnapshotId) -> Reply<'a, Arc<dyn Origin>>;
}

/// A listening node. Dropping it ends all its connections at once.
pub struct Server {
    endpoint: Endpoint,
    address: SocketAddr,
    shared: Arc<Shared>,
    /// Gone when the port is free again.
    socket: Weak<dyn AsyncUdpSocket>,
}

/// What all connections share.
struct Shared {
    service: Arc<dyn Service>,
    peers: Peers,
    work: Work,
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server").field("address", &self.address).finish_non_exhaustive()
    }
}

impl Server {
    /// Listens on `address` (UDP) and serves until it is shut down. Must be called within a Tokio runtime.
    pub fn bind(identity: &Identity, address: SocketAddr, service: Arc<dyn Service>) -> io::Result<Self> {
        let config = tuning::server_config(tls::server(identity).map_err(io::Error::other)?);
        let socket = TokioRuntime.wrap_udp_socket(tuning::listen(address)?)?;
        let held = Arc::downgrade(&socket);
        let runtime = Arc::new(TokioRuntime);
        let endpoint = tuning::server_endpoint(identity);
        let endpoint = Endpoint::new_with_abstract_socket(endpoint, Some(config), socket, runtime)?;
        let address = endpoint.local_addr()?;
        let shared = Arc::new(Shared { service, peers: Peers::default(), work: Work::for_all() });
        tokio::spawn(accept(endpoint.clone(), Arc::clone(&shared)));
        Ok(Self { endpoint, address, shared, socket: held })
    }

    /// The address it listens on, with the port that was chosen where none was given.
    pub fn local_address(&self) -> SocketAddr {
        self.address
    }

    /// Ends every connection of `peer`: after its grants have changed, it has to ask again.
    pub fn disconnect(&self, peer: &PeerId) {
        for connection in self.shared.peers.connections(peer) {
            connection.close(CloseCode::AskAgain.code(), b"");
        }
    }

    /// Accepts nothing more, ends what is under way, tells all peers, and waits until they have heard and the port is
    /// free again; at most a second.
    pub async fn shutdown(self) {
        self.endpoint.close(CloseCode::ShuttingDown.code(), b"");
        let socket = self.socket.clone();
        let farewell = async move {
            self.endpoint.wait_idle().await;
            drop(self);
            // The endpoint's own task lets go of the socket when it next runs.
            while socket.strong_count() > 0 {
                sleep(POLL).await;
            }
        };
        // Peers that do not answer learn it from their own idle timeout.
        let _ = timeout(FAREWELL_MAX, farewell).await;
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.endpoint.close(CloseCode::ShuttingDown.code(), b"");
    }
}

/// Takes in whoever knocks, until the endpoint is closed.
async fn accept(endpoint: Endpoint, shared: Arc<Shared>) {
    let handshakes = Arc::new(Semaphore::new(HANDSHAKES_MAX));
    let mut connections = JoinSet::new();
    while let Some(incoming) = endpoint.accept().await {
        while connections.try_join_next().is_some() {}
        let Some((incoming, handshake)) = consider(incoming, &handshakes) else { continue };
        connections.spawn(serve(Arc::clone(&shared), incoming, handshake));
    }
}

/// Decides whether a handshake may begin.
fn consider(incoming: Incoming, handshakes: &Arc<Semaphore>) -> Option<(Incoming, OwnedSemaphorePermit)> {
    let Ok(handshake) = Arc::clone(handshakes).try_acquire_owned() else {
        incoming.refuse();
        return None;
    };
    let under_way = HANDSHAKES_MAX - handshakes.available_permits();
    if under_way > HANDSHAKES_UNPROVEN_MAX && !incoming.remote_address_validated() && incoming.may_retry() {
        // Fails only where `may_retry` was false.
        let _ = incoming.retry();
        return None;
    }
    Some((incoming, handshake))
}

/// One connection, from its handshake to its end. Dropping the future ends all its requests.
async fn serve(shared: Arc<Shared>, incoming: Incoming, handshake: OwnedSemaphorePermit) {
    let address = incoming.remote_address();
    let connection = match timeout(HANDSHAKE_MAX, incoming).await {
        Ok(Ok(connection)) => connection,
        Ok(Err(error)) => return tracing::debug!(%address, %error, "a handshake failed"),
        Err(_) => return tracing::debug!(%address, "a handshake took too long"),
    };
    drop(handshake);
    let Some(peer) = tls::peer_of(&connection) else {
        return tracing::warn!(%address, "a connection without a peer's key was closed");
    };
    let Some(place) = shared.peers.enter(peer, &connection) else {
        tracing::warn!(%address, peer = %peer.short(), "a connection was refused: there are too many");
        return connection.close(CloseCode::TooBusy.code(), b"");
    };
    tracing::debug!(%address, peer = %peer.short(), "connected");
    serve_requests(&shared, &connection, peer, Arc::new(place)).await;
}

async fn serve_requests(shared: &Arc<Shared>, connection: &Connection, peer: PeerId, place: Arc<Place>) {
    let mut requests = JoinSet::new();
    loop {
        let (send, receive) = match connection.accept_bi().await {
            Ok(streams) => streams,
            Err(error) => return tracing::debug!(peer = %peer.short(), %error, "disconnected"),
        };
        while let Some(ended) = requests.try_join_next() {
            if let Err(error) = ended {
                tracing::error!(peer = %peer.short(), %error, "a request failed in an unforeseen way");
            }
        }
        let caller = Caller { peer, address: canonical(connection.remote_address()) };
        requests.spawn(request::serve(Arc::clone(shared), caller, Arc::clone(&place), send, receive));
    }
}

/// The address without the IPv6 form that a socket for both families gives to IPv4.
pub(crate) fn canonical(address: SocketAddr) -> SocketAddr {
    match address.ip().to_canonical() {
        ip if ip == address.ip() => address,
        ip => SocketAddr::new(ip, address.port()),
    }
}
