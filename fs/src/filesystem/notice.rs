//! What the kernel must be told when what is shown changes beneath it.

use std::sync::mpsc::SyncSender;

use super::NodeId;

/// Notices that nobody has taken yet, at most; then whoever changes something waits.
pub(super) const NOTICES_MAX: usize = 1024;

/// What the kernel believes and is no longer so.
#[derive(Clone, Debug)]
pub enum Notice {
    /// That a name in a directory leads to what it did.
    Name(NodeId, Box<[u8]>),
    /// The attributes of a node.
    Attributes(NodeId),
    /// The attributes of a directory, and what it was told of its entries. Comes after the names that changed.
    Listing(NodeId),
    /// Nothing: whoever waits for all notices before it learns that they were given when it is dropped.
    All(SyncSender<()>),
}
