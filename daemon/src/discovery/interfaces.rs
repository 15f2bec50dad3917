//! Which network interfaces there are, and which of them discovery uses.
//!
//! Beacons belong where colleagues are: on the networks this machine is plugged into. A bridge of containers, a
//! tunnel or a host's end of a virtual machine's cable would only repeat them to oneself or carry them to strangers,
//! so those are used only where the configuration names them; `lo` too, on which nodes of one machine find each other.

use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;

use crate::config::Interfaces;

/// Interfaces used at most; each costs two sockets and two beacons an interval.
const USED_MAX: usize = 32;

/// Names under which container and virtual machine managers, VPNs and the kernel make interfaces that lead to no
/// colleague.
const VIRTUAL_PREFIXES: [&str; 26] = [
    "br-",
    "bridge",
    "cali",
    "cilium",
    "cni",
    "docker",
    "dummy",
    "flannel",
    "fwbr",
    "fwln",
    "fwpr",
    "ip6tnl",
    "kube",
    "lxc",
    "lxd",
    "nerdctl",
    "podman",
    "ppp",
    "sit",
    "tailscale",
    "tap",
    "tun",
    "veth",
    "virbr",
    "vnet",
    "wg",
];

/// One interface of this host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Interface {
    pub(super) name: String,
    pub(super) index: u32,
    /// Its first IPv4 address.
    pub(super) v4: Option<Ipv4Addr>,
    /// Whether it has a link-local IPv6 address, from which beacons are sent.
    pub(super) has_v6: bool,
    pub(super) is_up: bool,
    pub(super) is_loopback: bool,
    /// Why it is not used unless it is named, where something says so.
    pub(super) is_virtual: Option<&'static str>,
}

/// An interface, and whether discovery uses it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InterfaceStatus {
    /// The kernel's name for it.
    pub name: String,
    /// Whether it is used.
    pub state: InterfaceState,
    /// Why it is not.
    pub reason: Option<String>,
}

/// Whether discovery uses an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InterfaceState {
    /// Beacons are sent and heard.
    Used,
    /// Left out by rule or configuration.
    Ignored,
    /// Should be used and cannot.
    Failed,
}

/// The interfaces of this network namespace that have an address. Blocks on the kernel for some microseconds.
pub(super) fn list() -> io::Result<Vec<Interface>> {
    let mut all: Vec<Interface> = Vec::new();
    for found in if_addrs::get_if_addrs()? {
        let index = found.index.unwrap_or(0);
        let at = match all.iter().position(|known| known.name == found.name) {
            Some(at) => at,
            None => {
                all.push(Interface {
                    is_virtual: why_virtual(&found.name, index, found.is_p2p),
                    index,
                    v4: None,
                    has_v6: false,
                    is_up: found.is_oper_up() || found.oper_status == if_addrs::IfOperStatus::Unknown,
                    is_loopback: found.is_loopback(),
                    name: found.name.clone(),
                });
                all.len() - 1
            }
        };
        match found.ip() {
            IpAddr::V4(v4) => all[at].v4 = all[at].v4.or(Some(v4)),
            IpAddr::V6(_) => all[at].has_v6 |= found.is_link_local(),
        }
    }
    all.retain(|interface| interface.index != 0);
    Ok(all)
}

fn why_virtual(name: &str, index: u32, is_point_to_point: bool) -> Option<&'static str> {
    let sys = Path::new("/sys/class/net").join(name);
    // Where /sys is of another network namespace, it may describe another interface of that name.
    let is_same =
        std::fs::read_to_string(sys.join("ifindex")).is_ok_and(|text| text.trim() == index.to_string());
    match () {
        () if is_same && sys.join("bridge").exists() => Some("a bridge"),
        () if is_same && sys.join("tun_flags").exists() => Some("a tunnel"),
        () if is_point_to_point => Some("a tunnel"),
        () if VIRTUAL_PREFIXES.iter().any(|prefix| name.starts_with(prefix)) => {
            Some("of containers, virtual machines or a VPN")
        }
        () => None,
    }
}

/// The interfaces to use, and what is to be said of each.
pub(super) fn choose(found: &[Interface], configured: &Interfaces) -> (Vec<Interface>, Vec<InterfaceStatus>) {
    let mut used = Vec::new();
    let mut statuses = Vec::new();
    for interface in found {
        let reason = match configured {
            Interfaces::Auto => why_not(interface),
            Interfaces::Named(names) if !names.contains(&interface.name) => Some("not configured".into()),
            Interfaces::Named(_) => None,
        };
        let reason = reason.or_else(|| (used.len() >= USED_MAX).then(|| "too many interfaces".into()));
        let state = if reason.is_some() { InterfaceState::Ignored } else { InterfaceState::Used };
        if reason.is_none() {
            used.push(interface.clone());
        }
        statuses.push(InterfaceStatus { name: interface.name.clone(), state, reason });
    }
    let named = match configured {
        Interfaces::Auto => &[][..],
        Interfaces::Named(names) => names,
    };
    let missing = named.iter().filter(|name| found.iter().all(|interface| interface.name != **name));
    statuses.extend(missing.map(|name| InterfaceStatus {
        name: name.clone(),
        state: InterfaceState::Failed,
        reason: Some("no such interface, or it has no address".into()),
    }));
    (used, statuses)
}

fn why_not(interface: &Interface) -> Option<String> {
    match interface {
        Interface { is_loopback: true, .. } => Some("loopback".into()),
        Interface { is_up: false, .. } => Some("down".into()),
        Interface { is_virtual: Some(why), .. } => Some((*why).into()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn interface(name: &str) -> Interface {
        Interface {
            name: name.into(),
            index: 2,
            v4: Some(Ipv4Addr::new(10, 0, 0, 1)),
            has_v6: true,
            is_up: true,
            is_loopback: name == "lo",
            is_virtual: why_virtual(name, 0, false),
        }
    }

    #[track_caller]
    fn check(found: &[Interface], configured: &Interfaces, expected: &[(&str, Option<&str>)]) {
        let (used, statuses) = choose(found, configured);
        let told: Vec<_> = statuses.iter().map(|s| (s.name.as_str(), s.reason.as_deref())).collect();
        assert_eq!(told, expected);
        let named_used = statuses.iter().filter(|s| s.state == InterfaceState::Used).map(|s| &s.name);
        assert!(used.iter().map(|interface| &interface.name).eq(named_used));
    }

    #[test]
    fn colleagues_networks_are_used() {
        let down = Interface { is_up: false, ..interface("eth1") };
        let bridge = Interface { is_virtual: Some("a bridge"), ..interface("br0") };
        let found =
            [interface("lo"), interface("enp3s0"), interface("wlan0"), down, bridge, interface("docker0")];
        let virtual_machines = Some("of containers, virtual machines or a VPN");
        check(
            &found,
            &Interfaces::Auto,
            &[
                ("lo", Some("loopback")),
                ("enp3s0", None),
                ("wlan0", None),
                ("eth1", Some("down")),
                ("br0", Some("a bridge")),
                ("docker0", virtual_machines),
            ],
        );
        for name in ["veth12ab", "virbr0", "wg0", "tun0", "br-3f2a", "tailscale0"] {
            check(&[interface(name)], &Interfaces::Auto, &[(name, virtual_machines)]);
        }
        for name in ["eth0", "wlp2s0", "bond0", "usb0", "breeze0"] {
            check(&[interface(name)], &Interfaces::Auto, &[(name, None)]);
        }
    }

    #[test]
    fn what_is_configured_is_used_and_nothing_else() {
        let found = [interface("lo"), interface("docker0"), interface("eth0")];
        let named = Interfaces::Named(vec!["lo".into(), "docker0".into(), "gone0".into()]);
        check(
            &found,
            &named,
            &[
                ("lo", None),
                ("docker0", None),
                ("eth0", Some("not configured")),
                ("gone0", Some("no such interface, or it has no address")),
            ],
        );
        check(&found[..1], &Interfaces::Named(vec![]), &[("lo", Some("not configured"))]);
    }

    #[test]
    fn the_number_is_bounded() {
        let found: Vec<_> = (0..100).map(|number| interface(&format!("eth{number}"))).collect();
        assert_eq!(choose(&found, &Interfaces::Auto).0.len(), USED_MAX);
    }

    #[test]
    fn this_host_has_a_loopback_interface() {
        let all = list().unwrap();
        let lo = all.iter().find(|interface| interface.name == "lo").unwrap();
        assert!(lo.is_loopback && lo.is_up && lo.v4 == Some(Ipv4Addr::LOCALHOST) && !lo.has_v6, "{lo:?}");
    }
}
