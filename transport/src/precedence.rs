//! Which of a connection's answers may write next.
//!
//! QUIC sends what has the higher priority first, but only of what has been written; and what may be written is limited
//! by windows that all streams of a connection share. When bulk has filled them, every writer waits for the same
//! acknowledgements, and whoever wakes first takes the room: measured on a link of 8 MB/s with four bulk answers, an
//! answer of 100 kB took up to three seconds. So a writer waits here, before each piece, while a more urgent one writes.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::timeout;
use twinshare_fs::origin::Class;

/// What a writer takes at once. All less urgent ones together can be ahead of an urgent one by this much each.
pub(crate) const PIECE_BYTES: usize = 64 * 1024;

/// How long the more urgent may keep a writer from its next piece: they are never starved, only slow.
const PATIENCE: Duration = Duration::from_millis(250);

/// The writers of one connection.
#[derive(Debug, Default)]
pub(crate) struct Precedence {
    writing: [AtomicUsize; 3],
    fewer: Notify,
}

/// Somebody who writes, until it is dropped.
#[derive(Debug)]
pub(crate) struct Writing<'p> {
    precedence: &'p Precedence,
    class: Class,
}

impl Precedence {
    /// Waits until nobody more urgent writes, at most [`PATIENCE`].
    pub(crate) async fn enter(&self, class: Class) -> Writing<'_> {
        // Those who wait do not count: they keep nobody else waiting.
        let _ = timeout(PATIENCE, self.nobody_above(class)).await;
        self.writing[usize::from(rank(class))].fetch_add(1, Ordering::Relaxed);
        Writing { precedence: self, class }
    }

    async fn nobody_above(&self, class: Class) {
        loop {
            // Registered before the look, so that no news is missed between the two.
            let fewer = self.fewer.notified();
            tokio::pin!(fewer);
            fewer.as_mut().enable();
            if !self.is_anybody_above(class) {
                return;
            }
            fewer.await;
        }
    }

    fn is_anybody_above(&self, class: Class) -> bool {
        self.writing[usize::from(rank(class)) + 1..].iter().any(|writing| writing.load(Ordering::Relaxed) > 0)
    }
}

impl Drop for Writing<'_> {
    fn drop(&mut self) {
        self.precedence.writing[usize::from(rank(self.class))].fetch_sub(1, Ordering::Relaxed);
        self.precedence.fewer.notify_waiters();
    }
}

/// The more urgent has the higher number.
pub(crate) fn rank(class: Class) -> u8 {
    match class {
        Class::Bulk => 0,
        Class::ReadAhead => 1,
        Class::Demand => 2,
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::Instant;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_more_urgent_go_first_and_nobody_starves() {
        let precedence = Precedence::default();
        let started = Instant::now();
        let demand = precedence.enter(Class::Demand).await;
        let _second = precedence.enter(Class::Demand).await;
        assert_eq!(started.elapsed(), Duration::ZERO, "equals keep each other waiting");
        let _bulk = precedence.enter(Class::Bulk).await;
        assert_eq!(started.elapsed(), PATIENCE);
        drop(demand);
        let _ahead = precedence.enter(Class::ReadAhead).await;
        assert_eq!(started.elapsed(), 2 * PATIENCE);
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_goes_on_when_the_last_above_has_ended() {
        let precedence = Precedence::default();
        let demand = precedence.enter(Class::Demand).await;
        let started = Instant::now();
        let ends = async {
            tokio::time::sleep(PATIENCE / 5).await;
            drop(demand);
        };
        tokio::join!(ends, async { drop(precedence.enter(Class::Bulk).await) });
        assert_eq!(started.elapsed(), PATIENCE / 5);
    }
}
