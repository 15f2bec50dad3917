//! `twinshare workspace unshare`

use std::process::ExitCode;

use clap::Args;

use crate::error::Result;
use crate::node;
use crate::output::line;
use crate::text::shown;

/// Offer a workspace no longer.
///
/// Whoever uses it loses what was not fetched yet, at once.
#[derive(Debug, Args)]
#[command(before_help = "Examples:
  twinshare workspace unshare demo")]
pub(crate) struct Unshare {
    /// The workspace
    name: String,
}

impl Unshare {
    pub(crate) fn run(self) -> Result {
        node::wait(async { Ok(node::client()?.unshare_workspace(&self.name).await?) })?;
        line(format!("{} is not shared any more", shown(&self.name)))?;
        Ok(ExitCode::SUCCESS)
    }
}
