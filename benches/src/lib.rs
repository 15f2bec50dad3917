//! Side-by-side measurements: what twinshare costs over the unavoidable.
//!
//! A measurement compares programs that do the same work, in turn and several times, because a machine's speed drifts
//! by more than the differences that matter. What is compared are ratios within one run, never numbers of two runs.

pub mod measure;
