//! Ends a wait when whoever waits has been told to stop.
//!
//! The kernel sends FUSE_INTERRUPT for it, but fuser answers that with ENOSYS, after which the kernel asks no more
//! and holds the caller until its request is answered, even under SIGKILL (`request_wait_answer`, `fs/fuse/dev.c`).
//! So a wait that lasts looks at the caller's pending signals itself.

use std::future::Future;
use std::io;
use std::time::Duration;

/// How long a wait lasts before the caller is looked at: most waits are shorter.
const FIRST_LOOK_AFTER: Duration = Duration::from_millis(250);
/// How long between looks. One costs about 20 µs, and Ctrl-C shall work within a second even when the kernel follows
/// an interrupted read-ahead with a second request for the same page.
const LOOK_EVERY: Duration = Duration::from_millis(150);

/// KILL, INT, TERM, HUP and QUIT as bits of a signal mask. Not timers, SIGURG or SIGCHLD: language runtimes receive
/// those all the time and expect reads of files to survive them.
const STOPPING: u64 = bit(9) | bit(2) | bit(15) | bit(1) | bit(3);

const fn bit(signal: u32) -> u64 {
    1 << (signal - 1)
}

/// The thread on whose behalf the kernel asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Caller {
    /// Its thread id in this process's pid namespace; 0 for the kernel itself and for threads not visible here.
    tid: u32,
}

/// The caller has a signal pending that ends its wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Interrupted;

impl Caller {
    pub(super) fn new(tid: u32) -> Self {
        Self { tid }
    }

    /// Its thread id; 0 for one that cannot be seen.
    pub(super) fn thread(self) -> u32 {
        self.tid
    }

    /// Runs `work` to its end, or drops it when the caller is interrupted. A caller that cannot be seen is not.
    pub(super) async fn waits_for<T>(self, work: impl Future<Output = T>) -> Result<T, Interrupted> {
        tokio::pin!(work);
        let mut pause = FIRST_LOOK_AFTER;
        loop {
            match tokio::time::timeout(pause, &mut work).await {
                Ok(done) => return Ok(done),
                Err(_) if self.is_interrupted() => return Err(Interrupted),
                Err(_) => pause = LOOK_EVERY,
            }
        }
    }

    /// An answer of EINTR ends a system call. In a page fault it is no SIGBUS: the signal's handler runs, and the access
    /// is tried again (`filemap_fault` gives VM_FAULT_RETRY, and `fault_signal_pending` returns to the program).
    fn is_interrupted(self) -> bool {
        self.pending().is_ok_and(|pending| pending & STOPPING != 0)
    }

    /// The signals that are pending and not blocked.
    fn pending(self) -> io::Result<u64> {
        if self.tid == 0 {
            return Ok(0);
        }
        Ok(pending(&std::fs::read_to_string(format!("/proc/{}/status", self.tid))?))
    }
}

/// The unblocked pending signals of a `/proc/TID/status`.
fn pending(status: &str) -> u64 {
    let mask = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        line.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0)
    };
    // A fatal signal cannot be blocked; the kernel clears KILL from the mask.
    (mask("SigPnd:") | mask("ShdPnd:")) & !mask("SigBlk:")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(thread: u64, process: u64, blocked: u64, expected: bool) {
        let status = format!(
            "Name:\tx\nSigQ:\t1/2\nSigPnd:\t{thread:016x}\nShdPnd:\t{process:016x}\nSigBlk:\t{blocked:016x}\n"
        );
        assert_eq!(pending(&status) & STOPPING != 0, expected);
    }

    #[test]
    fn stopping_signals_end_a_wait_unless_blocked() {
        let (int, urg, term) = (bit(2), bit(23), bit(15));
        check(0, 0, 0, false);
        check(int, 0, 0, true);
        check(0, int, 0, true);
        check(0, int, int, false);
        check(urg, urg, 0, false);
        check(urg | term, 0, int, true);
        check(bit(9), 0, 0, true);
    }

    #[test]
    fn a_caller_that_cannot_be_seen_is_not_interrupted() {
        assert!(!Caller::new(0).is_interrupted());
        assert!(!Caller::new(u32::MAX).is_interrupted());
        assert!(!Caller::new(std::process::id()).is_interrupted());
    }
}
