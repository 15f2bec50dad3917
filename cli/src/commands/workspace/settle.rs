//! `twinshare workspace settle`

use std::process::ExitCode;

use clap::Args;
use twinshare_daemon::api::wire::ReplicaState;

use crate::error::Result;
use crate::node;
use crate::output::{Format, line};
use crate::replicas::clone;
use crate::text::shown;

use super::edits;
use super::status::in_words;

/// Make an ordinary directory of a complete clone, now.
///
/// A clone does so by itself once everything is here and nobody uses it, unless it was made with `--no-settle`. While
/// somebody uses it, it stays mounted; the message names the programs.
#[derive(Debug, Args)]
#[command(before_help = "Examples:
  twinshare workspace settle demo
  twinshare workspace settle ~/twinshare/demo")]
pub(crate) struct Settle {
    /// `[PEER/]NAME` or directory of a clone
    #[arg(value_name = "NAME|DIR")]
    name: String,
    #[command(flatten)]
    format: Format,
}

impl Settle {
    pub(crate) fn run(self) -> Result {
        let settled = node::wait(async {
            let client = node::client()?;
            let clone = clone(&client, &self.name).await?;
            node::leave_directory()?;
            Ok(client.settle_clone(&clone.id).await?)
        })?;
        self.format.print(&settled, |clone| {
            let directory = shown(&clone.directory);
            match clone.state {
                ReplicaState::Settled => {
                    line(format!("{directory} is an ordinary directory now"))?;
                    edits::print(clone, edits::SOME)
                }
                _ => line(format!("{directory} is {}", in_words(clone))),
            }
        })?;
        Ok(ExitCode::SUCCESS)
    }
}
