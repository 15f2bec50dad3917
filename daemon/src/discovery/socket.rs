//! One multicast socket per interface and address family.
//!
//! A socket bound to the wildcard address would hear, on every interface, whatever any socket of the host has joined.
//! So each is bound to the group's address and to its interface, and hears exactly what came to the group there.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::time::{Duration, Instant};

use socket2::{Domain, InterfaceIndexOrAddress, Protocol, Socket, Type};
use tokio::net::UdpSocket;
use tokio::sync::mpsc;
use tokio::task::AbortHandle;

use super::beacon::DATAGRAM_BYTES_MAX;
use super::interfaces::Interface;

/// Site-local multicast group (RFC 2365 section 6.1, 239.255/16), never routed beyond the link by its hop limit of 1.
pub const GROUP_V4: Ipv4Addr = Ipv4Addr::new(239, 255, 37, 77);

/// Link-local multicast group of our own making, therefore with the transient flag (RFC 4291 section 2.7): "twinsh".
pub const GROUP_V6: Ipv6Addr = Ipv6Addr::new(0xff12, 0, 0, 0, 0, 0x7477, 0x696e, 0x7368);

/// Datagrams one socket hands on in a second at most; the kernel drops the others.
const DATAGRAMS_PER_SECOND: u32 = 500;

/// A datagram, and where it came from.
#[derive(Debug)]
pub(super) struct Packet {
    pub(super) bytes: Vec<u8>,
    pub(super) source: SocketAddr,
}

/// Which socket: another one is needed when any of it changes.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Place {
    name: String,
    index: u32,
    family: Family,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Family {
    V4(Ipv4Addr),
    V6,
}

impl Place {
    /// The sockets that an interface needs.
    pub(super) fn of(interface: &Interface) -> Vec<Self> {
        let v4 = interface.v4.map(Family::V4);
        let v6 = interface.has_v6.then_some(Family::V6);
        let place = |family| Self { name: interface.name.clone(), index: interface.index, family };
        v4.into_iter().chain(v6).map(place).collect()
    }

    /// The interface's name.
    pub(super) fn interface(&self) -> &str {
        &self.name
    }
}

/// An open socket; closed when dropped.
#[derive(Debug)]
pub(super) struct GroupSocket {
    socket: std::sync::Arc<UdpSocket>,
    group: SocketAddr,
    reader: AbortHandle,
}

impl Drop for GroupSocket {
    fn drop(&mut self) {
        self.reader.abort();
    }
}

impl GroupSocket {
    /// Joins the group at `place`; what arrives goes to `packets`. Must be called within a Tokio runtime.
    pub(super) fn open(place: &Place, port: u16, packets: mpsc::Sender<Packet>) -> io::Result<Self> {
        let (socket, group) = match place.family {
            Family::V4(address) => open_v4(place, address, port)?,
            Family::V6 => open_v6(place, port)?,
        };
        let socket = std::sync::Arc::new(UdpSocket::from_std(socket.into())?);
        let reader = tokio::spawn(read(socket.clone(), packets)).abort_handle();
        Ok(Self { socket, group, reader })
    }

    /// Sends to the group, unless the kernel's buffer is full.
    pub(super) fn send(&self, datagram: &[u8]) -> io::Result<()> {
        match self.socket.try_send_to(datagram, self.group) {
            Ok(_) => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(()),
            Err(error) => Err(error),
        }
    }
}

fn open_v4(place: &Place, address: Ipv4Addr, port: u16) -> io::Result<(Socket, SocketAddr)> {
    let socket = new_socket(Domain::IPV4, place)?;
    let group = SocketAddr::V4(SocketAddrV4::new(GROUP_V4, port));
    socket.set_multicast_all_v4(false)?;
    socket.bind(&group.into())?;
    socket.join_multicast_v4_n(&GROUP_V4, &InterfaceIndexOrAddress::Index(place.index))?;
    socket.set_multicast_if_v4(&address)?;
    socket.set_multicast_ttl_v4(1)?;
    socket.set_multicast_loop_v4(true)?;
    Ok((socket, group))
}

fn open_v6(place: &Place, port: u16) -> io::Result<(Socket, SocketAddr)> {
    let socket = new_socket(Domain::IPV6, place)?;
    let group = SocketAddr::V6(SocketAddrV6::new(GROUP_V6, port, 0, place.index));
    socket.set_only_v6(true)?;
    socket.set_multicast_all_v6(false)?;
    socket.bind(&group.into())?;
    socket.join_multicast_v6(&GROUP_V6, place.index)?;
    socket.set_multicast_if_v6(place.index)?;
    socket.set_multicast_hops_v6(1)?;
    socket.set_multicast_loop_v6(true)?;
    Ok((socket, group))
}

/// A socket on one interface whose address and port others may have too, since every node of a host hears the group.
/// `SO_REUSEADDR` does that for all users; `SO_REUSEPORT` would only for nodes of one (`udp_lib_lport_inuse`).
fn new_socket(domain: Domain, place: &Place) -> io::Result<Socket> {
    let socket = Socket::new(domain, Type::DGRAM, Some(Protocol::UDP))?;
    socket.set_nonblocking(true)?;
    socket.set_reuse_address(true)?;
    match socket.bind_device(Some(place.name.as_bytes())) {
        // Before Linux 5.7 only root may; the memberships then do most of it.
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Ok(socket),
        Err(error) => Err(error),
        Ok(()) => Ok(socket),
    }
}

/// Hands on what arrives, at a bounded rate, until nobody takes it any more.
async fn read(socket: std::sync::Arc<UdpSocket>, packets: mpsc::Sender<Packet>) {
    // One byte more than is accepted, so that a longer datagram is seen to be one.
    let mut buffer = [0; DATAGRAM_BYTES_MAX + 1];
    let (mut second, mut taken) = (Instant::now(), 0);
    loop {
        let received = socket.recv_from(&mut buffer).await;
        taken += 1;
        if taken > DATAGRAMS_PER_SECOND {
            tokio::time::sleep(Duration::from_secs(1).saturating_sub(second.elapsed())).await;
        }
        if second.elapsed() >= Duration::from_secs(1) {
            (second, taken) = (Instant::now(), 0);
        }
        match received {
            Ok((bytes, source)) if bytes <= DATAGRAM_BYTES_MAX => {
                let packet = Packet { bytes: buffer[..bytes].to_vec(), source };
                if packets.send(packet).await.is_err() {
                    return;
                }
            }
            Ok(_) => {}
            // An error of an earlier send that the network reported; the socket goes on.
            Err(error) => tracing::debug!(%error, "a discovery socket reports an error"),
        }
    }
}
