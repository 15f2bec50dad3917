//! What is known of one path: whose it is, what of it is here, and how it came.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{Availability, PeerRef, UnixTime};

/// What is known of a path.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Why {
    /// The path asked about.
    pub path: String,
    /// In what it lies.
    pub place: WhyPlace,
    /// The workspace's name.
    pub workspace: String,
    /// Whose workspace it is, unless it is one of this node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peer: Option<PeerRef>,
    /// Whether the peer answers, where that matters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub availability: Option<Availability>,
    /// The workspace's directory here.
    pub directory: String,
    /// The path it has at its origin, as far as nobody moved it here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub origin: Option<String>,
    /// What lies there.
    pub found: WhyFound,
}

/// In what a path lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum WhyPlace {
    /// In a workspace of this node.
    Workspace,
    /// In a mount.
    Mount,
    /// In a clone that has not settled.
    Clone,
    /// In a clone that has settled.
    SettledClone,
}

/// What lies at a path.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum WhyFound {
    /// Something ordinary on this machine's disk: nothing of it is fetched.
    Local,
    /// A symbolic link, which is here from the start.
    Symlink,
    /// A file.
    File(WhyFile),
    /// A directory.
    Directory(WhyDirectory),
}

/// A file of a mount or an unsettled clone. What is remembered of it is so since the process that serves it began, and
/// for the files that were fetched or waited for last.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct WhyFile {
    /// How much of it is here, in a word.
    pub presence: WhyPresence,
    /// True when it was made or changed here.
    pub changed: bool,
    /// Its length.
    pub bytes: u64,
    /// Blocks of 64 KiB that are here; holes are from the start.
    pub blocks_here: u64,
    /// Blocks that come from the origin.
    pub blocks_total: u64,
    /// How its content came.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub came: Option<WhyCame>,
    /// How it was waited for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waited: Option<WhyWaited>,
    /// Who waits for it now.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub reading: Vec<Reading>,
    /// Since when anything can be remembered.
    pub remembered_since: UnixTime,
}

/// How much of a file is here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum WhyPresence {
    /// Nothing.
    Virtual,
    /// Some of it.
    Partial,
    /// All of it, as its origin has it.
    Resident,
    /// All of it; it was made or changed here.
    Local,
    /// It is made here in place of the origin's: a git configuration.
    Substitute,
}

/// How the content of a file came.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct WhyCame {
    /// When some of it came first.
    pub first: UnixTime,
    /// When some of it came last.
    pub last: UnixTime,
    /// Bytes that somebody waited for.
    pub bytes_demand: u64,
    /// Bytes that came ahead of somebody who read.
    pub bytes_read_ahead: u64,
    /// Bytes that came in the background.
    pub bytes_background: u64,
}

/// How a file was waited for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct WhyWaited {
    /// How many reads waited.
    pub times: u64,
    /// Who was the first, if that could be seen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub first_by: Option<Program>,
    /// When the last one began.
    pub last: UnixTime,
    /// How long it took.
    pub last_ms: u64,
    /// Who that was, if that could be seen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_by: Option<Program>,
    /// How it ended.
    pub last_end: WhyWaitEnd,
    /// Why it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// How a wait ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum WhyWaitEnd {
    /// With the content.
    Served,
    /// With an error.
    Failed,
    /// Whoever waited was told to stop.
    GivenUp,
}

/// A directory of a mount or an unsettled clone, with all below it as its origin has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct WhyDirectory {
    /// True when it was made here: its origin has nothing there.
    pub made_here: bool,
    /// Files; those with several names count once.
    pub files_total: u64,
    /// Those of them that are here as a whole; `null` while they are counted.
    pub files_here: Option<u64>,
    /// Bytes of all.
    pub bytes_total: u64,
    /// Bytes of those that are here as a whole; `null` while they are counted.
    pub bytes_here: Option<u64>,
}

/// A program.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Program {
    /// Its process.
    pub pid: u32,
    /// What it calls itself.
    pub name: String,
}

/// A read that waits for content.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Reading {
    /// The file, where it lies here.
    pub path: String,
    /// Who reads it; absent for who cannot be seen from here, as in a container.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub program: Option<Program>,
    /// For how long it has waited.
    pub waits_ms: u64,
}
