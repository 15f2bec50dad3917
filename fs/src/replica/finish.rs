//! Turns a replica of which everything is here into ordinary trees.
//!
//! Every name of the manifest is put in its place, then the states are removed and the true modes and times applied:
//! only after a `syncfs` that began after the last block was written, since a file without a state claims to be
//! complete. All of it can be done again from the start after any interruption, and finds what was done.
//!
//! [Directories](directories) get their modes and times last. One that its own user could not enter or change is left
//! open to them until the tree has [settled](super::settle) and nothing beneath it has to be reached any more.

use std::fs::File;
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use rustix::fs::{AtFlags, FileType, Mode, OFlags, Timespec, Timestamps, XattrFlags};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use super::directories::{self, OPEN};
use super::engine::Engine;
use super::hydrate::is_all_here;
use super::inode::Inode;
use super::key::InodeKey;
use super::localize::OWN;
use super::lock;
use super::names::{Names, NamesError, OnDisk};
use super::state::{self, Stated};
use super::store::{StoreError, link_into, punch_bytes, to_errno, write_at};
use crate::beneath;
use crate::digest::BlockIndex;
use crate::git::{self, Shown};
use crate::manifest::{Entry, EntryIndex, Extra, Kind, Listing, Mtime};

/// The name under which a file waits to take the place of another one, in the directory of the anchors.
const WAITING: &str = "waiting";

/// Why a replica cannot be finished.
#[derive(Debug, thiserror::Error)]
pub enum FinishError {
    /// Something is still missing.
    #[error("not everything has been fetched yet")]
    Incomplete,
    /// The manifest shows nothing any more.
    #[error("the manifest cannot be read")]
    Manifest,
    /// Something cannot be put in its place.
    #[error("{path}: {doing}")]
    Disk {
        /// The path below its root.
        path: String,
        /// What was tried.
        doing: &'static str,
        /// What the system said.
        source: Errno,
    },
    /// The names of the tree cannot be put in their places.
    #[error("the tree cannot be completed: {0}")]
    Names(#[from] NamesError),
    /// What lies in its place was not put there by this replica.
    #[error("{path}: something else lies in its place")]
    Foreign {
        /// The path below its root.
        path: String,
    },
}

/// What a finished replica holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Receipt {
    /// Directories, the roots included.
    pub directories: u64,
    /// Files; those with several names count once.
    pub files: u64,
    /// Symbolic links.
    pub symlinks: u64,
    /// Bytes of the files.
    pub bytes: u64,
    /// Those of them that are the companions'.
    #[serde(default)]
    pub companion_bytes: u64,
}

/// Finishes the trees of all roots. Blocks: some tens of µs a name, and as long as the disk takes to write back.
pub(super) fn finish(engine: &Arc<Engine>, names: Option<&Names>) -> Result<Receipt, FinishError> {
    if !is_all_here(engine) {
        return Err(FinishError::Incomplete);
    }
    let layout = &engine.store.layout;
    let (mut receipt, first) = match names {
        Some(names) => (finish_changed(engine, names)?, 1),
        None => (Receipt::default(), 0),
    };
    let is_wanted =
        |entry: &Entry<'_>| engine.manifest.root_of(entry.index()).is_some_and(|root| root.0 >= first);
    let directories = engine.manifest.iter().filter(|entry| entry.kind() == Kind::Directory);
    for entry in directories.filter(is_wanted) {
        let directory = Directory::open(engine, &entry)?;
        let before = receipt.bytes;
        let Listing::Known(children) = engine.manifest.children(entry.index()) else {
            return Err(FinishError::Manifest);
        };
        for child in children {
            let child = engine.manifest.entry(EntryIndex(child)).ok_or(FinishError::Manifest)?;
            directory.place(&child, &mut receipt)?;
        }
        receipt.directories += 1;
        if engine.manifest.root_of(entry.index()) != Some(EntryIndex(0)) {
            receipt.companion_bytes += receipt.bytes - before;
        }
    }
    let tops = directories::tops(layout, &engine.manifest)?;
    directories::apply(&engine.manifest, &tops, first, |mode| mode & OPEN == OPEN)?;
    rustix::fs::syncfs(layout.directory()).map_err(|source| FinishError::Disk {
        path: ".".into(),
        doing: "it cannot be written back",
        source,
    })?;
    Ok(receipt)
}

/// Finishes a tree that may have been changed.
fn finish_changed(engine: &Arc<Engine>, names: &Names) -> Result<Receipt, FinishError> {
    names.complete()?;
    // What the last blocks were written before is on the disk when this has gone well.
    if !is_all_here(engine) {
        return Err(FinishError::Incomplete);
    }
    let receipt = names.survey(|found| finish_inode(engine, names, found))?;
    names.sync()?;
    Ok(receipt)
}

fn finish_inode(engine: &Arc<Engine>, names: &Names, found: &OnDisk) -> Result<(), FinishError> {
    let path = || found.entry().map_or_else(String::new, |index| engine.path(index));
    match FileType::from_raw_mode(found.stat.st_mode) {
        FileType::Directory => match names.finish_directory(found.key) {
            // It was removed meanwhile.
            Ok(()) | Err(NamesError::System(Errno::STALE)) => Ok(()),
            Err(error) => Err(error.into()),
        },
        FileType::RegularFile if found.entry().is_some() => {
            finish_changed_file(engine, found.key).map_err(|error| match error {
                StoreError::System(Errno::AGAIN) => FinishError::Incomplete,
                error => FinishError::Disk {
                    path: path(),
                    doing: "its mode and time cannot be set",
                    source: error.errno(),
                },
            })
        }
        _ => Ok(()),
    }
}

fn finish_changed_file(engine: &Arc<Engine>, key: InodeKey) -> Result<(), StoreError> {
    let inode = engine.inode(key).ok_or(Errno::NOENT)?;
    match engine.load(&inode) {
        Err(StoreError::Removed) => return Ok(()),
        loaded => loaded?,
    }
    // Nobody writes to it meanwhile.
    let _data = lock(&inode.data);
    let state = {
        let blocks = inode.lock();
        if !blocks.is_loaded(engine.generation()) || inode.first_missing(&blocks, 0, 1).is_some() {
            return Err(Errno::AGAIN.into());
        }
        blocks.state
    };
    let Some(state) = state else { return Ok(()) };
    let file = engine.file_for_writing(&inode)?;
    let extra = engine.manifest.entry(inode.index).map(|entry| entry.extra()).unwrap_or_default();
    let stat = rustix::fs::fstat(&*file)?;
    // When it was last read, the disk knows.
    let last_access = Timespec { tv_sec: stat.st_atime, tv_nsec: stat.st_atime_nsec as _ };
    let times = Timestamps { last_access, ..times(state.mtime) };
    rustix::fs::futimens(&*file, &times)?;
    engine.make_ordinary(&inode, &file, &state)?;
    let holes = extra.holes.iter().map(|hole| hole.start..hole.end.min(state.remote_bytes));
    make_holes(&file, holes)?;
    Ok(rustix::fs::futimens(&*file, &times)?)
}

/// A directory of the tree in the making.
struct Directory<'e> {
    engine: &'e Engine,
    /// Good for reaching names (`O_PATH`).
    at: OwnedFd,
}

impl<'e> Directory<'e> {
    /// The directory of `entry`, made if need be.
    fn open(engine: &'e Engine, entry: &Entry<'_>) -> Result<Self, FinishError> {
        let (top, path) =
            engine.store.layout.below(&engine.manifest, entry.index()).ok_or(FinishError::Manifest)?;
        match beneath::make_directories(top, &path) {
            Ok(at) => Ok(Self { engine, at }),
            Err(source) => {
                Err(FinishError::Disk { path: path.to_string(), doing: "it cannot be made", source })
            }
        }
    }

    fn place(&self, entry: &Entry<'_>, receipt: &mut Receipt) -> Result<(), FinishError> {
        let shown = git::shown(&self.engine.manifest, entry).map_err(|_| FinishError::Manifest)?;
        match (entry.kind(), shown) {
            (Kind::Directory, _) => self.make_directory(entry),
            (Kind::Symlink, shown) => {
                receipt.symlinks += 1;
                let target = match shown {
                    Shown::Withheld => git::WITHHELD_TARGET.to_vec(),
                    Shown::AsItIs | Shown::NotExecutable | Shown::Config(_) => entry.extra().target,
                };
                self.make_symlink(entry, &target)
            }
            (Kind::File, Shown::Config(text)) => {
                receipt.files += 1;
                receipt.bytes += text.len() as u64;
                self.make_text(entry, &text)
            }
            (Kind::File, shown) => {
                let is_first = entry.inode() == entry.index();
                receipt.files += u64::from(is_first);
                receipt.bytes += if is_first { entry.size() } else { 0 };
                self.make_file(entry, shown.mode(entry.mode()))
            }
        }
    }

    fn make_directory(&self, entry: &Entry<'_>) -> Result<(), FinishError> {
        match rustix::fs::mkdirat(&self.at, entry.name(), Mode::RWXU) {
            Ok(()) => Ok(()),
            Err(Errno::EXIST) => self.expect(entry, FileType::Directory),
            Err(errno) => Err(self.disk(entry, "it cannot be made", errno)),
        }
    }

    fn make_symlink(&self, entry: &Entry<'_>, target: &[u8]) -> Result<(), FinishError> {
        match rustix::fs::symlinkat(target, &self.at, entry.name()) {
            Ok(()) => {}
            Err(Errno::EXIST) => {
                let found = rustix::fs::readlinkat(&self.at, entry.name(), Vec::new());
                if !found.is_ok_and(|found| found.as_bytes() == target) {
                    return Err(self.foreign(entry));
                }
            }
            Err(errno) => return Err(self.disk(entry, "it cannot be made", errno)),
        }
        self.set_time(entry, entry.mtime())
    }

    /// Puts a file of our own content in place of whatever was fetched there.
    fn make_text(&self, entry: &Entry<'_>, text: &[u8]) -> Result<(), FinishError> {
        let make = || -> Result<(), Errno> {
            let links = self.engine.store.layout.links();
            let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
            let file = File::from(rustix::fs::openat(links, ".", flags, Mode::RUSR | Mode::WUSR)?);
            write_at(&file, text, 0).map_err(|(_, errno)| errno)?;
            apply(&file, &Extra::default(), entry.mode(), entry.mtime())?;
            match rustix::fs::unlinkat(links, WAITING, AtFlags::empty()) {
                Ok(()) | Err(Errno::NOENT) => {}
                Err(errno) => return Err(errno),
            }
            link_into(file.as_fd(), links, WAITING.as_bytes())?;
            rustix::fs::renameat(links, WAITING, &self.at, entry.name())
        };
        make().map_err(|errno| self.disk(entry, "it cannot be made", errno))
    }

    fn make_file(&self, entry: &Entry<'_>, mode: u16) -> Result<(), FinishError> {
        let Engine { store, manifest, .. } = self.engine;
        let first = manifest.entry(entry.inode()).ok_or(FinishError::Manifest)?;
        let inode = self.engine.inode(first.index().into()).ok_or(FinishError::Manifest)?;
        // Nobody writes to it meanwhile.
        let _data = lock(&inode.data);
        let file = match store.open_as(manifest, &first, OFlags::RDWR) {
            Ok(Some(file)) => file,
            Ok(None) => store.make(manifest, &first).map_err(|error| self.unusable(entry, &error))?,
            Err(StoreError::System(Errno::ACCESS)) => return self.finish_closed(entry, &first),
            Err(error) => return Err(self.unusable(entry, &error)),
        };
        self.link(entry, &first, file.as_fd())?;
        self.finish_file(&inode, &first, &file, mode)
            .map_err(|errno| self.disk(entry, "its mode and time cannot be set", errno))
    }

    /// Makes an ordinary file of one of which everything is here. Its inode's `data` is held.
    fn finish_file(
        &self,
        inode: &Arc<Inode>,
        first: &Entry<'_>,
        file: &File,
        mode: u16,
    ) -> Result<(), Errno> {
        self.engine.save(inode).map_err(|error| error.errno())?;
        let extra = first.extra();
        let (mode, mtime, remote) = match state::get(file)? {
            // What was changed here stays changed.
            Stated::Unfinished(state) if state.mode != first.mode() => {
                (state.mode, state.mtime, state.remote_bytes)
            }
            Stated::Unfinished(state) => (mode, state.mtime, state.remote_bytes),
            Stated::Nothing if self.engine.places.is_writable(inode.key) => return Ok(()),
            Stated::Nothing | Stated::Unknown => (mode, first.mtime(), first.size()),
        };
        set_xattrs(file, &extra)?;
        rustix::fs::fchmod(file, Mode::from_raw_mode((mode | OWN).into()))?;
        state::remove(file)?;
        inode.lock().became_local(inode);
        make_holes(file, extra.holes.iter().map(|hole| hole.start..hole.end.min(remote)))?;
        apply(file, &Extra::default(), mode, mtime)
    }

    /// A file that has its true mode already, which forbids its own user to write to it.
    fn finish_closed(&self, entry: &Entry<'_>, first: &Entry<'_>) -> Result<(), FinishError> {
        let found = self.engine.store.open_as(&self.engine.manifest, first, OFlags::PATH);
        let file = found.map_err(|error| self.unusable(entry, &error))?.ok_or_else(|| self.foreign(entry))?;
        self.link(entry, first, file.as_fd())?;
        self.set_time(entry, first.mtime())
    }

    /// Gives a file with several names this one.
    fn link(&self, entry: &Entry<'_>, first: &Entry<'_>, file: BorrowedFd<'_>) -> Result<(), FinishError> {
        if first.nlink() < 2 {
            return Ok(());
        }
        match link_into(file, self.at.as_fd(), entry.name()) {
            Ok(()) => Ok(()),
            Err(Errno::EXIST) if self.is_same(entry, file) => Ok(()),
            Err(Errno::EXIST) => Err(self.foreign(entry)),
            Err(errno) => Err(self.disk(entry, "it cannot be linked", errno)),
        }
    }

    fn set_time(&self, entry: &Entry<'_>, mtime: Mtime) -> Result<(), FinishError> {
        rustix::fs::utimensat(&self.at, entry.name(), &times(mtime), AtFlags::SYMLINK_NOFOLLOW)
            .map_err(|errno| self.disk(entry, "its time cannot be set", errno))
    }

    fn is_same(&self, entry: &Entry<'_>, file: BorrowedFd<'_>) -> bool {
        let identity = |stat: rustix::fs::Stat| (stat.st_dev, stat.st_ino);
        let here = rustix::fs::statat(&self.at, entry.name(), AtFlags::SYMLINK_NOFOLLOW).map(identity);
        here.is_ok() && here == rustix::fs::fstat(file).map(identity)
    }

    fn expect(&self, entry: &Entry<'_>, kind: FileType) -> Result<(), FinishError> {
        let found = rustix::fs::statat(&self.at, entry.name(), AtFlags::SYMLINK_NOFOLLOW);
        match found.map(|stat| FileType::from_raw_mode(stat.st_mode)) {
            Ok(found) if found == kind => Ok(()),
            Ok(_) => Err(self.foreign(entry)),
            Err(errno) => Err(self.disk(entry, "it cannot be looked at", errno)),
        }
    }

    fn path(&self, entry: &Entry<'_>) -> String {
        self.engine.path(entry.index())
    }

    fn disk(&self, entry: &Entry<'_>, doing: &'static str, source: Errno) -> FinishError {
        FinishError::Disk { path: self.path(entry), doing, source }
    }

    fn foreign(&self, entry: &Entry<'_>) -> FinishError {
        FinishError::Foreign { path: self.path(entry) }
    }

    fn unusable(&self, entry: &Entry<'_>, error: &StoreError) -> FinishError {
        match error {
            StoreError::System(errno) => self.disk(entry, "it cannot be opened", *errno),
            StoreError::Foreign(_) => self.foreign(entry),
            StoreError::Removed => self.disk(entry, "it was removed", error.errno()),
        }
    }
}

/// Makes holes where the origin's file has them within blocks that were written whole. After the file's state is
/// gone: as long as its extents tell what is here, a hole is something missing.
fn make_holes(file: &File, holes: impl Iterator<Item = Range<u64>>) -> Result<(), Errno> {
    for hole in holes.filter(|hole| !hole.is_empty()) {
        // What lies between is whole blocks, which were never written.
        let end_of_first = BlockIndex(BlockIndex::containing(hole.start).0 + 1).offset();
        let start_of_last = BlockIndex::containing(hole.end).offset();
        let edges = match end_of_first <= start_of_last {
            true => [hole.start..end_of_first, start_of_last..hole.end],
            false => [hole.clone(), hole.end..hole.end],
        };
        for edge in edges.iter().filter(|edge| !edge.is_empty()) {
            let mut bytes = vec![0; (edge.end - edge.start) as usize];
            file.read_exact_at(&mut bytes, edge.start).map_err(to_errno)?;
            // Whatever its hole map says: what was verified is the content.
            if bytes.iter().all(|byte| *byte == 0) {
                give_back(file, edge)?;
            }
        }
    }
    Ok(())
}

/// Gives back the space of zeros, where the filesystem and the file's mode let it.
fn give_back(file: &File, zeros: &Range<u64>) -> Result<(), Errno> {
    match punch_bytes(file, zeros) {
        Ok(()) | Err(Errno::OPNOTSUPP | Errno::BADF) => Ok(()),
        Err(errno) => Err(errno),
    }
}

/// Applies what an entry shows beyond its content. The mode last: what has it needs nothing more.
pub(super) fn apply(file: impl AsFd, extra: &Extra, mode: u16, mtime: Mtime) -> Result<(), Errno> {
    let file = file.as_fd();
    set_xattrs(file, extra)?;
    rustix::fs::futimens(file, &times(mtime))?;
    rustix::fs::fchmod(file, Mode::from_raw_mode(mode.into()))
}

/// Applies an entry's xattrs.
pub(super) fn set_xattrs(file: impl AsFd, extra: &Extra) -> Result<(), Errno> {
    let file = file.as_fd();
    extra.xattrs.iter().try_for_each(|(name, value)| {
        rustix::fs::fsetxattr(file, name.as_slice(), value, XattrFlags::empty())
    })
}

/// Both times of a file whose content is as old as `mtime`.
pub(super) fn times(mtime: Mtime) -> Timestamps {
    let time = Timespec { tv_sec: mtime.sec, tv_nsec: mtime.nsec.into() };
    Timestamps { last_access: time, last_modification: time }
}
