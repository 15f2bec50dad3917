//! Every other node this one knows of, and its connections to them.
//!
//! Two sources, neither copied: what discovery hears (a hint, gone when it falls silent) and what the registry
//! remembers (peers that once proved who they are). Connections are kept, one a peer, and made when something is
//! asked.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout_at};
use twinshare_transport::client::{CallError, Client, Remote};
use twinshare_transport::identity::PeerId;
use twinshare_transport::protocol::Offer;

use super::address::HostAddress;
use super::known::{KnownPeer, merge};
use crate::api::ApiError;
use crate::config::NodeName;
use crate::discovery::Seen;
use crate::registry::{Registry, RegistryError, Sighting};
use crate::replica::Connections;

/// How long a connection is kept that nobody asks for: between the steps of one command it stays.
const UNUSED_MAX: Duration = Duration::from_secs(30);

/// Connections kept at most. At the bound all are let go, and made again when something is asked.
const REMOTES_MAX: usize = 128;

/// Peers asked for their catalogue at a time.
const ASKED_AT_ONCE: usize = 64;

/// How often peers are looked for that were named by a host and are silent: a name looked up, and a few packets.
const RESOLVE_EVERY: Duration = Duration::from_secs(60);

/// How long a greeting may take.
const GREET_WITHIN: Duration = Duration::from_secs(5);

/// How long peers may take for their catalogues, all together.
pub(crate) const CATALOGUES_WITHIN: Duration = Duration::from_secs(6);

/// How long the other peers get at least, once one offers what was looked for.
const OTHERS_GET_MIN: Duration = Duration::from_millis(300);

/// How long a peer may take of which nothing was heard lately: ten times what a connection across a continent takes.
const ABSENT_WITHIN: Duration = Duration::from_secs(2);

/// All peers of a node.
#[derive(Debug)]
pub struct Peers {
    own: PeerId,
    client: Client,
    registry: Registry,
    /// What discovery hears; nothing, for ever, where it is switched off.
    seen: watch::Receiver<Seen>,
    /// Rung when a peer has been met at an address that the user named.
    met: watch::Sender<()>,
    /// Held for map operations only and never across an `.await`.
    remotes: Mutex<HashMap<PeerId, Kept>>,
}

/// A connection, and when it was last asked for.
#[derive(Debug)]
struct Kept {
    remote: Remote,
    used: Instant,
}

/// What a peer offers, or why it cannot be had.
pub(crate) type Catalogue = Result<Vec<Offer>, CallError>;

impl Peers {
    /// Knows what the registry and discovery do; connects to nobody yet.
    pub fn new(own: PeerId, client: Client, registry: Registry, seen: watch::Receiver<Seen>) -> Self {
        Self { own, client, registry, seen, met: watch::Sender::default(), remotes: Mutex::default() }
    }

    /// News of peers that were heard, and of peers that were met.
    pub(crate) fn news(&self) -> (watch::Receiver<Seen>, watch::Receiver<()>) {
        (self.seen.clone(), self.met.subscribe())
    }

    /// What discovery sees now.
    pub(crate) fn seen(&self) -> Seen {
        self.seen.borrow().clone()
    }

    /// All of them, those online first, then by name.
    pub(crate) async fn all(&self) -> Result<Vec<KnownPeer>, RegistryError> {
        let remembered = self.registry.call(|tables| tables.peers()).await?;
        let seen = self.seen();
        Ok(merge(&seen, remembered, SystemTime::now()))
    }

    /// Greets the node at `address` and remembers it.
    pub(crate) async fn add(&self, address: &str) -> Result<KnownPeer, ApiError> {
        let host: HostAddress = address.parse()?;
        let addresses = host.resolve().await?;
        let greeted = self.client.greet(&addresses, None, GREET_WITHIN).await;
        let greeting = greeted.map_err(|error| ApiError::Call { peer: host.canonical(), error })?;
        if greeting.peer == self.own {
            return Err(ApiError::OwnAddress(host.canonical()));
        }
        let sighting = Sighting {
            peer: greeting.peer,
            name: NodeName::neutralised(&greeting.hello.name.to_string()),
            addresses: vec![greeting.address],
            host: Some(host.canonical()),
            public_key: None,
        };
        self.remember(sighting).await?;
        self.met.send_replace(());
        let all = self.all().await?;
        let found = all.into_iter().find(|peer| peer.id == greeting.peer);
        found.ok_or_else(|| ApiError::internal("a peer is gone from the registry right after it was added"))
    }

    /// What each of `peers` offers, in their order. Asks them side by side; who has not answered in time is
    /// [`CallError::Deadline`]. Once an answer is what was `wanted`, the others get no more than a moment.
    pub(crate) async fn catalogues(
        self: &Arc<Self>,
        peers: Vec<KnownPeer>,
        wanted: impl Fn(&Catalogue) -> bool,
    ) -> Vec<(KnownPeer, Catalogue)> {
        let began = Instant::now();
        let mut until = began + CATALOGUES_WITHIN;
        let room = Arc::new(Semaphore::new(ASKED_AT_ONCE));
        let mut asked = JoinSet::new();
        let mut answers: Vec<Catalogue> = vec![Err(CallError::Deadline(CATALOGUES_WITHIN)); peers.len()];
        for (place, peer) in peers.iter().cloned().enumerate() {
            let (this, room) = (self.clone(), room.clone());
            asked.spawn(async move {
                let _permit = room.acquire_owned().await;
                (place, this.catalogue(&peer).await)
            });
        }
        while let Ok(Some(answer)) = timeout_at(until, asked.join_next()).await {
            match answer {
                Ok((place, catalogue)) => {
                    if wanted(&catalogue) {
                        until = until.min(Instant::now() + others_get(began.elapsed()));
                    }
                    answers[place] = catalogue;
                }
                Err(died) => tracing::error!(error = %died, "asking a peer for its catalogue died"),
            }
        }
        peers.into_iter().zip(answers).collect()
    }

    async fn catalogue(&self, peer: &KnownPeer) -> Catalogue {
        let remote = self.remote(peer.id, &peer.addresses);
        let within = if peer.online { CATALOGUES_WITHIN } else { ABSENT_WITHIN };
        let offers = remote.catalogue(within).await?;
        let sighting = Sighting {
            peer: peer.id,
            name: peer.name.clone(),
            // Only where it is: the others are what somebody announced.
            addresses: remote.address().into_iter().collect(),
            host: None,
            public_key: None,
        };
        if let Err(error) = self.remember(sighting).await {
            tracing::warn!(%error, peer = %peer.id, "a peer cannot be remembered");
        }
        Ok(offers)
    }

    async fn remember(&self, sighting: Sighting) -> Result<(), RegistryError> {
        self.registry.call(move |tables| tables.meet_peer(&sighting, SystemTime::now())).await
    }

    /// Looks again for peers that the user named by a host, where nothing has been heard of them for a while: what the
    /// name stands for may have changed. Again and again.
    pub(crate) async fn resolve_again(&self) {
        loop {
            tokio::time::sleep(RESOLVE_EVERY).await;
            let records = match self.registry.call(|tables| tables.peers()).await {
                Ok(records) => records,
                Err(error) => {
                    tracing::warn!(%error, "remembered peers cannot be looked for");
                    continue;
                }
            };
            for record in records {
                let heard = self.seen.borrow().peers.iter().any(|peer| peer.peer == record.peer);
                let met = record.last_seen.and_then(|met| SystemTime::now().duration_since(met).ok());
                if heard || met.is_some_and(|since| since < RESOLVE_EVERY) {
                    continue;
                }
                if let Some(host) = record.host.as_ref().and_then(|host| host.parse::<HostAddress>().ok()) {
                    self.look_for(record.peer, &record.name, host).await;
                }
            }
        }
    }

    /// Notes where `peer` is, if it answers under its host's present addresses and they are new.
    async fn look_for(&self, peer: PeerId, name: &NodeName, host: HostAddress) {
        let Ok(addresses) = host.resolve().await else { return };
        let Ok(greeting) = self.client.greet(&addresses, Some(peer), GREET_WITHIN).await else { return };
        let sighting = Sighting {
            peer,
            name: name.clone(),
            addresses: vec![greeting.address],
            host: Some(host.canonical()),
            public_key: None,
        };
        match self.remember(sighting).await {
            Ok(()) => self.met.send_replace(()),
            Err(error) => tracing::warn!(%error, %peer, "a peer cannot be remembered"),
        }
    }

    /// Lets go of connections that nobody has asked for lately, again and again: a connection keeps itself alive.
    pub(crate) async fn let_go_of_unused(&self) {
        loop {
            tokio::time::sleep(UNUSED_MAX / 2).await;
            let now = Instant::now();
            let mut remotes = self.remotes.lock().unwrap_or_else(PoisonError::into_inner);
            remotes.retain(|_, kept| now.duration_since(kept.used) < UNUSED_MAX);
        }
    }
}

/// How long others may still take when what was looked for was found after `took`: three times as long as those that
/// answered, so that a name is ambiguous wherever peers are about equally far.
fn others_get(took: Duration) -> Duration {
    (took * 3).max(OTHERS_GET_MIN)
}

impl Connections for Peers {
    fn remote(&self, peer: PeerId, addresses: &[SocketAddr]) -> Remote {
        let now = Instant::now();
        let mut remotes = self.remotes.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(kept) = remotes.get_mut(&peer) {
            kept.used = now;
            kept.remote.set_addresses(addresses.to_vec());
            return kept.remote.clone();
        }
        if remotes.len() >= REMOTES_MAX {
            remotes.clear();
        }
        let remote = Remote::new(&self.client, peer, addresses.to_vec());
        remotes.insert(peer, Kept { remote: remote.clone(), used: now });
        remote
    }
}
