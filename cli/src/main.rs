//! `twinshare`: the command line.
//!
//! It talks to a running node over the node's socket and opens no state of its own. Three of its commands are
//! processes rather than commands: `p2p start --foreground` is the node, `replica` serves mounts, `confine` is the
//! last step into a sandbox.

mod commands;
mod demo;
mod error;
mod interrupts;
mod node;
mod output;
mod progress;
mod reference;
mod replicas;
mod text;

use std::process::ExitCode;

fn main() -> ExitCode {
    commands::parse().run().unwrap_or_else(|error| error.report())
}
