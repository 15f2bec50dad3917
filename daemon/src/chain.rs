//! An error and everything that caused it, in one line: for logs.

use std::error::Error;

/// The error's text and that of each cause, from the outermost on. A cause that the text before it ends with already
/// is not said again: some errors name their cause themselves, for those who are shown only the error.
pub(crate) fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let said = cause.to_string();
        if !text.ends_with(&said) {
            text.push_str(": ");
            text.push_str(&said);
        }
        next = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::path::PathBuf;

    use super::*;
    use crate::home::HomeError;

    #[derive(Debug, thiserror::Error)]
    #[error("{0}")]
    struct Caused(&'static str, #[source] Box<dyn Error>);

    #[track_caller]
    fn check(error: impl Error, expected: &str) {
        assert_eq!(chain(&error), expected);
    }

    #[test]
    fn every_cause_is_said_once() {
        let disk = || io::Error::other("disk full");
        let home = || HomeError::Disk { path: PathBuf::from("/h"), source: disk() };
        check(disk(), "disk full");
        check(Caused("no lock", disk().into()), "no lock: disk full");
        check(home(), "/h: disk full");
        check(Caused("no lock", home().into()), "no lock: /h: disk full");
        check(Caused("a", Caused("b", disk().into()).into()), "a: b: disk full");
    }
}
