//! The harness for tests that need more than one crate: machines made of namespaces, links between them, real nodes on
//! them, and trees full of oddities.
//!
//! A [`host::Host`] is a machine: its own network, mounts, processes and files, all of which vanish with the test process,
//! also when that is killed. A [`link::Link`] is a cable between two of them that can be slow, cut, or swallow everything. A
//! [`program::Program`] is a command run there under a deadline, with its output kept. Nothing here prints or panics: every
//! failure is an error that carries what the command said.
//!
//! Namespaces need root (or a user namespace in which we are root); see `tests/README.md` for what runs without.

pub mod binary;
pub mod decoders;
pub mod environment;
pub mod host;
pub mod link;
pub mod node;
pub mod oddities;
pub mod pair;
pub mod program;
pub mod random;
pub mod relay;
pub mod substitution;
pub mod tree;
pub mod wait;
pub mod work;
