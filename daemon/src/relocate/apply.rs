//! Carries out edits: each file is replaced as a whole, by one system call, and never what somebody else put there
//! meanwhile.
//!
//! The new file is made beside the old one under a [name of ours](temporary), with its mode and user xattrs, and is on the
//! disk before the two change their names (`RENAME_EXCHANGE`). What then lies under our name is looked at once more: if
//! it is not what the edit was made of, the names change back. So nothing is written through a hard link, a reader has the
//! one file or the other, and whoever is killed at any step does the same again and comes to the same end.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, Mode, OFlags, RenameFlags, XattrFlags};
use rustix::io::Errno;

use super::edit::{Edit, sha256};
use super::moves::Moves;
use super::tree::{Tree, read};
use crate::api::wire::EditKind;

/// Edits between two calls that have the disk write back: each call costs as much as one file's `fsync`.
const BATCH: usize = 256;

/// Bytes of a file's list of xattrs, and of a value, at most (`XATTR_SIZE_MAX`).
const XATTR_BYTES_MAX: usize = 65_536;

/// Carries out those of `edits` that `are_meant`; answers why one could not be, by its number. Blocks on the disk.
pub(super) fn apply(
    trees: &[Option<Tree>],
    edits: &[Edit],
    moves: &Moves,
    mark: &str,
    are_meant: impl Fn(&Edit) -> bool,
) -> Vec<(usize, String)> {
    let meant: Vec<_> = (0..edits.len()).filter(|number| are_meant(&edits[*number])).collect();
    let mut failed = Vec::new();
    for batch in meant.chunks(BATCH) {
        let mut ready = Vec::new();
        for &number in batch {
            let place = Place::of(trees, edits, number, mark);
            match place.and_then(|place| Ok(place.prepare(edits, moves)?.then_some(place))) {
                Ok(Some(place)) => ready.push((number, place)),
                Ok(None) => {}
                Err(why) => failed.push((number, why.to_string())),
            }
        }
        if let Err(error) = write_back(trees) {
            failed.extend(ready.iter().map(|(number, place)| {
                place.remove_temporary();
                (*number, format!("the disk does not take it: {error}"))
            }));
            continue;
        }
        for (number, place) in ready {
            if let Err(why) = place.exchange() {
                failed.push((number, why.to_string()));
            }
        }
    }
    failed
}

/// Has everything on the disk.
pub(super) fn write_back(trees: &[Option<Tree>]) -> io::Result<()> {
    trees.iter().flatten().try_for_each(|tree| Ok(rustix::fs::syncfs(tree.top())?))
}

/// Why an edit is not carried out.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("it was changed meanwhile")]
    Changed,
    #[error("it is not there any more")]
    Gone,
    #[error("it cannot be replaced: {0}")]
    System(#[from] io::Error),
}

impl From<Errno> for Failure {
    fn from(errno: Errno) -> Self {
        if errno == Errno::NOENT { Self::Gone } else { Self::System(errno.into()) }
    }
}

/// What lies under a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Lies {
    Nothing,
    /// What the edit was made of.
    Before,
    /// What it makes.
    After,
    SomethingElse,
}

/// Where an edit takes place.
struct Place<'e> {
    edit: &'e Edit,
    number: usize,
    directory: OwnedFd,
    name: &'e str,
    temporary: String,
}

/// The name beside an edited file under which its new content waits: no two are called so in one directory, and nobody
/// who does not know the replica's id can have made one.
fn temporary(mark: &str, number: usize) -> String {
    format!(".twinshare-{mark}-{number}")
}

impl<'e> Place<'e> {
    fn of(trees: &[Option<Tree>], edits: &'e [Edit], number: usize, mark: &str) -> Result<Self, Failure> {
        let edit = &edits[number];
        let tree = trees.get(edit.target.root).and_then(Option::as_ref).ok_or(Failure::Gone)?;
        let (directory, name) = tree.parent(&edit.target.path)?;
        Ok(Self { edit, number, directory, name, temporary: temporary(mark, number) })
    }

    /// Makes the new file; false when it is in its place already.
    fn prepare(&self, edits: &[Edit], moves: &Moves) -> Result<bool, Failure> {
        match (self.lies(self.name)?, self.lies(&self.temporary)?) {
            (Lies::After, Lies::Nothing) => Ok(false),
            (Lies::After, Lies::Before) => {
                self.remove_temporary();
                Ok(false)
            }
            // Somebody's own file was there when an earlier attempt exchanged the names.
            (Lies::After, Lies::After | Lies::SomethingElse) => {
                self.rename(&self.temporary, self.name, RenameFlags::empty())?;
                Err(Failure::Changed)
            }
            (Lies::Before, _) => {
                self.remove_temporary();
                let made = self.make(edits, moves);
                made.inspect_err(|_| self.remove_temporary()).map(|()| true)
            }
            (Lies::Nothing, _) => {
                self.remove_temporary();
                Err(Failure::Gone)
            }
            (Lies::SomethingElse, _) => {
                self.remove_temporary();
                Err(Failure::Changed)
            }
        }
    }

    /// Puts the new file in place of the old one, which goes.
    fn exchange(&self) -> Result<(), Failure> {
        let exchanged = self.rename(&self.temporary, self.name, RenameFlags::EXCHANGE);
        match exchanged {
            Ok(()) => {}
            // A file system without it: what was changed in the last microseconds is not seen.
            Err(Errno::INVAL | Errno::NOSYS) => {
                if self.lies(self.name)? != Lies::Before {
                    self.remove_temporary();
                    return Err(Failure::Changed);
                }
                return Ok(self.rename(&self.temporary, self.name, RenameFlags::empty())?);
            }
            Err(errno) => {
                self.remove_temporary();
                return Err(errno.into());
            }
        }
        if self.lies(&self.temporary)? == Lies::Before {
            self.remove_temporary();
            return Ok(());
        }
        self.rename(&self.temporary, self.name, RenameFlags::EXCHANGE)?;
        self.remove_temporary();
        Err(Failure::Changed)
    }

    fn rename(&self, from: &str, to: &str, flags: RenameFlags) -> Result<(), Errno> {
        rustix::fs::renameat_with(&self.directory, from, &self.directory, to, flags)
    }

    fn remove_temporary(&self) {
        // Where it cannot be removed, what is wrong is seen by what is done next.
        let _ = rustix::fs::unlinkat(&self.directory, &self.temporary, AtFlags::empty());
    }

    fn lies(&self, name: &str) -> Result<Lies, Failure> {
        let what = match self.edit.target.kind {
            EditKind::Link => match rustix::fs::readlinkat(&self.directory, name, Vec::new()) {
                Ok(target) => target.into_string().unwrap_or_default(),
                Err(Errno::NOENT) => return Ok(Lies::Nothing),
                Err(Errno::INVAL) => return Ok(Lies::SomethingElse),
                Err(errno) => return Err(errno.into()),
            },
            _ => match self.open(name) {
                Ok(file) => match read(file, self.edit.target.bytes_max()) {
                    Ok(content) => sha256(&content),
                    Err(error) if error.raw_os_error().is_some() => return Err(error.into()),
                    Err(_) => return Ok(Lies::SomethingElse),
                },
                Err(Errno::NOENT) => return Ok(Lies::Nothing),
                Err(Errno::LOOP | Errno::NXIO) => return Ok(Lies::SomethingElse),
                Err(errno) => return Err(errno.into()),
            },
        };
        Ok(match what {
            what if what == self.edit.before => Lies::Before,
            what if what == self.edit.after => Lies::After,
            _ => Lies::SomethingElse,
        })
    }

    fn open(&self, name: &str) -> Result<OwnedFd, Errno> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        rustix::fs::openat(&self.directory, name, flags, Mode::empty())
    }

    fn make(&self, edits: &[Edit], moves: &Moves) -> Result<(), Failure> {
        if self.edit.target.kind == EditKind::Link {
            return Ok(rustix::fs::symlinkat(&*self.edit.after, &self.directory, &self.temporary)?);
        }
        let old = self.open(self.name)?;
        let content = read(old.try_clone()?, self.edit.target.bytes_max())?;
        let rewritten = self.edit.target.rewritten(&content, moves, &edits[..self.number]);
        let rewritten = rewritten.map_err(io::Error::other)?.ok_or(Failure::Changed)?;
        if sha256(&content) != self.edit.before || sha256(&rewritten.bytes) != self.edit.after {
            return Err(Failure::Changed);
        }
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let new = rustix::fs::openat(&self.directory, &self.temporary, flags, Mode::RUSR | Mode::WUSR)?;
        let mut file = File::from(new);
        file.write_all(&rewritten.bytes)?;
        copy_xattrs(old.as_fd(), file.as_fd())?;
        let mode = rustix::fs::fstat(&old)?.st_mode & 0o7777;
        Ok(rustix::fs::fchmod(&file, Mode::from_raw_mode(mode))?)
    }
}

/// Gives a file the user xattrs of another one.
fn copy_xattrs(from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> Result<(), Errno> {
    let mut names = vec![0; XATTR_BYTES_MAX];
    let length = match rustix::fs::flistxattr(from, names.as_mut_slice()) {
        Err(Errno::NOTSUP) => 0,
        listed => listed?,
    };
    let names = names[..length].split(|byte| *byte == 0).filter(|name| name.starts_with(b"user."));
    for name in names {
        let mut value = vec![0; XATTR_BYTES_MAX];
        let length = rustix::fs::fgetxattr(from, name, value.as_mut_slice())?;
        rustix::fs::fsetxattr(to, name, &value[..length], XattrFlags::empty())?;
    }
    Ok(())
}
