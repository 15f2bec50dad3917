//! Receiving a manifest from a stream of frames.

use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering::Release;

use tokio::sync::watch;

use super::append::Appender;
use super::frame::{self, Frame, Head, Part};
use super::record::{PREAMBLE_BYTES, Preamble, RECORD_BYTES};
use super::rules::check_head;
use super::{
    Arrival, EntryIndex, LEFT_OUT_MAX, LeftOutList, Manifest, ManifestError, Progress, SnapshotId, digest,
    map,
};
use crate::scratch::Partial;

/// Receives a manifest frame by frame into a file that can be read from the first frame on.
pub struct Receiver {
    appender: Appender,
    head: Head,
    meta_bytes: u32,
    progress: Arc<Progress>,
    arrival: watch::Sender<Arrival>,
    manifest: Manifest,
    partial: Partial,
}

impl Receiver {
    /// Begins with the first frame of the stream of `snapshot`; that of another one is refused.
    ///
    /// What arrives lies beside `path` until it is complete; what lies at `path` stays until then.
    pub fn new(path: &Path, snapshot: SnapshotId, first: &[u8]) -> Result<Self, ManifestError> {
        let Frame::Head(head) = frame::decode(first)? else {
            return Err(ManifestError::Invalid("the first frame is not a head"));
        };
        Self::begin(path, snapshot, head)
    }

    /// Begins with what a stream announces.
    pub(super) fn begin(path: &Path, snapshot: SnapshotId, head: Head) -> Result<Self, ManifestError> {
        if head.snapshot != snapshot {
            return Err(ManifestError::Invalid("it is the manifest of another snapshot"));
        }
        check_head(&head)?;
        let partial = Partial::create(path)?;
        let roots = head.roots.len() as u32;
        let heap_base = PREAMBLE_BYTES + RECORD_BYTES * u64::from(head.entries);
        // Sparse: a lie about the counts costs address space, not disk.
        partial.file.set_len(heap_base + head.heap_bytes)?;
        let file = || partial.file.try_clone();
        let appender = Appender::new(file()?, file()?, heap_base, head.entries, head.heap_bytes, roots);
        let progress = Arc::new(Progress::default());
        let (arrival, news) = watch::channel(Arrival::Listed(EntryIndex(0)));
        let (map, meta) = (map(&partial.file)?, head.meta.clone());
        let manifest = Manifest::assemble(map, path, announced(&head), meta, progress.clone(), news);
        let mut receiver = Self { appender, head, meta_bytes: 0, progress, arrival, manifest, partial };
        let entries = receiver.head.roots.clone();
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
        // First the news: who finds nothing any more must find out why.
        self.arrival.send_replace(Arrival::Failed(why.into()));
        self.progress.listed.store(0, Release);
        self.progress.entries.store(0, Release);
    }

    fn try_accept(&mut self, bytes: &[u8]) -> Result<bool, ManifestError> {
        match frame::decode(bytes)? {
            Frame::Head(_) => Err(ManifestError::Invalid("a second head")),
            Frame::Entries(parts) => {
                let before = self.appender.position();
                parts.into_iter().try_for_each(|part| self.add_part(part))?;
                // Each frame counts as a sign of life.
                if self.appender.position() == before {
                    return Err(ManifestError::Invalid("a frame adds nothing"));
                }
                self.publish();
                Ok(false)
            }
            Frame::Tail(left_out) => self.complete(&left_out).map(|()| true),
        }
    }

    /// Appends children to the directory whose turn it is.
    pub(super) fn add_part(&mut self, Part { entries, last }: Part) -> Result<(), ManifestError> {
        let nlink = self.appender.announced_nlink()?;
        let directory = self.appender.directory;
        self.appender.add_part(entries, last)?;
        match last && nlink != self.appender.record(directory)?.nlink {
            true => Err(ManifestError::Invalid("a directory has a wrong number of links")),
            false => Ok(()),
        }
    }

    /// Ends the manifest, when all of it is there and has its digest.
    pub(super) fn complete(&mut self, left_out: &LeftOutList) -> Result<(), ManifestError> {
        if !self.appender.is_complete()? {
            return Err(ManifestError::Invalid("the stream ended before every directory was listed"));
        }
        if left_out.named.len() > LEFT_OUT_MAX {
            return Err(ManifestError::Invalid("the list of what was left out is too long"));
        }
        let left_out_bytes = self.appender.end(left_out)?;
        let preamble = self.appender.preamble(self.meta_bytes, left_out_bytes, self.head.versions);
        let head = &self.head;
        let preamble = Preamble { snapshot: head.snapshot, ..preamble };
        if preamble != (Preamble { meta_bytes: self.meta_bytes, ..announced(head) }) {
            return Err(ManifestError::Invalid("the manifest is not as large as announced"));
        }
        let file = &self.partial.file;
        if digest(&map(file)?, &preamble) != head.snapshot {
            return Err(ManifestError::Invalid("the manifest does not have the snapshot's digest"));
        }
        file.write_all_at(&preamble.encode(), 0)?;
        self.partial.finish()?;
        self.progress.entries.store(head.entries, Release);
        self.progress.listed.store(head.entries, Release);
        self.arrival.send_replace(Arrival::Complete);
        Ok(())
    }

    fn publish(&mut self) {
        self.progress.entries.store(self.appender.written(), Release);
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

/// The preamble that the first frame lets expect.
fn announced(head: &Head) -> Preamble {
    Preamble {
        entries: head.entries,
        roots: head.roots.len() as u32,
        heap_bytes: head.heap_bytes,
        meta_bytes: 0,
        left_out_bytes: head.left_out_bytes,
        blocks: head.blocks,
        file_bytes: head.file_bytes,
        versions: head.versions,
        snapshot: head.snapshot,
    }
}
