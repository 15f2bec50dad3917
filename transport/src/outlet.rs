//! What the answers of one connection share while they are written: their order, what the link takes, and how much is
//! written ahead of it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use quinn::Connection;
use tokio::time::Instant;
use twinshare_fs::origin::Class;

use crate::pace::Pace;
use crate::precedence::{Precedence, Writing};
use crate::tuning::{UNACKNOWLEDGED_BYTES_ALL, UNACKNOWLEDGED_BYTES_MAX, UNACKNOWLEDGED_BYTES_MIN};

/// What all connections of a server may keep unacknowledged, beyond what each always may.
#[derive(Debug)]
pub(crate) struct Budget {
    left: Mutex<u64>,
}

impl Default for Budget {
    fn default() -> Self {
        Self { left: Mutex::new(UNACKNOWLEDGED_BYTES_ALL) }
    }
}

impl Budget {
    /// Changes a share of the budget from `present` to `wanted`, or to as much of it as is left; what it is then.
    fn change(&self, present: u64, wanted: u64) -> u64 {
        // No holder can panic.
        let mut left = self.left.lock().unwrap_or_else(PoisonError::into_inner);
        let granted = wanted.min(present.saturating_add(*left));
        *left = left.saturating_add(present) - granted;
        granted
    }
}

/// One connection's way out.
#[derive(Debug)]
pub(crate) struct Outlet {
    connection: Connection,
    precedence: Precedence,
    pace: Pace,
    /// What was last set as the connection's send window. Held while it is set, and the budget's lock under it.
    window: Mutex<u64>,
    budget: Arc<Budget>,
}

impl Drop for Outlet {
    fn drop(&mut self) {
        let window = self.window.get_mut().unwrap_or_else(PoisonError::into_inner);
        self.budget.change(*window - UNACKNOWLEDGED_BYTES_MIN, 0);
    }
}

impl Outlet {
    pub(crate) fn new(connection: &Connection, budget: Arc<Budget>) -> Self {
        Self {
            connection: connection.clone(),
            precedence: Precedence::default(),
            pace: Pace::default(),
            window: Mutex::new(UNACKNOWLEDGED_BYTES_MIN),
            budget,
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
        let present = *self.window();
        // Setting it wakes the connection, so small differences are left alone.
        if fitting.abs_diff(present) > present / 4 {
            self.set_window(fitting);
        }
    }

    /// Sets it to `bytes`, or to what the other connections leave of that.
    fn set_window(&self, bytes: u64) {
        let mut window = self.window();
        let share = |window: u64| window - UNACKNOWLEDGED_BYTES_MIN;
        if *window != bytes {
            let granted = UNACKNOWLEDGED_BYTES_MIN + self.budget.change(share(*window), share(bytes));
            if granted != *window {
                *window = granted;
                self.connection.set_send_window(granted);
            }
        }
    }

    fn window(&self) -> MutexGuard<'_, u64> {
        self.window.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_budget_is_shared_and_comes_back() {
        let budget = Budget::default();
        assert_eq!(budget.change(0, UNACKNOWLEDGED_BYTES_ALL - 10), UNACKNOWLEDGED_BYTES_ALL - 10);
        assert_eq!(budget.change(0, 100), 10);
        assert_eq!(budget.change(10, 100), 10);
        assert_eq!(budget.change(UNACKNOWLEDGED_BYTES_ALL - 10, 5), 5);
        assert_eq!(budget.change(10, 100), 100);
        assert_eq!(budget.change(100, 0) + budget.change(5, 0), 0);
        assert_eq!(budget.change(0, u64::MAX), UNACKNOWLEDGED_BYTES_ALL);
    }
}
