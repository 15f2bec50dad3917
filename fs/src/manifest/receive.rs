//! Receiving a manifest from a stream of frames.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering::Release;

use tokio::sync::watch;

use super::append::Appender;
use super::frame::{self, Frame, Head, Part};
use super::record::{PREAMBLE_BYTES, Preamble, RECORD_BYTES};
use super::{
    Arrival, ENTRIES_MAX, EntryIndex, Kind, LEFT_OUT_MAX, LeftOutList, Manifest, ManifestError, Progress,
    ROOTS_MAX, digest, map,
};

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
            versions: head.versions,
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
        let preamble = self.appender.preamble(self.meta_bytes, left_out_bytes, self.head.versions);
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
