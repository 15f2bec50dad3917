//! What a node is called on people's screens.

use std::str::FromStr;

use twinshare_transport::protocol::is_plain;

use crate::checked_text::checked_text;

/// Characters of a name at most.
const CHARS_MAX: usize = 64;

/// A node's name: 1 to 64 characters that a terminal only shows, never obeys. Not unique and not proof of anything.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeName(String);

/// Why a text is not a node's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a node's name has 1 to 64 characters, no control characters, and no spaces around it")]
pub struct BadNodeName;

impl NodeName {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// What of somebody else's `text` can be shown: without the characters that a terminal obeys or that reorder or
    /// hide others, cut to 64. Text of which nothing is left becomes `unnamed`.
    pub fn neutralised(text: &str) -> Self {
        let shown: String = text.chars().filter(|c| is_plain(*c)).take(CHARS_MAX).collect();
        match shown.trim() {
            "" => Self("unnamed".into()),
            shown => Self(shown.into()),
        }
    }
}

/// The host's name.
impl Default for NodeName {
    fn default() -> Self {
        Self::neutralised(&rustix::system::uname().nodename().to_string_lossy())
    }
}

impl FromStr for NodeName {
    type Err = BadNodeName;

    fn from_str(text: &str) -> Result<Self, BadNodeName> {
        let name = Self::neutralised(text);
        match name.0 == text {
            true => Ok(name),
            false => Err(BadNodeName),
        }
    }
}

checked_text!(NodeName);

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, shown: &str) {
        assert_eq!(NodeName::neutralised(text).as_str(), shown);
        assert_eq!(text.parse::<NodeName>().is_ok(), text == shown, "{text:?}");
    }

    #[test]
    fn a_name_cannot_move_a_cursor_or_hide() {
        check("anna's laptop", "anna's laptop");
        check("Zoë-工", "Zoë-工");
        check("\x1b[31mred\x07", "[31mred");
        check("a\u{202e}b\u{200b}c\nd", "abcd");
        check(" a ", "a");
        check("", "unnamed");
        check("\u{feff}", "unnamed");
        check(&"x".repeat(65), &"x".repeat(64));
        assert_ne!(NodeName::default().as_str(), "");
    }
}
