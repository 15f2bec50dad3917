//! The protocol two nodes speak. This text is its specification; the tests hold the bytes to it.
//!
//! # Who and what for
//!
//! A **client** wants to see and use a workspace of a **server**. Both are nodes, known to each other by their
//! [`PeerId`](crate::PeerId)s; either may be client and server at the same time, on different connections. The server
//! offers workspaces, freezes **snapshots** of them, and serves a snapshot's **manifest** (all metadata) and the
//! content of its files in **blocks** of 64 KiB.
//!
//! Goals: first use after few round trips; whatever somebody waits for overtakes everything else; a link is filled
//! whatever its length; every byte of content can be verified by itself; nothing either side sends can make the other
//! spend without bound, crash or wait for ever.
//!
//! Not its business: who may do what (the server's [`Service`](crate::Service) decides), finding each other,
//! whether content is *right* (a digest binds bytes to what the server first called them, no more), hiding who talks
//! to whom, and changing anything at the server: this revision only reads.
//!
//! # Connection
//!
//! QUIC version 1 (RFC 9000) with TLS 1.3 on both sides: each presents a self-signed certificate with an Ed25519 key
//! and proves to hold it. A peer id is the BLAKE3 hash of that key's SubjectPublicKeyInfo. The client states whom it
//! expects, except on first contact, and breaks off before its first request where somebody else answers. The ALPN
//! name is [`ALPN`]; there is no session resumption, no early data, and no datagrams. The client sends keep-alives;
//! either side forgets a connection on which it has heard nothing for five seconds.
//!
//! # Streams and frames
//!
//! Each request has a bidirectional stream of its own, opened by the client. The client sends one message and finishes
//! its side. The server sends messages and finishes its side. There are no unidirectional streams.
//!
//! A **message** is its length ([`LENGTH_BYTES`], little-endian), then one byte with its number, then its body in
//! postcard format (varints, enum variants by their order, sequences with their length in front). The length counts
//! number and body, and has a limit, [`REQUEST_BYTES_MAX`] or [`ANSWER_BYTES_MAX`], which is checked before anything
//! is read or allocated. A body must take up its message exactly. Four messages announce a **payload**, raw bytes
//! directly behind them, whose length is in their body and has a limit too.
//!
//! Numbers are never used again for something else, and a body never changes: what is to be said differently gets a
//! new number. [`Hello::revision`] tells which numbers a node knows; it never sends others. A message with an unknown
//! number, a body that does not decode, or a count beyond its limit is answered with [`Refusal::BadRequest`] by the
//! server, and ends the request at the client. Neither ends the connection.
//!
//! An answer is complete with [`Answer::Done`], and only with it: a stream that ends without it has broken off,
//! whatever came before. [`Answer::Refused`] may come instead of any message (never inside a payload), and is the last.
//!
//! # Requests
//!
//! ```text
//! 1 hello          revision, name, software   →  hello
//! 2 catalogue                                 →  offer*
//! 3 open snapshot  workspace, at?             →  snapshot
//! 4 read manifest  snapshot                   →  (manifest frame, payload)*
//! 5 read files     snapshot, files,  class, compress  →  ((run, payload)* (end | fault))*
//! 6 read ranges    snapshot, ranges, class, compress  →  ((run, payload)* (end | fault))*
//! 7 watch          workspace, base            →  snapshot?
//! 10 take anew     snapshot, file, held, class, compress  →  version, payload, ((run, payload) | kept | reading)* (end | fault)
//! 11 read manifest since  snapshot, base      →  (delta frame, payload)* | (manifest frame, payload)*
//! ```
//!
//! each followed by *done*. 8 and 9 are kept for returning a profile, and pairing.
//!
//! - **Hello** needs no grant. What it says about a node is for people; who the node is, the handshake has proven.
//! - **Catalogue** lists the workspaces that the caller may know of, [`OFFERS_MAX`] at most.
//! - **Open snapshot** freezes a workspace, or with `at` asks whether that snapshot is still kept. The client is
//!   told its id and size; the id names it from then on, on any connection of the same peer.
//! - **Read manifest** streams the manifest's own frames ([`twinshare_fs::manifest::frame`]); their digest is the
//!   snapshot's id.
//! - **Read files** names whole files by their place in the manifest and is meant for many small ones;
//!   **read ranges** names parts of files. Files or ranges are answered in the order asked, each with its runs in
//!   ascending order and then an *end*, or a *fault* where it cannot be delivered (further). A file that is no longer
//!   the version the snapshot names is a fault, never other bytes.
//!
//! - **Take anew** (since revision 2) asks what has become of a file that is no longer the version the snapshot names.
//!   The first message is a *fault*, or a *version*, whose payload says what is there now
//!   ([`Version`](twinshare_fs::origin::Version), in postcard format, under the rules of a manifest): a regular file with its metadata, a symbolic link, nothing, or
//!   something that does not travel. Only a regular file has more: its blocks in ascending order, but those wholly in
//!   holes, each in a run, or *kept*: named by its digest alone, which is the one that the snapshot binds for the same
//!   place, where the client said that it holds the block. Digests are those of a file of the new size. *Reading* says that the
//!   server is not done with reading the file for the first time. Only with *end* is what came one version; after a *fault*
//!   it is worth nothing. A server of revision 1 refuses the request as not understood.
//!
//! - **Watch** (since revision 3) waits for the workspace to have a snapshot other than `base`, the one that the client
//!   has. The server looks at the tree when it hears of changes, and in any case now and then, for as long as somebody
//!   watches. As soon as there is another snapshot it answers as to *open snapshot*; after [`WATCH_MAX`] without one the
//!   answer is *done* alone, and the client asks again. What is answered is later than `base`, unless the server has
//!   forgotten about that one since it started. Of the snapshots that it has told a client of in this way, it keeps at
//!   least the last [`WATCHED_KEPT`].
//! - **Read manifest since** (since revision 3) is *read manifest* for a client that has the manifest of `base`, an
//!   earlier snapshot of the workspace. The payloads are the frames of what became of that one
//!   ([`twinshare_fs::manifest::delta`]), whose copied runs also say which entries are the same version of the same file.
//!   A server that does not keep `base` for the client any more sends the frames of the whole manifest. All messages of
//!   an answer are of one kind.
//!
//! A server of an earlier revision refuses either as not understood.
//!
//! A **run** is up to 16 consecutive blocks with a digest each: the block's value in the file's BLAKE3 tree
//! ([`twinshare_fs::digest`]). Only a file's last block is shorter than 64 KiB. Where the client
//! allows it, answers wait for a slow link and a sample shows a gain, the server compresses a run's payload as one zstd
//! frame and says so in the run's encoding; unpacked it has at most 64 KiB a block. Digests are of the content, not of the payload.
//!
//! # Urgency and cancelling
//!
//! A read's [class](twinshare_fs::origin::Class) sets the priority of its stream, and has places of its own in the
//! server's queues. Everything but reads counts as demand. A client that loses interest sends STOP_SENDING, upon which
//! the server stops reading for it; a server that gives up resets the stream. Codes: 0x10 cancelled, 0x11 stalled;
//! on closing a connection 0 finished, 1 shutting down, 2 too busy, 3 ask again (what the peer may do has
//! changed).
//!
//! # Limits
//!
//! | | |
//! |---|---|
//! | message of a request, of an answer | [`REQUEST_BYTES_MAX`], [`ANSWER_BYTES_MAX`] |
//! | payload of a run, of a manifest or delta frame | 64 KiB a block and 16 blocks, [2 MiB and 16 KiB](twinshare_fs::manifest::frame::ENCODED_BYTES_MAX) |
//! | files, ranges of a request | [1,024](twinshare_fs::origin::FILES_PER_REQUEST_MAX), [256](twinshare_fs::origin::RANGES_PER_REQUEST_MAX) of [4,096 blocks](twinshare_fs::origin::RANGE_BLOCKS_MAX) |
//! | ranges held, of a request to take anew | [256](twinshare_fs::origin::RANGES_PER_REQUEST_MAX) |
//! | payload of a version, digests of kept blocks | [512 KiB](twinshare_fs::origin::VERSION_BYTES_MAX), [64](twinshare_fs::origin::KEPT_BLOCKS_MAX) |
//! | texts | [`TEXT_BYTES_MAX`], longer ones are cut; [`WORKSPACE_NAME_BYTES_MAX`] |
//! | offers of a catalogue | [`OFFERS_MAX`] |
//!
//! What a server spends on its clients is bounded in [`crate::server`], what QUIC spends in [`crate::tuning`].
//!
//! # Errors
//!
//! A [`Refusal`] says why a request is not, or not further, answered; a fault says so of one file of it. Texts of a
//! peer are for people: they are bounded and lose everything that could act on a terminal ([`Text`]) while they are
//! decoded. Nothing of what a peer is refused tells it whether something exists that it may not know of.

use std::time::Duration;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

mod answer;
mod request;
mod text;

pub use answer::*;
pub use request::*;
pub use text::{TEXT_BYTES_MAX, Text, is_plain};

/// What TLS negotiates (RFC 7301): another major version is another name.
pub const ALPN: &[u8] = b"twinshare/1";

/// Which request and answer numbers a node knows; 1 is the first, 2 added *take anew*, 3 *watch* and *read manifest
/// since*. Grows with every number that is added.
pub const REVISION: u16 = 3;

/// How long a watch waits for news at most.
pub const WATCH_MAX: Duration = Duration::from_secs(60);

/// Snapshots of one workspace that a server keeps at least for a peer that watches it: the one it shows, the one it is
/// on its way to, and two for whoever still has files of earlier ones open.
pub const WATCHED_KEPT: u32 = 4;

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

#[cfg(test)]
mod tests;
