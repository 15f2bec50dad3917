//! Which signals whoever started this process had ignored, as `nohup` and scripts' background jobs do.

use std::fs;

/// Signals by number, as the kernel writes them: bit N-1 for signal N.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct IgnoredSignals(u64);

impl IgnoredSignals {
    /// Those of this process now; none where that cannot be told.
    pub(crate) fn of_this_process() -> Self {
        Self::parse(&fs::read_to_string("/proc/self/status").unwrap_or_default())
    }

    /// `status` is a `/proc/PID/status` (proc_pid_status(5), `SigIgn`).
    fn parse(status: &str) -> Self {
        let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
        Self(mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0))
    }

    /// Whether the signal of this number is ignored.
    pub(crate) fn contains(self, signal: i32) -> bool {
        self.0 >> (signal - 1) & 1 == 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(mask: &str, expected: bool) {
        let status = format!("Name:\tx\nSigBlk:\t0000000000000001\nSigIgn:\t{mask}\n");
        assert_eq!(IgnoredSignals::parse(&status).contains(1), expected, "{mask}");
    }

    #[test]
    fn a_signal_somebody_had_ignored_is_found() {
        check("0000000000000001", true);
        check("0000000000001001", true);
        check("0000000000001000", false);
        check("nonsense", false);
        assert!(!IgnoredSignals::parse("").contains(1));
    }
}
