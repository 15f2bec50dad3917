//! `twinshare`: the command line.

mod commands;

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    commands::Twinshare::parse().run()
}
