//! The supervisor against processes that are tasks: they speak the protocol and mount nothing.

use tokio::net::UnixListener;
use tokio::sync::mpsc;

use super::super::control::Line;
use super::super::testing::spec;
use super::repair::{self, RETRY_AFTER};
use super::*;
use crate::home::socket;

/// Longer than anything takes that works.
const LONG: Duration = Duration::from_secs(30);

/// What a process answers.
type Answers = fn(&Request) -> Option<Answer>;

struct Bench {
    _directory: tempfile::TempDir,
    home: Home,
    spec: Spec,
}

impl Bench {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let home = Home::isolated(&directory.path().canonicalize().unwrap().join("home"));
        home.prepare().unwrap();
        let mount_point = directory.path().canonicalize().unwrap().join("mount");
        std::fs::create_dir(&mount_point).unwrap();
        let spec = Spec { mount_point, ..spec("a") };
        std::fs::create_dir(home.replica(&spec.process)).unwrap();
        Self { _directory: directory, home, spec }
    }

    fn listener(&self) -> UnixListener {
        let path = self.home.replica(&self.spec.process).join(control::SOCKET);
        let listener = socket::listen(&path).unwrap();
        listener.set_nonblocking(true).unwrap();
        UnixListener::from_std(listener).unwrap()
    }

    /// A process that answers by `answers` and tells what it was asked. An answer of `None` waits for the next question
    /// on any line, and is [`Failure::Cancelled`] then.
    fn process(&self, answers: Answers) -> mpsc::UnboundedReceiver<Request> {
        let (tells, told) = mpsc::unbounded_channel();
        let (listener, asked) = (self.listener(), Arc::new(Notify::new()));
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (tells, asked) = (tells.clone(), asked.clone());
                tokio::spawn(async move {
                    let mut line = Line::new(stream);
                    while let Ok(Some(request)) = line.receive::<Request>().await {
                        asked.notify_waiters();
                        let answer = answers(&request);
                        let _ = tells.send(request);
                        let answer = match answer {
                            Some(answer) => answer,
                            None => {
                                asked.notified().await;
                                Answer::Failed(Failure::Cancelled)
                            }
                        };
                        line.send(&answer).await.unwrap();
                    }
                });
            }
        });
        told
    }
}

fn attaches_for_ever(request: &Request) -> Option<Answer> {
    match request {
        Request::Hello => Some(Answer::Hello { protocol: PROTOCOL }),
        Request::Attach(_) => None,
        Request::Detach { .. }
        | Request::Settle { .. }
        | Request::Hold { .. }
        | Request::Addresses { .. }
        | Request::Account { .. }
        | Request::Cache(_)
        | Request::Resolve { .. }
        | Request::Status => Some(Answer::Done),
    }
}

#[tokio::test]
async fn an_attempt_is_cancelled_where_it_is_carried_out() {
    let bench = Bench::new();
    let mut told = bench.process(attaches_for_ever);
    let supervisor = Supervisor::new(bench.home.clone());
    let serving = {
        let (supervisor, spec) = (supervisor.clone(), bench.spec.clone());
        tokio::spawn(async move {
            let claim = supervisor.claims.claim(&spec.mount_point).await;
            supervisor.serve(&spec, &claim).await
        })
    };
    assert_eq!(told.recv().await, Some(Request::Hello));
    assert_eq!(told.recv().await, Some(Request::Attach(Box::new(bench.spec.clone()))));
    assert!(supervisor.is_starting("a"));
    supervisor.claims.interrupt(&bench.spec.mount_point);
    let served = tokio::time::timeout(LONG, serving).await.unwrap().unwrap();
    assert_eq!(served, Err(Failure::Cancelled));
    assert_eq!(told.recv().await, Some(Request::Detach { id: "a".into() }));
    assert!(!supervisor.is_starting("a"));
    assert_eq!(supervisor.trouble("a"), Some("cancelled".into()));
    assert_eq!(supervisor.stop(&bench.spec).await, Ok(Stopped::Over));
    assert_eq!(supervisor.trouble("a"), None);
}

#[tokio::test]
async fn a_process_of_another_protocol_gets_no_new_replica() {
    let bench = Bench::new();
    let _told = bench.process(|request| match request {
        Request::Hello => Some(Answer::Failed(Failure::Other("the order is not understood".into()))),
        _ => Some(Answer::Done),
    });
    let supervisor = Supervisor::new(bench.home.clone());
    let claim = supervisor.claims.claim(&bench.spec.mount_point).await;
    let refused = supervisor.serve(&bench.spec, &claim).await;
    assert!(matches!(&refused, Err(Failure::Other(why)) if why.contains("another version")), "{refused:?}");
    assert_eq!(supervisor.stop(&bench.spec).await, Ok(Stopped::Over));
}

#[tokio::test]
async fn a_detach_says_how_things_are() {
    let answers: [(Answers, _); 3] = [
        (|_| Some(Answer::Failed(Failure::NoSuchReplica)), Ok(Stopped::Over)),
        (|_| Some(Answer::Failed(Failure::Leaving)), Ok(Stopped::Leaving)),
        (|_| Some(Answer::Failed(Failure::Busy(vec!["x".into()]))), Err(Failure::Busy(vec!["x".into()]))),
    ];
    for (answer, expected) in answers {
        let bench = Bench::new();
        let _told = bench.process(answer);
        assert_eq!(Supervisor::new(bench.home.clone()).stop(&bench.spec).await, expected);
    }
}

#[tokio::test(start_paused = true)]
async fn an_absent_process_and_a_silent_one_are_told_apart() {
    let bench = Bench::new();
    let supervisor = Supervisor::new(bench.home.clone());
    assert!(matches!(supervisor.reports(&bench.spec.process).await, Reports::Absent));
    assert_eq!(supervisor.stop(&bench.spec).await, Ok(Stopped::Over));
    let _silent = bench.listener();
    assert!(matches!(supervisor.reports(&bench.spec.process).await, Reports::Silent));
    assert!(matches!(supervisor.stop(&bench.spec).await, Err(Failure::Other(_))));
}

/// A process ends when it may not repair what somebody still uses: that is no death, and the mount stays wanted.
#[tokio::test(start_paused = true)]
async fn the_end_of_a_process_that_served_nothing_is_no_death() {
    let bench = Bench::new();
    let supervisor = Supervisor::new(bench.home.clone());
    let process = bench.spec.process.clone();
    {
        let mut state = supervisor.state();
        state.wanted.insert("a".into(), bench.spec.clone());
        state.repaired.insert("a".into());
        state.processes.insert(process.clone(), Process { pid: 1, protocol: PROTOCOL });
    }
    supervisor.clone().ended(process, 1).await;
    let state = supervisor.state();
    assert!(state.wanted.contains_key("a") && state.deaths.is_empty());
}

#[tokio::test(start_paused = true)]
async fn what_is_served_is_noted_together_with_the_process_that_does() {
    let bench = Bench::new();
    let supervisor = Supervisor::new(bench.home.clone());
    let _told = bench.process(|request| match request {
        Request::Hello => Some(Answer::Hello { protocol: PROTOCOL }),
        _ => Some(Answer::Done),
    });
    supervisor.state().repaired.insert("a".into());
    let claim = supervisor.claims.claim(&bench.spec.mount_point).await;
    assert_eq!(supervisor.serve(&bench.spec, &claim).await, Ok(()));
    // Whoever learns of the process's end from now on finds what it has left.
    assert!(!supervisor.state().repaired.contains("a") && !supervisor.is_starting("a"));
    let pid = supervisor.pid(&bench.spec.process).unwrap();
    // One that had ended before it could be noted leaves a failure to whoever tries.
    supervisor.state().processes.clear();
    assert!(supervisor.note_served(&bench.spec, pid).is_err());
}

#[test]
fn what_is_in_use_is_tried_again_within_a_second() {
    let seconds = |failure: Failure| {
        let pauses = std::iter::successors(Some(RETRY_AFTER), |pause| Some(repair::longer(*pause, &failure)));
        pauses.take(9).map(|pause| pause.as_secs()).collect::<Vec<_>>()
    };
    assert_eq!(seconds(Failure::Busy(vec![])), [1; 9]);
    assert_eq!(seconds(Failure::Unreachable("x".into())), [1, 2, 4, 8, 16, 32, 60, 60, 60]);
}

#[tokio::test(start_paused = true)]
async fn a_process_that_dies_again_and_again_is_started_more_and_more_rarely() {
    let bench = Bench::new();
    let supervisor = Supervisor::new(bench.home.clone());
    let dead = [bench.spec.clone()];
    let die = || supervisor.count_death("views-1", &dead).as_millis();
    assert_eq!([(); 5].map(|()| die()), [200, 400, 800, 1600, 3200]);
    assert_eq!(supervisor.trouble("a"), None);
    assert_eq!([(); 6].map(|()| die()), [6400, 12_800, 25_600, 51_200, 60_000, 60_000]);
    let trouble = supervisor.trouble("a").unwrap();
    assert!(
        trouble.contains("died 11 times in 10 minutes; it is started again after 60 seconds"),
        "{trouble}"
    );
    tokio::time::advance(Duration::from_secs(601)).await;
    assert_eq!(die(), 200);
}

/// A mount that fails for no reason that passes by itself comes back when that is gone all the same.
#[tokio::test(start_paused = true)]
async fn what_cannot_be_served_is_tried_until_it_can() {
    static TRIES: std::sync::atomic::AtomicUsize = std::sync::atomic::AtomicUsize::new(0);
    let bench = Bench::new();
    let supervisor = Supervisor::new(bench.home.clone());
    let _told = bench.process(|request| match request {
        Request::Hello => Some(Answer::Hello { protocol: PROTOCOL }),
        Request::Attach(_) if TRIES.fetch_add(1, std::sync::atomic::Ordering::Relaxed) < 20 => {
            Some(Answer::Failed(Failure::Other("no".into())))
        }
        _ => Some(Answer::Done),
    });
    supervisor.keep_serving(bench.spec.clone());
    while supervisor.trouble("a").is_none() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let served = async {
        while supervisor.trouble("a").is_some() {
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20 * 61), served).await.unwrap();
    assert!(supervisor.is_wanted("a") && !supervisor.is_starting("a"));
}
