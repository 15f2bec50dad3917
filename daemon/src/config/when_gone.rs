//! What a reader waits for once the peer is gone.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Longest wait that can be asked for: a day. Beyond it one means [`WhenGone::Wait`].
const SECONDS_MAX: u64 = 24 * 60 * 60;

/// What a reader of data that is not here waits for once the peer is gone. As text: `fail`, `wait` or `wait=10s`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum WhenGone {
    /// Nothing: an error at once.
    Fail,
    /// The peer's return, at most this long.
    WaitFor(Duration),
    /// The peer's return.
    Wait,
}

/// A text that says nothing of the kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("write `fail`, `wait`, or `wait=` and a time of at most a day such as `10s` or `5m`")]
pub struct BadWhenGone;

/// `wait=10s`: long enough for a peer to change networks, short enough that nobody takes it for a hang.
impl Default for WhenGone {
    fn default() -> Self {
        Self::WaitFor(Duration::from_secs(10))
    }
}

impl FromStr for WhenGone {
    type Err = BadWhenGone;

    fn from_str(text: &str) -> Result<Self, BadWhenGone> {
        match text {
            "fail" => Ok(Self::Fail),
            "wait" => Ok(Self::Wait),
            _ => text.strip_prefix("wait=").and_then(duration).map(Self::WaitFor).ok_or(BadWhenGone),
        }
    }
}

/// A whole number with its unit: `s`, `m` or `h`.
fn duration(text: &str) -> Option<Duration> {
    let (number, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    let scale = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 60 * 60,
        _ => return None,
    };
    let digits = number.bytes().all(|byte| byte.is_ascii_digit());
    let seconds = number.parse::<u64>().ok().filter(|_| digits)?.checked_mul(scale)?;
    (1..=SECONDS_MAX).contains(&seconds).then(|| Duration::from_secs(seconds))
}

impl fmt::Display for WhenGone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fail => f.write_str("fail"),
            Self::Wait => f.write_str("wait"),
            Self::WaitFor(time) => write!(f, "wait={}s", time.as_secs()),
        }
    }
}

impl Serialize for WhenGone {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for WhenGone {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        super::scalar(deserializer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, expected: Option<WhenGone>) {
        assert_eq!(text.parse().ok(), expected, "{text}");
        if let Some(value) = expected {
            assert_eq!(value.to_string().parse(), Ok(value));
        }
    }

    #[test]
    fn texts_are_read() {
        let seconds = |n| Some(WhenGone::WaitFor(Duration::from_secs(n)));
        check("fail", Some(WhenGone::Fail));
        check("wait", Some(WhenGone::Wait));
        check("wait=10s", seconds(10));
        check("wait=5m", seconds(300));
        check("wait=24h", seconds(86400));
        for wrong in ["wait=25h", "wait=0s", "wait=", "wait=s", "wait=10", "wait=+1s", "wait=1é", "Wait", ""]
        {
            check(wrong, None);
        }
        check("wait=99999999999999999999s", None);
    }
}
