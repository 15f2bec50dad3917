//! Keeps discovery and the rest of the node in step: what is announced, who is asked for, and where peers moved.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;

use twinshare_transport::identity::PeerId;

use super::Node;
use crate::discovery::{Announcement, Discovery, Seen};
use crate::replica::Replicas;

/// Runs until the node stops, and then says goodbye.
pub(super) async fn follow(discovery: Option<Discovery>, node: Arc<Node>, replicas: Arc<Replicas>) {
    let Some(discovery) = discovery else {
        return node.stopping.cancelled().await;
    };
    let (mut open, mut seen) = (node.shares.open_to_all(), discovery.seen());
    let mut moved = Moved::default();
    loop {
        tokio::select! {
            () = node.stopping.cancelled() => break,
            () = node.asked.notified() => discovery.ask(),
            // Neither sender ends before the node does.
            Ok(()) = open.changed() => discovery.announce(Announcement {
                name: node.config.name.clone(),
                port: node.listening.port(),
                workspaces: open.borrow_and_update().clone(),
            }),
            Ok(()) = seen.changed() => {
                let now = seen.borrow_and_update().clone();
                for (peer, addresses) in moved.since_last(&now) {
                    replicas.peer_moved(peer, addresses).await;
                }
            }
        }
    }
    discovery.stop().await;
}

/// Notices peers that are elsewhere than before.
#[derive(Debug, Default)]
struct Moved {
    last: HashMap<PeerId, Vec<SocketAddr>>,
}

impl Moved {
    /// The peers whose addresses are not those of the last call. One that is gone has no new address.
    fn since_last(&mut self, now: &Seen) -> Vec<(PeerId, Vec<SocketAddr>)> {
        let places: HashMap<_, _> =
            now.peers.iter().map(|peer| (peer.peer, peer.addresses.clone())).collect();
        let is_news =
            |(peer, addresses): &(&PeerId, &Vec<SocketAddr>)| self.last.get(peer) != Some(addresses);
        let moved =
            places.iter().filter(is_news).map(|(peer, addresses)| (*peer, addresses.clone())).collect();
        self.last = places;
        moved
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use twinshare_transport::identity::PublicKey;

    use super::*;
    use crate::discovery::DiscoveredPeer;

    fn seen(peers: &[(u8, &[&str])]) -> Seen {
        let peer = |(key, addresses): &(u8, &[&str])| DiscoveredPeer {
            peer: PeerId([*key; 32]),
            public_key: PublicKey([*key; 32]),
            name: "anna".parse().unwrap(),
            addresses: addresses.iter().map(|address| address.parse().unwrap()).collect(),
            workspaces: Vec::new(),
            workspaces_total: 0,
            since: SystemTime::UNIX_EPOCH,
            heard: SystemTime::UNIX_EPOCH,
        };
        Seen { peers: peers.iter().map(peer).collect(), ..Seen::default() }
    }

    #[track_caller]
    fn check(moved: &mut Moved, now: &[(u8, &[&str])], expected: &[u8]) {
        let mut found: Vec<_> = moved.since_last(&seen(now)).into_iter().map(|(peer, _)| peer.0[0]).collect();
        found.sort_unstable();
        assert_eq!(found, expected);
    }

    #[test]
    fn only_those_who_moved_are_told_of() {
        let mut moved = Moved::default();
        check(&mut moved, &[(1, &["10.0.0.1:1"]), (2, &["10.0.0.2:1"])], &[1, 2]);
        check(&mut moved, &[(1, &["10.0.0.1:1"]), (2, &["10.0.0.2:1"])], &[]);
        check(&mut moved, &[(1, &["10.0.0.9:1", "10.0.0.1:1"])], &[1]);
        check(&mut moved, &[(1, &["10.0.0.9:1", "10.0.0.1:1"]), (2, &["10.0.0.2:1"])], &[2]);
    }
}
