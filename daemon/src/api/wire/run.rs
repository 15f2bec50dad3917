//! What to run. The answer is a [`Plan`](crate::runtime::Plan), which the asking process carries out itself.

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
