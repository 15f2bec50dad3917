//! One request, read step by step.

use std::sync::Arc;

use bytes::Bytes;

use super::files::{Files, OpenFile, OpenRoot, Read, Reading, TRIES};
use super::{BlockRange, Class, DELIVERIES_AHEAD, Delivery, FileFault, RUN_BLOCKS, Run};
use crate::digest::{BLOCK_BYTES, BlockIndex, block_count};
use crate::manifest::{EntryIndex, Kind};
use crate::name::RelPath;

/// Bytes after which a step ends: a thread is held for as long as reading and hashing a run takes.
const STEP_BYTES: u64 = RUN_BLOCKS as u64 * BLOCK_BYTES;

/// Deliveries in a step at most, where nobody waits for the first of them: a step costs a switch between threads, which
/// is as much as reading a small file.
const BACKGROUND_DELIVERIES: usize = 64;

/// Bytes of a long range that the disk is asked for ahead of those that are read.
const EXPECTED_BYTES: u64 = 4 * STEP_BYTES;

/// From this size on a file is bound in the background even if it was asked for as a whole: that takes long.
const LONG_BYTES: u64 = 64 << 20;

/// Blocks of a file that somebody asked for.
#[derive(Clone, Copy, Debug)]
pub(super) enum Want {
    /// All of them, and be there none.
    Whole(EntryIndex),
    /// Some.
    Part(BlockRange),
}

impl Want {
    fn file(self) -> EntryIndex {
        match self {
            Self::Whole(file) => file,
            Self::Part(range) => range.file,
        }
    }
}

/// A request as far as it has come.
#[derive(Debug)]
pub(super) struct Reader {
    files: Arc<Files>,
    wants: std::vec::IntoIter<Want>,
    current: Option<Cursor>,
    /// Deliveries in a step at most.
    deliveries: usize,
    _reading: Reading,
}

/// What became of a step; nothing at all when the request is done.
#[derive(Debug, Default)]
pub(super) struct Step {
    pub(super) deliveries: Vec<Delivery>,
    /// What must be done before the next step.
    pub(super) pending: Option<Pending>,
    /// Files of which some blocks are bound now, and others are not for some time.
    pub(super) incomplete: Vec<EntryIndex>,
}

/// What a request waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pending {
    /// The file must be [settled](super::moment).
    Unsettled(EntryIndex),
    /// The file must be [looked for](super::whereabouts).
    Missing(EntryIndex),
}

/// A file that is being read.
#[derive(Debug)]
struct Cursor {
    file: EntryIndex,
    root: EntryIndex,
    path: RelPath,
    /// Opened with the first of its blocks.
    content: Option<Content>,
    size: u64,
    next: u64,
    end: u64,
    /// Up to where the disk has been asked for.
    expected: u64,
    /// How often it had to be settled, or looked for.
    waited: u32,
    looked_for: bool,
    /// It has been named as incomplete, or need not be.
    is_bound: bool,
    is_done: bool,
}

#[derive(Clone, Debug)]
enum Content {
    File(Arc<OpenFile>),
    /// A git configuration: what is shown of it lies in the manifest, and nothing else of it leaves this machine.
    Text(Bytes),
}

/// The roots that were looked at in this step.
type Roots = Vec<(EntryIndex, Result<OpenRoot, FileFault>)>;

impl Reader {
    pub(super) fn new(files: &Arc<Files>, wants: Vec<Want>, class: Class) -> Self {
        let deliveries = match class {
            Class::Demand => DELIVERIES_AHEAD,
            Class::ReadAhead | Class::Bulk => BACKGROUND_DELIVERIES,
        };
        let (wants, current) = (wants.into_iter(), None);
        Self { files: files.clone(), wants, current, deliveries, _reading: files.begin() }
    }

    /// The next deliveries, about 256 KiB or some files. Blocks on the disk.
    pub(super) fn step(&mut self) -> Step {
        let (mut out, mut bytes, mut roots) = (Step::default(), 0, Roots::new());
        // A turn adds two at most.
        while out.deliveries.len() + 2 <= self.deliveries && bytes < STEP_BYTES && out.pending.is_none() {
            let cursor = match self.current.take() {
                Some(cursor) => cursor,
                None => {
                    let Some(want) = self.wants.next() else { break };
                    match self.begin(want) {
                        Ok(cursor) => cursor,
                        Err(fault) => {
                            out.deliveries.push(Delivery::Fault(want.file(), fault));
                            continue;
                        }
                    }
                }
            };
            let mut cursor = cursor;
            match self.turn(&mut cursor, &mut roots, &mut out) {
                Ok(read) => {
                    bytes += read;
                    self.current = (!cursor.is_done).then_some(cursor);
                }
                Err(FileFault::Changed) if !cursor.looked_for && self.is_missing(&cursor, &mut roots) => {
                    self.files.forget(cursor.file);
                    out.pending = Some(Pending::Missing(cursor.file));
                    self.current = Some(Cursor { content: None, looked_for: true, ..cursor });
                }
                Err(fault) => out.deliveries.push(self.fault(cursor.file, fault)),
            }
        }
        out
    }

    /// Goes on after what was pending has been done, or could not be.
    pub(super) fn go_on(&mut self, done: Result<(), FileFault>) -> Option<Delivery> {
        let cursor = self.current.as_mut()?;
        cursor.waited += 1;
        let fault = match done {
            Ok(()) if cursor.waited < TRIES => return None,
            Ok(()) => FileFault::Unreadable("it keeps changing while it is read".into()),
            Err(fault) => fault,
        };
        let file = self.current.take()?.file;
        Some(self.fault(file, fault))
    }

    fn fault(&self, file: EntryIndex, fault: FileFault) -> Delivery {
        self.files.forget(file);
        Delivery::Fault(file, fault)
    }

    /// Delivers a run of the file, and its end where that was the last; returns the run's bytes.
    fn turn(&self, cursor: &mut Cursor, roots: &mut Roots, out: &mut Step) -> Result<u64, FileFault> {
        let content = match cursor.content.take() {
            Some(content) => content,
            None => self.content(cursor, roots)?,
        };
        let content = cursor.content.insert(content).clone();
        let mut read = 0;
        if cursor.next < cursor.end {
            let first = BlockIndex(cursor.next);
            let count = (cursor.end - cursor.next).min(RUN_BLOCKS as u64);
            let Read::Done { bytes, digests, bound } = self.read(cursor, &content, roots, first, count)?
            else {
                out.pending = Some(Pending::Unsettled(cursor.file));
                return Ok(0);
            };
            if bound && !std::mem::replace(&mut cursor.is_bound, true) {
                out.incomplete.push(cursor.file);
            }
            read = bytes.len() as u64;
            cursor.next += count;
            out.deliveries.push(Delivery::Run(Run { file: cursor.file, first, digests, bytes }));
        } else if let Content::File(file) = &content {
            self.files.look(file)?;
        }
        if cursor.next >= cursor.end {
            cursor.is_done = true;
            out.deliveries.push(Delivery::End(cursor.file));
        }
        Ok(read)
    }

    fn read(
        &self,
        cursor: &mut Cursor,
        content: &Content,
        roots: &mut Roots,
        first: BlockIndex,
        count: u64,
    ) -> Result<Read, FileFault> {
        match content {
            Content::File(file) => {
                root(&self.files, roots, cursor.root)?;
                let wanted = BlockIndex(cursor.end).bytes_in(cursor.size).start - first.offset();
                // A single run gains nothing: it is read at once.
                if cursor.end - first.0 > count && cursor.expected <= first.offset() {
                    self.files.expect(file, first.offset(), wanted.min(2 * EXPECTED_BYTES));
                    cursor.expected = first.offset() + EXPECTED_BYTES;
                }
                self.files.read(file, first, count)
            }
            Content::Text(text) => {
                let end = BlockIndex(first.0 + count - 1).bytes_in(cursor.size).end;
                let bytes = text.slice(first.offset() as usize..end as usize);
                let Run { digests, bytes, .. } = Run::hashed(cursor.file, first, cursor.size, bytes);
                Ok(Read::Done { bytes, digests, bound: false })
            }
        }
    }

    fn begin(&self, want: Want) -> Result<Cursor, FileFault> {
        let index = want.file();
        let entry = self.files.manifest.entry(index).filter(|entry| entry.kind() == Kind::File);
        let entry = entry.ok_or(FileFault::NoSuchBlock)?;
        let (next, end) = blocks(want, entry.size()).ok_or(FileFault::NoSuchBlock)?;
        let (root, path) = self.files.manifest.locate(index).ok_or(FileFault::NoSuchBlock)?;
        let size = entry.size();
        Ok(Cursor {
            file: index,
            root,
            path,
            content: None,
            size,
            next,
            end,
            expected: 0,
            waited: 0,
            looked_for: false,
            is_bound: (next, end) == (0, block_count(size)) && size <= LONG_BYTES,
            is_done: false,
        })
    }

    fn content(&self, cursor: &Cursor, roots: &mut Roots) -> Result<Content, FileFault> {
        let entry = self.files.manifest.entry(cursor.file).ok_or(FileFault::NoSuchBlock)?;
        if let Some(text) = entry.has_extra().then(|| entry.extra().git_config).flatten() {
            // The walk made the size that of the text; another is no manifest of ours.
            return match text.len() as u64 == entry.size() {
                true => Ok(Content::Text(text.into())),
                false => Err(FileFault::NoSuchBlock),
            };
        }
        let root = root(&self.files, roots, cursor.root)?;
        Ok(Content::File(self.files.open(root, cursor.path.as_bytes(), &entry)?))
    }

    /// True when it is worth looking for the file: its root is there, and it is not where it was last seen.
    fn is_missing(&self, cursor: &Cursor, roots: &mut Roots) -> bool {
        let entry = self.files.manifest.entry(cursor.file);
        entry
            .zip(root(&self.files, roots, cursor.root).ok())
            .is_some_and(|(entry, root)| self.files.is_missing(root, cursor.path.as_bytes(), &entry))
    }
}

/// The root, looked at once a step: whoever replaces it ends what is read beneath it.
fn root<'r>(files: &Files, roots: &'r mut Roots, index: EntryIndex) -> Result<&'r OpenRoot, FileFault> {
    let at = match roots.iter().position(|(root, _)| *root == index) {
        Some(at) => at,
        None => {
            roots.push((index, files.root(index)));
            roots.len() - 1
        }
    };
    roots[at].1.as_ref().map_err(Clone::clone)
}

/// The first block wanted and the one after the last; `None` where the file has none of them.
fn blocks(want: Want, size: u64) -> Option<(u64, u64)> {
    let count = block_count(size);
    match want {
        Want::Whole(_) => Some((0, count)),
        Want::Part(range) => {
            let first = range.first.0;
            (first < count).then(|| (first, first.saturating_add(range.count).min(count)))
        }
    }
}
