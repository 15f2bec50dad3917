//! Where the node listens for peers, and at which addresses they reach it.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use twinshare_transport::identity::Identity;
use twinshare_transport::server::{Server, Service};

use crate::config::Listen;

/// Listens as configured. A port that is taken is replaced by a free one, since several nodes may live on a machine
/// and each announces its own; a machine without IPv6 gets IPv4 alone.
pub(super) fn bind(identity: &Identity, listen: &Listen, service: Arc<dyn Service>) -> io::Result<Server> {
    let mut refused = None;
    for address in candidates(listen) {
        match Server::bind(identity, address, service.clone()) {
            Ok(server) => return Ok(server),
            Err(error) => {
                tracing::info!(%address, %error, "cannot listen there");
                refused = Some(error);
            }
        }
    }
    Err(refused.unwrap_or_else(|| io::ErrorKind::AddrNotAvailable.into()))
}

/// The addresses to try, best first.
fn candidates(listen: &Listen) -> Vec<SocketAddr> {
    let every = [IpAddr::V6(Ipv6Addr::UNSPECIFIED), IpAddr::V4(Ipv4Addr::UNSPECIFIED)];
    let addresses = listen.address.map_or_else(|| every.to_vec(), |address| vec![address]);
    let with = |address: IpAddr| [listen.port, 0].map(|port| SocketAddr::new(address, port));
    let mut all: Vec<_> = addresses.into_iter().flat_map(with).collect();
    all.dedup();
    all
}

/// The addresses of this machine at which a peer reaches `local`: itself, unless it stands for all of them.
pub(super) fn reachable(local: SocketAddr) -> Vec<SocketAddr> {
    if !local.ip().is_unspecified() {
        return vec![local];
    }
    let interfaces = if_addrs::get_if_addrs().unwrap_or_default();
    let is_up = |interface: &&if_addrs::Interface| interface.is_oper_up() || interface.is_loopback();
    expand(local, interfaces.iter().filter(is_up).map(if_addrs::Interface::ip).collect())
}

/// `local` with each of the machine's addresses it stands for, those that reach farthest first. Loopback is left out
/// where there is anything else; link-local IPv6, which means nothing on another machine's screen, always.
fn expand(local: SocketAddr, machine: Vec<IpAddr>) -> Vec<SocketAddr> {
    let is_usable = |ip: &IpAddr| match ip {
        IpAddr::V4(_) => true,
        IpAddr::V6(v6) => local.is_ipv6() && !v6.is_unicast_link_local(),
    };
    let (loopback, mut others): (Vec<_>, Vec<_>) =
        machine.into_iter().filter(is_usable).partition(IpAddr::is_loopback);
    if others.is_empty() {
        others = loopback;
    }
    others.sort();
    others.dedup();
    others.into_iter().map(|ip| SocketAddr::new(ip, local.port())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check_candidates(address: Option<&str>, port: u16, expected: &[&str]) {
        let listen = Listen { address: address.map(|address| address.parse().unwrap()), port };
        let found: Vec<_> = candidates(&listen).iter().map(SocketAddr::to_string).collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn a_taken_port_and_a_machine_without_ipv6_are_no_obstacle() {
        check_candidates(None, 5, &["[::]:5", "[::]:0", "0.0.0.0:5", "0.0.0.0:0"]);
        check_candidates(Some("127.0.0.1"), 5, &["127.0.0.1:5", "127.0.0.1:0"]);
        check_candidates(Some("::1"), 0, &["[::1]:0"]);
    }

    #[track_caller]
    fn check(local: &str, machine: &[&str], expected: &[&str]) {
        let machine = machine.iter().map(|ip| ip.parse().unwrap()).collect();
        let found: Vec<_> =
            expand(local.parse().unwrap(), machine).iter().map(SocketAddr::to_string).collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn every_address_stands_for_those_a_peer_can_use() {
        let machine = ["127.0.0.1", "::1", "10.0.0.2", "fe80::1", "2001:db8::1", "10.0.0.2"];
        check("[::]:7", &machine, &["10.0.0.2:7", "[2001:db8::1]:7"]);
        check("0.0.0.0:7", &machine, &["10.0.0.2:7"]);
        check("[::]:7", &["127.0.0.1", "::1"], &["127.0.0.1:7", "[::1]:7"]);
        assert_eq!(reachable("10.9.9.9:1".parse().unwrap()), ["10.9.9.9:1".parse().unwrap()]);
    }
}
