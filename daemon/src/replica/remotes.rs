//! The connections of a replica process: one a peer, for as long as one of its workspaces is attached or served.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use twinshare_transport::client::{Client, Remote};
use twinshare_transport::identity::PeerId;

/// All connections. Cheap to clone; clones share them.
#[derive(Clone)]
pub(super) struct Remotes {
    client: Client,
    /// Held for map operations only and never across an `.await`.
    held: Arc<Mutex<HashMap<PeerId, (Remote, usize)>>>,
}

/// A connection in use. When the last one for its peer is dropped, the connection ends.
pub(super) struct HeldRemote {
    remotes: Remotes,
    pub(super) remote: Remote,
}

impl Remotes {
    pub(super) fn new(client: Client) -> Self {
        Self { client, held: Arc::default() }
    }

    /// The connection to `peer`, which is now found at `addresses`.
    pub(super) fn hold(&self, peer: PeerId, addresses: &[SocketAddr]) -> HeldRemote {
        let mut held = self.held();
        let fresh = || (Remote::new(&self.client, peer, addresses.to_vec()), 0);
        let (remote, users) = held.entry(peer).or_insert_with(fresh);
        *users += 1;
        remote.set_addresses(addresses.to_vec());
        HeldRemote { remotes: self.clone(), remote: remote.clone() }
    }

    /// Tells where a peer is now found.
    pub(super) fn moved(&self, peer: PeerId, addresses: Vec<SocketAddr>) {
        if let Some((remote, _)) = self.held().get(&peer) {
            remote.set_addresses(addresses);
        }
    }

    fn held(&self) -> MutexGuard<'_, HashMap<PeerId, (Remote, usize)>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for HeldRemote {
    fn drop(&mut self) {
        let mut held = self.remotes.held();
        if let Some((_, users)) = held.get_mut(&self.remote.peer()) {
            *users -= 1;
            if *users == 0 {
                held.remove(&self.remote.peer());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use twinshare_transport::identity::Identity;
    use twinshare_transport::protocol::Hello;

    use super::*;

    #[tokio::test]
    async fn a_connection_ends_with_its_last_user() {
        let client = Client::new(&Identity::generate().unwrap(), Hello::new("test")).unwrap();
        let remotes = Remotes::new(client);
        let peer = PeerId([1; 32]);
        let (first, second) = (remotes.hold(peer, &[]), remotes.hold(peer, &[]));
        drop(first);
        assert_eq!(remotes.held().len(), 1);
        drop(second);
        assert_eq!(remotes.held().len(), 0);
    }
}
