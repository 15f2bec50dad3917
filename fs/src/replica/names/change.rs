//! Changing names: each change is one system call on the disk, after what is concerned has been placed.

use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::Ordering::{Acquire, Release};

use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, RenameFlags, Stat, Uid};
use rustix::io::Errno;

use super::super::directories::OPEN;
use super::super::state::{self, State};
use super::directory::{Directory, Look};
use super::staging::{NO_DEVICE, is_whiteout};
use super::{Found, InodeKey, Names, NamesError, OnDisk, mtime_of};
use crate::beneath;
use crate::clock;
use crate::filesystem::Owner;
use crate::manifest::{Entry, Kind, Mtime};

/// What is made.
#[derive(Clone, Debug)]
pub enum Made {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link to this target.
    Symlink(Vec<u8>),
    /// A FIFO, a socket or a device with this number.
    Special(FileType, u64),
}

/// What a rename does where the new name is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rename {
    /// Takes its place.
    Replace,
    /// Fails with EEXIST.
    NoReplace,
    /// Takes its place, and it takes the other's. Both must be there.
    Exchange,
}

/// An inode that has lost a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Removed {
    /// What names it.
    pub key: InodeKey,
    /// It has no other: it is no more once nobody has it open.
    pub was_last: bool,
}

/// A name that is changed.
struct Place<'n> {
    directory: Arc<Directory>,
    name: &'n [u8],
    /// What the disk has there.
    look: Look,
}

impl Names {
    /// Makes something with permission bits `mode`, of which no mask takes any away.
    pub fn make(
        &self,
        directory: InodeKey,
        name: &[u8],
        made: &Made,
        mode: u16,
        owner: Option<Owner>,
    ) -> Result<OnDisk, NamesError> {
        Ok(self.make_and_open(directory, name, made, mode, owner)?.0)
    }

    /// Makes a regular file and opens it for reading and writing, whatever its mode.
    pub fn create(
        &self,
        directory: InodeKey,
        name: &[u8],
        mode: u16,
        owner: Option<Owner>,
    ) -> Result<(OnDisk, OwnedFd), NamesError> {
        let (found, file) = self.make_and_open(directory, name, &Made::File, mode, owner)?;
        Ok((found, file.ok_or(Errno::IO)?))
    }

    fn make_and_open(
        &self,
        directory: InodeKey,
        name: &[u8],
        made: &Made,
        mode: u16,
        owner: Option<Owner>,
    ) -> Result<(OnDisk, Option<OwnedFd>), NamesError> {
        let directory = self.placed_directory(directory)?;
        if matches!(made, Made::Special(FileType::CharacterDevice, NO_DEVICE)) {
            refuse_whiteout(&directory)?;
        }
        let _changing = self.changing([directory.key]);
        let place = self.free(directory, name)?;
        let is_directory = matches!(made, Made::Directory);
        let (mode, owner) = inherited(&place.directory, is_directory, mode, owner)?;
        let file = self.put(&place, is_directory, |at, name| make(at, name, made, mode, owner))?;
        Ok((self.found_at(&place)?, file))
    }

    /// Gives an inode a further name.
    pub fn link(&self, key: InodeKey, directory: InodeKey, name: &[u8]) -> Result<OnDisk, NamesError> {
        let stat = self.place(key)?.stat;
        let old = self.locate(key)?;
        let from = self.directory(old.directory)?.ok_or(Errno::STALE)?;
        let directory = self.placed_directory(directory)?;
        if is_whiteout(&stat) {
            refuse_whiteout(&directory)?;
        }
        let _changing = self.changing([directory.key]);
        let place = self.free(directory, name)?;
        self.note_move(key)?;
        self.put(&place, false, |at, name| {
            rustix::fs::linkat(from.fd(), &*old.name, at, name, AtFlags::empty())
        })?;
        // Without a state nothing else tells what it is.
        self.located.add(key, &stat, place.directory.key, name);
        self.found_at(&place)
    }

    /// Takes a name away from anything but a directory.
    pub fn unlink(&self, directory: InodeKey, name: &[u8]) -> Result<Removed, NamesError> {
        let found = self.lookup(directory, name)?.ok_or(Errno::NOENT)?;
        if found.is_directory() {
            return Err(Errno::ISDIR.into());
        }
        if let Found::Virtual(entry) = &found
            && entry.nlink() > 1
        {
            self.place(found.key())?;
        }
        let directory = self.placed_directory(directory)?;
        let _changing = self.changing([directory.key]);
        self.take(&directory, name)
    }

    /// Removes an empty directory.
    pub fn remove_directory(&self, directory: InodeKey, name: &[u8]) -> Result<Removed, NamesError> {
        let found = self.lookup(directory, name)?.ok_or(Errno::NOENT)?;
        if !found.is_directory() {
            return Err(Errno::NOTDIR.into());
        }
        let key = found.key();
        let directory = self.placed_directory(directory)?;
        let _changing = self.changing([directory.key, key]);
        self.clear(key)?;
        let removed = self.take(&directory, name)?;
        self.directories.forget(key);
        Ok(removed)
    }

    /// Gives what has one name another one; tells what lost that name by it.
    pub fn rename(
        &self,
        from: (InodeKey, &[u8]),
        to: (InodeKey, &[u8]),
        how: Rename,
    ) -> Result<Option<Removed>, NamesError> {
        let source = self.lookup(from.0, from.1)?.ok_or(Errno::NOENT)?;
        let (key, is_directory) = (source.key(), source.is_directory());
        self.place(key)?;
        let replaced = self.lookup(to.0, to.1)?;
        let other = match (&replaced, how) {
            (Some(_), Rename::NoReplace) => return Err(Errno::EXIST.into()),
            (None, Rename::Exchange) => return Err(Errno::NOENT.into()),
            (Some(found), _) => Some((found.key(), found.is_directory())),
            (None, _) => None,
        };
        match other {
            _ if how == Rename::Exchange => {}
            Some((_, true)) if !is_directory => return Err(Errno::ISDIR.into()),
            Some((_, false)) if is_directory => return Err(Errno::NOTDIR.into()),
            _ => {}
        }
        if let Some((other, _)) = other
            && (how == Rename::Exchange || self.has_names(other))
        {
            self.place(other)?;
        }
        self.note_move(key)?;
        let (source, target) = (self.placed_directory(from.0)?, self.placed_directory(to.0)?);
        let emptied = other.filter(|(_, is_directory)| *is_directory && how != Rename::Exchange);
        let emptied = emptied.map_or(source.key, |(other, _)| other);
        let _changing = self.changing([source.key, target.key, emptied]);
        let source = self.taken(source, from.1)?;
        if let Look::There(stat, _) = &source.look
            && is_whiteout(stat)
        {
            refuse_whiteout(&target)?;
        }
        let look = target.look(to.1)?;
        let target = Place { directory: target, name: to.1, look };
        if how == Rename::Exchange
            && let Some((other, _)) = other
        {
            if let Look::There(stat, _) = &target.look
                && is_whiteout(stat)
            {
                refuse_whiteout(&source.directory)?;
            }
            self.note_move(other)?;
            rename(&source, &target, RenameFlags::EXCHANGE)?;
            self.exchanged(&source, key, &target, other)?;
            return Ok(None);
        }
        if let Some((other, true)) = other {
            self.clear(other)?;
        }
        self.move_over(&source, &target, is_directory)?;
        let removed = other.map(|(other, _)| self.lost(other, &target));
        self.moved(key, &source, &target)?;
        Ok(removed)
    }

    /// Changes the permission bits of a directory.
    pub fn set_directory_mode(&self, key: InodeKey, mode: u16) -> Result<(), NamesError> {
        let directory = self.placed_directory(key)?;
        let now = clock::now();
        let changed = directory.change(|state| (state.mode, state.ctime) = (mode, now))?;
        if !changed {
            if mode & OPEN == OPEN {
                rustix::fs::fchmod(directory.fd(), Mode::from_raw_mode(mode.into()))?;
            } else {
                // Its own user could not work in it, nor could we.
                let mtime = mtime_of(&rustix::fs::fstat(directory.fd())?);
                let state = made_here(mode, mtime, now);
                directory.adopt(state)?;
                rustix::fs::fchmod(directory.fd(), Mode::RWXU)?;
            }
        }
        Ok(())
    }

    /// What an on-disk name that was just made leads to.
    fn found_at(&self, place: &Place<'_>) -> Result<OnDisk, NamesError> {
        place.directory.touch()?;
        match self.look(&place.directory, place.name)? {
            Some(Found::OnDisk(found)) => Ok(found),
            _ => Err(Errno::STALE.into()),
        }
    }

    /// A name that nobody sees anything at.
    fn free<'n>(&self, directory: Arc<Directory>, name: &'n [u8]) -> Result<Place<'n>, NamesError> {
        let look = directory.look(name)?;
        let is_taken = match &look {
            Look::There(..) => true,
            Look::Whiteout => false,
            Look::Nothing => self.here(&directory, name)?.is_some(),
        };
        if is_taken { Err(Errno::EXIST.into()) } else { Ok(Place { directory, name, look }) }
    }

    /// A name under which the disk has something.
    fn taken<'n>(&self, directory: Arc<Directory>, name: &'n [u8]) -> Result<Place<'n>, NamesError> {
        match directory.look(name)? {
            look @ Look::There(..) => Ok(Place { directory, name, look }),
            Look::Nothing | Look::Whiteout => Err(Errno::STALE.into()),
        }
    }

    /// The entry of the manifest that shows through under a name unless the disk has something there.
    fn here(&self, directory: &Directory, name: &[u8]) -> Result<Option<Entry<'_>>, NamesError> {
        match directory.shows() {
            Some(entry) => Ok(self.child(entry, name)?),
            None => Ok(None),
        }
    }

    /// Makes something under a free name: at once, or in place of a whiteout.
    fn put<T>(
        &self,
        place: &Place<'_>,
        is_directory: bool,
        make: impl FnOnce(BorrowedFd<'_>, &[u8]) -> Result<T, Errno>,
    ) -> Result<T, NamesError> {
        // What comes to lie there is not what the manifest has there.
        self.detach(&place.directory, place.name)?;
        if !matches!(place.look, Look::Whiteout) {
            return Ok(make(place.directory.fd(), place.name)?);
        }
        let (staging, made) = (self.staging.at(), self.staging.name());
        let result = make(staging, &made)?;
        // A directory cannot take the place of anything else.
        let flags = if is_directory { RenameFlags::EXCHANGE } else { RenameFlags::empty() };
        rustix::fs::renameat_with(staging, made.as_slice(), place.directory.fd(), place.name, flags)?;
        if is_directory {
            rustix::fs::unlinkat(staging, made.as_slice(), AtFlags::empty())?;
        }
        Ok(result)
    }

    /// Takes a name away.
    fn take(&self, directory: &Directory, name: &[u8]) -> Result<Removed, NamesError> {
        let here = self.here(directory, name)?;
        let removed = match self.look(directory, name)? {
            None => return Err(Errno::NOENT.into()),
            Some(Found::Virtual(entry)) => {
                self.staging.white_out(directory.fd(), name)?;
                Removed { key: InodeKey::Entry(entry.inode()), was_last: true }
            }
            Some(Found::OnDisk(found)) => {
                match (here.is_some(), found.is(FileType::Directory)) {
                    (true, _) => self.staging.take(directory.fd(), name, true)?,
                    (false, false) => rustix::fs::unlinkat(directory.fd(), name, AtFlags::empty())?,
                    (false, true) => rustix::fs::unlinkat(directory.fd(), name, AtFlags::REMOVEDIR)?,
                }
                self.lose(found.key, &found.stat, directory, name)
            }
        };
        self.detach(directory, name)?;
        directory.touch()?;
        Ok(removed)
    }

    /// An inode on the disk has lost a name.
    fn lose(&self, key: InodeKey, stat: &Stat, directory: &Directory, name: &[u8]) -> Removed {
        let is_directory = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
        let was_last = is_directory || stat.st_nlink == 1;
        self.located.remove(key, directory.key, name);
        if was_last {
            self.located.gone(key);
        }
        Removed { key, was_last }
    }

    /// Nothing is where the manifest has something under this name.
    fn detach(&self, directory: &Directory, name: &[u8]) -> Result<(), NamesError> {
        if let Some(entry) = directory.entry()
            && let Some(child) = self.child(entry, name)?
        {
            self.detached.set(child.index());
        }
        Ok(())
    }

    /// Moves what lies at one name to another, where nobody sees anything or what may go.
    fn move_over(
        &self,
        source: &Place<'_>,
        target: &Place<'_>,
        is_directory: bool,
    ) -> Result<(), NamesError> {
        let white_out = self.here(&source.directory, source.name)?.is_some();
        if is_directory && matches!(target.look, Look::Whiteout) {
            // A directory cannot take its place; changing places leaves it where it may be needed.
            rename(source, target, RenameFlags::EXCHANGE)?;
            if !white_out {
                rustix::fs::unlinkat(source.directory.fd(), source.name, AtFlags::empty())?;
            }
            return Ok(());
        }
        let flags = if white_out { RenameFlags::WHITEOUT } else { RenameFlags::empty() };
        Ok(rename(source, target, flags)?)
    }

    fn moved(&self, key: InodeKey, source: &Place<'_>, target: &Place<'_>) -> Result<(), NamesError> {
        if let Look::There(stat, _) = &source.look {
            self.located.add(key, stat, target.directory.key, target.name);
        }
        self.located.remove(key, source.directory.key, source.name);
        self.detach(&source.directory, source.name)?;
        self.detach(&target.directory, target.name)?;
        source.directory.touch()?;
        Ok(target.directory.touch()?)
    }

    fn exchanged(
        &self,
        source: &Place<'_>,
        key: InodeKey,
        target: &Place<'_>,
        other: InodeKey,
    ) -> Result<(), NamesError> {
        if let Look::There(stat, _) = &target.look {
            self.located.add(other, stat, source.directory.key, source.name);
        }
        self.located.remove(other, target.directory.key, target.name);
        self.moved(key, source, target)
    }

    /// What lay at a name was replaced.
    fn lost(&self, key: InodeKey, place: &Place<'_>) -> Removed {
        match &place.look {
            Look::There(stat, _) => {
                self.directories.forget(key);
                self.lose(key, stat, &place.directory, place.name)
            }
            Look::Nothing | Look::Whiteout => Removed { key, was_last: true },
        }
    }

    /// Notes, before it happens, that something of the manifest lies elsewhere: files without a state need not be what
    /// the manifest has in their place.
    fn note_move(&self, key: InodeKey) -> Result<(), NamesError> {
        if matches!(key, InodeKey::Entry(_)) { self.note_moves() } else { Ok(()) }
    }

    pub(super) fn note_moves(&self) -> Result<(), NamesError> {
        if !self.moves_noted.load(Acquire) {
            self.layout.note_moves()?;
            self.moves_noted.store(true, Release);
        }
        Ok(())
    }

    /// True when the inode has other names of the manifest's: all of them must be on the disk before one changes.
    pub(super) fn has_names(&self, key: InodeKey) -> bool {
        let InodeKey::Entry(index) = key else { return false };
        self.manifest.entry(index).is_some_and(|entry| entry.kind() == Kind::File && entry.nlink() > 1)
    }

    /// Makes sure that a directory is empty, also on the disk, so that it can go: what nobody sees in it is removed
    /// once nothing of the manifest's shows any more.
    fn clear(&self, key: InodeKey) -> Result<(), NamesError> {
        if !self.is_empty(key)? {
            return Err(Errno::NOTEMPTY.into());
        }
        let Some(directory) = self.directory(key)? else { return Ok(()) };
        Ok(directory.complete()?)
    }
}

/// What a directory hands down to what is made in it (`inode_init_owner`, `fs/inode.c`): its group, and to a directory that
/// it does so, when its set-group-id bit is set. The owner is none where what is made has the right one anyway.
fn inherited(
    directory: &Directory,
    is_directory: bool,
    mode: u16,
    owner: Option<Owner>,
) -> Result<(u16, Option<Owner>), Errno> {
    let (stat, state) = directory.stat()?;
    let of_directory = state.map_or((stat.st_mode & 0o7777) as u16, |state| state.mode);
    let ours = Owner::of_this_process();
    let owner = owner.unwrap_or(ours);
    if of_directory & SET_GROUP == 0 {
        return Ok((mode, Some(owner).filter(|owner| *owner != ours)));
    }
    let mode = if is_directory { mode | SET_GROUP } else { mode };
    Ok((mode, Some(Owner { gid: stat.st_gid, ..owner })))
}

/// The bit of a directory's mode by which it hands down its group.
const SET_GROUP: u16 = 0o2000;

/// A device that says "no such name" where names of the manifest show cannot be told from one that somebody made.
fn refuse_whiteout(directory: &Directory) -> Result<(), Errno> {
    if directory.shows().is_some() { Err(Errno::PERM) } else { Ok(()) }
}

fn rename(source: &Place<'_>, target: &Place<'_>, flags: RenameFlags) -> Result<(), Errno> {
    rustix::fs::renameat_with(source.directory.fd(), source.name, target.directory.fd(), target.name, flags)
}

/// The state of a directory made here that its own user may not work in.
fn made_here(mode: u16, mtime: Mtime, ctime: Mtime) -> State {
    State { index: None, complete: true, moved: false, mode, mtime, ctime, remote_bytes: 0 }
}

/// Makes something under a name that is free; a file is open then. What was begun is taken back.
fn make(
    at: BorrowedFd<'_>,
    name: &[u8],
    made: &Made,
    mode: u16,
    owner: Option<Owner>,
) -> Result<Option<OwnedFd>, Errno> {
    let bits = Mode::from_raw_mode(mode.into());
    let mut file = None;
    match made {
        Made::File => {
            let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            file = Some(rustix::fs::openat(at, name, flags, bits)?);
        }
        Made::Directory => rustix::fs::mkdirat(at, name, bits | Mode::RWXU)?,
        Made::Symlink(target) => rustix::fs::symlinkat(target.as_slice(), at, name)?,
        Made::Special(kind, device) => rustix::fs::mknodat(at, name, *kind, bits, *device)?,
    }
    let finished = finish(at, name, made, mode, owner);
    if finished.is_err() {
        let flags = if matches!(made, Made::Directory) { AtFlags::REMOVEDIR } else { AtFlags::empty() };
        // The first error is the one that tells.
        let _ = rustix::fs::unlinkat(at, name, flags);
    }
    finished.map(|()| file)
}

/// Gives what was made its owner and all of its mode, of which this process's mask may have taken some away.
fn finish(
    at: BorrowedFd<'_>,
    name: &[u8],
    made: &Made,
    mode: u16,
    owner: Option<Owner>,
) -> Result<(), Errno> {
    if let Some(Owner { uid, gid }) = owner {
        let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
        match rustix::fs::chownat(at, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW) {
            // Everything belongs to the user the replica runs for.
            Err(Errno::PERM) if !rustix::process::geteuid().is_root() => {}
            changed => changed?,
        }
    }
    match made {
        Made::Symlink(_) => Ok(()),
        Made::Directory if mode & OPEN != OPEN => {
            let directory: OwnedFd = beneath::open(at, name, OFlags::RDONLY | OFlags::DIRECTORY)?;
            let stat = rustix::fs::fstat(&directory)?;
            state::set(&directory, &made_here(mode, mtime_of(&stat), mtime_of(&stat)))?;
            rustix::fs::fchmod(&directory, Mode::RWXU)
        }
        Made::File | Made::Directory | Made::Special(..) => {
            rustix::fs::chmodat(at, name, Mode::from_raw_mode(mode.into()), AtFlags::empty())
        }
    }
}
