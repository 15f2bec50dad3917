//! The tree of a clone as a file system that can be written to, without a kernel.
//!
//! A [`CloneTree`] puts together what the [names](crate::replica::names) of a clone mean and what its
//! [replica](Replica) holds of their content. What the manifest has and nobody changed looks as in a
//! [`TreeView`](super::TreeView), and is answered from memory where it is not on the disk.
//!
//! Methods that are not `async` block for system calls on the local disk, never for a peer: where the manifest has not
//! arrived yet they fail with [`ViewError::NotYet`], and whoever called waits for [more](CloneTree::arrived). The
//! others wait for content as [`WhenGone`](crate::replica::WhenGone) says.

use std::collections::HashMap;
use std::sync::mpsc::SyncSender;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use rustix::fs::{FileType, Stat};

use super::attributes::{Attributes, NodeId, Owner};
use super::list::{DOTS, Listed};
use super::shown::{Showcase, Shown};
use super::{Notice, Space, ViewError};
use crate::manifest::{Arrival, Entry, EntryIndex, Kind, Manifest, allocated_512};
use crate::name::NAME_BYTES_MAX;
use crate::replica::names::{Found, NameList, Names, OnDisk};
use crate::replica::{InodeKey, Replica};

mod change;
mod content;
mod notices;

pub use change::{Change, When};

/// The number of what was made here: above those of all entries, with its number on the disk.
const MADE_HERE: u64 = 1 << 63;

/// A clone's tree. Shared between threads and tasks.
#[derive(Debug)]
pub struct CloneTree {
    replica: Arc<Replica>,
    names: Arc<Names>,
    owner: Owner,
    showcase: Showcase,
    /// What is still known, to the kernel too, of inodes that have no name any more.
    nameless: Mutex<HashMap<InodeKey, Attributes>>,
    /// Where to tell what the kernel must forget.
    notices: OnceLock<SyncSender<Notice>>,
}

/// A listing that is being read: the names of a directory as they were when it began.
#[derive(Debug)]
pub struct Reading {
    directory: InodeKey,
    names: NameList,
}

impl CloneTree {
    /// The tree of a replica's first root. What was never changed here belongs to `owner`.
    pub fn new(replica: Arc<Replica>, names: Arc<Names>, owner: Owner) -> Self {
        let (showcase, nameless, notices) = (Showcase::default(), Mutex::default(), OnceLock::new());
        Self { replica, names, owner, showcase, nameless, notices }
    }

    /// The replica it shows.
    pub fn replica(&self) -> &Arc<Replica> {
        &self.replica
    }

    /// The entry `name` of a directory; `None` where there is none. A success must be followed by one
    /// [`forget`](Self::forget) when the kernel no longer knows the entry.
    pub fn lookup(&self, directory: NodeId, name: &[u8]) -> Result<Option<Attributes>, ViewError> {
        if name.len() > NAME_BYTES_MAX {
            return Err(ViewError::NameTooLong);
        }
        match self.names.lookup(key(directory), name)? {
            Some(found) => self.told(&found, directory, name).map(Some),
            None => self.unless_failed().map(|()| None),
        }
    }

    /// As [`lookup`](Self::lookup), if it can be told from memory.
    pub fn lookup_now(
        &self,
        directory: NodeId,
        name: &[u8],
    ) -> Option<Result<Option<Attributes>, ViewError>> {
        let found = self.names.lookup_now(key(directory), name)?;
        Some(match found {
            Some(entry) => self.attributes_of(&Found::Virtual(entry)).map(Some),
            None => self.unless_failed().map(|()| None),
        })
    }

    /// What `stat` shows.
    pub fn attributes(&self, node: NodeId) -> Result<Attributes, ViewError> {
        match self.names.stat(key(node)) {
            Ok(found) => self.attributes_of(&found),
            Err(error) => self.nameless_attributes(key(node)).ok_or_else(|| error.into()),
        }
    }

    /// The kernel has forgotten a node so many times.
    pub fn forget(&self, node: NodeId, times: u64) {
        if self.names.forget(key(node), times) {
            self.nameless().remove(&key(node));
        }
    }

    /// The target of a symbolic link.
    pub fn read_link(&self, node: NodeId) -> Result<Vec<u8>, ViewError> {
        match self.names.stat(key(node))? {
            Found::Virtual(entry) => match (entry.kind(), self.shown(&entry)?.text()) {
                (Kind::Symlink, Some(text)) => Ok(text.to_vec()),
                (Kind::Symlink, None) => Ok(entry.extra().target),
                (Kind::File | Kind::Directory, _) => Err(ViewError::WrongKind),
            },
            Found::OnDisk(_) => Ok(self.names.read_link(key(node))?),
        }
    }

    /// The names of a directory as they are now.
    pub fn list(&self, directory: NodeId) -> Result<Reading, ViewError> {
        let directory = key(directory);
        Ok(Reading { directory, names: self.names.list(directory)? })
    }

    /// Gives the entries of a listing from the one at `position` on to `take`, until that is false: 0 is `.`, 1 is `..`.
    /// With `tells`, the kernel is told of the inodes it takes.
    pub fn entries(
        &self,
        reading: &Reading,
        mut position: u64,
        tells: bool,
        mut take: impl FnMut(Listed<'_>) -> bool,
    ) -> Result<(), ViewError> {
        while position < DOTS {
            let (name, of) = match position {
                0 => (b".".as_slice(), reading.directory),
                _ => (b"..".as_slice(), self.names.parent(reading.directory)?),
            };
            position += 1;
            let attributes = self.attributes(node(of))?;
            if !take(Listed { name, attributes, next: position }) {
                return Ok(());
            }
        }
        while position - DOTS < reading.names.len() {
            let found = reading.names.at(&self.names, position - DOTS)?;
            position += 1;
            let Some((name, found)) = found else { continue };
            let attributes = self.attributes_of(&found)?;
            // Before it is taken: from then on the kernel may forget it.
            if tells {
                self.names.remember(&found, reading.directory, name);
            }
            if !take(Listed { name, attributes, next: position }) {
                if tells {
                    self.forget(attributes.node, 1);
                }
                return Ok(());
            }
        }
        Ok(())
    }

    /// What `statfs` shows: the disk's, less what is still to come.
    pub fn space(&self) -> Result<Space, ViewError> {
        let disk = rustix::fs::fstatvfs(self.replica.layout().directory())?;
        let status = self.replica.status();
        let missing = status.bytes.total.saturating_sub(status.bytes.resident) / disk.f_frsize.max(1);
        Ok(Space {
            block_bytes: disk.f_frsize as u32,
            blocks: disk.f_blocks,
            blocks_free: disk.f_bfree.saturating_sub(missing),
            blocks_available: disk.f_bavail.saturating_sub(missing),
            entries: disk.f_files,
            entries_free: disk.f_ffree,
        })
    }

    /// Returns when more of the manifest has arrived than when a method failed with [`ViewError::NotYet`], an error when
    /// nothing more will, or not in time. Cancel safe.
    pub async fn arrived(&self) -> Result<(), ViewError> {
        let mut arrival = self.manifest().arrival();
        self.unless_failed()?;
        let more = super::in_time(&self.replica, arrival.changed()).await?;
        more.map_err(|_| ViewError::ManifestFailed("it broke off".into()))
    }

    fn manifest(&self) -> &Manifest {
        self.replica.manifest()
    }

    fn unless_failed(&self) -> Result<(), ViewError> {
        match &*self.manifest().arrival().borrow() {
            Arrival::Failed(why) => Err(ViewError::ManifestFailed(why.clone())),
            Arrival::Listed(_) | Arrival::Complete => Ok(()),
        }
    }

    fn shown(&self, entry: &Entry<'_>) -> Result<Arc<Shown>, ViewError> {
        Ok(self.showcase.of(self.manifest(), entry)?)
    }

    fn nameless(&self) -> MutexGuard<'_, HashMap<InodeKey, Attributes>> {
        self.nameless.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is shown of an inode without a name, which somebody still has: of an open file what its descriptor tells.
    fn nameless_attributes(&self, key: InodeKey) -> Option<Attributes> {
        let attributes = *self.nameless().get(&key)?;
        let of_file = self.replica.nameless(key).and_then(|found| self.attributes_on_disk(&found).ok());
        Some(of_file.unwrap_or_else(|| self.with_what_is_known(key, attributes)))
    }

    /// True for an open file without a name.
    fn is_nameless_file(&self, key: InodeKey) -> bool {
        self.nameless().get(&key).is_some_and(|attributes| attributes.kind == FileType::RegularFile)
    }

    /// The attributes of what was found under a name, of which the kernel is told.
    fn told(&self, found: &Found<'_>, directory: NodeId, name: &[u8]) -> Result<Attributes, ViewError> {
        self.names.remember(found, key(directory), name);
        let attributes = self.attributes_of(found);
        if attributes.is_err() {
            self.forget(node(found.key()), 1);
        }
        attributes
    }

    fn attributes_of(&self, found: &Found<'_>) -> Result<Attributes, ViewError> {
        match found {
            Found::Virtual(entry) => {
                let first = match entry.inode() {
                    own if own == entry.index() => *entry,
                    first => self.manifest().entry(first).ok_or(ViewError::NotYet)?,
                };
                Ok(Attributes::new(&first, &*self.shown(&first)?, node(found.key()), self.owner))
            }
            Found::OnDisk(found) => self.attributes_on_disk(found),
        }
    }

    fn attributes_on_disk(&self, found: &OnDisk) -> Result<Attributes, ViewError> {
        let stat = &found.stat;
        let kind = FileType::from_raw_mode(stat.st_mode);
        let attributes = Attributes {
            node: node(found.key),
            generation: self.names.generation(found.key),
            kind,
            mode: found.mode(),
            size: stat.st_size as u64,
            blocks_512: self.allocated_512(found)?,
            atime: found.atime(),
            mtime: found.mtime(),
            ctime: found.ctime(),
            nlink: nlink(found, stat),
            owner: Owner { uid: stat.st_uid, gid: stat.st_gid },
            device: stat.st_rdev,
        };
        match kind {
            FileType::RegularFile => Ok(self.with_what_is_known(found.key, attributes)),
            _ => Ok(attributes),
        }
    }

    /// What the replica knows of a file goes before what the disk says: it writes some of it down later.
    fn with_what_is_known(&self, key: InodeKey, mut attributes: Attributes) -> Attributes {
        if let Some(known) = self.replica.known(key) {
            attributes.size = known.size;
            if let Some(times) = known.times {
                (attributes.mtime, attributes.ctime) = (times.mtime, times.ctime);
            }
        }
        attributes
    }

    /// What is allocated, counting what is still to come as if it were here.
    fn allocated_512(&self, found: &OnDisk) -> Result<u64, ViewError> {
        let entry = found.entry().and_then(|index| self.manifest().entry(index));
        match entry.filter(|entry| entry.kind() == Kind::File) {
            Some(entry) => Ok(allocated_512(found.stat.st_size as u64, self.shown(&entry)?.holes())),
            None => Ok(found.stat.st_blocks as u64),
        }
    }
}

/// How many names an inode has. A directory of which the disk does not have all entries says 1: "not known".
fn nlink(found: &OnDisk, stat: &Stat) -> u32 {
    if found.is_partial_directory() { 1 } else { stat.st_nlink as u32 }
}

/// The number of an inode in the mount.
fn node(key: InodeKey) -> NodeId {
    match key {
        InodeKey::Entry(index) => NodeId::of(index, EntryIndex(0)),
        InodeKey::Local(number) => NodeId(MADE_HERE | number),
    }
}

/// The inode that has this number in the mount.
fn key(node: NodeId) -> InodeKey {
    match node.index(EntryIndex(0)) {
        Some(index) if node.0 & MADE_HERE == 0 => InodeKey::Entry(index),
        _ => InodeKey::Local(node.0 & !MADE_HERE),
    }
}
