//! What a workspace is called.

use std::path::Path;
use std::str::FromStr;

use crate::checked_text::checked_text;

/// Characters of a name at most.
pub const NAME_CHARS_MAX: usize = 64;

/// A workspace's name: 1 to 64 ASCII letters, digits, `-`, `_` and `.`, the first neither `.` nor `-`.
///
/// So it is a plain file name, needs no quoting in a shell, is never taken for an option, and looks the same on every
/// screen.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WorkspaceName(String);

/// A text that is not a workspace's name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{}` is not a name for a workspace: use 1 to 64 letters (a-z, A-Z), digits, `-`, `_` and `.`, not beginning \
     with `.` or `-`", .0.escape_debug()
)]
pub struct BadWorkspaceName(String);

impl WorkspaceName {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// A name made from that of `directory`: what a name cannot hold becomes `-`. `None` where nothing is left.
    pub fn of_directory(directory: &Path) -> Option<Self> {
        let text = directory.file_name()?.to_string_lossy();
        let plain: String = text.chars().map(|c| if is_plain(c) { c } else { '-' }).collect();
        let trimmed = plain.trim_start_matches(['-', '.']).trim_end_matches('-');
        trimmed.chars().take(NAME_CHARS_MAX).collect::<String>().parse().ok()
    }
}

fn is_plain(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.')
}

impl FromStr for WorkspaceName {
    type Err = BadWorkspaceName;

    fn from_str(text: &str) -> Result<Self, BadWorkspaceName> {
        let good = (1..=NAME_CHARS_MAX).contains(&text.len())
            && text.chars().all(is_plain)
            && !text.starts_with(['.', '-']);
        // A wrong name may be of any length and come from anyone: the message quotes its beginning.
        let quoted = || text.chars().take(NAME_CHARS_MAX + 1).collect();
        if good { Ok(Self(text.into())) } else { Err(BadWorkspaceName(quoted())) }
    }
}

checked_text!(WorkspaceName);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_plain() {
        let long = "x".repeat(NAME_CHARS_MAX);
        for good in ["a", "gpt4-demo", "A_b.c-9", "9", "a..b", &long] {
            assert_eq!(good.parse::<WorkspaceName>().unwrap().as_str(), good);
        }
        let too_long = "x".repeat(NAME_CHARS_MAX + 1);
        for bad in ["", ".", "..", "-a", ".a", "a b", "a/b", "ä", "a\n", "a\0", &too_long] {
            assert!(bad.parse::<WorkspaceName>().is_err(), "{bad:?}");
        }
    }

    #[track_caller]
    fn check(directory: &str, expected: Option<&str>) {
        let name = WorkspaceName::of_directory(Path::new(directory));
        assert_eq!(name.as_ref().map(WorkspaceName::as_str), expected, "{directory}");
    }

    #[test]
    fn a_directory_gives_a_name() {
        check("/home/a/gpt4-demo", Some("gpt4-demo"));
        check("/home/a/My Project!", Some("My-Project"));
        check("/home/a/.dotfiles", Some("dotfiles"));
        check("/home/a/工作", None);
        check("/", None);
        check(&format!("/{}", "x".repeat(200)), Some(&"x".repeat(NAME_CHARS_MAX)));
    }
}
