//! Building a manifest at the origin.

use std::io::{self, Read, Seek, SeekFrom};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use super::append::Appender;
use super::frame::WireEntry;
use super::record::{Preamble, record_offset};
use super::{
    ENTRIES_MAX, EntryIndex, Extra, Flags, Kind, LeftOutList, Manifest, ManifestError, Meta, Mtime, digest,
    map,
};
use crate::digest::Digest;
use crate::name::EntryName;
use crate::scratch::{Partial, unnamed_file};

/// An entry as a builder describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewEntry {
    /// The name; ignored for a root.
    pub name: EntryName,
    /// What it is.
    pub kind: Kind,
    /// Permission bits, at most `0o1777`.
    pub mode: u16,
    /// Bytes of a file; ignored for other kinds.
    pub size: u64,
    /// When it was last modified.
    pub mtime: Mtime,
    /// The first entry with the same inode, where this file is a further name of it.
    pub link: Option<EntryIndex>,
    /// Properties that change how it is shown.
    pub flags: Flags,
    /// The rarer properties.
    pub extra: Extra,
}

/// Builds a manifest at the origin, directory by directory in manifest order.
///
/// Nothing appears at the final path before [`finish`](Self::finish); a builder that is dropped leaves nothing.
pub struct Builder {
    appender: Appender,
    partial: Partial,
    path: PathBuf,
    meta_bytes: u32,
}

impl Builder {
    /// Begins the manifest that [`finish`](Self::finish) will put at `path`, with the roots' own entries (their names
    /// are ignored).
    pub fn new(path: &Path, meta: &Meta, roots: Vec<NewEntry>) -> Result<Self, ManifestError> {
        let partial = Partial::create(path)?;
        // The heap's place is known only when the records are all there: it waits in a file without a name.
        let heap = unnamed_file(path)?;
        let appender = Appender::new(
            partial.file.try_clone()?,
            heap,
            0,
            ENTRIES_MAX,
            u64::from(u32::MAX),
            roots.len() as u32,
        );
        let mut builder = Self { appender, partial, path: path.into(), meta_bytes: 0 };
        builder.meta_bytes = builder.appender.begin(meta, roots.into_iter().map(root_entry).collect())?;
        Ok(builder)
    }

    /// The directory whose children are to be listed next; `None` when all have been.
    pub fn next_directory(&mut self) -> Result<Option<EntryIndex>, ManifestError> {
        Ok(self.appender.seek_directory().is_ok().then_some(self.appender.directory))
    }

    /// Lists the [next directory](Self::next_directory): all its entries, in any order. Returns their indices, which
    /// follow the order of their names.
    pub fn list(&mut self, mut entries: Vec<NewEntry>) -> Result<Range<u32>, ManifestError> {
        entries.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        self.appender.add_part(entries.into_iter().map(wire_entry).collect(), true)
    }

    /// Sets the number of names of an entry that has been listed (of the first name of an inode, and of each other).
    pub fn set_nlink(&mut self, index: EntryIndex, nlink: u32) -> Result<(), ManifestError> {
        let mut record = self.appender.record(index)?;
        record.nlink = nlink;
        Ok(self.appender.records.write_all_at(&record.encode(), record_offset(index))?)
    }

    /// Puts the complete manifest at its path, durably, and opens it. `versions` tells snapshots of equal trees apart
    /// whose files are not the same ones.
    pub fn finish(mut self, left_out: &LeftOutList, versions: Digest) -> Result<Manifest, ManifestError> {
        if !self.appender.is_complete()? {
            return Err(ManifestError::Invalid("a directory has not been listed"));
        }
        let left_out_bytes = self.appender.end(left_out)?;
        let preamble = self.appender.preamble(self.meta_bytes, left_out_bytes, versions);
        let mut file = &self.appender.records;
        file.seek(SeekFrom::Start(preamble.heap_offset()))?;
        (&self.appender.heap).rewind()?;
        io::copy(&mut (&self.appender.heap).take(preamble.heap_bytes), &mut file)?;
        file.set_len(preamble.total_bytes())?;
        let snapshot = digest(&map(file)?, &preamble);
        file.write_all_at(&Preamble { snapshot, ..preamble }.encode(), 0)?;
        self.partial.finish()?;
        Manifest::open(&self.path)
    }
}

fn root_entry(root: NewEntry) -> WireEntry {
    WireEntry { name: Vec::new(), nlink: 2, ..wire_entry(root) }
}

fn wire_entry(entry: NewEntry) -> WireEntry {
    WireEntry {
        name: entry.name.as_bytes().to_vec(),
        kind: entry.kind,
        mode: entry.mode,
        size: match entry.kind {
            Kind::File => entry.size,
            Kind::Symlink => entry.extra.target.len() as u64,
            Kind::Directory => 0,
        },
        mtime: entry.mtime,
        nlink: if entry.kind == Kind::Directory { 2 } else { 1 },
        link: entry.link,
        flags: entry.flags.0,
        extra: (!entry.extra.is_empty()).then(|| Box::new(entry.extra)),
    }
}
