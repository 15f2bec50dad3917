//! Nodes for tests: one with replicas on paper only, for what lies above it, and real ones on loopback.

mod loopback;
mod paper;

pub(crate) use loopback::{Bench, LONG, bench, free_port, until};
pub(crate) use paper::{Fixture, PaperReplicas, node, replica};
