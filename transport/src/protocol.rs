//! The protocol two nodes speak.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

mod answer;
mod request;
mod text;

pub use answer::*;
pub use request::*;
pub use text::{TEXT_BYTES_MAX, Text};

/// What TLS negotiates (RFC 7301): another major version is another name.
pub const ALPN: &[u8] = b"twinshare/1";

/// Which request and answer numbers a node knows; 1 is the first. Grows with every number that is added.
pub const REVISION: u16 = 1;

/// Bytes of the length before each message, little-endian.
pub const LENGTH_BYTES: usize = 4;

/// How a node introduces itself, in both directions.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// The highest [`REVISION`] it knows.
    pub revision: u16,
    /// What its owner calls it. Not unique, not proven.
    pub name: Text,
    /// The software and its version, for people.
    pub software: Text,
}

impl Hello {
    /// A node called `name`, of this software.
    pub fn new(name: &str) -> Self {
        let software = concat!("twinshare/", env!("CARGO_PKG_VERSION"));
        Self { revision: REVISION, name: name.into(), software: software.into() }
    }
}

/// A frame that cannot be understood, or will not be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadFrame {
    /// A number this revision does not know.
    #[error("a frame has the unknown number {0}")]
    Unknown(u8),
    /// The body is not that of its number.
    #[error("a frame's body cannot be decoded")]
    Body,
    /// A length or count beyond its limit.
    #[error("a frame exceeds a limit of the protocol")]
    Limit,
}

/// Decodes a body that must take up all of `bytes`.
fn body<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, BadFrame> {
    match postcard::take_from_bytes(bytes) {
        Ok((body, [])) => Ok(body),
        _ => Err(BadFrame::Body),
    }
}
