//! Writing a manifest, entry by entry, in the one order there is.
//!
//! The [`Builder`](super::Builder) (at the origin) and the [`Receiver`](super::Receiver) (of a stream) put the same
//! [`Appender`] to work, so both end with the same bytes. It applies every [rule](super::rules) that an entry must
//! obey: what passes here needs no further check.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;

use super::frame::WireEntry;
use super::record::{self, Preamble, RECORD_BYTES, Record, record_offset};
use super::rules::{check_entry, check_roots};
use super::{
    DEPTH_MAX, EXTRA_BYTES_MAX, EntryIndex, Extra, Kind, LeftOutList, ManifestError, Meta, SnapshotId,
};
use crate::digest::{Digest, block_count};
use crate::git;
use crate::name::EntryName;

/// Records looked at in one read in search of the next directory: a page of them.
const SEEK_RECORDS: usize = 64;

/// Appends checked entries to the records and the heap.
pub(super) struct Appender {
    pub(super) records: File,
    pub(super) heap: File,
    /// Where the heap starts in its file.
    heap_base: u64,
    entries: u32,
    entries_max: u32,
    heap_bytes: u64,
    heap_bytes_max: u64,
    blocks: u64,
    file_bytes: u64,
    roots: u32,
    /// The directory whose children are being appended.
    pub(super) directory: EntryIndex,
    /// Its first child, once it has been begun.
    first_child: Option<u32>,
    last_name: Vec<u8>,
    /// Directories among its children so far.
    subdirectories: u32,
    /// How deep it lies below its root.
    depth: u32,
    /// The first entry that lies deeper than the directory: depths never decrease in manifest order.
    level_end: u32,
    pending: Pending,
}

/// Records and heap bytes not written yet; one write per listing part instead of one per entry.
#[derive(Default)]
struct Pending {
    records: Vec<u8>,
    first: u32,
    heap: Vec<u8>,
    heap_at: u64,
}

impl Appender {
    pub(super) fn new(
        records: File,
        heap: File,
        heap_base: u64,
        entries_max: u32,
        heap_bytes_max: u64,
        roots: u32,
    ) -> Self {
        Self {
            records,
            heap,
            heap_base,
            entries: 0,
            entries_max,
            heap_bytes: 0,
            heap_bytes_max,
            blocks: 0,
            file_bytes: 0,
            roots,
            directory: EntryIndex(0),
            first_child: None,
            last_name: Vec::new(),
            subdirectories: 0,
            depth: 0,
            level_end: 0,
            pending: Pending::default(),
        }
    }

    /// Writes the description and the roots; returns the description's length.
    pub(super) fn begin(&mut self, meta: &Meta, roots: Vec<WireEntry>) -> Result<u32, ManifestError> {
        let encoded = postcard::to_stdvec(meta)
            .map_err(|_| ManifestError::Invalid("the description cannot be encoded"))?;
        check_roots(meta, roots.len())?;
        self.level_end = roots.len() as u32;
        self.push_heap(&encoded)?;
        for (at, root) in roots.into_iter().enumerate() {
            self.add(root, EntryIndex(at as u32))?;
        }
        self.flush()?;
        Ok(encoded.len() as u32)
    }

    /// Writes the list of what was left out; returns its length.
    pub(super) fn end(&mut self, left_out: &LeftOutList) -> Result<u32, ManifestError> {
        let encoded = postcard::to_stdvec(left_out)
            .map_err(|_| ManifestError::Invalid("the list of what was left out cannot be encoded"))?;
        self.push_heap(&encoded)?;
        self.flush()?;
        u32::try_from(encoded.len()).map_err(|_| ManifestError::Invalid("the heap is too long"))
    }

    /// Entries written so far, which may be looked at.
    pub(super) fn written(&self) -> u32 {
        self.pending.first
    }

    /// The preamble of what has been appended, without the snapshot's id.
    pub(super) fn preamble(&self, meta_bytes: u32, left_out_bytes: u32, versions: Digest) -> Preamble {
        Preamble {
            entries: self.entries,
            roots: self.roots,
            heap_bytes: self.heap_bytes,
            meta_bytes,
            left_out_bytes,
            blocks: self.blocks,
            file_bytes: self.file_bytes,
            versions,
            snapshot: SnapshotId(Digest([0; 32])),
        }
    }

    fn add(&mut self, entry: WireEntry, parent: EntryIndex) -> Result<EntryIndex, ManifestError> {
        check_entry(&entry)?;
        if self.entries >= self.entries_max {
            return Err(ManifestError::Invalid("there are more entries than announced"));
        }
        let index = EntryIndex(self.entries);
        let leader = entry.link.map(|link| self.leader(link, index, &entry)).transpose()?;
        let blocks = if entry.kind == Kind::File && leader.is_none() { block_count(entry.size) } else { 0 };
        let name_at = self.push_heap(&entry.name)?;
        let (extra_at, extra_bytes) = self.push_extra(entry.extra.as_deref())?;
        let record = Record {
            name_at,
            name_bytes: entry.name.len() as u8,
            kind: entry.kind,
            mode: entry.mode,
            size: entry.size,
            mtime: entry.mtime,
            parent,
            link: match entry.kind {
                Kind::File => entry.link.unwrap_or(index),
                Kind::Directory | Kind::Symlink => EntryIndex(0),
            },
            children: 0,
            extra_at,
            extra_bytes,
            nlink: entry.nlink,
            flags: entry.flags,
            first_block: leader.map_or(self.blocks, |leader| leader.first_block),
        };
        self.pending.records.extend_from_slice(&record.encode());
        self.entries += 1;
        self.blocks += blocks;
        if blocks > 0 {
            self.file_bytes = self
                .file_bytes
                .checked_add(entry.size)
                .ok_or(ManifestError::Invalid("the sizes of all files overflow"))?;
        }
        Ok(index)
    }

    /// The first name of an inode that `entry` is a further name of.
    fn leader(
        &mut self,
        link: EntryIndex,
        index: EntryIndex,
        entry: &WireEntry,
    ) -> Result<Record, ManifestError> {
        let wrong = ManifestError::Invalid("a hard link does not lead to the first name of its inode");
        if link >= index {
            return Err(wrong);
        }
        let record = self.record(link)?;
        let same = record.kind == Kind::File
            && entry.kind == Kind::File
            && record.link == link
            && (record.size, record.mtime, record.mode, record.nlink)
                == (entry.size, entry.mtime, entry.mode, entry.nlink);
        if same { Ok(record) } else { Err(wrong) }
    }

    pub(super) fn record(&mut self, index: EntryIndex) -> Result<Record, ManifestError> {
        let mut bytes = [0; RECORD_BYTES as usize];
        if index.0 >= self.pending.first {
            let at = (index.0 - self.pending.first) as usize * RECORD_BYTES as usize;
            let pending = self.pending.records.get(at..at + RECORD_BYTES as usize);
            bytes.copy_from_slice(
                pending.ok_or(ManifestError::Invalid("an index lies beyond the last entry"))?,
            );
        } else {
            self.records.read_exact_at(&mut bytes, record_offset(index))?;
        }
        Record::decode(&bytes)
    }

    fn push_extra(&mut self, extra: Option<&Extra>) -> Result<(u32, u32), ManifestError> {
        let Some(extra) = extra.filter(|extra| !extra.is_empty()) else {
            return Ok((0, 0));
        };
        let bytes =
            postcard::to_stdvec(extra).map_err(|_| ManifestError::Invalid("an entry cannot be encoded"))?;
        if bytes.len() > EXTRA_BYTES_MAX {
            return Err(ManifestError::Invalid("an entry's properties are too long"));
        }
        Ok((self.push_heap(&bytes)?, bytes.len() as u32))
    }

    fn push_heap(&mut self, bytes: &[u8]) -> Result<u32, ManifestError> {
        let at =
            u32::try_from(self.heap_bytes).map_err(|_| ManifestError::Invalid("the heap is too long"))?;
        self.heap_bytes += bytes.len() as u64;
        if self.heap_bytes > self.heap_bytes_max {
            return Err(ManifestError::Invalid("the heap is longer than announced"));
        }
        self.pending.heap.extend_from_slice(bytes);
        Ok(at)
    }

    /// Appends children to the current directory.
    pub(super) fn add_part(&mut self, part: Vec<WireEntry>, last: bool) -> Result<Range<u32>, ManifestError> {
        self.seek_directory()?;
        self.descend();
        let start = self.entries;
        let first = *self.first_child.get_or_insert(start);
        let linked = part.iter().any(|entry| entry.link.is_some());
        let directory = if linked { self.directory_name()? } else { Vec::new() };
        for entry in part {
            EntryName::check(&entry.name)?;
            if entry.link.is_some() && git::stands_alone(&directory, &entry.name) {
                return Err(ManifestError::Invalid("a git configuration or hook is a hard link"));
            }
            if self.entries > first && entry.name <= self.last_name {
                return Err(ManifestError::Invalid("names are not sorted, or one comes twice"));
            }
            if entry.kind == Kind::Directory {
                if self.depth >= DEPTH_MAX {
                    return Err(ManifestError::Invalid("directories lie too deep"));
                }
                self.subdirectories += 1;
            }
            self.last_name.clone_from(&entry.name);
            self.add(entry, self.directory)?;
        }
        self.flush()?;
        if last {
            let mut record = self.record(self.directory)?;
            (record.link, record.children) = (EntryIndex(first), self.entries - first);
            record.nlink = 2 + std::mem::take(&mut self.subdirectories);
            self.records.write_all_at(&record.encode(), record_offset(self.directory))?;
            self.directory = EntryIndex(self.directory.0 + 1);
            self.first_child = None;
        }
        Ok(start..self.entries)
    }

    /// Keeps count of how deep the directory lies whose children come next.
    fn descend(&mut self) {
        if self.first_child.is_none() && self.directory.0 >= self.level_end {
            self.depth += 1;
            // Everything appended so far lies at most at this depth.
            self.level_end = self.entries;
        }
    }

    /// How far it has come; each part that is not empty, or is a directory's last, changes it.
    pub(super) fn position(&self) -> (u32, EntryIndex, bool) {
        (self.entries, self.directory, self.first_child.is_none())
    }

    /// The number of links of the directory whose children come next, as it was appended itself.
    pub(super) fn announced_nlink(&mut self) -> Result<u32, ManifestError> {
        self.seek_directory()?;
        Ok(self.record(self.directory)?.nlink)
    }

    /// The name of the directory whose children are being appended.
    fn directory_name(&mut self) -> Result<Vec<u8>, ManifestError> {
        let record = self.record(self.directory)?;
        let mut name = vec![0; record.name_bytes.into()];
        self.heap.read_exact_at(&mut name, self.heap_base + u64::from(record.name_at))?;
        Ok(name)
    }

    /// Moves on to the next directory; an error when every one has been listed.
    pub(super) fn seek_directory(&mut self) -> Result<(), ManifestError> {
        if self.first_child.is_some() {
            return Ok(());
        }
        // Files lie between directories in their hundreds: many records are looked at in one read.
        let mut records = [0; SEEK_RECORDS * RECORD_BYTES as usize];
        while self.directory.0 < self.pending.first {
            let count = ((self.pending.first - self.directory.0) as usize).min(SEEK_RECORDS);
            let records = &mut records[..count * RECORD_BYTES as usize];
            self.records.read_exact_at(records, record_offset(self.directory))?;
            let (records, _) = records.as_chunks::<{ RECORD_BYTES as usize }>();
            match records.iter().position(record::is_directory) {
                Some(at) => {
                    self.directory.0 += at as u32;
                    return Ok(());
                }
                None => self.directory.0 += count as u32,
            }
        }
        Err(ManifestError::Invalid("there are more listings than directories"))
    }

    /// True when every directory has been listed.
    pub(super) fn is_complete(&mut self) -> Result<bool, ManifestError> {
        Ok(self.first_child.is_none() && self.seek_directory().is_err())
    }

    fn flush(&mut self) -> io::Result<()> {
        let pending = std::mem::take(&mut self.pending);
        self.heap.write_all_at(&pending.heap, self.heap_base + pending.heap_at)?;
        self.records.write_all_at(&pending.records, record_offset(EntryIndex(pending.first)))?;
        self.pending.first = self.entries;
        self.pending.heap_at = self.heap_bytes;
        Ok(())
    }
}
