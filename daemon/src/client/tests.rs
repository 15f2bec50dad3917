//! Round trips over a real socket.

use std::sync::Arc;

use tokio::net::UnixListener;

use super::*;
use crate::api::wire::{OperationKind, OperationState, ReplicaKind};
use crate::api::{router, server};
use crate::node::Node;
use crate::node::testing::{Fixture, PaperReplicas, node, replica};

const LONG: Duration = Duration::from_secs(30);

/// A node's API on a socket in a directory of its own.
struct Serving {
    client: Client,
    node: Arc<Node>,
    served: tokio::task::JoinHandle<()>,
    directory: tempfile::TempDir,
}

async fn serve(grace: Duration) -> Serving {
    let kinds = [("view", ReplicaKind::View), ("busy", ReplicaKind::View), ("clone", ReplicaKind::Clone)];
    let Fixture { node, directory } =
        node(PaperReplicas::of(kinds.map(|(id, kind)| replica(id, kind)))).await;
    // Longer than the kernel takes in an address.
    let deep = directory.path().join("d".repeat(120));
    std::fs::create_dir(&deep).unwrap();
    let socket = deep.join("api.sock");
    let listener = crate::home::socket::listen(&socket).unwrap();
    listener.set_nonblocking(true).unwrap();
    let router = router(node.clone());
    let listener = UnixListener::from_std(listener).unwrap();
    let served = tokio::spawn(server::serve(listener, router, node.stopping().clone(), grace));
    Serving { client: Client::new(socket), node, served, directory }
}

#[tokio::test]
async fn documents_come_back_as_they_were_sent() {
    let serving = serve(LONG).await;
    let client = &serving.client;
    assert_eq!(client.health().await.unwrap().status, "ready");
    assert_eq!(client.version().await.unwrap().version, env!("CARGO_PKG_VERSION"));
    assert!(client.openapi().await.unwrap()["paths"].is_object());
    let mounts: Vec<_> = client.mounts().await.unwrap().into_iter().map(|mount| mount.id).collect();
    assert_eq!(mounts, ["view", "busy"]);
    assert_eq!(client.mount_status("view").await.unwrap(), replica("view", ReplicaKind::View));
    assert_eq!(client.clone_status("clone").await.unwrap(), replica("clone", ReplicaKind::Clone));
    client.unmount("view").await.unwrap();
    client.remove_clone("clone").await.unwrap();
    assert_eq!((client.mounts().await.unwrap().len(), client.clones().await.unwrap().len()), (1, 0));
}

#[tokio::test]
async fn a_workspace_is_registered_and_described() {
    let serving = serve(LONG).await;
    let client = &serving.client;
    let directory = serving.directory.path().canonicalize().unwrap().join("demo");
    std::fs::create_dir(&directory).unwrap();
    std::fs::write(directory.join("twinshare.yaml"), "schema: 1\nname: demo\ndescription: try it\n").unwrap();
    let directory = directory.to_str().unwrap().to_owned();
    let request = CreateWorkspace { directory: directory.clone(), name: None };
    let created = client.create_workspace(&request).await.unwrap();
    assert!(!created.file_written && created.complete && created.leaving.is_empty());
    let shown = client.workspace("demo").await.unwrap();
    assert_eq!(shown, created.details);
    assert_eq!(
        (shown.workspace.directory, shown.config["description"].as_str()),
        (directory, Some("try it"))
    );
    let listed = client.workspaces().await.unwrap();
    assert_eq!((listed.len(), listed[0].description.as_deref()), (1, Some("try it")));
    assert_eq!(listed[0].share, None);
}

#[tokio::test]
async fn a_run_in_an_own_workspace_is_planned() {
    let serving = serve(LONG).await;
    let client = &serving.client;
    let directory = serving.directory.path().canonicalize().unwrap().join("mine");
    std::fs::create_dir_all(directory.join("src")).unwrap();
    let text = "schema: 1\nname: mine\nenvironments:\n- name: main\n  command: [make]\n  env: {A: b}\n";
    std::fs::write(directory.join("twinshare.yaml"), text).unwrap();
    let directory = directory.to_str().unwrap().to_owned();
    client.create_workspace(&CreateWorkspace { directory: directory.clone(), name: None }).await.unwrap();
    let asked = RunRequest { workspace: "mine".to_owned(), ..RunRequest::default() };
    let plan = client.plan_run(&asked).await.unwrap();
    assert_eq!((plan.inside.command, plan.inside.environment["A"].as_str()), (vec!["make".to_owned()], "b"));
    assert_eq!(plan.inside.directory, directory);
    assert_eq!(plan.needs, Some(vec![]));
    let workspace = format!("{directory}/src");
    let plan =
        client.plan_run(&RunRequest { workspace: workspace.clone(), shell: true, ..asked }).await.unwrap();
    assert_eq!((plan.inside.directory, plan.inside.command.len()), (workspace, 1));
}

#[tokio::test]
async fn a_refusal_keeps_its_code_and_its_hint() {
    let serving = serve(LONG).await;
    let error = serving.client.unmount("busy").await.unwrap_err();
    let problem = error.problem().unwrap();
    assert_eq!((problem.code.as_str(), problem.status), ("busy", 409));
    assert_eq!(problem.users, ["bash (pid 4711) in src/"]);
    let error = serving.client.mount_status("no/such one?").await.unwrap_err();
    assert!(error.to_string().contains("no/such one?"), "{error}");
}

#[tokio::test]
async fn an_operation_is_followed_to_its_end() {
    let serving = serve(LONG).await;
    let begun = serving.node.operations().start(OperationKind::Mount, "x".to_owned(), |task| async move {
        for done in 0..3 {
            task.done(done);
            tokio::task::yield_now().await;
        }
        Ok(replica("new", ReplicaKind::View).into())
    });
    let mut seen = Vec::new();
    let end = serving.client.follow_operation(begun.unwrap(), |now| seen.push(now.revision)).await.unwrap();
    assert_eq!(end.replica(), Some(&replica("new", ReplicaKind::View)));
    assert!(seen.is_sorted_by(|a, b| a < b), "{seen:?}");
    assert_eq!(serving.client.operations().await.unwrap(), [end]);
}

#[tokio::test]
async fn an_operation_is_cancelled() {
    let serving = serve(LONG).await;
    let begun = serving.node.operations().start(OperationKind::Clone, "x".to_owned(), |task| async move {
        task.cancelled().await;
        Err(Box::new(crate::api::ApiError::Stopping.problem(None)))
    });
    let id = begun.unwrap().id;
    serving.client.cancel_operation(&id).await.unwrap();
    let end = serving.client.wait_operation(&id, None, LONG).await.unwrap();
    assert_eq!(end.state, OperationState::Cancelled);
}

#[tokio::test]
async fn without_a_node_the_error_says_what_to_do() {
    let directory = tempfile::tempdir().unwrap();
    let client = Client::new(directory.path().join("api.sock"));
    let error = client.health().await.unwrap_err();
    assert!(matches!(error, ClientError::NotRunning { .. }));
    assert!(error.to_string().contains("twinshare p2p start"), "{error}");
    drop(crate::home::socket::listen(client.socket()).unwrap());
    assert!(matches!(client.health().await.unwrap_err(), ClientError::NotRunning { .. }));
}

#[tokio::test]
async fn what_is_no_node_is_a_protocol_error() {
    use tokio::io::AsyncWriteExt;
    let directory = tempfile::tempdir().unwrap();
    let client = Client::new(directory.path().join("api.sock"));
    let listener = UnixListener::bind(client.socket()).unwrap();
    for answer in
        ["HTTP/1.1 500 X\r\ncontent-length: 2\r\n\r\nno", "HTTP/1.1 200 OK\r\n\r\n{}", "garbage\r\n\r\n", ""]
    {
        let (outcome, ()) = tokio::join!(client.health(), async {
            let (mut stream, _) = listener.accept().await.unwrap();
            // The request is read first: closing with unread bytes resets the connection.
            let mut head = [0; 1024];
            let _ = tokio::io::AsyncReadExt::read(&mut stream, &mut head).await.unwrap();
            stream.write_all(answer.as_bytes()).await.unwrap();
        });
        match answer {
            "" => assert!(matches!(outcome, Err(ClientError::WentAway(_))), "{outcome:?}"),
            _ => assert!(matches!(outcome, Err(ClientError::Protocol(_))), "{answer}: {outcome:?}"),
        }
    }
}

#[tokio::test]
async fn a_stop_ends_a_long_poll_with_an_answer() {
    let serving = serve(LONG).await;
    let begun =
        serving.node.operations().start(OperationKind::Clone, "x".to_owned(), |_| std::future::pending());
    let id = begun.unwrap().id;
    let (client, poll_id) = (serving.client.clone(), id.clone());
    let poll = tokio::spawn(async move { client.wait_operation(&poll_id, None, LONG).await });
    while serving.node.operations().watchers(&id) == 0 {
        tokio::task::yield_now().await;
    }
    serving.client.stop_node().await.unwrap();
    let polled = tokio::time::timeout(LONG, poll).await.unwrap().unwrap().unwrap();
    assert_eq!((polled.id, polled.state), (id, OperationState::Running));
    tokio::time::timeout(LONG, serving.served).await.unwrap().unwrap();
    assert!(matches!(serving.client.health().await.unwrap_err(), ClientError::NotRunning { .. }));
}

#[tokio::test]
async fn a_request_that_never_ends_does_not_hold_up_a_stop() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let serving = serve(Duration::from_millis(200)).await;
    // Half a body: the handler waits for the rest.
    let mut stream = crate::home::socket::connect(serving.client.socket()).await.unwrap();
    let head = "POST /api/v1/peers HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n\
                content-length: 9\r\nexpect: 100-continue\r\n\r\n";
    stream.write_all(head.as_bytes()).await.unwrap();
    // `100 Continue` comes when the handler asks for the body.
    stream.read_u8().await.unwrap();
    stream.write_all(b"{").await.unwrap();
    serving.node.stopping().cancel();
    tokio::time::timeout(LONG, serving.served).await.unwrap().unwrap();
}

#[track_caller]
fn check(target: String, expected: &str) {
    assert_eq!(target, expected);
    assert!(target.parse::<hyper::Uri>().is_ok(), "{target}");
}

#[test]
fn targets_carry_any_name() {
    check(path(["workspaces", "gpt4-demo"]), "/workspaces/gpt4-demo");
    check(path(["workspaces", "a/b c?\u{fc}"]), "/workspaces/a%2Fb%20c%3F%C3%BC");
    check(query("/x", &[("name", None), ("peer", None)]), "/x");
    check(query("/x", &[("name", Some("a&b=c")), ("peer", Some("p"))]), "/x?name=a%26b%3Dc&peer=p");
}
