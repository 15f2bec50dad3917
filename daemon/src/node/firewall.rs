//! Whether this machine's firewall lets other nodes in, and the command that makes it do so.
//!
//! Most of a firewall can be read by root alone. So what is said is one of three things: it lets them in, it drops
//! them, or it is on and only root can tell. Nothing is said against a rule that is not understood.

use std::fs;
use std::io;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use tokio::process::Command;

use super::doctor::{fail, ok, warn};
use super::privilege;
use crate::api::wire::{Check, Mode};
use crate::config::Config;

mod rules;

use rules::{Ports, Verdict};

/// How long one of the firewall's own programs may take.
const PROGRAM_WITHIN: Duration = Duration::from_secs(2);

/// Files that are there when rules are loaded at boot which only root can read afterwards.
const LOADED_AT_BOOT: [&str; 4] = [
    "/etc/systemd/system/multi-user.target.wants/nftables.service",
    "/etc/systemd/system/sysinit.target.wants/nftables.service",
    "/etc/iptables/rules.v4",
    "/etc/sysconfig/iptables",
];

/// A firewall that is on.
#[derive(Debug, PartialEq, Eq)]
struct Finding {
    firewall: String,
    verdict: Verdict,
    /// Opens the ports, or shows whether they are open.
    command: String,
}

/// Looks whether peers can reach a node of this configuration that listens on `port`. Changes nothing.
pub(super) async fn check(config: &Config, port: u16) -> Check {
    let discovery = config.discovery.enabled.then_some(config.discovery.port);
    let ports = Ports(discovery.into_iter().chain([port]).collect());
    if config.listen.address.is_some_and(|address| address.to_canonical().is_loopback()) {
        return ok("firewall", "not needed: the node listens for peers on this machine alone");
    }
    told(look(&ports).await, &ports)
}

fn told(found: Option<Finding>, ports: &Ports) -> Check {
    let Some(Finding { firewall, verdict, command }) = found else {
        return ok("firewall", "none is switched on");
    };
    match verdict {
        Verdict::Open => ok("firewall", format!("{firewall} lets UDP {ports} in")),
        Verdict::Closed => {
            let message = format!(
                "{firewall} does not let all of UDP {ports} in: peers do not find or reach this node"
            );
            fail("firewall", message, Some(&command))
        }
        Verdict::Unknown => {
            let message = format!("{firewall} is on, and whether it lets UDP {ports} in is for root to see");
            warn("firewall", message, Some(&command))
        }
    }
}

/// The firewall that decides: ufw and firewalld write the kernel's rules, so those are looked at only without them.
async fn look(ports: &Ports) -> Option<Finding> {
    if let Some(verdict) = ufw(|path| fs::read_to_string(path), ports) {
        let command = format!("sudo ufw allow {}/udp", ports.joined(","));
        return Some(Finding { firewall: "ufw".to_owned(), verdict, command });
    }
    if let Some(found) = firewalld(ports).await {
        return Some(found);
    }
    match privilege::mode() {
        Mode::Root => nftables(ports).await,
        Mode::User => LOADED_AT_BOOT.iter().any(|file| Path::new(file).exists()).then(|| Finding {
            firewall: "a firewall of nftables or iptables".to_owned(),
            verdict: Verdict::Unknown,
            command: "sudo nft list ruleset".to_owned(),
        }),
    }
}

/// What ufw does, if it is on. Its switch and its default can be read by everybody, its rules by root.
fn ufw(read: impl Fn(&str) -> io::Result<String>, ports: &Ports) -> Option<Verdict> {
    let setting = |file: &str, key: &str| {
        let text = read(file).ok()?;
        let value = text.lines().find_map(|line| line.trim().strip_prefix(key)?.strip_prefix('='));
        value.map(|value| value.trim_matches(['"', '\'', ' ']).to_ascii_uppercase())
    };
    if setting("/etc/ufw/ufw.conf", "ENABLED")? != "YES" {
        return None;
    }
    let accepts =
        setting("/etc/default/ufw", "DEFAULT_INPUT_POLICY").is_some_and(|policy| policy == "ACCEPT");
    Some(match read("/etc/ufw/user.rules") {
        Ok(text) => rules::ufw(&text, accepts, ports),
        Err(_) => Verdict::Unknown,
    })
}

async fn firewalld(ports: &Ports) -> Option<Finding> {
    let (code, _) = program("firewall-cmd", &["--state"]).await?;
    // firewall-cmd(1), "EXIT CODES": 252 NOT_RUNNING. Any other failure is one of whoever asked.
    if code == 252 {
        return None;
    }
    let zones = program("firewall-cmd", &["--list-all-zones"]).await.filter(|(code, _)| *code == 0);
    let (zone, verdict) = match zones {
        Some((_, text)) => rules::firewalld(&text, ports),
        None => (None, Verdict::Unknown),
    };
    let option = zone.as_ref().map(|zone| format!("--zone={zone} ")).unwrap_or_default();
    let added: Vec<_> = ports.0.iter().map(|port| format!("--add-port={port}/udp")).collect();
    let command =
        format!("sudo firewall-cmd --permanent {option}{} && sudo firewall-cmd --reload", added.join(" "));
    let firewall = zone.map_or("firewalld".to_owned(), |zone| format!("firewalld's zone {zone}"));
    Some(Finding { firewall, verdict, command })
}

async fn nftables(ports: &Ports) -> Option<Finding> {
    let (code, text) = program("nft", &["list", "ruleset"]).await?;
    let (chain, verdict) = rules::nftables(&text, ports).filter(|_| code == 0)?;
    let command = format!("sudo nft insert rule {chain} udp dport '{{ {} }}' accept", ports.joined(", "));
    Some(Finding { firewall: format!("the nftables chain {chain}"), verdict, command })
}

/// How a program ended and what it wrote; `None` if it is not there or does not end in time, which ends it.
async fn program(name: &str, arguments: &[&str]) -> Option<(i32, String)> {
    let mut command = Command::new(name);
    command.args(arguments).stdin(Stdio::null()).kill_on_drop(true);
    let output = tokio::time::timeout(PROGRAM_WITHIN, command.output()).await.ok()?.ok()?;
    Some((output.status.code()?, String::from_utf8_lossy(&output.stdout).into_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::wire::CheckState;

    const PORTS: [u16; 2] = [37777, 37778];

    #[track_caller]
    fn check_ufw(files: &[(&str, &str)], expected: Option<Verdict>) {
        let read = |path: &str| {
            let found = files.iter().find(|(file, _)| path.ends_with(file));
            found.map(|(_, text)| (*text).to_owned()).ok_or_else(|| io::ErrorKind::PermissionDenied.into())
        };
        assert_eq!(ufw(read, &Ports(PORTS.into())), expected, "{files:?}");
    }

    #[test]
    fn ufw_is_asked_as_far_as_it_can_be_read() {
        let on = ("ufw.conf", "# comment\nENABLED=yes\nLOGLEVEL=low\n");
        let drops = ("default/ufw", "IPV6=yes\nDEFAULT_INPUT_POLICY=\"DROP\"\n");
        let accepts = ("default/ufw", "DEFAULT_INPUT_POLICY=\"ACCEPT\"\n");
        let rule = ("user.rules", "### tuple ### allow udp 37777:37778 0.0.0.0/0 any 0.0.0.0/0 in\n");
        check_ufw(&[], None);
        check_ufw(&[("ufw.conf", "ENABLED=no\n")], None);
        check_ufw(&[on, drops], Some(Verdict::Unknown));
        check_ufw(&[on, drops, ("user.rules", "*filter\n")], Some(Verdict::Closed));
        check_ufw(&[on, accepts, ("user.rules", "*filter\n")], Some(Verdict::Open));
        check_ufw(&[on, drops, rule], Some(Verdict::Open));
    }

    #[test]
    fn a_finding_names_the_firewall_the_ports_and_the_command() {
        let ports = Ports(PORTS.into());
        let found = |verdict| {
            let command = "sudo ufw allow 37777,37778/udp".to_owned();
            told(Some(Finding { firewall: "ufw".to_owned(), verdict, command }), &ports)
        };
        let closed = found(Verdict::Closed);
        assert_eq!(closed.state, CheckState::Fail);
        assert_eq!(
            closed.message,
            "ufw does not let all of UDP 37777 and 37778 in: peers do not find or reach this node"
        );
        assert_eq!(closed.fix.as_deref(), Some("sudo ufw allow 37777,37778/udp"));
        assert_eq!(found(Verdict::Unknown).state, CheckState::Warn);
        assert_eq!((found(Verdict::Open).state, found(Verdict::Open).fix), (CheckState::Ok, None));
        assert_eq!(told(None, &ports).state, CheckState::Ok);
    }

    #[tokio::test]
    async fn a_node_for_this_machine_alone_needs_nothing_opened() {
        let mut config = Config::default();
        for (address, needed) in [("127.0.0.1", false), ("::1", false), ("0.0.0.0", true)] {
            config.listen.address = Some(address.parse().unwrap());
            let found = super::check(&config, 37778).await;
            assert_eq!(!found.message.starts_with("not needed"), needed, "{found:?}");
        }
    }
}
