//! What the names in a clone mean: the tree on the disk over the manifest's.
//!
//! A directory of the manifest that is not on the disk is **virtual**, and so is everything below it. In one that is,
//! what the disk has wins over the manifest's entry of the same name, and a **whiteout** (a character device 0/0, as
//! overlayfs has it) says that there is none. So no operation ever has to create a directory's other entries.
//!
//! Every change of a name is one system call on the disk, after [placing](place) what is concerned: what a crash leaves
//! is the tree before or after it. Nothing here fetches content, and nothing waits for a peer: where the manifest has
//! not arrived yet, the answer is [`NamesError::NotYet`].
//!
//! An inode is known by an [`InodeKey`]: the manifest's index, wherever it lies by now, or the number of what was made
//! here. One that the manifest does not have where it lies is in a [table](located).
//!
//! Everything here blocks for system calls on the local disk. Names in one directory are changed one at a time.

use std::sync::atomic::{
    AtomicBool, AtomicU64,
    Ordering::{AcqRel, Acquire},
};
use std::sync::{Arc, Mutex, MutexGuard};

use rustix::fs::{FileType, OFlags, Stat};
use rustix::io::Errno;

use super::finish::set_xattrs;
use super::inodes::Marks;
use super::key::InodeKey;
use super::layout::Layout;
use super::lock;
use super::state::{self, State, Stated};
use crate::beneath;
use crate::git::{self, Shown};
use crate::manifest::{Entry, EntryIndex, Kind, Manifest, Mtime, NotYet};

mod change;
mod complete;
mod directory;
mod files;
mod groups;
mod inode;
mod list;
mod located;
mod look;
mod make;
mod moves;
mod place;
mod reach;
mod rename;
mod replace;
mod staging;

pub use change::Removed;
use directory::{Directories, Directory};
pub(super) use files::Files;
use groups::Groups;
pub use list::NameList;
use located::{Located, Name};
pub use make::Made;
use moves::Search;
pub use rename::Rename;
pub(super) use replace::{Spot, Successor};
use staging::Staging;

/// Directories that can be changed at the same time, at most.
const LOCKS: usize = 64;

/// Why a name cannot be looked at or changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NamesError {
    /// The system refused.
    #[error(transparent)]
    System(#[from] Errno),
    /// The part of the manifest that is needed has not arrived.
    #[error(transparent)]
    NotYet(#[from] NotYet),
}

impl From<NamesError> for std::io::Error {
    fn from(error: NamesError) -> Self {
        match error {
            NamesError::System(errno) => errno.into(),
            NamesError::NotYet(NotYet) => Self::other(NotYet),
        }
    }
}

/// What a name leads to.
#[derive(Debug)]
pub enum Found<'m> {
    /// The manifest's entry; the disk has nothing of it.
    Virtual(Entry<'m>),
    /// An inode on the disk.
    OnDisk(OnDisk),
}

/// An inode on the disk.
#[derive(Clone, Copy, Debug)]
pub struct OnDisk {
    /// What names it.
    pub key: InodeKey,
    /// What the disk says of it.
    pub stat: Stat,
    /// What it says of itself while it is unfinished.
    pub(super) state: Option<State>,
}

impl Found<'_> {
    /// What names the inode.
    pub fn key(&self) -> InodeKey {
        match self {
            Self::Virtual(entry) => InodeKey::Entry(entry.inode()),
            Self::OnDisk(found) => found.key,
        }
    }

    fn is_directory(&self) -> bool {
        match self {
            Self::Virtual(entry) => entry.kind() == Kind::Directory,
            Self::OnDisk(found) => found.is(FileType::Directory),
        }
    }
}

impl OnDisk {
    /// Its true permission bits, also while the disk has others.
    pub fn mode(&self) -> u16 {
        // The type's bits are above these.
        self.state.map_or((self.stat.st_mode & 0o7777) as u16, |state| state.mode)
    }

    /// When it was last modified by somebody who uses the clone, or at the origin.
    pub fn mtime(&self) -> Mtime {
        self.state.map_or(mtime_of(&self.stat), |state| state.mtime)
    }

    /// When it was last changed in that sense.
    pub fn ctime(&self) -> Mtime {
        let on_disk = Mtime { sec: self.stat.st_ctime, nsec: self.stat.st_ctime_nsec as u32 };
        self.state.map_or(on_disk, |state| state.ctime)
    }

    /// When its content was last used, as far as the disk notes it.
    pub fn atime(&self) -> Mtime {
        Mtime { sec: self.stat.st_atime, nsec: self.stat.st_atime_nsec as u32 }
    }

    /// True while it says something about itself that the disk does not.
    pub fn has_state(&self) -> bool {
        self.state.is_some()
    }

    /// The manifest's entry that it is, while it is unfinished.
    pub fn entry(&self) -> Option<EntryIndex> {
        self.state.and_then(|state| state.index)
    }

    /// True for a directory of which the disk may not have all entries.
    pub fn is_partial_directory(&self) -> bool {
        self.is(FileType::Directory)
            && self.state.is_some_and(|state| state.index.is_some() && !state.complete)
    }

    fn is(&self, kind: FileType) -> bool {
        FileType::from_raw_mode(self.stat.st_mode) == kind
    }
}

/// The names of a clone's own tree.
///
/// Lock order: `grouping`; the search's `looking`; those of `changing`, each lower one first; `placing`; then the leaves, which are all others.
#[derive(Debug)]
pub struct Names {
    layout: Arc<Layout>,
    manifest: Manifest,
    staging: Staging,
    root: Arc<Directory>,
    directories: Directories,
    located: Located,
    groups: Groups,
    /// Directories of the manifest that are not on the disk.
    absent: Marks,
    /// Entries that are no longer where the manifest has them.
    detached: Marks,
    /// Entries that have said, where the manifest has them, that they are it.
    stated: Marks,
    /// Before this process began, something of the manifest came to lie elsewhere: files without a state need not be
    /// what the manifest has in their place.
    had_moves: bool,
    /// Which of that has not been looked for.
    search: Search,
    /// That it does is noted on the disk.
    moves_noted: AtomicBool,
    /// Held while a directory is put on the disk, or found not to be there.
    placing: Mutex<()>,
    /// Held while a file with several names is put on the disk.
    grouping: Mutex<()>,
    /// Held while names in a directory are changed.
    changing: Box<[Mutex<()>]>,
    /// Changes of names that have begun.
    begun: AtomicU64,
    /// Those of them that have ended.
    ended: AtomicU64,
}

impl Names {
    /// The names of the tree in `layout`, whose first root is `manifest`'s. Some system calls, however much is on the disk.
    pub fn open(layout: Arc<Layout>, manifest: Manifest) -> Result<Self, NamesError> {
        let root = manifest.entry(EntryIndex(0)).ok_or(NotYet)?;
        let staging = Staging::open(beneath::open(layout.directory(), b"staging", DIRECTORY)?)?;
        let tree = beneath::open(layout.tree(), b"", DIRECTORY)?;
        if state::get(&tree)? == Stated::Nothing {
            set_xattrs(&tree, &root.extra())?;
            state::set(&tree, &State { remote_bytes: 0, ..State::of(&root, root.mode()) })?;
        }
        let root = Arc::new(Directory::new(ROOT, tree)?);
        let (entries, had_moves) = (manifest.entries(), layout.has_moves()?);
        Ok(Self {
            staging,
            root,
            directories: Directories::new(),
            located: Located::default(),
            groups: Groups::default(),
            absent: Marks::new(entries),
            detached: Marks::new(entries),
            stated: Marks::new(entries),
            had_moves,
            search: Search::new(had_moves),
            moves_noted: AtomicBool::new(had_moves),
            placing: Mutex::default(),
            grouping: Mutex::default(),
            changing: (0..LOCKS).map(|_| Mutex::default()).collect(),
            begun: AtomicU64::new(0),
            ended: AtomicU64::new(0),
            layout,
            manifest,
        })
    }

    /// What `name` in a directory leads to.
    pub fn lookup(&self, directory: InodeKey, name: &[u8]) -> Result<Option<Found<'_>>, NamesError> {
        match self.directory(directory)? {
            Some(directory) => self.look(&directory, name),
            None => Ok(self.child(self.entry_of(directory)?, name)?.map(Found::Virtual)),
        }
    }

    /// As [`lookup`](Self::lookup), if the answer needs no look at the disk; `None` if it does, or must be waited for.
    pub fn lookup_now(&self, directory: InodeKey, name: &[u8]) -> Option<Option<Entry<'_>>> {
        let InodeKey::Entry(index) = directory else { return None };
        if !self.absent.is_set(index) {
            return None;
        }
        self.child(index, name).ok()
    }

    /// What is known of an inode; ESTALE once it has no name any more.
    pub fn stat(&self, key: InodeKey) -> Result<Found<'_>, NamesError> {
        if key == ROOT {
            let (stat, state) = self.root.stat()?;
            return Ok(Found::OnDisk(OnDisk { key, stat, state }));
        }
        let Name { directory, name } = self.locate(key)?;
        let found = self.lookup(directory, &name)?.filter(|found| found.key() == key);
        Ok(found.ok_or(Errno::STALE)?)
    }

    /// The kernel is told of an inode that was found under a name.
    pub fn remember(&self, found: &Found<'_>, directory: InodeKey, name: &[u8]) {
        match found {
            // Somebody may have made it forget all there was before it is told.
            Found::OnDisk(OnDisk { key: key @ InodeKey::Local(_), stat, .. }) => {
                self.located.tell(*key, stat, directory, name);
            }
            found => self.located.remember(found.key()),
        }
    }

    /// The kernel has forgotten an inode so many times; true when it knows it no more.
    pub fn forget(&self, key: InodeKey, times: u64) -> bool {
        self.located.forget(key, times)
    }

    /// Writes what is only in memory: times of directories.
    pub fn sync(&self) -> Result<(), NamesError> {
        self.root.write_times()?;
        Ok(self.directories.write_times()?)
    }

    /// A name under which an inode is to be found.
    fn locate(&self, key: InodeKey) -> Result<Name, NamesError> {
        if let Some(name) = self.located.name(key) {
            return Ok(name);
        }
        let InodeKey::Entry(index) = key else { return Err(Errno::STALE.into()) };
        let entry = self.manifest.entry(index).ok_or(NotYet)?;
        if entry.nlink() > 1 && entry.kind() == Kind::File {
            for name in self.groups.names(&self.manifest, index)?.map(EntryIndex) {
                let at = self.position(&self.manifest.entry(name).ok_or(NotYet)?);
                // Nobody need have come by where it lies in a directory that was moved.
                let is_lost = || self.directory(at.directory).is_err_and(|error| error == STALE);
                if !self.detached.is_set(name) && !is_lost() {
                    return Ok(at);
                }
            }
            return Err(STALE);
        }
        match self.detached.is_set(index) {
            true => Err(Errno::STALE.into()),
            false => Ok(self.position(&entry)),
        }
    }

    /// Where the manifest has an entry.
    fn position(&self, entry: &Entry<'_>) -> Name {
        Name { directory: InodeKey::Entry(entry.parent()), name: entry.name().into() }
    }

    /// The manifest's directory that a virtual one is.
    fn entry_of(&self, directory: InodeKey) -> Result<EntryIndex, NamesError> {
        let InodeKey::Entry(index) = directory else { return Err(Errno::STALE.into()) };
        match self.manifest.entry(index).ok_or(NotYet)?.kind() {
            Kind::Directory => Ok(index),
            Kind::File | Kind::Symlink => Err(Errno::NOTDIR.into()),
        }
    }

    fn child(&self, directory: EntryIndex, name: &[u8]) -> Result<Option<Entry<'_>>, NotYet> {
        self.manifest.lookup(directory, name)
    }

    /// Keeps others from changing names in a directory, and changes none.
    fn unchanged(&self, directory: InodeKey) -> MutexGuard<'_, ()> {
        lock(&self.changing[lock_of(directory)])
    }

    /// Keeps others from changing names in these directories.
    fn changing<const N: usize>(&self, directories: [InodeKey; N]) -> Changing<'_> {
        let mut numbers = directories.map(lock_of);
        numbers.sort_unstable();
        let mut before = None;
        let apart = numbers.into_iter().filter(|number| before.replace(*number) != Some(*number));
        let locks = apart.map(|number| lock(&self.changing[number])).collect();
        self.begun.fetch_add(1, AcqRel);
        Changing { names: self, _locks: locks }
    }

    /// How many changes of names have begun, if none is under way.
    fn at_rest(&self) -> Option<u64> {
        let ended = self.ended.load(Acquire);
        (self.begun.load(Acquire) == ended).then_some(ended)
    }

    fn shown(&self, entry: &Entry<'_>) -> Result<Shown, NotYet> {
        git::shown(&self.manifest, entry)
    }
}

/// The number of the lock under which names in a directory are changed.
fn lock_of(directory: InodeKey) -> usize {
    match directory {
        InodeKey::Entry(index) => index.0 as usize % LOCKS,
        InodeKey::Local(number) => number as usize % LOCKS,
    }
}

pub(super) fn mtime_of(stat: &Stat) -> Mtime {
    Mtime { sec: stat.st_mtime, nsec: stat.st_mtime_nsec as u32 }
}

/// Names are being changed. Dropping it lets others change them.
struct Changing<'n> {
    names: &'n Names,
    _locks: Vec<MutexGuard<'n, ()>>,
}

impl Drop for Changing<'_> {
    fn drop(&mut self) {
        self.names.ended.fetch_add(1, AcqRel);
    }
}

/// It is not where it would be, and nobody has come by it elsewhere.
const STALE: NamesError = NamesError::System(Errno::STALE);

/// The tree's own directory.
const ROOT: InodeKey = InodeKey::Entry(EntryIndex(0));

/// How a directory is opened to be listed, synced and given xattrs.
const DIRECTORY: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY);

#[cfg(test)]
mod tests;
