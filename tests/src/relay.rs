//! A bad link on loopback: a UDP relay that delays, loses, slows down, holds back or swallows what passes.
//!
//! Clients are pointed at [`Relay::address`] instead of the server. Each client gets a socket of its own towards the
//! server, so the server sees as many addresses as there are clients. Everything happens in tasks of the runtime the
//! relay was started in, and ends when it is dropped.

use std::collections::HashMap;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use tokio::net::UdpSocket;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

use crate::random::Random;

/// Datagrams on their way in one direction at most; more are lost, as in any router.
const QUEUE_MAX: usize = 4096;

/// What a limited rate lets queue up before it loses the rest.
const QUEUE_TIME_MAX: Duration = Duration::from_millis(100);

/// Clients of one relay at most; what comes from further ones is lost.
const CLIENTS_MAX: usize = 64;

/// What the link does to each direction.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Conditions {
    /// How long a datagram takes: half of the round trip.
    pub delay: Duration,
    /// The share of datagrams that is lost, 0 to 1. Which ones is the same in every run.
    pub loss: f64,
    /// The rate, where it is limited.
    pub bytes_per_second: Option<u64>,
    /// Whether anything passes at all.
    pub traffic: Traffic,
}

/// Whether anything passes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Traffic {
    /// Yes.
    Flows,
    /// Not now: what arrives is kept (as far as the queue goes), and passes later.
    Held,
    /// No: what arrives is lost, and nobody is told.
    Swallowed,
}

impl Default for Conditions {
    fn default() -> Self {
        Self { delay: Duration::ZERO, loss: 0.0, bytes_per_second: None, traffic: Traffic::Flows }
    }
}

/// A running relay.
#[derive(Debug)]
pub struct Relay {
    address: SocketAddr,
    conditions: watch::Sender<Conditions>,
    /// Counts the times the clients' addresses were changed.
    generation: watch::Sender<u64>,
    _task: JoinSet<()>,
}

impl Relay {
    /// Starts a relay to `server`.
    pub async fn start(server: SocketAddr, conditions: Conditions) -> io::Result<Self> {
        let front = Arc::new(UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await?);
        let address = front.local_addr()?;
        let conditions = watch::Sender::new(conditions);
        let generation = watch::Sender::new(0);
        let mut task = JoinSet::new();
        task.spawn(relay(front, server, conditions.subscribe(), generation.subscribe()));
        Ok(Self { address, conditions, generation, _task: task })
    }

    /// Where clients are to be pointed.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Changes what the link does, from the next datagram on.
    pub fn set(&self, conditions: Conditions) {
        self.conditions.send_replace(conditions);
    }

    /// Lets traffic pass or not, and leaves everything else as it is.
    pub fn set_traffic(&self, traffic: Traffic) {
        self.conditions.send_modify(|conditions| conditions.traffic = traffic);
    }

    /// Gives every client another address towards the server, as a router does that has forgotten them.
    pub fn change_addresses(&self) {
        self.generation.send_modify(|generation| *generation += 1);
    }
}

/// What one client's datagrams go through.
struct Path {
    generation: u64,
    to_server: Direction,
    /// Carries answers; ends with the path.
    _back: JoinSet<()>,
}

async fn relay(
    front: Arc<UdpSocket>,
    server: SocketAddr,
    conditions: watch::Receiver<Conditions>,
    generation: watch::Receiver<u64>,
) {
    let mut paths: HashMap<SocketAddr, Path> = HashMap::new();
    let mut buffer = vec![0; 1 << 16];
    loop {
        // An error is the news that an earlier datagram found nobody; the next one may.
        let Ok((bytes, client)) = front.recv_from(&mut buffer).await else { continue };
        let current = *generation.borrow();
        paths.retain(|_, path| path.generation == current);
        if !paths.contains_key(&client) && paths.len() < CLIENTS_MAX {
            let opened = open(Arc::clone(&front), client, server, conditions.clone(), current).await;
            paths.extend(opened.map(|path| (client, path)));
        }
        if let Some(path) = paths.get_mut(&client) {
            path.to_server.take(&buffer[..bytes]);
        }
    }
}

async fn open(
    front: Arc<UdpSocket>,
    client: SocketAddr,
    server: SocketAddr,
    conditions: watch::Receiver<Conditions>,
    generation: u64,
) -> io::Result<Path> {
    let back = Arc::new(UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await?);
    let to_server = Direction::new(Arc::clone(&back), server, conditions.clone());
    let mut to_client = Direction::new(front, client, conditions);
    let mut task = JoinSet::new();
    task.spawn(async move {
        let mut buffer = vec![0; 1 << 16];
        loop {
            if let Ok(bytes) = back.recv(&mut buffer).await {
                to_client.take(&buffer[..bytes]);
            }
        }
    });
    Ok(Path { generation, to_server, _back: task })
}

/// One direction of one path: decides about each datagram, and a task of its own sends what passes in its time.
struct Direction {
    queue: mpsc::Sender<(Instant, Box<[u8]>)>,
    conditions: watch::Receiver<Conditions>,
    dice: Random,
    /// When the last datagram has left a link of limited rate.
    free: Instant,
    _sender: JoinSet<()>,
}

impl Direction {
    fn new(socket: Arc<UdpSocket>, to: SocketAddr, conditions: watch::Receiver<Conditions>) -> Self {
        let (queue, waiting) = mpsc::channel(QUEUE_MAX);
        let mut sender = JoinSet::new();
        sender.spawn(send(socket, to, waiting, conditions.clone()));
        let dice = Random::new(0x9e37_79b9_7f4a_7c15 ^ u64::from(to.port()));
        Self { queue, conditions, dice, free: Instant::now(), _sender: sender }
    }

    /// Takes a datagram in: on its way, or lost.
    fn take(&mut self, datagram: &[u8]) {
        let conditions = *self.conditions.borrow();
        if conditions.traffic == Traffic::Swallowed || self.dice.chance(conditions.loss) {
            return;
        }
        let now = Instant::now();
        if let Some(rate) = conditions.bytes_per_second {
            if self.free > now + QUEUE_TIME_MAX {
                return;
            }
            self.free = self.free.max(now) + Duration::from_secs_f64(datagram.len() as f64 / rate as f64);
        } else {
            self.free = now;
        }
        // A full queue loses it.
        let _ = self.queue.try_send((self.free + conditions.delay, datagram.into()));
    }
}

async fn send(
    socket: Arc<UdpSocket>,
    to: SocketAddr,
    mut waiting: mpsc::Receiver<(Instant, Box<[u8]>)>,
    mut conditions: watch::Receiver<Conditions>,
) {
    while let Some((due, datagram)) = waiting.recv().await {
        // The timer counts in milliseconds: what is due already must not wait for its next tick.
        if due > Instant::now() {
            sleep_until(due).await;
        }
        if conditions.wait_for(|conditions| conditions.traffic != Traffic::Held).await.is_err() {
            return;
        }
        // Nobody listens there, or the kernel's buffer is full: the datagram is lost, as datagrams are.
        let _ = socket.send_to(&datagram, to).await;
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::timeout;

    use super::*;

    struct Ends {
        client: UdpSocket,
        server: UdpSocket,
        relay: Relay,
    }

    async fn ends(conditions: Conditions) -> Ends {
        let server = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let relay = Relay::start(server.local_addr().unwrap(), conditions).await.unwrap();
        let client = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        client.connect(relay.address()).await.unwrap();
        Ends { client, server, relay }
    }

    async fn received(socket: &UdpSocket, within: Duration) -> Option<(Vec<u8>, SocketAddr)> {
        let mut buffer = [0; 100];
        let (bytes, from) = timeout(within, socket.recv_from(&mut buffer)).await.ok()?.unwrap();
        Some((buffer[..bytes].to_vec(), from))
    }

    const SOON: Duration = Duration::from_secs(10);
    const BRIEFLY: Duration = Duration::from_millis(100);
    /// Far longer than a datagram takes here, however loaded the machine.
    const QUIET: Duration = Duration::from_millis(300);

    #[tokio::test]
    async fn datagrams_go_both_ways_after_the_delay() {
        let delay = Duration::from_millis(20);
        let ends = ends(Conditions { delay, ..Conditions::default() }).await;
        let started = Instant::now();
        ends.client.send(b"ping").await.unwrap();
        let (ping, from) = received(&ends.server, SOON).await.unwrap();
        ends.server.send_to(b"pong", from).await.unwrap();
        let (pong, _) = received(&ends.client, SOON).await.unwrap();
        assert_eq!((&ping[..], &pong[..]), (&b"ping"[..], &b"pong"[..]));
        assert!(started.elapsed() >= 2 * delay);
    }

    #[tokio::test]
    async fn what_is_held_passes_later_and_what_is_swallowed_never() {
        let ends = ends(Conditions::default()).await;
        ends.relay.set_traffic(Traffic::Swallowed);
        ends.client.send(b"lost").await.unwrap();
        assert_eq!(received(&ends.server, BRIEFLY).await, None);
        ends.relay.set_traffic(Traffic::Held);
        ends.client.send(b"kept").await.unwrap();
        assert_eq!(received(&ends.server, BRIEFLY).await, None);
        ends.relay.set_traffic(Traffic::Flows);
        assert_eq!(received(&ends.server, SOON).await.unwrap().0, b"kept");
    }

    #[tokio::test]
    async fn about_the_stated_share_is_lost() {
        let ends = ends(Conditions { loss: 0.25, ..Conditions::default() }).await;
        let mut arrived = 0;
        // Few at a time, so that no buffer overflows; what does not come while nothing else does is lost.
        for _ in 0..20 {
            for _ in 0..20 {
                ends.client.send(b"x").await.unwrap();
            }
            while received(&ends.server, QUIET).await.is_some() {
                arrived += 1;
            }
        }
        assert!((250..350).contains(&arrived), "{arrived} of 400 arrived");
    }

    #[tokio::test]
    async fn the_server_sees_another_address_after_a_change() {
        let ends = ends(Conditions::default()).await;
        ends.client.send(b"a").await.unwrap();
        let (_, before) = received(&ends.server, SOON).await.unwrap();
        ends.relay.change_addresses();
        ends.client.send(b"b").await.unwrap();
        let (_, after) = received(&ends.server, SOON).await.unwrap();
        assert_ne!(before, after);
    }
}
