//! How a manifest travels to somebody who has an earlier one of the same workspace: as what became of that one.
//!
//! The first frame is the [`DeltaFrame::Head`]: the [head](super::frame::Head) of the new manifest, which old one is
//! meant, and how many entries each root lists. Then come [`DeltaFrame::Entries`]: the entries of the new manifest in
//! their order, roots excepted, each either *copied* from the old one, in runs, or in full. The order and the number
//! of entries that each directory lists give the place of an entry, so a copied run goes on over any number of
//! directories. The last is the [`DeltaFrame::Tail`] with all that was left out.
//!
//! An entry is copied only when it is [carried](super::Carried): certainly the same version of the same file. So the
//! copied runs are also what tells the receiver which content it has. What a copied entry says is taken from the old
//! manifest; only a further name of an inode names the first one by its new place. The receiver appends both kinds
//! through the same code as ever, and the digest of the file proves the result.
//!
//! Frames are packed and bounded as those of a whole [manifest](super::frame) are.

use serde::{Deserialize, Serialize};

use super::frame::{self, BYTES_PER_FRAME, ENTRIES_PER_FRAME, Head, WireEntry};
use super::{
    Carried, CarriedRun, EntryIndex, Kind, LeftOutList, Listing, Manifest, ManifestError, SnapshotId,
};

mod receive;

pub use receive::DeltaReceiver;

/// One unit of the stream.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum DeltaFrame {
    /// The first.
    Head(Box<DeltaHead>),
    /// Entries, continued where the frame before ended.
    Entries(Vec<DeltaItem>),
    /// The last.
    Tail(LeftOutList),
}

/// What a receiver must know before the first entry.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeltaHead {
    /// The manifest of which entries are copied.
    pub base: SnapshotId,
    /// What the stream of the whole manifest begins with.
    pub head: Head,
    /// How many entries each root lists.
    pub children: Vec<u32>,
}

/// Some entries.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum DeltaItem {
    /// Consecutive entries of the old manifest.
    Copied {
        /// The first.
        old: EntryIndex,
        /// How many, at least one.
        len: u32,
    },
    /// An entry in full.
    Full {
        /// The entry.
        entry: Box<WireEntry>,
        /// How many entries it lists; 0 for whatever is no directory.
        children: u32,
    },
}

/// Encodes and compresses one frame.
pub fn encode(frame: &DeltaFrame) -> Result<Vec<u8>, ManifestError> {
    frame::pack(frame)
}

/// Unpacks and decodes one frame; never takes more than [`frame::FRAME_BYTES_MAX`] for it.
pub fn decode(bytes: &[u8]) -> Result<DeltaFrame, ManifestError> {
    frame::unpack(bytes)
}

/// The frames that make a manifest of an earlier one, one at a time, without holding more than one in memory.
pub struct DeltaFrames {
    base: SnapshotId,
    manifest: Manifest,
    carried: Carried,
    state: State,
}

enum State {
    Head,
    /// The entry to send next, and the first run that does not end before it.
    Entries {
        next: u32,
        run: usize,
    },
    Tail,
    Done,
}

impl DeltaFrames {
    /// The stream of `manifest`, which must be complete, for somebody who has the manifest of `base`, from which
    /// `carried` is carried.
    pub fn new(base: SnapshotId, manifest: &Manifest, carried: Carried) -> Self {
        Self { base, manifest: manifest.clone(), carried, state: State::Head }
    }

    fn head(&self) -> DeltaFrame {
        let children = self.manifest.roots().map(|root| self.children(root)).collect();
        let head = frame::head(&self.manifest);
        DeltaFrame::Head(Box::new(DeltaHead { base: self.base, head, children }))
    }

    fn children(&self, directory: EntryIndex) -> u32 {
        match self.manifest.children(directory) {
            Listing::Known(children) => children.end - children.start,
            Listing::NotYet => 0,
        }
    }

    /// Fills one frame from entry `next` on; `run` is the first run that does not end before it.
    fn entries(&self, mut next: u32, mut run: usize) -> (Vec<DeltaItem>, State) {
        let (mut items, mut bytes) = (Vec::new(), 0);
        while items.len() < ENTRIES_PER_FRAME && bytes < BYTES_PER_FRAME {
            if let Some(CarriedRun { old, len, .. }) = self.run_at(next, run) {
                items.push(DeltaItem::Copied { old, len });
                (next, run) = (next + len, run + 1);
                continue;
            }
            let Some(entry) = frame::wire_entry(&self.manifest, EntryIndex(next)) else {
                return (items, State::Tail);
            };
            bytes += entry.weight();
            let children = if entry.kind == Kind::Directory { self.children(EntryIndex(next)) } else { 0 };
            items.push(DeltaItem::Full { entry: Box::new(entry), children });
            next += 1;
        }
        (items, State::Entries { next, run })
    }

    fn run_at(&self, next: u32, run: usize) -> Option<CarriedRun> {
        self.carried.runs().get(run).filter(|run| run.new.0 == next).copied()
    }
}

impl Iterator for DeltaFrames {
    type Item = DeltaFrame;

    fn next(&mut self) -> Option<DeltaFrame> {
        let (frame, state) = match self.state {
            State::Head => {
                (self.head(), State::Entries { next: self.manifest.roots().count() as u32, run: 0 })
            }
            State::Entries { next, run } => {
                let (items, state) = self.entries(next, run);
                if items.is_empty() {
                    // The frame before ended with the last entry.
                    self.state = state;
                    return self.next();
                }
                (DeltaFrame::Entries(items), state)
            }
            State::Tail => (DeltaFrame::Tail(self.manifest.left_out()), State::Done),
            State::Done => return None,
        };
        self.state = state;
        Some(frame)
    }
}

#[cfg(test)]
mod tests;
