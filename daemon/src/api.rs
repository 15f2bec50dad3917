//! The REST interface of a node, version 1: JSON under `/api/v1` on a Unix socket.
//!
//! Handlers decode, call the node and encode. They hold no state, open no files and know nothing of QUIC or FUSE:
//! what they ask, they ask of [`Node`](crate::node::Node) and of [`ReplicaControl`](replica_control::ReplicaControl).
//!
//! Every route is in the table of `routes` and in the OpenAPI document; every error passes `problem`. The interface is
//! local: the socket admits the node's own user and root, and nothing here listens on a network.

mod cache;
mod clones;
mod doctor;
mod error;
mod extract;
mod may_end;
mod mounts;
mod node;
mod openapi;
mod operations;
mod peers;
mod problem;
pub mod replica_control;
mod replicas;
mod request;
mod resolve;
mod routes;
mod runs;
pub mod server;
mod shares;
mod why;
pub mod wire;
mod workspaces;

pub use error::ApiError;
pub use routes::router;

/// Bytes of a request's body at most: the largest is a run's command line, which the kernel bounds at 2 MiB.
pub const BODY_BYTES_MAX: usize = 4 << 20;
