//! The list of what of a tree does not travel.

use std::fmt;

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

impl LeftOutReason {
    /// True when something is missing that the origin's user has at that place, and not only a property of it or what
    /// a link leads to.
    pub fn is_content(&self) -> bool {
        match self {
            Self::OtherFilesystem | Self::Unreadable(_) | Self::Unsettled | Self::Limit(_) => true,
            Self::SpecialFile | Self::SetId | Self::Xattr | Self::NodeState | Self::LeavesTheTree(_) => false,
        }
    }
}

impl fmt::Display for LeftOutReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::SpecialFile => f.write_str("a socket, FIFO or device"),
            Self::SetId => f.write_str("its set-id bits"),
            Self::Xattr => {
                f.write_str("ACLs, capabilities or other xattrs that are not the user's, or too long")
            }
            Self::OtherFilesystem => f.write_str("on another filesystem"),
            Self::Unreadable(why) => write!(f, "cannot be read there: {why}"),
            Self::Unsettled => f.write_str("kept changing while it was listed"),
            Self::Limit(what) => write!(f, "beyond a limit: {what}"),
            Self::NodeState => f.write_str("the node's own state"),
            Self::LeavesTheTree(target) => write!(f, "a link to `{}`", target.escape_ascii()),
        }
    }
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
    /// What of it is missing as [content](LeftOutReason::is_content), and how many more may be that are not named.
    pub fn content(&self) -> (Vec<&LeftOut>, u64) {
        let content = self.named.iter().filter(|item| item.reason.is_content()).collect();
        // As long as there is room for what is no content, there was room for all content.
        let has_all = self.named.len() <= LEFT_OUT_MAX / 2 && self.bytes() <= LEFT_OUT_BYTES_MAX / 2;
        (content, if has_all { 0 } else { self.total.saturating_sub(self.named.len() as u64) })
    }

    /// Adds one; what is no content only counts beyond half of [`LEFT_OUT_MAX`], or half of 512 KiB of paths, and content
    /// beyond all of it.
    pub fn push(&mut self, item: LeftOut) {
        self.total += 1;
        let part = if item.reason.is_content() { 1 } else { 2 };
        // A full list is told by its length alone: a tree may have a million entries to leave out.
        if self.named.len() < LEFT_OUT_MAX / part && self.bytes() + item.weight() <= LEFT_OUT_BYTES_MAX / part
        {
            self.named.push(item);
        }
    }

    fn bytes(&self) -> usize {
        self.named.iter().map(LeftOut::weight).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_never_hide_what_is_missing() {
        let item = |reason| LeftOut { root: 0, path: b"p".to_vec(), reason };
        let link = || item(LeftOutReason::LeavesTheTree(b"/usr".to_vec()));
        let mut list = LeftOutList::default();
        (0..2000).for_each(|_| list.push(link()));
        assert_eq!((list.content(), list.total), ((vec![], 0), 2000));
        (0..400).for_each(|_| list.push(item(LeftOutReason::Unsettled)));
        assert_eq!(list.content().0.len(), 400);
        (0..400).for_each(|_| list.push(item(LeftOutReason::Unsettled)));
        let (content, more) = list.content();
        assert_eq!((content.len(), more), (500, 1800), "some of these may be content");
    }
}
