//! Nodes that find each other over real sockets on the loopback interface.

use std::net::{Ipv4Addr, UdpSocket};

use super::*;
use crate::config::Interfaces;

/// Longest wait for something that takes milliseconds.
const SOON: Duration = Duration::from_secs(10);

struct Node {
    discovery: Discovery,
    identity: Identity,
}

fn announcement(name: &str, workspaces: &[&str]) -> Announcement {
    let workspaces = workspaces.iter().map(|name| name.parse().unwrap()).collect();
    Announcement { name: name.parse().unwrap(), port: 4711, workspaces }
}

fn start(name: &str, port: u16) -> Node {
    let config = DiscoveryConfig { enabled: true, port, interfaces: Interfaces::Named(vec!["lo".into()]) };
    let identity = Identity::generate().unwrap();
    Node { discovery: Discovery::start(&config, &identity, announcement(name, &[])), identity }
}

/// A port on which nobody listens. Held by a socket that lets others have it too, so nobody else is given it.
fn free_port() -> (UdpSocket, u16) {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::DGRAM, None).unwrap();
    socket.set_reuse_address(true).unwrap();
    socket.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into()).unwrap();
    let socket: UdpSocket = socket.into();
    let port = socket.local_addr().unwrap().port();
    (socket, port)
}

impl Node {
    /// Waits until what it sees of the other nodes is this.
    async fn sees(&self, expected: &[(&Node, &str, &[&str])]) {
        let matches = |seen: &Seen| {
            seen.peers.len() == expected.len()
                && expected.iter().all(|(node, name, workspaces)| {
                    seen.peers.iter().any(|peer| {
                        peer.peer == node.identity.peer_id()
                            && peer.name.as_str() == *name
                            && peer.addresses == [SocketAddr::from((Ipv4Addr::LOCALHOST, 4711))]
                            && peer
                                .workspaces
                                .iter()
                                .map(WorkspaceName::as_str)
                                .eq(workspaces.iter().copied())
                    })
                })
        };
        let mut seen = self.discovery.seen();
        let waited = tokio::time::timeout(SOON, seen.wait_for(matches)).await;
        assert!(waited.is_ok(), "{:?}", *self.discovery.seen().borrow());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_find_each_other_on_loopback_and_say_goodbye() {
    let (_held, port) = free_port();
    let (anna, ben) = (start("anna", port), start("ben", port));
    anna.sees(&[(&ben, "ben", &[])]).await;
    ben.sees(&[(&anna, "anna", &[])]).await;
    ben.discovery.announce(announcement("ben", &["demo"]));
    anna.sees(&[(&ben, "ben", &["demo"])]).await;
    let chris = start("chris", port);
    chris.sees(&[(&anna, "anna", &[]), (&ben, "ben", &["demo"])]).await;
    anna.sees(&[(&ben, "ben", &["demo"]), (&chris, "chris", &[])]).await;
    ben.discovery.stop().await;
    anna.sees(&[(&chris, "chris", &[])]).await;
    let interfaces = anna.discovery.seen().borrow().interfaces.clone();
    let used = interfaces.iter().filter(|interface| interface.state == InterfaceState::Used);
    assert_eq!(used.map(|interface| interface.name.as_str()).collect::<Vec<_>>(), ["lo"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_on_different_ports_do_not_hear_each_other() {
    let ((_held, port), (_other_held, other)) = (free_port(), free_port());
    let (anna, ben, chris) = (start("anna", port), start("ben", port), start("chris", other));
    anna.sees(&[(&ben, "ben", &[])]).await;
    assert_eq!(chris.discovery.seen().borrow().peers.len(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn rubbish_is_survived() {
    let (_held, port) = free_port();
    let anna = start("anna", port);
    let rubbish = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let device = socket2::SockRef::from(&rubbish);
    device.set_multicast_if_v4(&Ipv4Addr::LOCALHOST).unwrap();
    for length in [0, 4, 100, 1200, 1201, 9000] {
        rubbish.send_to(&vec![b'T'; length], (GROUP_V4, port)).unwrap();
        rubbish.send_to(&[b"TWB\x01".as_slice(), &vec![7; length]].concat(), (GROUP_V4, port)).unwrap();
    }
    let ben = start("ben", port);
    anna.sees(&[(&ben, "ben", &[])]).await;
}
