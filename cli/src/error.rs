//! What can go wrong for the user of a command: the kind decides the exit code, the hint says what to do.
//!
//! This is the one place where errors of the other crates become exit codes. `docs/cli.md` lists them.

use std::fmt;
use std::io::{self, IsTerminal, Write};
use std::process::ExitCode;

use twinshare_daemon::api::wire::Problem;
use twinshare_daemon::client::ClientError;
use twinshare_daemon::home::{HOME_VARIABLE, HomeError};
use twinshare_daemon::node::{NodeError, StartError, StopError};
use twinshare_daemon::replica::process::ProcessError;
use twinshare_daemon::runtime::launch::LaunchError;

use crate::text::shown;

/// What kind of failure: one exit code each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// It did not work.
    Failure,
    /// The command line makes no sense.
    Usage,
    /// No such workspace, peer or mount, or several of the name.
    NotFound,
    /// The node is not running.
    NotRunning,
    /// A peer cannot be reached, or does not answer as it should.
    Unreachable,
    /// Something is in use.
    Busy,
    /// A peer says no, or is not who it was.
    Refused,
    /// The command of a run was not reached.
    NotReached,
    /// The command of a run cannot be run.
    NotRunnable,
    /// The command of a run does not exist.
    NoSuchCommand,
    /// The user interrupted it.
    Interrupted,
    /// Whoever read the output has gone.
    OutputClosed,
}

impl Kind {
    /// Every kind with what it means, in the order of the exit codes.
    pub(crate) const ALL: [(Self, &str); 12] = [
        (Self::Failure, "it did not work; the message says why"),
        (Self::Usage, "the command line or a value in it makes no sense"),
        (Self::NotFound, "no such workspace, peer or mount, or several of that name"),
        (Self::NotRunning, "the node is not running"),
        (Self::Unreachable, "a peer cannot be reached, or does not answer as it should"),
        (Self::Busy, "something is in use"),
        (Self::Refused, "a peer refuses, or is not who it was"),
        (
            Self::NotReached,
            "`run`, `shell`: the command was not reached, because it could not be separated from this machine",
        ),
        (Self::NotRunnable, "`run`, `shell`: the command cannot be run"),
        (Self::NoSuchCommand, "`run`, `shell`: there is no such command"),
        (Self::Interrupted, "interrupted with Ctrl-C"),
        (Self::OutputClosed, "whoever read the output has gone"),
    ];

    /// The exit code.
    pub(crate) fn code(self) -> u8 {
        match self {
            Self::Failure => 1,
            Self::Usage => 2,
            Self::NotFound => 3,
            Self::NotRunning => 4,
            Self::Unreachable => 5,
            Self::Busy => 6,
            Self::Refused => 7,
            Self::NotReached => 125,
            Self::NotRunnable => 126,
            Self::NoSuchCommand => 127,
            Self::Interrupted => 130,
            Self::OutputClosed => 141,
        }
    }

    /// The kind of a problem the node reports, by its stable code. A code of a newer node is a failure.
    fn of_problem(code: &str) -> Self {
        match code {
            "invalid_body" | "invalid_query" | "invalid_path" | "invalid_name" | "invalid_when_gone"
            | "invalid_address" | "relative_path" | "own_address" | "no_command" => Self::Usage,
            "ambiguous_name"
            | "no_such_workspace"
            | "no_such_remote_workspace"
            | "no_such_peer"
            | "no_such_replica"
            | "no_such_operation"
            | "not_here"
            | "not_in_workspace"
            | "no_such_file"
            | "no_such_pin" => Self::NotFound,
            "stopping" => Self::NotRunning,
            "unknown_host" | "peer_unreachable" | "peer_protocol" | "peer_busy" | "peer_failed" => {
                Self::Unreachable
            }
            "busy" => Self::Busy,
            "peer_refused" | "other_peer" => Self::Refused,
            "cancelled" => Self::Interrupted,
            _ => Self::Failure,
        }
    }
}

/// A failure as it is told to the user.
#[derive(Debug)]
pub(crate) struct Error {
    kind: Kind,
    message: String,
    hint: Option<String>,
}

/// The result of a command.
pub(crate) type Result<T = ExitCode> = std::result::Result<T, Error>;

impl Error {
    pub(crate) fn new(kind: Kind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), hint: None }
    }

    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// With another hint, where there is one and the failure is of this kind.
    pub(crate) fn hint_if(self, kind: Kind, hint: Option<String>) -> Self {
        match hint {
            Some(hint) if self.kind == kind => self.hint(hint),
            _ => self,
        }
    }

    pub(crate) fn kind(&self) -> Kind {
        self.kind
    }

    /// Several failures as one: the first, which the others may have followed from, and what else was said.
    pub(crate) fn joined(failures: impl IntoIterator<Item = Self>) -> Option<Self> {
        failures.into_iter().reduce(|mut first, other| {
            first.message.push_str("\nalso: ");
            first.message.push_str(&other.message);
            first.hint = first.hint.or(other.hint);
            first
        })
    }

    /// Tells the user, and says with which code to exit.
    pub(crate) fn report(&self) -> ExitCode {
        if self.kind != Kind::OutputClosed {
            // If standard error is gone, too, the exit code has to do.
            let _ = writeln!(io::stderr(), "{self}");
        }
        ExitCode::from(self.kind.code())
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "error: {}", self.message)?;
        match &self.hint {
            Some(hint) => write!(f, "\nhint: {hint}"),
            None => Ok(()),
        }
    }
}

impl From<ClientError> for Error {
    fn from(error: ClientError) -> Self {
        match error {
            ClientError::NotRunning { .. } => Self::new(Kind::NotRunning, "the node is not running")
                .hint("start it with `twinshare p2p start`"),
            ClientError::Problem(problem) => (*problem).into(),
            ClientError::Forbidden { .. }
            | ClientError::TimedOut(_)
            | ClientError::WentAway(_)
            | ClientError::Protocol(_) => Self::new(Kind::Failure, shown(&error.to_string())),
        }
    }
}

/// A problem may quote what a peer says. Its detail names the candidates and users that it also lists.
impl From<Problem> for Error {
    fn from(problem: Problem) -> Self {
        let kind = Kind::of_problem(&problem.code);
        let hint = problem.hint.map(|hint| shown(&hint));
        Self { kind, message: shown(&problem.detail), hint }
    }
}

/// Where the node's directories are chosen.
const CHOOSE_HOME: &str =
    "the node's directories must be this user's own; `TWINSHARE_HOME=DIR` chooses others";

impl From<HomeError> for Error {
    fn from(error: HomeError) -> Self {
        let plain = Self::new(Kind::Failure, shown(&error.to_string()));
        match error {
            // They say themselves what to do.
            HomeError::Unknown | HomeError::NotPrivate { .. } | HomeError::Running { .. } => plain,
            HomeError::Relative(path) => plain.hint(format!(
                "write the whole path, so that every command finds the same node: `{HOME_VARIABLE}=$PWD/{}`",
                shown(&path.to_string_lossy())
            )),
            HomeError::NotOurs { .. } | HomeError::Disk { .. } => plain.hint(CHOOSE_HOME),
        }
    }
}

impl From<StartError> for Error {
    fn from(error: StartError) -> Self {
        match error {
            StartError::Home(error) => error.into(),
            StartError::Client(error) => error.into(),
            StartError::Spawn(_) | StartError::Ended { .. } | StartError::Silent { .. } => Self::new(
                Kind::Failure,
                error.to_string(),
            )
            .hint("`twinshare doctor` checks this machine; `twinshare p2p start --foreground` shows the log"),
        }
    }
}

impl From<StopError> for Error {
    fn from(error: StopError) -> Self {
        match error {
            StopError::Home(error) => error.into(),
            StopError::Client(error) => error.into(),
            StopError::StillThere { .. } => Self::new(Kind::Failure, error.to_string()),
        }
    }
}

impl From<NodeError> for Error {
    fn from(error: NodeError) -> Self {
        let plain = Self::new(Kind::Failure, shown(&error.to_string()));
        match error {
            NodeError::Home(error) => error.into(),
            NodeError::Config(_) => {
                plain.hint("correct the file, or move it away: without it, defaults are used")
            }
            NodeError::Identity(_) | NodeError::Log(_) | NodeError::Registry(_) | NodeError::Shares(_) => {
                plain.hint(CHOOSE_HOME)
            }
            NodeError::System { .. } => plain.hint("`twinshare doctor` checks this machine"),
        }
    }
}

impl From<ProcessError> for Error {
    fn from(error: ProcessError) -> Self {
        Self::new(Kind::Failure, error.to_string())
    }
}

impl From<LaunchError> for Error {
    fn from(error: LaunchError) -> Self {
        let message = error.to_string();
        let (kind, hint) = match error {
            LaunchError::NoBubblewrap => {
                (Kind::NotReached, Some("install it: `sudo apt-get install bubblewrap`".to_owned()))
            }
            LaunchError::Refused { fix, .. } => (Kind::NotReached, fix),
            LaunchError::TimedOut => {
                (Kind::NotReached, Some("a mount may not answer: `twinshare workspace list`".to_owned()))
            }
            LaunchError::Restriction { .. } | LaunchError::Directory { .. } | LaunchError::Start { .. } => {
                (Kind::NotReached, None)
            }
            LaunchError::NotFound { .. } => (Kind::NoSuchCommand, None),
            LaunchError::NotRunnable { .. } => (Kind::NotRunnable, None),
        };
        Self { kind, message: shown(&message), hint }
    }
}

/// Writing to a terminal or a pipe, and setting up what a command waits with.
impl From<io::Error> for Error {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Self::new(Kind::OutputClosed, "the output is closed"),
            _ => Self::new(Kind::Failure, error.to_string()),
        }
    }
}

/// True if somebody looks at standard error while the command runs.
pub(crate) fn watched() -> bool {
    io::stderr().is_terminal()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_has_a_code_of_its_own() {
        let codes: Vec<_> = Kind::ALL.iter().map(|(kind, _)| kind.code()).collect();
        assert!(codes.is_sorted_by(|a, b| a < b), "{codes:?}");
    }

    #[track_caller]
    fn check(code: &str, expected: u8) {
        assert_eq!(Kind::of_problem(code).code(), expected, "{code}");
    }

    #[test]
    fn problems_have_exit_codes() {
        check("invalid_when_gone", 2);
        check("ambiguous_name", 3);
        check("no_such_remote_workspace", 3);
        check("stopping", 4);
        check("peer_unreachable", 5);
        check("unknown_host", 5);
        check("busy", 6);
        check("peer_refused", 7);
        check("replica_failed", 1);
        check("of a newer node", 1);
    }

    #[test]
    fn what_a_peer_says_cannot_steer_the_terminal() {
        let problem = Problem {
            r#type: String::new(),
            title: String::new(),
            status: 502,
            code: "peer_unreachable".to_owned(),
            detail: "anna: \x1b[2Jgone\nhint: rm -rf, in use by bash (pid 1)".to_owned(),
            hint: None,
            request_id: None,
            candidates: Vec::new(),
            users: vec!["bash (pid 1)".to_owned()],
        };
        let text = Error::from(problem).to_string();
        assert_eq!(text, "error: anna: \\u{1b}[2Jgone\\nhint: rm -rf, in use by bash (pid 1)");
    }
}
