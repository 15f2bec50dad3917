//! A view that goes from one snapshot of its workspace to the next while it is mounted.
//!
//! What is shown at a time is an *edition*: one [`Replica`] and a [`TreeView`] of each of its roots. [`Following`] holds
//! the one that is shown, and those before it that somebody still has something of; a [`ViewTree`] is one root of it, as
//! it is mounted. What stays from one edition to the next keeps its node number, and what the kernel has cached of it
//! stays good; everything else has a number that was never used, so two versions of a file are two nodes.
//!
//! A node belongs to the newest edition that has it. Handles on files go on to the new edition with their node; where it
//! has none, they keep theirs: what is here of the old version is served, what is missing is asked of the origin for as
//! long as that has it. A directory is listed to its end as it was when that began. An earlier edition goes with the last
//! handle that keeps it, or when there are more than [`EARLIER_MAX`] of them.

use std::collections::HashMap;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};

use bytes::Bytes;
use tokio::runtime::Handle as Runtime;

use super::notice::{NOTICES_MAX, Notice};
use super::{Attributes, NodeId, Now, Owner, Seek, Space, TreeView, ViewError};
use crate::manifest::SnapshotId;
use crate::replica::{Numbers, Replica};

mod notices;

/// Earlier editions kept for whoever has something of them open, at most: each has a manifest. The origin keeps the last four.
/// Beyond it the oldest goes, and its handles answer ESTALE.
pub const EARLIER_MAX: usize = 8;

/// What a view shows, one edition after the other. Shared by the mounts of all its roots.
#[derive(Debug)]
pub struct Following {
    owner: Owner,
    /// Where editions end.
    runtime: Runtime,
    /// Held for a few instructions, and for a look at each handle when the edition changes. Replicas' locks are taken
    /// under it.
    state: Mutex<State>,
    /// Where to tell what the kernel must forget, by root.
    notices: Vec<OnceLock<SyncSender<Notice>>>,
    /// Held by whoever changes the edition.
    advancing: Mutex<()>,
}

#[derive(Debug)]
struct State {
    shown: Arc<Edition>,
    /// The oldest first.
    earlier: Vec<Weak<Edition>>,
    handles: HashMap<u64, Handle>,
    next: u64,
}

/// One snapshot as it is shown.
#[derive(Debug)]
struct Edition {
    replica: Arc<Replica>,
    trees: Vec<TreeView>,
    runtime: Runtime,
    /// The numbers of the edition after it, once there is one.
    followed_by: OnceLock<Arc<Numbers>>,
}

/// What a program has open.
#[derive(Debug)]
enum Handle {
    /// A file, in the edition that serves it; none once that had to go.
    File { root: usize, node: NodeId, edition: Option<Arc<Edition>> },
    /// A directory, and the edition in which it is being listed.
    Directory(Option<Arc<Edition>>),
}

impl Edition {
    fn of(replica: Arc<Replica>, owner: Owner, runtime: Runtime) -> Self {
        let trees = replica.manifest().roots().map(|root| TreeView::new(replica.clone(), root, owner));
        Self { trees: trees.collect(), replica, runtime, followed_by: OnceLock::new() }
    }

    fn has(&self, root: usize, node: NodeId) -> bool {
        self.trees.get(root).is_some_and(|tree| tree.index(node).is_some())
    }

    fn tree(&self, root: usize) -> Result<&TreeView, ViewError> {
        // All editions have the same roots.
        self.trees.get(root).ok_or(ViewError::Outdated)
    }
}

impl Drop for Edition {
    fn drop(&mut self) {
        if let Some(numbers) = self.followed_by.get() {
            self.runtime.spawn(self.replica.clone().discard(numbers.clone()));
        }
    }
}

impl Following {
    /// Shows the edition that `replica` is, whose entries all belong to `owner`.
    pub fn new(replica: Arc<Replica>, owner: Owner, runtime: Runtime) -> Arc<Self> {
        let notices = replica.manifest().roots().map(|_| OnceLock::new()).collect();
        Self::with(Edition::of(replica, owner, runtime.clone()), notices, owner, runtime)
    }

    fn with(
        shown: Edition,
        notices: Vec<OnceLock<SyncSender<Notice>>>,
        owner: Owner,
        runtime: Runtime,
    ) -> Arc<Self> {
        let shown = Arc::new(shown);
        let state = State { shown, earlier: Vec::new(), handles: HashMap::new(), next: 1 };
        Arc::new(Self { owner, runtime, state: Mutex::new(state), notices, advancing: Mutex::default() })
    }

    /// The replica that is shown.
    pub fn replica(&self) -> Arc<Replica> {
        self.state().shown.replica.clone()
    }

    /// The root `root` of it, to be mounted.
    pub fn root(self: &Arc<Self>, root: usize) -> ViewTree {
        ViewTree { following: self.clone(), root }
    }

    /// Snapshots of which something is still kept for whoever has it open, beside the one that is shown.
    pub fn earlier(&self) -> Vec<SnapshotId> {
        let earlier = self.state().earlier.iter().filter_map(Weak::upgrade).collect::<Vec<_>>();
        earlier.iter().map(|edition| edition.replica.manifest().snapshot()).collect()
    }

    /// Shows the edition that `next` is, the one [after](Replica::next) what is shown, and tells the kernel what changed.
    ///
    /// Returns when the kernel has forgotten that. Blocks: a look at each entry of both, and for as long as the kernel is
    /// busy in the directories that changed.
    pub fn advance(&self, next: Arc<Replica>) {
        let _advancing = self.advancing.lock().unwrap_or_else(PoisonError::into_inner);
        let next = Arc::new(Edition::of(next, self.owner, self.runtime.clone()));
        let (before, dropped) = {
            let mut state = self.state();
            let before = std::mem::replace(&mut state.shown, next.clone());
            if let Some(numbers) = next.replica.numbers() {
                // Once: an edition is followed by one other.
                let _ = before.followed_by.set(numbers.clone());
            }
            let mut dropped = state.move_on(&next);
            state.earlier.push(Arc::downgrade(&before));
            dropped.extend(state.make_room());
            (before, dropped)
        };
        // Ending an edition is not done under the lock.
        drop(dropped);
        self.tell(&before, &next);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Takes the handles on what stays over to the edition that is shown now; what they kept is to be dropped.
    fn move_on(&mut self, shown: &Arc<Edition>) -> Vec<Arc<Edition>> {
        let mut kept = Vec::new();
        for handle in self.handles.values_mut() {
            let Handle::File { root, node, edition } = handle else { continue };
            let Some(from) = edition.take_if(|_| shown.has(*root, *node)) else { continue };
            if let (Ok(from), Ok(to)) = (from.tree(*root), shown.tree(*root)) {
                // What cannot be opened is made here, and needs no count.
                let _ = to.open(*node);
                from.release(*node);
            }
            *edition = Some(shown.clone());
            kept.push(from);
        }
        kept
    }

    /// Forgets editions that are gone, and gives up the oldest beyond the bound.
    fn make_room(&mut self) -> Vec<Arc<Edition>> {
        self.earlier.retain(|edition| edition.strong_count() > 0);
        let surplus = self.earlier.len().saturating_sub(EARLIER_MAX);
        let given_up: Vec<_> =
            self.earlier.drain(..surplus).filter_map(|edition| edition.upgrade()).collect();
        let mut kept = given_up.clone();
        for handle in self.handles.values_mut() {
            let (Handle::File { edition, .. } | Handle::Directory(edition)) = handle;
            kept.extend(edition.take_if(|edition| given_up.iter().any(|gone| Arc::ptr_eq(gone, edition))));
        }
        kept
    }

    /// The newest edition that has a node.
    fn at(&self, root: usize, node: NodeId) -> Result<Arc<Edition>, ViewError> {
        if self.shown.has(root, node) {
            return Ok(self.shown.clone());
        }
        let mut earlier = self.earlier.iter().rev().filter_map(Weak::upgrade);
        earlier.find(|edition| edition.has(root, node)).ok_or(ViewError::Outdated)
    }

    fn keep(&mut self, handle: Handle) -> u64 {
        let number = self.next;
        self.next += 1;
        self.handles.insert(number, handle);
        number
    }
}

/// One root of a view as it is mounted. Shared between threads and tasks; its methods are those of [`TreeView`], each in
/// the edition that it is about.
#[derive(Debug)]
pub struct ViewTree {
    following: Arc<Following>,
    root: usize,
}

/// A directory as it is when its listing begins.
#[derive(Clone, Debug)]
pub struct ListedAt {
    edition: Arc<Edition>,
    root: usize,
    /// True while nothing newer is shown: the kernel may keep what it is told.
    pub is_shown: bool,
}

impl ListedAt {
    /// The tree to list it in.
    pub fn tree(&self) -> Result<&TreeView, ViewError> {
        self.edition.tree(self.root)
    }
}

impl ViewTree {
    /// A tree that stays as it is.
    pub(super) fn fixed(view: TreeView) -> Self {
        let (owner, runtime) = (view.owner, view.replica.runtime().clone());
        let replica = view.replica.clone();
        let edition =
            Edition { replica, trees: vec![view], runtime: runtime.clone(), followed_by: OnceLock::new() };
        Self { following: Following::with(edition, Vec::new(), owner, runtime), root: 0 }
    }

    /// True where what is shown may change.
    pub fn follows(&self) -> bool {
        !self.following.notices.is_empty()
    }

    /// Begins to tell of what the kernel must forget, where that may change. The notices must be taken by a thread that
    /// serves no request.
    pub fn watch(&self) -> Option<Receiver<Notice>> {
        let told = self.following.notices.get(self.root)?;
        let (sender, notices) = sync_channel(NOTICES_MAX);
        // Once, by whoever mounts it.
        told.set(sender).ok().map(|()| notices)
    }

    /// The replica that is shown.
    pub fn replica(&self) -> Arc<Replica> {
        self.following.replica()
    }

    fn at(&self, node: NodeId) -> Result<Arc<Edition>, ViewError> {
        self.following.state().at(self.root, node)
    }

    /// As [`TreeView::try_lookup`].
    pub fn try_lookup(&self, directory: NodeId, name: &[u8]) -> Result<Now<Option<Attributes>>, ViewError> {
        self.at(directory)?.tree(self.root)?.try_lookup(directory, name)
    }

    /// As [`TreeView::lookup`].
    pub async fn lookup(&self, directory: NodeId, name: &[u8]) -> Result<Option<Attributes>, ViewError> {
        self.at(directory)?.tree(self.root)?.lookup(directory, name).await
    }

    /// As [`TreeView::attributes`].
    pub fn attributes(&self, node: NodeId) -> Result<Attributes, ViewError> {
        self.at(node)?.tree(self.root)?.attributes(node)
    }

    /// As [`TreeView::read_link`].
    pub fn read_link(&self, node: NodeId) -> Result<Bytes, ViewError> {
        self.at(node)?.tree(self.root)?.read_link(node)
    }

    /// As [`TreeView::xattr`].
    pub fn xattr(&self, node: NodeId, name: &[u8]) -> Result<Vec<u8>, ViewError> {
        self.at(node)?.tree(self.root)?.xattr(node, name)
    }

    /// As [`TreeView::xattr_names`].
    pub fn xattr_names(&self, node: NodeId) -> Result<Vec<u8>, ViewError> {
        self.at(node)?.tree(self.root)?.xattr_names(node)
    }

    /// As [`TreeView::seek`].
    pub fn seek(&self, node: NodeId, offset: u64, seek: Seek) -> Result<u64, ViewError> {
        self.at(node)?.tree(self.root)?.seek(node, offset, seek)
    }

    /// As [`TreeView::space`].
    pub fn space(&self) -> Result<Space, ViewError> {
        let shown = self.following.state().shown.clone();
        Ok(shown.tree(self.root)?.space())
    }

    /// Opens a file; each success must be followed by one [`release`](Self::release) of the handle. One of an earlier edition
    /// is not opened any more: who came to it by its name, of which the kernel has not been told yet, looks again upon
    /// ESTALE (`do_filp_open`, `fs/namei.c`).
    pub fn open(&self, node: NodeId) -> Result<u64, ViewError> {
        let mut state = self.following.state();
        let edition = state.shown.clone();
        if !edition.has(self.root, node) {
            return Err(ViewError::Outdated);
        }
        edition.tree(self.root)?.open(node)?;
        Ok(state.keep(Handle::File { root: self.root, node, edition: Some(edition) }))
    }

    /// Opens a directory, in the same way.
    pub fn open_directory(&self) -> u64 {
        self.following.state().keep(Handle::Directory(None))
    }

    /// A handle was closed.
    pub fn release(&self, handle: u64) {
        let closed = self.following.state().handles.remove(&handle);
        if let Some(Handle::File { root, node, edition: Some(edition) }) = &closed
            && let Ok(tree) = edition.tree(*root)
        {
            tree.release(*node);
        }
    }

    fn reading(&self, handle: u64) -> Result<Arc<Edition>, ViewError> {
        match self.following.state().handles.get(&handle) {
            Some(Handle::File { edition: Some(edition), .. }) => Ok(edition.clone()),
            _ => Err(ViewError::Outdated),
        }
    }

    /// As [`TreeView::try_read`], of what was opened.
    pub fn try_read(
        &self,
        handle: u64,
        node: NodeId,
        offset: u64,
        length: u32,
    ) -> Result<Now<Bytes>, ViewError> {
        self.reading(handle)?.tree(self.root)?.try_read(node, offset, length)
    }

    /// As [`TreeView::read`], of what was opened.
    pub async fn read(
        &self,
        handle: u64,
        node: NodeId,
        offset: u64,
        length: u32,
    ) -> Result<Bytes, ViewError> {
        loop {
            let edition = self.reading(handle)?;
            let read = edition.tree(self.root)?.read(node, offset, length).await;
            // The new edition may have what the old one's snapshot no longer gets.
            let has_moved_on = || self.reading(handle).is_ok_and(|now| !Arc::ptr_eq(&now, &edition));
            if read.is_ok() || !has_moved_on() {
                return read;
            }
        }
    }

    /// Where to list a directory from `position` on: as it was when that began. From position 0 on it begins anew.
    pub fn listing(&self, handle: u64, directory: NodeId, position: u64) -> Result<ListedAt, ViewError> {
        let mut state = self.following.state();
        let newest = state.at(self.root, directory);
        let edition = match state.handles.get_mut(&handle) {
            Some(Handle::Directory(Some(begun))) if position > 0 => begun.clone(),
            Some(Handle::Directory(begun)) => begun.insert(newest?).clone(),
            _ => newest?,
        };
        let is_shown = Arc::ptr_eq(&edition, &state.shown);
        Ok(ListedAt { edition, root: self.root, is_shown })
    }

    /// A directory was listed to its end: nothing is kept for it.
    pub fn listed_all(&self, handle: u64) {
        let mut state = self.following.state();
        let kept = match state.handles.get_mut(&handle) {
            Some(Handle::Directory(begun)) => begun.take(),
            _ => None,
        };
        drop(state);
        drop(kept);
    }
}

#[cfg(test)]
mod tests;
