//! Which version of each file a snapshot names: a side file of the manifest, known only to the origin.
//!
//! The manifest is what travels; of what tells one version of a file from the next on this disk it holds a digest
//! only. The rest lies here: a record per entry, in manifest order, little-endian.
//!
//! | at | bytes | what |
//! |---|---|---|
//! | 0 | 128 | magic, format, number of entries, snapshot id |
//! | 128 | 64 × entries | device, inode, size, mtime (seconds, nanoseconds), ctime (nanoseconds, seconds), zeros |
//!
//! A record never crosses a disk sector, so a crash leaves it old or new.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::Path;

use rustix::fs::Statx;

use crate::digest::Digest;
use crate::little_endian::{u32_at, u64_at};
use crate::manifest::{EntryIndex, Mtime, SnapshotId};
use crate::scratch::Partial;

const HEADER_BYTES: u64 = 128;
const RECORD_BYTES: u64 = 64;
const MAGIC: [u8; 8] = *b"twinstmp";
const FORMAT: u32 = 1;

/// One version of one file, and on which device it lay.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Stamp {
    pub(crate) device: u64,
    pub(crate) inode: u64,
    pub(crate) size: u64,
    pub(crate) mtime: Mtime,
    pub(crate) ctime: Mtime,
}

impl Stamp {
    pub(crate) fn of(stat: &Statx) -> Self {
        let time = |time: rustix::fs::StatxTimestamp| Mtime { sec: time.tv_sec, nsec: time.tv_nsec };
        Self {
            device: rustix::fs::makedev(stat.stx_dev_major, stat.stx_dev_minor),
            inode: stat.stx_ino,
            size: stat.stx_size,
            mtime: time(stat.stx_mtime),
            ctime: time(stat.stx_ctime),
        }
    }

    /// True when both look the same to whoever reads the file; what is read may differ.
    pub(crate) fn looks_like(&self, other: &Self) -> bool {
        (self.size, self.mtime) == (other.size, other.mtime)
    }

    /// True when nothing can have happened to the file between the two. The device says nothing: it is numbered anew at
    /// each boot, for some filesystems at each mount.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        self.looks_like(other) && (self.inode, self.ctime) == (other.inode, other.ctime)
    }

    fn encode(&self) -> [u8; RECORD_BYTES as usize] {
        let mut out = [0; RECORD_BYTES as usize];
        out[0..8].copy_from_slice(&self.device.to_le_bytes());
        out[8..16].copy_from_slice(&self.inode.to_le_bytes());
        out[16..24].copy_from_slice(&self.size.to_le_bytes());
        out[24..32].copy_from_slice(&self.mtime.sec.to_le_bytes());
        out[32..36].copy_from_slice(&self.mtime.nsec.to_le_bytes());
        out[36..40].copy_from_slice(&self.ctime.nsec.to_le_bytes());
        out[40..48].copy_from_slice(&self.ctime.sec.to_le_bytes());
        out
    }

    fn decode(bytes: &[u8; RECORD_BYTES as usize]) -> Self {
        Self {
            device: u64_at(bytes, 0),
            inode: u64_at(bytes, 8),
            size: u64_at(bytes, 16),
            mtime: Mtime { sec: u64_at(bytes, 24) as i64, nsec: u32_at(bytes, 32) },
            ctime: Mtime { sec: u64_at(bytes, 40) as i64, nsec: u32_at(bytes, 36) },
        }
    }
}

/// Writes the stamps of a manifest that is being built. Nothing appears at the path before
/// [`finish`](Self::finish), and nothing is left when it is dropped.
pub(crate) struct StampsWriter {
    out: BufWriter<File>,
    partial: Partial,
    entries: u32,
    versions: blake3::Hasher,
}

impl StampsWriter {
    pub(crate) fn new(path: &Path) -> io::Result<Self> {
        let partial = Partial::create(path)?;
        let mut out = BufWriter::with_capacity(64 * 1024, partial.file.try_clone()?);
        out.write_all(&[0; HEADER_BYTES as usize])?;
        Ok(Self { out, partial, entries: 0, versions: blake3::Hasher::new() })
    }

    /// Adds the stamp of the next entry in manifest order.
    pub(crate) fn push(&mut self, stamp: &Stamp) -> io::Result<()> {
        self.entries += 1;
        let encoded = stamp.encode();
        // Not the device: it is numbered anew at each boot.
        self.versions.update(&encoded[8..]);
        self.out.write_all(&encoded)
    }

    /// A digest of all stamps: it differs where another version of a file is meant, also one that looks the same.
    pub(crate) fn versions(&self) -> Digest {
        Digest(self.versions.finalize().into())
    }

    /// Binds the stamps to their manifest and puts them at their path, durably.
    pub(crate) fn finish(mut self, snapshot: SnapshotId) -> io::Result<()> {
        self.out.flush()?;
        self.partial.file.write_all_at(&header(self.entries, snapshot), 0)?;
        self.partial.finish()
    }
}

fn header(entries: u32, snapshot: SnapshotId) -> [u8; HEADER_BYTES as usize] {
    let mut out = [0; HEADER_BYTES as usize];
    out[0..8].copy_from_slice(&MAGIC);
    out[8..12].copy_from_slice(&FORMAT.to_le_bytes());
    out[12..16].copy_from_slice(&entries.to_le_bytes());
    out[16..48].copy_from_slice(&snapshot.0.0);
    out
}

/// The stamps of a snapshot, read in place.
#[derive(Debug)]
pub(crate) struct Stamps {
    file: File,
    entries: u32,
}

impl Stamps {
    /// Opens the stamps of a snapshot of `entries` entries; those of another one are
    /// [`io::ErrorKind::InvalidData`].
    pub(crate) fn open(path: &Path, entries: u32, snapshot: SnapshotId) -> io::Result<Self> {
        let file = File::options().read(true).write(true).open(path)?;
        let mut found = [0; HEADER_BYTES as usize];
        file.read_exact_at(&mut found, 0)?;
        if found != header(entries, snapshot)
            || file.metadata()?.len() != HEADER_BYTES + RECORD_BYTES * u64::from(entries)
        {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "the stamps are of another snapshot"));
        }
        Ok(Self { file, entries })
    }

    pub(crate) fn get(&self, entry: EntryIndex) -> io::Result<Stamp> {
        let mut bytes = [0; RECORD_BYTES as usize];
        self.file.read_exact_at(&mut bytes, self.offset(entry)?)?;
        Ok(Stamp::decode(&bytes))
    }

    /// The stamps of consecutive entries.
    pub(crate) fn range(&self, entries: Range<u32>) -> io::Result<Vec<Stamp>> {
        let Some(last) = entries.end.checked_sub(1).filter(|last| *last >= entries.start) else {
            return Ok(Vec::new());
        };
        self.offset(EntryIndex(last))?;
        let mut bytes = vec![0; entries.len() * RECORD_BYTES as usize];
        self.file.read_exact_at(&mut bytes, self.offset(EntryIndex(entries.start))?)?;
        let (records, _) = bytes.as_chunks::<{ RECORD_BYTES as usize }>();
        Ok(records.iter().map(Stamp::decode).collect())
    }

    /// Puts another version in the place of the one that was meant.
    pub(crate) fn set(&self, entry: EntryIndex, stamp: &Stamp) -> io::Result<()> {
        self.file.write_all_at(&stamp.encode(), self.offset(entry)?)
    }

    fn offset(&self, entry: EntryIndex) -> io::Result<u64> {
        match entry.0 < self.entries {
            true => Ok(HEADER_BYTES + RECORD_BYTES * u64::from(entry.0)),
            false => Err(io::Error::new(io::ErrorKind::InvalidInput, "an entry beyond the manifest")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest::Digest;

    #[test]
    fn stamps_are_found_again_and_only_for_their_snapshot() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("stamps");
        let stamp = |n: u64| Stamp {
            device: n,
            inode: u64::MAX - n,
            size: n << 40,
            mtime: Mtime { sec: -5, nsec: 999_999_999 },
            ctime: Mtime { sec: i64::MAX, nsec: n as u32 },
        };
        let snapshot = SnapshotId(Digest([7; 32]));
        let mut writer = StampsWriter::new(&path).unwrap();
        (0..3).try_for_each(|n| writer.push(&stamp(n))).unwrap();
        writer.finish(snapshot).unwrap();
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 1);
        let stamps = Stamps::open(&path, 3, snapshot).unwrap();
        assert_eq!(stamps.get(EntryIndex(2)).unwrap(), stamp(2));
        let ctime = Mtime { sec: -1, nsec: 1 };
        stamps.set(EntryIndex(1), &Stamp { ctime, ..stamp(1) }).unwrap();
        assert_eq!(stamps.get(EntryIndex(1)).unwrap(), Stamp { ctime, ..stamp(1) });
        assert_eq!(stamps.get(EntryIndex(0)).unwrap(), stamp(0));
        assert!(stamps.get(EntryIndex(3)).is_err());
        let range =
            |range| stamps.range(range).map(|stamps| stamps.iter().map(|s| s.device).collect::<Vec<_>>());
        assert_eq!(
            (range(0..3).unwrap(), range(2..3).unwrap(), range(3..3).unwrap()),
            (vec![0, 1, 2], vec![2], vec![])
        );
        assert!(range(2..4).is_err());
        for (entries, snapshot) in [(2, snapshot), (3, SnapshotId(Digest([8; 32])))] {
            let error = Stamps::open(&path, entries, snapshot).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidData);
        }
    }
}
