//! `twinshare run`

use std::path::Path;
use std::process::ExitCode;

use clap::Args;
use twinshare_daemon::api::wire::{MountRequest, RunRequest};
use twinshare_daemon::client::{Client, ClientError};
use twinshare_daemon::runtime::Plan;
use twinshare_daemon::runtime::launch::launch;

use super::mount::mount;
use crate::error::{Kind, Result};
use crate::interrupts::Interrupts;
use crate::node;
use crate::output::note;
use crate::replicas::{directory_after_all, directory_meant, names_directory};
use crate::text::{count, shown};

/// Things a workspace needs and does not find here that are named one by one.
const MISSING_SHOWN: usize = 10;

/// Run a command in a workspace, separated from this machine.
///
/// The command finds the workspace, and what came along with it, at the paths they have on their origin, so that
/// virtual environments and scripts made there work. It sees this machine's system directories read-only, an empty
/// home, a `/tmp` of its own, and the network; the level of isolation is told before it starts. A virtual environment
/// in `.venv` or `venv` is active.
///
/// A workspace of a peer that is not mounted yet is mounted first. The exit code is the command's own.
#[derive(Debug, Args)]
#[command(before_help = "Examples:
  twinshare run demo -- python run.py
  twinshare run anna/demo -- pytest -x
  twinshare run ~/twinshare/demo/src -- make")]
pub(crate) struct Run {
    /// Show your home directory to the command, read-only
    #[arg(long)]
    home: bool,
    /// `[PEER/]NAME` of a workspace, or a directory in one
    #[arg(value_name = "[PEER/]NAME|DIR")]
    workspace: String,
    /// The command and its arguments; without it, the one the workspace's `twinshare.yaml` names
    #[arg(last = true, value_name = "CMD")]
    command: Vec<String>,
}

impl Run {
    pub(crate) fn run(self) -> Result {
        run(RunRequest { workspace: self.workspace, command: self.command, home: self.home, shell: false })
    }
}

/// Plans and launches on this thread.
pub(super) fn run(request: RunRequest) -> Result {
    node::wait(async {
        let mut interrupts = Interrupts::listen()?;
        let plan = plan(&node::client()?, request, &mut interrupts).await?;
        interrupts.end(async { tell_needs(&plan) }).await?;
        // If nobody reads standard error, the command runs all the same.
        let announce = |level: &_| drop(note(format!("isolation: {level}")));
        let code = launch(&plan, std::env::current_exe()?, announce).await?;
        Ok(ExitCode::from(code))
    })
}

/// Asks the node for a plan, and for a mount first if it has none.
async fn plan(client: &Client, mut request: RunRequest, interrupts: &mut Interrupts) -> Result<Plan> {
    if names_directory(&request.workspace) {
        request.workspace = node::absolute(Path::new(&request.workspace))?;
    }
    let planned = interrupts.end(async { Ok(client.plan_run(&request).await) }).await?;
    let has_code = |code: &str| {
        let problem = planned.as_ref().err().and_then(ClientError::problem);
        problem.is_some_and(|problem| problem.code == code)
    };
    let directory = directory_after_all(&request.workspace);
    match directory.filter(|_| has_code("not_here") || has_code("invalid_name")) {
        Some(directory) => request.workspace = directory,
        // The node has nothing of the name; a peer may.
        None if has_code("not_here") => {
            let wanted = MountRequest { workspace: request.workspace.clone(), ..MountRequest::default() };
            let meant = directory_meant(&request.workspace);
            let view = mount(client, &wanted, interrupts).await;
            let view = view.map_err(|error| error.hint_if(Kind::NotFound, meant))?;
            note(format!("mounted at {}", shown(&view.directory)))?;
            request.workspace = view.directory;
        }
        None => return Ok(planned?),
    }
    interrupts.end(async { Ok(client.plan_run(&request).await?) }).await
}

/// Says what the command will not find here.
fn tell_needs(plan: &Plan) -> Result<()> {
    let Some(needs) = &plan.needs else {
        return note("what it needs from this machine could not be found out in time");
    };
    // That the system's loader is here goes without saying.
    let of_the_system = |path: &str| path.starts_with("/lib") || path.starts_with("/usr/lib");
    for need in needs.iter().filter(|need| need.present && !of_the_system(&need.path)) {
        let version =
            need.version.as_ref().map(|version| format!(" ({})", shown(version))).unwrap_or_default();
        note(format!("needs {} from outside the workspace: present here{version}", shown(&need.path)))?;
    }
    let missing: Vec<_> = needs.iter().filter(|need| !need.present).collect();
    for need in missing.iter().take(MISSING_SHOWN) {
        note(format!(
            "needs {} from outside the workspace: missing here ({})",
            shown(&need.path),
            shown(&need.why)
        ))?;
    }
    match missing.len().saturating_sub(MISSING_SHOWN) {
        0 => Ok(()),
        more => note(format!(
            "needs {} that {} missing here",
            count(more as u64, "more thing"),
            if more == 1 { "is" } else { "are" }
        )),
    }
}
