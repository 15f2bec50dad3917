//! The signals that stop a node.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};

/// TERM and INT; HUP too, unless whoever started the node (`nohup`) had it ignored.
#[derive(Debug)]
pub(super) struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hang_up: Option<Signal>,
}

impl Signals {
    /// Takes them over from here on. Within a Tokio runtime.
    pub(super) fn listen() -> io::Result<Self> {
        let hang_up = SignalKind::hangup();
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hang_up: if is_ignored(hang_up, &status) { None } else { Some(signal(hang_up)?) },
        })
    }

    /// The name of the next one. Cancel-safe.
    pub(super) async fn next(&mut self) -> &'static str {
        let hang_up = async {
            match &mut self.hang_up {
                Some(hang_up) => hang_up.recv().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            _ = self.terminate.recv() => "TERM",
            _ = self.interrupt.recv() => "INT",
            _ = hang_up => "HUP",
        }
    }
}

/// Whether a process with this `/proc/PID/status` ignores the signal (proc_pid_status(5), `SigIgn`: bit N-1 for N).
fn is_ignored(signal: SignalKind, status: &str) -> bool {
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0);
    mask >> (signal.as_raw_value() - 1) & 1 == 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(mask: &str, expected: bool) {
        let status = format!("Name:\tx\nSigBlk:\t0000000000000001\nSigIgn:\t{mask}\n");
        assert_eq!(is_ignored(SignalKind::hangup(), &status), expected, "{mask}");
    }

    #[test]
    fn a_signal_somebody_had_ignored_stays_ignored() {
        check("0000000000000001", true);
        check("0000000000001001", true);
        check("0000000000001000", false);
        check("nonsense", false);
        assert!(!is_ignored(SignalKind::hangup(), ""));
    }
}
