//! `twinshare workspace`: this machine's workspaces, and those of others.

mod clone;
mod create;
mod edits;
mod list;
mod resolve;
mod rm;
mod settle;
mod share;
mod show;
mod status;
mod unshare;
mod wait;

use clap::{Args, Subcommand};

pub(crate) use list::{full_name, kind};

use crate::error::Result;

/// This machine's workspaces, and those of others.
#[derive(Debug, Args)]
pub(crate) struct Workspace {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Create(create::Create),
    Share(share::Share),
    Unshare(unshare::Unshare),
    List(list::List),
    Show(show::Show),
    Rm(rm::Rm),
    Clone(clone::Clone),
    Status(status::Status),
    Wait(wait::Wait),
    Settle(settle::Settle),
    Resolve(resolve::Resolve),
}

impl Workspace {
    pub(crate) fn run(self) -> Result {
        match self.command {
            Command::Create(command) => command.run(),
            Command::Share(command) => command.run(),
            Command::Unshare(command) => command.run(),
            Command::List(command) => command.run(),
            Command::Show(command) => command.run(),
            Command::Rm(command) => command.run(),
            Command::Clone(command) => command.run(),
            Command::Status(command) => command.run(),
            Command::Wait(command) => command.run(),
            Command::Settle(command) => command.run(),
            Command::Resolve(command) => command.run(),
        }
    }
}
