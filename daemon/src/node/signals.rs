//! The signals that stop a node.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::ignored_signals::IgnoredSignals;

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
        let ignored = IgnoredSignals::of_this_process();
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hang_up: if ignored.contains(hang_up.as_raw_value()) { None } else { Some(signal(hang_up)?) },
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
