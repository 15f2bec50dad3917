//! Waiting for a condition with a bound, instead of sleeping and hoping.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// How long a condition is left alone between two looks at it: short beside everything these tests wait for, long enough
/// that a wait costs no measurable CPU.
const PAUSE: Duration = Duration::from_millis(15);

/// Calls `probe` until it yields a value, at most for `bound`.
///
/// # Errors
/// The probe's own error, at once; or, when the bound has passed, one that names `what`.
pub fn until<T>(what: &str, bound: Duration, mut probe: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    let started = Instant::now();
    loop {
        if let Some(value) = probe()? {
            return Ok(value);
        }
        if started.elapsed() >= bound {
            bail!("gave up after {bound:?} waiting for {what}");
        }
        std::thread::sleep(PAUSE);
    }
}

/// [`until`] for a condition that is simply true or not yet.
///
/// # Errors
/// As [`until`].
pub fn until_true(what: &str, bound: Duration, mut probe: impl FnMut() -> Result<bool>) -> Result<()> {
    until(what, bound, || Ok(probe()?.then_some(())))
}
