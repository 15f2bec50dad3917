//! The transport on bad links and with peers that stop, die, move and come back.
//!
//! Whatever happens to the peer or the link in the middle of a read, the read ends: with every byte, or with an error
//! within seconds, never with less than was asked for. And when the peer answers again, so does the remote.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on has failed")]

use std::io::{BufRead, BufReader};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use rustix::process::{Pid, Signal, kill_process, set_parent_process_death_signal};
use tokio::time::{Instant, timeout};
use twinshare_fs::digest::{BLOCK_BYTES, BlockIndex};
use twinshare_fs::manifest::EntryIndex;
use twinshare_fs::origin::{Availability, BlockRange, Class, Deliveries, Delivery, Origin, OriginError};
use twinshare_tests::relay::{Conditions, Relay, Traffic};
use twinshare_transport::protocol::Hello;
use twinshare_transport::tuning::IDLE_MAX;
use twinshare_transport::{Client, Identity, Remote, Server};

#[expect(dead_code, reason = "this test needs a part of what the transport's own tests need")]
#[path = "../../transport/tests/loopback/memory.rs"]
mod memory;

use memory::{Memory, Offering, SNAPSHOT};

const LOOPBACK: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

/// Until the end of a peer is noticed: its silence, and a busy machine.
const NOTICED: Duration = IDLE_MAX.saturating_add(Duration::from_secs(10));

/// Until its return is noticed: an attempt that was under way, the longest pause, a handshake, and a busy machine.
const BACK: Duration = Duration::from_secs(25);

const LARGE: EntryIndex = EntryIndex(0);
const SMALL: EntryIndex = EntryIndex(1);
const TEXT: EntryIndex = EntryIndex(2);
const LARGE_BYTES: usize = 48 << 20;
const TEXT_BYTES: usize = 24 << 20;

/// Bytes that do not compress.
fn content(bytes: usize) -> Bytes {
    let mut content = vec![0; bytes];
    blake3::Hasher::new().finalize_xof().fill(&mut content);
    content.into()
}

/// Bytes that do.
fn text() -> Bytes {
    "import numpy as np\n".bytes().cycle().take(TEXT_BYTES).collect::<Vec<_>>().into()
}

fn offering() -> Arc<Offering> {
    Arc::new(Offering::new(Memory::new(vec![content(LARGE_BYTES), content(100_000), text()])))
}

fn client() -> Client {
    Client::new(&Identity::generate().unwrap(), Hello::new("client")).unwrap()
}

/// A server, a relay in front of it, and a remote that knows only the relay.
struct Linked {
    identity: Identity,
    server: Server,
    relay: Relay,
    remote: Remote,
}

async fn linked(conditions: Conditions) -> Linked {
    let identity = Identity::generate().unwrap();
    let server = Server::bind(&identity, LOOPBACK, offering()).unwrap();
    let relay = Relay::start(server.local_address(), conditions).await.unwrap();
    let remote = Remote::new(&client(), identity.peer_id(), vec![relay.address()]);
    Linked { identity, server, relay, remote }
}

impl Linked {
    fn origin(&self) -> Arc<dyn Origin> {
        self.remote.origin(SNAPSHOT)
    }
}

async fn read_small(origin: &Arc<dyn Origin>) -> Result<(), OriginError> {
    let read = finish(origin.read_files(vec![SMALL], Class::Demand)).await?;
    assert_eq!(read, content(100_000));
    Ok(())
}

/// What is left of a read, to its end.
async fn finish(mut deliveries: Deliveries) -> Result<Vec<u8>, OriginError> {
    let mut bytes = Vec::new();
    while let Some(delivery) = deliveries.recv().await {
        match delivery? {
            Delivery::Run(run) => bytes.extend_from_slice(&run.bytes),
            Delivery::End(_) => {}
            Delivery::Fault(_, fault) => panic!("{fault}"),
        }
    }
    Ok(bytes)
}

/// The start of a read of the large file, one run of which has arrived.
async fn begin(origin: &Arc<dyn Origin>) -> Deliveries {
    let mut deliveries = origin.read_files(vec![LARGE], Class::Bulk);
    let first = timeout(BACK, deliveries.recv()).await.unwrap();
    assert!(matches!(first, Some(Ok(Delivery::Run(_)))), "{first:?}");
    deliveries
}

/// The read under way ends in an error in time, and the remote says that the peer is gone no later.
async fn assert_breaks(remote: &Remote, deliveries: Deliveries) {
    let error =
        timeout(NOTICED, finish(deliveries)).await.expect("the read went on for too long").unwrap_err();
    assert!(matches!(error, OriginError::Gone(_)), "{error}");
    let availability = remote.availability().borrow().clone();
    assert!(matches!(availability, Availability::Gone { .. }), "{error}, but the peer is {availability:?}");
    // While it is gone, nobody waits.
    let started = Instant::now();
    let error = read_small(&remote.origin(SNAPSHOT)).await.unwrap_err();
    assert!(matches!(error, OriginError::Gone(_)), "{error}");
    assert!(started.elapsed() < Duration::from_secs(2), "a read waited for a peer that is gone");
}

/// The remote finds the peer again by itself.
async fn assert_back(remote: &Remote) {
    let mut availability = remote.availability();
    let reachable = availability.wait_for(|now| *now == Availability::Reachable);
    timeout(BACK, reachable).await.expect("its return was not noticed").unwrap();
    read_small(&remote.origin(SNAPSHOT)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everything_arrives_over_a_long_link_that_loses() {
    let conditions = Conditions { delay: Duration::from_millis(5), loss: 0.01, ..Conditions::default() };
    let linked = linked(conditions).await;
    let range = |first| BlockRange { file: LARGE, first: BlockIndex(first), count: 32 };
    let ranges: Vec<_> = (0..4).map(|i| range(i * 100)).collect();
    let read = finish(linked.origin().read_ranges(ranges, Class::Bulk)).await.unwrap();
    let large = content(LARGE_BYTES);
    let part = |i: usize| &large[i * 100 * BLOCK_BYTES as usize..][..32 * BLOCK_BYTES as usize];
    assert!(read == [part(0), part(1), part(2), part(3)].concat(), "other bytes arrived");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_link_that_swallows_everything() {
    let linked = linked(Conditions::default()).await;
    let deliveries = begin(&linked.origin()).await;
    let swallowed = Instant::now();
    linked.relay.set_traffic(Traffic::Swallowed);
    assert_breaks(&linked.remote, deliveries).await;
    // Noticed late, but counted from the last sign of life, give or take a question that nobody answered.
    let availability = linked.remote.availability().borrow().clone();
    let Availability::Gone { since, .. } = availability else { panic!("{availability:?}") };
    assert!(since < swallowed + IDLE_MAX / 2, "gone since {:?} after the last packet", since - swallowed);
    linked.relay.set_traffic(Traffic::Flows);
    assert_back(&linked.remote).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_link_that_holds_everything_back_for_longer_than_anyone_waits() {
    let linked = linked(Conditions::default()).await;
    let deliveries = begin(&linked.origin()).await;
    linked.relay.set_traffic(Traffic::Held);
    assert_breaks(&linked.remote, deliveries).await;
    linked.relay.set_traffic(Traffic::Flows);
    assert_back(&linked.remote).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pause_shorter_than_the_patience_breaks_nothing() {
    let linked = linked(Conditions::default()).await;
    let deliveries = begin(&linked.origin()).await;
    linked.relay.set_traffic(Traffic::Swallowed);
    tokio::time::sleep(IDLE_MAX / 4).await;
    linked.relay.set_traffic(Traffic::Flows);
    finish(deliveries).await.unwrap();
    assert_eq!(*linked.remote.availability().borrow(), Availability::Reachable);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_whose_address_changes_goes_on_reading() {
    let linked = linked(Conditions::default()).await;
    let deliveries = begin(&linked.origin()).await;
    linked.relay.change_addresses();
    finish(deliveries).await.unwrap();
    assert_eq!(*linked.remote.availability().borrow(), Availability::Reachable);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_that_moved_is_followed_before_its_old_address_has_timed_out() {
    let linked = linked(Conditions::default()).await;
    let origin = linked.origin();
    read_small(&origin).await.unwrap();
    linked.relay.set_traffic(Traffic::Swallowed);
    linked.remote.set_addresses(vec![linked.server.local_address()]);
    let started = Instant::now();
    while timeout(Duration::from_millis(500), read_small(&origin)).await.is_err() {
        assert!(started.elapsed() < NOTICED, "it was not followed");
    }
    assert_eq!(*linked.remote.availability().borrow(), Availability::Reachable);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_that_is_gone_is_found_at_its_new_address_at_once() {
    let linked = linked(Conditions::default()).await;
    read_small(&linked.origin()).await.unwrap();
    linked.server.shutdown().await;
    let gone = |now: &Availability| matches!(now, Availability::Gone { .. });
    timeout(NOTICED, linked.remote.availability().wait_for(gone)).await.unwrap().unwrap();
    let server = Server::bind(&linked.identity, LOOPBACK, offering()).unwrap();
    linked.remote.set_addresses(vec![server.local_address()]);
    assert_back(&linked.remote).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_that_restarted_unheard_says_so() {
    let linked = linked(Conditions::default()).await;
    let deliveries = begin(&linked.origin()).await;
    let address = linked.server.local_address();
    linked.relay.set_traffic(Traffic::Swallowed);
    linked.server.shutdown().await;
    let _server = Server::bind(&linked.identity, address, offering()).unwrap();
    linked.relay.set_traffic(Traffic::Flows);
    let error = timeout(NOTICED, finish(deliveries)).await.unwrap().unwrap_err();
    assert!(error.to_string().contains("it has restarted"), "{error}");
    assert_back(&linked.remote).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_somebody_waits_for_overtakes_the_rest() {
    let rate = 8 << 20;
    let delay = Duration::from_millis(5);
    let linked = linked(Conditions { delay, bytes_per_second: Some(rate), ..Conditions::default() }).await;
    let origin = linked.origin();
    // Each would take the whole link for six seconds.
    let bulk: Vec<_> = (0..4).map(|_| origin.read_files(vec![LARGE], Class::Bulk)).collect();
    let drains: Vec<_> = bulk.into_iter().map(|deliveries| tokio::spawn(finish(deliveries))).collect();
    // They fill the link once something small takes much longer than the link's own round trip.
    let until = Instant::now() + Duration::from_secs(5);
    let mut last = Duration::ZERO;
    while last < 4 * delay && Instant::now() < until {
        let started = Instant::now();
        read_small(&origin).await.unwrap();
        last = started.elapsed();
    }
    let mut took = Vec::new();
    for _ in 0..15 {
        let started = Instant::now();
        read_small(&origin).await.unwrap();
        took.push(started.elapsed());
    }
    took.sort();
    // 100 kB take 12 ms of this link, and what the network itself holds up to 100 ms; behind the rest they would wait
    // for a fifth of the rate or for megabytes of it.
    assert!(took[7] < Duration::from_millis(400), "{took:?}");
    drains.into_iter().for_each(|drain| drain.abort());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_compresses_crosses_a_slow_link_faster_than_the_link_is() {
    let rate = 4 << 20;
    let linked = linked(Conditions { bytes_per_second: Some(rate), ..Conditions::default() }).await;
    let started = Instant::now();
    let read = finish(linked.origin().read_files(vec![TEXT], Class::Bulk)).await.unwrap();
    let rates = read.len() as f64 / started.elapsed().as_secs_f64() / rate as f64;
    assert!(read == text(), "other bytes arrived");
    assert!(rates > 1.5, "it came at {rates:.2} times the link's rate");
}

/// A server in a process of its own, that can be stopped and killed.
struct Process {
    child: Child,
    address: SocketAddr,
}

const IDENTITY: &str = "TWINSHARE_TEST_SERVE_IDENTITY";
const ADDRESS: &str = "TWINSHARE_TEST_SERVE_ADDRESS";

impl Process {
    fn start(identity: &Path, address: SocketAddr) -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "serve_in_this_process", "--ignored", "--nocapture"])
            .env(IDENTITY, identity)
            .env(ADDRESS, address.to_string())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let address =
            lines.map_while(Result::ok).find_map(|line| line.rsplit_once("listening on ")?.1.parse().ok());
        Self { child, address: address.expect("the server did not start") }
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
#[ignore = "not a test: what the tests below start as a process of its own"]
fn serve_in_this_process() {
    let (Ok(identity), Ok(address)) = (std::env::var(IDENTITY), std::env::var(ADDRESS)) else { return };
    set_parent_process_death_signal(Some(Signal::KILL)).unwrap();
    let identity = Identity::load_or_create(Path::new(&identity)).unwrap();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let server = Server::bind(&identity, address.parse().unwrap(), offering()).unwrap();
        println!("listening on {}", server.local_address());
        std::future::pending::<()>().await;
    });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_that_is_stopped_and_goes_on() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("identity");
    let identity = Identity::load_or_create(&path).unwrap();
    let process = Process::start(&path, LOOPBACK);
    let remote = Remote::new(&client(), identity.peer_id(), vec![process.address]);
    let deliveries = begin(&remote.origin(SNAPSHOT)).await;
    process.signal(Signal::STOP);
    assert_breaks(&remote, deliveries).await;
    process.signal(Signal::CONT);
    assert_back(&remote).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_that_is_killed_and_started_again() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("identity");
    let identity = Identity::load_or_create(&path).unwrap();
    let process = Process::start(&path, LOOPBACK);
    let address = process.address;
    let remote = Remote::new(&client(), identity.peer_id(), vec![address]);
    let deliveries = begin(&remote.origin(SNAPSHOT)).await;
    drop(process);
    assert_breaks(&remote, deliveries).await;
    let _process = Process::start(&path, address);
    assert_back(&remote).await;
}
