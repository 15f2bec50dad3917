//! The clock that stamps changes to files, and what can be told from its stamps.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::manifest::Mtime;

/// The kernel stamps changes with a clock that advances this often at least (CONFIG_HZ=100): two changes within one
/// step may look like one.
pub(crate) const STEP: Duration = Duration::from_millis(20);

/// This moment.
pub(crate) fn now() -> Mtime {
    // A clock before 1970 is a clock that was never set.
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Mtime { sec: now.as_secs().cast_signed(), nsec: now.subsec_nanos() }
}

/// True when `time` is less than `span` ago.
///
/// A time in the future was set by hand or before the clock was set back; the next change will not have it.
pub(crate) fn is_within(span: Duration, time: Mtime) -> bool {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let time = Duration::new(u64::try_from(time.sec).unwrap_or(0), time.nsec);
    now.checked_sub(time).is_some_and(|age| age < span)
}

/// Waits until a change now would have another time than `changed`; true when it had to.
pub(crate) fn wait_for_step(changed: Mtime) -> bool {
    let recent = is_within(STEP, changed);
    if recent {
        std::thread::sleep(STEP);
    }
    recent
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_is_waited_for_only_when_it_matters() {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        let at = |time: Duration| Mtime { sec: time.as_secs() as i64, nsec: time.subsec_nanos() };
        assert!(wait_for_step(at(now)));
        assert!(!wait_for_step(at(now)), "the step has passed meanwhile");
        assert!(!wait_for_step(at(now + Duration::from_secs(60))));
        assert!(!wait_for_step(Mtime { sec: -1, nsec: 0 }));
        assert!(is_within(Duration::from_secs(60), at(now)));
    }
}
