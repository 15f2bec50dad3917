//! `twinshare workspace show`

use std::process::ExitCode;

use clap::Args;
use serde::Serialize;
use twinshare_daemon::api::wire::{Availability, Replica, WorkspaceDetails};

use super::create::belongings;
use super::edits::{self, with_edits};
use super::list::{full_name, here_of_all, kind, shared};
use super::status::in_words;
use crate::error::Result;
use crate::node;
use crate::output::{Format, line};
use crate::replicas::{Found, find};
use crate::text::{ago, bytes, shown};

/// Show a workspace, mount or clone.
#[derive(Debug, Args)]
#[command(before_help = "Examples:
  twinshare workspace show demo
  twinshare workspace show ~/twinshare/demo --json")]
pub(crate) struct Show {
    /// `NAME` of a workspace here, or `[PEER/]NAME` or directory of a mount or clone
    #[arg(value_name = "NAME|DIR")]
    name: String,
    #[command(flatten)]
    format: Format,
}

/// A document of `/workspaces`, `/mounts` or `/clones`.
#[derive(Debug, Serialize)]
#[serde(untagged)]
enum Shown {
    Workspace(Box<WorkspaceDetails>),
    Replica(Box<Replica>),
}

impl Show {
    pub(crate) fn run(self) -> Result {
        let shown = node::wait(async {
            let client = node::client()?;
            Ok(match find(&client, &self.name, |_| true).await? {
                Found::Workspace(workspace) => {
                    Shown::Workspace(Box::new(client.workspace(&workspace.name).await?))
                }
                Found::Replica(replica) => Shown::Replica(Box::new(with_edits(&client, *replica).await?)),
            })
        })?;
        self.format.print(&shown, |shown| match shown {
            Shown::Workspace(workspace) => people_workspace(workspace),
            Shown::Replica(replica) => people_replica(replica),
        })?;
        Ok(ExitCode::SUCCESS)
    }
}

fn people_workspace(details: &WorkspaceDetails) -> Result<()> {
    let workspace = &details.workspace;
    line(format!("workspace      {}", shown(&workspace.name)))?;
    if let Some(description) = &workspace.description {
        line(format!("               {}", shown(description)))?;
    }
    line(format!("directory      {}", shown(&workspace.directory)))?;
    let share = workspace.share.as_ref();
    let since = share.map(|share| format!(" (since {})", ago(share.since))).unwrap_or_default();
    line(format!("shared         {}{since}", shared(share)))?;
    belongings(details)
}

fn people_replica(replica: &Replica) -> Result<()> {
    line(format!("{:<15}{}", kind(replica.kind), shown(&full_name(replica))))?;
    line(format!("directory      {}", shown(&replica.directory)))?;
    line(format!("state          {}", in_words(replica)))?;
    line(format!("when peer away {}", shown(&replica.when_gone)))?;
    for root in replica.roots.iter().skip(1) {
        line(format!("companion      {} (here: {})", shown(&root.origin), shown(&root.local)))?;
    }
    if let Some(left_out) = &replica.left_out {
        line(format!("left out       {} of the peer's files and directories:", left_out.total))?;
        for entry in &left_out.first {
            line(format!("               {}: {}", shown(&entry.path), shown(&entry.reason)))?;
        }
    }
    edits::print(replica, usize::MAX)?;
    let Some(progress) = &replica.progress else { return Ok(()) };
    let peer = match progress.availability {
        Availability::Reachable => "answers",
        Availability::Gone => "does not answer; what is here stays readable",
    };
    line(format!("peer           {peer}"))?;
    let files = match (progress.files_resident, progress.files_total) {
        (Some(here), Some(all)) => format!(", {here} of {all} files"),
        _ => String::new(),
    };
    line(format!("here           {}{files}; fetched {}", here_of_all(replica), bytes(progress.bytes_fetched)))
}
