//! `twinshare p2p`: this machine's node, and those it sees.

mod add;
mod discover;
mod start;
mod status;
mod stop;

use clap::{Args, Subcommand};

use crate::error::Result;

/// This machine's node, and those it sees.
#[derive(Debug, Args)]
pub(crate) struct P2p {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Start(start::Start),
    Stop(stop::Stop),
    Status(status::Status),
    Discover(discover::Discover),
    Add(add::Add),
}

impl P2p {
    pub(crate) fn run(self) -> Result {
        match self.command {
            Command::Start(command) => command.run(),
            Command::Stop(command) => command.run(),
            Command::Status(command) => command.run(),
            Command::Discover(command) => command.run(),
            Command::Add(command) => command.run(),
        }
    }
}
