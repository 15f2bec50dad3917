//! Values as people read them.

use std::time::Duration;

use twinshare_daemon::api::wire::UnixTime;
use twinshare_daemon::is_plain;

/// Text from a peer or a disk, without anything that steers a terminal or hides: such characters are shown as escapes.
pub(crate) fn shown(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_control() {
            plain.extend(c.escape_default());
        } else if !is_plain(c) {
            plain.extend(c.escape_unicode());
        } else {
            plain.push(c);
        }
    }
    plain
}

/// Bytes in the largest unit that leaves a number above one: `1.5 GB`.
pub(crate) fn bytes(count: u64) -> String {
    const UNITS: [&str; 6] = ["kB", "MB", "GB", "TB", "PB", "EB"];
    if count < 1000 {
        return format!("{count} B");
    }
    let mut value = count as f64 / 1000.0;
    let mut units = UNITS.iter();
    let mut unit = units.next().copied().unwrap_or_default();
    for larger in units {
        if value < 999.95 {
            break;
        }
        value /= 1000.0;
        unit = larger;
    }
    match value < 9.95 {
        true => format!("{value:.1} {unit}"),
        false => format!("{value:.0} {unit}"),
    }
}

/// A count with its noun: `1 file`, `2 files`.
pub(crate) fn count(number: u64, noun: &str) -> String {
    match number {
        1 => format!("1 {noun}"),
        _ => format!("{number} {noun}s"),
    }
}

/// How much of something is there, in whole per cent; 100 only for all of it.
pub(crate) fn per_cent(part: u64, whole: u64) -> u64 {
    match whole {
        0 => 100,
        _ => (u128::from(part) * 100 / u128::from(whole)) as u64,
    }
}

/// A span of time: `0.4 s`, `3 min`, `2 days`.
pub(crate) fn span(span: Duration) -> String {
    let seconds = span.as_secs();
    match seconds {
        0..10 => format!("{:.1} s", span.as_secs_f64()),
        10..120 => format!("{seconds} s"),
        120..7200 => format!("{} min", seconds / 60),
        7200..172_800 => format!("{} h", seconds / 3600),
        _ => format!("{} days", seconds / 86_400),
    }
}

/// The minute of a moment: `2026-07-04 14:03 UTC`.
pub(crate) fn date(moment: UnixTime) -> String {
    let (days, second) = (moment.0.div_euclid(86_400), moment.0.rem_euclid(86_400));
    // Years from March on, in eras of 400 years: <https://howardhinnant.github.io/date_algorithms.html#civil_from_days>.
    let since = days + 719_468;
    let (era, day) = (since.div_euclid(146_097), since.rem_euclid(146_097));
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let (year, month) = match month < 10 {
        true => (year + era * 400, month + 3),
        false => (year + era * 400 + 1, month - 9),
    };
    format!("{year}-{month:02}-{day:02} {:02}:{:02} UTC", second / 3600, second % 3600 / 60)
}

/// How long ago a moment was; one in the future is now.
pub(crate) fn ago(moment: UnixTime) -> String {
    let seconds = u64::try_from(UnixTime::now().0.saturating_sub(moment.0)).unwrap_or(0);
    match seconds {
        0..5 => "now".to_owned(),
        _ => format!("{} ago", span(Duration::from_secs(seconds))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_steers_a_terminal() {
        assert_eq!(shown("größe ✓ 'x' \"y\" \\"), "größe ✓ 'x' \"y\" \\");
        assert_eq!(shown("a\x1b[31m\r\n\t\0\u{9b}"), "a\\u{1b}[31m\\r\\n\\t\\u{0}\\u{9b}");
        assert_eq!(shown("\u{202e}gpj.exe"), "\\u{202e}gpj.exe");
    }

    #[test]
    fn sizes_are_short() {
        let sizes = [0, 999, 1000, 1500, 9_949, 9_950, 999_949, 999_951, 1 << 30, u64::MAX];
        let shown = sizes.map(bytes);
        let expected =
            ["0 B", "999 B", "1.0 kB", "1.5 kB", "9.9 kB", "10 kB", "1000 kB", "1.0 MB", "1.1 GB", "18 EB"];
        assert_eq!(shown, expected);
    }

    #[test]
    fn spans_are_short() {
        let spans = [0, 9, 60, 120, 7199, 7200, 172_800].map(|seconds| span(Duration::from_secs(seconds)));
        assert_eq!(spans, ["0.0 s", "9.0 s", "60 s", "2 min", "119 min", "2 h", "2 days"]);
        assert_eq!(ago(UnixTime(UnixTime::now().0 - 100)), "100 s ago");
        assert_eq!(ago(UnixTime(i64::MAX)), "now");
    }

    #[test]
    fn dates_are_of_the_calendar() {
        for (moment, expected) in [
            (0, "1970-01-01 00:00 UTC"),
            (-1, "1969-12-31 23:59 UTC"),
            (951_825_599, "2000-02-29 11:59 UTC"),
            (1_783_173_780, "2026-07-04 14:03 UTC"),
            (4_107_542_400, "2100-03-01 00:00 UTC"),
        ] {
            assert_eq!(date(UnixTime(moment)), expected);
        }
    }

    #[test]
    fn all_is_all() {
        assert_eq!([per_cent(0, 0), per_cent(999, 1000), per_cent(u64::MAX, u64::MAX)], [100, 99, 100]);
        assert_eq!([count(1, "file"), count(0, "file")], ["1 file", "0 files"]);
    }
}
