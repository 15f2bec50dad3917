//! When beacons are sent: a state machine without a clock.

use std::time::{Duration, Instant};

use super::beacon::Kind;

/// Between two beacons of a node that is not asked for any, give or take [`JITTER`].
pub(super) const INTERVAL: Duration = Duration::from_secs(10);

/// At most so much is added to or taken from the interval, so that nodes started together do not stay together.
pub(super) const JITTER: Duration = Duration::from_secs(1);

/// A newcomer asks at once and twice more, because any of them may be lost.
const QUERIES: [Duration; 3] = [Duration::ZERO, Duration::from_millis(500), Duration::from_secs(2)];

/// However many ask, a node answers no more often.
const BETWEEN_ANSWERS: Duration = Duration::from_secs(1);

/// What is due when.
#[derive(Clone, Debug)]
pub(super) struct Pace {
    /// Queries still to be sent, the last first.
    queries: Vec<Instant>,
    announce: Instant,
    answer: Option<Instant>,
    sent: Option<Instant>,
}

impl Pace {
    /// A newcomer: the first query is due at once.
    pub(super) fn new(now: Instant) -> Self {
        let mut pace = Self { queries: Vec::new(), announce: now + INTERVAL, answer: None, sent: None };
        pace.ask(now);
        pace
    }

    /// There may be others that have not heard of this node: ask again, as a newcomer does.
    pub(super) fn ask(&mut self, now: Instant) {
        self.queries = QUERIES.iter().rev().map(|after| now + *after).collect();
    }

    /// Somebody asked, or what there is to say has changed: a beacon is due after `delay`, unless one was sent just
    /// now; then later.
    pub(super) fn hurry(&mut self, now: Instant, delay: Duration) {
        let earliest = self.sent.map_or(now, |sent| sent + BETWEEN_ANSWERS);
        let at = earliest.max(now + delay);
        self.answer = Some(self.answer.map_or(at, |answer| answer.min(at)));
    }

    /// When something is due next.
    pub(super) fn next(&self) -> Instant {
        let others = [self.queries.last().copied(), self.answer];
        others.into_iter().flatten().fold(self.announce, Instant::min)
    }

    /// The beacon that is due, if one is; `jitter` (from minus [`JITTER`] to [`JITTER`], in seconds) moves the next.
    pub(super) fn due(&mut self, now: Instant, jitter: f64) -> Option<Kind> {
        if now < self.next() {
            return None;
        }
        let is_query = self.queries.last().is_some_and(|query| *query <= now);
        if is_query {
            self.queries.pop();
        }
        let interval = INTERVAL.as_secs_f64() + jitter.clamp(-JITTER.as_secs_f64(), JITTER.as_secs_f64());
        (self.announce, self.answer, self.sent) = (now + Duration::from_secs_f64(interval), None, Some(now));
        Some(if is_query { Kind::Query } else { Kind::Announce })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is sent when, in milliseconds after the start, when hurried at the times given.
    #[track_caller]
    fn check(hurried: &[u64], until: u64, expected: &[(u64, Kind)]) {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut pace = Pace::new(start);
        let mut hurried = hurried.iter().copied().peekable();
        let mut sent = Vec::new();
        loop {
            let next = pace.next();
            match hurried.next_if(|ms| at(*ms) < next) {
                Some(ms) => pace.hurry(at(ms), Duration::from_millis(20)),
                None if next > at(until) => break,
                None => {
                    let kind = pace.due(next, 0.0).expect("something is due when it says so");
                    sent.push(((next - start).as_millis() as u64, kind));
                }
            }
        }
        assert_eq!(sent, expected);
    }

    const NEWCOMER: [(u64, Kind); 3] = [(0, Kind::Query), (500, Kind::Query), (2000, Kind::Query)];

    #[test]
    fn beacons_come_at_intervals() {
        let regular = [(12_000, Kind::Announce), (22_000, Kind::Announce)];
        check(&[], 30_000, &[&NEWCOMER[..], &regular].concat());
    }

    #[test]
    fn who_asks_is_answered_but_not_without_end() {
        let answers = [(5020, Kind::Announce), (6020, Kind::Announce), (16_020, Kind::Announce)];
        check(&[5000, 5001, 5100, 5200], 20_000, &[&NEWCOMER[..], &answers].concat());
    }

    #[test]
    fn jitter_moves_the_next() {
        let start = Instant::now();
        for (jitter, expected) in [(0.5, 10_500), (-1.0, 9_000), (f64::INFINITY, 11_000), (-9.0, 9_000)] {
            let mut pace = Pace::new(start);
            pace.queries.clear();
            let sent = pace.next();
            assert_eq!(pace.due(sent - Duration::from_nanos(1), 0.0), None);
            pace.due(sent, jitter);
            assert_eq!((pace.next() - sent).as_millis(), expected);
        }
    }
}
