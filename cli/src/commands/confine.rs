//! `twinshare confine`: the last step into a sandbox.

use std::os::fd::RawFd;
use std::process::ExitCode;

use clap::Args;
use twinshare_daemon::runtime::confine;

/// Restricts itself and becomes the command of a run. Started by `twinshare run`, inside its namespaces.
#[derive(Debug, Args)]
pub(crate) struct Confine {
    /// The inherited socket to the process that launched the run.
    channel: RawFd,
    /// The inherited standard error of the command.
    stderr: RawFd,
}

impl Confine {
    /// Returns only if the command could not be run.
    pub(crate) fn run(self) -> ExitCode {
        confine::main(self.channel, self.stderr)
    }
}
