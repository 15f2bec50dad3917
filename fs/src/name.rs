//! Names and paths as the file system has them: bytes, not text.
//!
//! A peer chooses every name that arrives, so a name is parsed once, here, into a type that cannot hold a
//! separator, a NUL or a dot entry; nothing behind this module checks again.

use std::ffi::OsStr;
use std::fmt;
use std::os::unix::ffi::OsStrExt;

/// Longest name of a directory entry in bytes (`NAME_MAX` in `linux/limits.h`).
pub const NAME_BYTES_MAX: usize = 255;

/// One name in a directory: 1 to 255 bytes, no `/`, no NUL, neither `.` nor `..`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EntryName(Box<[u8]>);

/// Why a byte string is not a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// No bytes at all.
    #[error("a name is empty")]
    Empty,
    /// Longer than [`NAME_BYTES_MAX`].
    #[error("a name has {0} bytes, more than {NAME_BYTES_MAX}")]
    TooLong(usize),
    /// `.` or `..`.
    #[error("a name is `.` or `..`")]
    Dots,
    /// A `/` or a NUL.
    #[error("a name holds a `/` or a NUL byte")]
    Separator,
}

impl EntryName {
    /// The name as bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The name as the standard library wants it.
    pub fn as_os_str(&self) -> &OsStr {
        OsStr::from_bytes(&self.0)
    }

    /// Checks `bytes` without keeping them.
    pub fn check(bytes: &[u8]) -> Result<(), NameError> {
        match bytes {
            [] => Err(NameError::Empty),
            b"." | b".." => Err(NameError::Dots),
            _ if bytes.len() > NAME_BYTES_MAX => Err(NameError::TooLong(bytes.len())),
            _ if bytes.iter().any(|b| matches!(b, 0 | b'/')) => Err(NameError::Separator),
            _ => Ok(()),
        }
    }
}

impl TryFrom<&[u8]> for EntryName {
    type Error = NameError;

    fn try_from(bytes: &[u8]) -> Result<Self, NameError> {
        Self::check(bytes)?;
        Ok(Self(bytes.into()))
    }
}

impl fmt::Debug for EntryName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{}\"", self.0.escape_ascii())
    }
}

/// A path below a root: names joined by `/`, empty for the root itself. Its length is not limited by `PATH_MAX`.
#[derive(Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RelPath(Vec<u8>);

impl RelPath {
    /// The path of the names in order.
    pub fn from_names<'n>(names: impl IntoIterator<Item = &'n [u8]>) -> Result<Self, NameError> {
        let mut path = Vec::new();
        for name in names {
            EntryName::check(name)?;
            if !path.is_empty() {
                path.push(b'/');
            }
            path.extend_from_slice(name);
        }
        Ok(Self(path))
    }

    /// The path as bytes, without a leading slash.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The path as the standard library wants it.
    pub fn as_os_str(&self) -> &OsStr {
        OsStr::from_bytes(&self.0)
    }

    /// The names from the top down.
    pub fn names(&self) -> impl DoubleEndedIterator<Item = &[u8]> {
        self.0.split(|b| *b == b'/').filter(|name| !name.is_empty())
    }

    /// True for the root itself.
    pub fn is_root(&self) -> bool {
        self.0.is_empty()
    }
}

impl fmt::Debug for RelPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{}\"", self.0.escape_ascii())
    }
}

impl fmt::Display for RelPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0.escape_ascii())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(bytes: &[u8], expected: Result<(), NameError>) {
        assert_eq!(EntryName::try_from(bytes).map(|_| ()), expected, "{}", bytes.escape_ascii());
    }

    #[test]
    fn names_are_bytes_with_few_exceptions() {
        check(b"a", Ok(()));
        check(b"...", Ok(()));
        check(b"\xff\n\\ \x01", Ok(()));
        check(&[b'x'; 255], Ok(()));
        check(&[b'x'; 256], Err(NameError::TooLong(256)));
        check(b"", Err(NameError::Empty));
        check(b".", Err(NameError::Dots));
        check(b"..", Err(NameError::Dots));
        check(b"a/b", Err(NameError::Separator));
        check(b"a\0", Err(NameError::Separator));
    }

    #[test]
    fn a_path_gives_its_names_back() {
        let path = RelPath::from_names([&b"a"[..], b"\xff", b"c"]).unwrap();
        assert_eq!(path.as_bytes(), b"a/\xff/c");
        assert_eq!(path.names().collect::<Vec<_>>(), [&b"a"[..], b"\xff", b"c"]);
        assert!(RelPath::from_names([]).unwrap().is_root());
        assert_eq!(RelPath::from_names([&b".."[..]]), Err(NameError::Dots));
    }
}
