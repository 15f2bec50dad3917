//! `twinshare p2p status`

use std::process::ExitCode;

use clap::Args;
use std::time::Duration;
use twinshare_daemon::api::wire::{InterfaceState, Mode, NodeStatus};

use crate::error::Result;
use crate::node;
use crate::output::{Format, line};
use crate::text::{count, shown, span};

/// Show who this machine's node is and what it holds.
#[derive(Debug, Args)]
#[command(before_help = "Examples:
  twinshare p2p status
  twinshare p2p status --json | jq .listen_addresses")]
pub(crate) struct Status {
    #[command(flatten)]
    format: Format,
}

impl Status {
    pub(crate) fn run(self) -> Result {
        let status = node::wait(async { Ok(node::client()?.node().await?) })?;
        self.format.print(&status, people)?;
        Ok(ExitCode::SUCCESS)
    }
}

fn people(status: &NodeStatus) -> Result<()> {
    let mode = match status.mode {
        Mode::Root => "by root: mounts read further ahead",
        Mode::User => "by an ordinary user",
    };
    line(format!("node         {} (id {})", shown(&status.name), status.short_id))?;
    line(format!(
        "running for  {} as pid {}, started {mode}",
        span(Duration::from_secs(status.uptime_s)),
        status.pid
    ))?;
    line(format!("home         {}", shown(&status.home)))?;
    line(format!("reached at   {}", status.listen_addresses.join(", ")))?;
    line(format!("discovery    {}", discovery(status)))?;
    let shares = format!("{} ({} shared)", count(status.workspaces, "workspace"), status.shares);
    let replicas = format!("{}, {}", count(status.mounts, "mount"), count(status.clones, "clone"));
    line(format!("holds        {shares}, {replicas}; knows {}", count(status.peers, "peer")))?;
    match status.namesakes {
        0 => Ok(()),
        taken => line(format!(
            "warning      {} the name of another that was met before: `twinshare p2p discover` shows which",
            if taken == 1 { "a peer has".to_owned() } else { format!("{taken} peers have") }
        )),
    }
}

fn discovery(status: &NodeStatus) -> String {
    let Some(port) = status.discovery_port else { return "off".to_owned() };
    let interfaces = |state, because: bool| {
        let of = status.discovery_interfaces.iter().filter(move |interface| interface.state == state);
        of.map(|interface| match interface.reason.as_ref().filter(|_| because) {
            Some(reason) => format!("{} ({})", shown(&interface.name), shown(reason)),
            None => shown(&interface.name),
        })
        .collect::<Vec<_>>()
        .join(", ")
    };
    let used = interfaces(InterfaceState::Used, false);
    let mut text =
        format!("on {} (UDP port {port})", if used.is_empty() { "no interface" } else { used.as_str() });
    for (state, word) in [(InterfaceState::Failed, "failed on"), (InterfaceState::Ignored, "not on")] {
        let others = interfaces(state, true);
        if !others.is_empty() {
            text += &format!("; {word} {others}");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use twinshare_daemon::api::wire::{DiscoveryInterface, UnixTime};

    use super::*;

    #[track_caller]
    fn check(interfaces: &[(&str, InterfaceState, Option<&str>)], expected: &str) {
        let interface = |(name, state, reason): &(&str, InterfaceState, Option<&str>)| DiscoveryInterface {
            name: (*name).to_owned(),
            state: *state,
            reason: reason.map(str::to_owned),
        };
        let status = NodeStatus {
            peer_id: String::new(),
            short_id: String::new(),
            name: String::new(),
            version: String::new(),
            pid: 1,
            mode: Mode::User,
            home: String::new(),
            started_at: UnixTime(0),
            uptime_s: 0,
            listen_addresses: Vec::new(),
            discovery_port: Some(7),
            discovery_interfaces: interfaces.iter().map(interface).collect(),
            workspaces: 0,
            shares: 0,
            peers: 0,
            namesakes: 0,
            mounts: 0,
            clones: 0,
        };
        assert_eq!(discovery(&status), expected);
    }

    #[test]
    fn every_interface_is_told_of() {
        use InterfaceState::{Failed, Ignored, Used};
        check(&[], "on no interface (UDP port 7)");
        check(&[("eth0", Used, None), ("veth0", Used, None)], "on eth0, veth0 (UDP port 7)");
        check(
            &[("lo", Ignored, Some("loopback")), ("docker0", Ignored, Some("a bridge"))],
            "on no interface (UDP port 7); not on lo (loopback), docker0 (a bridge)",
        );
        check(
            &[("lo", Ignored, Some("loopback")), ("wlan0", Failed, Some("no route")), ("eth0", Used, None)],
            "on eth0 (UDP port 7); failed on wlan0 (no route); not on lo (loopback)",
        );
    }
}
