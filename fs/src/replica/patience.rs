//! How long one read waits, and when it asks again. Pure: the caller brings the time.

use std::time::Duration;

use tokio::time::Instant;

use super::{WAIT_DEFAULT, WhenGone};
use crate::origin::Availability;

/// The first pause before asking again; it doubles up to [`PAUSE_MAX`]. The first time there is none: an origin that
/// broke off once usually answers at once.
pub(super) const PAUSE_MIN: Duration = Duration::from_millis(50);
/// The longest pause.
const PAUSE_MAX: Duration = Duration::from_secs(1);

/// What every read waits at least, however long others have waited for the same block: an origin that has just come to
/// itself answers them all.
pub(super) const MOMENT: Duration = Duration::from_millis(500);

/// The patience of one read.
#[derive(Debug)]
pub(super) struct Patience {
    policy: WhenGone,
    began: Instant,
    asked: u32,
}

impl Patience {
    /// Of a read that begins to wait.
    pub(super) fn new(policy: WhenGone) -> Self {
        Self { policy, began: Instant::now(), asked: 0 }
    }

    /// Why the read should not wait at all, if so.
    pub(super) fn refuses(&self, availability: &Availability, now: Instant) -> Option<String> {
        let Availability::Gone { since, why } = availability else {
            return None;
        };
        let refused = match self.policy {
            WhenGone::Fail => true,
            WhenGone::Wait(limit) => now.saturating_duration_since(*since) >= limit,
            WhenGone::WaitForever => false,
        };
        refused.then(|| why.clone())
    }

    /// Until when it waits, if `progress` is since when nothing has been heard of what it waits for. `None`: for ever.
    pub(super) fn deadline(&self, progress: Instant, availability: &Availability) -> Option<Instant> {
        let limit = match self.policy {
            WhenGone::Wait(limit) => limit,
            WhenGone::Fail => WAIT_DEFAULT,
            WhenGone::WaitForever => return None,
        };
        // An origin that is gone has not been heard since it went, however late the read began.
        let heard = match availability {
            Availability::Gone { since, .. } => progress.min(*since),
            Availability::Reachable => progress,
        };
        Some((heard + limit).max(self.began + MOMENT.min(limit)))
    }

    /// True when a request that broke off is the end of it.
    pub(super) fn is_at_end(&self) -> bool {
        self.policy == WhenGone::Fail
    }

    /// The pause before asking the next time.
    pub(super) fn pause(&mut self) -> Duration {
        let doublings = self.asked;
        self.asked += 1;
        match doublings {
            0 => Duration::ZERO,
            _ => PAUSE_MIN.saturating_mul(1 << (doublings - 1).min(10)).min(PAUSE_MAX),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_origin_that_is_long_gone_is_not_waited_for() {
        let now = Instant::now() + Duration::from_secs(100);
        let gone =
            |seconds| Availability::Gone { since: now - Duration::from_secs(seconds), why: "x".into() };
        let refuses = |policy, availability| Patience::new(policy).refuses(&availability, now).is_some();
        let wait = WhenGone::Wait(Duration::from_secs(10));
        assert!(!refuses(wait, Availability::Reachable) && !refuses(WhenGone::Fail, Availability::Reachable));
        assert!(!refuses(wait, gone(9)) && refuses(wait, gone(10)));
        assert!(refuses(WhenGone::Fail, gone(0)));
        assert!(!refuses(WhenGone::WaitForever, gone(99)));
    }

    #[test]
    fn a_read_waits_from_the_last_sign_of_life() {
        let now = Instant::now() + Duration::from_secs(100);
        let ago = |seconds| now - Duration::from_secs(seconds);
        let gone = |seconds| Availability::Gone { since: ago(seconds), why: "x".into() };
        let deadline = |policy, progress, availability| {
            let deadline = Patience::new(policy).deadline(progress, &availability);
            deadline.map(|deadline| deadline.saturating_duration_since(now).as_secs())
        };
        let wait = WhenGone::Wait(Duration::from_secs(10));
        assert_eq!(deadline(wait, ago(0), Availability::Reachable), Some(10));
        assert_eq!(deadline(wait, ago(3), Availability::Reachable), Some(7));
        assert_eq!(deadline(wait, ago(0), gone(4)), Some(6));
        assert_eq!(deadline(wait, ago(5), gone(4)), Some(5));
        assert_eq!(deadline(WhenGone::Fail, ago(1), Availability::Reachable), Some(9));
        assert_eq!(deadline(WhenGone::WaitForever, ago(1), gone(4)), None);
    }

    #[test]
    fn pauses_double_up_to_a_second() {
        let mut patience = Patience::new(WhenGone::WaitForever);
        let pauses: Vec<_> = (0..8).map(|_| patience.pause().as_millis()).collect();
        assert_eq!(pauses, [0, 50, 100, 200, 400, 800, 1000, 1000]);
    }
}
