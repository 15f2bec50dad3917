//! Making what the manifest does not have.

use std::os::fd::{BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, RenameFlags, Uid};
use rustix::io::Errno;

use super::super::directories::OPEN;
use super::super::state::{self, State};
use super::change::{Place, refuse_whiteout};
use super::directory::{Directory, Look};
use super::staging::{NO_DEVICE, refuse_mark};
use super::{InodeKey, Names, NamesError, OnDisk, mtime_of};
use crate::beneath;
use crate::filesystem::Owner;
use crate::manifest::Mtime;

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
            refuse_mark(mode)?;
        }
        let _changing = self.changing([directory.key]);
        let place = self.free(directory, name)?;
        let is_directory = matches!(made, Made::Directory);
        let (mode, owner) = inherited(&place.directory, is_directory, mode, owner)?;
        let file = self.put(&place, is_directory, |at, name| make(at, name, made, mode, owner))?;
        Ok((self.found_at(&place)?, file))
    }

    /// Makes something under a free name: at once, or in place of a whiteout.
    pub(super) fn put<T>(
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

/// The state of a directory made here that its own user may not work in.
pub(super) fn made_here(mode: u16, mtime: Mtime, ctime: Mtime) -> State {
    State { index: None, complete: true, mode, mtime, ctime, remote_bytes: 0 }
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
