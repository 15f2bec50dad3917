//! Where the content of a snapshot comes from.
//!
//! An [`Origin`] serves one snapshot: its manifest and the blocks of its files, always in exactly the version the
//! snapshot names. The local-directory origin reads a tree on this disk; `twinshare-transport` adds one that asks a
//! peer. The replica, the server and the tests take any of them.
//!
//! Whatever an origin returns is unverified until [`Run::verify`] has returned.

use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, watch};

use crate::digest::{BLOCK_BYTES, BlockIndex, Digest, block_count};
use crate::manifest::{EntryIndex, SnapshotId};

mod anew;
mod bases;
mod files;
mod lease;
pub mod local;
mod moment;
mod pool;
mod reader;
mod rest;
mod search;
mod since;
pub(crate) mod stamps;
mod take;
mod version;
mod whereabouts;

pub use anew::{Anew, Anews, FileVersion, KEPT_BLOCKS_MAX, NAMES_MAX, TakeAnew, VERSION_BYTES_MAX, Version};
pub use local::LocalOrigin;
pub use pool::ReadPool;
pub use since::{FramesSince, SinceFrame};

/// Blocks in one [`Run`] at most: 1 MiB, the largest read the kernel sends in one request.
pub const RUN_BLOCKS_MAX: usize = 16;

/// Blocks in a run when nobody asks for less: 256 KiB is where hashing, compression and requests stop gaining.
pub const RUN_BLOCKS: usize = 4;

/// Files in one [`Origin::read_files`] request at most; bounds what a request costs before anything is read.
pub const FILES_PER_REQUEST_MAX: usize = 1024;

/// Ranges in one [`Origin::read_ranges`] request at most.
pub const RANGES_PER_REQUEST_MAX: usize = 256;

/// Blocks in one [`BlockRange`] at most: 256 MiB, so that a request ends in bounded time.
pub const RANGE_BLOCKS_MAX: u64 = 4096;

/// Deliveries an origin prepares ahead of whoever takes them, beside those of the step it is at: with runs of 256 KiB
/// this bounds a request at some 2 MiB.
pub const DELIVERIES_AHEAD: usize = 8;

/// How long an origin may send nothing for a request before the request is given up. A connection that is dead is
/// noticed earlier, by whoever holds it; this is for one that lives and stalls.
pub const STALL_MAX: Duration = Duration::from_secs(20);

/// How urgent a request is; a more urgent one overtakes the others at every queue it meets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Class {
    /// Nobody waits for it: hydration.
    Bulk,
    /// Somebody is likely to wait for it soon.
    ReadAhead,
    /// Somebody waits for it now.
    Demand,
}

/// Consecutive blocks of one file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct BlockRange {
    /// The file, by its place in the manifest.
    pub file: EntryIndex,
    /// The first block wanted.
    pub first: BlockIndex,
    /// How many, at most [`RANGE_BLOCKS_MAX`]; those beyond the end of the file are not sent.
    pub count: u64,
}

/// Consecutive blocks of one file with their content, all in the version the snapshot names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Run {
    /// The file, by its place in the manifest.
    pub file: EntryIndex,
    /// The first block in the run.
    pub first: BlockIndex,
    /// A digest per block.
    pub digests: Vec<Digest>,
    /// The blocks' content, without gaps. Only the file's last block is shorter than 64 KiB.
    pub bytes: Bytes,
}

/// A run that is not what it claims to be. Its bytes must not reach anyone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadRun {
    /// More or fewer bytes or blocks than the place in the file allows.
    #[error("a run has the wrong length for its place in the file")]
    Length,
    /// A block's content does not have its digest.
    #[error("block {} does not match its digest", .0.0)]
    Digest(BlockIndex),
}

impl Run {
    /// The blocks from `first` on of a file of `size` bytes, with the digests of what `bytes` holds.
    ///
    /// Costs what [`verify`](Self::verify) costs.
    pub fn hashed(file: EntryIndex, first: BlockIndex, size: u64, bytes: Bytes) -> Self {
        let blocks = bytes.chunks(BLOCK_BYTES as usize).zip(first.0..);
        let digests = blocks.map(|(block, index)| Digest::of_block(BlockIndex(index), size, block)).collect();
        Self { file, first, digests, bytes }
    }

    /// Checks that the run lies inside a file of `size` bytes and that each block has its digest.
    ///
    /// Costs one BLAKE3 pass over the bytes (20 µs a block).
    pub fn verify(&self, size: u64) -> Result<(), BadRun> {
        let count = self.digests.len() as u64;
        let end = self.first.0.checked_add(count).ok_or(BadRun::Length)?;
        if count == 0 || count > RUN_BLOCKS_MAX as u64 || end > block_count(size) {
            return Err(BadRun::Length);
        }
        let bytes = BlockIndex(end - 1).bytes_in(size).end - self.first.offset();
        if self.bytes.len() as u64 != bytes {
            return Err(BadRun::Length);
        }
        self.blocks().zip(&self.digests).try_for_each(|((index, bytes), digest)| {
            match Digest::of_block(index, size, &bytes) == *digest {
                true => Ok(()),
                false => Err(BadRun::Digest(index)),
            }
        })
    }

    /// The blocks one by one, sharing the run's memory.
    pub fn blocks(&self) -> impl Iterator<Item = (BlockIndex, Bytes)> {
        (0..self.digests.len()).map(|i| {
            let start = (i * BLOCK_BYTES as usize).min(self.bytes.len());
            let end = (start + BLOCK_BYTES as usize).min(self.bytes.len());
            (BlockIndex(self.first.0 + i as u64), self.bytes.slice(start..end))
        })
    }
}

/// Why one file of a request was not sent; the request goes on with the next.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum FileFault {
    /// The file is no longer the version the snapshot names (changed, replaced or gone).
    #[error("the file changed at the origin after the snapshot was taken")]
    Changed,
    /// The origin could not read it; the text is the origin's own, for the log.
    #[error("the origin could not read the file: {0}")]
    Unreadable(String),
    /// The index names no file of the snapshot, or blocks it does not have.
    #[error("the snapshot has no such file or block")]
    NoSuchBlock,
}

/// One item of an answer to a read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Delivery {
    /// Content. The runs of one file come in order; an empty file is delivered by [`Delivery::End`] alone.
    Run(Run),
    /// Every block that was asked of the file has been delivered.
    End(EntryIndex),
    /// The file is not delivered, or not to its end.
    Fault(EntryIndex, FileFault),
}

/// Why a request failed as a whole.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OriginError {
    /// Not reachable now; worth trying again.
    #[error("the origin cannot be reached: {0}")]
    Gone(String),
    /// Reachable, but unable to serve now; worth trying again after a pause.
    #[error("the origin cannot serve it now: {0}")]
    Busy(String),
    /// Reachable, but this replica may not read (any more).
    #[error("the origin refused: {0}")]
    Refused(String),
    /// The snapshot is no longer served.
    #[error("the origin no longer serves this snapshot")]
    SnapshotGone,
    /// What arrived breaks the protocol or its own digests.
    #[error("the origin sent something invalid: {0}")]
    Invalid(String),
}

/// Whether an origin answers at present.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Availability {
    /// The last exchange succeeded.
    Reachable,
    /// Nothing has been heard since the instant.
    Gone {
        /// When it was last heard, or at the latest when it was noticed: patience with it is counted from here.
        since: tokio::time::Instant,
        /// What was noticed, for people.
        why: String,
    },
}

/// The answer to a read, item by item. Dropping it cancels the request; a full channel stops the origin.
pub type Deliveries = mpsc::Receiver<Result<Delivery, OriginError>>;

/// The encoded frames of a manifest in order (see [`crate::manifest::frame`]). Dropping it cancels the request.
pub type Frames = mpsc::Receiver<Result<Bytes, OriginError>>;

/// Serves one snapshot.
///
/// The methods return at once; work happens behind the channel. They must be called within a Tokio runtime.
/// A channel that closes without an error after the last [`Delivery::End`] or [`Delivery::Fault`] is complete;
/// one that closes earlier is an origin that broke off, which the reader treats as [`OriginError::Gone`].
pub trait Origin: fmt::Debug + Send + Sync + 'static {
    /// The snapshot it serves.
    fn snapshot(&self) -> SnapshotId;

    /// The manifest, from its first frame.
    fn read_manifest(&self) -> Frames;

    /// The manifest, for somebody who has that of the earlier snapshot `base` of the same workspace. An origin that knows
    /// nothing of the earlier one, and any that does not say otherwise, sends all of it.
    fn read_manifest_since(&self, _base: SnapshotId) -> FramesSince {
        since::all_of(self.read_manifest())
    }

    /// Whole files in the order asked, at most [`FILES_PER_REQUEST_MAX`]: meant for many small ones.
    fn read_files(&self, files: Vec<EntryIndex>, class: Class) -> Deliveries;

    /// Parts of files in the order asked, at most [`RANGES_PER_REQUEST_MAX`]. Each range ends in its own
    /// [`Delivery::End`] or [`Delivery::Fault`].
    fn read_ranges(&self, ranges: Vec<BlockRange>, class: Class) -> Deliveries;

    /// What has become of a file that changed, and its content as it is now. The answer ends with what is there, where
    /// that has no content, else with [`Anew::End`] or [`Anew::Fault`]. An origin that knows nothing of it answers with
    /// [`OriginError::Invalid`].
    fn take_anew(&self, _wanted: TakeAnew, _class: Class) -> Anews {
        refused("this origin knows of one version only")
    }

    /// Whether it answers at present, and news of it.
    fn availability(&self) -> watch::Receiver<Availability>;
}

fn refused<T>(why: &str) -> mpsc::Receiver<Result<T, OriginError>> {
    let (sender, receiver) = mpsc::channel(1);
    // The channel is new and has room.
    let _ = sender.try_send(Err(OriginError::Invalid(why.into())));
    receiver
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_is_what_it_claims_or_an_error() {
        let size = 3 * BLOCK_BYTES + 10;
        let tail = vec![7; BLOCK_BYTES as usize + 10];
        let good = Run::hashed(EntryIndex(1), BlockIndex(2), size, tail.clone().into());
        assert_eq!(good.verify(size), Ok(()));
        assert_eq!(good.blocks().map(|(i, b)| (i.0, b.len())).collect::<Vec<_>>(), [(2, 65536), (3, 10)]);
        assert_eq!(good.verify(size - 1), Err(BadRun::Length));
        assert_eq!(good.verify(size + 1), Err(BadRun::Length));
        assert_eq!(Run { first: BlockIndex(u64::MAX), ..good.clone() }.verify(size), Err(BadRun::Length));
        assert_eq!(Run { digests: vec![], ..good.clone() }.verify(size), Err(BadRun::Length));
        let mut flipped = tail;
        flipped[BLOCK_BYTES as usize] ^= 1;
        let flipped = Run { bytes: flipped.into(), ..good.clone() };
        assert_eq!(flipped.verify(size), Err(BadRun::Digest(BlockIndex(3))));
        let moved = Run {
            first: BlockIndex(0),
            digests: good.digests[..1].into(),
            bytes: good.bytes.slice(..65536),
            ..good
        };
        assert_eq!(moved.verify(size), Err(BadRun::Digest(BlockIndex(0))));
    }
}
