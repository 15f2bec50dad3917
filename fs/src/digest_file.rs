//! The digests of a tree's blocks as they are known, kept in a sparse file beside its manifest.
//!
//! A block has its place where [`Entry::blocks`](crate::manifest::Entry::blocks) counts it: 32 bytes each, zeros for a
//! digest that is not known. A file of 50 GB takes 25 MB once all of it is known, and nothing before.
//!
//! After a crash each digest is whole or unknown: a place is aligned within a disk sector, and a filesystem shows
//! zeros, not garbage, where it had not written yet. What is lost is learnt again.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use crate::digest::Digest;
use crate::scratch::unnamed_file;

const DIGEST_BYTES: u64 = 32;

/// Digests in one call at most: 2 MiB of them, for 4 GiB of content.
pub const DIGESTS_PER_CALL_MAX: u64 = 1 << 16;

/// Digests by block number. Shared between threads; each call is one or two system calls on cached pages.
#[derive(Debug)]
pub struct DigestFile {
    file: File,
    blocks: u64,
    /// Held while digests are compared and then written, so that two readers of one block cannot bind it differently.
    binding: Mutex<()>,
}

/// What [`DigestFile::bind`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bound {
    /// The digests agree with what was known; the file has them all now.
    Agreed,
    /// A block is known with another digest; nothing was written.
    Differs {
        /// The first such block, as [`Entry::blocks`](crate::manifest::Entry::blocks) counts.
        block: u64,
    },
}

impl DigestFile {
    /// Opens the file for a tree of `blocks` blocks, and makes it where there is none.
    ///
    /// A file of another length belongs to another tree: that is [`io::ErrorKind::InvalidData`].
    pub fn open(path: &Path, blocks: u64) -> io::Result<Self> {
        let file = File::options().read(true).write(true).create(true).truncate(false).open(path)?;
        let bytes = blocks.checked_mul(DIGEST_BYTES).ok_or_else(beyond)?;
        match file.metadata()?.len() {
            0 => file.set_len(bytes)?,
            length if length == bytes => {}
            _ => return Err(io::Error::new(io::ErrorKind::InvalidData, "the digests are of another tree")),
        }
        Ok(Self { file, blocks, binding: Mutex::new(()) })
    }

    /// Digests of `blocks` blocks in a file without a name, on the filesystem of `beside`.
    pub(crate) fn unnamed(beside: &Path, blocks: u64) -> io::Result<Self> {
        let file = unnamed_file(beside)?;
        file.set_len(blocks.checked_mul(DIGEST_BYTES).ok_or_else(beyond)?)?;
        Ok(Self { file, blocks, binding: Mutex::new(()) })
    }

    /// Blocks of the tree.
    pub fn blocks(&self) -> u64 {
        self.blocks
    }

    /// The digests of the blocks in `range`, at most [`DIGESTS_PER_CALL_MAX`].
    pub fn get(&self, range: Range<u64>) -> io::Result<Vec<Option<Digest>>> {
        let count = self.check(range.start, range.end.saturating_sub(range.start))?;
        let mut bytes = vec![0; count * DIGEST_BYTES as usize];
        self.file.read_exact_at(&mut bytes, range.start * DIGEST_BYTES)?;
        let (places, _) = bytes.as_chunks::<{ DIGEST_BYTES as usize }>();
        Ok(places.iter().map(|place| Some(Digest(*place)).filter(|_| *place != [0; 32])).collect())
    }

    /// A block at or after `block` before which, from there on, none is known; `None` where none is known at all.
    pub(crate) fn next_known(&self, block: u64) -> io::Result<Option<u64>> {
        let from = block.checked_mul(DIGEST_BYTES).ok_or_else(beyond)?;
        match rustix::fs::seek(&self.file, rustix::fs::SeekFrom::Data(from)) {
            Ok(at) => Ok(Some(at / DIGEST_BYTES)),
            Err(rustix::io::Errno::NXIO) => Ok(None),
            // A filesystem without holes: any may be known.
            Err(rustix::io::Errno::INVAL) => Ok(Some(block)),
            Err(error) => Err(error.into()),
        }
    }

    /// Writes the digests of the blocks from `first` on, whatever was known.
    pub fn set(&self, first: u64, digests: &[Digest]) -> io::Result<()> {
        self.check(first, digests.len() as u64)?;
        let bytes: Vec<u8> = digests.iter().flat_map(|digest| digest.0).collect();
        self.file.write_all_at(&bytes, first * DIGEST_BYTES)
    }

    /// Compares `digests`, those of the blocks from `first` on, with what is known, and adds what is not.
    pub fn bind(&self, first: u64, digests: &[Digest]) -> io::Result<Bound> {
        let range = first..first.saturating_add(digests.len() as u64);
        let _binding = self.binding.lock().unwrap_or_else(PoisonError::into_inner);
        let mut missing = false;
        for (at, (known, digest)) in self.get(range)?.iter().zip(digests).enumerate() {
            match known {
                None => missing = true,
                Some(known) if known == digest => {}
                Some(_) => return Ok(Bound::Differs { block: first + at as u64 }),
            }
        }
        if missing {
            self.set(first, digests)?;
        }
        Ok(Bound::Agreed)
    }

    fn check(&self, first: u64, count: u64) -> io::Result<usize> {
        match first.checked_add(count) {
            Some(end) if end <= self.blocks && count <= DIGESTS_PER_CALL_MAX => Ok(count as usize),
            _ => Err(beyond()),
        }
    }
}

fn beyond() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, "blocks beyond the end of the tree, or too many at once")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digests(range: Range<u8>) -> Vec<Digest> {
        range.map(|byte| Digest([byte; 32])).collect()
    }

    #[test]
    fn digests_are_kept_by_place_and_bind() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("digests");
        let file = DigestFile::open(&path, 10).unwrap();
        assert_eq!(file.get(0..10).unwrap(), [None; 10]);
        file.set(3, &digests(3..5)).unwrap();
        assert_eq!(file.bind(2, &digests(2..7)).unwrap(), Bound::Agreed);
        assert_eq!(file.bind(5, &digests(7..9)).unwrap(), Bound::Differs { block: 5 });
        assert_eq!(file.bind(6, &digests(6..9)).unwrap(), Bound::Agreed);
        drop(file);
        let file = DigestFile::open(&path, 10).unwrap();
        let known: Vec<_> = file.get(0..10).unwrap().iter().map(Option::is_some).collect();
        assert_eq!(known, [false, false, true, true, true, true, true, true, true, false]);
        assert_eq!(file.get(8..9).unwrap(), [Some(Digest([8; 32]))]);
        let none = DigestFile::open(&directory.path().join("none"), 1 << 20).unwrap();
        assert_eq!((none.next_known(0).unwrap(), none.next_known(1 << 20).unwrap()), (None, None));
        none.set(700_000, &digests(1..2)).unwrap();
        assert!(none.next_known(5).unwrap().is_some_and(|known| (5..=700_000).contains(&known)));
        assert_eq!(none.next_known(700_000).unwrap(), Some(700_000));
    }

    #[test]
    fn places_beyond_the_tree_and_files_of_another_are_errors() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("digests");
        let file = DigestFile::open(&path, 2).unwrap();
        assert_eq!(file.get(2..2).unwrap(), []);
        assert!(file.get(1..3).is_err());
        assert!(file.set(u64::MAX, &digests(0..2)).is_err());
        assert!(file.bind(1, &digests(0..2)).is_err());
        assert_eq!(DigestFile::open(&path, 3).unwrap_err().kind(), io::ErrorKind::InvalidData);
        assert!(DigestFile::open(&path, u64::MAX).is_err());
    }
}
