//! Operations from start to oblivion.

use super::*;
use crate::api::wire::{PeerRef, Replica, ReplicaKind, ReplicaState};

fn replica() -> Replica {
    Replica {
        id: "r1".into(),
        kind: ReplicaKind::View,
        workspace: "demo".into(),
        peer: PeerRef { id: "p".into(), short_id: "p".into(), name: None },
        directory: "/mnt".into(),
        state: ReplicaState::Mounted,
        detail: None,
        when_gone: "wait=10s".into(),
        snapshot: None,
        pid: None,
        created_at: UnixTime(0),
        plain: false,
        was_there: false,
        roots: vec![],
        progress: None,
        following: None,
        left_out: None,
        changed: None,
        reading: Vec::new(),
        settling: None,
        receipt: None,
    }
}

fn no() -> Box<Problem> {
    Box::new(ApiError::Stopping.problem(None))
}

const LONG: Duration = Duration::from_secs(60);

#[tokio::test(start_paused = true)]
async fn a_waiter_sees_progress_and_the_end() {
    let operations = Operations::new("t");
    let (go, mut gone) = tokio::sync::mpsc::channel::<()>(1);
    let begun = operations
        .start(OperationKind::Mount, "anna/demo".into(), |task| async move {
            task.step("reading", Some(10), ProgressUnit::Entries);
            task.done(4);
            gone.recv().await;
            Ok(replica().into())
        })
        .unwrap();
    assert_eq!((begun.state, begun.revision), (OperationState::Running, 0));
    let progress = operations.wait(&begun.id, Some(1), LONG).await.unwrap();
    assert_eq!((progress.progress.done, progress.progress.total), (4, Some(10)));
    let timed_out = operations.wait(&begun.id, None, LONG).await.unwrap();
    assert_eq!(timed_out.state, OperationState::Running);
    go.send(()).await.unwrap();
    let end = operations.wait(&begun.id, None, LONG).await.unwrap();
    assert_eq!((end.state, end.replica()), (OperationState::Succeeded, Some(&replica())));
    let document = serde_json::to_value(&end).unwrap();
    let told = |key: &str| document["result"][key].as_str().map(str::to_owned).unwrap();
    assert_eq!([told("type"), told("kind"), told("id")], ["replica", "view", "r1"]);
    assert_eq!(serde_json::from_value::<Operation>(document).unwrap(), end);
    assert!(end.finished_at.is_some());
}

#[tokio::test(start_paused = true)]
async fn cancelling_ends_the_work_and_not_the_result() {
    let operations = Operations::new("t");
    let work = |task: Task| async move {
        task.cancelled().await;
        Err(no())
    };
    let begun = operations.start(OperationKind::Clone, "x".into(), work).unwrap();
    operations.cancel(&begun.id).unwrap();
    let end = operations.wait(&begun.id, None, LONG).await.unwrap();
    assert_eq!((end.state, end.problem), (OperationState::Cancelled, None));

    let done =
        operations.start(OperationKind::Clone, "x".into(), |_| async { Ok(replica().into()) }).unwrap();
    operations.wait(&done.id, None, LONG).await.unwrap();
    assert_eq!(operations.cancel(&done.id).unwrap().state, OperationState::Succeeded);
}

#[tokio::test(start_paused = true)]
async fn a_panic_is_a_failed_operation() {
    let operations = Operations::new("t");
    let begun = operations.start(OperationKind::Mount, "x".into(), |_| async { panic!("boom") }).unwrap();
    let end = operations.wait(&begun.id, None, LONG).await.unwrap();
    assert_eq!((end.state, end.problem.unwrap().code.as_str()), (OperationState::Failed, "internal"));
}

#[tokio::test(start_paused = true)]
async fn the_table_is_bounded() {
    let operations = Operations::new("t");
    let forever = |task: Task| async move {
        task.cancelled().await;
        Err(no())
    };
    for _ in 0..RUNNING_MAX {
        operations.start(OperationKind::Mount, "x".into(), forever).unwrap();
    }
    let refused = operations.start(OperationKind::Mount, "x".into(), forever);
    assert_eq!(refused.unwrap_err(), TableFull);
    operations.stop(LONG).await;
    assert!(operations.list().iter().all(|now| now.state == OperationState::Cancelled));

    for _ in 0..KEPT_MAX + 10 {
        let begun =
            operations.start(OperationKind::Mount, "y".into(), |_| async { Ok(replica().into()) }).unwrap();
        operations.wait(&begun.id, None, LONG).await.unwrap();
        tokio::task::yield_now().await;
    }
    assert!(operations.list().len() <= KEPT_MAX + 1);
    tokio::time::advance(KEPT_FOR).await;
    assert_eq!(operations.list(), []);
}

#[tokio::test]
async fn an_id_of_another_life_names_nothing() {
    let operations = Operations::new("t");
    let begun =
        operations.start(OperationKind::Mount, "x".into(), |_| async { Ok(replica().into()) }).unwrap();
    assert_eq!(begun.id, "t-1");
    assert!(Operations::new("u").find(&begun.id).is_none());
    for id in ["", "t", "t-", "t-2", "t-x", "u-1", "t1"] {
        assert!(operations.find(id).is_none(), "{id}");
    }
}
