//! `twinshare workspace share`

use std::process::ExitCode;

use clap::Args;

use crate::error::Result;
use crate::node;
use crate::output::{Format, line};
use crate::text::shown;

/// Offer a workspace to others.
///
/// With `--open` everybody on this network may read all of it, companions included. Without, nobody is admitted yet.
/// Sharing again changes how it is shared.
#[derive(Debug, Args)]
#[command(before_help = "Examples:
  twinshare workspace share demo --open")]
pub(crate) struct Share {
    /// The workspace
    name: String,
    /// Let anyone on this network in
    #[arg(long)]
    open: bool,
    #[command(flatten)]
    format: Format,
}

impl Share {
    pub(crate) fn run(self) -> Result {
        let share = node::wait(async { Ok(node::client()?.share_workspace(&self.name, self.open).await?) })?;
        let name = shown(&self.name);
        self.format.print(&share, |share| match share.open {
            true => line(format!(
                "{name} is open: anyone on this network may read it, until `twinshare workspace unshare {name}`"
            )),
            false => line(format!(
                "{name} is shared, but nobody is admitted yet: \
                 `twinshare workspace share {name} --open` lets anyone on this network in"
            )),
        })?;
        Ok(ExitCode::SUCCESS)
    }
}
