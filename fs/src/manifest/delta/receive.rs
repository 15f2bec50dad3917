//! Receiving a manifest as what became of an earlier one.

use std::collections::VecDeque;
use std::path::Path;

use super::{DeltaFrame, DeltaHead, DeltaItem, decode};
use crate::manifest::frame::{self, BYTES_PER_FRAME, ENTRIES_PER_FRAME, Part, WireEntry};
use crate::manifest::{
    Carried, CarriedRun, EntryIndex, Kind, Listing, Manifest, ManifestError, Receiver, SnapshotId,
};

/// Receives a manifest frame by frame from a stream that copies entries of an earlier one.
pub struct DeltaReceiver {
    receiver: Receiver,
    base: Manifest,
    carried: Carried,
    /// The entry that comes next.
    next: u32,
    /// How many entries the directories list that were appended and have not had their turn: four bytes for each.
    listings: VecDeque<u32>,
    /// Of the directory whose turn it is: entries still to come.
    missing: u32,
    /// Of the same: entries not appended yet.
    part: Vec<WireEntry>,
    part_bytes: usize,
}

impl DeltaReceiver {
    /// Begins with the first frame of the stream that makes the manifest of `snapshot` of `base`, which must be
    /// complete; a stream for another base is refused.
    ///
    /// What arrives lies beside `path` until it is complete; what lies at `path`, which may be the base, stays until
    /// then.
    pub fn new(
        path: &Path,
        base: Manifest,
        snapshot: SnapshotId,
        first: &[u8],
    ) -> Result<Self, ManifestError> {
        let DeltaFrame::Head(head) = decode(first)? else {
            return Err(ManifestError::Invalid("the first frame is not a head"));
        };
        let DeltaHead { base: of, head, children } = *head;
        if of != base.snapshot() {
            return Err(ManifestError::Invalid("it is what became of another snapshot"));
        }
        if children.len() != head.roots.len() {
            return Err(ManifestError::Invalid("it does not say how many entries each root lists"));
        }
        let next = head.roots.len() as u32;
        let receiver = Receiver::begin(path, snapshot, head)?;
        let mut begun = Self {
            receiver,
            base,
            carried: Carried::default(),
            next,
            listings: children.into(),
            missing: 0,
            part: Vec::new(),
            part_bytes: 0,
        };
        begun.begin_listing()?;
        Ok(begun)
    }

    /// Takes the next frame; true when the manifest is complete, durable and has its digest.
    ///
    /// After an error nothing more can be made of it.
    pub fn accept(&mut self, bytes: &[u8]) -> Result<bool, ManifestError> {
        match decode(bytes)? {
            DeltaFrame::Head(_) => Err(ManifestError::Invalid("a second head")),
            // Each frame counts as a sign of life.
            DeltaFrame::Entries(items) if items.is_empty() => {
                Err(ManifestError::Invalid("a frame adds nothing"))
            }
            DeltaFrame::Entries(items) => {
                items.into_iter().try_for_each(|item| self.item(item)).map(|()| false)
            }
            // That every listing has been completed is seen there.
            DeltaFrame::Tail(left_out) => self.receiver.complete(&left_out).map(|()| true),
        }
    }

    /// The complete manifest, and what of the earlier one it carries.
    pub fn finish(self) -> (Manifest, Carried) {
        (self.receiver.manifest(), self.carried)
    }

    fn item(&mut self, item: DeltaItem) -> Result<(), ManifestError> {
        match item {
            DeltaItem::Full { entry, children } if children > 0 && entry.kind != Kind::Directory => {
                Err(ManifestError::Invalid("an entry that is no directory lists entries"))
            }
            DeltaItem::Full { entry, children } => self.take(*entry, children),
            DeltaItem::Copied { old, len } => self.copy(old, len),
        }
    }

    fn copy(&mut self, old: EntryIndex, len: u32) -> Result<(), ManifestError> {
        let end = old.0.checked_add(len).filter(|end| *end <= self.base.entries());
        let end = end.ok_or(ManifestError::Invalid("entries are copied that the earlier manifest lacks"))?;
        self.carried.push(CarriedRun { new: EntryIndex(self.next), old, len })?;
        (old.0..end).try_for_each(|index| self.copy_one(EntryIndex(index)))
    }

    fn copy_one(&mut self, old: EntryIndex) -> Result<(), ManifestError> {
        let missing = ManifestError::Invalid("the earlier manifest is not complete");
        let mut entry = frame::wire_entry(&self.base, old).ok_or(missing)?;
        if let Some(link) = &mut entry.link {
            let first = self.carried.new_of(*link);
            *link = first.ok_or(ManifestError::Invalid("a further name is copied and the first is not"))?;
        }
        let children = match self.base.children(old) {
            Listing::Known(children) => children.end - children.start,
            Listing::NotYet => 0,
        };
        self.take(entry, children)
    }

    fn take(&mut self, entry: WireEntry, children: u32) -> Result<(), ManifestError> {
        if self.missing == 0 {
            return Err(ManifestError::Invalid("there are more entries than directories list"));
        }
        if entry.kind == Kind::Directory {
            self.listings.push_back(children);
        }
        self.part_bytes += entry.weight();
        self.part.push(entry);
        self.next += 1;
        self.missing -= 1;
        if self.missing == 0 {
            self.append(true)?;
            return self.begin_listing();
        }
        match self.part.len() >= ENTRIES_PER_FRAME || self.part_bytes >= BYTES_PER_FRAME {
            true => self.append(false),
            false => Ok(()),
        }
    }

    /// Passes over directories that list nothing, to the next that lists something.
    fn begin_listing(&mut self) -> Result<(), ManifestError> {
        while let Some(entries) = self.listings.pop_front() {
            if entries > 0 {
                self.missing = entries;
                break;
            }
            self.append(true)?;
        }
        Ok(())
    }

    fn append(&mut self, last: bool) -> Result<(), ManifestError> {
        self.part_bytes = 0;
        self.receiver.add_part(Part { entries: std::mem::take(&mut self.part), last })
    }
}
