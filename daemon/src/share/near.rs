//! Who is on the owner's own network: those whom an open share means.
//!
//! An address is near when no router of the Internet forwards it (loopback, private, link-local, unique local), or when
//! it lies in a network that one of this machine's interfaces is plugged into. The source of a QUIC connection is
//! proven by its handshake: whoever forges one never gets an answer.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How long what was read of the interfaces is believed.
const FRESH_FOR: Duration = Duration::from_secs(10);

/// A network whose prefix is shorter than this is no network that people share.
const PREFIX_MIN: (u8, u8) = (8, 32);

/// The networks this machine is plugged into.
#[derive(Debug, Default)]
pub(super) struct Neighbourhood {
    /// Held while the interfaces are read, for some microseconds, and never together with another lock.
    known: Mutex<Option<(Instant, Vec<Network>)>>,
}

/// An address of an interface, and how many bits of it its neighbours share.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Network(IpAddr, u8);

impl Neighbourhood {
    /// Whether somebody at `address` is on this machine's own network.
    pub(super) fn holds(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        is_local(address) || self.networks().iter().any(|network| network.holds(address))
    }

    fn networks(&self) -> Vec<Network> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        match &*known {
            Some((read, networks)) if read.elapsed() < FRESH_FOR => networks.clone(),
            _ => {
                let networks = plugged_into();
                *known = Some((Instant::now(), networks.clone()));
                networks
            }
        }
    }
}

/// The far end of a tunnel is another network, wherever that is.
fn plugged_into() -> Vec<Network> {
    let all = if_addrs::get_if_addrs().unwrap_or_default();
    let near = all.into_iter().filter(|interface| !interface.is_p2p);
    near.map(|interface| match interface.addr {
        if_addrs::IfAddr::V4(v4) => Network(v4.ip.into(), v4.prefixlen),
        if_addrs::IfAddr::V6(v6) => Network(v6.ip.into(), v6.prefixlen),
    })
    .collect()
}

/// Addresses that are only used within a site.
fn is_local(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => v4.is_loopback() || v4.is_private() || v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_loopback() || v6.is_unicast_link_local() || v6.is_unique_local(),
    }
}

impl Network {
    fn holds(self, address: IpAddr) -> bool {
        match (self.0, address) {
            (IpAddr::V4(own), IpAddr::V4(other)) => {
                let bits = |ip: Ipv4Addr| u128::from(ip.to_bits()) << 96;
                self.1 >= PREFIX_MIN.0 && agree(bits(own), bits(other), self.1)
            }
            (IpAddr::V6(own), IpAddr::V6(other)) => {
                let bits = |ip: Ipv6Addr| ip.to_bits();
                self.1 >= PREFIX_MIN.1 && agree(bits(own), bits(other), self.1)
            }
            _ => false,
        }
    }
}

/// Whether the first `count` bits are the same.
fn agree(a: u128, b: u128, count: u8) -> bool {
    (a ^ b).leading_zeros() >= u32::from(count)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_no_router_forwards_is_local() {
        let check = |address: &str, expected: bool| {
            assert_eq!(is_local(address.parse().unwrap()), expected, "{address}");
        };
        for near in
            ["127.0.0.1", "10.1.2.3", "172.16.0.9", "192.168.1.7", "169.254.3.4", "::1", "fe80::1", "fd00::5"]
        {
            check(near, true);
        }
        for far in ["8.8.8.8", "172.32.0.1", "100.64.0.1", "192.0.2.7", "2001:db8::1", "2a00::1"] {
            check(far, false);
        }
        // As a socket for both families shows IPv4.
        assert!(Neighbourhood::default().holds("::ffff:192.168.1.7".parse().unwrap()));
    }

    #[track_caller]
    fn check(own: &str, prefix: u8, other: &str, expected: bool) {
        let network = Network(own.parse().unwrap(), prefix);
        assert_eq!(network.holds(other.parse().unwrap()), expected, "{own}/{prefix} {other}");
    }

    #[test]
    fn a_network_holds_those_who_share_its_prefix() {
        check("192.0.2.7", 24, "192.0.2.200", true);
        check("192.0.2.7", 24, "192.0.3.200", false);
        check("192.0.2.7", 32, "192.0.2.7", true);
        check("192.0.2.7", 32, "192.0.2.6", false);
        check("192.0.2.7", 0, "8.8.8.8", false);
        check("2001:db8::1", 64, "2001:db8::9:9", true);
        check("2001:db8::1", 64, "2001:db8:0:1::9", false);
        check("2001:db8::1", 0, "2a00::1", false);
        check("192.0.2.7", 24, "2001:db8::1", false);
    }
}
