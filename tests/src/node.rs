//! A twinshare node on a host, driven as a person would drive it: by the `twinshare` command.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::{
    host::{Host, ORDINARY},
    program::{Program, Running},
    wait,
};

/// A command that talks to a ready node answers at once; on a loaded machine, and with a peer to ask, not later than this.
pub const COMMAND_BOUND: Duration = Duration::from_secs(60);

/// As whom a node and its user's commands run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Who {
    /// The host's root.
    Root,
    /// The host's ordinary user.
    Ordinary,
}

/// One user's node on one host: a name for `twinshare` run as that user there. It is a handle, not the process: the node may
/// be started in the background, by [`User::start`], or in the foreground, by [`User::foreground`].
#[derive(Clone, Copy, Debug)]
pub struct User<'host> {
    host: &'host Host,
    who: Who,
    isolated: Option<&'host str>,
}

impl<'host> User<'host> {
    /// The user `who` of `host`.
    pub fn new(host: &'host Host, who: Who) -> User<'host> {
        User { host, who, isolated: None }
    }

    /// The same user with a node whose whole state lies in the directory `home`.
    #[must_use]
    pub fn isolated(self, home: &'host str) -> User<'host> {
        User { isolated: Some(home), ..self }
    }

    /// The host.
    pub fn host(&self) -> &'host Host {
        self.host
    }

    /// The user's home directory.
    pub fn home(&self) -> String {
        match self.who {
            Who::Root => "/root".into(),
            Who::Ordinary => format!("/home/{}", ORDINARY.0),
        }
    }

    /// Any command, as this user, in the user's home.
    pub fn program(&self, name: impl Into<String>) -> Program {
        let program = self.host.program(name);
        let program = if self.who == Who::Ordinary { program.ordinary() } else { program };
        program.dir(self.home())
    }

    /// A twinshare command.
    pub fn twinshare(&self, args: &[&str]) -> Program {
        let program = self.program("twinshare").args(args);
        match self.isolated {
            Some(home) => program.env("TWINSHARE_HOME", home),
            None => program,
        }
    }

    /// Runs a twinshare command that has to succeed, and returns what it printed.
    ///
    /// # Errors
    /// When it fails or takes too long, with all it said.
    pub fn run(&self, args: &[&str]) -> Result<String> {
        self.twinshare(args).run(COMMAND_BOUND)?.success()
    }

    /// Runs a twinshare command with `--json` and returns the document.
    ///
    /// # Errors
    /// As [`User::run`], or when it prints no JSON.
    pub fn json(&self, args: &[&str]) -> Result<Value> {
        let printed = self.run(&[args, &["--json"]].concat())?;
        serde_json::from_str(&printed)
            .with_context(|| format!("twinshare {args:?} printed no JSON: {printed}"))
    }

    /// Starts the node in the background, as people do. It is ready when this returns.
    ///
    /// # Errors
    /// As [`User::run`].
    pub fn start(&self) -> Result<()> {
        self.run(&["p2p", "start"]).map(drop)
    }

    /// Starts the node in the foreground and waits until it is ready.
    ///
    /// # Errors
    /// When it ends or is not ready in time, with what it said.
    pub fn foreground(&self) -> Result<Running> {
        let running = self.twinshare(&["p2p", "start", "--foreground"]).start()?;
        wait::until_true("the node to be ready", COMMAND_BOUND, || {
            if running.ended_within(Duration::ZERO)? {
                bail!("the node ended at once\n{}", running.said());
            }
            Ok(self.twinshare(&["p2p", "status"]).run(COMMAND_BOUND)?.status.success())
        })
        .with_context(|| running.said())?;
        Ok(running)
    }

    /// The log of the node, for messages.
    pub fn log(&self) -> String {
        let state = self.isolated.unwrap_or(".local/state/twinshare");
        let script = format!("tail -n 60 $(find {state} -name '*.log*' -type f) 2>&1");
        match self.program("sh").args(["-c", &script]).run(COMMAND_BOUND) {
            Ok(ended) => ended.told(),
            Err(error) => error.to_string(),
        }
    }
}
