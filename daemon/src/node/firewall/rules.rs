//! What firewalls' rules, as their own programs write them, say about UDP ports.

use std::fmt;

/// What happens to packets from peers, the worst last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Verdict {
    /// Let in.
    Open,
    /// Rules that this user cannot read, or that are not understood here.
    Unknown,
    /// Dropped or refused.
    Closed,
}

/// The UDP ports that peers use.
#[derive(Debug)]
pub(super) struct Ports(pub(super) Vec<u16>);

impl Ports {
    /// Their numbers with `separator` between them.
    pub(super) fn joined(&self, separator: &str) -> String {
        self.0.iter().map(u16::to_string).collect::<Vec<_>>().join(separator)
    }

    /// True if every one is in `list`: ports and ranges, separated by commas, or `any`.
    fn are_in(&self, list: &str, range: char) -> bool {
        let holds = |port: &u16| list.split(',').any(|part| is_in(*port, part.trim(), range));
        list == "any" || self.0.iter().all(holds)
    }
}

impl fmt::Display for Ports {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.joined(" and "))
    }
}

fn is_in(port: u16, part: &str, range: char) -> bool {
    let (first, last) = part.split_once(range).unwrap_or((part, part));
    let bounds = first.parse::<u16>().ok().zip(last.parse::<u16>().ok());
    bounds.is_some_and(|(first, last)| (first..=last).contains(&port))
}

/// ufw's own notes in `user.rules`, of which the first that fits counts:
/// `### tuple ### ACTION PROTOCOL PORTS TO PORTS FROM DIRECTION`. A rule for some senders lets peers in, as far as can be
/// known, and does not keep them out. `accepts` is what happens without a rule.
pub(super) fn ufw(text: &str, accepts: bool, ports: &Ports) -> Verdict {
    let without = Ports(ports.0.iter().copied().filter(|port| !ufw_port(text, accepts, *port)).collect());
    if without.0.is_empty() { Verdict::Open } else { Verdict::Closed }
}

fn ufw_port(text: &str, accepts: bool, port: u16) -> bool {
    let one = Ports(vec![port]);
    let decision = text.lines().find_map(|line| {
        let words: Vec<_> = line.strip_prefix("### tuple ### ")?.split_whitespace().collect();
        let [action, protocol, to_ports, _, from_ports, from, rest @ ..] = words.as_slice() else {
            return None;
        };
        let fits = matches!(*protocol, "udp" | "any")
            && one.are_in(to_ports, ':')
            && *from_ports == "any"
            && rest.iter().any(|word| word.starts_with("in"));
        let action = action.split('_').next().unwrap_or_default();
        match (fits, action) {
            (true, "allow" | "limit") => Some(true),
            (true, _) if *from == "0.0.0.0/0" => Some(false),
            _ => None,
        }
    });
    decision.unwrap_or(accepts)
}

/// What `firewall-cmd --list-all-zones` says: the worst of the active zones, and which one that is.
pub(super) fn firewalld(text: &str, ports: &Ports) -> (Option<String>, Verdict) {
    let zones = text.split("\n\n").filter_map(|zone| zone_verdict(zone.trim_matches('\n'), ports));
    let worst = zones.max_by_key(|(_, verdict)| *verdict);
    worst.map_or((None, Verdict::Unknown), |(name, verdict)| (Some(name), verdict))
}

/// One zone: `NAME (active)`, then a line for each property, indented. `None` if it is not in use.
fn zone_verdict(zone: &str, ports: &Ports) -> Option<(String, Verdict)> {
    let mut lines = zone.lines();
    let head = lines.next()?;
    let name = head.split_whitespace().next()?.to_owned();
    if !head.contains("active") {
        return None;
    }
    let property = |key: &str| {
        let found = zone.lines().find_map(|line| line.trim().strip_prefix(key)?.strip_prefix(':'));
        found.map(str::trim).unwrap_or_default()
    };
    let udp: Vec<_> =
        property("ports").split_whitespace().filter_map(|port| port.strip_suffix("/udp")).collect();
    let has_rich_rules = lines.any(|line| line.trim().starts_with("rule "));
    let verdict = if property("target") == "ACCEPT"
        || property("protocols").split_whitespace().any(|protocol| protocol == "udp")
        || ports.are_in(&udp.join(","), '-')
    {
        Verdict::Open
    } else if has_rich_rules {
        Verdict::Unknown
    } else {
        Verdict::Closed
    };
    Some((name, verdict))
}

/// What `nft list ruleset` says: the worst of the chains that see incoming packets, as `FAMILY TABLE CHAIN`. `None` if
/// there is none.
pub(super) fn nftables(text: &str, ports: &Ports) -> Option<(String, Verdict)> {
    let (mut table, mut chain) = (String::new(), None);
    let mut chains: Vec<(String, Vec<&str>)> = Vec::new();
    for line in text.lines().map(str::trim) {
        let opened = line.strip_suffix('{').map(str::trim);
        if let Some(name) = opened.and_then(|line| line.strip_prefix("table ")) {
            name.clone_into(&mut table);
        } else if let Some(name) = opened.and_then(|line| line.strip_prefix("chain ")) {
            chains.push((format!("{table} {name}"), Vec::new()));
            chain = chains.len().checked_sub(1);
        } else if line == "}" {
            chain = None;
        } else if let Some((_, rules)) = chain.and_then(|chain| chains.get_mut(chain)) {
            rules.push(line);
        }
    }
    let opened = chains.iter().flat_map(|(_, rules)| rules).any(|rule| accepts(rule, ports));
    let incoming =
        chains.into_iter().filter(|(_, rules)| rules.iter().any(|rule| rule.contains("hook input ")));
    let verdicts = incoming.map(|(name, rules)| (name, chain_verdict(&rules, opened)));
    verdicts.max_by_key(|(_, verdict)| *verdict)
}

/// True if `rule` is one that lets `ports` in.
fn accepts(rule: &str, ports: &Ports) -> bool {
    let Some((_, rest)) = rule.split_once("udp dport ") else { return false };
    let list = match rest.strip_prefix('{') {
        Some(set) => set.split('}').next().unwrap_or_default(),
        None => rest.split_whitespace().next().unwrap_or_default(),
    };
    rest.ends_with("accept") && ports.are_in(list, '-')
}

/// A chain drops what no rule decided by its policy or its last rule. One that hands packets to others is not followed.
fn chain_verdict(rules: &[&str], opened: bool) -> Verdict {
    let last = rules.last().copied().unwrap_or_default();
    let refuses = |word: &str| matches!(word, "drop" | "reject");
    let is_closing = last.split_whitespace().next().is_some_and(|word| refuses(word) || word == "counter");
    let drops = rules.iter().any(|rule| rule.contains("policy drop"))
        || is_closing && last.split_whitespace().any(refuses);
    let hands_on = rules.iter().any(|rule| rule.contains("jump ") || rule.contains("goto "));
    match (drops && !opened, hands_on) {
        (false, _) => Verdict::Open,
        (true, true) => Verdict::Unknown,
        (true, false) => Verdict::Closed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ports() -> Ports {
        Ports(vec![37777, 37778])
    }

    #[track_caller]
    fn check_ufw(tuples: &[&str], accepts: bool, expected: Verdict) {
        let text: String = tuples.iter().map(|tuple| format!("### tuple ### {tuple}\n-A ...\n")).collect();
        assert_eq!(ufw(&text, accepts, &ports()), expected, "{tuples:?}");
    }

    #[test]
    fn the_first_rule_of_ufw_that_fits_decides() {
        use Verdict::{Closed, Open};
        check_ufw(&[], false, Closed);
        check_ufw(&[], true, Open);
        check_ufw(&["allow udp 37777:37778 0.0.0.0/0 any 0.0.0.0/0 in"], false, Open);
        check_ufw(&["allow any 37777,37778 0.0.0.0/0 any 0.0.0.0/0 in comment=61"], false, Open);
        check_ufw(&["allow udp 37778 0.0.0.0/0 any 0.0.0.0/0 in"], false, Closed);
        check_ufw(&["allow tcp 37777:37778 0.0.0.0/0 any 0.0.0.0/0 in"], false, Closed);
        check_ufw(&["allow any any 0.0.0.0/0 any 192.168.0.0/16 in"], false, Open);
        check_ufw(&["allow any any 0.0.0.0/0 any 0.0.0.0/0 in_eth0"], false, Open);
        check_ufw(&["allow any any 0.0.0.0/0 any 0.0.0.0/0 out"], false, Closed);
        check_ufw(&["deny udp 37777 0.0.0.0/0 any 0.0.0.0/0 in"], true, Closed);
        check_ufw(&["deny_log any any 0.0.0.0/0 any 10.1.1.1 in"], true, Open);
        let both = "allow udp 37777:37778 0.0.0.0/0 any 0.0.0.0/0 in";
        check_ufw(&[both, "deny any any 0.0.0.0/0 any 0.0.0.0/0 in"], false, Open);
        check_ufw(&["deny any any 0.0.0.0/0 any 0.0.0.0/0 in", both], false, Closed);
    }

    fn zone(head: &str, target: &str, open: &str, rich: &str) -> String {
        format!(
            "{head}\n  target: {target}\n  interfaces: eth0\n  services: ssh\n  ports: {open}\n  protocols: \n  \
             source-ports: \n  rich rules: \n{rich}"
        )
    }

    #[test]
    fn every_active_zone_of_firewalld_has_to_let_them_in() {
        #[track_caller]
        fn check(zones: &[String], name: Option<&str>, verdict: Verdict) {
            let found = firewalld(&zones.join("\n\n"), &ports());
            assert_eq!((found.0.as_deref(), found.1), (name, verdict), "{zones:?}");
        }
        let unused = zone("block", "%%REJECT%%", "", "");
        let docker = zone("docker (active)", "ACCEPT", "", "");
        let closed = zone("public (default, active)", "default", "37777/udp 37777-37778/tcp", "");
        let open = zone("home (active)", "default", "22/tcp 37777-37778/udp", "");
        let rich = zone("work (active)", "default", "", "\trule family=\"ipv4\" accept");
        check(&[unused.clone(), docker.clone(), closed.clone()], Some("public"), Verdict::Closed);
        check(&[unused.clone(), open.clone()], Some("home"), Verdict::Open);
        check(&[rich.clone(), open], Some("work"), Verdict::Unknown);
        check(&[rich, closed], Some("public"), Verdict::Closed);
        check(&[docker], Some("docker"), Verdict::Open);
        check(&[unused], None, Verdict::Unknown);
    }

    #[test]
    fn a_chain_for_incoming_packets_drops_by_policy_or_last_rule() {
        #[track_caller]
        fn check(policy: &str, rules: &[&str], expected: Verdict) {
            let text = format!(
                "table inet filter {{\n\tchain input {{\n\t\ttype filter hook input priority filter; policy \
                 {policy};\n\t\t{}\n\t}}\n\n\tchain output {{\n\t\ttype filter hook output priority filter; policy \
                 drop;\n\t}}\n}}\n",
                rules.join("\n\t\t")
            );
            assert_eq!(nftables(&text, &ports()), Some(("inet filter input".to_owned(), expected)), "{text}");
        }
        check("accept", &["tcp dport 22 drop"], Verdict::Open);
        check("drop", &["ct state established,related accept"], Verdict::Closed);
        check("drop", &["udp dport 37777-37778 accept"], Verdict::Open);
        check("drop", &["udp dport { 53, 37777, 37778 } counter packets 0 bytes 0 accept"], Verdict::Open);
        check("drop", &["udp dport 37778 accept"], Verdict::Closed);
        check("drop", &["udp dport 37777-37778 drop"], Verdict::Closed);
        check("drop", &["jump mine"], Verdict::Unknown);
        check("accept", &["tcp dport 22 accept", "reject with icmpx admin-prohibited"], Verdict::Closed);
        check("accept", &["counter packets 3 bytes 180 drop"], Verdict::Closed);
        check("accept", &["counter packets 3 bytes 180"], Verdict::Open);
        assert_eq!(nftables("table ip nat {\n\tchain output {\n\t}\n}\n", &ports()), None);
    }
}
