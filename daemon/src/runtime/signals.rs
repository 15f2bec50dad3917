//! Which signals the launching process hands on to the command, and when.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;

use rustix::process::{Signal, getpgrp, pidfd_send_signal};
use rustix::termios::tcgetpgrp;
use tokio::signal::unix::{Signal as Stream, SignalKind, signal};

use super::confine::HANDED_ON;
use crate::ignored_signals::IgnoredSignals;

/// Signals of which the caller's process is told.
pub(super) struct Signals {
    streams: Vec<(Signal, Stream)>,
}

impl Signals {
    /// Begins to listen. Signals in `ignored` stay ignored.
    pub(super) fn listen(ignored: &[i32]) -> io::Result<Self> {
        let kinds = [Signal::INT, Signal::QUIT, Signal::TERM, Signal::HUP, Signal::USR1, Signal::USR2];
        let wanted = kinds.into_iter().filter(|kind| !ignored.contains(&kind.as_raw()));
        let streams = wanted.map(|kind| Ok((kind, signal(SignalKind::from_raw(kind.as_raw()))?)));
        Ok(Self { streams: streams.collect::<io::Result<_>>()? })
    }

    /// The next signal.
    pub(super) async fn next(&mut self) -> Signal {
        std::future::poll_fn(|context| {
            for (kind, stream) in &mut self.streams {
                if stream.poll_recv(context).is_ready() {
                    return std::task::Poll::Ready(*kind);
                }
            }
            std::task::Poll::Pending
        })
        .await
    }
}

/// Hands a signal on to the command, unless the terminal has sent it to the command, too.
///
/// The kernel does not tell a handler whether a signal came from the terminal (without `siginfo`, which the runtime
/// does not pass on), so that in the foreground INT and QUIT are taken to come from there.
pub(super) fn hand_on(command: &OwnedFd, signal: Signal) {
    if matches!(signal, Signal::INT | Signal::QUIT) && in_foreground() {
        return;
    }
    // A command that has ended meanwhile needs no signal.
    let _ = pidfd_send_signal(command, signal);
}

fn in_foreground() -> bool {
    fs::File::open("/dev/tty").and_then(|tty| Ok(tcgetpgrp(&tty)?)).is_ok_and(|group| group == getpgrp())
}

/// Which of the signals handed on the caller ignores.
pub(super) fn ignored() -> Vec<i32> {
    let ignored = IgnoredSignals::of_this_process();
    HANDED_ON.into_iter().filter(|signal| ignored.contains(*signal)).collect()
}
