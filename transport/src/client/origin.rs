//! A peer as an [`Origin`].

use std::fmt;
use std::future::Future;
use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::mpsc::{self, Sender};
use tokio::sync::watch;
use twinshare_fs::manifest::{EntryIndex, SnapshotId};
use twinshare_fs::origin::{
    Anew, Anews, Availability, BlockRange, Class, DELIVERIES_AHEAD, Deliveries, Delivery, Frames,
    FramesSince, Origin, OriginError, Run, SinceFrame, TakeAnew, Version,
};

use super::CallError;
use super::call::{Call, unexpected};
use super::expected::{Expected, ExpectedAnew};
use super::link::Link;
use crate::compress;
use crate::protocol::{
    Answer, Encoding, ReadFiles, ReadManifestSince, ReadRanges, Request, RunHeader, TakeAnewOf,
};

/// Manifest frames read ahead of whoever takes them; each has 2 MiB at most and usually a tenth of it.
const FRAMES_AHEAD: usize = 4;

/// One snapshot at one peer.
pub(super) struct RemoteOrigin {
    link: Arc<Link>,
    snapshot: SnapshotId,
}

impl RemoteOrigin {
    pub(super) fn new(link: Arc<Link>, snapshot: SnapshotId) -> Self {
        Self { link, snapshot }
    }

    fn read(&self, request: Request, expected: Expected) -> Deliveries {
        let (sender, receiver) = mpsc::channel(DELIVERIES_AHEAD);
        let link = Arc::clone(&self.link);
        tokio::spawn(async move {
            until_closed(&sender, read(&link, &request, expected, &sender)).await;
        });
        receiver
    }
}

impl fmt::Debug for RemoteOrigin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RemoteOrigin")
            .field("peer", &self.link.peer())
            .field("snapshot", &self.snapshot)
            .finish()
    }
}

impl Origin for RemoteOrigin {
    fn snapshot(&self) -> SnapshotId {
        self.snapshot
    }

    fn read_manifest(&self) -> Frames {
        let (sender, receiver) = mpsc::channel(FRAMES_AHEAD);
        let (link, snapshot) = (Arc::clone(&self.link), self.snapshot);
        tokio::spawn(async move {
            until_closed(&sender, read_manifest(&link, snapshot, &sender)).await;
        });
        receiver
    }

    fn read_manifest_since(&self, base: SnapshotId) -> FramesSince {
        let (sender, receiver) = mpsc::channel(FRAMES_AHEAD);
        let (link, snapshot) = (Arc::clone(&self.link), self.snapshot);
        tokio::spawn(async move {
            let request = Request::ReadManifestSince(ReadManifestSince { snapshot, base });
            until_closed(&sender, read_manifest_since(&link, &request, &sender)).await;
        });
        receiver
    }

    fn read_files(&self, files: Vec<EntryIndex>, class: Class) -> Deliveries {
        let expected = Expected::files(&files);
        let request = ReadFiles { snapshot: self.snapshot, files, class, compress: true };
        self.read(Request::ReadFiles(request), expected)
    }

    fn read_ranges(&self, ranges: Vec<BlockRange>, class: Class) -> Deliveries {
        let expected = Expected::ranges(&ranges);
        let request = ReadRanges { snapshot: self.snapshot, ranges, class, compress: true };
        self.read(Request::ReadRanges(request), expected)
    }

    fn take_anew(&self, wanted: TakeAnew, class: Class) -> Anews {
        let (sender, receiver) = mpsc::channel(DELIVERIES_AHEAD);
        let link = Arc::clone(&self.link);
        let request = TakeAnewOf { snapshot: self.snapshot, wanted, class, compress: true };
        tokio::spawn(async move {
            until_closed(&sender, take_anew(&link, request, &sender)).await;
        });
        receiver
    }

    fn availability(&self) -> watch::Receiver<Availability> {
        self.link.availability()
    }
}

/// Runs a read until it ends, and tells how if it failed; or until nobody listens, which drops and so cancels it.
async fn until_closed<T>(
    sender: &Sender<Result<T, OriginError>>,
    read: impl Future<Output = Result<(), CallError>>,
) {
    tokio::select! {
        ended = read => if let Err(error) = ended {
            // Where nobody listens, nobody needs to know.
            let _ = sender.send(Err(error.into())).await;
        },
        () = sender.closed() => {}
    }
}

async fn read(
    link: &Link,
    request: &Request,
    mut expected: Expected,
    sender: &Sender<Result<Delivery, OriginError>>,
) -> Result<(), CallError> {
    let _turn = match request.class() {
        Class::Demand => None,
        Class::ReadAhead | Class::Bulk => link.unhurried().acquire().await.ok(),
    };
    on_connection(link, request, async |call| {
        loop {
            let delivery = match call.frame().await? {
                (Answer::Run(header), payload) => Delivery::Run(run(header, payload)?),
                (Answer::End(file), _) => Delivery::End(file),
                (Answer::Fault(file, fault), _) => Delivery::Fault(file, fault),
                (Answer::Done, _) => return expected.finish(),
                (answer, _) => return Err(unexpected(&answer)),
            };
            expected.take(&delivery)?;
            if sender.send(Ok(delivery)).await.is_err() {
                return Ok(());
            }
        }
    })
    .await
}

async fn read_manifest(
    link: &Link,
    snapshot: SnapshotId,
    sender: &Sender<Result<Bytes, OriginError>>,
) -> Result<(), CallError> {
    on_connection(link, &Request::ReadManifest(snapshot), async |call| {
        loop {
            match call.frame().await? {
                (Answer::ManifestFrame(_), frame) => {
                    if sender.send(Ok(frame)).await.is_err() {
                        return Ok(());
                    }
                }
                (Answer::Done, _) => return Ok(()),
                (answer, _) => return Err(unexpected(&answer)),
            }
        }
    })
    .await
}

async fn read_manifest_since(
    link: &Link,
    request: &Request,
    sender: &Sender<Result<SinceFrame, OriginError>>,
) -> Result<(), CallError> {
    on_connection(link, request, async |call| {
        loop {
            let frame = match call.frame().await? {
                (Answer::ManifestFrame(_), frame) => SinceFrame::Whole(frame),
                (Answer::DeltaFrame(_), frame) => SinceFrame::Delta(frame),
                (Answer::Done, _) => return Ok(()),
                (answer, _) => return Err(unexpected(&answer)),
            };
            if sender.send(Ok(frame)).await.is_err() {
                return Ok(());
            }
        }
    })
    .await
}

async fn take_anew(
    link: &Link,
    request: TakeAnewOf,
    sender: &Sender<Result<Anew, OriginError>>,
) -> Result<(), CallError> {
    let _turn = match request.class {
        Class::Demand => None,
        Class::ReadAhead | Class::Bulk => link.unhurried().acquire().await.ok(),
    };
    let mut expected = ExpectedAnew::new(request.wanted.clone());
    on_connection(link, &Request::TakeAnew(request), async |call| {
        loop {
            let item = match call.frame().await? {
                (Answer::Version(_), payload) => Anew::Is(version(&payload)?),
                (Answer::Reading(blocks), _) => Anew::Reading(blocks),
                (Answer::Run(header), payload) => Anew::Run(run(header, payload)?),
                (Answer::Kept(first, digests), _) => Anew::Kept { first, digests },
                (Answer::End(file), _) => expected.of(file, Anew::End)?,
                (Answer::Fault(file, fault), _) => expected.of(file, Anew::Fault(fault))?,
                (Answer::Done, _) => return expected.finish(),
                (answer, _) => return Err(unexpected(&answer)),
            };
            expected.take(&item)?;
            if sender.send(Ok(item)).await.is_err() {
                return Ok(());
            }
        }
    })
    .await
}

fn version(payload: &[u8]) -> Result<Version, CallError> {
    Version::decode(payload).map_err(|error| CallError::Invalid(error.to_string()))
}

/// Sends a request and handles its answer; an error is returned only after the link has noticed it too.
async fn on_connection(
    link: &Link,
    request: &Request,
    answer: impl AsyncFnOnce(&mut Call) -> Result<(), CallError>,
) -> Result<(), CallError> {
    let connection = link.connection().await?;
    let ended = match Call::send(&connection, request).await {
        Ok(mut call) => answer(&mut call).await,
        Err(error) => Err(error),
    };
    if ended.is_err() {
        link.notice_end_of(&connection).await;
    }
    ended
}

fn run(header: RunHeader, payload: Bytes) -> Result<Run, CallError> {
    let bytes = match header.encoding {
        Encoding::Raw => payload,
        Encoding::Zstd => compress::decompress(&payload, header.blocks_bytes())
            .map(Bytes::from)
            .ok_or_else(|| CallError::Invalid("a compressed run cannot be unpacked".into()))?,
    };
    Ok(Run { file: header.file, first: header.first, digests: header.digests, bytes })
}
