//! How a workspace moves between two nodes.
//!
//! A node is known by its [`PeerId`], the hash of the key it proves to hold in every TLS handshake. Two nodes
//! speak the [`protocol`] over QUIC. The [`server`] answers from any [`Origin`](twinshare_fs::origin::Origin) after one
//! seam has admitted the request; the [`client`] is an `Origin` itself, so a replica cannot tell a peer from a
//! directory on this disk.
//!
//! The crate moves what `twinshare-fs` defines. It knows nothing of inodes, mounts, grants or configuration files: who
//! may read what is decided by the [`server::Service`] it is given.

pub mod client;
mod codes;
mod compress;
#[cfg(test)]
mod hostile;
pub mod identity;
mod outlet;
mod pace;
mod precedence;
pub mod protocol;
pub mod server;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
mod tls;
pub mod tuning;
mod wire;

pub use client::{CallError, Client, Greeting, Remote};
pub use identity::{Identity, PeerId, PublicKey};
pub use server::{Server, Service};
