//! The list of what of a tree does not travel.

use serde::{Deserialize, Serialize};

/// Entries named in the list of what was left out at most; the rest is counted.
pub const LEFT_OUT_MAX: usize = 1000;
/// Bytes of the paths in that list at most, so that it fits into a frame.
const LEFT_OUT_BYTES_MAX: usize = 512 * 1024;

/// Why something of the origin's tree is not, or not wholly, in the manifest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum LeftOutReason {
    /// A socket, FIFO or device.
    SpecialFile,
    /// A set-user-id or set-group-id bit was dropped.
    SetId,
    /// An ACL, a capability or another xattr that is not the user's was dropped.
    Xattr,
    /// The directory is on another filesystem.
    OtherFilesystem,
    /// The origin may not list it or read its properties; the text is the system's.
    Unreadable(String),
    /// It kept changing while it was listed.
    Unsettled,
    /// It exceeds a limit of the manifest; the text names it.
    Limit(String),
    /// A directory of the node's own state.
    NodeState,
    /// A symlink whose target lies outside every root: it travels, what it leads to does not.
    LeavesTheTree(Vec<u8>),
}

/// One line of the list of what was left out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeftOut {
    /// The root.
    pub root: u32,
    /// The path below it, as bytes.
    pub path: Vec<u8>,
    /// Why.
    pub reason: LeftOutReason,
}

impl LeftOut {
    fn weight(&self) -> usize {
        let reason = match &self.reason {
            LeftOutReason::Unreadable(text) | LeftOutReason::Limit(text) => text.len(),
            LeftOutReason::LeavesTheTree(target) => target.len(),
            LeftOutReason::SpecialFile
            | LeftOutReason::SetId
            | LeftOutReason::Xattr
            | LeftOutReason::OtherFilesystem
            | LeftOutReason::Unsettled
            | LeftOutReason::NodeState => 0,
        };
        self.path.len() + reason
    }
}

/// What was left out of a manifest.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeftOutList {
    /// The first [`LEFT_OUT_MAX`].
    pub named: Vec<LeftOut>,
    /// All of them.
    pub total: u64,
}

impl LeftOutList {
    /// Adds one; beyond [`LEFT_OUT_MAX`], or 512 KiB of paths, only counts it.
    pub fn push(&mut self, item: LeftOut) {
        self.total += 1;
        // A full list is told by its length alone: a tree may have a million entries to leave out.
        let bytes = || self.named.iter().map(LeftOut::weight).sum::<usize>();
        if self.named.len() < LEFT_OUT_MAX && bytes() + item.weight() <= LEFT_OUT_BYTES_MAX {
            self.named.push(item);
        }
    }
}
