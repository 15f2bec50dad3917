//! `twinshare workspace list`

use std::process::ExitCode;

use clap::Args;
use serde::Serialize;
use twinshare_daemon::api::wire::{
    PeerRef, RemoteWorkspaces, Replica, ReplicaKind, ReplicaState, Share, Workspace,
};

use crate::error::Result;
use crate::node;
use crate::output::{Format, Table, line, note};
use crate::progress::bar;
use crate::text::{bytes, per_cent, shown};

/// List workspaces.
///
/// Those registered here, and the mounts and clones of others'; with `--remote`, those that others offer now.
///
/// As JSON: an object with `workspaces`, `mounts` and `clones`, each the list that the REST interface has under that
/// name; with `--remote`, the document of `/remote-workspaces`.
#[derive(Debug, Args)]
#[command(before_help = "Examples:
  twinshare workspace list
  twinshare workspace list --remote
  twinshare workspace list --json | jq -r '.mounts[].directory'")]
pub(crate) struct List {
    /// What others on this network offer
    #[arg(long)]
    remote: bool,
    #[command(flatten)]
    format: Format,
}

/// Everything here: documents of `/workspaces`, `/mounts` and `/clones`.
#[derive(Debug, Serialize)]
struct Here {
    workspaces: Vec<Workspace>,
    mounts: Vec<Replica>,
    clones: Vec<Replica>,
}

impl List {
    pub(crate) fn run(self) -> Result {
        match self.remote {
            true => self.format.print(&node::wait(remote())?, people_remote)?,
            false => self.format.print(&node::wait(here())?, people_here)?,
        }
        Ok(ExitCode::SUCCESS)
    }
}

async fn here() -> Result<Here> {
    let client = node::client()?;
    let workspaces = client.workspaces().await?;
    Ok(Here { workspaces, mounts: client.mounts().await?, clones: client.clones().await? })
}

async fn remote() -> Result<RemoteWorkspaces> {
    let bar = bar();
    bar.set_message("asking");
    let answer = node::client()?.remote_workspaces(None, None).await;
    bar.finish_and_clear();
    Ok(answer?)
}

fn people_here(here: &Here) -> Result<()> {
    let mut table = Table::new(["NAME", "SHARED", "DIRECTORY"]);
    for workspace in &here.workspaces {
        table.row([&workspace.name, shared(workspace.share.as_ref()), &workspace.directory]);
    }
    table.print("no workspaces here: `twinshare workspace create` makes one of a directory")?;
    let replicas: Vec<_> = here.mounts.iter().chain(&here.clones).collect();
    if replicas.is_empty() {
        return Ok(());
    }
    line("")?;
    let mut table = Table::new(["FROM OTHERS", "KIND", "STATE", "HERE", "DIRECTORY"]);
    for replica in replicas {
        let name = full_name(replica);
        table.row([
            &name,
            kind(replica.kind),
            state(replica.state),
            &here_of_all(replica),
            &replica.directory,
        ]);
    }
    table.print("")
}

fn people_remote(remote: &RemoteWorkspaces) -> Result<()> {
    offered(remote).print("nobody offers a workspace")?;
    if remote.items.is_empty() {
        note(
            "hint: `twinshare p2p discover` shows who is there; their owners share with `workspace share NAME --open`",
        )?;
    }
    for failure in &remote.failures {
        // It begins with the peer's name.
        note(shown(&failure.detail))?;
    }
    Ok(())
}

/// What is offered. How large it is, a peer knows once somebody has mounted or cloned it: as long as no size is known,
/// there is no column for it.
fn offered(remote: &RemoteWorkspaces) -> Table {
    let is_sized = remote.items.iter().any(|workspace| workspace.bytes.is_some());
    let mut table = match is_sized {
        true => Table::new(["NAME", "PEER", "SIZE", "DESCRIPTION"]),
        false => Table::new(["NAME", "PEER", "DESCRIPTION"]),
    };
    for workspace in &remote.items {
        let peer = told_apart(&workspace.peer, remote.items.iter().map(|other| &other.peer));
        let description = workspace.description.as_deref().unwrap_or_default();
        let size = workspace.bytes.map_or_else(|| "unknown".to_owned(), bytes);
        match is_sized {
            true => table.row([&workspace.name, &peer, &size, description]),
            false => table.row([&workspace.name, &peer, description]),
        }
    }
    table
}

/// A peer's name, with its short id where another of them has the name.
fn told_apart<'p>(peer: &PeerRef, mut all: impl Iterator<Item = &'p PeerRef>) -> String {
    match &peer.name {
        Some(name) if all.any(|other| other.id != peer.id && other.name == peer.name) => {
            format!("{name} ({})", peer.short_id)
        }
        Some(name) => name.clone(),
        None => peer.short_id.clone(),
    }
}

/// In how far a workspace is shared.
pub(super) fn shared(share: Option<&Share>) -> &'static str {
    match share {
        None => "no",
        Some(Share { open: true, .. }) => "open",
        Some(Share { open: false, .. }) => "nobody admitted",
    }
}

/// `PEER/NAME`.
pub(crate) fn full_name(replica: &Replica) -> String {
    let peer = replica.peer.name.as_deref().unwrap_or(&replica.peer.short_id);
    format!("{peer}/{}", replica.workspace)
}

/// What kind of replica, in the words of the commands.
pub(crate) fn kind(kind: ReplicaKind) -> &'static str {
    match kind {
        ReplicaKind::View => "mount",
        ReplicaKind::Clone => "clone",
    }
}

/// How a replica does, in one word.
pub(super) fn state(state: ReplicaState) -> &'static str {
    match state {
        ReplicaState::Starting => "starting",
        ReplicaState::Mounted => "mounted",
        ReplicaState::Hydrating => "hydrating",
        ReplicaState::Settling => "settling",
        ReplicaState::Settled => "settled",
        ReplicaState::Stopped => "stopped",
        ReplicaState::Failed => "failed",
    }
}

/// `12 MB of 1.2 GB (1 %)`; empty if nobody knows.
pub(super) fn here_of_all(replica: &Replica) -> String {
    if let Some(receipt) = &replica.receipt {
        return bytes(receipt.bytes);
    }
    let Some(progress) = &replica.progress else { return String::new() };
    let all = progress.bytes_total;
    match progress.bytes_resident {
        Some(here) => format!("{} of {} ({} %)", bytes(here), bytes(all), per_cent(here, all)),
        None => format!("counting, of {}", bytes(all)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn peers_of_one_name_are_told_apart() {
        let peer = |id: &str, name: Option<&str>| PeerRef {
            id: format!("{id}-and-more"),
            short_id: id.to_owned(),
            name: name.map(str::to_owned),
        };
        let all = [peer("a", Some("vm")), peer("b", Some("vm")), peer("c", Some("anna")), peer("d", None)];
        let told: Vec<_> = all.iter().map(|peer| told_apart(peer, all.iter())).collect();
        assert_eq!(told, ["vm (a)", "vm (b)", "anna", "d"]);
        let twice = [&all[2], &all[2]];
        assert_eq!(told_apart(&all[2], twice.into_iter()), "anna");
    }
}
