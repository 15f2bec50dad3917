//! What the answers of one connection share while they are written: their order, what the link takes, and how much is
//! written ahead of it.

use std::sync::atomic::{AtomicU64, Ordering};

use quinn::Connection;
use tokio::time::Instant;
use twinshare_fs::origin::Class;

use crate::pace::Pace;
use crate::precedence::{Precedence, Writing};
use crate::tuning::{UNACKNOWLEDGED_BYTES_MAX, UNACKNOWLEDGED_BYTES_MIN};

/// One connection's way out.
#[derive(Debug)]
pub(crate) struct Outlet {
    connection: Connection,
    precedence: Precedence,
    pace: Pace,
    /// What was last set as the connection's send window.
    window: AtomicU64,
}

impl Outlet {
    pub(crate) fn new(connection: &Connection) -> Self {
        Self {
            connection: connection.clone(),
            precedence: Precedence::default(),
            pace: Pace::default(),
            window: AtomicU64::new(UNACKNOWLEDGED_BYTES_MIN),
        }
    }

    /// Waits for the turn of a writer of `class`. What somebody waits for finds room at once, however much is written
    /// ahead; the next who wrote without being waited for takes that room back.
    pub(crate) async fn enter(&self, class: Class) -> Writing<'_> {
        let writing = self.precedence.enter(class).await;
        if class == Class::Demand {
            self.set_window(UNACKNOWLEDGED_BYTES_MAX);
        }
        writing
    }

    /// Takes note of a write that waited since `started`.
    pub(crate) fn wrote(&self, class: Class, bytes: usize, started: Instant) {
        let now = Instant::now();
        self.pace.wrote(bytes, now.saturating_duration_since(started), now);
        if class != Class::Demand {
            self.fit_window();
        }
    }

    /// True while the link is slow and waited for: whatever makes answers smaller makes them faster.
    pub(crate) fn is_slow(&self) -> bool {
        self.pace.is_slow()
    }

    /// Keeps as much written ahead as can be under way, and the same again so that the link never runs dry. More would
    /// lie here in vain: it takes memory, is sent although nobody wants it any more, and hides that the link is slow.
    fn fit_window(&self) {
        let under_way = self.connection.stats().path.cwnd;
        let fitting = under_way.saturating_mul(2).clamp(UNACKNOWLEDGED_BYTES_MIN, UNACKNOWLEDGED_BYTES_MAX);
        let present = self.window.load(Ordering::Relaxed);
        // Setting it wakes the connection, so small differences are left alone.
        if fitting.abs_diff(present) > present / 4 {
            self.set_window(fitting);
        }
    }

    fn set_window(&self, bytes: u64) {
        if self.window.swap(bytes, Ordering::Relaxed) != bytes {
            self.connection.set_send_window(bytes);
        }
    }
}
