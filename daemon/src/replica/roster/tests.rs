//! A process's replicas on paper: their mounts are flags that the tests turn.

use std::sync::Mutex;

use tokio::sync::Notify;

use super::*;

/// Longer than anything takes that works; the clock is virtual.
const LONG: Duration = Duration::from_secs(600);

/// What a mount on paper is like.
#[derive(Clone, Debug, Default)]
struct Mount {
    mounted: bool,
    users: Vec<String>,
    /// Copies in other mount namespaces.
    copies: usize,
}

/// A machine with one mount point.
#[derive(Clone, Default)]
struct Machine(Arc<(watch::Sender<Mount>, Mutex<Vec<&'static str>>)>);

impl Machine {
    fn change(&self, change: impl FnOnce(&mut Mount)) {
        self.0.0.send_modify(change);
    }

    fn is_mounted(&self) -> bool {
        self.0.0.borrow().mounted
    }

    fn note(&self, what: &'static str) {
        self.0.1.lock().unwrap().push(what);
    }

    fn noted(&self) -> Vec<&'static str> {
        self.0.1.lock().unwrap().clone()
    }

    /// Mounts, once `gate` opens.
    async fn start(self, gate: Arc<Notify>, stop: CancellationToken) -> Result<Paper, NotStarted<Paper>> {
        self.note("start");
        tokio::select! {
            () = gate.notified() => {}
            () = stop.cancelled() => {
                self.note("undone");
                return Err(Failure::Cancelled.into());
            }
        }
        self.change(|mount| mount.mounted = true);
        Ok(Paper(self))
    }
}

struct Paper(Machine);

impl Life for Paper {
    async fn unmount(&self) -> Result<(), Failure> {
        let users = self.0.0.0.borrow().users.clone();
        if !users.is_empty() {
            return Err(Failure::Busy(users));
        }
        self.0.change(|mount| mount.mounted = false);
        Ok(())
    }

    async fn is_copied(&self) -> bool {
        self.0.0.0.borrow().copies > 0
    }

    async fn over(&self) {
        let mut mount = self.0.0.0.subscribe();
        let _ = mount.wait_for(|mount| !mount.mounted && mount.copies == 0).await;
        self.0.note("over");
    }
}

struct Bench {
    roster: Roster<Paper>,
    machine: Machine,
    gate: Arc<Notify>,
}

impl Bench {
    fn new() -> Self {
        Self { roster: Roster::default(), machine: Machine::default(), gate: Arc::default() }
    }

    /// The order to attach, on its way.
    fn attach(&self) -> tokio::task::JoinHandle<Result<(), Failure>> {
        let (roster, machine, gate) = (self.roster.clone(), self.machine.clone(), self.gate.clone());
        tokio::spawn(async move { roster.attach("a", |stop| machine.start(gate, stop)).await })
    }

    async fn attached(&self) {
        self.gate.notify_one();
        within(self.attach()).await.unwrap().unwrap();
    }

    async fn until_started(&self) {
        let mut changes = self.roster.changes();
        while self.machine.noted().is_empty() {
            tokio::select! {
                () = changes.next() => {}
                () = tokio::task::yield_now() => {}
            }
        }
    }
}

async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(LONG, future).await.expect("in time")
}

#[tokio::test(start_paused = true)]
async fn an_attempt_that_is_detached_is_undone_before_the_answer() {
    let bench = Bench::new();
    let attaching = bench.attach();
    bench.until_started().await;
    assert_eq!(within(bench.roster.detach("a")).await, Ok(()));
    assert!(bench.roster.is_empty() && !bench.machine.is_mounted());
    assert_eq!(within(attaching).await.unwrap(), Err(Failure::Cancelled));
    assert_eq!(bench.machine.noted(), ["start", "undone"]);
    assert_eq!(within(bench.roster.detach("a")).await, Err(Failure::NoSuchReplica));
}

#[tokio::test(start_paused = true)]
async fn an_attempt_goes_on_without_whoever_ordered_it() {
    let bench = Bench::new();
    let attaching = bench.attach();
    bench.until_started().await;
    attaching.abort();
    let _ = attaching.await;
    assert!(!bench.roster.is_empty());
    bench.gate.notify_one();
    within(bench.attach()).await.unwrap().unwrap();
    assert_eq!(within(bench.roster.detach("a")).await, Ok(()));
    assert_eq!(bench.machine.noted(), ["start", "over"]);
}

#[tokio::test(start_paused = true)]
async fn a_second_order_waits_for_the_first() {
    let bench = Bench::new();
    let orders = [bench.attach(), bench.attach(), bench.attach()];
    bench.until_started().await;
    bench.gate.notify_one();
    for order in orders {
        within(order).await.unwrap().unwrap();
    }
    within(bench.attach()).await.unwrap().unwrap();
    assert_eq!((bench.machine.noted(), bench.roster.serving().len()), (vec!["start"], 1));
}

#[tokio::test(start_paused = true)]
async fn what_is_in_use_stays() {
    let bench = Bench::new();
    bench.attached().await;
    bench.machine.change(|mount| mount.users = vec!["bash (pid 1)".into()]);
    let busy = Err(Failure::Busy(vec!["bash (pid 1)".into()]));
    assert_eq!(within(bench.roster.detach("a")).await, busy);
    assert!(bench.machine.is_mounted() && bench.roster.serving().len() == 1);
    bench.machine.change(|mount| mount.users.clear());
    assert_eq!(within(bench.roster.detach("a")).await, Ok(()));
    assert!(bench.roster.is_empty());
}

#[tokio::test(start_paused = true)]
async fn copies_are_served_until_the_last_is_gone() {
    let bench = Bench::new();
    bench.attached().await;
    bench.machine.change(|mount| mount.copies = 1);
    for _ in 0..2 {
        assert_eq!(within(bench.roster.detach("a")).await, Err(Failure::Leaving));
        assert!(!bench.roster.is_empty() && bench.roster.serving().is_empty());
    }
    assert!(matches!(within(bench.attach()).await.unwrap(), Err(Failure::Other(_))));
    bench.machine.change(|mount| mount.copies = 0);
    let mut changes = bench.roster.changes();
    while !bench.roster.is_empty() {
        within(changes.next()).await;
    }
    assert_eq!(within(bench.roster.detach("a")).await, Err(Failure::NoSuchReplica));
}

#[tokio::test(start_paused = true)]
async fn what_is_unmounted_by_hand_is_forgotten() {
    let bench = Bench::new();
    bench.attached().await;
    bench.machine.change(|mount| mount.mounted = false);
    let mut changes = bench.roster.changes();
    while !bench.roster.is_empty() {
        within(changes.next()).await;
    }
    bench.attached().await;
    assert!(bench.machine.is_mounted());
}

#[tokio::test(start_paused = true)]
async fn an_attempt_that_fails_leaves_nothing_but_what_cannot_be_undone() {
    let roster = Roster::<Paper>::default();
    let failure = Failure::Unreachable("no route".into());
    let failed =
        roster.attach("a", |_| std::future::ready(Err(Failure::Unreachable("no route".into()).into())));
    assert_eq!(within(failed).await, Err(failure.clone()));
    assert!(roster.is_empty());

    let died = roster.attach("a", |_| async { panic!("of its own") });
    assert!(matches!(within(died).await, Err(Failure::Other(_))) && roster.is_empty());

    let machine = Machine::default();
    machine.change(|mount| *mount = Mount { mounted: true, users: vec!["bash".into()], copies: 0 });
    let left = Some(Paper(machine.clone()));
    let failed =
        roster.attach("a", |_| std::future::ready(Err(NotStarted { failure: failure.clone(), left })));
    assert_eq!(within(failed).await, Err(failure.clone()));
    assert_eq!(within(roster.detach("a")).await, Err(Failure::Busy(vec!["bash".into()])));
    machine.change(|mount| mount.users.clear());
    assert_eq!(within(roster.detach("a")).await, Ok(()));
}
