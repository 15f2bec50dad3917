//! Files that a person writes in YAML: read whole, with a bound, and every mistake told with its place.
//!
//! What such a file may hold is the business of its type. The types refuse keys that do not exist, so that a typing
//! mistake is not silently a default.

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::marker::PhantomData;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use rustix::fs::OFlags;
use serde::de::{self, DeserializeOwned, Deserializer, Visitor};

/// Bytes of a file at most; a person writes less.
const FILE_BYTES_MAX: u64 = 1024 * 1024;

/// Why a file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum YamlError {
    /// It exists and cannot be read.
    #[error("{path}: {source}")]
    Disk {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// It is not what it should be; the text names the key and the place.
    #[error("{path}: {what}")]
    Invalid {
        /// The file.
        path: PathBuf,
        /// What is wrong, and at which line and column.
        what: String,
    },
}

/// Reads a file; nothing where there is none. Blocks on the disk.
pub(crate) fn load<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, YamlError> {
    match read_text(path) {
        Ok(text) => parse(&text, path).map(Some),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(YamlError::Disk { path: path.into(), source }),
    }
}

/// Reads `text`; `path` is what messages call it.
pub(crate) fn parse<T: DeserializeOwned>(text: &str, path: &Path) -> Result<T, YamlError> {
    serde_norway::from_str(text).map_err(|error| {
        let what = match error.location() {
            // The parser leaves this one place out of its message.
            Some(place) if place.index() == 0 => format!("{error} at line 1 column 1"),
            _ => error.to_string(),
        };
        YamlError::Invalid { path: path.into(), what }
    })
}

/// The file's text, where it is a regular file of bearable size.
fn read_text(path: &Path) -> io::Result<String> {
    // NONBLOCK: a FIFO of that name must not hold whoever asks.
    let file = File::options().read(true).custom_flags(OFlags::NONBLOCK.bits() as i32).open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"));
    }
    let mut text = String::new();
    file.take(FILE_BYTES_MAX + 1).read_to_string(&mut text)?;
    match text.len() as u64 > FILE_BYTES_MAX {
        true => Err(io::Error::new(io::ErrorKind::FileTooLarge, "larger than 1 MiB")),
        false => Ok(text),
    }
}

/// Reads a scalar that is parsed from its text; a mistake is reported at the scalar's place.
pub(crate) fn scalar<'de, T, D>(deserializer: D) -> Result<T, D::Error>
where
    T: FromStr<Err: fmt::Display>,
    D: Deserializer<'de>,
{
    deserializer.deserialize_str(ScalarVisitor(PhantomData))
}

struct ScalarVisitor<T>(PhantomData<T>);

impl<T: FromStr<Err: fmt::Display>> Visitor<'_> for ScalarVisitor<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("text")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<T, E> {
        text.parse().map_err(E::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_read_or_the_reason_given() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("f.yaml");
        let load = |path: &Path| load::<Vec<u8>>(path).map_err(|error| error.to_string());
        assert_eq!(load(&path), Ok(None));
        std::fs::write(&path, "[1, 2]").unwrap();
        assert_eq!(load(&path), Ok(Some(vec![1, 2])));
        let check = |path: &Path, expected: &str| {
            let error = load(path).unwrap_err();
            assert_eq!(error, format!("{}: {expected}", path.display()));
        };
        std::fs::write(&path, "1").unwrap();
        check(&path, "invalid type: integer `1`, expected a sequence at line 1 column 1");
        std::fs::write(&path, vec![b'#'; FILE_BYTES_MAX as usize + 1]).unwrap();
        check(&path, "larger than 1 MiB");
        check(directory.path(), "not a regular file");
    }
}
