//! The commands, one a file. The documentation of an argument is its help.

mod cache;
mod confine;
mod demo;
mod doctor;
pub(crate) mod mount;
mod p2p;
mod pin;
mod replica;
mod run;
mod shell;
mod unmount;
mod unpin;
mod why;
mod workspace;

pub(crate) use workspace::full_name;

use std::process::ExitCode;

use clap::{Command as Definition, CommandFactory, FromArgMatches, Parser, Subcommand};

use crate::error::Result;
use crate::reference;

/// Examples come first: most who ask for help look for one.
const HELP: &str = "{about-with-newline}\n{before-help}{usage-heading} {usage}\n\n{all-args}{after-help}";

/// Share a running environment with the machine next to you.
///
/// A colleague's workspace becomes a folder here, now, and its programs run here: code, virtual environments, models
/// and data are fetched when they are touched.
#[derive(Debug, Parser)]
#[command(
    name = "twinshare",
    version,
    before_help = "Examples:
  twinshare p2p start                       Start this machine's node
  twinshare p2p discover                    See who else is on the network
  twinshare workspace create                Make a workspace of this directory
  twinshare workspace share demo --open     Let the network have it
  twinshare workspace list --remote         See what others share
  twinshare workspace clone demo            Get a copy of it
  twinshare run demo -- python run.py       Run a program of it, here"
)]
pub(crate) struct Twinshare {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    P2p(p2p::P2p),
    Workspace(workspace::Workspace),
    Mount(mount::Mount),
    Unmount(unmount::Unmount),
    Run(run::Run),
    Shell(shell::Shell),
    Pin(pin::Pin),
    Unpin(unpin::Unpin),
    Cache(cache::Cache),
    Why(why::Why),
    Doctor(doctor::Doctor),
    Demo(demo::Demo),
    #[command(hide = true)]
    Replica(replica::Replica),
    #[command(hide = true)]
    Confine(confine::Confine),
    /// Print this reference as Markdown.
    #[command(hide = true)]
    Reference,
}

/// The command line of this process. Ends the process if it makes no sense or asks for help.
pub(crate) fn parse() -> Twinshare {
    let matches = definition().get_matches();
    Twinshare::from_arg_matches(&matches).unwrap_or_else(|error| error.exit())
}

/// What can be typed.
pub(crate) fn definition() -> Definition {
    with_template(Twinshare::command())
}

fn with_template(definition: Definition) -> Definition {
    let names: Vec<_> = definition.get_subcommands().map(|command| command.get_name().to_owned()).collect();
    let definition = definition.help_template(HELP);
    names.into_iter().fold(definition, |whole, name| whole.mut_subcommand(name, with_template))
}

impl Twinshare {
    /// Does what was asked for.
    pub(crate) fn run(self) -> Result {
        match self.command {
            Command::P2p(command) => command.run(),
            Command::Workspace(command) => command.run(),
            Command::Mount(command) => command.run(),
            Command::Unmount(command) => command.run(),
            Command::Run(command) => command.run(),
            Command::Shell(command) => command.run(),
            Command::Pin(command) => command.run(),
            Command::Unpin(command) => command.run(),
            Command::Cache(command) => command.run(),
            Command::Why(command) => command.run(),
            Command::Doctor(command) => command.run(),
            Command::Demo(command) => command.run(),
            Command::Replica(command) => command.run(),
            Command::Confine(command) => Ok(command.run()),
            Command::Reference => reference::print().map(|()| ExitCode::SUCCESS),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_definition_is_consistent() {
        definition().debug_assert();
    }

    #[track_caller]
    fn check(line: &str, works: bool) {
        let parsed = definition().try_get_matches_from(line.split_whitespace());
        assert_eq!(parsed.is_ok(), works, "{line}: {:?}", parsed.err().map(|error| error.to_string()));
    }

    #[test]
    fn the_story_can_be_typed() {
        for line in [
            "twinshare p2p start",
            "twinshare p2p discover",
            "twinshare workspace create",
            "twinshare workspace share demo",
            "twinshare workspace list",
            "twinshare workspace clone demo",
            "twinshare workspace clone anna/demo here --when-gone fail",
            "twinshare run --home anna/demo -- python -c x --flag",
            "twinshare run demo",
            "twinshare shell demo",
            "twinshare pin",
            "twinshare pin data --wait --timeout 5",
            "twinshare unpin data",
            "twinshare cache prune --older-than 7d",
        ] {
            check(line, true);
        }
        for line in [
            "twinshare",
            "twinshare p2p",
            "twinshare cache",
            "twinshare unpin",
            "twinshare pin --wait",
            "twinshare workspace share",
            "twinshare run",
            "twinshare run a b",
        ] {
            check(line, false);
        }
    }
}
