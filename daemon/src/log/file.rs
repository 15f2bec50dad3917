//! A log file that does not grow without end.
//!
//! When a line would make it larger than its bound, it becomes `NAME.1` (the one before is gone) and a new one
//! begins. So a log takes twice its bound at most, and the last events are always there.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

/// Bytes of one log file at most: weeks of events at the usual level.
pub const LOG_BYTES_MAX: u64 = 8 << 20;

/// Bytes looked at from the end of a file for its last lines.
const TAIL_BYTES: u64 = 16 << 10;

/// The file, open for appending. Shared by all threads; one lock, held while one line is written.
#[derive(Debug)]
pub struct LogFile {
    path: PathBuf,
    bytes_max: u64,
    open: Mutex<Open>,
}

#[derive(Debug)]
struct Open {
    file: File,
    bytes: u64,
}

impl LogFile {
    /// Opens the file or makes it, readable by this user alone.
    pub fn open(path: &Path, bytes_max: u64) -> io::Result<Self> {
        Ok(Self { path: path.into(), bytes_max, open: Mutex::new(append(path)?) })
    }

    fn write_line(&self, line: &[u8]) -> io::Result<()> {
        let line = escaped(line);
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if open.bytes > 0 && open.bytes + line.len() as u64 > self.bytes_max {
            std::fs::rename(&self.path, predecessor(&self.path))?;
            *open = append(&self.path)?;
        }
        open.file.write_all(&line)?;
        open.bytes += line.len() as u64;
        Ok(())
    }
}

/// A whole event arrives in one call: `tracing_subscriber` formats it into a buffer first.
impl Write for &LogFile {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.write_line(line).map(|()| line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn append(path: &Path) -> io::Result<Open> {
    let file = OpenOptions::new().append(true).create(true).mode(0o600).open(path)?;
    let bytes = file.metadata()?.len();
    Ok(Open { file, bytes })
}

fn predecessor(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".1");
    name.into()
}

/// Standard error, on which events are escaped as in the file: it may be a terminal.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct EscapedStderr;

impl Write for EscapedStderr {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        io::stderr().write_all(&escaped(line)).map(|()| line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().flush()
    }
}

/// The line with its control characters (C0, and C1 as UTF-8 has them) as escapes, all but the line's end.
fn escaped(line: &[u8]) -> Vec<u8> {
    let (text, end) = match line {
        [text @ .., b'\n'] => (text, &b"\n"[..]),
        text => (text, &b""[..]),
    };
    let mut escaped = Vec::with_capacity(line.len());
    for (place, byte) in text.iter().enumerate() {
        let begins_c1 = *byte == 0xc2 && matches!(text.get(place + 1), Some(0x80..=0x9f));
        let ends_c1 = matches!(byte, 0x80..=0x9f) && place.checked_sub(1).is_some_and(|at| text[at] == 0xc2);
        match byte.is_ascii_control() || begins_c1 || ends_c1 {
            true => escaped.extend(byte.escape_ascii()),
            false => escaped.push(*byte),
        }
    }
    escaped.extend_from_slice(end);
    escaped
}

/// At most `count` lines of the file at `path`, from its end but none before the byte `from`. For people: what is
/// not UTF-8 is replaced.
pub fn last_lines(path: &Path, from: u64, count: usize) -> io::Result<Vec<String>> {
    let mut file = File::open(path)?;
    let length = file.metadata()?.len();
    // A file shorter than `from` is a new one, of which everything counts.
    let from = if from > length { 0 } else { from };
    let start = from.max(length.saturating_sub(TAIL_BYTES));
    file.seek(SeekFrom::Start(start))?;
    let mut bytes = Vec::new();
    file.take(TAIL_BYTES).read_to_end(&mut bytes)?;
    let text = String::from_utf8_lossy(&bytes);
    let lines: Vec<&str> = text.lines().skip(usize::from(start > from)).collect();
    let skipped = lines.len().saturating_sub(count);
    Ok(lines[skipped..].iter().map(|line| (*line).to_owned()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_keeps_to_its_bound_and_loses_no_line_in_between() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("node.log");
        let log = LogFile::open(&path, 100).unwrap();
        for i in 0..40 {
            (&log).write_all(format!("line {i:03}\n").as_bytes()).unwrap();
        }
        let before = std::fs::read_to_string(predecessor(&path)).unwrap();
        let now = std::fs::read_to_string(&path).unwrap();
        assert!(before.len() <= 100 && now.len() <= 100);
        let kept: Vec<_> = before.lines().chain(now.lines()).map(str::to_owned).collect();
        let first = 40 - kept.len();
        assert_eq!(kept, (first..40).map(|i| format!("line {i:03}")).collect::<Vec<_>>());
        assert!(kept.len() > 11, "the predecessor is kept");
        let reopened = LogFile::open(&path, 100).unwrap();
        assert_eq!(reopened.open.lock().unwrap().bytes, now.len() as u64);
    }

    #[test]
    fn nobody_forges_an_event() {
        assert_eq!(
            escaped(b"name=\"x\nERROR y\" \x1b[31m\xc3\xa9\n"),
            b"name=\"x\\nERROR y\" \\x1b[31m\xc3\xa9\n"
        );
        assert_eq!(escaped(b"half"), b"half");
    }

    #[track_caller]
    fn check(text: &str, from: u64, count: usize, expected: &[&str]) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log");
        std::fs::write(&path, text).unwrap();
        assert_eq!(last_lines(&path, from, count).unwrap(), expected);
    }

    #[test]
    fn the_last_lines_are_those_of_this_start() {
        check("a\nb\nc\n", 0, 2, &["b", "c"]);
        check("a\nb\nc\n", 4, 9, &["c"]);
        check("a\nb\n", 4, 9, &[]);
        check("new\n", 400, 9, &["new"]);
        check("", 0, 9, &[]);
        let long = "x".repeat(20_000);
        check(&format!("{long}\nlast\n"), 0, 9, &["last"]);
    }

    #[test]
    fn what_a_terminal_obeys_is_escaped() {
        let check = |line: &str, expected: &str| {
            assert_eq!(String::from_utf8(escaped(line.as_bytes())).unwrap(), expected);
        };
        check("größe=1\n", "größe=1\n");
        check("a\u{1b}[2J\nforged\n", "a\\x1b[2J\\nforged\n");
        check("a\u{9b}2Jb", "a\\xc2\\x9b2Jb");
    }
}
