//! Giving what has one name another one.

use rustix::fs::{AtFlags, RenameFlags};
use rustix::io::Errno;

use super::change::{Held, Place, Removed, held, refuse_whiteout};
use super::directory::Look;
use super::staging::{is_whiteout, mark};
use super::{Found, InodeKey, Names, NamesError};

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

impl Names {
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
        let moved = [Some((key, is_directory)), other.filter(|_| how == Rename::Exchange)];
        for (key, _) in moved.into_iter().flatten().filter(|(_, is_directory)| *is_directory) {
            self.look_into(key);
        }
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
            self.note_renamed(key);
            self.note_renamed(other);
            return Ok(None);
        }
        if let Some((other, true)) = other {
            self.clear(other)?;
        }
        let replaced = match &target.look {
            Look::There(stat, _) => held(&target.directory, target.name, stat),
            Look::Nothing | Look::Whiteout => Held::Alone,
        };
        self.move_over(&source, &target, is_directory)?;
        let removed = other.map(|(other, _)| self.lost(other, &replaced, &target));
        self.moved(key, &source, &target)?;
        if is_directory {
            self.note_renamed(key);
        }
        Ok(removed)
    }

    /// A directory with a state was changed by getting another name. Of others the disk notes it, or their replica.
    fn note_renamed(&self, key: InodeKey) {
        if let Err(error) = self.stat(key).and_then(|found| match found {
            Found::OnDisk(found) => self.note_change(&found),
            Found::Virtual(_) => Ok(()),
        }) {
            tracing::debug!(%error, "when a directory was renamed cannot be kept");
        }
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
            if !white_out {
                mark(target.directory.fd(), target.name)?;
            }
            rename(source, target, RenameFlags::EXCHANGE)?;
            if !white_out
                && let Err(errno) = rustix::fs::unlinkat(source.directory.fd(), source.name, AtFlags::empty())
            {
                tracing::debug!(%errno, "a whiteout that is not needed is left");
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
    fn lost(&self, key: InodeKey, held: &Held, place: &Place<'_>) -> Removed {
        match &place.look {
            Look::There(..) => {
                self.directories.forget(key);
                self.lose(key, held, &place.directory, place.name)
            }
            Look::Nothing | Look::Whiteout => Removed { key, was_last: true },
        }
    }
}

fn rename(source: &Place<'_>, target: &Place<'_>, flags: RenameFlags) -> Result<(), Errno> {
    rustix::fs::renameat_with(source.directory.fd(), source.name, target.directory.fd(), target.name, flags)
}
