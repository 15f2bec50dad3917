//! The node: the one place where twinshare's components are built and wired.
//!
//! A node is one unprivileged process per user. It keeps a registry of workspaces, finds peers, offers what is
//! shared, starts a process for each replica, and answers the REST [`api`] on a Unix socket in its home.
//! Whoever steers it (the command line among them) uses [`client`] and nothing else.

pub mod api;
mod chain;
mod checked_text;
pub mod client;
pub mod config;
pub mod discovery;
pub mod home;
mod ignored_signals;
pub mod log;
pub mod node;
pub mod operation;
pub mod registry;
pub mod relocate;
pub mod replica;
pub mod runtime;
pub mod share;
pub mod snapshot;
pub mod workspace;
pub mod yaml;

pub use twinshare_transport::protocol::is_plain;
