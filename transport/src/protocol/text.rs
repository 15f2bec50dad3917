//! Text that a peer wrote: bounded, and without anything that could act on a terminal or a log.

use std::fmt;
use std::ops::Deref;

use serde::{Deserialize, Deserializer, Serialize};

/// Bytes of a [`Text`] at most; what is longer is cut.
pub const TEXT_BYTES_MAX: usize = 1024;

/// A text of at most [`TEXT_BYTES_MAX`] bytes that is safe to print.
///
/// Characters that are not [plain](is_plain) are replaced by U+FFFD, so a peer's text can neither move the cursor, nor forge a log line, nor show itself
/// in another order than it is stored. This holds however the value came to be, decoding included.
#[derive(Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct Text(String);

impl Text {
    /// The safe form of `text`.
    pub fn new(text: &str) -> Self {
        let mut safe = String::with_capacity(text.len().min(TEXT_BYTES_MAX));
        for c in text.chars().map(neutral) {
            if safe.len() + c.len_utf8() > TEXT_BYTES_MAX {
                break;
            }
            safe.push(c);
        }
        Self(safe)
    }
}

/// False for what a terminal or a log would obey, or what reorders or hides its neighbours: control characters
/// (Unicode's Cc), format characters (Cf, which include the bidirectional overrides and zero-width characters), and the
/// two separators that break lines.
pub fn is_plain(c: char) -> bool {
    !c.is_control()
        && !matches!(c,
            '\u{ad}' | '\u{600}'..='\u{605}' | '\u{61c}' | '\u{6dd}' | '\u{70f}' | '\u{890}'..='\u{891}'
            | '\u{8e2}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{110bd}' | '\u{110cd}'
            | '\u{13430}'..='\u{1343f}' | '\u{1bca0}'..='\u{1bca3}' | '\u{1d173}'..='\u{1d17a}'
            | '\u{e0000}'..='\u{e007f}')
}

fn neutral(c: char) -> char {
    if is_plain(c) { c } else { char::REPLACEMENT_CHARACTER }
}

impl Deref for Text {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

impl From<&str> for Text {
    fn from(text: &str) -> Self {
        Self::new(text)
    }
}

impl From<String> for Text {
    fn from(text: String) -> Self {
        Self::new(&text)
    }
}

impl fmt::Display for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl fmt::Debug for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

impl<'de> Deserialize<'de> for Text {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(|text| Self::new(&text))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, expected: &str) {
        assert_eq!(&*Text::new(text), expected);
        let bytes = postcard::to_stdvec(text).unwrap();
        assert_eq!(&*postcard::from_bytes::<Text>(&bytes).unwrap(), expected);
    }

    #[test]
    fn text_is_neutralised_however_it_comes() {
        check("", "");
        check("Zoë's laptop ✓", "Zoë's laptop ✓");
        check("a\x1b[2Jb\r\nc\0", "a\u{fffd}[2Jb\u{fffd}\u{fffd}c\u{fffd}");
        check("\u{202e}gpj.exe", "\u{fffd}gpj.exe");
        check("\u{9b}31m\u{85}", "\u{fffd}31m\u{fffd}");
    }

    #[test]
    fn text_is_cut_between_characters() {
        check(&"x".repeat(5000), &"x".repeat(TEXT_BYTES_MAX));
        check(&"é".repeat(600), &"é".repeat(512));
        // A replacement is longer than what it replaces, and still fits.
        check(&"\n".repeat(1024), &"\u{fffd}".repeat(341));
    }
}
