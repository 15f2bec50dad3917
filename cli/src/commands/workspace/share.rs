//! `twinshare workspace share`

use std::process::ExitCode;

use clap::Args;

use crate::error::Result;
use crate::node;
use crate::output::{Format, line};
use crate::text::shown;

/// Offer a workspace to others.
///
/// With `--open` everybody on this network may read all of it, and the companions that are listed then. Without, a
/// workspace that is shared stays shared as it is, and any other admits nobody yet. A companion that `twinshare.yaml`
/// names later is not served before the workspace is shared again.
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
        let open = self.open.then_some(true);
        let share = node::wait(async { Ok(node::client()?.share_workspace(&self.name, open).await?) })?;
        let name = shown(&self.name);
        self.format.print(&share, |share| {
            match share.open {
                true => line(format!(
                    "{name} is open: anyone on this network may read it, until `twinshare workspace unshare {name}`"
                ))?,
                false => line(format!(
                    "{name} is shared, but nobody is admitted yet: \
                     `twinshare workspace share {name} --open` lets anyone on this network in"
                ))?,
            }
            share.companions.iter().try_for_each(|path| line(format!("  with {}", shown(path))))
        })?;
        Ok(ExitCode::SUCCESS)
    }
}
