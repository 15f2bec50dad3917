//! What has become of a file that is no longer the version its snapshot names.
//!
//! A file that changed before all of it was fetched cannot be completed. So its reader may take what is there now
//! instead: first what it is ([`Version`]), then all of its content, in one version that the file had as a whole at one
//! moment. Blocks that the reader has of the old version and that are the same in the new one are named by their digest
//! alone.

use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

use super::{FileFault, OriginError, RANGES_PER_REQUEST_MAX, Run};
use crate::digest::{BlockIndex, Digest, block_count};
use crate::manifest::{EntryIndex, Extra, Kind, ManifestError, Mtime, check_version, is_hole};

/// Digests of one [`Anew::Kept`] at most.
pub const KEPT_BLOCKS_MAX: usize = 64;

/// Names of one version at most; a file that has more is taken anew name by name.
pub const NAMES_MAX: usize = 1024;

/// Bytes of an encoded [`Version`] at most: 8,192 holes, 64 KiB of xattrs, and all names.
pub const VERSION_BYTES_MAX: usize = 512 * 1024;

/// Asks what has become of a file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TakeAnew {
    /// The file, by one of its names in the manifest.
    pub entry: EntryIndex,
    /// Blocks of the old version that the reader holds, at most [`RANGES_PER_REQUEST_MAX`] ranges: the first of each
    /// and how many.
    pub held: Vec<(BlockIndex, u64)>,
}

impl TakeAnew {
    /// True when its ranges are ranges, and no more than there may be.
    pub fn is_within_limits(&self) -> bool {
        let is_range =
            |(first, count): &(BlockIndex, u64)| *count > 0 && first.0.checked_add(*count).is_some();
        self.held.len() <= RANGES_PER_REQUEST_MAX && self.held.iter().all(is_range)
    }

    pub(super) fn holds(&self, block: u64) -> bool {
        self.held.iter().any(|(first, count)| (first.0..first.0 + count).contains(&block))
    }
}

/// What is there now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Version {
    /// A regular file; its content follows.
    File(FileVersion),
    /// A symbolic link.
    Symlink {
        /// Where it leads, verbatim.
        target: Vec<u8>,
        /// When it was made.
        mtime: Mtime,
    },
    /// Nothing; neither is the file anywhere else in its root.
    Absent,
    /// A directory, or something that does not travel.
    Other,
}

/// The metadata of a regular file, under the rules of a manifest's entry.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileVersion {
    /// Bytes of it.
    pub size: u64,
    /// When it was last modified.
    pub mtime: Mtime,
    /// Permission bits (`0o1777`).
    pub mode: u16,
    /// User xattrs, sorted by name.
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    /// Its holes. Blocks wholly inside them do not travel.
    pub holes: Vec<std::ops::Range<u64>>,
    /// The names of the old file that are names of this one, ascending: the one asked for among them.
    pub names: Vec<EntryIndex>,
}

impl FileVersion {
    /// True for a block that does not travel.
    pub fn is_hole(&self, block: u64) -> bool {
        is_hole(&self.holes, BlockIndex(block), self.size)
    }

    /// How many blocks it has, holes included.
    pub fn blocks(&self) -> u64 {
        block_count(self.size)
    }
}

impl Version {
    /// The version as it travels.
    pub fn encode(&self) -> Result<Vec<u8>, ManifestError> {
        self.check()?;
        let bytes =
            postcard::to_stdvec(self).map_err(|_| ManifestError::Invalid("a version cannot be encoded"))?;
        match bytes.len() <= VERSION_BYTES_MAX {
            true => Ok(bytes),
            false => Err(ManifestError::Invalid("a version is too long")),
        }
    }

    /// Decodes a version. Accepts any bytes, and only such versions as a manifest could hold.
    pub fn decode(bytes: &[u8]) -> Result<Self, ManifestError> {
        if bytes.len() > VERSION_BYTES_MAX {
            return Err(ManifestError::Invalid("a version is too long"));
        }
        match postcard::take_from_bytes::<Self>(bytes) {
            Ok((version, [])) => version.check().map(|()| version),
            _ => Err(ManifestError::Invalid("a version cannot be decoded")),
        }
    }

    fn check(&self) -> Result<(), ManifestError> {
        match self {
            Self::File(file) => {
                if file.names.is_empty()
                    || file.names.len() > NAMES_MAX
                    || !file.names.is_sorted_by(|a, b| a < b)
                {
                    return Err(ManifestError::Invalid("a version's names are none, too many or not sorted"));
                }
                let (xattrs, holes) = (file.xattrs.clone(), file.holes.clone());
                let extra = Extra { xattrs, holes, ..Extra::default() };
                check_version(Kind::File, file.mode, file.size, file.mtime, extra)
            }
            Self::Symlink { target, mtime } => {
                let (size, extra) =
                    (target.len() as u64, Extra { target: target.clone(), ..Extra::default() });
                check_version(Kind::Symlink, 0o777, size, *mtime, extra)
            }
            Self::Absent | Self::Other => Ok(()),
        }
    }
}

/// One item of the answer to [`TakeAnew`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Anew {
    /// What is there now: the first item, unless that is a fault. Only a regular file has content behind it.
    Is(Version),
    /// The origin reads on; so many blocks it has read.
    Reading(u64),
    /// Content. All blocks come in order, but those inside holes, each in a run or as kept.
    Run(Run),
    /// Blocks that the reader holds and that have not changed.
    Kept {
        /// The first of them.
        first: BlockIndex,
        /// A digest per block, for a file of the new size.
        digests: Vec<Digest>,
    },
    /// All has come, and what has come was the file at one moment.
    End,
    /// Nothing more will come, and what has come is worth nothing.
    Fault(FileFault),
}

/// The answer to [`TakeAnew`], item by item. Dropping it cancels the request; a full channel stops the origin.
pub type Anews = mpsc::Receiver<Result<Anew, OriginError>>;

#[cfg(test)]
#[expect(clippy::single_range_in_vec_init, reason = "hole maps of one hole")]
mod tests {
    use super::*;

    fn file() -> FileVersion {
        FileVersion {
            size: 1 << 20,
            mtime: Mtime { sec: -1, nsec: 5 },
            mode: 0o640,
            xattrs: vec![(b"user.a".to_vec(), vec![1])],
            holes: vec![0..65_536],
            names: vec![EntryIndex(3), EntryIndex(9)],
        }
    }

    #[test]
    fn a_version_is_read_back_and_obeys_the_rules_of_a_manifest() {
        let check = |version: Version, good: bool| {
            let bytes = postcard::to_stdvec(&version).unwrap();
            assert_eq!(Version::decode(&bytes).is_ok(), good, "{version:?}");
            assert_eq!(version.encode().is_ok(), good, "{version:?}");
            assert!(Version::decode(&[&bytes[..], &[0]].concat()).is_err());
        };
        let changed = |change: fn(&mut FileVersion)| {
            let mut file = file();
            change(&mut file);
            Version::File(file)
        };
        let link = |target: &[u8]| Version::Symlink { target: target.into(), mtime: Mtime::default() };
        check(Version::File(file()), true);
        check(Version::Absent, true);
        check(Version::Other, true);
        check(link(b"../x"), true);
        check(link(b""), false);
        check(link(b"a\0b"), false);
        check(link(&[b'x'; 4096]), false);
        check(changed(|file| file.mode = 0o4755), false);
        check(changed(|file| file.mtime.nsec = 1_000_000_000), false);
        check(changed(|file| file.size = u64::MAX), false);
        check(changed(|file| file.xattrs[0].0 = b"security.x".to_vec()), false);
        check(changed(|file| file.xattrs[0].0 = b"user.twinshare".to_vec()), false);
        check(changed(|file| file.holes = vec![5..5]), false);
        check(changed(|file| file.holes = vec![0..2 << 20]), false);
        check(changed(|file| file.names.clear()), false);
        check(changed(|file| file.names.reverse()), false);
    }
}
