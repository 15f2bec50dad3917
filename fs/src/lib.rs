//! What a workspace tree is, and how it becomes local.
//!
//! The crate knows a tree as a [`manifest`] (complete metadata, no content), reads content through the
//! [`origin::Origin`] trait in [blocks](digest), keeps what it fetched in a replica and shows that replica to the
//! kernel. It knows nothing of networks, HTTP or configuration files: an origin may be a directory on this disk or
//! a peer on the other side of the world, and nothing here can tell which.

pub mod beneath;
#[cfg(test)]
mod busy_directory;
mod clock;
pub mod digest;
pub mod digest_file;
pub mod filesystem;
pub mod fuse;
pub mod git;
mod little_endian;
pub mod manifest;
pub mod name;
#[cfg(test)]
mod ordinary_user;
pub mod origin;
pub mod replica;
mod scratch;
