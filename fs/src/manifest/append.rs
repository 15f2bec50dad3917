//! Writing a manifest, entry by entry, in the one order there is.
//!
//! The [`Builder`] (at the origin) and the [`Receiver`] (of a stream) put the same [`Appender`] to work, so both end
//! with the same bytes. It also holds every rule an entry must obey: what passes here needs no further check.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering::Release;

use tokio::sync::watch;

use super::frame::{self, Frame, Head, Part, WireEntry};
use super::record::{self, PREAMBLE_BYTES, Preamble, RECORD_BYTES, Record, record_offset};
use super::{
    Arrival, ENTRIES_MAX, EXTRA_BYTES_MAX, EntryIndex, Extra, FILE_BYTES_MAX, Flags, GIT_CONFIG_BYTES_MAX,
    HOLES_MAX, Kind, LEFT_OUT_MAX, LeftOutList, Manifest, ManifestError, Meta, Mtime, Progress, ROOTS_MAX,
    SnapshotId, TARGET_BYTES_MAX, XATTR_BYTES_MAX, digest, map,
};
use crate::digest::{Digest, block_count};
use crate::git;
use crate::name::EntryName;

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

/// Records looked at in one read in search of the next directory: a page of them.
const SEEK_RECORDS: usize = 64;

/// Appends checked entries to the records and the heap.
struct Appender {
    records: File,
    heap: File,
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
    directory: EntryIndex,
    /// Its first child, once it has been begun.
    first_child: Option<u32>,
    last_name: Vec<u8>,
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
            && (record.size, record.mtime, record.mode) == (entry.size, entry.mtime, entry.mode);
        if same { Ok(record) } else { Err(wrong) }
    }

    fn record(&mut self, index: EntryIndex) -> Result<Record, ManifestError> {
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
    fn add_part(&mut self, part: Vec<WireEntry>, last: bool) -> Result<Range<u32>, ManifestError> {
        self.seek_directory()?;
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
            self.last_name.clone_from(&entry.name);
            self.add(entry, self.directory)?;
        }
        self.flush()?;
        if last {
            let mut record = self.record(self.directory)?;
            (record.link, record.children) = (EntryIndex(first), self.entries - first);
            self.records.write_all_at(&record.encode(), record_offset(self.directory))?;
            self.directory = EntryIndex(self.directory.0 + 1);
            self.first_child = None;
        }
        Ok(start..self.entries)
    }

    /// The name of the directory whose children are being appended.
    fn directory_name(&mut self) -> Result<Vec<u8>, ManifestError> {
        let record = self.record(self.directory)?;
        let mut name = vec![0; record.name_bytes.into()];
        self.heap.read_exact_at(&mut name, self.heap_base + u64::from(record.name_at))?;
        Ok(name)
    }

    /// Moves on to the next directory; an error when every one has been listed.
    fn seek_directory(&mut self) -> Result<(), ManifestError> {
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
    fn is_complete(&mut self) -> Result<bool, ManifestError> {
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

/// The rules every entry obeys, whoever it comes from.
fn check_entry(entry: &WireEntry) -> Result<(), ManifestError> {
    let invalid = |what| Err(ManifestError::Invalid(what));
    let empty = Extra::default();
    let extra = entry.extra.as_deref().unwrap_or(&empty);
    if entry.mode & !0o1777 != 0 {
        return invalid("an entry has mode bits that do not travel");
    }
    if entry.mtime.nsec >= 1_000_000_000 {
        return invalid("an entry's time has more than a second of nanoseconds");
    }
    if entry.kind != Kind::File
        && (entry.link.is_some() || !extra.holes.is_empty() || extra.git_config.is_some())
    {
        return invalid("an entry that is no file has a file's properties");
    }
    match entry.kind {
        Kind::File if entry.size > FILE_BYTES_MAX => {
            return invalid("a file is larger than any kernel allows");
        }
        Kind::Directory if entry.size != 0 => return invalid("a directory has a size"),
        Kind::Symlink if entry.size != extra.target.len() as u64 => {
            return invalid("a symlink's size is not its target's");
        }
        Kind::Symlink if extra.target.is_empty() || extra.target.len() > TARGET_BYTES_MAX => {
            return invalid("a symlink's target is empty or too long");
        }
        Kind::Symlink if extra.target.contains(&0) => return invalid("a symlink's target holds a NUL byte"),
        Kind::File | Kind::Directory if !extra.target.is_empty() => {
            return invalid("an entry that is no symlink has a target");
        }
        Kind::File | Kind::Directory | Kind::Symlink => {}
    }
    check_extra(entry.size, extra)
}

fn check_extra(size: u64, extra: &Extra) -> Result<(), ManifestError> {
    let invalid = |what| Err(ManifestError::Invalid(what));
    let xattr_bytes: usize = extra.xattrs.iter().map(|(name, value)| name.len() + value.len()).sum();
    // Names of our own mean something to whoever stores a tree: none may come from its sender.
    let own = |name: &[u8]| name.starts_with(b"user.twinshare");
    let xattr_ok =
        |name: &[u8]| name.starts_with(b"user.") && name.len() <= 255 && !name.contains(&0) && !own(name);
    if xattr_bytes > XATTR_BYTES_MAX || !extra.xattrs.iter().all(|(name, _)| xattr_ok(name)) {
        return invalid("an entry has xattrs that do not travel");
    }
    if !extra.xattrs.is_sorted_by(|a, b| a.0 < b.0) {
        return invalid("xattrs are not sorted, or one comes twice");
    }
    let apart = extra.holes.is_sorted_by(|a, b| a.end < b.start);
    let inside = extra.holes.iter().all(|hole| hole.start < hole.end && hole.end <= size);
    if extra.holes.len() > HOLES_MAX || !apart || !inside {
        return invalid("a hole map is not one");
    }
    if extra.git_config.as_ref().is_some_and(|config| config.len() > GIT_CONFIG_BYTES_MAX) {
        return invalid("a git configuration is too long");
    }
    Ok(())
}

/// Builds a manifest at the origin, directory by directory in manifest order.
///
/// Nothing appears at the final path before [`finish`](Self::finish); a builder that is dropped leaves nothing.
pub struct Builder {
    appender: Appender,
    path: PathBuf,
    temporary: PathBuf,
    meta_bytes: u32,
}

impl Builder {
    /// Begins the manifest that [`finish`](Self::finish) will put at `path`, with the roots' own entries (their names
    /// are ignored).
    pub fn new(path: &Path, meta: &Meta, roots: Vec<NewEntry>) -> Result<Self, ManifestError> {
        if roots.is_empty() || roots.len() > ROOTS_MAX as usize || roots.len() != meta.roots.len() {
            return Err(ManifestError::Invalid("a manifest has between one and 64 roots, each with a path"));
        }
        let mut temporary = path.as_os_str().to_owned();
        temporary.push(format!(".{}", std::process::id()));
        let temporary = PathBuf::from(temporary);
        let records = File::options().read(true).write(true).create(true).truncate(true).open(&temporary)?;
        // The heap's place is known only when the records are all there: it waits in a file without a name.
        let heap = unnamed_file(path)?;
        let appender = Appender::new(records, heap, 0, ENTRIES_MAX, u64::from(u32::MAX), roots.len() as u32);
        let mut builder = Self { appender, path: path.into(), temporary, meta_bytes: 0 };
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
        let subdirectories = entries.iter().filter(|entry| entry.kind == Kind::Directory).count() as u32;
        self.appender.seek_directory()?;
        let directory = self.appender.directory;
        let range = self.appender.add_part(entries.into_iter().map(wire_entry).collect(), true)?;
        self.set_nlink(directory, 2 + subdirectories)?;
        Ok(range)
    }

    /// Sets the number of names of an entry that has been listed (of the first name of an inode, and of each other).
    pub fn set_nlink(&mut self, index: EntryIndex, nlink: u32) -> Result<(), ManifestError> {
        let mut record = self.appender.record(index)?;
        record.nlink = nlink;
        Ok(self.appender.records.write_all_at(&record.encode(), record_offset(index))?)
    }

    /// Puts the complete manifest at its path, durably, and opens it.
    pub fn finish(mut self, left_out: &LeftOutList) -> Result<Manifest, ManifestError> {
        if !self.appender.is_complete()? {
            return Err(ManifestError::Invalid("a directory has not been listed"));
        }
        let left_out_bytes = self.appender.end(left_out)?;
        let preamble = self.appender.preamble(self.meta_bytes, left_out_bytes);
        let mut file = &self.appender.records;
        file.seek(SeekFrom::Start(preamble.heap_offset()))?;
        (&self.appender.heap).rewind()?;
        io::copy(&mut (&self.appender.heap).take(preamble.heap_bytes), &mut file)?;
        file.set_len(preamble.total_bytes())?;
        let snapshot = digest(&map(file)?, &preamble);
        file.write_all_at(&Preamble { snapshot, ..preamble }.encode(), 0)?;
        file.sync_all()?;
        std::fs::rename(&self.temporary, &self.path)?;
        Manifest::open(&self.path)
    }
}

impl Drop for Builder {
    fn drop(&mut self) {
        // Gone already once it has been renamed; a leftover is swept with its directory.
        let _ = std::fs::remove_file(&self.temporary);
    }
}

/// Receives a manifest frame by frame into a file that can be read from the first frame on.
pub struct Receiver {
    appender: Appender,
    head: Head,
    meta_bytes: u32,
    progress: Arc<Progress>,
    arrival: watch::Sender<Arrival>,
    manifest: Manifest,
    file: File,
}

impl Receiver {
    /// Begins with the stream's first frame. The file at `path` is replaced.
    pub fn new(path: &Path, first: &[u8]) -> Result<Self, ManifestError> {
        let Frame::Head(head) = frame::decode(first)? else {
            return Err(ManifestError::Invalid("the first frame is not a head"));
        };
        if head.entries > ENTRIES_MAX || head.heap_bytes > u64::from(u32::MAX) {
            return Err(ManifestError::Invalid("the manifest announces more entries than there may be"));
        }
        if head.roots.is_empty()
            || head.roots.len() > ROOTS_MAX as usize
            || head.roots.len() != head.meta.roots.len()
        {
            return Err(ManifestError::Invalid("a manifest has between one and 64 roots, each with a path"));
        }
        let _ = std::fs::remove_file(path);
        let file = File::options().read(true).write(true).create_new(true).open(path)?;
        let roots = head.roots.len() as u32;
        let heap_base = PREAMBLE_BYTES + RECORD_BYTES * u64::from(head.entries);
        // Sparse: a lie about the counts costs address space, not disk.
        file.set_len(heap_base + head.heap_bytes)?;
        let appender = Appender::new(
            file.try_clone()?,
            file.try_clone()?,
            heap_base,
            head.entries,
            head.heap_bytes,
            roots,
        );
        let progress = Arc::new(Progress::default());
        let (arrival, news) = watch::channel(Arrival::Listed(EntryIndex(0)));
        let preamble = Preamble {
            entries: head.entries,
            roots,
            heap_bytes: head.heap_bytes,
            meta_bytes: 0,
            left_out_bytes: head.left_out_bytes,
            blocks: head.blocks,
            file_bytes: head.file_bytes,
            snapshot: head.snapshot,
        };
        let manifest =
            Manifest::assemble(map(&file)?, path, preamble, head.meta.clone(), progress.clone(), news);
        let mut receiver = Self { appender, head, meta_bytes: 0, progress, arrival, manifest, file };
        let entries = receiver.head.roots.clone();
        if entries.iter().any(|root| root.kind != Kind::Directory || !root.name.is_empty()) {
            return Err(ManifestError::Invalid("a root is not a directory without a name"));
        }
        receiver.meta_bytes = receiver.appender.begin(&receiver.head.meta, entries)?;
        receiver.publish();
        Ok(receiver)
    }

    /// The manifest, readable as far as it has arrived.
    pub fn manifest(&self) -> Manifest {
        self.manifest.clone()
    }

    /// Takes the next frame; true when the manifest is complete, durable and has its digest.
    ///
    /// After an error the manifest is [failed](Arrival::Failed) and shows nothing any more.
    pub fn accept(&mut self, bytes: &[u8]) -> Result<bool, ManifestError> {
        self.try_accept(bytes).inspect_err(|error| self.fail(&error.to_string()))
    }

    /// Says that no more will come. What has arrived stays hidden: it could not be checked as a whole.
    pub fn fail(&mut self, why: &str) {
        self.progress.listed.store(0, Release);
        self.progress.entries.store(0, Release);
        self.arrival.send_replace(Arrival::Failed(why.into()));
    }

    fn try_accept(&mut self, bytes: &[u8]) -> Result<bool, ManifestError> {
        match frame::decode(bytes)? {
            Frame::Head(_) => Err(ManifestError::Invalid("a second head")),
            Frame::Entries(parts) => {
                for Part { entries, last } in parts {
                    self.appender.add_part(entries, last)?;
                }
                self.publish();
                Ok(false)
            }
            Frame::Tail(left_out) => self.complete(&left_out).map(|()| true),
        }
    }

    fn complete(&mut self, left_out: &LeftOutList) -> Result<(), ManifestError> {
        if !self.appender.is_complete()? {
            return Err(ManifestError::Invalid("the stream ended before every directory was listed"));
        }
        if left_out.named.len() > LEFT_OUT_MAX {
            return Err(ManifestError::Invalid("the list of what was left out is too long"));
        }
        let left_out_bytes = self.appender.end(left_out)?;
        let preamble = self.appender.preamble(self.meta_bytes, left_out_bytes);
        let head = &self.head;
        let announced = (head.entries, head.heap_bytes, head.left_out_bytes, head.blocks, head.file_bytes);
        let found = (
            preamble.entries,
            preamble.heap_bytes,
            preamble.left_out_bytes,
            preamble.blocks,
            preamble.file_bytes,
        );
        if announced != found {
            return Err(ManifestError::Invalid("the manifest is not as large as announced"));
        }
        if digest(&map(&self.file)?, &preamble) != head.snapshot {
            return Err(ManifestError::Invalid("the manifest does not have the snapshot's digest"));
        }
        self.file.write_all_at(&Preamble { snapshot: head.snapshot, ..preamble }.encode(), 0)?;
        self.file.sync_all()?;
        self.progress.entries.store(head.entries, Release);
        self.progress.listed.store(head.entries, Release);
        self.arrival.send_replace(Arrival::Complete);
        Ok(())
    }

    fn publish(&mut self) {
        self.progress.entries.store(self.appender.pending.first, Release);
        self.progress.listed.store(self.appender.directory.0, Release);
        self.arrival.send_replace(Arrival::Listed(self.appender.directory));
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        if matches!(*self.arrival.borrow(), Arrival::Listed(_)) {
            self.fail("the stream of the manifest broke off");
        }
    }
}

impl Appender {
    fn new(
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
            pending: Pending::default(),
        }
    }

    /// Writes the description and the roots; returns the description's length.
    fn begin(&mut self, meta: &Meta, roots: Vec<WireEntry>) -> Result<u32, ManifestError> {
        let encoded = postcard::to_stdvec(meta)
            .map_err(|_| ManifestError::Invalid("the description cannot be encoded"))?;
        if !meta.roots.iter().all(|root| root.starts_with(b"/") && !root.contains(&0) && root.len() <= 4095) {
            return Err(ManifestError::Invalid("a root's path is not absolute, or too long"));
        }
        self.push_heap(&encoded)?;
        for (at, root) in roots.into_iter().enumerate() {
            self.add(root, EntryIndex(at as u32))?;
        }
        self.flush()?;
        Ok(encoded.len() as u32)
    }

    /// Writes the list of what was left out; returns its length.
    fn end(&mut self, left_out: &LeftOutList) -> Result<u32, ManifestError> {
        let encoded = postcard::to_stdvec(left_out)
            .map_err(|_| ManifestError::Invalid("the list of what was left out cannot be encoded"))?;
        self.push_heap(&encoded)?;
        self.flush()?;
        u32::try_from(encoded.len()).map_err(|_| ManifestError::Invalid("the heap is too long"))
    }

    fn preamble(&self, meta_bytes: u32, left_out_bytes: u32) -> Preamble {
        Preamble {
            entries: self.entries,
            roots: self.roots,
            heap_bytes: self.heap_bytes,
            meta_bytes,
            left_out_bytes,
            blocks: self.blocks,
            file_bytes: self.file_bytes,
            snapshot: SnapshotId(Digest([0; 32])),
        }
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

/// A file without a name on the filesystem of `beside`.
fn unnamed_file(beside: &Path) -> io::Result<File> {
    use rustix::fs::{Mode, OFlags};
    let directory = beside.parent().unwrap_or(Path::new("."));
    let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
    Ok(rustix::fs::open(directory, flags, Mode::RUSR | Mode::WUSR)?.into())
}
