//! Blocks and their digests.
//!
//! A file is verified and fetched in aligned blocks of 64 KiB. A block's digest is its value in the file's BLAKE3
//! tree, so the digests of a file's blocks merge to exactly what `b3sum` prints for the file, and a block can be
//! checked without its neighbours. A file of one block has that root hash as its block's digest: BLAKE3 finalises a
//! root differently from a subtree, and a lone block is the root.

use std::fmt;
use std::ops::Range;

use blake3::hazmat::{self, HasherExt, Mode};
use serde::{Deserialize, Serialize};

/// Bytes of a block, the aligned unit of verification and of "is it here".
pub const BLOCK_BYTES: u64 = 64 * 1024;

/// The number of a block within its file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct BlockIndex(pub u64);

impl BlockIndex {
    /// The block that holds byte `offset`.
    pub fn containing(offset: u64) -> Self {
        Self(offset / BLOCK_BYTES)
    }

    /// The offset of the block's first byte.
    pub fn offset(self) -> u64 {
        self.0 * BLOCK_BYTES
    }

    /// The bytes of the block in a file of `size` bytes; empty beyond its end.
    pub fn bytes_in(self, size: u64) -> Range<u64> {
        let start = self.offset().min(size);
        start..(start + BLOCK_BYTES).min(size)
    }
}

/// How many blocks a file of `size` bytes has.
pub fn block_count(size: u64) -> u64 {
    size.div_ceil(BLOCK_BYTES)
}

/// A BLAKE3 value: of a block within its file, of a whole file, or of a manifest.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Digest(pub [u8; 32]);

impl Digest {
    /// The digest of block `index` of a file of `size` bytes, whose content is `bytes`.
    ///
    /// `bytes` is the whole block: 64 KiB, or what is left of the file for its last one.
    pub fn of_block(index: BlockIndex, size: u64, bytes: &[u8]) -> Self {
        if size <= BLOCK_BYTES {
            return Self(blake3::hash(bytes).into());
        }
        let mut hasher = blake3::Hasher::new();
        hasher.set_input_offset(index.offset());
        hasher.update(bytes);
        Self(hasher.finalize_non_root())
    }

    /// The file's root digest, as `b3sum` prints it, from the digests of all its blocks; `None` when their number
    /// does not fit `size`.
    pub fn of_file(size: u64, blocks: &[Digest]) -> Option<Self> {
        match blocks {
            _ if blocks.len() as u64 != block_count(size) => None,
            [] => Some(Self(blake3::hash(b"").into())),
            [only] => Some(*only),
            _ => {
                let (left, right) = split(size, blocks);
                let root = hazmat::merge_subtrees_root(&left, &right, Mode::Hash);
                Some(Self(root.into()))
            }
        }
    }
}

/// The values of the two subtrees under a node that covers `size` bytes in at least two blocks.
fn split(size: u64, blocks: &[Digest]) -> ([u8; 32], [u8; 32]) {
    let left_bytes = hazmat::left_subtree_len(size);
    // A node over more than one block splits at a power of two of at least one block, so the cut is aligned.
    let (left, right) = blocks.split_at((left_bytes / BLOCK_BYTES) as usize);
    (subtree(left_bytes, left), subtree(size - left_bytes, right))
}

fn subtree(size: u64, blocks: &[Digest]) -> [u8; 32] {
    match blocks {
        [only] => only.0,
        _ => {
            let (left, right) = split(size, blocks);
            hazmat::merge_subtrees_non_root(&left, &right, Mode::Hash)
        }
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A text that is not 64 hexadecimal digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not 64 hexadecimal digits")]
pub struct NotADigest;

impl std::str::FromStr for Digest {
    type Err = NotADigest;

    fn from_str(text: &str) -> Result<Self, NotADigest> {
        let mut bytes = [0; 32];
        if text.len() != 64 || !text.bytes().all(|digit| digit.is_ascii_hexdigit()) {
            return Err(NotADigest);
        }
        for (byte, at) in bytes.iter_mut().zip((0..64).step_by(2)) {
            *byte = u8::from_str_radix(&text[at..at + 2], 16).map_err(|_| NotADigest)?;
        }
        Ok(Self(bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn content(size: u64) -> Vec<u8> {
        (0..size).map(|i| (i % 251) as u8 ^ (i >> 16) as u8).collect()
    }

    fn blocks(bytes: &[u8]) -> Vec<Digest> {
        let size = bytes.len() as u64;
        (0..block_count(size))
            .map(|i| {
                let range = BlockIndex(i).bytes_in(size);
                Digest::of_block(BlockIndex(i), size, &bytes[range.start as usize..range.end as usize])
            })
            .collect()
    }

    #[test]
    fn block_digests_merge_to_what_b3sum_prints() {
        let edges = [0, 1, BLOCK_BYTES - 1, BLOCK_BYTES, BLOCK_BYTES + 1];
        let many = (2..12).flat_map(|n| [n * BLOCK_BYTES - 1, n * BLOCK_BYTES, n * BLOCK_BYTES + 1025]);
        for size in edges.into_iter().chain(many) {
            let bytes = content(size);
            let merged = Digest::of_file(size, &blocks(&bytes)).unwrap();
            assert_eq!(merged, Digest(blake3::hash(&bytes).into()), "{size} bytes");
        }
    }

    #[test]
    fn a_wrong_number_of_blocks_has_no_root() {
        let bytes = content(3 * BLOCK_BYTES);
        assert_eq!(Digest::of_file(3 * BLOCK_BYTES + 1, &blocks(&bytes)), None);
        assert_eq!(Digest::of_file(0, &blocks(&bytes)), None);
    }

    #[test]
    fn a_digest_is_read_back_from_its_text() {
        let digest = Digest(blake3::hash(b"x").into());
        assert_eq!(digest.to_string().parse(), Ok(digest));
        assert_eq!("é".repeat(32).parse::<Digest>(), Err(NotADigest));
    }
}
