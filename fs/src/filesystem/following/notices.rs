//! What the kernel must forget when a view goes on to another edition.

use std::sync::mpsc::{SyncSender, sync_channel};
use std::time::Duration;

use super::{Edition, Following, NodeId, Notice};
use crate::manifest::{self, Entry, EntryIndex, Kind, Manifest, Name};

/// How long the kernel may take to forget before the new edition counts as shown without that: it waits for whoever is
/// busy in a directory.
const TOLD_WITHIN: Duration = Duration::from_secs(5);

impl Following {
    /// Tells the kernel of every name that leads elsewhere in `new` than in `old`, and of every directory of which
    /// anything changed. No notice is kept: the list could be as long as the workspace.
    pub(super) fn tell(&self, old: &Edition, new: &Edition) {
        let mut differs = false;
        let (before, after) = (old.replica.manifest(), new.replica.manifest());
        manifest::compare(before, after, |directory, name| match name {
            Some(name) => {
                if let Some(name) = changed(old, new, name) {
                    differs = true;
                    self.say(new, directory, |node| Notice::Name(node, name.into()));
                }
            }
            None => {
                if std::mem::take(&mut differs) || is_other(old, new, directory) {
                    self.say(new, directory, Notice::Listing);
                }
            }
        });
        self.until_told();
    }

    /// Waits until the kernel has been told everything.
    fn until_told(&self) {
        let (told, all) = sync_channel(1);
        self.notices
            .iter()
            .filter_map(|root| root.get())
            .for_each(|root| send(root, Notice::All(told.clone())));
        drop(told);
        // Nothing is ever sent: it ends when all have been dropped.
        let _ = all.recv_timeout(TOLD_WITHIN);
    }

    fn say(&self, new: &Edition, directory: EntryIndex, notice: impl FnOnce(NodeId) -> Notice) {
        let manifest = new.replica.manifest();
        let Some(root) = manifest.root_of(directory).map(|root| root.0 as usize) else { return };
        let told = self.notices.get(root).and_then(|told| told.get());
        if let (Some(told), Ok(tree)) = (told, new.tree(root)) {
            send(told, notice(tree.node(directory)));
        }
    }
}

fn send(to: &SyncSender<Notice>, notice: Notice) {
    // Nobody takes them once the mount is gone.
    let _ = to.send(notice);
}

/// The name, if it does not lead to the same node as before.
fn changed<'m>(old: &Edition, new: &Edition, name: Name<'m>) -> Option<&'m [u8]> {
    match name {
        Name::Gone(entry) | Name::Came(entry) => Some(entry.name()),
        Name::Stayed(before, after) => {
            let leads =
                |edition: &Edition, entry: &Entry<'_>| edition.replica.numbers()?.number(entry.inode());
            (leads(old, &before) != leads(new, &after)).then(|| after.name())
        }
    }
}

/// True when a directory's own attributes are not what they were.
fn is_other(old: &Edition, new: &Edition, directory: EntryIndex) -> bool {
    let shown = |manifest: &Manifest, at: EntryIndex| {
        let entry = manifest.entry(at).filter(|entry| entry.kind() == Kind::Directory)?;
        let extra = entry.has_extra().then(|| entry.extra());
        Some((entry.mode(), entry.mtime(), entry.nlink(), extra))
    };
    let number = new.replica.numbers().and_then(|numbers| numbers.number(directory));
    let before = number.and_then(|number| old.replica.numbers()?.entry(number));
    let before = before.and_then(|before| shown(old.replica.manifest(), before));
    before != shown(new.replica.manifest(), directory)
}
