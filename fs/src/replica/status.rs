//! What a replica says about itself.

use serde::{Deserialize, Serialize};

use super::WhenGone;
use super::anew::Became;
use crate::manifest::SnapshotId;

/// Lines in [`ReplicaStatus::stale`] and [`ReplicaStatus::errors`] at most.
pub const LISTED_MAX: usize = 100;

/// How much of something is here.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tally {
    /// Here, verified and on the disk.
    pub resident: u64,
    /// In all.
    pub total: u64,
}

/// Bytes by the [class](crate::origin::Class) under which they were asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FetchedBytes {
    /// Somebody waited for them.
    pub demand: u64,
    /// Somebody was likely to wait for them soon.
    pub read_ahead: u64,
    /// Nobody waited for them.
    pub bulk: u64,
}

/// The waits of reads whose content was not here, since the replica was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DemandWaits {
    /// Reads that wait now.
    pub waiting: u64,
    /// Reads that waited and got their bytes.
    pub served: u64,
    /// Reads that waited, or were refused at once, and failed.
    pub failed: u64,
    /// Half of those served waited at most so long, in µs; exact to a factor of two.
    pub p50_us: u64,
    /// Nine in ten of those served waited at most so long.
    pub p90_us: u64,
    /// 99 in a hundred of those served waited at most so long.
    pub p99_us: u64,
    /// The longest wait of those served.
    pub longest_us: u64,
}

/// Whether the origin answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum OriginStatus {
    /// The last exchange succeeded.
    Reachable,
    /// It does not answer.
    Gone {
        /// For how long, in milliseconds.
        for_ms: u64,
        /// What was noticed.
        why: String,
    },
    /// It no longer serves the snapshot: what is not here will not come.
    SnapshotGone,
}

/// Something that went wrong, for people.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorLine {
    /// When, in milliseconds before the status was taken.
    pub ago_ms: u64,
    /// How often in a row.
    pub times: u64,
    /// What.
    pub text: String,
}

/// A file that changed at the origin before all of it was here.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChangedFile {
    /// Its path in the snapshot, below its root.
    pub path: String,
    /// What became of it, where that is known.
    pub became: Option<Became>,
    /// When, in milliseconds since 1970.
    pub at_ms: Option<u64>,
}

/// Files to which the same happened.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChangedList {
    /// All of them.
    pub total: u64,
    /// Some of them, at most [`LISTED_MAX`].
    pub listed: Vec<ChangedFile>,
}

/// The files of a clone that changed at the origin before all of them was here. The clone is not complete while any
/// waits, is in conflict or unsettled.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChangedFiles {
    /// They are about to be taken anew.
    pub waiting: ChangedList,
    /// The version that the origin had later is here.
    pub taken_anew: ChangedList,
    /// They were gone at the origin, and are gone here.
    pub removed: ChangedList,
    /// They were changed here too: somebody must decide.
    pub conflicts: ChangedList,
    /// No version of them can be had at present.
    pub unsettled: ChangedList,
    /// Somebody decided to keep what is here of them.
    pub kept: ChangedList,
}

/// A replica at one moment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReplicaStatus {
    /// The snapshot.
    pub snapshot: SnapshotId,
    /// False while what lay on the disk at the start is still being counted, or the manifest is still arriving: the
    /// tallies are too low until then.
    pub counted: bool,
    /// Files; those with several names count once.
    pub files: Tally,
    /// Blocks of all files. Holes are here from the start.
    pub blocks: Tally,
    /// Bytes of all files. Holes are here from the start.
    pub bytes: Tally,
    /// Bytes that came from the origin since the replica was opened.
    pub fetched: FetchedBytes,
    /// The waits of reads.
    pub demand: DemandWaits,
    /// The origin.
    pub origin: OriginStatus,
    /// What reads do while the origin is gone.
    pub when_gone: WhenGone,
    /// Bytes asked for, or arrived and not on the disk yet.
    pub memory_bytes: u64,
    /// What `memory_bytes` never exceeds.
    pub memory_bytes_max: u64,
    /// While the disk refuses what is fetched, what it says: reads are answered from memory, nothing is kept.
    pub disk_refuses: Option<String>,
    /// While nothing is fetched in the background so that this much stays free on the disk, how many bytes.
    #[serde(default)]
    pub short_of_space: Option<u64>,
    /// Files that changed at the origin before they were here and cannot be taken anew, those of a view or a companion,
    /// at most [`LISTED_MAX`]: paths below their root.
    pub stale: Vec<String>,
    /// All of them.
    pub stale_total: u64,
    /// Those of a clone's own tree, and what became of them.
    #[serde(default)]
    pub changed: ChangedFiles,
    /// The last things that went wrong, the newest last, at most [`LISTED_MAX`].
    pub errors: Vec<ErrorLine>,
}
