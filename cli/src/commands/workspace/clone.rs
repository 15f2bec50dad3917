//! `twinshare workspace clone`

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use twinshare_daemon::api::wire::CloneRequest;

use crate::commands::mount::{WhenGone, note_left_out};
use crate::error::Result;
use crate::interrupts::Interrupts;
use crate::node;
use crate::output::{Format, line};
use crate::progress;
use crate::text::shown;

use super::list::full_name;

/// Get a copy of somebody's workspace.
///
/// The copy can be used at once: names, sizes and times are there, contents are fetched when they are read. It stays
/// the version it was when it was made, whatever changes at its origin. So far it can only be read.
#[derive(Debug, Args)]
#[command(before_help = "Examples:
  twinshare workspace clone demo
  twinshare workspace clone anna/demo ~/src/demo --when-gone fail")]
pub(crate) struct Clone {
    /// The workspace; the peer is needed only where several offer one of that name
    #[arg(value_name = "[PEER/]NAME")]
    workspace: String,
    /// Where it appears: a directory that is empty or does not exist; without it, `~/twinshare/NAME`
    directory: Option<PathBuf>,
    #[command(flatten)]
    when_gone: WhenGone,
    #[command(flatten)]
    format: Format,
}

impl Clone {
    pub(crate) fn run(self) -> Result {
        let directory = self.directory.as_deref().map(node::absolute).transpose()?;
        let request =
            CloneRequest { workspace: self.workspace, directory, when_gone: self.when_gone.when_gone };
        let clone = node::wait(async {
            let client = node::client()?;
            let mut interrupts = Interrupts::listen()?;
            let begun = interrupts.end(async { Ok(client.clone_workspace(&request).await?) }).await?;
            progress::follow(&client, begun, &mut interrupts).await
        })?;
        self.format.print(&clone, |clone| {
            line(format!("{} is in {}", shown(&full_name(clone)), shown(&clone.directory)))
        })?;
        note_left_out(&clone)?;
        Ok(ExitCode::SUCCESS)
    }
}
