//! The fixed-width record of one entry, and the preamble, as they lie in a manifest file.
//!
//! All integers are little-endian. A manifest file is
//!
//! | at | bytes | what |
//! |---|---|---|
//! | 0 | 128 | the preamble |
//! | 128 | 64 × entries | the records, in manifest order |
//! | then | as the preamble says | the heap: the encoded [`Meta`](super::Meta), the names and [`Extra`](super::Extra)s in manifest order, the encoded list of what was left out |

use super::{EntryIndex, Kind, ManifestError, Mtime, SnapshotId};
use crate::digest::Digest;
use crate::little_endian::{u32_at, u64_at};

/// Bytes of the preamble.
pub(super) const PREAMBLE_BYTES: u64 = 128;
/// Bytes of a record: one cache line.
pub(super) const RECORD_BYTES: u64 = 64;

const MAGIC: [u8; 8] = *b"twinshar";
/// The layout described above. A file of another layout is built or fetched anew.
pub(super) const FORMAT: u32 = 1;

/// What a manifest holds, known before its first entry is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Preamble {
    pub(super) entries: u32,
    pub(super) roots: u32,
    pub(super) heap_bytes: u64,
    pub(super) meta_bytes: u32,
    pub(super) left_out_bytes: u32,
    pub(super) blocks: u64,
    pub(super) file_bytes: u64,
    /// Which version of each file is meant: equal trees whose files are other ones differ in it.
    pub(super) versions: Digest,
    /// Digest of the whole file with these 32 bytes zero.
    pub(super) snapshot: SnapshotId,
}

impl Preamble {
    pub(super) fn encode(&self) -> [u8; PREAMBLE_BYTES as usize] {
        let mut out = [0; PREAMBLE_BYTES as usize];
        out[0..8].copy_from_slice(&MAGIC);
        out[8..12].copy_from_slice(&FORMAT.to_le_bytes());
        out[12..16].copy_from_slice(&self.entries.to_le_bytes());
        out[16..20].copy_from_slice(&self.roots.to_le_bytes());
        out[20..24].copy_from_slice(&self.meta_bytes.to_le_bytes());
        out[24..28].copy_from_slice(&self.left_out_bytes.to_le_bytes());
        out[32..40].copy_from_slice(&self.heap_bytes.to_le_bytes());
        out[40..48].copy_from_slice(&self.blocks.to_le_bytes());
        out[48..56].copy_from_slice(&self.file_bytes.to_le_bytes());
        out[64..96].copy_from_slice(&self.snapshot.0.0);
        out[96..128].copy_from_slice(&self.versions.0);
        out
    }

    pub(super) fn decode(bytes: &[u8]) -> Result<Self, ManifestError> {
        let bytes: &[u8; PREAMBLE_BYTES as usize] = bytes
            .get(..PREAMBLE_BYTES as usize)
            .and_then(|b| b.try_into().ok())
            .ok_or(ManifestError::Invalid("the file is shorter than a preamble"))?;
        if bytes[0..8] != MAGIC {
            return Err(ManifestError::Invalid("the file is not a manifest"));
        }
        if u32_at(bytes, 8) != FORMAT {
            return Err(ManifestError::Invalid("the manifest has another format"));
        }
        // Records address the heap with 32 bits; a larger one would also overflow the sums below.
        let heap_bytes = u64_at(bytes, 32);
        if heap_bytes > u64::from(u32::MAX) {
            return Err(ManifestError::Invalid("the heap is too long"));
        }
        let (mut snapshot, mut versions) = ([0; 32], [0; 32]);
        snapshot.copy_from_slice(&bytes[64..96]);
        versions.copy_from_slice(&bytes[96..128]);
        Ok(Self {
            entries: u32_at(bytes, 12),
            roots: u32_at(bytes, 16),
            meta_bytes: u32_at(bytes, 20),
            left_out_bytes: u32_at(bytes, 24),
            heap_bytes,
            blocks: u64_at(bytes, 40),
            file_bytes: u64_at(bytes, 48),
            versions: Digest(versions),
            snapshot: SnapshotId(Digest(snapshot)),
        })
    }

    pub(super) fn heap_offset(&self) -> u64 {
        PREAMBLE_BYTES + RECORD_BYTES * u64::from(self.entries)
    }

    pub(super) fn total_bytes(&self) -> u64 {
        self.heap_offset() + self.heap_bytes
    }
}

/// One entry without its name and [`Extra`](super::Extra), which lie in the heap.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Record {
    pub(super) name_at: u32,
    pub(super) name_bytes: u8,
    pub(super) kind: Kind,
    pub(super) mode: u16,
    pub(super) size: u64,
    pub(super) mtime: Mtime,
    pub(super) parent: EntryIndex,
    /// A directory's first child; a file's first name with the same inode, itself where it is that name.
    pub(super) link: EntryIndex,
    pub(super) children: u32,
    pub(super) extra_at: u32,
    pub(super) extra_bytes: u32,
    pub(super) nlink: u32,
    pub(super) flags: u16,
    /// The number of the file's first block when the blocks of all files are counted in manifest order.
    pub(super) first_block: u64,
}

impl Record {
    pub(super) fn encode(&self) -> [u8; RECORD_BYTES as usize] {
        let mut out = [0; RECORD_BYTES as usize];
        out[0..4].copy_from_slice(&self.name_at.to_le_bytes());
        out[4] = self.name_bytes;
        out[5] = self.kind as u8;
        out[6..8].copy_from_slice(&self.mode.to_le_bytes());
        out[8..16].copy_from_slice(&self.size.to_le_bytes());
        out[16..24].copy_from_slice(&self.mtime.sec.to_le_bytes());
        out[24..28].copy_from_slice(&self.mtime.nsec.to_le_bytes());
        out[28..32].copy_from_slice(&self.parent.0.to_le_bytes());
        out[32..36].copy_from_slice(&self.link.0.to_le_bytes());
        out[36..40].copy_from_slice(&self.children.to_le_bytes());
        out[40..44].copy_from_slice(&self.extra_at.to_le_bytes());
        out[44..48].copy_from_slice(&self.extra_bytes.to_le_bytes());
        out[48..52].copy_from_slice(&self.nlink.to_le_bytes());
        out[52..54].copy_from_slice(&self.flags.to_le_bytes());
        out[56..64].copy_from_slice(&self.first_block.to_le_bytes());
        out
    }

    pub(super) fn decode(bytes: &[u8; RECORD_BYTES as usize]) -> Result<Self, ManifestError> {
        Ok(Self {
            name_at: u32_at(bytes, 0),
            name_bytes: bytes[4],
            kind: Kind::from_u8(bytes[5]).ok_or(ManifestError::Invalid("an entry has no known kind"))?,
            mode: u16::from_le_bytes([bytes[6], bytes[7]]),
            size: u64_at(bytes, 8),
            mtime: Mtime { sec: u64_at(bytes, 16) as i64, nsec: u32_at(bytes, 24) },
            parent: EntryIndex(u32_at(bytes, 28)),
            link: EntryIndex(u32_at(bytes, 32)),
            children: u32_at(bytes, 36),
            extra_at: u32_at(bytes, 40),
            extra_bytes: u32_at(bytes, 44),
            nlink: u32_at(bytes, 48),
            flags: u16::from_le_bytes([bytes[52], bytes[53]]),
            first_block: u64_at(bytes, 56),
        })
    }
}

/// True for the record of a directory; costs no decoding.
pub(super) fn is_directory(record: &[u8; RECORD_BYTES as usize]) -> bool {
    record[5] == Kind::Directory as u8
}

/// Where record `index` lies in the file.
pub(super) fn record_offset(index: EntryIndex) -> u64 {
    PREAMBLE_BYTES + RECORD_BYTES * u64::from(index.0)
}
