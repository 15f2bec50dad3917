//! Ctrl-C during a command that has something to undo, or that goes on to something which handles Ctrl-C itself.
//!
//! From the first listener on, the runtime keeps the signal from ending the process for good. So such a command makes
//! one listener at its start, and whatever it waits for ends with an interrupt: none goes unnoticed in between.

use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::error::{Error, Kind, Result};

/// The interrupts of this process since the listener was made.
#[derive(Debug)]
pub(crate) struct Interrupts(Signal);

impl Interrupts {
    /// Begins to listen.
    pub(crate) fn listen() -> Result<Self> {
        Ok(Self(signal(SignalKind::interrupt())?))
    }

    /// The next interrupt, also one that came while nobody waited for it.
    pub(crate) async fn next(&mut self) {
        self.0.recv().await;
    }

    /// Waits for `work`; an interrupt ends it.
    pub(crate) async fn end<T>(&mut self, work: impl Future<Output = Result<T>>) -> Result<T> {
        tokio::select! {
            biased;
            () = self.next() => Err(interrupted()),
            done = work => done,
        }
    }
}

/// What an interrupted command ends with.
pub(crate) fn interrupted() -> Error {
    Error::new(Kind::Interrupted, "interrupted")
}

#[cfg(test)]
mod tests {
    use std::future::{pending, ready};

    use rustix::process::{Signal, getpid, kill_process};

    use super::*;

    #[tokio::test]
    async fn an_interrupt_ends_what_is_waited_for_also_if_it_came_before() {
        let mut interrupts = Interrupts::listen().unwrap();
        assert_eq!(interrupts.end(async { Ok(1) }).await.unwrap(), 1);
        for _ in 0..2 {
            kill_process(getpid(), Signal::INT).unwrap();
            let ended = interrupts.end(pending::<Result<()>>()).await;
            assert_eq!(ended.unwrap_err().kind(), Kind::Interrupted);
        }
        kill_process(getpid(), Signal::INT).unwrap();
        interrupts.next().await;
        assert_eq!(interrupts.end(ready(Ok(2))).await.unwrap(), 2);
    }
}
