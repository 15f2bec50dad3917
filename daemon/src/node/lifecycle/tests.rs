//! Nodes start, stop, refuse a second one, and see each other.

use std::os::unix::fs::PermissionsExt;

use super::*;
use crate::api::wire::{Peer, PeerSource};
use crate::client::ClientError;
use crate::node::testing::{bench, free_port, until};

#[tokio::test]
async fn a_node_starts_stops_and_starts_again() {
    let bench = bench("anna", None);
    let (first, client) = bench.start().await;
    assert_eq!(client.health().await.unwrap().status, "ready");
    let socket = std::fs::metadata(bench.home.api_socket()).unwrap();
    assert_eq!(socket.permissions().mode() & 0o777, 0o600);
    let status = client.node().await.unwrap();
    assert_eq!((status.name.as_str(), status.pid, status.workspaces), ("anna", std::process::id(), 0));
    assert_eq!(status.listen_addresses, [first.node().listening.to_string()]);
    assert_eq!(status.discovery_port, None);
    client.create_workspace(&bench.workspace("demo")).await.unwrap();
    client.share_workspace("demo", Some(true)).await.unwrap();

    client.stop_node().await.unwrap();
    assert!(first.node().stopping().is_cancelled());
    first.stop().await;
    assert!(matches!(client.health().await.unwrap_err(), ClientError::NotRunning { .. }));
    assert!(!bench.home.api_socket().exists());
    assert_eq!(bench.home.running().unwrap(), None);

    let (second, client) = bench.start().await;
    let again = client.node().await.unwrap();
    assert_eq!((again.peer_id, again.workspaces, again.shares), (status.peer_id, 1, 1));
    assert_ne!(second.node().life(), "");
    second.stop().await;
}

#[tokio::test]
async fn a_second_node_on_a_home_is_refused() {
    let bench = bench("anna", None);
    let (running, client) = bench.start().await;
    let error = bench.home.lock().unwrap_err();
    assert!(error.to_string().contains(&format!("pid {}", std::process::id())), "{error}");
    assert_eq!(client.health().await.unwrap().status, "ready");
    running.stop().await;
}

#[tokio::test]
async fn a_stop_is_bounded_whatever_hangs() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let bench = bench("anna", Some(free_port()));
    let (running, client) = bench.start().await;
    let mut stream = socket::connect(&bench.home.api_socket()).await.unwrap();
    let head = "POST /api/v1/peers HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n\
                content-length: 9\r\nexpect: 100-continue\r\n\r\n";
    stream.write_all(head.as_bytes()).await.unwrap();
    stream.read_u8().await.unwrap();
    let stubborn = |_| std::future::pending();
    let kind = crate::api::wire::OperationKind::Mount;
    running.node().operations().start(kind, "never ends".to_owned(), stubborn).unwrap();
    let begun = Instant::now();
    running.stop().await;
    assert!(begun.elapsed() < STOP_WITHIN, "{:?}", begun.elapsed());
    assert!(matches!(client.health().await.unwrap_err(), ClientError::NotRunning { .. }));
}

#[tokio::test]
async fn peers_are_added_by_address_and_show_what_they_share() {
    let (anna, bob) = (bench("anna", None), bench("bob", None));
    let (anna_node, anna_client) = anna.start().await;
    let (bob_node, bob_client) = bob.start().await;
    anna_client.create_workspace(&anna.workspace("demo")).await.unwrap();
    let address = anna_node.node().listening.to_string();

    let added = bob_client.add_peer(&address).await.unwrap();
    assert_eq!(
        (added.name.as_deref(), &added.sources[..], added.online),
        (Some("anna"), &[PeerSource::Manual][..], true)
    );
    let own = anna_client.add_peer(&address).await.unwrap_err();
    assert_eq!(own.problem().unwrap().code, "own_address");

    // Not shared yet, then to nobody, then to everyone.
    let offered = async || {
        let found = bob_client.remote_workspaces(None, Some("anna")).await.unwrap();
        assert_eq!(found.failures, []);
        found.items.into_iter().map(|offer| (offer.name, offer.admitted)).collect::<Vec<_>>()
    };
    assert_eq!(offered().await, []);
    assert!(!anna_client.share_workspace("demo", None).await.unwrap().open);
    assert_eq!(offered().await, []);
    assert!(anna_client.share_workspace("demo", Some(true)).await.unwrap().open);
    assert_eq!(offered().await, [("demo".to_owned(), true)]);

    anna_client.unshare_workspace("demo").await.unwrap();
    assert_eq!(offered().await, []);
    anna_node.stop().await;
    let found = bob_client.remote_workspaces(None, Some("anna")).await.unwrap();
    assert_eq!((found.items.len(), found.failures[0].code.as_str()), (0, "peer_unreachable"));
    bob_node.stop().await;
}

#[tokio::test]
async fn peers_find_each_other_on_loopback() {
    let port = free_port();
    let (anna, bob) = (bench("anna", Some(port)), bench("bob", Some(port)));
    let (anna_node, anna_client) = anna.start().await;
    let (bob_node, bob_client) = bob.start().await;
    anna_client.create_workspace(&anna.workspace("demo")).await.unwrap();
    anna_client.share_workspace("demo", Some(true)).await.unwrap();
    let seen = async |client: &crate::client::Client, name: &str, workspaces: &[&str]| -> Option<Peer> {
        let peers = client.discover().await.unwrap();
        peers.into_iter().find(|peer| peer.name.as_deref() == Some(name) && peer.workspaces == workspaces)
    };
    let found = until(async || seen(&bob_client, "anna", &["demo"]).await).await;
    assert_eq!((found.online, found.workspaces_total), (true, Some(1)));
    assert_eq!(found.addresses, [anna_node.node().listening.to_string()]);
    until(async || seen(&anna_client, "bob", &[]).await).await;
    let status = bob_client.node().await.unwrap();
    let used: Vec<_> =
        status.discovery_interfaces.iter().filter(|i| i.reason.is_none()).map(|i| i.name.as_str()).collect();
    assert_eq!((used, status.discovery_port), (vec!["lo"], Some(port)));

    // A goodbye is heard at once; the registry remembers nobody who was not met.
    anna_node.stop().await;
    until(async || bob_client.peers().await.unwrap().is_empty().then_some(())).await;
    bob_node.stop().await;
}
