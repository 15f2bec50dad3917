//! How a manifest travels: a stream of frames, each one zstd-compressed postcard value.
//!
//! The first frame is the [`Frame::Head`] with everything a receiver must know to lay out its file, and the roots.
//! Then come [`Frame::Entries`]: the listings of the directories in manifest order, cut into parts, so that the root
//! directory is the first thing that arrives. The last is the [`Frame::Tail`]. Indices do not travel: the order gives
//! them. Digests do not travel here either, since they do not compress; they come with the content.
//!
//! Every length is bounded before memory is taken for it: a frame unpacks to at most [`FRAME_BYTES_MAX`], whatever
//! its compressed form claims.

use std::ops::Range;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::{
    EntryIndex, Extra, Kind, LeftOutList, Listing, Manifest, ManifestError, Meta, Mtime, SnapshotId,
};
use crate::digest::Digest;

/// Bytes a frame may unpack to.
pub const FRAME_BYTES_MAX: usize = 2 * 1024 * 1024;

/// Bytes of a compressed frame at most: an incompressible one of the largest size.
pub const ENCODED_BYTES_MAX: usize = FRAME_BYTES_MAX + 16 * 1024;

/// Entries in a frame at most, in all its parts.
pub(super) const ENTRIES_PER_FRAME: usize = 4096;

/// Where a frame is closed because of its entries' extras and names, well before [`FRAME_BYTES_MAX`].
pub(super) const BYTES_PER_FRAME: usize = 512 * 1024;

/// zstd's level 1: higher ones gain a few percent and cost more time than the link does.
const COMPRESSION_LEVEL: i32 = 1;

/// One unit of the stream.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Frame {
    /// The first.
    Head(Head),
    /// Listings, continued where the frame before ended.
    Entries(Vec<Part>),
    /// The last.
    Tail(LeftOutList),
}

/// What a receiver must know before the first listing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Head {
    /// The digest of the finished file.
    pub snapshot: SnapshotId,
    /// Entries of all kinds, roots included.
    pub entries: u32,
    /// Bytes of the heap.
    pub heap_bytes: u64,
    /// Bytes of the encoded list of what was left out.
    pub left_out_bytes: u32,
    /// Blocks of all files.
    pub blocks: u64,
    /// Bytes of all files.
    pub file_bytes: u64,
    /// Which version of each file is meant; only its equality says something.
    pub versions: Digest,
    /// What the snapshot is of.
    pub meta: Meta,
    /// The roots' own entries, with empty names.
    pub roots: Vec<WireEntry>,
}

/// Some entries of one directory, in order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Part {
    /// The entries.
    pub entries: Vec<WireEntry>,
    /// True when the directory is complete with them; the next part is of the next directory.
    pub last: bool,
}

/// An entry on the wire.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WireEntry {
    /// The name; empty for a root.
    pub name: Vec<u8>,
    /// What it is.
    pub kind: Kind,
    /// Permission bits.
    pub mode: u16,
    /// Bytes of a file or of a symlink's target.
    pub size: u64,
    /// When it was last modified.
    pub mtime: Mtime,
    /// Number of names; for a directory two and one per subdirectory.
    pub nlink: u32,
    /// The first name of the same inode, where this is a further one.
    pub link: Option<EntryIndex>,
    /// See [`super::Flags`].
    pub flags: u16,
    /// The rarer properties, where there are any.
    pub extra: Option<Box<Extra>>,
}

/// Encodes and compresses one frame.
pub fn encode(frame: &Frame) -> Result<Vec<u8>, ManifestError> {
    pack(frame)
}

/// Unpacks and decodes one frame; never takes more than [`FRAME_BYTES_MAX`] for it.
pub fn decode(bytes: &[u8]) -> Result<Frame, ManifestError> {
    unpack(bytes)
}

/// Encodes and compresses one value.
pub(super) fn pack<T: Serialize>(frame: &T) -> Result<Vec<u8>, ManifestError> {
    let raw = postcard::to_stdvec(frame).map_err(|_| ManifestError::Invalid("a frame cannot be encoded"))?;
    if raw.len() > FRAME_BYTES_MAX {
        return Err(ManifestError::Invalid("a frame is too long"));
    }
    Ok(zstd::bulk::compress(&raw, COMPRESSION_LEVEL)?)
}

/// Unpacks and decodes one value of at most [`FRAME_BYTES_MAX`].
pub(super) fn unpack<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, ManifestError> {
    if bytes.len() > ENCODED_BYTES_MAX {
        return Err(ManifestError::Invalid("a frame is too long"));
    }
    let raw = zstd::bulk::decompress(bytes, FRAME_BYTES_MAX)
        .map_err(|_| ManifestError::Invalid("a frame cannot be unpacked, or is too long"))?;
    match postcard::take_from_bytes(&raw) {
        Ok((frame, [])) => Ok(frame),
        _ => Err(ManifestError::Invalid("a frame cannot be decoded")),
    }
}

/// The frames of a complete manifest, one at a time, without holding more than one in memory.
pub struct Frames {
    manifest: Manifest,
    state: State,
}

enum State {
    Head,
    /// The directory to list next, from this child on.
    Entries {
        directory: u32,
        from: u32,
    },
    Tail,
    Done,
}

impl Frames {
    /// The stream of `manifest`, which must be complete.
    pub fn new(manifest: &Manifest) -> Self {
        Self { manifest: manifest.clone(), state: State::Head }
    }

    /// Fills one frame from `directory`'s child `from` on; returns where the next one starts.
    fn entries(&self, mut directory: u32, mut from: u32) -> (Vec<Part>, Option<(u32, u32)>) {
        let (mut parts, mut entries, mut bytes) = (Vec::new(), 0, 0);
        while let Some(children) = self.next_directory(&mut directory) {
            let mut part = Part { entries: Vec::new(), last: false };
            let start = children.start + from;
            for child in start..children.end {
                if entries >= ENTRIES_PER_FRAME || bytes >= BYTES_PER_FRAME {
                    let at = child - children.start;
                    parts.push(part);
                    return (parts, Some((directory, at)));
                }
                if let Some(entry) = wire_entry(&self.manifest, EntryIndex(child)) {
                    entries += 1;
                    bytes += entry.weight();
                    part.entries.push(entry);
                }
            }
            part.last = true;
            parts.push(part);
            (directory, from) = (directory + 1, 0);
            // The top of the tree goes out alone: it is what makes the mount answer.
            if directory == self.manifest.shared.preamble.roots {
                return (parts, Some((directory, 0)));
            }
            // A tree of empty directories must not grow a frame without bound either.
            entries += 1;
        }
        (parts, None)
    }

    /// Moves `directory` to the next one at or after it and returns its children.
    fn next_directory(&self, directory: &mut u32) -> Option<Range<u32>> {
        loop {
            let entry = self.manifest.entry(EntryIndex(*directory))?;
            if entry.kind() == Kind::Directory {
                return match self.manifest.children(entry.index()) {
                    Listing::Known(children) => Some(children),
                    Listing::NotYet => None,
                };
            }
            *directory += 1;
        }
    }
}

impl WireEntry {
    /// About how many bytes it takes.
    pub(super) fn weight(&self) -> usize {
        let extra = self.extra.as_ref().map_or(0, |extra| {
            let xattrs: usize = extra.xattrs.iter().map(|(name, value)| name.len() + value.len()).sum();
            let config = extra.git_config.as_ref().map_or(0, Vec::len);
            extra.target.len() + xattrs + config + extra.holes.len() * 20
        });
        self.name.len() + extra + 32
    }
}

/// What the stream of `manifest` begins with.
pub(super) fn head(manifest: &Manifest) -> Head {
    let preamble = &manifest.shared.preamble;
    Head {
        snapshot: preamble.snapshot,
        entries: preamble.entries,
        heap_bytes: preamble.heap_bytes,
        left_out_bytes: preamble.left_out_bytes,
        blocks: preamble.blocks,
        file_bytes: preamble.file_bytes,
        versions: preamble.versions,
        meta: manifest.meta().clone(),
        roots: manifest.roots().filter_map(|root| wire_entry(manifest, root)).collect(),
    }
}

/// An entry as it travels.
pub(super) fn wire_entry(manifest: &Manifest, index: EntryIndex) -> Option<WireEntry> {
    let entry = manifest.entry(index)?;
    Some(WireEntry {
        name: entry.name().to_vec(),
        kind: entry.kind(),
        mode: entry.mode(),
        size: entry.size(),
        mtime: entry.mtime(),
        nlink: entry.nlink(),
        link: Some(entry.inode()).filter(|inode| *inode != index),
        flags: entry.flags().0,
        extra: entry.has_extra().then(|| Box::new(entry.extra())),
    })
}

impl Iterator for Frames {
    type Item = Frame;

    fn next(&mut self) -> Option<Frame> {
        let (frame, state) = match self.state {
            State::Head => (Frame::Head(head(&self.manifest)), State::Entries { directory: 0, from: 0 }),
            State::Entries { directory, from } => {
                let (parts, next) = self.entries(directory, from);
                let state = next.map_or(State::Tail, |(directory, from)| State::Entries { directory, from });
                if parts.is_empty() {
                    // The frame before ended with the last directory.
                    self.state = state;
                    return self.next();
                }
                (Frame::Entries(parts), state)
            }
            State::Tail => (Frame::Tail(self.manifest.left_out()), State::Done),
            State::Done => return None,
        };
        self.state = state;
        Some(frame)
    }
}
