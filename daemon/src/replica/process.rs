//! The process that serves mounts: one for each clone, one for all views.
//!
//! It outlives the node: it has a session, a log and a connection to the peer of its own, and all it needs to know
//! lies in [specs](super::spec::Spec). The node steers it over its [control](super::control) socket. It ends by itself
//! when it has nothing left to serve.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{UnixListener, UnixStream};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::time::Instant;
use twinshare_fs::fuse::Mounter;
use twinshare_fs::replica::{Cache, CacheLimits, Evicted};
use twinshare_transport::client::Client;
use twinshare_transport::identity::Identity;
use twinshare_transport::protocol::Hello;

use super::LOG;
use super::caching::PRUNE_FOR;
use super::control::{
    Answer, CacheAnswer, CachePruned, CacheReport, CacheRequest, Failure, Line, PROTOCOL, Request, SOCKET,
};
use super::remotes::Remotes;
use super::roster::Roster;
use super::served::Served;
use super::spec::Spec;
use crate::api::wire::{Keep, WhyFound};
use crate::config::Config;
use crate::home::{Home, socket};
use crate::log::{self, LogError};
use crate::yaml::YamlError;

/// How long a process without anything to serve waits for its first order: the node that started it may have died.
const IDLE_MAX: Duration = Duration::from_secs(60);

/// The pause after a failure to accept, such as too many open files.
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);

/// Threads for waiting on peers and disks. Reads that are already here never come to them.
const WORKER_THREADS: usize = 2;

/// Why a replica process could not start.
#[derive(Debug, thiserror::Error)]
pub enum ProcessError {
    /// The socket, the runtime or the signals.
    #[error("{what}: {source}")]
    System {
        /// What was being set up.
        what: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// The configuration, which it shares with the node.
    #[error(transparent)]
    Config(#[from] YamlError),
    /// The log.
    #[error(transparent)]
    Log(#[from] LogError),
    /// The node's key.
    #[error("the node's key cannot be used: {0}")]
    Identity(String),
    /// QUIC.
    #[error("no QUIC endpoint: {0}")]
    Endpoint(String),
}

/// Runs the process called `key` (a clone's id, or [`super::spec::VIEWS`]) until it has nothing left to serve.
///
/// Must be called before the calling process has a second thread: as root it forks.
pub fn run(home: &Home, key: &str) -> Result<(), ProcessError> {
    let system = |what| move |source| ProcessError::System { what, source };
    // A process of its own in every respect: no terminal of whoever started the node may end it.
    let _ = rustix::process::setsid();
    let config = Config::load(&home.config_file())?;
    log::start(&home.replica(key).join(LOG), config.log)?;
    let mounter = Mounter::start().map_err(system("the helper that mounts"))?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(WORKER_THREADS)
        .enable_all()
        .build()
        .map_err(system("the runtime"))?;
    runtime.block_on(async {
        let identity = Identity::load_or_create(&home.identity_key())
            .map_err(|error| ProcessError::Identity(error.to_string()))?;
        let hello = Hello::new(&config.name.to_string());
        let client =
            Client::new(&identity, hello).map_err(|error| ProcessError::Endpoint(error.to_string()))?;
        let listener = listen(home, key).map_err(system("the control socket"))?;
        tracing::info!(process = key, mode = %mounter.mode(), "replica process started");
        let limits = config.cache.limits(home.cache());
        let host = Arc::new(Host::new(home.clone(), client, mounter, Cache::new(limits)));
        // It ends with the runtime.
        drop(tokio::spawn(host.cache.clone().tend()));
        host.serve(listener).await.map_err(system("the signals"))?;
        tracing::info!(process = key, "nothing left to serve");
        let _ = std::fs::remove_file(socket_path(home, key));
        Ok(())
    })
}

/// Where the process called `key` listens.
pub(super) fn socket_path(home: &Home, key: &str) -> PathBuf {
    home.replica(key).join(SOCKET)
}

fn listen(home: &Home, key: &str) -> io::Result<UnixListener> {
    let listener = socket::listen(&socket_path(home, key))?;
    listener.set_nonblocking(true)?;
    UnixListener::from_std(listener)
}

/// Everything the process serves.
pub(super) struct Host {
    pub(super) home: Home,
    pub(super) mounter: Mounter,
    /// That of all views.
    pub(super) cache: Arc<Cache>,
    /// Held while a pin is made or removed and written down.
    pinning: tokio::sync::Mutex<()>,
    remotes: Remotes,
    roster: Roster<Served>,
    orders: watch::Sender<Orders>,
}

/// The orders of a process.
#[derive(Default)]
struct Orders {
    /// Being carried out, or whose answer is on its way: the process must not end under them.
    under_way: usize,
    /// Something has been served, or could not be: without more to serve, the process has done its work.
    done: bool,
}

/// An order from its arrival until its answer has been sent.
struct Order<'h>(&'h Host);

impl<'h> Order<'h> {
    fn begin(host: &'h Host) -> Self {
        host.orders.send_modify(|orders| orders.under_way += 1);
        Self(host)
    }
}

impl Drop for Order<'_> {
    fn drop(&mut self) {
        self.0.orders.send_modify(|orders| orders.under_way -= 1);
    }
}

impl Host {
    fn new(home: Home, client: Client, mounter: Mounter, cache: Arc<Cache>) -> Self {
        Self {
            home,
            mounter,
            cache,
            pinning: tokio::sync::Mutex::default(),
            remotes: Remotes::new(client),
            roster: Roster::default(),
            orders: watch::Sender::default(),
        }
    }

    /// Takes orders until nothing is left to serve.
    async fn serve(self: Arc<Self>, listener: UnixListener) -> io::Result<()> {
        let mut terminate = signal(SignalKind::terminate())?;
        let (mut replicas, mut orders) = (self.roster.changes(), self.orders.subscribe());
        loop {
            let idle_max = if orders.borrow_and_update().done { Duration::ZERO } else { IDLE_MAX };
            tokio::select! {
                accepted = listener.accept() => match accepted {
                    Ok((stream, _)) => drop(tokio::spawn(self.clone().converse(stream))),
                    Err(error) => {
                        tracing::warn!(%error, "the control socket cannot be accepted on");
                        tokio::time::sleep(ACCEPT_AGAIN).await;
                    }
                },
                () = replicas.next() => {}
                // The sender lives as long as `self`.
                _ = orders.changed() => {}
                _ = terminate.recv() => drop(tokio::spawn(self.clone().detach_all())),
                () = tokio::time::sleep(idle_max), if self.is_idle() => return Ok(()),
            }
        }
    }

    fn is_idle(&self) -> bool {
        self.roster.is_empty() && self.orders.borrow().under_way == 0
    }

    async fn converse(self: Arc<Self>, stream: UnixStream) {
        let user = rustix::process::geteuid().as_raw();
        if !stream.peer_cred().is_ok_and(|peer| peer.uid() == user || peer.uid() == 0) {
            return;
        }
        let mut line = Line::new(stream);
        loop {
            let asked = match line.receive::<Request>().await {
                Ok(Some(request)) => Ok(request),
                Err(error) if error.kind() == io::ErrorKind::InvalidData => Err(error),
                Ok(None) | Err(_) => return,
            };
            let order = Order::begin(&self);
            let answer = match asked {
                Ok(request) => self.carry_out(request).await,
                Err(error) => Answer::Failed(Failure::Other(format!("the order is not understood: {error}"))),
            };
            let sent = line.send(&answer).await;
            drop(order);
            if sent.is_err() {
                return;
            }
        }
    }

    async fn carry_out(self: &Arc<Self>, request: Request) -> Answer {
        let outcome = match request {
            Request::Hello => return Answer::Hello { protocol: PROTOCOL },
            Request::Status => {
                return Answer::Status(self.roster.serving().iter().map(|served| served.report()).collect());
            }
            Request::Account { id, root, path } => {
                let told = self.account(&id, root, path).await;
                return told.map_or_else(Answer::Failed, |found| Answer::Account(found.map(Box::new)));
            }
            Request::Resolve { id, path, keep } => {
                let resolved = self.resolve(&id, path, keep).await;
                return resolved.map_or_else(Answer::Failed, Answer::Resolved);
            }
            Request::Cache(request) => {
                return self.about_cache(request).await.map_or_else(Answer::Failed, Answer::Cache);
            }
            Request::Attach(spec) => self.attach(*spec).await,
            Request::Detach { id } => self.detach(&id).await,
            Request::Settle { id } => self.settle(&id).await,
            Request::Hold { id } => self.hold(&id).await,
            Request::Addresses { peer, addresses } => {
                self.remotes.moved(peer, addresses);
                Ok(())
            }
        };
        outcome.map_or_else(Answer::Failed, |()| Answer::Done)
    }

    async fn attach(self: &Arc<Self>, spec: Spec) -> Result<(), Failure> {
        let (id, host) = (spec.id.clone(), self.clone());
        let remote = self.remotes.hold(spec.peer, &spec.addresses);
        let start = |cancel| async move { Served::start(&host, spec, remote, &cancel).await };
        let attached = self.roster.attach(&id, start).await;
        self.orders.send_modify(|orders| orders.done = true);
        attached
    }

    async fn detach(&self, id: &str) -> Result<(), Failure> {
        let detached = self.roster.detach(id).await;
        self.orders.send_modify(|orders| orders.done = true);
        detached
    }

    async fn settle(&self, id: &str) -> Result<(), Failure> {
        self.roster.find(id)?.settle_now().await?;
        // Copies of the mount may keep it from its last step for long: it is told of as settling meanwhile.
        self.roster.gone(id).await;
        Ok(())
    }

    async fn hold(&self, id: &str) -> Result<(), Failure> {
        self.roster.find(id)?.hold().await;
        Ok(())
    }

    async fn account(&self, id: &str, root: u32, path: String) -> Result<Option<WhyFound>, Failure> {
        self.roster.find(id)?.account(root, path).await
    }

    async fn about_cache(&self, request: CacheRequest) -> Result<CacheAnswer, Failure> {
        match request {
            CacheRequest::Status => Ok(CacheAnswer::Status(self.cache_report().await)),
            CacheRequest::Prune { unused_s } => self.prune(unused_s).await,
            CacheRequest::Pins { id } => self.roster.find(&id)?.pins().await,
            CacheRequest::Pin { id, pin } => {
                let _alone = self.pinning.lock().await;
                self.roster.find(&id)?.pin(pin).await
            }
            CacheRequest::Unpin { id, pin } => {
                let _alone = self.pinning.lock().await;
                self.roster.find(&id)?.unpin(pin).await
            }
        }
    }

    async fn cache_report(&self) -> CacheReport {
        let mut views = Vec::new();
        for served in self.roster.serving() {
            views.extend(served.cached().await);
        }
        let CacheLimits { bytes_max, free_bytes_min } = self.cache.limits();
        CacheReport { bytes: self.cache.bytes(), bytes_max, free_bytes_min, views }
    }

    async fn prune(&self, unused_s: u64) -> Result<CacheAnswer, Failure> {
        let (cache, until) = (self.cache.clone(), Instant::now() + PRUNE_FOR);
        let pruned = tokio::task::spawn_blocking(move || cache.prune(unused_s, until)).await;
        let (Evicted { files, bytes }, is_done) = pruned.map_err(|died| Failure::Other(died.to_string()))?;
        Ok(CacheAnswer::Pruned(CachePruned { files, bytes, is_done }))
    }

    async fn resolve(&self, id: &str, path: String, keep: Option<Keep>) -> Result<Option<u64>, Failure> {
        self.roster.find(id)?.resolve(path, keep).await
    }

    async fn detach_all(self: Arc<Self>) {
        for id in self.roster.ids() {
            if let Err(failure) = self.detach(&id).await {
                tracing::warn!(replica = id, %failure, "stays mounted");
            }
        }
    }
}
