//! `twinshare p2p stop`

use std::process::ExitCode;

use clap::Args;
use serde::Serialize;
use twinshare_daemon::api::wire::{Replica, ReplicaKind, ReplicaState};
use twinshare_daemon::client::{Client, ClientError};
use twinshare_daemon::home::Home;
use twinshare_daemon::node::{StopError, stop_detached};

use crate::commands::workspace::{full_name, kind};
use crate::error::Result;
use crate::node;
use crate::output::{Format, line};
use crate::text::shown;

/// Stop this machine's node.
///
/// What is shared cannot be reached by others until it is started again. Mounts and clones, and the programs that run in
/// them, are left alone: each stays mounted, served by a process of its own (all mounts by one), and those that stay
/// are listed. To end one, start the node again and use `twinshare unmount`, or `twinshare workspace rm` for a clone;
/// without a node, `fusermount3 -u DIR` takes it away until the next start.
#[derive(Debug, Args)]
#[command(before_help = "Examples:
  twinshare p2p stop
  twinshare p2p stop --json | jq -r '.stays[].directory'")]
pub(crate) struct Stop {
    #[command(flatten)]
    format: Format,
}

/// How it went, for programs: this command's own document, since no node is left to give one.
#[derive(Debug, Serialize)]
struct Stopped {
    /// False when no node ran.
    stopped: bool,
    /// What stays mounted, or goes on being fetched: the documents of `/mounts` and `/clones` as they were before. `pid`
    /// is the process that goes on serving it.
    stays: Vec<Replica>,
}

impl Stop {
    pub(crate) fn run(self) -> Result {
        let stopped = node::wait(stop())?;
        self.format.print(&stopped, people)?;
        Ok(ExitCode::SUCCESS)
    }
}

async fn stop() -> Result<Stopped> {
    let home = Home::from_environment()?;
    let stays = staying(&Client::new(home.api_socket())).await;
    match stop_detached(&home).await {
        // That they cannot be told is no reason not to stop.
        Ok(()) => Ok(Stopped { stopped: true, stays: stays.unwrap_or_default() }),
        Err(StopError::Client(ClientError::NotRunning { .. })) => {
            Ok(Stopped { stopped: false, stays: Vec::new() })
        }
        Err(error) => Err(error.into()),
    }
}

/// What is mounted now, or fetched without being mounted.
async fn staying(client: &Client) -> Result<Vec<Replica>> {
    let mut all = client.mounts().await?;
    all.extend(client.clones().await?);
    all.retain(|replica| matches!(replica.state, ReplicaState::Mounted | ReplicaState::Hydrating));
    Ok(all)
}

fn people(told: &Stopped) -> Result<()> {
    if !told.stopped {
        return line("the node is not running");
    }
    line("node stopped")?;
    let (plain, mounted): (Vec<_>, Vec<_>) = told.stays.iter().partition(|replica| replica.plain);
    for replica in &plain {
        line(format!("goes on being fetched: {}", place(replica)))?;
    }
    if mounted.is_empty() {
        return Ok(());
    }
    line("stays mounted and can be used on:")?;
    for replica in &mounted {
        line(format!("  {}", place(replica)))?;
    }
    for (of, command) in [(ReplicaKind::View, "unmount"), (ReplicaKind::Clone, "workspace rm")] {
        if mounted.iter().any(|replica| replica.kind == of) {
            line(format!("a {} ends with `twinshare {command} DIR` after `twinshare p2p start`", kind(of)))?;
        }
    }
    line("until then, `fusermount3 -u DIR` takes one away; the next start brings it back")
}

fn place(replica: &Replica) -> String {
    let by = replica.pid.map(|pid| format!(", served by pid {pid}")).unwrap_or_default();
    format!("{} ({} of {}{by})", shown(&replica.directory), kind(replica.kind), shown(&full_name(replica)))
}
