//! What a client asks.

use serde::{Deserialize, Serialize};
use twinshare_fs::manifest::{EntryIndex, SnapshotId};
use twinshare_fs::origin::{
    BlockRange, Class, FILES_PER_REQUEST_MAX, RANGE_BLOCKS_MAX, RANGES_PER_REQUEST_MAX, TakeAnew,
};

use super::{BadFrame, Hello};

/// Bytes of an encoded request at most: 1,024 files or 256 ranges with the largest numbers take 5 KiB.
pub const REQUEST_BYTES_MAX: usize = 16 * 1024;

/// Bytes of a workspace's name at most.
pub const WORKSPACE_NAME_BYTES_MAX: usize = 255;

/// The first byte of a request. A number is never used for anything else again; a request whose body changes gets a
/// new one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum RequestNumber {
    /// Who are you?
    Hello = 1,
    /// Which workspaces do you offer me?
    Catalogue = 2,
    /// Freeze a workspace, or reopen what was frozen.
    OpenSnapshot = 3,
    /// The manifest of a snapshot.
    ReadManifest = 4,
    /// Whole files of a snapshot.
    ReadFiles = 5,
    /// Parts of files of a snapshot.
    ReadRanges = 6,
    /// What a workspace is like now, once that is something else. Since revision 3.
    Watch = 7,
    /// What has become of a file of a snapshot. Since revision 2.
    TakeAnew = 10,
    /// The manifest of a snapshot, for who has an earlier one. Since revision 3.
    ReadManifestSince = 11,
    // Kept for: 8 put profile, 9 pair.
}

impl RequestNumber {
    /// The request with number `byte`; `None` for those this revision does not know.
    pub fn from_byte(byte: u8) -> Option<Self> {
        match byte {
            1 => Some(Self::Hello),
            2 => Some(Self::Catalogue),
            3 => Some(Self::OpenSnapshot),
            4 => Some(Self::ReadManifest),
            5 => Some(Self::ReadFiles),
            6 => Some(Self::ReadRanges),
            7 => Some(Self::Watch),
            10 => Some(Self::TakeAnew),
            11 => Some(Self::ReadManifestSince),
            _ => None,
        }
    }
}

/// One request: what the client sends on a stream of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    /// Introduces the caller and asks for the same; the one request that needs no grant.
    Hello(Hello),
    /// Asks for the workspaces visible to the caller.
    Catalogue,
    /// Asks for a snapshot of a workspace.
    OpenSnapshot(OpenSnapshot),
    /// Asks for a snapshot's manifest.
    ReadManifest(SnapshotId),
    /// Asks for whole files.
    ReadFiles(ReadFiles),
    /// Asks for parts of files.
    ReadRanges(ReadRanges),
    /// Waits for another snapshot of a workspace.
    Watch(Watch),
    /// Asks what has become of a file.
    TakeAnew(TakeAnewOf),
    /// Asks for a snapshot's manifest as what became of another's.
    ReadManifestSince(ReadManifestSince),
}

/// The body of [`Request::OpenSnapshot`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OpenSnapshot {
    /// The workspace's name, 1 to [`WORKSPACE_NAME_BYTES_MAX`] bytes without control characters.
    pub workspace: String,
    /// The snapshot to reopen; `None` asks for one of this moment.
    pub at: Option<SnapshotId>,
}

/// The body of [`Request::Watch`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Watch {
    /// The workspace's name, 1 to [`WORKSPACE_NAME_BYTES_MAX`] bytes without control characters.
    pub workspace: String,
    /// The snapshot the client has: any other is news.
    pub base: SnapshotId,
}

/// The body of [`Request::ReadManifestSince`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReadManifestSince {
    /// The snapshot.
    pub snapshot: SnapshotId,
    /// The earlier snapshot whose manifest the client has.
    pub base: SnapshotId,
}

/// The body of [`Request::ReadFiles`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReadFiles {
    /// The snapshot.
    pub snapshot: SnapshotId,
    /// The files, at most [`FILES_PER_REQUEST_MAX`].
    pub files: Vec<EntryIndex>,
    /// How urgent it is.
    pub class: Class,
    /// True where the client takes compressed runs.
    pub compress: bool,
}

/// The body of [`Request::ReadRanges`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReadRanges {
    /// The snapshot.
    pub snapshot: SnapshotId,
    /// The ranges, at most [`RANGES_PER_REQUEST_MAX`], each of 1 to [`RANGE_BLOCKS_MAX`] blocks.
    pub ranges: Vec<BlockRange>,
    /// How urgent it is.
    pub class: Class,
    /// True where the client takes compressed runs.
    pub compress: bool,
}

/// The body of [`Request::TakeAnew`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TakeAnewOf {
    /// The snapshot.
    pub snapshot: SnapshotId,
    /// The file, and the blocks of it that the client holds: at most [`RANGES_PER_REQUEST_MAX`] ranges of at least one
    /// block.
    pub wanted: TakeAnew,
    /// How urgent it is.
    pub class: Class,
    /// True where the client takes compressed runs.
    pub compress: bool,
}

impl Request {
    /// Its number.
    pub fn number(&self) -> RequestNumber {
        match self {
            Self::Hello(_) => RequestNumber::Hello,
            Self::Catalogue => RequestNumber::Catalogue,
            Self::OpenSnapshot(_) => RequestNumber::OpenSnapshot,
            Self::ReadManifest(_) => RequestNumber::ReadManifest,
            Self::ReadFiles(_) => RequestNumber::ReadFiles,
            Self::ReadRanges(_) => RequestNumber::ReadRanges,
            Self::Watch(_) => RequestNumber::Watch,
            Self::TakeAnew(_) => RequestNumber::TakeAnew,
            Self::ReadManifestSince(_) => RequestNumber::ReadManifestSince,
        }
    }

    /// How urgent its answer is; whatever is not a read is small, and somebody waits for it.
    pub fn class(&self) -> Class {
        match self {
            Self::ReadFiles(read) => read.class,
            Self::ReadRanges(read) => read.class,
            Self::TakeAnew(take) => take.class,
            Self::Hello(_)
            | Self::Catalogue
            | Self::OpenSnapshot(_)
            | Self::ReadManifest(_)
            | Self::Watch(_)
            | Self::ReadManifestSince(_) => Class::Demand,
        }
    }

    /// The request as it travels: its number, then the postcard form of its body.
    pub fn encode(&self) -> Result<Vec<u8>, BadFrame> {
        self.check()?;
        let start = vec![self.number() as u8];
        let encoded = match self {
            Self::Hello(body) => postcard::to_extend(body, start),
            Self::Catalogue => Ok(start),
            Self::OpenSnapshot(body) => postcard::to_extend(body, start),
            Self::ReadManifest(body) => postcard::to_extend(body, start),
            Self::ReadFiles(body) => postcard::to_extend(body, start),
            Self::ReadRanges(body) => postcard::to_extend(body, start),
            Self::Watch(body) => postcard::to_extend(body, start),
            Self::TakeAnew(body) => postcard::to_extend(body, start),
            Self::ReadManifestSince(body) => postcard::to_extend(body, start),
        };
        encoded.map_err(|_| BadFrame::Body)
    }

    /// Bounds that the types do not carry.
    fn check(&self) -> Result<(), BadFrame> {
        let within = match self {
            Self::Hello(_) | Self::Catalogue | Self::ReadManifest(_) | Self::ReadManifestSince(_) => true,
            Self::OpenSnapshot(open) => is_workspace_name(&open.workspace),
            Self::Watch(watch) => is_workspace_name(&watch.workspace),
            Self::ReadFiles(read) => read.files.len() <= FILES_PER_REQUEST_MAX,
            Self::ReadRanges(read) => {
                read.ranges.len() <= RANGES_PER_REQUEST_MAX && read.ranges.iter().all(is_range)
            }
            Self::TakeAnew(take) => take.wanted.is_within_limits(),
        };
        if within { Ok(()) } else { Err(BadFrame::Limit) }
    }
}

fn is_workspace_name(name: &str) -> bool {
    (1..=WORKSPACE_NAME_BYTES_MAX).contains(&name.len()) && !name.chars().any(char::is_control)
}

fn is_range(range: &BlockRange) -> bool {
    (1..=RANGE_BLOCKS_MAX).contains(&range.count) && range.first.0.checked_add(range.count).is_some()
}

/// Decodes a request: its number and body, without the length before it. Accepts any bytes.
pub fn decode_request(bytes: &[u8]) -> Result<Request, BadFrame> {
    if bytes.len() > REQUEST_BYTES_MAX {
        return Err(BadFrame::Limit);
    }
    let (number, body) = bytes.split_first().ok_or(BadFrame::Body)?;
    let request = match RequestNumber::from_byte(*number).ok_or(BadFrame::Unknown(*number))? {
        RequestNumber::Hello => Request::Hello(super::body(body)?),
        RequestNumber::Catalogue => super::body(body).map(|()| Request::Catalogue)?,
        RequestNumber::OpenSnapshot => Request::OpenSnapshot(super::body(body)?),
        RequestNumber::ReadManifest => Request::ReadManifest(super::body(body)?),
        RequestNumber::ReadFiles => Request::ReadFiles(super::body(body)?),
        RequestNumber::ReadRanges => Request::ReadRanges(super::body(body)?),
        RequestNumber::Watch => Request::Watch(super::body(body)?),
        RequestNumber::TakeAnew => Request::TakeAnew(super::body(body)?),
        RequestNumber::ReadManifestSince => Request::ReadManifestSince(super::body(body)?),
    };
    request.check()?;
    Ok(request)
}
