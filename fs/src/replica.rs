//! A local copy in the making: what is here, what is missing, how it is fetched and stored. No kernel.
//!
//! A [`Replica`] answers reads of the files of one snapshot, from the disk where it has their blocks and from the
//! [`Origin`] where it does not. What is fetched is verified, handed to whoever waits, and kept.

use std::sync::Arc;

use bytes::Bytes;
use tokio::runtime::Handle;

use crate::digest::{BLOCK_BYTES, BlockIndex};
use crate::manifest::{EntryIndex, Kind, Manifest};
use crate::origin::{BlockRange, Class, Delivery, FileFault, Origin, OriginError};

pub mod layout;
pub mod status;
mod when_gone;

pub use layout::Layout;
pub use status::ReplicaStatus;
pub use when_gone::{NotAWhenGone, WAIT_DEFAULT, WAIT_MAX, WhenGone};

/// Bytes asked for, or arrived and not on the disk yet, when nobody chose.
pub const MEMORY_BYTES_DEFAULT: u64 = 96 * 1024 * 1024;

/// How a replica is run.
#[derive(Debug)]
pub struct ReplicaConfig {
    /// Where it lies.
    pub layout: Layout,
    /// What reads do while the origin is gone.
    pub when_gone: WhenGone,
    /// Bytes asked for, or arrived and not on the disk yet, at most; what is less than 16 MiB counts as 16 MiB. At
    /// the bound reads wait for the disk.
    pub memory_bytes_max: u64,
    /// Files on the disk held open at most; `None` takes a quarter of what the process may open.
    pub descriptors_max: Option<usize>,
}

impl ReplicaConfig {
    /// The usual settings for a replica in `layout`.
    pub fn new(layout: Layout) -> Self {
        Self {
            layout,
            when_gone: WhenGone::default(),
            memory_bytes_max: MEMORY_BYTES_DEFAULT,
            descriptors_max: None,
        }
    }
}

/// Why a replica cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum ReplicaError {
    /// The filesystem cannot hold a replica.
    #[error("{} cannot hold a lazy copy: {reason}; choose a directory on another filesystem (ext4, xfs and btrfs will do)", .path.display())]
    Unsuitable {
        /// The replica's directory.
        path: std::path::PathBuf,
        /// What it lacks.
        reason: String,
    },
    /// The disk failed.
    #[error("the replica in {}: {doing}", .path.display())]
    Disk {
        /// The replica's directory.
        path: std::path::PathBuf,
        /// What was tried.
        doing: &'static str,
        /// What the system said.
        source: std::io::Error,
    },
    /// The origin serves another snapshot than the manifest's.
    #[error("the origin serves another snapshot than the one the manifest describes")]
    OtherSnapshot,
}

/// Why a read failed. No bytes are returned with it: a read is whole or an error.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// The content is not here and the origin does not answer; worth trying again.
    #[error("the content is not here and the origin cannot be reached: {0}")]
    Gone(String),
    /// The content is not here and the origin has it no more: the file changed there, or the snapshot is no longer
    /// served.
    #[error("the content is not here and the origin no longer has this version of it")]
    Stale,
    /// The origin does not let this replica read (any more).
    #[error("the content is not here and the origin refused it: {0}")]
    Refused(String),
    /// What arrived is not what it claims to be.
    #[error("the origin sent something that does not verify: {0}")]
    Corrupt(String),
    /// The origin could not read the file itself.
    #[error("the origin could not read the file: {0}")]
    Unreadable(String),
    /// The manifest has no such file, or shows it no more because its stream failed.
    #[error("the snapshot has no such file")]
    NoSuchFile,
    /// The local disk failed.
    #[error("the local disk failed: {0}")]
    Io(rustix::io::Errno),
}

/// What [`Replica::try_read`] found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TryRead {
    /// The bytes, all that [`Replica::read`] would return.
    Ready(Bytes),
    /// Something must be fetched or read from the disk, or the read fails: [`Replica::read`] tells.
    WouldWait,
}

/// A local copy of one snapshot. Shared between the threads that serve the kernel and the tasks that fetch.
#[derive(Debug)]
pub struct Replica {
    config: ReplicaConfig,
    manifest: Manifest,
    origin: Arc<dyn Origin>,
    runtime: Handle,
}

impl Replica {
    /// Opens the replica in `config.layout`, new or continued. Everything that is on the disk is used again.
    ///
    /// The manifest may still be arriving. Fetching runs on `runtime`, and ends when the replica is dropped. Blocks
    /// for the time of some system calls: the filesystem is tried out first.
    pub fn open(
        config: ReplicaConfig,
        manifest: Manifest,
        origin: Arc<dyn Origin>,
        runtime: Handle,
    ) -> Result<Arc<Self>, ReplicaError> {
        if origin.snapshot() != manifest.snapshot() {
            return Err(ReplicaError::OtherSnapshot);
        }
        Ok(Arc::new(Self { config, manifest, origin, runtime }))
    }

    /// The snapshot's manifest.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// What reads do while the origin is gone.
    pub fn when_gone(&self) -> WhenGone {
        self.config.when_gone
    }

    /// Where it lies.
    pub fn layout(&self) -> &Layout {
        &self.config.layout
    }

    /// Reads without waiting, from memory or from what the kernel has cached of the disk; never blocks.
    ///
    /// `file` is any entry of the inode. A read at or beyond the end is empty.
    pub fn try_read(&self, file: EntryIndex, offset: u64, length: u32) -> TryRead {
        match self.span(file, offset, length) {
            Some((_, _, 0)) => TryRead::Ready(Bytes::new()),
            _ => TryRead::WouldWait,
        }
    }

    /// Reads `length` bytes at `offset`, or up to the end of the file, fetching what is not here: exactly these
    /// bytes, or an error. How long it waits for the origin is [`ReplicaConfig::when_gone`]'s to say.
    ///
    /// Dropping the future gives the wait up; what has been asked for still arrives and is kept.
    pub async fn read(&self, file: EntryIndex, offset: u64, length: u32) -> Result<Bytes, ReadError> {
        let (inode, size, length) = self.span(file, offset, length).ok_or(ReadError::NoSuchFile)?;
        if length == 0 {
            return Ok(Bytes::new());
        }
        let first = BlockIndex::containing(offset);
        let last = BlockIndex::containing(offset + length - 1);
        let range = BlockRange { file: inode, first, count: last.0 - first.0 + 1 };
        let start = (offset - first.offset()) as usize;
        let fetch = self.fetch(range, size);
        let bytes = match self.config.when_gone {
            WhenGone::WaitForever => fetch.await?,
            WhenGone::Wait(limit) => tokio::time::timeout(limit, fetch).await.unwrap_or_else(|_| late())?,
            WhenGone::Fail => tokio::time::timeout(WAIT_DEFAULT, fetch).await.unwrap_or_else(|_| late())?,
        };
        Ok(bytes.slice(start..start + length as usize))
    }

    async fn fetch(&self, range: BlockRange, size: u64) -> Result<Bytes, ReadError> {
        let mut deliveries = {
            let _runtime = self.runtime.enter();
            self.origin.read_ranges(vec![range], Class::Demand)
        };
        let mut bytes = Vec::new();
        while let Some(delivery) = deliveries.recv().await {
            match delivery.map_err(from_origin)? {
                Delivery::Run(run) => {
                    let next = range.first.0 + bytes.len() as u64 / BLOCK_BYTES;
                    run.verify(size).map_err(|bad| ReadError::Corrupt(bad.to_string()))?;
                    if run.file != range.file || run.first.0 != next {
                        return Err(ReadError::Corrupt("a run that was not asked for".into()));
                    }
                    bytes.extend_from_slice(&run.bytes);
                }
                Delivery::End(_) => break,
                Delivery::Fault(_, fault) => return Err(from_fault(fault)),
            }
        }
        let wanted = BlockIndex(range.first.0 + range.count - 1).bytes_in(size).end - range.first.offset();
        match bytes.len() as u64 == wanted {
            true => Ok(bytes.into()),
            false => Err(ReadError::Gone("it broke off".into())),
        }
    }

    /// Tells that a handle on the file was opened.
    pub fn opened(&self, file: EntryIndex) {
        let _ = file;
    }

    /// Tells that a handle on the file was closed.
    pub fn released(&self, file: EntryIndex) {
        let _ = file;
    }

    /// The inode of `file`, its size, and how many of the `length` bytes at `offset` it has.
    fn span(&self, file: EntryIndex, offset: u64, length: u32) -> Option<(EntryIndex, u64, u64)> {
        let entry = self.manifest.entry(file).filter(|entry| entry.kind() == Kind::File)?;
        let length = u64::from(length).min(entry.size().saturating_sub(offset));
        Some((entry.inode(), entry.size(), length))
    }
}

fn late<T>() -> Result<T, ReadError> {
    Err(ReadError::Gone("it did not answer in time".into()))
}

fn from_origin(error: OriginError) -> ReadError {
    match error {
        OriginError::Gone(why) => ReadError::Gone(why),
        OriginError::Refused(why) => ReadError::Refused(why),
        OriginError::SnapshotGone => ReadError::Stale,
        OriginError::Invalid(what) => ReadError::Corrupt(what),
    }
}

fn from_fault(fault: FileFault) -> ReadError {
    match fault {
        FileFault::Changed => ReadError::Stale,
        FileFault::Unreadable(why) => ReadError::Unreadable(why),
        FileFault::NoSuchBlock => ReadError::Corrupt("it denies a file of its own snapshot".into()),
    }
}
