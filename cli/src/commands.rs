//! The commands.

use std::process::ExitCode;

use clap::{Parser, Subcommand};

mod confine;

/// Share a running environment with the machine next to you.
#[derive(Debug, Parser)]
#[command(name = "twinshare", version)]
pub(crate) struct Twinshare {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    #[command(hide = true)]
    Confine(confine::Confine),
}

impl Twinshare {
    pub(crate) fn run(self) -> ExitCode {
        match self.command {
            Command::Confine(arguments) => arguments.run(),
        }
    }
}
