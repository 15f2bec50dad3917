//! Which network interfaces there are, and which of them discovery uses.
//!
//! Beacons belong where colleagues are: on the networks this machine has an address in. A bridge of containers or
//! virtual machines, a port of one, or a tunnel would only repeat them to oneself or carry them to strangers, so those
//! are used only where the configuration names them; `lo` too, on which nodes of one machine find each other.
//!
//! What an interface is, the kernel says and not its name: a `veth` with an address is how network namespaces are
//! joined by hand, and as good a network as any.

use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;

use crate::config::Interfaces;

/// Interfaces used at most; each costs two sockets and two beacons an interval.
const USED_MAX: usize = 32;

/// Where the kernel describes interfaces.
const SYS: &str = "/sys/class/net";

/// Kinds of link layer (`ARPHRD_*` of `linux/if_arp.h`) that tunnels have: PPP, IP in IP (4 and 6), SIT, GRE (4 and
/// 6), and "none", which WireGuard has and every tunnel of IP packets made through `/dev/net/tun`.
const TUNNEL_LINKS: [&str; 7] = ["512", "768", "769", "776", "778", "823", "65534"];

/// What the kernel calls tunnels that look like Ethernet (`DEVTYPE` in `uevent`).
const TUNNEL_TYPES: [&str; 6] = ["vxlan", "geneve", "bareudp", "gtp", "wireguard", "ppp"];

/// One interface of this host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Interface {
    pub(super) name: String,
    pub(super) index: u32,
    /// Its first IPv4 address.
    pub(super) v4: Option<Ipv4Addr>,
    /// Whether it has a link-local IPv6 address, from which beacons are sent.
    pub(super) has_v6: bool,
    /// Whether it has any address that was given to it, rather than the link-local one it gives itself.
    pub(super) is_addressed: bool,
    pub(super) is_up: bool,
    pub(super) is_loopback: bool,
    /// Why what it is keeps it from being used unless it is named.
    pub(super) unfit: Option<&'static str>,
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
                    unfit: found.is_p2p.then_some("a tunnel"),
                    index,
                    v4: None,
                    has_v6: false,
                    is_addressed: false,
                    is_up: found.is_oper_up() || found.oper_status == if_addrs::IfOperStatus::Unknown,
                    is_loopback: found.is_loopback(),
                    name: found.name.clone(),
                });
                all.len() - 1
            }
        };
        all[at].is_addressed |= !found.is_link_local();
        match found.ip() {
            IpAddr::V4(v4) => all[at].v4 = all[at].v4.or(Some(v4)),
            IpAddr::V6(_) => all[at].has_v6 |= found.is_link_local(),
        }
    }
    all.retain(|interface| interface.index != 0);
    for interface in &mut all {
        interface.unfit = interface.unfit.or_else(|| why_unfit(Path::new(SYS), interface));
    }
    Ok(all)
}

/// Why the interface leads to no colleague, as `sys` describes it.
fn why_unfit(sys: &Path, interface: &Interface) -> Option<&'static str> {
    let sys = sys.join(&interface.name);
    let read = |name: &str| std::fs::read_to_string(sys.join(name)).unwrap_or_default();
    let number = |name: &str| read(name).trim().to_owned();
    // Where /sys is of another network namespace, it may describe another interface of that name.
    if number("ifindex") != interface.index.to_string() {
        return None;
    }
    let uevent = read("uevent");
    let mut types = uevent.lines().filter_map(|line| line.strip_prefix("DEVTYPE="));
    match () {
        () if sys.join("bridge").exists() => Some("a bridge"),
        () if sys.join("brport").exists() => Some("a port of a bridge"),
        () if sys.join("tun_flags").exists() => Some("a tunnel"),
        () if TUNNEL_LINKS.contains(&number("type").as_str()) => Some("a tunnel"),
        () if types.any(|kind| TUNNEL_TYPES.contains(&kind)) => Some("a tunnel"),
        // The host's ends of the cables of routed containers, of which there can be hundreds.
        () if !interface.is_addressed && is_cable_end(&sys) => {
            Some("the end of a cable to another network namespace, without an address of its own")
        }
        () => None,
    }
}

/// Whether what the interface is linked to lies in another network namespace: it names a link that is not itself, and
/// no lower interface here.
fn is_cable_end(sys: &Path) -> bool {
    let number = |name: &str| std::fs::read_to_string(sys.join(name)).unwrap_or_default();
    let has_lower = || {
        let mut entries = std::fs::read_dir(sys).into_iter().flatten().flatten();
        entries.any(|entry| entry.file_name().to_string_lossy().starts_with("lower_"))
    };
    number("iflink") != number("ifindex") && !sys.join("device").exists() && !has_lower()
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
        Interface { unfit: Some(why), .. } => Some((*why).into()),
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
            is_addressed: true,
            unfit: None,
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
        let bridge = Interface { unfit: Some("a bridge"), ..interface("br0") };
        let found = [interface("lo"), interface("enp3s0"), interface("veth0"), down, bridge];
        check(
            &found,
            &Interfaces::Auto,
            &[
                ("lo", Some("loopback")),
                ("enp3s0", None),
                ("veth0", None),
                ("eth1", Some("down")),
                ("br0", Some("a bridge")),
            ],
        );
    }

    /// An interface called `name` whose directory in /sys holds `files`; a name that ends in `/` is a directory.
    #[track_caller]
    fn check_kind(name: &str, is_addressed: bool, files: &[(&str, &str)], expected: Option<&str>) {
        let sys = tempfile::tempdir().unwrap();
        let directory = sys.path().join(name);
        std::fs::create_dir(&directory).unwrap();
        for (file, text) in [("ifindex", "2\n"), ("iflink", "2\n"), ("type", "1\n")].iter().chain(files) {
            match file.strip_suffix('/') {
                Some(inner) => std::fs::create_dir(directory.join(inner)).unwrap(),
                None => std::fs::write(directory.join(file), text).unwrap(),
            }
        }
        let found = why_unfit(sys.path(), &Interface { is_addressed, ..interface(name) });
        assert_eq!(found.is_some(), expected.is_some(), "{name} {files:?}: {found:?}");
        assert!(found.unwrap_or_default().contains(expected.unwrap_or_default()), "{name}: {found:?}");
    }

    #[test]
    fn what_an_interface_is_decides_and_not_its_name() {
        // Network namespaces joined by hand.
        for name in ["veth0", "lxc0", "dummy0", "tap", "lan0", "br-lan", "wlan0"] {
            check_kind(name, true, &[("iflink", "7\n")], None);
        }
        check_kind("eth0", false, &[("device/", "")], None);
        check_kind("eth0", true, &[("uevent", "DEVTYPE=wlan\nIFINDEX=2\n")], None);
        check_kind("eth0.5", false, &[("iflink", "9\n"), ("lower_eth0/", "")], None);
        check_kind("veth12ab", false, &[("iflink", "7\n")], Some("without an address"));
        check_kind("veth12ab", true, &[("iflink", "7\n"), ("brport/", "")], Some("a port of a bridge"));
        check_kind("docker0", true, &[("bridge/", "")], Some("a bridge"));
        check_kind("corp", true, &[("tun_flags", "0x1002\n")], Some("a tunnel"));
        check_kind("wg0", true, &[("type", "65534\n"), ("uevent", "DEVTYPE=wireguard\n")], Some("a tunnel"));
        check_kind(
            "flannel.1",
            true,
            &[("uevent", "DEVTYPE=vxlan\nINTERFACE=flannel.1\n")],
            Some("a tunnel"),
        );
        // Described is another interface of that name.
        check_kind("eth0", true, &[("ifindex", "3\n"), ("bridge/", "")], None);
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
