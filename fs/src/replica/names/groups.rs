//! The names of the manifest's files with several of them.

use std::sync::OnceLock;

use crate::manifest::{Arrival, EntryIndex, Kind, Manifest, NotYet};

/// All names of such files, eight bytes each; made when first asked for.
#[derive(Debug, Default)]
pub(super) struct Groups {
    /// The file's first name, and a name; ascending.
    names: OnceLock<Box<[(u32, u32)]>>,
}

impl Groups {
    /// The names of the file whose first is `first`, in manifest order.
    pub(super) fn names(
        &self,
        manifest: &Manifest,
        first: EntryIndex,
    ) -> Result<impl Iterator<Item = u32>, NotYet> {
        let names = match self.names.get() {
            Some(names) => names,
            None if *manifest.arrival().borrow() != Arrival::Complete => return Err(NotYet),
            None => self.names.get_or_init(|| all(manifest)),
        };
        let start = names.partition_point(|(file, _)| *file < first.0);
        Ok(names[start..].iter().take_while(move |(file, _)| *file == first.0).map(|(_, name)| *name))
    }
}

fn all(manifest: &Manifest) -> Box<[(u32, u32)]> {
    let several = manifest.iter().filter(|entry| entry.kind() == Kind::File && entry.nlink() > 1);
    let mut names: Vec<_> = several.map(|entry| (entry.inode().0, entry.index().0)).collect();
    names.sort_unstable();
    names.into()
}
