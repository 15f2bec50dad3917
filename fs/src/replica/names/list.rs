//! All names of a directory, as they were at one moment.

use rustix::io::Errno;

use super::{Found, InodeKey, Names, NamesError};
use crate::manifest::{EntryIndex, Listing, NotYet};

/// The names of a directory: the manifest's in its order, less those that are gone, then those made here.
#[derive(Debug)]
pub struct NameList {
    directory: InodeKey,
    /// The manifest's first, and how many it has.
    first: u32,
    count: u32,
    /// One bit for each of the manifest's names that is not there, or is another inode's by now.
    replaced: Box<[u64]>,
    /// All others.
    made_here: Vec<Box<[u8]>>,
}

impl NameList {
    /// Positions it has.
    pub fn len(&self) -> u64 {
        u64::from(self.count) + self.made_here.len() as u64
    }

    /// True when it has none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn is_replaced(&self, number: u32) -> bool {
        self.replaced.get(number as usize / 64).is_some_and(|word| word & (1 << (number % 64)) != 0)
    }

    /// What lies at a position; none where a name has gone. `len` positions from 0.
    pub fn at<'n>(
        &'n self,
        names: &'n Names,
        position: u64,
    ) -> Result<Option<(&'n [u8], Found<'n>)>, NamesError> {
        let Some(number) = position.checked_sub(self.count.into()) else {
            let number = position as u32;
            if self.is_replaced(number) {
                return Ok(None);
            }
            let entry = names.manifest.entry(EntryIndex(self.first + number)).ok_or(NotYet)?;
            // It may have been put on the disk, or removed, since the listing began.
            return Ok(names.lookup(self.directory, entry.name())?.map(|found| (entry.name(), found)));
        };
        let Some(name) = self.made_here.get(number as usize) else { return Ok(None) };
        Ok(names.lookup(self.directory, name)?.map(|found| (&**name, found)))
    }
}

impl Names {
    /// The names of a directory.
    pub fn list(&self, directory: InodeKey) -> Result<NameList, NamesError> {
        let on_disk = self.directory(directory)?;
        let entry = match &on_disk {
            Some(on_disk) => on_disk.shows(),
            None => Some(self.entry_of(directory)?),
        };
        let children = match entry.map(|entry| self.manifest.children(entry)) {
            Some(Listing::Known(children)) => children,
            Some(Listing::NotYet) => return Err(NotYet.into()),
            None => 0..0,
        };
        let count = children.len() as u32;
        let mut replaced = vec![0_u64; children.len().div_ceil(64)];
        let mut made_here = Vec::new();
        let on_disk = on_disk.map(|on_disk| on_disk.names()).transpose()?;
        for name in on_disk.unwrap_or_default() {
            if let Some(entry) = entry
                && let Some(child) = self.child(entry, &name)?
            {
                let number = child.index().0 - children.start;
                replaced[number as usize / 64] |= 1 << (number % 64);
            }
            made_here.push(name.into_boxed_slice());
        }
        made_here.sort_unstable();
        Ok(NameList { directory, first: children.start, count, replaced: replaced.into(), made_here })
    }

    /// True when no name is to be seen in a directory.
    pub(super) fn is_empty(&self, directory: InodeKey) -> Result<bool, NamesError> {
        let names = self.list(directory)?;
        if (0..names.count).any(|number| !names.is_replaced(number)) {
            return Ok(false);
        }
        for name in &names.made_here {
            match self.lookup(directory, name) {
                Ok(None) | Err(NamesError::System(Errno::NOENT)) => {}
                Ok(Some(_)) => return Ok(false),
                Err(error) => return Err(error),
            }
        }
        Ok(true)
    }
}
