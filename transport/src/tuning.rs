//! Every number QUIC is run with, its reason and what it costs.
//!
//! Two kinds of link matter: the LAN (1 to 10 Gbit/s, below a millisecond) and the way between two sites (20 to 100 ms,
//! 50 to 500 Mbit/s, some loss). A window must hold what the link delivers in a round trip, or the link stands idle:
//! 1 Gbit/s × 64 ms, or 10 Gbit/s × 6 ms, are 8 MB.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

use quinn::congestion::{BbrConfig, ControllerFactory};
use quinn::{
    ConnectionId, ConnectionIdGenerator, EndpointConfig, IdleTimeout, MtuDiscoveryConfig, TransportConfig,
    VarInt,
};
use ring::hmac;
use ring::rand::{SecureRandom, SystemRandom};
use socket2::{Domain, Protocol, Socket, Type};

use crate::identity::Identity;

/// What one answer may have under way or unread: one link's worth (see above). A reader that stops costs at most this
/// much memory and no more of the connection's window.
const ANSWER_WINDOW: u32 = 8 * 1024 * 1024;

/// What all answers of a connection may have under way or unread at the client. Seven that nobody reads any more leave
/// room for an eighth that somebody waits for; [`crate::client`] asks for no more than six at a time for which nobody
/// waits. Memory in the worst case: this, in each process that has a connection.
const ANSWERS_WINDOW: u32 = 8 * ANSWER_WINDOW;

/// What a server keeps of a connection's answers until they are acknowledged: twice what the link can have under way,
/// as the congestion control finds it (see [`crate::outlet`]), within two bounds. The lower one covers the first round
/// trips.
pub(crate) const UNACKNOWLEDGED_BYTES_MIN: u64 = 1024 * 1024;

/// The upper one holds twice a link's worth.
pub(crate) const UNACKNOWLEDGED_BYTES_MAX: u64 = 16 * 1024 * 1024;

/// What all connections of a server together may keep beyond the lower bound of each: sixteen long links at their upper
/// one, or any number of short ones. Memory in the worst case: this, and the lower bound of each connection (see
/// [`crate::server`]), half a gigabyte.
pub(crate) const UNACKNOWLEDGED_BYTES_ALL: u64 = 256 * 1024 * 1024;

/// What a client may send for one request; an encoded request has 16 KiB at most.
const REQUEST_WINDOW: u32 = 32 * 1024;

/// What a client may send for all its requests together.
const REQUESTS_WINDOW: u32 = 1024 * 1024;

/// Requests a client may have open on one connection. One more waits in the client until another has ended.
pub(crate) const REQUESTS_PER_CONNECTION: u32 = 128;

/// How long a connection lives without hearing anything. Long enough for a moment of Wi-Fi roaming or a stopped
/// scheduler, and well inside the ten seconds after which a reader's patience ends by default, so that a dead peer is
/// noticed and tried anew within them.
pub const IDLE_MAX: Duration = Duration::from_secs(5);

/// How often a client makes itself heard when it has nothing to say: three of these may be lost within [`IDLE_MAX`].
/// Servers send none of their own: they answer.
const KEEP_ALIVE: Duration = Duration::from_millis(1250);

/// The largest datagram that is tried. Ten segments of one `sendmsg` with generic segmentation offload must fit into
/// 64 KiB; beyond it the kernel answers EMSGSIZE and the connection stalls. On Ethernet, discovery ends at 1,452.
const DATAGRAM_BYTES_MAX: u16 = 6500;

/// What is asked of the kernel for a socket's buffers, so that a burst survives until the endpoint's task runs. An
/// ordinary user is given `net.core.rmem_max` (208 KiB unless configured otherwise), which costs throughput, not
/// correctness.
const SOCKET_BUFFER_BYTES: usize = 4 * 1024 * 1024;

/// Handshakes that wait to be looked at; more are dropped, and the other side sends again. A few hundred bytes each.
const WAITING_HANDSHAKES_MAX: usize = 256;

/// What is kept of packets that arrive while a handshake waits. There is no early data, so more is of no use.
const WAITING_HANDSHAKE_BYTES: u64 = 16 * 1024;

fn both_sides() -> TransportConfig {
    let mut transport = TransportConfig::default();
    let mut mtu = MtuDiscoveryConfig::default();
    mtu.upper_bound(DATAGRAM_BYTES_MAX);
    transport
        .mtu_discovery_config(Some(mtu))
        .enable_segmentation_offload(true)
        .congestion_controller_factory(congestion())
        .max_idle_timeout(Some(IdleTimeout::from(VarInt::from_u32(IDLE_MAX.as_millis() as u32))))
        .max_concurrent_uni_streams(VarInt::from_u32(0))
        .datagram_receive_buffer_size(None);
    transport
}

/// BBR: cubic takes each lost packet for congestion. Four answers at once, in MB/s, on a link of 25 MB/s:
///
/// | round trip, lost | BBR | cubic |
/// |---|---|---|
/// | 2 ms, nothing | 22 | 24 |
/// | 2 ms, 0.5 % | 22 | 18 |
/// | 20 ms, nothing | 20 | 22 |
/// | 20 ms, 0.5 % | 20 | 4 |
/// | 50 ms, nothing | 18 | 19 |
/// | 50 ms, 0.5 % | 17 | 2 |
fn congestion() -> Arc<dyn ControllerFactory + Send + Sync> {
    Arc::new(BbrConfig::default())
}

/// A client's connections: large answers come in, and it makes itself heard.
pub(crate) fn client_transport() -> Arc<TransportConfig> {
    let mut transport = both_sides();
    transport
        .stream_receive_window(VarInt::from_u32(ANSWER_WINDOW))
        .receive_window(VarInt::from_u32(ANSWERS_WINDOW))
        .send_window(u64::from(REQUESTS_WINDOW))
        .max_concurrent_bidi_streams(VarInt::from_u32(0))
        .keep_alive_interval(Some(KEEP_ALIVE));
    Arc::new(transport)
}

/// A server's connections: large answers go out.
fn server_transport() -> Arc<TransportConfig> {
    let mut transport = both_sides();
    transport
        .stream_receive_window(VarInt::from_u32(REQUEST_WINDOW))
        .receive_window(VarInt::from_u32(REQUESTS_WINDOW))
        .send_window(UNACKNOWLEDGED_BYTES_MIN)
        .max_concurrent_bidi_streams(VarInt::from_u32(REQUESTS_PER_CONNECTION));
    Arc::new(transport)
}

/// What the server does with whoever knocks.
pub(crate) fn server_config(tls: Arc<quinn::crypto::rustls::QuicServerConfig>) -> quinn::ServerConfig {
    let mut config = quinn::ServerConfig::with_crypto(tls);
    config
        .transport_config(server_transport())
        .max_incoming(WAITING_HANDSHAKES_MAX)
        .incoming_buffer_size(WAITING_HANDSHAKE_BYTES)
        .incoming_buffer_size_total(WAITING_HANDSHAKES_MAX as u64 * WAITING_HANDSHAKE_BYTES);
    config
}

/// A server's endpoint. Its key for stateless resets (RFC 9000 section 10.3) is the same after a restart, so whoever
/// still holds a connection to the process before learns at once that it is gone, instead of after [`IDLE_MAX`].
pub(crate) fn server_endpoint(identity: &Identity) -> EndpointConfig {
    let key = identity.derive_secret("twinshare 2025 QUIC stateless reset key");
    let mut config = EndpointConfig::new(Arc::new(hmac::Key::new(hmac::HMAC_SHA256, &key)));
    config.cid_generator(|| Box::new(RandomIds));
    endpoint(config)
}

/// Connection ids without structure. quinn's own are marked with a key of the process, and what does not bear the mark is
/// dropped instead of answered with a reset.
struct RandomIds;

/// Enough that no two connections of a server ever share one by chance.
const CONNECTION_ID_BYTES: usize = 8;

impl ConnectionIdGenerator for RandomIds {
    fn generate_cid(&mut self) -> ConnectionId {
        let mut bytes = [0; CONNECTION_ID_BYTES];
        // Without random numbers there is no TLS either: the handshake fails before the id matters.
        let _ = SystemRandom::new().fill(&mut bytes);
        ConnectionId::new(&bytes)
    }

    fn cid_len(&self) -> usize {
        CONNECTION_ID_BYTES
    }

    fn cid_lifetime(&self) -> Option<Duration> {
        None
    }
}

/// A client's endpoint. Nobody can reach it but those it has connected to, so its keys live as long as it does.
pub(crate) fn client_endpoint() -> EndpointConfig {
    endpoint(EndpointConfig::default())
}

fn endpoint(mut config: EndpointConfig) -> EndpointConfig {
    config
        .max_udp_payload_size(DATAGRAM_BYTES_MAX)
        .expect("the size lies between RFC 9000's least of 1,200 and UDP's most");
    config
}

/// The server's socket.
pub(crate) fn listen(address: SocketAddr) -> io::Result<UdpSocket> {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
    if address.ip() == Ipv6Addr::UNSPECIFIED {
        // Where IPv4 cannot be served by the same socket, IPv6 alone is served.
        let _ = socket.set_only_v6(false);
    }
    bind(socket, address)
}

/// The client's socket: for both families where the system has both.
pub(crate) fn outgoing() -> io::Result<UdpSocket> {
    let (v6, v4) =
        (SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0)), SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)));
    listen(v6).or_else(|_| listen(v4))
}

fn bind(socket: Socket, address: SocketAddr) -> io::Result<UdpSocket> {
    enlarge_buffers(&socket);
    socket.bind(&address.into())?;
    Ok(socket.into())
}

/// Asks for large buffers: as root beyond the system's limit, otherwise up to it. Less is no error.
fn enlarge_buffers(socket: &Socket) {
    use rustix::net::sockopt;
    if sockopt::set_socket_recv_buffer_size_force(socket, SOCKET_BUFFER_BYTES).is_err() {
        let _ = socket.set_recv_buffer_size(SOCKET_BUFFER_BYTES);
    }
    let _ = socket.set_send_buffer_size(SOCKET_BUFFER_BYTES);
}
