//! From an empty process to a node that answers, and back.
//!
//! Order of a start: what can fail for reasons the user must mend comes first and leaves nothing running (home, lock,
//! configuration, key, registry); then whoever peers reach (QUIC, discovery); the API's socket comes last, so that a
//! node that answers can be used; it is ready when the mounts it found are served again. A stop goes the other way round. Replicas' processes are left alone by both.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use tokio::net::UnixListener;
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use twinshare_transport::client::Client;
use twinshare_transport::identity::{Identity, IdentityError};
use twinshare_transport::protocol::Hello;
use twinshare_transport::server::Server;

use super::signals::Signals;
use super::{Node, Peers, announce, listen, privilege};
use crate::api::wire::{Mode, UnixTime};
use crate::api::{router, server};
use crate::config::Config;
use crate::discovery::{Announcement, Discovery};
use crate::home::{Home, HomeError, NodeLock, socket};
use crate::log::{self, LogError};
use crate::operation::Operations;
use crate::registry::{Registry, RegistryError};
use crate::replica::Replicas;
use crate::share::{ShareError, Shares};
use crate::yaml::YamlError;

/// How long requests under way get to end when the node stops.
const REQUESTS_GRACE: Duration = Duration::from_secs(2);

/// How long operations get to undo what they began.
const OPERATIONS_GRACE: Duration = Duration::from_secs(3);

/// How long blocking calls (a walk of a large tree) get before the process ends under them. They only read.
const BLOCKING_GRACE: Duration = Duration::from_millis(500);

/// How long a node may take to serve its mounts again before it counts as ready without them. A peer that is there
/// gives a manifest in much less; one that does not answer is told from one that is slow only after half a minute.
const RESUME_WITHIN: Duration = Duration::from_secs(5);

/// Leases last for days: looking at them more often would gain nothing.
const COLLECT_EVERY: Duration = Duration::from_secs(3600);

/// No stop lasts longer: the graces, discovery's goodbye and the server's farewell of a second each, and some air.
pub const STOP_WITHIN: Duration = Duration::from_secs(10);

/// Why a node does not run.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    /// The home cannot be used, or a node runs on it already.
    #[error(transparent)]
    Home(#[from] HomeError),
    /// The configuration is wrong.
    #[error(transparent)]
    Config(#[from] YamlError),
    /// There is no log.
    #[error(transparent)]
    Log(#[from] LogError),
    /// The node's key cannot be used.
    #[error("the node's key cannot be used: {0}")]
    Identity(#[from] IdentityError),
    /// The registry cannot be used.
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// What is shared cannot be told.
    #[error(transparent)]
    Shares(#[from] ShareError),
    /// The operating system refused something.
    #[error("{what}: {source}")]
    System {
        /// What was being done.
        what: &'static str,
        /// What the system said.
        source: io::Error,
    },
}

fn system(what: &'static str) -> impl FnOnce(io::Error) -> NodeError {
    move |source| NodeError::System { what, source }
}

/// Runs a node on `home` in this process until it is told to stop: by SIGTERM, SIGINT, SIGHUP or its API.
///
/// To be called while the process has one thread: as root it gives up a capability, which is a thread's own.
pub fn run(home: &Home) -> Result<(), NodeError> {
    home.prepare()?;
    let lock = home.lock()?;
    let config = Config::load(&home.config_file())?;
    log::start(&home.log(), config.log)?;
    let outcome = run_alone(home, config, lock);
    if let Err(error) = &outcome {
        tracing::error!(%error, "the node cannot run");
    }
    outcome
}

fn run_alone(home: &Home, config: Config, lock: NodeLock) -> Result<(), NodeError> {
    if privilege::mode() == Mode::Root {
        privilege::drop_sys_admin().map_err(system("CAP_SYS_ADMIN cannot be given up"))?;
    }
    if let Err(error) = privilege::raise_descriptor_limit() {
        tracing::warn!(%error, "the limit of open files cannot be raised");
    }
    if let Err(error) = home.tell_others() {
        tracing::warn!(%error, "what runs at the user's other nodes may see this node's state");
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let runtime = runtime.map_err(system("the runtime cannot be made"))?;
    let outcome = runtime.block_on(async {
        let mut signals = Signals::listen().map_err(system("signals cannot be handled"))?;
        let running = RunningNode::start(home, config, lock).await?;
        tokio::select! {
            signal = signals.next() => tracing::info!(signal, "stopping"),
            () = running.node.stopping().cancelled() => {}
        }
        running.stop().await;
        Ok(())
    });
    runtime.shutdown_timeout(BLOCKING_GRACE);
    outcome
}

/// A node that answers. Dropping it ends it without a goodbye; [`stop`](Self::stop) is the way.
#[derive(Debug)]
pub struct RunningNode {
    node: Arc<Node>,
    server: Server,
    api: JoinHandle<()>,
    announcing: JoinHandle<()>,
    background: Vec<JoinHandle<()>>,
    /// Held until the last of the node is gone.
    _lock: NodeLock,
}

impl RunningNode {
    /// Starts a node on a prepared home whose lock is `lock`. Ready when it returns. Within a Tokio runtime.
    pub async fn start(home: &Home, config: Config, lock: NodeLock) -> Result<Self, NodeError> {
        let identity = Identity::load_or_create(&home.identity_key())?;
        let registry = Registry::open(home.registry()).await?;
        let shares = Arc::new(Shares::open(home.clone(), registry.clone(), config.name.clone()).await?);
        let server = listen::bind(&identity, &config.listen, shares.clone());
        let server = server.map_err(system("peers cannot be listened for"))?;
        let client = Client::new(&identity, Hello::new(config.name.as_str()));
        let client = client.map_err(system("no socket for connections to peers"))?;
        let discovery = discovery(&config, &identity, &shares, server.local_address());
        let seen = match &discovery {
            Some(discovery) => discovery.seen(),
            None => watch::Sender::default().subscribe(),
        };
        let peers = Arc::new(Peers::new(identity.peer_id(), client, registry.clone(), seen));
        let replicas = Replicas::new(home.clone(), peers.clone());
        let life = life();
        let node = Arc::new(Node {
            operations: Operations::new(life.clone()),
            life,
            home: home.clone(),
            config,
            peer: identity.peer_id(),
            listening: server.local_address(),
            started: (UnixTime::now(), Instant::now()),
            registry,
            shares,
            peers,
            replicas: replicas.clone(),
            asked: Notify::new(),
            ready: AtomicBool::new(false),
            stopping: CancellationToken::new(),
        });
        let listener = api_listener(home).map_err(system("the API's socket cannot be made"))?;
        let serving = server::serve(listener, router(node.clone()), node.stopping.clone(), REQUESTS_GRACE);
        replicas.resume();
        node.ready.store(replicas.is_resumed(), Relaxed);
        let (resuming, coming_up) = (replicas.clone(), node.clone());
        let (kept, resolved, collected) = (node.peers.clone(), node.peers.clone(), node.shares.clone());
        let running = Self {
            server,
            api: tokio::spawn(serving),
            announcing: tokio::spawn(announce::follow(discovery, node.clone())),
            background: vec![
                tokio::spawn(async move {
                    // In time or not: nobody waits longer for mounts whose peer is away.
                    drop(tokio::time::timeout(RESUME_WITHIN, resuming.resumed()).await);
                    coming_up.ready.store(true, Relaxed);
                }),
                tokio::spawn(async move { kept.let_go_of_unused().await }),
                tokio::spawn(async move { resolved.resolve_again().await }),
                tokio::spawn(announce::follow_moves(node.clone(), replicas)),
                tokio::spawn(async move { collect_snapshots(&collected).await }),
            ],
            node,
            _lock: lock,
        };
        let (peer, address) = (running.node.peer, running.node.listening);
        tracing::info!(%peer, %address, version = env!("CARGO_PKG_VERSION"), "the node is ready");
        Ok(running)
    }

    /// What it consists of.
    pub fn node(&self) -> &Arc<Node> {
        &self.node
    }

    /// Stops it within [`STOP_WITHIN`]. Mounts and running programs stay; the next node on this home finds them.
    pub async fn stop(self) {
        let begun = Instant::now();
        self.node.stopping.cancel();
        for task in &self.background {
            task.abort();
        }
        let ends = async {
            // Requests may wait for operations, which may wait for peers: all are asked to end at once.
            let (api, announcing, ()) =
                tokio::join!(self.api, self.announcing, self.node.operations.stop(OPERATIONS_GRACE));
            for died in [api, announcing].into_iter().filter_map(Result::err) {
                tracing::error!(error = %died, "a part of the node died");
            }
            self.server.shutdown().await;
        };
        if tokio::time::timeout(STOP_WITHIN, ends).await.is_err() {
            tracing::warn!("the node did not end in time and is cut off");
        }
        if let Err(error) = std::fs::remove_file(self.node.home.api_socket()) {
            tracing::debug!(%error, "the API's socket was gone already");
        }
        tracing::info!(took = ?begun.elapsed(), "the node has stopped");
    }
}

fn api_listener(home: &Home) -> io::Result<UnixListener> {
    let listener = socket::listen(&home.api_socket())?;
    listener.set_nonblocking(true)?;
    UnixListener::from_std(listener)
}

fn discovery(config: &Config, identity: &Identity, shares: &Shares, at: SocketAddr) -> Option<Discovery> {
    let workspaces = shares.open_to_all().borrow().clone();
    let announcement = Announcement { name: config.name.clone(), port: at.port(), workspaces };
    config.discovery.enabled.then(|| Discovery::start(&config.discovery, identity, announcement))
}

/// Ends leases whose time is over, again and again.
async fn collect_snapshots(shares: &Shares) {
    loop {
        tokio::time::sleep(COLLECT_EVERY).await;
        if let Err(error) = shares.collect(SystemTime::now()).await {
            tracing::warn!(%error, "old snapshots cannot be removed");
        }
    }
}

/// Eight digits that no other life of this node has: the moment of its start and its process.
fn life() -> String {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let moment = [since.as_nanos().to_le_bytes().as_slice(), &std::process::id().to_le_bytes()].concat();
    blake3::hash(&moment).to_hex()[..8].to_owned()
}

#[cfg(test)]
mod tests;
