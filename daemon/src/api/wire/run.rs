//! The plan of a run: the node makes it, the asking process carries it out on its own terminal.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Asks how to run a command in a workspace.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RunRequest {
    /// `[PEER/]NAME` of a mounted or own workspace, or an absolute directory in one.
    pub workspace: String,
    /// The command and its arguments; empty only with `shell`.
    #[serde(default)]
    pub command: Vec<String>,
    /// Shows the user's home directory to the command.
    #[serde(default)]
    pub home: bool,
    /// Opens an interactive shell in place of a command.
    #[serde(default)]
    pub shell: bool,
}

/// How to run it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RunPlan {
    /// The complete command line, sandbox included.
    pub argv: Vec<String>,
    /// Variables to set on top of the asking process's environment.
    pub environment: BTreeMap<String, String>,
    /// Variables to take out of it.
    pub environment_removed: Vec<String>,
    /// The directory in which to start.
    pub directory: String,
    /// The level of isolation in one word, always shown to the user.
    pub isolation: String,
    /// What that level hides, shows and cannot prevent here, one sentence each.
    pub isolation_notes: Vec<String>,
    /// What the environment needs from outside and is neither shared nor here.
    pub missing: Vec<MissingRequirement>,
}

/// Something the environment needs and does not find.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct MissingRequirement {
    /// The path that is missing.
    pub path: String,
    /// What needs it, and what to do.
    pub detail: String,
}
