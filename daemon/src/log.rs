//! The logs of the node and of its replicas' processes: one event a line, fields as `key=value`, bounded in size.
//!
//! What a peer says may be in an event. So that it cannot forge another event or steer a terminal, control
//! characters are written as escapes; only the line's own end is one. Secrets (keys, tokens, invites) are not logged
//! anywhere: their types print no content.

mod file;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tracing::level_filters::LevelFilter;
use tracing_subscriber::filter::EnvFilter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Layer, fmt};

use crate::config::LogLevel;
use file::EscapedStderr;
pub use file::{LOG_BYTES_MAX, LogFile, last_lines};

/// Overrides the configured level, also by module: `debug`, `info,twinshare_transport=trace`.
pub const LOG_VARIABLE: &str = "TWINSHARE_LOG";

/// Why there is no log.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The file cannot be opened.
    #[error("the log {} cannot be written: {source}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The variable makes no sense.
    #[error("{LOG_VARIABLE} is not a filter such as `debug` or `info,twinshare_transport=trace`: {0}")]
    Filter(String),
}

/// Sends everything this process logs to the file at `path`, and to standard error too unless that is the same file.
///
/// Once a process; a second call changes nothing. Panics are logged from then on, with their place.
pub fn start(path: &Path, level: LogLevel) -> Result<(), LogError> {
    let at = |source| LogError::File { path: path.into(), source };
    let file = Arc::new(LogFile::open(path, LOG_BYTES_MAX).map_err(at)?);
    let to_stderr = !is_stderr(path);
    let file_layer = fmt::layer().with_ansi(false).with_writer(file).with_filter(filter(level)?);
    let stderr_layer = match to_stderr {
        true => Some(fmt::layer().with_ansi(false).with_writer(|| EscapedStderr).with_filter(filter(level)?)),
        false => None,
    };
    if tracing_subscriber::registry().with(file_layer).with(stderr_layer).try_init().is_ok() {
        log_panics();
    }
    Ok(())
}

/// `level` for twinshare's own crates and warnings of all others, unless the variable says something else.
fn filter(level: LogLevel) -> Result<EnvFilter, LogError> {
    match std::env::var(LOG_VARIABLE) {
        Ok(text) if !text.is_empty() => {
            EnvFilter::try_new(&text).map_err(|error| LogError::Filter(error.to_string()))
        }
        _ => Ok(own_crates(level)),
    }
}

fn own_crates(level: LogLevel) -> EnvFilter {
    let level = match level {
        LogLevel::Error => LevelFilter::ERROR,
        LogLevel::Warn => LevelFilter::WARN,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Debug => LevelFilter::DEBUG,
        LogLevel::Trace => LevelFilter::TRACE,
    };
    let others = LevelFilter::WARN.min(level);
    // A directive holds for every module whose path begins with it: for all of twinshare's crates.
    EnvFilter::new(format!("{others},twinshare={level}"))
}

/// True when standard error is the file at `path`, as for a node that was started in the background.
fn is_stderr(path: &Path) -> bool {
    let stderr = rustix::fs::fstat(io::stderr());
    let file = rustix::fs::stat(path);
    matches!((stderr, file), (Ok(a), Ok(b)) if (a.st_dev, a.st_ino) == (b.st_dev, b.st_ino))
}

fn log_panics() {
    let before = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        let place = panic.location().map(ToString::to_string);
        let what = panic.payload_as_str().unwrap_or("without a message");
        tracing::error!(place, what, "a thread panicked");
        before(panic);
    }));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(level: LogLevel, expected: &str) {
        assert_eq!(own_crates(level).to_string(), expected);
    }

    #[test]
    fn other_crates_only_warn() {
        check(LogLevel::Info, "twinshare=info,warn");
        check(LogLevel::Trace, "twinshare=trace,warn");
        check(LogLevel::Error, "twinshare=error,error");
    }
}
