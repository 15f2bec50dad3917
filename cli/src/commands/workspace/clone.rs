//! `twinshare workspace clone`

use std::process::ExitCode;

use clap::Args;
use twinshare_daemon::api::wire::CloneRequest;

use crate::commands::mount::{Wanted, note_left_out, note_was_there};
use crate::error::Result;
use crate::interrupts::Interrupts;
use crate::node;
use crate::output::line;
use crate::progress;
use crate::text::shown;

use super::list::full_name;

/// Get a copy of somebody's workspace.
///
/// The copy can be used and changed at once: names, sizes and times are there, contents are fetched when they are read.
/// What is changed stays here. What is missing is fetched in the background; once everything is here and nobody uses it,
/// it becomes an ordinary directory. A clone that is there already is left as it is, and told of; JSON then has
/// `was_there`.
#[derive(Debug, Args)]
#[command(before_help = "Examples:
  twinshare workspace clone demo
  twinshare workspace clone anna/demo ~/src/demo --when-gone fail")]
pub(crate) struct Clone {
    #[command(flatten)]
    wanted: Wanted,
    /// Keep it mounted when everything is here, until `twinshare workspace settle`
    #[arg(long)]
    no_settle: bool,
    /// Leave environments as they are, for the paths they had: they work in `twinshare run` alone then
    #[arg(long)]
    no_relocate: bool,
}

impl Clone {
    pub(crate) fn run(self) -> Result {
        let directory = self.wanted.directory()?;
        let Wanted { workspace, when_gone, format, .. } = self.wanted;
        let settle = self.no_settle.then_some(false);
        let relocate = self.no_relocate.then_some(false);
        let request = CloneRequest { workspace, directory, when_gone, settle, relocate };
        let clone = node::wait(async {
            let client = node::client()?;
            let mut interrupts = Interrupts::listen()?;
            let begun = interrupts.end(async { Ok(client.clone_workspace(&request).await?) }).await?;
            progress::follow(&client, begun, &mut interrupts).await
        })?;
        format.print(&clone, |clone| {
            line(format!("{} is in {}", shown(&full_name(clone)), shown(&clone.directory)))
        })?;
        note_was_there(&clone)?;
        note_left_out(&clone)?;
        Ok(ExitCode::SUCCESS)
    }
}
