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
        Mode::Root => "by root: fastest mounts",
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
    line(format!("holds        {shares}, {replicas}; knows {}", count(status.peers, "peer")))
}

fn discovery(status: &NodeStatus) -> String {
    let Some(port) = status.discovery_port else { return "off".to_owned() };
    let interface = |state| {
        let of = status.discovery_interfaces.iter().filter(move |interface| interface.state == state);
        of.map(|interface| match &interface.reason {
            Some(reason) if state == InterfaceState::Failed => {
                format!("{} ({})", shown(&interface.name), shown(reason))
            }
            _ => shown(&interface.name),
        })
        .collect::<Vec<_>>()
        .join(", ")
    };
    let (used, failed) = (interface(InterfaceState::Used), interface(InterfaceState::Failed));
    let used = if used.is_empty() { "no interface".to_owned() } else { used };
    match failed.is_empty() {
        true => format!("on {used} (UDP port {port})"),
        false => format!("on {used} (UDP port {port}); failed on {failed}"),
    }
}
