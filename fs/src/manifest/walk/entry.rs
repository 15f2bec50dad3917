//! What becomes of one name in a directory.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{AtFlags, FileType, OFlags, Statx, StatxAttributes};
use rustix::io::Errno;

use super::content::{self, Wanted};
use super::listing::{Directory, Listed, Listing};
use super::{DirectoryId, Root, Stamp, stat, target, xattr};
use crate::beneath;
use crate::git::{self, Role, Surroundings};
use crate::manifest::{Extra, Flags, Kind, LeftOutReason, Mtime, NewEntry};
use crate::name::EntryName;
use crate::replica::layout::is_replica_name;

/// Permission bits that travel: those of `chmod` without set-user-id and set-group-id.
const MODE_BITS: u16 = 0o1777;
/// Those that do not.
const SET_ID_BITS: u16 = 0o6000;

/// A file shorter than this has no hole worth a look: a filesystem allocates 4 KiB at a time.
const HOLES_FROM_BYTES: u64 = 4096;

/// An entry, and what the walk needs to know of it beyond the manifest.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) entry: NewEntry,
    pub(super) stamp: Stamp,
    /// A file with several names that may share its inode in the manifest too.
    pub(super) linked: bool,
    /// A directory on another filesystem.
    pub(super) closed: bool,
}

/// Surveys the names of one directory.
pub(super) struct Surveyor<'w> {
    roots: &'w [Root],
    exclude: &'w [DirectoryId],
    directory: &'w Directory,
    fd: &'w OwnedFd,
    /// What to put before a name in the directory to make it a path; ends in a slash or is empty.
    path: &'w str,
    surroundings: Surroundings,
    pub(super) listed: Listed,
    left_out: Vec<LeftOutReason>,
}

/// What a name turned out to be.
enum Look {
    Here(Statx),
    /// A directory on which another filesystem is mounted; what can be said of it without asking that one.
    Elsewhere(Option<Statx>),
}

impl<'w> Surveyor<'w> {
    pub(super) fn new(
        roots: &'w [Root],
        exclude: &'w [DirectoryId],
        directory: &'w Directory,
        fd: &'w OwnedFd,
        path: &'w str,
        surroundings: Surroundings,
    ) -> Self {
        let (listed, left_out) = (Listed::default(), Vec::new());
        Self { roots, exclude, directory, fd, path, surroundings, listed, left_out }
    }

    /// Adds one name, or says why it is left out. Fails only when the machine has run out of something.
    pub(super) fn add(&mut self, listing: Listing) -> io::Result<()> {
        match self.examine(&listing) {
            Ok(Some(found)) => self.listed.found.push(found),
            Ok(None) => {}
            // It vanished since it was listed: the directory has changed and is listed again.
            Err(Errno::NOENT) => {}
            Err(error @ (Errno::MFILE | Errno::NFILE | Errno::NOMEM)) => return Err(error.into()),
            Err(error) => self.left_out.push(LeftOutReason::Unreadable(error.to_string())),
        }
        let name = listing.name;
        self.listed.left_out.extend(self.left_out.drain(..).map(|reason| (name.clone(), reason)));
        Ok(())
    }

    fn examine(&mut self, listing: &Listing) -> Result<Option<Found>, Errno> {
        let Ok(name) = EntryName::try_from(listing.name.as_slice()) else {
            return Ok(self.leave_out(LeftOutReason::Limit("a name of more than 255 bytes".into())));
        };
        let stat = match self.look(listing)? {
            Look::Here(stat) => stat,
            Look::Elsewhere(stat) => return Ok(self.elsewhere(name, stat)),
        };
        match FileType::from_raw_mode(stat.stx_mode.into()) {
            FileType::Directory => Ok(self.directory(name, &stat)),
            // A file mounted over another one.
            _ if stat.stx_attributes.contains(StatxAttributes::MOUNT_ROOT) => {
                Ok(self.leave_out(LeftOutReason::OtherFilesystem))
            }
            FileType::RegularFile => Ok(Some(self.file(name, stat))),
            FileType::Symlink => self.symlink(name, &stat),
            _ => Ok(self.leave_out(LeftOutReason::SpecialFile)),
        }
    }

    fn leave_out(&mut self, reason: LeftOutReason) -> Option<Found> {
        self.left_out.push(reason);
        None
    }

    /// Directories are opened before they are asked for their properties: so a filesystem mounted there, which may
    /// be a network that does not answer, is noticed without asking it.
    fn look(&self, listing: &Listing) -> Result<Look, Errno> {
        if !matches!(listing.kind, FileType::Directory | FileType::Unknown) {
            return Ok(Look::Here(stat(self.fd, &listing.name, AtFlags::empty())?));
        }
        match beneath::open(self.fd.as_fd(), &listing.name, OFlags::PATH) {
            Ok(fd) => Ok(Look::Here(stat(&fd, b"", AtFlags::empty())?)),
            Err(Errno::XDEV) => {
                Ok(Look::Elsewhere(stat(self.fd, &listing.name, AtFlags::STATX_DONT_SYNC).ok()))
            }
            Err(errno) => Err(errno),
        }
    }

    fn elsewhere(&mut self, name: EntryName, stat: Option<Statx>) -> Option<Found> {
        self.left_out.push(LeftOutReason::OtherFilesystem);
        let (mode, mtime, stamp) = match stat {
            Some(stat) if FileType::from_raw_mode(stat.stx_mode.into()) != FileType::Directory => {
                return None;
            }
            Some(stat) => (stat.stx_mode & MODE_BITS, Stamp::of(&stat).mtime, Stamp::of(&stat)),
            None => (0o755, Mtime::default(), Stamp::default()),
        };
        let entry = blank(name, Kind::Directory, mode, mtime);
        Some(Found { entry, stamp, linked: false, closed: true })
    }

    fn directory(&mut self, name: EntryName, stat: &Statx) -> Option<Found> {
        let stamp = Stamp::of(stat);
        // What is missing in a clone that is not complete reads as zeros there.
        if is_replica_name(name.as_bytes())
            || self.exclude.contains(&DirectoryId { device: stamp.device, inode: stamp.inode })
        {
            return self.leave_out(LeftOutReason::NodeState);
        }
        let mut entry = new(name, Kind::Directory, stat, &mut self.left_out);
        entry.extra.xattrs = self.xattrs(&entry.name);
        Some(Found { entry, stamp, linked: false, closed: false })
    }

    fn file(&mut self, name: EntryName, mut stat: Statx) -> Found {
        let role = self.surroundings.role(name.as_bytes(), Kind::File);
        let sparse = stat.stx_size >= HOLES_FROM_BYTES && stat.stx_blocks.saturating_mul(512) < stat.stx_size;
        let mut extra = Extra::default();
        let mut config_bytes = None;
        match role {
            Role::Config => {
                let inspected = content::inspect(self.fd, name.as_bytes(), Wanted::Config, stat);
                (stat, extra) = (inspected.stat, inspected.extra);
                self.left_out.extend(inspected.left_out);
                config_bytes = extra.git_config.as_ref().map(Vec::len);
            }
            Role::Ordinary | Role::Hook if sparse => {
                let inspected = content::inspect(self.fd, name.as_bytes(), Wanted::Holes, stat);
                (stat, extra) = (inspected.stat, inspected.extra);
            }
            Role::Ordinary | Role::Hook => {}
        }
        let alone = role == Role::Config || git::stands_alone(self.directory.name(), name.as_bytes());
        let mut entry = NewEntry { extra, ..new(name, Kind::File, &stat, &mut self.left_out) };
        entry.size = config_bytes.map_or(stat.stx_size, |bytes| bytes as u64);
        entry.flags = if role == Role::Hook { Flags::GIT_HOOK } else { Flags::default() };
        entry.extra.xattrs = self.xattrs(&entry.name);
        Found { entry, stamp: Stamp::of(&stat), linked: stat.stx_nlink > 1 && !alone, closed: false }
    }

    fn symlink(&mut self, name: EntryName, stat: &Statx) -> Result<Option<Found>, Errno> {
        let target = rustix::fs::readlinkat(self.fd, name.as_bytes(), Vec::new())?.into_bytes();
        if target.is_empty() {
            return Ok(self.leave_out(LeftOutReason::Limit("a symbolic link without a target".into())));
        }
        if let Some(outside) = target::outside(self.roots, self.directory, &target) {
            self.left_out.push(LeftOutReason::LeavesTheTree(outside));
        }
        // The mode of a symbolic link means nothing and cannot be set.
        let mut entry = blank(name, Kind::Symlink, 0o777, Stamp::of(stat).mtime);
        if self.surroundings.role(entry.name.as_bytes(), Kind::Symlink) == Role::Hook {
            entry.flags = Flags::GIT_HOOK;
        }
        entry.extra.target = target;
        Ok(Some(Found { entry, stamp: Stamp::of(stat), linked: false, closed: false }))
    }

    fn xattrs(&mut self, name: &EntryName) -> xattr::Xattrs {
        let without = &self.roots[self.directory.root].without_xattrs;
        // One name in the directory that is open, and not followed: nothing outside is reached.
        xattr::read(&[self.path.as_bytes(), name.as_bytes()].concat(), without, &mut self.left_out)
    }
}

/// A directory's or file's entry as far as `stat` knows it.
pub(super) fn new(name: EntryName, kind: Kind, stat: &Statx, left_out: &mut Vec<LeftOutReason>) -> NewEntry {
    if stat.stx_mode & SET_ID_BITS != 0 {
        left_out.push(LeftOutReason::SetId);
    }
    blank(name, kind, stat.stx_mode & MODE_BITS, Stamp::of(stat).mtime)
}

fn blank(name: EntryName, kind: Kind, mode: u16, mtime: Mtime) -> NewEntry {
    NewEntry {
        name,
        kind,
        mode,
        size: 0,
        mtime,
        link: None,
        flags: Flags::default(),
        extra: Extra::default(),
    }
}
