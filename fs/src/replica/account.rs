//! What a replica can tell of one file or directory: what of it is here, and how it came.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use rustix::fs::FileType;
use rustix::io::Errno;

use super::Replica;
use super::engine::Engine;
use super::hydrate::is_content;
use super::inode::Inode;
use super::key::InodeKey;
use super::names::{Found, Names, NamesError};
use super::pins::Pin;
use super::reader::Program;
use super::reads::{Awaited, Came, Waited};
use super::state::State;
use super::store::StoreError;
use crate::digest::block_count;
use crate::manifest::{Entry, EntryIndex, Kind, Listing, Manifest, NotYet};

/// What is told of a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Account {
    /// Of a file.
    File(FileAccount),
    /// Of a directory.
    Directory(DirectoryAccount),
    /// A symbolic link, which is here from the start.
    Symlink,
}

/// What is told of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileAccount {
    /// How much of it is here, in a word.
    pub presence: Presence,
    /// True when it was changed here.
    pub is_changed: bool,
    /// Its length.
    pub bytes: u64,
    /// Blocks that are here, of those that come from the origin; holes are here from the start.
    pub blocks_here: u64,
    /// Blocks that come from the origin.
    pub blocks: u64,
    /// How its content came, as far as it is remembered.
    pub came: Option<Came>,
    /// How it was waited for, as far as it is remembered.
    pub waited: Option<Waited>,
    /// Who waits for it now.
    pub reading: Vec<Reading>,
}

/// How much of a file is here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Presence {
    /// Nothing.
    Virtual,
    /// Some of it.
    Partial,
    /// All of it, as the origin has it.
    Resident,
    /// All of it, and no longer as the origin has it: it was made or changed here.
    Local,
    /// It is made here in place of the origin's: a git configuration.
    Substitute,
}

/// What is told of a directory and all below it, as the origin has it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DirectoryAccount {
    /// True when it was made here: the origin has nothing there.
    pub is_made_here: bool,
    /// Files; those with several names count once.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Those of them that are here as a whole; `None` while that is being counted.
    pub files_here: Option<u64>,
    /// Their bytes.
    pub bytes_here: Option<u64>,
}

/// A read that waits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reading {
    /// The root of the file.
    pub root: u32,
    /// The file, below its root.
    pub path: Vec<u8>,
    /// Who reads it; `None` for who cannot be seen from here, as in a container.
    pub program: Option<Program>,
    /// For how long.
    pub waits_for: Duration,
}

/// Why nothing is told of a path.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AccountError {
    /// Nothing lies there.
    #[error("there is no such file")]
    NoSuchFile,
    /// The part of the manifest that tells has not arrived.
    #[error("the list of files has not arrived so far yet")]
    NotYet,
    /// The disk failed, or something foreign lies there.
    #[error("what lies there cannot be looked at: {0}")]
    Disk(Errno),
}

impl From<NotYet> for AccountError {
    fn from(NotYet: NotYet) -> Self {
        Self::NotYet
    }
}

impl From<NamesError> for AccountError {
    fn from(error: NamesError) -> Self {
        match error {
            NamesError::System(Errno::NOENT | Errno::STALE | Errno::NOTDIR) => Self::NoSuchFile,
            NamesError::System(errno) => Self::Disk(errno),
            NamesError::NotYet(_) => Self::NotYet,
        }
    }
}

impl From<StoreError> for AccountError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Removed => Self::NoSuchFile,
            error => Self::Disk(error.errno()),
        }
    }
}

/// What a path leads to.
enum Place {
    File(InodeKey),
    /// With the manifest's directory of the same inode.
    Directory(Option<EntryIndex>),
    Symlink,
}

impl Replica {
    /// What is waited for now, the longest wait first; `max` at most, one for each file and program.
    pub fn reading(&self, max: usize) -> Vec<Reading> {
        self.engine.reads.now(max).into_iter().filter_map(|awaited| self.told(awaited)).collect()
    }

    fn told(&self, Awaited { file, program, for_so_long }: Awaited) -> Option<Reading> {
        let (root, path) = self.path_of(file)?;
        Some(Reading { root, path, program, waits_for: for_so_long })
    }

    /// What can be told of what lies at `path` below a root; links on the way are not followed. Blocks on the disk, never
    /// for the origin.
    pub fn account(&self, root: u32, path: &[u8]) -> Result<Account, AccountError> {
        let names = path.split(|byte| *byte == b'/').filter(|name| !name.is_empty());
        let place = match self.names() {
            Some(tree) if root == 0 => changed_place(tree, names)?,
            _ => self.place(root, names)?,
        };
        match place {
            Place::File(key) => self.file_account(key).map(Account::File),
            Place::Directory(index) => directory_account(&self.engine, index).map(Account::Directory),
            Place::Symlink => Ok(Account::Symlink),
        }
    }

    /// The file at `path` below the first root.
    pub(super) fn file_at(&self, path: &[u8]) -> Result<InodeKey, AccountError> {
        let names = path.split(|byte| *byte == b'/').filter(|name| !name.is_empty());
        let place = match self.names() {
            Some(tree) => changed_place(tree, names)?,
            None => self.place(0, names)?,
        };
        match place {
            Place::File(key) => Ok(key),
            Place::Directory(_) | Place::Symlink => Err(AccountError::NoSuchFile),
        }
    }

    fn place<'n>(&self, root: u32, names: impl Iterator<Item = &'n [u8]>) -> Result<Place, AccountError> {
        entry_below(self.manifest(), root, names).map(|entry| place_of(&entry))
    }

    fn file_account(&self, key: InodeKey) -> Result<FileAccount, AccountError> {
        let engine = &self.engine;
        let inode = engine.inode(key).ok_or(AccountError::NoSuchFile)?;
        let (came, waited) = engine.reads.of(inode.key);
        let reading = engine.reads.now(usize::MAX).into_iter().filter(|read| read.file == inode.key);
        let reading = reading.filter_map(|read| self.told(read)).collect();
        let told = FileAccount { came, waited, reading, ..content_account(engine, &inode)? };
        Ok(told)
    }

    /// Where an inode lies now: the root, and the path below it.
    fn path_of(&self, key: InodeKey) -> Option<(u32, Vec<u8>)> {
        let root = key.entry().and_then(|index| self.manifest().root_of(index));
        match (self.names(), root) {
            (Some(names), None | Some(EntryIndex(0))) => Some((0, names.path(key).ok()?)),
            (_, Some(root)) => Some((root.0, self.manifest().locate(key.entry()?)?.1.as_bytes().to_vec())),
            (None, None) => None,
        }
    }
}

/// The entry of the manifest that a pin names.
pub(super) fn entry_at<'m>(manifest: &'m Manifest, pin: &Pin) -> Result<Entry<'m>, AccountError> {
    let names = pin.path.split(|byte| *byte == b'/').filter(|name| !name.is_empty());
    entry_below(manifest, pin.root, names)
}

fn entry_below<'m, 'n>(
    manifest: &'m Manifest,
    root: u32,
    names: impl Iterator<Item = &'n [u8]>,
) -> Result<Entry<'m>, AccountError> {
    let root = manifest.roots().find(|index| index.0 == root);
    let mut at = root.and_then(|root| manifest.entry(root)).ok_or(AccountError::NoSuchFile)?;
    for name in names {
        if at.kind() != Kind::Directory {
            return Err(AccountError::NoSuchFile);
        }
        at = manifest.lookup(at.index(), name)?.ok_or(AccountError::NoSuchFile)?;
    }
    Ok(at)
}

fn changed_place<'n>(tree: &Names, names: impl Iterator<Item = &'n [u8]>) -> Result<Place, AccountError> {
    let mut at = InodeKey::Entry(EntryIndex(0));
    let mut place = Place::Directory(Some(EntryIndex(0)));
    for name in names {
        if !matches!(place, Place::Directory(_)) {
            return Err(AccountError::NoSuchFile);
        }
        let found = tree.lookup(at, name)?.ok_or(AccountError::NoSuchFile)?;
        at = found.key();
        place = match &found {
            Found::Virtual(entry) => place_of(entry),
            Found::OnDisk(on_disk) => match FileType::from_raw_mode(on_disk.stat.st_mode) {
                FileType::Directory => Place::Directory(at.entry()),
                FileType::RegularFile => Place::File(at),
                // Of what else may lie there, links aside, nothing comes from the origin either.
                _ => Place::Symlink,
            },
        };
    }
    Ok(place)
}

fn place_of(entry: &Entry<'_>) -> Place {
    match entry.kind() {
        Kind::File => Place::File(InodeKey::Entry(entry.inode())),
        Kind::Directory => Place::Directory(Some(entry.index())),
        Kind::Symlink => Place::Symlink,
    }
}

/// What the disk has of a file.
fn content_account(engine: &Arc<Engine>, inode: &Arc<Inode>) -> Result<FileAccount, AccountError> {
    let told = |presence, is_changed, bytes, (blocks_here, blocks)| FileAccount {
        presence,
        is_changed,
        bytes,
        blocks_here,
        blocks,
        came: None,
        waited: None,
        reading: Vec::new(),
    };
    if inode.is_ours {
        return Ok(told(Presence::Substitute, false, inode.origin_bytes, (0, 0)));
    }
    engine.load(inode)?;
    let entry = inode.key.entry().and_then(|index| engine.manifest.entry(index));
    let (state, (here, all)) = {
        let blocks = inode.lock();
        (blocks.state, blocks.here())
    };
    let is_changed = match &entry {
        Some(entry) => is_changed(engine, inode, entry, state),
        None => true,
    };
    let presence = match () {
        () if here < all && here == 0 => Presence::Virtual,
        () if here < all => Presence::Partial,
        () if is_changed => Presence::Local,
        () => Presence::Resident,
    };
    // What a finished file once had from the origin.
    let blocks = if state.is_none() && !is_changed { block_count(inode.origin_bytes) } else { all };
    Ok(told(presence, is_changed, inode.size(), (here + (blocks - all), blocks)))
}

/// True when a file of the manifest has another length or time than there. An ordinary one has them on the disk.
fn is_changed(engine: &Engine, inode: &Arc<Inode>, entry: &Entry<'_>, state: Option<State>) -> bool {
    let mtime = state.map(|state| state.mtime).or_else(|| {
        let file = engine.file(inode).ok().flatten()?;
        Some(super::names::mtime_of(&rustix::fs::fstat(&file).ok()?))
    });
    inode.size() != entry.size() || mtime.is_some_and(|mtime| mtime != entry.mtime())
}

/// What is below a directory of the manifest.
fn directory_account(
    engine: &Arc<Engine>,
    index: Option<EntryIndex>,
) -> Result<DirectoryAccount, AccountError> {
    let ledger = engine.ledger();
    let is_counted = ledger.is_counted.load(Relaxed);
    let mut told = DirectoryAccount { is_made_here: index.is_none(), ..DirectoryAccount::default() };
    let (mut files_here, mut bytes_here) = (0, 0);
    let mut directories: Vec<EntryIndex> = index.into_iter().collect();
    while let Some(directory) = directories.pop() {
        let Listing::Known(children) = engine.manifest.children(directory) else {
            return Err(AccountError::NotYet);
        };
        for child in children.filter_map(|child| engine.manifest.entry(EntryIndex(child))) {
            match child.kind() {
                Kind::Directory => directories.push(child.index()),
                Kind::File if child.inode() == child.index() && !engine.is_forgotten(child.index()) => {
                    let is_here = ledger.is_complete(child.index()) || !is_content(engine, &child);
                    told.files += 1;
                    told.bytes += child.size();
                    files_here += u64::from(is_here);
                    bytes_here += if is_here { child.size() } else { 0 };
                }
                Kind::File | Kind::Symlink => {}
            }
        }
    }
    (told.files_here, told.bytes_here) = (is_counted.then_some(files_here), is_counted.then_some(bytes_here));
    Ok(told)
}
