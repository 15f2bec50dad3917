//! How soon a workspace is looked at after a change, and how often at most.

use std::time::Duration;

/// How long a workspace that nobody waits for stays watched: a client that has been told of something asks again soon.
pub(super) const LINGER: Duration = Duration::from_secs(120);

/// How often it is looked whether anything more has happened.
pub(super) const STEP: Duration = Duration::from_millis(50);

/// Steps without anything new after which a change counts as done: programs write in bursts.
const CALM_STEPS: u32 = 3;

/// Steps after which it is looked at all the same.
const CALM_STEPS_MAX: u32 = 10;

/// The least pause between a walk and the next, which has files and a database synced: a log that grows all the time
/// leads to one walk a second.
const REST_MIN: Duration = Duration::from_millis(500);

/// A walk is followed by a pause this many times as long: walks take a quarter of the time at most.
const REST_TIMES: u32 = 3;

/// Where everything is heard, it is looked again all the same: stores into a mapped file are never told of.
const AGAIN: Duration = Duration::from_secs(60);

/// Where not everything is heard, this is how changes are noticed.
const AGAIN_UNHEARD: Duration = Duration::from_secs(5);

/// Walks for which nothing was heard take a twentieth of the time at most.
const AGAIN_TIMES: u32 = 20;

/// The pause after a walk that took so long.
pub(super) fn rest_after(took: Duration) -> Duration {
    REST_MIN.max(took * REST_TIMES)
}

/// When it is looked again without having heard anything.
pub(super) fn look_again_after(took: Duration, is_heard: bool) -> Duration {
    let again = if is_heard { AGAIN } else { AGAIN_UNHEARD };
    again.max(took * AGAIN_TIMES)
}

/// Waiting for the end of a burst of changes.
#[derive(Debug, Default)]
pub(super) struct Calm {
    steps: u32,
    calm: u32,
}

impl Calm {
    /// To be asked once a step, with whether anything happened since the last.
    pub(super) fn is_over(&mut self, happened: bool) -> bool {
        self.steps += 1;
        self.calm = if happened { 0 } else { self.calm + 1 };
        self.calm >= CALM_STEPS || self.steps > CALM_STEPS_MAX
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// In which step a burst ends that goes on for so many steps.
    #[track_caller]
    fn check_calm(burst: u32, expected: u32) {
        let mut calm = Calm::default();
        let end = (1..).find(|step| calm.is_over(*step <= burst));
        assert_eq!(end, Some(expected), "{burst}");
    }

    #[test]
    fn a_burst_is_waited_for_but_not_for_long() {
        check_calm(0, 3);
        check_calm(1, 4);
        check_calm(5, 8);
        check_calm(8, 11);
        check_calm(1000, 11);
    }

    #[test]
    fn walks_take_part_of_the_time() {
        let ms = Duration::from_millis;
        assert_eq!(rest_after(ms(1)), ms(500));
        assert_eq!(rest_after(ms(2000)), ms(6000));
        assert_eq!(look_again_after(ms(1), true), ms(60_000));
        assert_eq!(look_again_after(ms(10_000), true), ms(200_000));
        assert_eq!(look_again_after(ms(1), false), ms(5000));
        assert_eq!(look_again_after(ms(1000), false), ms(20_000));
    }
}
