//! Where a workspace's commands run: the plan of a run and its execution.
//!
//! A workspace's environment works only at the absolute paths it had on its origin: virtual environments, shebangs
//! and links hold them. So a command runs in a mount namespace of its own in which every root lies at its
//! [origin path](RootBinding::origin), and the rest of this host is read-only or hidden.
//!
//! The node [plans](plan), because it knows what is mounted where; the asking process [launches](launch::launch)
//! the plan, because the terminal, the exit code and the signals are its user's. The plan is a pure function of the
//! [`Request`] and of what [`HostTree`] says about this host's directories; it can be shown, stored and compared.
//!
//! There is one runtime so far, [`Runtime::Process`]: bubblewrap makes the namespaces, and a [small
//! step](confine) inside them restricts itself further and becomes the command. Containers and virtual machines are
//! further variants of the same enum, planned by the same function.
//!
//! Knows nothing of replicas, peers or HTTP: a root may be a mount, a settled clone or any directory.

pub mod bubblewrap;
mod channel;
pub mod confine;
mod environment;
mod filter;
mod host;
pub mod launch;
mod layout;
mod needs;
mod process;
mod signals;

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

pub use host::{HostEntry, HostFacts, HostTree, ThisHost};

/// Roots in one run at most, as in a manifest.
pub const ROOTS_MAX: usize = twinshare_fs::manifest::ROOTS_MAX as usize;

/// What runs the command.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Runtime {
    /// A process in namespaces on this host's kernel, with this host's system directories.
    #[default]
    Process,
}

/// A directory tree of the workspace, and where it must appear.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RootBinding {
    /// Where it lies on this host: a mount point or an ordinary directory.
    pub host: String,
    /// The absolute path it had on its origin.
    pub origin: String,
    /// Whether the command may change it. A root that is mounted read-only stays read-only either way.
    pub writable: bool,
    /// A second place at which it is visible, such as the path of the clone itself; not where another root lies around
    /// that place.
    pub also_at: Option<String>,
}

/// Who asks for the run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    /// The user id. The command keeps it.
    pub uid: u32,
    /// The user's name, for `USER`.
    pub name: String,
    /// The user's home directory, hidden unless [`Request::show_home`].
    pub home: String,
}

/// Asks for a plan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// The workspace first, then its companions; at least one, at most [`ROOTS_MAX`].
    pub roots: Vec<RootBinding>,
    /// The command and its arguments; not empty.
    pub command: Vec<String>,
    /// Variables set for the command, over what the caller's environment passes on.
    pub environment: BTreeMap<String, String>,
    /// Directories searched for commands before `PATH`, such as a virtual environment's `bin`.
    pub search: Vec<String>,
    /// Where the command starts; without it, in the workspace.
    pub directory: Option<String>,
    /// Shows the caller's home directory, read-only.
    pub show_home: bool,
    /// Who asks.
    pub caller: Caller,
    /// Directories that stay hidden whatever else is shown: the node's own state and keys.
    pub hidden: Vec<String>,
}

/// How to run a command: what [`launch::launch`] carries out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Plan {
    /// What runs it.
    pub runtime: Runtime,
    /// The arguments that make `bwrap` build the namespace, without its name and without the command.
    pub sandbox: Vec<String>,
    /// What happens inside it.
    pub inside: Inside,
    /// What is planned to separate the command from this host.
    pub level: Level,
    /// What the environment needs from this host, present or missing; absent while nobody has looked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub needs: Option<Vec<Need>>,
}

/// What happens inside the namespace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Inside {
    /// The command and its arguments.
    pub command: Vec<String>,
    /// Where it starts.
    pub directory: String,
    /// Variables set for it, over those the caller's environment passes on.
    pub environment: BTreeMap<String, String>,
    /// Directories searched for commands before the caller's `PATH`.
    pub search: Vec<String>,
    /// The only places below which files may be changed.
    pub writable: Vec<String>,
}

/// What separates a command from this host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Level {
    /// Kinds of namespaces of its own: `user`, `mount`, `pid`, `ipc`.
    pub namespaces: Vec<String>,
    /// The version of Landlock's interface that is enforced; absent while it is only planned, or without Landlock.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub landlock: Option<u32>,
    /// Whether system calls that reach around the namespaces are refused: typing into the terminal for the user,
    /// the kernel's keyrings, loading programs into the kernel.
    pub system_call_filter: bool,
    /// Whether the user's home is hidden.
    pub home_hidden: bool,
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.namespaces.split_last() {
            Some((last, [])) => write!(f, "{last} namespace; ")?,
            Some((last, others)) => write!(f, "{} and {last} namespaces; ", others.join(", "))?,
            None => f.write_str("no namespaces; ")?,
        }
        match self.landlock {
            Some(abi) => write!(f, "Landlock ABI {abi}; ")?,
            None => f.write_str("no Landlock; ")?,
        }
        if self.system_call_filter {
            f.write_str("system call filter; ")?;
        }
        write!(
            f,
            "no new privileges; home {}",
            if self.home_hidden { "hidden" } else { "visible, read-only" }
        )
    }
}

/// Something the environment uses that is in none of its roots.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Need {
    /// Its absolute path.
    pub path: String,
    /// What needs it, for people.
    pub why: String,
    /// Whether the command will find it on this host.
    pub present: bool,
    /// What this host's says of its version, if it is an interpreter.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
}

/// Why a run cannot be planned.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// There is nothing to run.
    #[error("there is no command to run")]
    NoCommand,
    /// No roots, or more than [`ROOTS_MAX`].
    #[error("a run needs 1 to {ROOTS_MAX} roots, not {0}")]
    Roots(usize),
    /// A path is not absolute and plain.
    #[error("{path:?} is not an absolute path without `.` and `..`")]
    NotPlain {
        /// The path.
        path: String,
    },
    /// A root's origin path is one that every program of this host needs for itself.
    #[error("the workspace has a directory at {path}, where this system's own files have to be")]
    Reserved {
        /// The origin path.
        path: String,
    },
    /// Two roots have the same place, or one lies in another that has no such directory.
    #[error("{path} lies in {other}, which has no such directory")]
    Inside {
        /// The origin path.
        path: String,
        /// The root it lies in.
        other: String,
    },
    /// Following links does not end.
    #[error("too many symbolic links on the way to {path}")]
    Links {
        /// The path.
        path: String,
    },
    /// A directory of this host has to be rebuilt to make room, and cannot be listed.
    #[error("{directory} has to make room for the workspace and cannot be listed: {why}")]
    Rebuild {
        /// The directory.
        directory: String,
        /// What the system said.
        why: String,
    },
    /// A directory of this host has to be rebuilt to make room, and has too many entries for that.
    #[error(
        "{directory} has to make room for the workspace, but its {entries} entries are too many for that"
    )]
    Crowded {
        /// The directory.
        directory: String,
        /// How many entries it has.
        entries: usize,
    },
}

/// Plans a run on the host that `host` and `facts` describe.
///
/// Pure: it changes nothing and starts nothing. [`Plan::needs`] is left open; [`prepare`] fills it in.
pub fn plan(request: &Request, facts: &HostFacts, host: &dyn HostTree) -> Result<Plan, PlanError> {
    match Runtime::default() {
        Runtime::Process => process::plan(request, facts, host),
    }
}

/// Plans a run on this host and looks for what it `requires` from outside its roots: paths, each with what needs it;
/// absent if that is not known.
///
/// Blocks on the disk and for the interpreters among them up to two seconds each.
pub fn prepare(request: &Request, requires: Option<&[(String, String)]>) -> Result<Plan, PlanError> {
    let facts = HostFacts::of_this_host(request.caller.uid);
    let mut plan = plan(request, &facts, &ThisHost)?;
    if let Some(requires) = requires {
        let seen = process::see(request, &facts, &ThisHost)?;
        plan.needs = Some(needs::examine(&seen.layout, requires));
    }
    Ok(plan)
}

#[cfg(test)]
mod tests;
