//! `twinshare demo`

use clap::Args;

use crate::demo;
use crate::error::Result;

/// Show on this machine alone what twinshare does.
///
/// Starts two nodes that know nothing of each other, makes a workspace with a Python environment and a large model on
/// the first, and runs its program on the second, before the data has been copied. Takes some seconds and 400 MB of
/// disk, and leaves nothing behind.
#[derive(Debug, Args)]
#[command(before_help = "Examples:
  twinshare demo")]
pub(crate) struct Demo {}

impl Demo {
    pub(crate) fn run(self) -> Result {
        demo::run()
    }
}
