//! Keeps discovery and the rest of the node in step: what is announced, who is asked for, and where peers moved.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;

use twinshare_transport::identity::PeerId;

use super::Node;
use super::known::KnownPeer;
use crate::discovery::{Announcement, Discovery};
use crate::replica::Replicas;

/// Runs until the node stops, and then says goodbye.
pub(super) async fn follow(discovery: Option<Discovery>, node: Arc<Node>) {
    let Some(discovery) = discovery else {
        return node.stopping.cancelled().await;
    };
    let mut open = node.shares.open_to_all();
    loop {
        tokio::select! {
            () = node.stopping.cancelled() => break,
            () = node.asked.notified() => discovery.ask(),
            // The sender does not end before the node does.
            Ok(()) = open.changed() => discovery.announce(Announcement {
                name: node.config.name.clone(),
                port: node.listening.port(),
                workspaces: open.borrow_and_update().clone(),
            }),
        }
    }
    discovery.stop().await;
}

/// Tells the replicas where their peers are, whenever one is heard or met elsewhere than before. Runs until the node
/// stops.
pub(super) async fn follow_moves(node: Arc<Node>, replicas: Arc<Replicas>) {
    let (mut heard, mut met) = node.peers.news();
    let mut moved = Moved::default();
    loop {
        tokio::select! {
            () = node.stopping.cancelled() => return,
            // Without discovery nobody is ever heard.
            Ok(()) = heard.changed() => {}
            Ok(()) = met.changed() => {}
        }
        match node.peers.all().await {
            Ok(now) => {
                for (peer, addresses) in moved.since_last(&now) {
                    let replicas = replicas.clone();
                    // A process that does not answer holds up nobody but itself.
                    tokio::spawn(async move { replicas.peer_moved(peer, addresses).await });
                }
            }
            Err(error) => tracing::warn!(%error, "where peers are cannot be told"),
        }
    }
}

/// Notices peers that are elsewhere than before.
#[derive(Debug, Default)]
struct Moved {
    last: HashMap<PeerId, Vec<SocketAddr>>,
}

impl Moved {
    /// The peers whose addresses are not those of the last call, with all that are known of them: where it was heard,
    /// and where it was met.
    fn since_last(&mut self, now: &[KnownPeer]) -> Vec<(PeerId, Vec<SocketAddr>)> {
        let places: HashMap<_, _> = now.iter().map(|peer| (peer.id, peer.addresses.clone())).collect();
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
    use super::*;

    fn known(peers: &[(u8, &[&str])]) -> Vec<KnownPeer> {
        let peer = |(id, addresses): &(u8, &[&str])| KnownPeer {
            id: PeerId([*id; 32]),
            name: "anna".parse().unwrap(),
            addresses: addresses.iter().map(|address| address.parse().unwrap()).collect(),
            last_seen: None,
            online: true,
            sources: Vec::new(),
            workspaces: Vec::new(),
            workspaces_total: None,
            first_met: None,
            namesake: None,
        };
        peers.iter().map(peer).collect()
    }

    #[track_caller]
    fn check(moved: &mut Moved, now: &[(u8, &[&str])], expected: &[u8]) {
        let mut found: Vec<_> =
            moved.since_last(&known(now)).into_iter().map(|(peer, _)| peer.0[0]).collect();
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
