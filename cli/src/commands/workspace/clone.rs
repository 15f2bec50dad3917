//! `twinshare workspace clone`

use std::process::ExitCode;

use clap::Args;
use twinshare_daemon::api::wire::{CloneRequest, Replica};

use crate::commands::mount::{Wanted, note_left_out, note_was_there};
use crate::error::Result;
use crate::interrupts::Interrupts;
use crate::node;
use crate::output::line;
use crate::progress;
use crate::text::shown;

use super::list::full_name;
use super::wait;

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
    /// Fetch it without mounting it, and wait until it is an ordinary directory
    ///
    /// For machines without FUSE. Nothing of it can be used before. Ctrl-C ends the waiting, not the fetching.
    #[arg(long, conflicts_with = "no_settle")]
    plain: bool,
}

impl Clone {
    pub(crate) fn run(self) -> Result {
        let directory = self.wanted.directory()?;
        let Wanted { workspace, when_gone, format, .. } = self.wanted;
        let settle = self.no_settle.then_some(false);
        let relocate = self.no_relocate.then_some(false);
        let plain = self.plain.then_some(true);
        let request = CloneRequest { workspace, directory, when_gone, settle, relocate, plain };
        let clone = node::wait(async {
            let client = node::client()?;
            let mut interrupts = Interrupts::listen()?;
            let begun = interrupts.end(async { Ok(client.clone_workspace(&request).await?) }).await?;
            let clone = progress::follow(&client, begun, &mut interrupts).await?;
            if !clone.plain {
                return Ok(clone);
            }
            let (was_there, directory) = (clone.was_there, shown(&clone.directory).to_string());
            let complete = interrupts.end(wait::complete(&client, &clone.id, None)).await;
            let complete = complete.map_err(|error| {
                error.hint(format!(
                    "it goes on in the background; `twinshare workspace rm {directory}` ends it"
                ))
            })?;
            Ok(Replica { was_there, ..complete })
        })?;
        format.print(&clone, |clone| {
            let directory = shown(&clone.directory);
            line(format!("{} is in {directory}", shown(&full_name(clone))))?;
            line(format!("run something of it: twinshare run {directory} -- COMMAND"))
        })?;
        note_was_there(&clone)?;
        note_left_out(&clone)?;
        Ok(ExitCode::SUCCESS)
    }
}
