//! What a file system call on a mounted root means, without a kernel.
//!
//! A [`TreeView`] shows one root of a [`Replica`]: names and metadata from the manifest, content from the replica,
//! substitutes where git would act on what a peer wrote (see `docs/semantics.md`). It keeps no table of inodes: an
//! entry's number follows from its place in the manifest, and back.
//!
//! Most calls are answered from memory. Those that may wait come in two: `try_…` answers at once or says
//! [`Now::Later`], and the async one waits. The wait for the origin ends as [`WhenGone`](crate::replica::WhenGone) says.

use std::sync::Arc;

use bytes::Bytes;
use rustix::io::Errno;

use crate::manifest::{Arrival, Entry, EntryIndex, Kind, Listing, Manifest, NotYet};
use crate::name::NAME_BYTES_MAX;
use crate::replica::names::NamesError;
use crate::replica::{ReadError, Replica, TryRead, WriteError};

mod attributes;
mod clone;
mod following;
mod list;
mod notice;
mod seek;
mod shown;
mod xattr;

pub use attributes::{Attributes, BLOCK_SIZE, NodeId, Owner};
pub use clone::{Change, CloneTree, Reading, When};
pub use following::{EARLIER_MAX, Following, ListedAt, ViewTree};
pub use list::{List, Listed};
pub use notice::Notice;
pub use seek::Seek;
use shown::{Showcase, Shown};

/// Why a call fails.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ViewError {
    /// The manifest's stream failed, so nothing can be said about the entry.
    #[error("the manifest failed: {0}")]
    ManifestFailed(String),
    /// The part of the manifest that is needed did not arrive in time.
    #[error("the directory's entries did not arrive in time")]
    Late,
    /// The entry is not a directory.
    #[error("not a directory")]
    NotADirectory,
    /// The entry is a directory.
    #[error("a directory")]
    IsADirectory,
    /// The entry is neither what was asked of it.
    #[error("not possible with an entry of this kind")]
    WrongKind,
    /// The name is longer than any name can be.
    #[error("the name is too long")]
    NameTooLong,
    /// The entry has no xattr of this name.
    #[error("no such attribute")]
    NoXattr,
    /// Xattrs of this namespace do not travel.
    #[error("attributes of this kind are not kept")]
    XattrNotSupported,
    /// Nothing lies at or beyond this offset.
    #[error("beyond the end of the file")]
    BeyondEnd,
    /// The part of the manifest that is needed has not arrived yet.
    #[error("the directory's entries have not arrived yet")]
    NotYet,
    /// The local disk, or the rules of file systems, refused.
    #[error("the local disk refused: {0}")]
    System(Errno),
    /// It is of a snapshot that is not shown any more.
    #[error("the origin has changed, and nothing of this version is kept")]
    Outdated,
    /// Whoever asked was told to stop.
    #[error("interrupted")]
    Interrupted,
    /// The content could not be had.
    #[error(transparent)]
    Read(#[from] ReadError),
}

impl From<Errno> for ViewError {
    fn from(errno: Errno) -> Self {
        Self::System(errno)
    }
}

impl From<NotYet> for ViewError {
    fn from(NotYet: NotYet) -> Self {
        Self::NotYet
    }
}

impl From<NamesError> for ViewError {
    fn from(error: NamesError) -> Self {
        match error {
            NamesError::System(errno) => Self::System(errno),
            NamesError::NotYet(_) => Self::NotYet,
        }
    }
}

impl From<WriteError> for ViewError {
    fn from(error: WriteError) -> Self {
        match error {
            WriteError::Fetch(error) => Self::Read(error),
            WriteError::Disk(errno) => Self::System(errno),
        }
    }
}

/// An answer that may have to be waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Now<T> {
    /// Here it is.
    Ready(T),
    /// The async call of the same name waits for it.
    Later,
}

/// What `statfs` shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Space {
    /// Bytes of a block.
    pub block_bytes: u32,
    /// Blocks.
    pub blocks: u64,
    /// Blocks that are free.
    pub blocks_free: u64,
    /// Blocks that are free for ordinary users.
    pub blocks_available: u64,
    /// Inodes.
    pub entries: u64,
    /// Inodes that can still be made.
    pub entries_free: u64,
}

/// One root of a replica as a read-only tree. Shared between threads and tasks.
#[derive(Debug)]
pub struct TreeView {
    replica: Arc<Replica>,
    root: EntryIndex,
    owner: Owner,
    showcase: Showcase,
}

impl TreeView {
    /// A view of root `root`, whose entries all belong to `owner`.
    pub fn new(replica: Arc<Replica>, root: EntryIndex, owner: Owner) -> Self {
        Self { replica, root, owner, showcase: Showcase::default() }
    }

    /// The replica it shows.
    pub fn replica(&self) -> &Arc<Replica> {
        &self.replica
    }

    /// The entry `name` of a directory; `None` where there is none.
    pub fn try_lookup(&self, directory: NodeId, name: &[u8]) -> Result<Now<Option<Attributes>>, ViewError> {
        let directory = self.directory(directory)?;
        if name.len() > NAME_BYTES_MAX {
            return Err(ViewError::NameTooLong);
        }
        match self.manifest().lookup(directory, name) {
            Ok(Some(entry)) => Ok(Now::Ready(Some(self.attributes_of(&self.shared(entry)?)?))),
            // A manifest that has failed shows nothing, which is not the same as having nothing.
            Ok(None) => self.unless_failed().map(|()| Now::Ready(None)),
            Err(NotYet) => Ok(Now::Later),
        }
    }

    /// As [`try_lookup`](Self::try_lookup), after a wait for the directory's listing. Cancel safe.
    pub async fn lookup(&self, directory: NodeId, name: &[u8]) -> Result<Option<Attributes>, ViewError> {
        loop {
            match self.try_lookup(directory, name)? {
                Now::Ready(found) => return Ok(found),
                Now::Later => self.listed(directory).await?,
            }
        }
    }

    /// What `stat` shows.
    pub fn attributes(&self, node: NodeId) -> Result<Attributes, ViewError> {
        self.attributes_of(&self.entry(node)?)
    }

    /// The entries of a directory from the one at `position` on: 0 is `.`, 1 is `..`.
    pub fn try_list(&self, directory: NodeId, position: u64) -> Result<Now<List<'_>>, ViewError> {
        let directory = self.entry_at(self.directory(directory)?)?;
        match self.manifest().children(directory.index()) {
            Listing::Known(children) => Ok(Now::Ready(List::new(self, directory, children, position))),
            Listing::NotYet => Ok(Now::Later),
        }
    }

    /// Waits until a directory's listing has arrived. Cancel safe.
    ///
    /// Where [`WhenGone`](crate::replica::WhenGone) sets a limit, it counts from the last part of the manifest that arrived.
    pub async fn listed(&self, directory: NodeId) -> Result<(), ViewError> {
        let directory = self.directory(directory)?;
        let mut arrival = self.manifest().arrival();
        loop {
            arrival.borrow_and_update();
            self.unless_failed()?;
            if self.manifest().children(directory) != Listing::NotYet {
                return Ok(());
            }
            let more = in_time(&self.replica, arrival.changed()).await?;
            more.map_err(|_| ViewError::ManifestFailed("it broke off".into()))?;
        }
    }

    /// The target of a symlink.
    pub fn read_link(&self, node: NodeId) -> Result<Bytes, ViewError> {
        let entry = self.entry(node)?;
        match (entry.kind(), self.shown(&entry)?.text()) {
            (Kind::Symlink, Some(text)) => Ok(text.clone()),
            (Kind::Symlink, None) => Ok(entry.extra().target.into()),
            (Kind::File | Kind::Directory, _) => Err(ViewError::WrongKind),
        }
    }

    /// Tells that a handle on a file was opened. Each success must be followed by one [`release`](Self::release).
    pub fn open(&self, node: NodeId) -> Result<(), ViewError> {
        if let Content::OfReplica(inode) = self.file(node)?.content {
            self.replica.opened(inode);
        }
        Ok(())
    }

    /// Tells that a handle on a file was closed.
    pub fn release(&self, node: NodeId) {
        if let Ok(File { content: Content::OfReplica(inode), .. }) = self.file(node) {
            self.replica.released(inode);
        }
    }

    /// Reads `length` bytes at `offset`, or up to the end of the file, without waiting.
    pub fn try_read(&self, node: NodeId, offset: u64, length: u32) -> Result<Now<Bytes>, ViewError> {
        let file = self.file(node)?;
        match file.content {
            Content::Text(text) => Ok(Now::Ready(part(&text, offset, length))),
            Content::OfReplica(inode) => match self.replica.try_read(inode, offset, length) {
                TryRead::Ready(bytes) => whole(bytes, file.entry.size(), offset, length).map(Now::Ready),
                TryRead::WouldWait => Ok(Now::Later),
            },
        }
    }

    /// As [`try_read`](Self::try_read), after a wait for what is not here: exactly these bytes or an error. Cancel
    /// safe.
    pub async fn read(&self, node: NodeId, offset: u64, length: u32) -> Result<Bytes, ViewError> {
        let File { entry, content, .. } = self.file(node)?;
        let size = entry.size();
        match content {
            Content::Text(text) => Ok(part(&text, offset, length)),
            Content::OfReplica(inode) => {
                whole(self.replica.read(inode, offset, length).await?, size, offset, length)
            }
        }
    }

    /// What `statfs` shows: a tree that is full, since nothing can be added to it.
    pub fn space(&self) -> Space {
        let manifest = self.manifest();
        Space {
            block_bytes: BLOCK_SIZE,
            blocks: manifest.file_bytes().div_ceil(u64::from(BLOCK_SIZE)),
            blocks_free: 0,
            blocks_available: 0,
            entries: manifest.entries().into(),
            entries_free: 0,
        }
    }

    fn manifest(&self) -> &Manifest {
        self.replica.manifest()
    }

    fn entry(&self, node: NodeId) -> Result<Entry<'_>, ViewError> {
        self.entry_at(self.index(node).ok_or_else(|| self.failure())?)
    }

    fn entry_at(&self, index: EntryIndex) -> Result<Entry<'_>, ViewError> {
        self.manifest().entry(index).ok_or_else(|| self.failure())
    }

    /// The number of an entry in the mount.
    fn node(&self, index: EntryIndex) -> NodeId {
        match self.replica.numbers().and_then(|numbers| numbers.number(index)) {
            Some(number) if index != self.root => NodeId::numbered(number),
            _ => NodeId::of(index, self.root),
        }
    }

    /// The entry that has a number in the mount.
    fn index(&self, node: NodeId) -> Option<EntryIndex> {
        match self.replica.numbers() {
            Some(numbers) if node != NodeId::ROOT => numbers.entry(node.number()?),
            _ => node.index(self.root),
        }
    }

    fn directory(&self, node: NodeId) -> Result<EntryIndex, ViewError> {
        let entry = self.entry(node)?;
        if entry.kind() == Kind::Directory { Ok(entry.index()) } else { Err(ViewError::NotADirectory) }
    }

    fn file(&self, node: NodeId) -> Result<File<'_>, ViewError> {
        let entry = self.entry(node)?;
        let shown = self.shown(&entry)?;
        let content = match (entry.kind(), shown.text()) {
            (Kind::File, Some(text)) => Content::Text(text.clone()),
            (Kind::File, None) => Content::OfReplica(entry.inode()),
            (Kind::Directory, _) => return Err(ViewError::IsADirectory),
            (Kind::Symlink, _) => return Err(ViewError::WrongKind),
        };
        Ok(File { entry, shown, content })
    }

    fn shown(&self, entry: &Entry<'_>) -> Result<Arc<Shown>, ViewError> {
        // An entry is reached through its directory's listing, so what lies around it has arrived.
        self.showcase.of(self.manifest(), entry).map_err(|NotYet| self.failure())
    }

    fn attributes_of(&self, entry: &Entry<'_>) -> Result<Attributes, ViewError> {
        let node = self.node(entry.index());
        Ok(Attributes::new(entry, &*self.shown(entry)?, node, self.owner))
    }

    /// The entry that stands for the inode of `entry`: the first of its names. What git would act on has one name
    /// only, which the manifest sees to, so it does not matter under which it is judged.
    fn shared<'m>(&'m self, entry: Entry<'m>) -> Result<Entry<'m>, ViewError> {
        match entry.inode() {
            own if own == entry.index() => Ok(entry),
            first => self.manifest().entry(first).ok_or_else(|| self.failure()),
        }
    }

    /// Why the manifest does not show an entry that was seen before.
    fn failure(&self) -> ViewError {
        match self.unless_failed() {
            Err(failed) => failed,
            Ok(()) => ViewError::ManifestFailed("it has no such entry".into()),
        }
    }

    fn unless_failed(&self) -> Result<(), ViewError> {
        match &*self.manifest().arrival().borrow() {
            Arrival::Failed(why) => Err(ViewError::ManifestFailed(why.clone())),
            Arrival::Listed(_) | Arrival::Complete => Ok(()),
        }
    }
}

/// Runs `wait` to its end, or for as long as a read of `replica` waits for the origin.
async fn in_time<T>(replica: &Replica, wait: impl Future<Output = T>) -> Result<T, ViewError> {
    match replica.when_gone().limit() {
        None => Ok(wait.await),
        Some(limit) => tokio::time::timeout(limit, wait).await.map_err(|_| ViewError::Late),
    }
}

/// A tree that can be mounted.
#[derive(Debug)]
pub enum Tree {
    /// One that cannot be changed.
    View(ViewTree),
    /// One that can.
    Clone(CloneTree),
}

impl From<TreeView> for Tree {
    fn from(view: TreeView) -> Self {
        Self::View(ViewTree::fixed(view))
    }
}

impl From<ViewTree> for Tree {
    fn from(view: ViewTree) -> Self {
        Self::View(view)
    }
}

impl From<CloneTree> for Tree {
    fn from(tree: CloneTree) -> Self {
        Self::Clone(tree)
    }
}

/// A file to be read.
struct File<'m> {
    entry: Entry<'m>,
    shown: Arc<Shown>,
    content: Content,
}

/// Where a file's bytes come from.
enum Content {
    /// The replica, by the first name of the inode.
    OfReplica(EntryIndex),
    /// Here: a substitute.
    Text(Bytes),
}

fn part(text: &Bytes, offset: u64, length: u32) -> Bytes {
    let start = usize::try_from(offset).unwrap_or(usize::MAX).min(text.len());
    let end = start.saturating_add(length as usize).min(text.len());
    text.slice(start..end)
}

/// Refuses a short read: the kernel would take it for the end of the file and show zeros (`fuse_short_read`,
/// `fs/fuse/file.c`).
fn whole(bytes: Bytes, size: u64, offset: u64, length: u32) -> Result<Bytes, ViewError> {
    let expected = size.saturating_sub(offset).min(length.into());
    match bytes.len() as u64 == expected {
        true => Ok(bytes),
        false => Err(ReadError::Corrupt("a read of the wrong length".into()).into()),
    }
}

#[cfg(test)]
mod tests;
