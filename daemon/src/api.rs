//! The REST interface of a node, version 1.

pub mod replica_control;
pub mod wire;
