//! The process that serves mounts: one for each clone, one for all views.
//!
//! It outlives the node: it has a session, a log and a connection to the peer of its own, and all it needs to know
//! lies in [specs](super::spec::Spec). The node steers it over its [control](super::control) socket. It ends by itself
//! when it has nothing left to serve.

use std::collections::HashMap;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::net::{UnixListener, UnixStream};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::Notify;
use twinshare_fs::fuse::Mounter;
use twinshare_transport::client::{Client, Remote};
use twinshare_transport::identity::{Identity, PeerId};
use twinshare_transport::protocol::Hello;

use super::LOG;
use super::control::{Answer, Failure, Line, Request, SOCKET};
use super::served::Served;
use super::spec::Spec;
use crate::config::{Config, ConfigError};
use crate::home::{Home, socket};
use crate::log::{self, LogError};

/// How long a process without anything to serve waits for its first order: the node that started it may have died.
const IDLE_MAX: Duration = Duration::from_secs(60);

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
    Config(#[from] ConfigError),
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
        let host = Arc::new(Host::new(home.clone(), client, mounter));
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
    client: Client,
    /// One lock for both maps, held for map operations only and never across an `.await`.
    state: Mutex<State>,
    /// Rung when something ended.
    changed: Notify,
}

#[derive(Default)]
struct State {
    served: HashMap<String, Arc<Served>>,
    /// One connection a peer, however many of its workspaces are served.
    remotes: HashMap<PeerId, Remote>,
    /// Orders being carried out, or whose answer is on its way: the process must not end under them.
    orders: usize,
    /// Something has been served, or could not be: without more to serve, the process has done its work.
    done: bool,
}

/// An order from its arrival until its answer has been sent.
struct Order<'h>(&'h Host);

impl<'h> Order<'h> {
    fn begin(host: &'h Host) -> Self {
        host.state().orders += 1;
        Self(host)
    }
}

impl Drop for Order<'_> {
    fn drop(&mut self) {
        self.0.state().orders -= 1;
        self.0.changed.notify_one();
    }
}

impl Host {
    fn new(home: Home, client: Client, mounter: Mounter) -> Self {
        Self { home, mounter, client, state: Mutex::default(), changed: Notify::new() }
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes orders until nothing is left to serve.
    async fn serve(self: Arc<Self>, listener: UnixListener) -> io::Result<()> {
        let mut terminate = signal(SignalKind::terminate())?;
        let mut idle_max = IDLE_MAX;
        loop {
            tokio::select! {
                accepted = listener.accept() => match accepted {
                    Ok((stream, _)) => drop(tokio::spawn(self.clone().converse(stream))),
                    Err(error) => tracing::warn!(%error, "the control socket cannot be accepted on"),
                },
                () = self.changed.notified() => if self.state().done {
                    idle_max = Duration::ZERO;
                },
                _ = terminate.recv() => self.detach_all().await,
                () = tokio::time::sleep(idle_max), if self.is_idle() => return Ok(()),
            }
        }
    }

    fn is_idle(&self) -> bool {
        let state = self.state();
        state.served.is_empty() && state.orders == 0
    }

    async fn converse(self: Arc<Self>, stream: UnixStream) {
        let user = rustix::process::geteuid().as_raw();
        if !stream.peer_cred().is_ok_and(|peer| peer.uid() == user || peer.uid() == 0) {
            return;
        }
        let mut line = Line::new(stream);
        while let Ok(Some(request)) = line.receive::<Request>().await {
            let order = Order::begin(&self);
            let answer = self.clone().carry_out(request).await;
            let sent = line.send(&answer).await;
            drop(order);
            if sent.is_err() {
                return;
            }
        }
    }

    async fn carry_out(self: Arc<Self>, request: Request) -> Answer {
        let outcome = match request {
            Request::Attach(spec) => self.attach(*spec).await,
            Request::Detach { id } => self.detach(&id).await,
            Request::Addresses { peer, addresses } => {
                if let Some(remote) = self.state().remotes.get(&peer) {
                    remote.set_addresses(addresses);
                }
                Ok(())
            }
            Request::Status => {
                let served: Vec<_> = self.state().served.values().cloned().collect();
                return Answer::Status(served.iter().map(|served| served.report()).collect());
            }
        };
        outcome.map_or_else(Answer::Failed, |()| Answer::Done)
    }

    /// The order goes on when whoever gave it is gone: a mount half made would be worse than one nobody asked about.
    async fn attach(self: Arc<Self>, spec: Spec) -> Result<(), Failure> {
        let remote = {
            let mut state = self.state();
            if state.served.contains_key(&spec.id) {
                return Ok(());
            }
            state
                .remotes
                .entry(spec.peer)
                .or_insert_with(|| Remote::new(&self.client, spec.peer, spec.addresses.clone()))
                .clone()
        };
        let (id, host) = (spec.id.clone(), self.clone());
        let started = tokio::spawn(async move { Served::start(&host, spec, remote).await }).await;
        let started = started.unwrap_or_else(|died| Err(Failure::Other(died.to_string())));
        let mut state = self.state();
        state.done = true;
        let served = Arc::new(started?);
        state.served.insert(id, served.clone());
        drop(state);
        tokio::spawn(self.clone().watch(served));
        Ok(())
    }

    async fn detach(&self, id: &str) -> Result<(), Failure> {
        let served = self.state().served.get(id).cloned().ok_or(Failure::NoSuchReplica)?;
        served.unmount().await?;
        self.forget(&served);
        Ok(())
    }

    async fn detach_all(&self) {
        let served: Vec<_> = self.state().served.keys().cloned().collect();
        for id in served {
            if let Err(failure) = self.detach(&id).await {
                tracing::warn!(replica = id, %failure, "stays mounted");
            }
        }
    }

    /// Stops serving what is no longer mounted, also when somebody unmounted it by hand.
    async fn watch(self: Arc<Self>, served: Arc<Served>) {
        served.ended().await;
        self.forget(&served);
    }

    fn forget(&self, served: &Served) {
        let mut state = self.state();
        state.served.remove(&served.spec().id);
        let peer = served.spec().peer;
        if !state.served.values().any(|other| other.spec().peer == peer) {
            // An attach under way holds its own handle on the connection.
            state.remotes.remove(&peer);
        }
        drop(state);
        self.changed.notify_one();
    }
}
