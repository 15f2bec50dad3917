//! What the launching process and the step inside the namespace say to each other, over a socket pair.
//!
//! [`Order`] goes in, [`Report::Ready`] comes out together with a process descriptor of the step itself, [`GO`] goes
//! in, and the step becomes the command: the socket closes. [`Report::Failed`] says why it could not.
//! Messages are lines of JSON.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Bytes of one message at most: twice what the kernel passes to a command by default (`ARG_MAX`).
pub(super) const MESSAGE_BYTES_MAX: usize = 4 << 20;

/// The byte that lets the step go on.
pub(super) const GO: u8 = b'\n';

/// What the step has to do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Order {
    pub(super) command: Vec<String>,
    pub(super) directory: String,
    /// All variables the command gets.
    pub(super) environment: BTreeMap<String, String>,
    /// The only places below which files may be changed.
    pub(super) writable: Vec<String>,
    /// Signals the caller ignores, and so will the command.
    pub(super) ignored: Vec<i32>,
}

/// What the step tells.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Report {
    /// Everything is set up.
    Ready {
        /// The version of Landlock's interface that is enforced.
        landlock: Option<u32>,
    },
    /// The command cannot be run.
    Failed(Failure),
}

/// Why the step could not become the command.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Failure {
    /// It cannot start in its directory.
    Directory(String),
    /// No such command, or a file whose interpreter does not exist.
    NotFound {
        /// True if the file is there and its interpreter is not.
        interpreter: bool,
    },
    /// The kernel does not run it.
    NotRunnable(String),
    /// A restriction could not be applied.
    Restriction(String),
}
