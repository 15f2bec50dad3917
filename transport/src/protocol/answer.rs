//! What a server answers.

use serde::{Deserialize, Serialize};
use twinshare_fs::digest::{BlockIndex, Digest};
use twinshare_fs::manifest::frame::ENCODED_BYTES_MAX;
use twinshare_fs::manifest::{EntryIndex, SnapshotId};
use twinshare_fs::origin::{FileFault, KEPT_BLOCKS_MAX, RUN_BLOCKS_MAX, VERSION_BYTES_MAX};

use super::{BadFrame, Hello, Text};

/// Bytes of an encoded answer at most, without the payload behind it: an offer has two texts, a run 16 digests, blocks
/// that are kept 64.
pub const ANSWER_BYTES_MAX: usize = 4096;

/// Bytes of a run's payload at most: its blocks, uncompressed.
pub const RUN_BYTES_MAX: usize = RUN_BLOCKS_MAX * 64 * 1024;

/// Workspaces in a catalogue at most.
pub const OFFERS_MAX: usize = 1024;

/// The first byte of an answer; see [`super::RequestNumber`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum AnswerNumber {
    /// Nothing more will come, and nothing is missing.
    Done = 0,
    /// The request is refused, or ends here without being done.
    Refused = 1,
    /// Who this node is.
    Hello = 2,
    /// One workspace of a catalogue.
    Offer = 3,
    /// The snapshot that was opened.
    Snapshot = 4,
    /// One frame of a manifest.
    ManifestFrame = 5,
    /// Consecutive blocks of a file.
    Run = 6,
    /// A file or range is complete.
    End = 7,
    /// A file or range is not, or not wholly, delivered.
    Fault = 8,
    /// What has become of a file.
    Version = 10,
    /// Blocks that have not changed.
    Kept = 11,
    /// The file is still being read.
    Reading = 12,
    /// One frame of what became of a manifest.
    DeltaFrame = 13,
    // Kept for: 9 progress of a snapshot in the making.
}

impl AnswerNumber {
    /// The answer with number `byte`; `None` for those this revision does not know.
    pub fn from_byte(byte: u8) -> Option<Self> {
        match byte {
            0 => Some(Self::Done),
            1 => Some(Self::Refused),
            2 => Some(Self::Hello),
            3 => Some(Self::Offer),
            4 => Some(Self::Snapshot),
            5 => Some(Self::ManifestFrame),
            6 => Some(Self::Run),
            7 => Some(Self::End),
            8 => Some(Self::Fault),
            10 => Some(Self::Version),
            11 => Some(Self::Kept),
            12 => Some(Self::Reading),
            13 => Some(Self::DeltaFrame),
            _ => None,
        }
    }
}

/// One frame of an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The last frame of every answer that is not refused.
    Done,
    /// The last frame of every other.
    Refused(Refusal),
    /// Answers hello.
    Hello(Hello),
    /// Answers catalogue, once per workspace.
    Offer(Offer),
    /// Answers open snapshot, and watch where there is news.
    Snapshot(SnapshotInfo),
    /// Answers read manifest, and read manifest since where all of it is sent, once per frame: this many bytes of payload follow.
    ManifestFrame(u32),
    /// Answers a read: a payload follows.
    Run(RunHeader),
    /// Answers a read, once per file or range, after its last run.
    End(EntryIndex),
    /// The same for a file or range that could not be delivered.
    Fault(EntryIndex, FileFault),
    /// Answers take anew, first: this many bytes of payload follow.
    Version(u32),
    /// Answers take anew: blocks that the client holds, from the first on, and their digests.
    Kept(BlockIndex, Vec<Digest>),
    /// Answers take anew: so many blocks have been read.
    Reading(u64),
    /// Answers read manifest since, once per frame: this many bytes of payload follow.
    DeltaFrame(u32),
}

/// A workspace as its owner's node offers it to one peer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Offer {
    /// Its name on that node.
    pub workspace: Text,
    /// What its owner says about it.
    pub summary: Text,
    /// True when this peer may open a snapshot of it now, without asking anyone.
    pub readable: bool,
    /// Its size, where it is known without walking the tree.
    pub size: Option<TreeSize>,
}

/// How large a tree is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TreeSize {
    /// Entries of all kinds, roots included.
    pub entries: u32,
    /// Bytes of all files; those with several names count once.
    pub file_bytes: u64,
}

/// A snapshot that was opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotInfo {
    /// Its id.
    pub id: SnapshotId,
    /// Its size.
    pub size: TreeSize,
}

/// How a run's payload is encoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Encoding {
    /// As it is in the file.
    Raw,
    /// One zstd frame.
    Zstd,
}

/// Describes the payload that follows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunHeader {
    /// The file.
    pub file: EntryIndex,
    /// The first block.
    pub first: BlockIndex,
    /// A digest per block, 1 to [`RUN_BLOCKS_MAX`].
    pub digests: Vec<Digest>,
    /// Bytes of the payload, at most 64 KiB a block.
    pub payload_bytes: u32,
    /// How they are encoded.
    pub encoding: Encoding,
}

/// Why a request is not, or not wholly, answered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum Refusal {
    /// This peer may not.
    #[error("this peer has not been granted that")]
    NotGranted,
    /// No workspace of that name, or none that this peer may know of.
    #[error("there is no workspace of that name")]
    NoSuchWorkspace,
    /// The snapshot is not, or no longer, kept.
    #[error("the snapshot is no longer served")]
    SnapshotGone,
    /// A limit of the server is reached; asking again later may succeed.
    #[error("the peer is too busy")]
    TooBusy,
    /// The request cannot be understood, or breaks a limit.
    #[error("the peer did not understand the request")]
    BadRequest,
    /// The server failed; the text is for the log.
    #[error("the peer failed: {0}")]
    Internal(Text),
    /// What is open is open to the server's own network, in which the caller's address does not lie.
    #[error("it lets in only nodes on its own network, and this one comes from elsewhere")]
    NotNear,
}

impl Answer {
    /// Its number.
    pub fn number(&self) -> AnswerNumber {
        match self {
            Self::Done => AnswerNumber::Done,
            Self::Refused(_) => AnswerNumber::Refused,
            Self::Hello(_) => AnswerNumber::Hello,
            Self::Offer(_) => AnswerNumber::Offer,
            Self::Snapshot(_) => AnswerNumber::Snapshot,
            Self::ManifestFrame(_) => AnswerNumber::ManifestFrame,
            Self::Run(_) => AnswerNumber::Run,
            Self::End(_) => AnswerNumber::End,
            Self::Fault(..) => AnswerNumber::Fault,
            Self::Version(_) => AnswerNumber::Version,
            Self::Kept(..) => AnswerNumber::Kept,
            Self::Reading(_) => AnswerNumber::Reading,
            Self::DeltaFrame(_) => AnswerNumber::DeltaFrame,
        }
    }

    /// Bytes of the payload that follows the frame.
    pub fn payload_bytes(&self) -> usize {
        match self {
            Self::ManifestFrame(bytes) | Self::Version(bytes) | Self::DeltaFrame(bytes) => *bytes as usize,
            Self::Run(run) => run.payload_bytes as usize,
            Self::Done
            | Self::Refused(_)
            | Self::Hello(_)
            | Self::Offer(_)
            | Self::Snapshot(_)
            | Self::End(_)
            | Self::Fault(..)
            | Self::Kept(..)
            | Self::Reading(_) => 0,
        }
    }

    /// The answer as it travels: its number, then the postcard form of its body.
    pub fn encode(&self) -> Result<Vec<u8>, BadFrame> {
        self.check()?;
        let start = vec![self.number() as u8];
        let encoded = match self {
            Self::Done => Ok(start),
            Self::Refused(body) => postcard::to_extend(body, start),
            Self::Hello(body) => postcard::to_extend(body, start),
            Self::Offer(body) => postcard::to_extend(body, start),
            Self::Snapshot(body) => postcard::to_extend(body, start),
            Self::ManifestFrame(body) => postcard::to_extend(body, start),
            Self::Run(body) => postcard::to_extend(body, start),
            Self::End(body) => postcard::to_extend(body, start),
            Self::Fault(file, fault) => postcard::to_extend(&(file, WireFault::from(fault)), start),
            Self::Version(body) => postcard::to_extend(body, start),
            Self::Kept(first, digests) => postcard::to_extend(&(first, digests), start),
            Self::Reading(body) => postcard::to_extend(body, start),
            Self::DeltaFrame(body) => postcard::to_extend(body, start),
        };
        encoded.map_err(|_| BadFrame::Body)
    }

    /// Bounds that the types do not carry.
    fn check(&self) -> Result<(), BadFrame> {
        let within = match self {
            Self::ManifestFrame(bytes) | Self::DeltaFrame(bytes) => *bytes as usize <= ENCODED_BYTES_MAX,
            Self::Run(run) => run.is_within_limits(),
            Self::Version(bytes) => *bytes as usize <= VERSION_BYTES_MAX,
            Self::Kept(first, digests) => {
                (1..=KEPT_BLOCKS_MAX).contains(&digests.len())
                    && first.0.checked_add(digests.len() as u64).is_some()
            }
            Self::Done
            | Self::Refused(_)
            | Self::Hello(_)
            | Self::Offer(_)
            | Self::Snapshot(_)
            | Self::End(_)
            | Self::Fault(..)
            | Self::Reading(_) => true,
        };
        if within { Ok(()) } else { Err(BadFrame::Limit) }
    }
}

impl RunHeader {
    fn is_within_limits(&self) -> bool {
        (1..=RUN_BLOCKS_MAX).contains(&self.digests.len())
            && self.payload_bytes as usize <= self.blocks_bytes()
            && self.first.0.checked_add(self.digests.len() as u64).is_some()
    }

    /// Bytes of its blocks when none is the file's last.
    pub(crate) fn blocks_bytes(&self) -> usize {
        self.digests.len() * twinshare_fs::digest::BLOCK_BYTES as usize
    }
}

/// [`FileFault`] with its text made safe.
#[derive(Serialize, Deserialize)]
enum WireFault {
    Changed,
    Unreadable(Text),
    NoSuchBlock,
}

impl From<&FileFault> for WireFault {
    fn from(fault: &FileFault) -> Self {
        match fault {
            FileFault::Changed => Self::Changed,
            FileFault::Unreadable(text) => Self::Unreadable(Text::new(text)),
            FileFault::NoSuchBlock => Self::NoSuchBlock,
        }
    }
}

impl From<WireFault> for FileFault {
    fn from(fault: WireFault) -> Self {
        match fault {
            WireFault::Changed => Self::Changed,
            WireFault::Unreadable(text) => Self::Unreadable(text.to_string()),
            WireFault::NoSuchBlock => Self::NoSuchBlock,
        }
    }
}

/// Decodes an answer: its number and body, without the length before it or the payload behind it. Accepts any bytes.
pub fn decode_answer(bytes: &[u8]) -> Result<Answer, BadFrame> {
    if bytes.len() > ANSWER_BYTES_MAX {
        return Err(BadFrame::Limit);
    }
    let (number, body) = bytes.split_first().ok_or(BadFrame::Body)?;
    let answer = match AnswerNumber::from_byte(*number).ok_or(BadFrame::Unknown(*number))? {
        AnswerNumber::Done => super::body(body).map(|()| Answer::Done)?,
        AnswerNumber::Refused => Answer::Refused(super::body(body)?),
        AnswerNumber::Hello => Answer::Hello(super::body(body)?),
        AnswerNumber::Offer => Answer::Offer(super::body(body)?),
        AnswerNumber::Snapshot => Answer::Snapshot(super::body(body)?),
        AnswerNumber::ManifestFrame => Answer::ManifestFrame(super::body(body)?),
        AnswerNumber::Run => Answer::Run(super::body(body)?),
        AnswerNumber::End => Answer::End(super::body(body)?),
        AnswerNumber::Fault => {
            let (file, fault): (_, WireFault) = super::body(body)?;
            Answer::Fault(file, fault.into())
        }
        AnswerNumber::Version => Answer::Version(super::body(body)?),
        AnswerNumber::Kept => {
            let (first, digests) = super::body(body)?;
            Answer::Kept(first, digests)
        }
        AnswerNumber::Reading => Answer::Reading(super::body(body)?),
        AnswerNumber::DeltaFrame => Answer::DeltaFrame(super::body(body)?),
    };
    answer.check()?;
    Ok(answer)
}
