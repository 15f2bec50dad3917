//! Mounts and clones of what real peers offer, as far as the API makes them.

use std::sync::Arc;

use axum::body::Body;
use axum::http::Request;
use http_body_util::BodyExt;
use hyper::service::Service;
use hyper_util::service::TowerToHyperService;
use serde_json::{Value, json};

use super::*;
use crate::api::router;
use crate::api::wire::{OperationState, Problem, ReplicaRoot, ReplicaState};
use crate::node::testing::{Bench, LONG, PaperReplicas, bench, node, replica};
use crate::node::{Node, RunningNode};

/// A peer that offers `names` to everyone.
async fn peer(name: &str, names: &[&str]) -> (Bench, RunningNode) {
    let bench = bench(name, None);
    let (running, client) = bench.start().await;
    for name in names {
        client.create_workspace(&bench.workspace(name)).await.unwrap();
        client.share_workspace(name, Some(true)).await.unwrap();
    }
    (bench, running)
}

async fn post(node: &Arc<Node>, path: &str, body: Value) -> (StatusCode, Option<String>, Value) {
    let request = Request::post(format!("{BASE_PATH}{path}")).header("content-type", "application/json");
    let request = request.body(Body::from(body.to_string())).unwrap();
    let (parts, body) =
        TowerToHyperService::new(router(node.clone())).call(request).await.unwrap().into_parts();
    let location = parts.headers.get("location").map(|value| value.to_str().unwrap().to_owned());
    let body = body.collect().await.unwrap().to_bytes();
    (parts.status, location, serde_json::from_slice(&body).unwrap())
}

/// Begins, and waits for the end.
async fn made(node: &Arc<Node>, path: &str, body: Value) -> Operation {
    let (status, location, begun) = post(node, path, body).await;
    let begun: Operation = serde_json::from_value(begun).unwrap();
    assert_eq!(
        (status, location),
        (StatusCode::ACCEPTED, Some(format!("{BASE_PATH}/operations/{}", begun.id)))
    );
    node.operations().wait(&begun.id, None, LONG).await.unwrap()
}

#[tokio::test]
async fn what_a_peer_offers_is_mounted_and_cloned() {
    let (_anna, anna) = peer("anna", &["demo", "refused"]).await;
    let fixture = node(PaperReplicas::default()).await;
    let id = fixture.node.peers().add(&anna.node().listening().to_string()).await.unwrap().id;

    let mount = made(&fixture.node, "/mounts", json!({"workspace": "demo"})).await;
    assert_eq!(
        (mount.kind, mount.target.as_str(), mount.state),
        (OperationKind::Mount, "anna/demo", OperationState::Succeeded)
    );
    let replica = mount.replica().unwrap();
    assert_eq!(
        (replica.kind, replica.peer.id.clone(), replica.when_gone.as_str()),
        (ReplicaKind::View, id.to_string(), "wait=10s")
    );

    for workspace in ["anna/demo".to_owned(), format!("{}/demo", id.short()), format!("{id}/demo")] {
        let clone =
            made(&fixture.node, "/clones", json!({"workspace": workspace, "when_gone": "fail"})).await;
        let replica = clone.replica().unwrap();
        assert_eq!(
            (clone.kind, replica.kind, replica.when_gone.as_str()),
            (OperationKind::Clone, ReplicaKind::Clone, "fail")
        );
    }

    let refused = made(&fixture.node, "/mounts", json!({"workspace": "refused"})).await;
    let problem = refused.problem.unwrap();
    assert_eq!((refused.state, problem.code.as_str()), (OperationState::Failed, "peer_refused"));
    assert!(problem.request_id.is_some());
    anna.stop().await;
}

#[tokio::test]
async fn a_mount_under_way_is_cancelled() {
    let (_anna, anna) = peer("anna", &["hangs"]).await;
    let fixture = node(PaperReplicas::default()).await;
    fixture.node.peers().add(&anna.node().listening().to_string()).await.unwrap();
    let (_, _, begun) = post(&fixture.node, "/mounts", json!({"workspace": "hangs"})).await;
    let id = begun["id"].as_str().unwrap();
    fixture.node.operations().cancel(id).unwrap();
    let end = fixture.node.operations().wait(id, None, LONG).await.unwrap();
    assert_eq!((end.state, end.problem), (OperationState::Cancelled, None));
    anna.stop().await;
}

#[tokio::test]
async fn a_name_that_is_not_unique_is_listed() {
    let ((_anna, anna), (_bob, bob)) = (peer("anna", &["demo"]).await, peer("bob", &["demo", "solo"]).await);
    let fixture = node(PaperReplicas::default()).await;
    for running in [&anna, &bob] {
        fixture.node.peers().add(&running.node().listening().to_string()).await.unwrap();
    }
    let (status, _, problem) = post(&fixture.node, "/mounts", json!({"workspace": "demo"})).await;
    let problem: Problem = serde_json::from_value(problem).unwrap();
    assert_eq!((status, problem.code.as_str()), (StatusCode::CONFLICT, "ambiguous_name"));
    assert_eq!(problem.candidates, ["anna/demo", "bob/demo"]);
    let solo = made(&fixture.node, "/mounts", json!({"workspace": "solo"})).await;
    assert_eq!(solo.target, "bob/solo");

    // Whoever is named and does not answer is the reason.
    anna.stop().await;
    let (status, _, problem) = post(&fixture.node, "/mounts", json!({"workspace": "anna/demo"})).await;
    assert_eq!((status, problem["code"].as_str()), (StatusCode::BAD_GATEWAY, Some("peer_unreachable")));
    bob.stop().await;
}

#[tokio::test]
async fn a_settled_clone_is_not_made_a_workspace_too() {
    let at = tempfile::tempdir().unwrap();
    let directory = at.path().canonicalize().unwrap().to_str().unwrap().to_owned();
    let root = |path: &str| ReplicaRoot { origin: path.to_owned(), local: path.to_owned() };
    let clone = Replica {
        state: ReplicaState::Settled,
        directory: directory.clone(),
        roots: vec![root("/w"), root("/py")],
        ..replica("r", ReplicaKind::Clone)
    };
    let fixture = node(PaperReplicas::of([clone])).await;
    let (status, _, problem) = post(&fixture.node, "/workspaces", json!({"directory": directory})).await;
    let problem: Problem = serde_json::from_value(problem).unwrap();
    assert_eq!((status, problem.code.as_str()), (StatusCode::CONFLICT, "is_clone"));
    assert!(problem.detail.contains("peer/demo") && problem.detail.contains("the companion"), "{problem:?}");
    assert!(!at.path().join("twinshare.yaml").exists());
}
