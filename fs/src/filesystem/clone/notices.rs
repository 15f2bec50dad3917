//! Files that get another inode while programs use them, and what the kernel must be told then.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, sync_channel};

use super::{CloneTree, key, node};
use crate::clock;
use crate::filesystem::notice::{NOTICES_MAX, Notice};
use crate::filesystem::{Attributes, NodeId};
use crate::replica::InodeKey;
use crate::replica::anew::Watch;

impl CloneTree {
    /// Begins to tell of what the kernel must forget. The notices must be taken by a thread that serves no request.
    pub fn watch(self: &Arc<Self>) -> Receiver<Notice> {
        let (sender, notices) = sync_channel(NOTICES_MAX);
        // Once, by whoever mounts it.
        let _ = self.notices.set(sender);
        let tree: Arc<dyn Watch> = self.clone();
        self.replica.set_watch(Arc::downgrade(&tree));
        notices
    }

    fn notice(&self, notice: Notice) {
        if let Some(notices) = self.notices.get() {
            // Nobody takes them once the mount is gone.
            let _ = notices.send(notice);
        }
    }
}

impl Watch for CloneTree {
    fn replacing(&self, inode: InodeKey) {
        // Looked at only once it has no name any more.
        if let Ok(found) = self.names.stat(inode)
            && let Ok(attributes) = self.attributes_of(&found)
        {
            self.nameless().insert(inode, Attributes { nlink: 0, ctime: clock::now(), ..attributes });
        }
    }

    fn replaced(&self, inode: InodeKey, names: &[(InodeKey, Box<[u8]>)]) {
        let has_names = self.names.stat(inode).is_ok();
        if has_names || !self.replica.is_open(inode) {
            // Nobody asks for it but by a name, which is another's by now.
            self.nameless().remove(&inode);
        }
        for (directory, name) in names {
            self.notice(Notice::Name(node(*directory), name.clone()));
        }
        self.notice(Notice::Attributes(node(inode)));
    }
}

impl CloneTree {
    /// True for a node that has lost its names to a newer version of the file: who comes by a name is to look again.
    pub(super) fn is_replaced(&self, node: NodeId) -> bool {
        self.replica.is_replaced(key(node))
    }
}
