//! `twinshare workspace create`

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use twinshare_daemon::api::wire::{CreateWorkspace, CreatedWorkspace, WorkspaceDetails};

use crate::error::Result;
use crate::node;
use crate::output::{Format, line};
use crate::text::{count, shown};

/// Links that lead out of a workspace and are named one by one; more are counted.
const LEAVING_SHOWN: usize = 5;

/// Make a workspace of a directory.
///
/// Writes `twinshare.yaml` into it, unless it has one, and nothing else. What its virtual environments use outside the
/// directory, an interpreter above all, is entered there as a companion and shared with it.
#[derive(Debug, Args)]
#[command(before_help = "Examples:
  twinshare workspace create
  twinshare workspace create ~/src/gpt4-demo --name demo")]
pub(crate) struct Create {
    /// The directory
    #[arg(default_value = ".", hide_default_value = true)]
    directory: PathBuf,
    /// What it is called; without it, as its `twinshare.yaml` says, else as the directory
    #[arg(long)]
    name: Option<String>,
    #[command(flatten)]
    format: Format,
}

impl Create {
    pub(crate) fn run(self) -> Result {
        let request = CreateWorkspace { directory: node::absolute(&self.directory)?, name: self.name };
        let created = node::wait(async { Ok(node::client()?.create_workspace(&request).await?) })?;
        self.format.print(&created, people)?;
        Ok(ExitCode::SUCCESS)
    }
}

fn people(created: &CreatedWorkspace) -> Result<()> {
    let workspace = &created.details.workspace;
    let name = shown(&workspace.name);
    let file =
        if created.file_written { "twinshare.yaml was written" } else { "its twinshare.yaml was kept" };
    line(format!("workspace {name} in {}; {file}", shown(&workspace.directory)))?;
    belongings(&created.details)?;
    for link in created.leaving.iter().take(LEAVING_SHOWN) {
        line(format!("not included   {} leads to {}", shown(&link.link), shown(&link.target)))?;
    }
    match created.leaving.len().saturating_sub(LEAVING_SHOWN) {
        0 => {}
        more => line(format!("not included   {} that lead out of it", count(more as u64, "more link")))?,
    }
    if !created.leaving.is_empty() {
        line("               add what belongs to it to `companions` in twinshare.yaml")?;
    }
    if !created.complete {
        line("it is large: not all of it was searched for what it uses outside")?;
    }
    line(format!("share it with `twinshare workspace share {name} --open`"))
}

/// What belongs to a workspace outside its directory, and what it needs besides.
pub(super) fn belongings(details: &WorkspaceDetails) -> Result<()> {
    for companion in &details.companions {
        let reason = companion.reason.as_ref().map(|reason| format!(" ({})", shown(reason)));
        line(format!("companion      {}{}", shown(&companion.path), reason.unwrap_or_default()))?;
    }
    for requirement in &details.requirements {
        line(format!("needs          {} ({})", shown(&requirement.path), shown(&requirement.reason)))?;
    }
    Ok(())
}
