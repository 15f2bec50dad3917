//! `twinshare unpin`

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;

use crate::error::Result;
use crate::node;
use crate::output::line;
use crate::text::shown;

/// End a pin.
///
/// What it kept stays on the disk until the cache needs the room.
#[derive(Debug, Args)]
#[command(before_help = "Examples:
  twinshare unpin ~/twinshare/peers/anna/demo/data")]
pub(crate) struct Unpin {
    /// A path that is pinned
    path: PathBuf,
}

impl Unpin {
    pub(crate) fn run(self) -> Result {
        let path = node::absolute(&self.path)?;
        node::wait(async { Ok(node::client()?.unpin(&path).await?) })?;
        line(format!("{} is not pinned any more", shown(&path)))?;
        Ok(ExitCode::SUCCESS)
    }
}
