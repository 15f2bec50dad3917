//! How fast something grows, smoothed, and how long the rest of it will take.

use std::time::Duration;

use tokio::time::Instant;

/// Over about so long the rate is a mean: long enough to be read, short enough to follow a link that changes.
const MEAN_OVER: Duration = Duration::from_secs(8);

/// The pace of a count that only grows.
#[derive(Debug, Default)]
pub(super) struct Pace {
    last: Option<(Instant, u64)>,
    per_s: Option<f64>,
}

impl Pace {
    /// Notes what the count is now.
    pub(super) fn note(&mut self, now: Instant, count: u64) {
        if let Some((at, before)) = self.last {
            let passed = now.saturating_duration_since(at).as_secs_f64();
            if passed == 0.0 {
                return;
            }
            let present = count.saturating_sub(before) as f64 / passed;
            // A mean whose weights fall with the age, by the time that passed and not by the number of looks.
            let weight = 1.0 - (-passed / MEAN_OVER.as_secs_f64()).exp();
            self.per_s = Some(self.per_s.map_or(present, |mean| mean + (present - mean) * weight));
        }
        self.last = Some((now, count));
    }

    /// How much of it comes in a second; nothing before that has been seen.
    pub(super) fn per_s(&self) -> Option<u64> {
        self.per_s.map(|rate| rate as u64)
    }

    /// How many seconds `rest` takes at this pace; nothing while hardly anything comes.
    pub(super) fn seconds_for(&self, rest: u64) -> Option<u64> {
        self.per_s().filter(|rate| *rate > 0).map(|rate| rest.div_ceil(rate))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_a_mean_that_follows() {
        let began = Instant::now();
        let at = |second: u64| began + Duration::from_secs(second);
        let mut pace = Pace::default();
        pace.note(began, 1000);
        assert_eq!((pace.per_s(), pace.seconds_for(1)), (None, None));
        for second in 1..=20 {
            pace.note(at(second), 1000 + second * 500);
        }
        assert_eq!((pace.per_s(), pace.seconds_for(1001)), (Some(500), Some(3)));
        for second in 21..=120 {
            pace.note(at(second), 11_000);
        }
        assert_eq!((pace.per_s(), pace.seconds_for(1)), (Some(0), None));
    }
}
