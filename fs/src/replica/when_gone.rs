//! What a read does whose content is not here while the origin cannot be reached.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// How long a read waits for content that is not here: `--when-gone wait=10s` (the default), `fail` or `wait`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub enum WhenGone {
    /// It waits so long, counted from when it began or from the last block that arrived for it. Once the origin has
    /// been away for longer than that, reads fail at once until it is back.
    Wait(Duration),
    /// It fails as soon as the origin is known to be away. While the origin answers it waits like the default.
    Fail,
    /// It waits until the content is here, or whoever asked gives up.
    WaitForever,
}

/// How long a read waits when nobody chose.
pub const WAIT_DEFAULT: Duration = Duration::from_secs(10);

/// The longest wait that can be chosen: a day; who wants more wants `wait`.
pub const WAIT_MAX: Duration = Duration::from_secs(24 * 60 * 60);

impl Default for WhenGone {
    fn default() -> Self {
        Self::Wait(WAIT_DEFAULT)
    }
}

impl WhenGone {
    /// How long one waits for an origin from which nothing is heard, if there is a limit.
    pub fn limit(self) -> Option<Duration> {
        match self {
            Self::Wait(limit) => Some(limit),
            Self::Fail => Some(WAIT_DEFAULT),
            Self::WaitForever => None,
        }
    }
}

impl fmt::Display for WhenGone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fail => f.write_str("fail"),
            Self::WaitForever => f.write_str("wait"),
            Self::Wait(limit) if limit.subsec_millis() == 0 => write!(f, "wait={}s", limit.as_secs()),
            Self::Wait(limit) => write!(f, "wait={}ms", limit.as_millis()),
        }
    }
}

/// A text that is no [`WhenGone`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` is not `fail`, `wait` or `wait=DURATION` with a duration such as `500ms`, `10s`, `5m` or `1h`"
)]
pub struct NotAWhenGone(String);

impl FromStr for WhenGone {
    type Err = NotAWhenGone;

    fn from_str(text: &str) -> Result<Self, NotAWhenGone> {
        let wrong = || NotAWhenGone(text.into());
        match text {
            "fail" => Ok(Self::Fail),
            "wait" => Ok(Self::WaitForever),
            _ => text.strip_prefix("wait=").and_then(duration).map(Self::Wait).ok_or_else(wrong),
        }
    }
}

impl From<WhenGone> for String {
    fn from(value: WhenGone) -> Self {
        value.to_string()
    }
}

impl TryFrom<String> for WhenGone {
    type Error = NotAWhenGone;

    fn try_from(text: String) -> Result<Self, NotAWhenGone> {
        text.parse()
    }
}

/// A whole number with a unit, more than nothing and at most [`WAIT_MAX`].
fn duration(text: &str) -> Option<Duration> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_lowercase());
    let number: u64 = digits.parse().ok()?;
    let unit_ms = match &text[digits.len()..] {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        _ => return None,
    };
    let limit = Duration::from_millis(number.checked_mul(unit_ms)?);
    (!limit.is_zero() && limit <= WAIT_MAX).then_some(limit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, expected: Option<WhenGone>, shown: &str) {
        let parsed = text.parse::<WhenGone>().ok();
        assert_eq!(parsed, expected, "{text}");
        assert_eq!(parsed.map(|value| value.to_string()).unwrap_or_default(), shown);
    }

    #[test]
    fn a_policy_is_read_and_shown() {
        let wait = |ms| Some(WhenGone::Wait(Duration::from_millis(ms)));
        check("fail", Some(WhenGone::Fail), "fail");
        check("wait", Some(WhenGone::WaitForever), "wait");
        check("wait=10s", wait(10_000), "wait=10s");
        check("wait=1500ms", wait(1_500), "wait=1500ms");
        check("wait=2m", wait(120_000), "wait=120s");
        check("wait=24h", wait(86_400_000), "wait=86400s");
        for wrong in ["", "wait=", "wait=0s", "wait=25h", "wait=10", "wait=s", "wait=-1s", "wait=1d", "Fail"]
        {
            check(wrong, None, "");
        }
        check("wait=18446744073709551615h", None, "");
        check("wait=5µs", None, "");
    }
}
