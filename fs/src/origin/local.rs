//! The origin that serves a snapshot from the directories it was taken of.
//!
//! Everything it needs lies in the directory of the snapshot (the manifest, the [stamps](super::stamps), the digests
//! that blocks are bound to) and in the trees themselves, so it survives any restart. A file that is no longer the
//! version its snapshot names is [`FileFault::Changed`](super::FileFault::Changed), never bytes: see
//! [`files`](super::files) for how it is read.
//!
//! A tree's owner may rename, replace and remove whatever they like at any moment; nothing outside the roots is ever
//! opened for it ([confined](crate::beneath)).

use std::fmt;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{mpsc, watch};

use super::files::Files;
use super::moment::Moments;
use super::pool::ReadPool;
use super::reader::{Pending, Reader, Step, Want};
use super::rest::Rest;
use super::since::{self, FramesSince};
use super::stamps::Stamps;
use super::version::HOT;
use super::whereabouts::Whereabouts;
use super::{
    Anews, Availability, BlockRange, Class, DELIVERIES_AHEAD, Deliveries, Delivery, FILES_PER_REQUEST_MAX,
    Frames, Origin, OriginError, RANGE_BLOCKS_MAX, RANGES_PER_REQUEST_MAX, TakeAnew, refused, take,
};
use crate::digest_file::DigestFile;
use crate::manifest::walk::{MANIFEST_FILE, STAMPS_FILE};
use crate::manifest::{EntryIndex, Manifest, ManifestError, SnapshotId, frame};

/// The name of the digests in the directory of a snapshot, made when it is first opened.
pub const DIGESTS_FILE: &str = "digests";

/// Frames of a manifest prepared ahead of whoever takes them, each at most 2 MiB and mostly far less.
const FRAMES_AHEAD: usize = 4;

/// Serves a snapshot from the directories it was taken of. Cheap to share; holds no file open while nobody reads.
pub struct LocalOrigin {
    files: Arc<Files>,
    pool: ReadPool,
    moments: Arc<Moments>,
    rest: Arc<Rest>,
    whereabouts: Arc<Whereabouts>,
    availability: watch::Sender<Availability>,
}

/// Why a snapshot cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum LocalOriginError {
    /// Its manifest is missing or damaged.
    #[error("the snapshot's manifest")]
    Manifest(#[source] ManifestError),
    /// Its stamps are missing, damaged or another snapshot's.
    #[error("the snapshot's stamps")]
    Stamps(#[source] io::Error),
    /// Its digests cannot be opened or are another snapshot's.
    #[error("the snapshot's digests")]
    Digests(#[source] io::Error),
}

impl fmt::Debug for LocalOrigin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LocalOrigin").field("snapshot", &self.snapshot()).finish_non_exhaustive()
    }
}

impl LocalOrigin {
    /// Opens the snapshot in `directory`, as [`build`](crate::manifest::walk::build) made it. Its reads run in `pool`.
    ///
    /// Reads the whole manifest once (20 ms for a million entries). The trees are not looked at: one that is gone
    /// shows when it is read.
    pub fn open(directory: &Path, pool: ReadPool) -> Result<Self, LocalOriginError> {
        Self::open_with(directory, pool, HOT)
    }

    /// Opens a snapshot whose files are hot for another time after a change.
    fn open_with(directory: &Path, pool: ReadPool, hot: Duration) -> Result<Self, LocalOriginError> {
        let manifest = Manifest::open(&directory.join(MANIFEST_FILE)).map_err(LocalOriginError::Manifest)?;
        let stamps = Stamps::open(&directory.join(STAMPS_FILE), manifest.entries(), manifest.snapshot())
            .map_err(LocalOriginError::Stamps)?;
        let digests = DigestFile::open(&directory.join(DIGESTS_FILE), manifest.blocks())
            .map_err(LocalOriginError::Digests)?;
        let (availability, _) = watch::channel(Availability::Reachable);
        let files = Arc::new(Files::new(manifest, stamps, digests, hot));
        let moments = Moments::new(files.clone(), pool.clone());
        let rest = Rest::new(files.clone(), pool.clone());
        let whereabouts = Whereabouts::new(files.clone(), pool.clone());
        Ok(Self { files, pool, moments, rest, whereabouts, availability })
    }

    /// The manifest it serves.
    pub fn manifest(&self) -> &Manifest {
        &self.files.manifest
    }

    fn deliver(&self, wants: Vec<Want>, class: Class) -> Deliveries {
        let (sender, deliveries) = mpsc::channel(DELIVERIES_AHEAD);
        let mut reader = Reader::new(&self.files, wants, class);
        let (pool, moments, rest) = (self.pool.clone(), self.moments.clone(), self.rest.clone());
        let whereabouts = self.whereabouts.clone();
        tokio::spawn(async move {
            loop {
                let step = pool.run(class, move || {
                    let step = reader.step();
                    (reader, step)
                });
                let stepped = tokio::select! {
                    stepped = step => stepped,
                    () = sender.closed() => return,
                };
                let Ok((next, Step { mut deliveries, pending, incomplete })) = stepped else {
                    return lost(&sender).await;
                };
                reader = next;
                incomplete.into_iter().for_each(|file| rest.bind(file));
                if let Some(pending) = pending {
                    send(&sender, std::mem::take(&mut deliveries)).await;
                    let done = async {
                        match pending {
                            Pending::Unsettled(file) => moments.settle(file).await,
                            Pending::Missing(file) => whereabouts.look_for(file).await,
                        }
                    };
                    let done = tokio::select! {
                        done = done => done,
                        () = sender.closed() => return,
                    };
                    deliveries.extend(reader.go_on(done));
                } else if deliveries.is_empty() {
                    return;
                }
                if !send(&sender, deliveries).await {
                    return;
                }
            }
        });
        deliveries
    }
}

/// Sends deliveries in order; false when nobody takes them any more.
async fn send(sender: &mpsc::Sender<Result<Delivery, OriginError>>, deliveries: Vec<Delivery>) -> bool {
    for delivery in deliveries {
        if sender.send(Ok(delivery)).await.is_err() {
            return false;
        }
    }
    true
}

impl Origin for LocalOrigin {
    fn snapshot(&self) -> SnapshotId {
        self.files.manifest.snapshot()
    }

    fn read_manifest(&self) -> Frames {
        let manifest = self.files.manifest.clone();
        stream(self.pool.clone(), move || {
            frame::Frames::new(&manifest).map(|frame| frame::encode(&frame).map(Bytes::from))
        })
    }

    fn read_manifest_since(&self, base: SnapshotId) -> FramesSince {
        let files = self.files.clone();
        stream(self.pool.clone(), move || since::since(&files, base))
    }

    fn read_files(&self, files: Vec<EntryIndex>, class: Class) -> Deliveries {
        if files.len() > FILES_PER_REQUEST_MAX {
            return refused("more files than one request may ask for");
        }
        self.deliver(files.into_iter().map(Want::Whole).collect(), class)
    }

    fn read_ranges(&self, ranges: Vec<BlockRange>, class: Class) -> Deliveries {
        if ranges.len() > RANGES_PER_REQUEST_MAX {
            return refused("more ranges than one request may ask for");
        }
        if ranges.iter().any(|range| range.count > RANGE_BLOCKS_MAX) {
            return refused("a longer range than one request may ask for");
        }
        self.deliver(ranges.into_iter().map(Want::Part).collect(), class)
    }

    fn take_anew(&self, wanted: TakeAnew, class: Class) -> Anews {
        if !wanted.is_within_limits() {
            return refused("more ranges than one request may name");
        }
        let (sender, anews) = mpsc::channel(DELIVERIES_AHEAD);
        let (files, pool) = (self.files.clone(), self.pool.clone());
        let take = take::Take { files, pool, whereabouts: self.whereabouts.clone(), wanted, class };
        tokio::spawn(async move {
            let closed = sender.clone();
            tokio::select! {
                () = take.run(&sender) => {}
                () = closed.closed() => {}
            }
        });
        anews
    }

    fn availability(&self) -> watch::Receiver<Availability> {
        self.availability.subscribe()
    }
}

/// Sends the frames that `begin` leads to, each of which is made in a step of its own.
fn stream<T, I>(
    pool: ReadPool,
    begin: impl FnOnce() -> I + Send + 'static,
) -> mpsc::Receiver<Result<T, OriginError>>
where
    T: Send + 'static,
    I: Iterator<Item = Result<T, ManifestError>> + Send + 'static,
{
    let (sender, frames) = mpsc::channel(FRAMES_AHEAD);
    tokio::spawn(async move {
        let closed = sender.clone();
        tokio::select! {
            () = send_frames(pool, begin, &sender) => {}
            () = closed.closed() => {}
        }
    });
    frames
}

async fn send_frames<T, I>(
    pool: ReadPool,
    begin: impl FnOnce() -> I + Send + 'static,
    sender: &mpsc::Sender<Result<T, OriginError>>,
) where
    T: Send + 'static,
    I: Iterator<Item = Result<T, ManifestError>> + Send + 'static,
{
    let Ok(mut frames) = pool.run(Class::Demand, begin).await else { return lost(sender).await };
    loop {
        let step = pool.run(Class::Demand, move || {
            let frame = frames.next();
            (frames, frame)
        });
        let Ok((rest, frame)) = step.await else { return lost(sender).await };
        frames = rest;
        let Some(frame) = frame else { return };
        let frame = frame.map_err(|error| OriginError::Invalid(error.to_string()));
        let failed = frame.is_err();
        if sender.send(frame).await.is_err() || failed {
            return;
        }
    }
}

async fn lost<T>(sender: &mpsc::Sender<Result<T, OriginError>>) {
    // Nobody may be listening any more.
    let _ = sender.send(Err(OriginError::Gone("a read of a local file broke off".into()))).await;
}

#[cfg(test)]
mod tests;
