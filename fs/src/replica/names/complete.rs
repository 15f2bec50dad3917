//! The last steps of a clone's names: everything the manifest has is put on the disk, and the tree moves up to where it
//! stays. Whoever uses the clone notices nothing of either.

use std::sync::atomic::Ordering::Release;

use rustix::fs::{FileType, RenameFlags};
use rustix::io::Errno;

use super::super::finish::Receipt;
use super::{Found, InodeKey, Names, NamesError, OnDisk, ROOT, STALE};

impl Names {
    /// Puts everything that the manifest has, and nobody removed, on the disk. From then on the disk is the only truth.
    ///
    /// May be interrupted and repeated. Some tens of µs for a name that is not there yet.
    pub(in super::super) fn complete(&self) -> Result<(), NamesError> {
        // What is renamed meanwhile from where nobody has looked to where somebody has is found the next time.
        while !self.complete_once()? {}
        Ok(())
    }

    /// True when nothing was left to be done.
    fn complete_once(&self) -> Result<bool, NamesError> {
        let mut nothing_left = true;
        let mut directories = vec![ROOT];
        while let Some(key) = directories.pop() {
            match self.complete_directory(key, &mut directories) {
                Ok(was_complete) => nothing_left &= was_complete,
                // It was removed meanwhile.
                Err(STALE) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(nothing_left)
    }

    fn complete_directory(&self, key: InodeKey, found: &mut Vec<InodeKey>) -> Result<bool, NamesError> {
        let directory = self.placed_directory(key)?;
        let was_complete = directory.shows().is_none();
        let list = self.list(key)?;
        let mut is_left_over = false;
        for position in 0..list.len() {
            let Some((_, entry)) = list.at(self, position)? else {
                is_left_over |= was_complete;
                continue;
            };
            if matches!(entry, Found::Virtual(_)) {
                match self.place(entry.key()) {
                    Ok(_) | Err(STALE) => {}
                    Err(error) => return Err(error),
                }
            }
            if entry.is_directory() {
                found.push(entry.key());
            }
        }
        if was_complete && !is_left_over {
            return Ok(true);
        }
        let _changing = self.changing([key]);
        if was_complete {
            // A crash came before a whiteout was removed that hides nothing.
            directory.complete()?;
            return Ok(true);
        }
        // Something may have been in the way of putting it on the disk.
        if !self.has_virtual_names(key)? {
            directory.complete()?;
        }
        Ok(false)
    }

    fn has_virtual_names(&self, key: InodeKey) -> Result<bool, NamesError> {
        let list = self.list(key)?;
        for position in 0..list.len() {
            if let Some((_, Found::Virtual(_))) = list.at(self, position)? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Shows everything in a complete tree to `look`, and counts it.
    pub(in super::super) fn survey<E: From<NamesError>>(
        &self,
        mut look: impl FnMut(&OnDisk) -> Result<(), E>,
    ) -> Result<Receipt, E> {
        let mut receipt = Receipt { directories: 1, ..Receipt::default() };
        let mut directories = vec![ROOT];
        while let Some(key) = directories.pop() {
            let list = match self.list(key) {
                Err(STALE) => continue,
                list => list?,
            };
            for position in 0..list.len() {
                let Some((_, Found::OnDisk(found))) = list.at(self, position)? else { continue };
                match FileType::from_raw_mode(found.stat.st_mode) {
                    FileType::Directory => {
                        receipt.directories += 1;
                        directories.push(found.key);
                    }
                    FileType::Symlink => receipt.symlinks += 1,
                    _ => {
                        receipt.files += 1;
                        receipt.bytes += found.stat.st_size as u64;
                    }
                }
                look(&found)?;
            }
        }
        Ok(receipt)
    }

    /// Gives a directory of a complete tree its true mode and times, unless its own user could not work in it then, or
    /// it is the tree's own.
    pub(in super::super) fn finish_directory(&self, key: InodeKey) -> Result<(), NamesError> {
        match self.directory(key)? {
            Some(directory) if key != ROOT => Ok(directory.finish()?),
            _ => Ok(()),
        }
    }

    /// Moves what lies in the tree's own directory up to where it stays, beneath the mount.
    pub(in super::super) fn move_up(&self) -> Result<(), NamesError> {
        let _changing = self.changing([ROOT]);
        let above = self.layout.settle()?.ok_or(Errno::INVAL)?;
        let ours = self.layout.path().file_name().ok_or(Errno::INVAL)?;
        let rising = self.root.rise(above, ours)?;
        for name in rising.names_left()? {
            let name = name.as_slice();
            rustix::fs::renameat_with(rising.from(), name, above, name, RenameFlags::NOREPLACE)?;
        }
        rustix::fs::fsync(above)?;
        rising.is_done.store(true, Release);
        Ok(())
    }
}
