//! What an origin delivers, put into frames.

use std::time::Duration;

use bytes::Bytes;
use tokio::sync::mpsc::Receiver;
use tokio::sync::mpsc::error::TryRecvError;
use tokio::time::timeout;
use twinshare_fs::manifest::EntryIndex;
use twinshare_fs::origin::{
    Anew, Anews, Deliveries, Delivery, Frames, FramesSince, OriginError, Run, STALL_MAX, SinceFrame, Version,
};

use super::request::Ending;
use crate::compress;
use crate::protocol::{Answer, Encoding, Refusal, RunHeader, Text};
use crate::wire::FrameWriter;

/// How long an origin may take for its next item: many times what a slow disk needs for 1 MiB. The peer that asked has
/// given up by then.
const ITEM_MAX: Duration = STALL_MAX;

/// Sends the frames of a manifest, as long as it may.
pub(super) async fn frames(
    writer: &mut FrameWriter,
    mut frames: Frames,
    may_go_on: impl Fn() -> Result<(), Refusal>,
) -> Result<(), Ending> {
    while let Some(frame) = next(writer, &mut frames).await? {
        may_go_on()?;
        writer.answer(&Answer::ManifestFrame(frame.len() as u32)).await?;
        writer.payload(frame).await?;
    }
    Ok(())
}

/// Sends the frames of a manifest for who has an earlier one, as long as it may.
pub(super) async fn frames_since(
    writer: &mut FrameWriter,
    mut frames: FramesSince,
    may_go_on: impl Fn() -> Result<(), Refusal>,
) -> Result<(), Ending> {
    while let Some(frame) = next(writer, &mut frames).await? {
        may_go_on()?;
        let (answer, frame) = match frame {
            SinceFrame::Whole(frame) => (Answer::ManifestFrame(frame.len() as u32), frame),
            SinceFrame::Delta(frame) => (Answer::DeltaFrame(frame.len() as u32), frame),
        };
        writer.answer(&answer).await?;
        writer.payload(frame).await?;
    }
    Ok(())
}

/// Sends what was read of `asked` files or ranges, as long as it may.
pub(super) async fn deliveries(
    writer: &mut FrameWriter,
    mut deliveries: Deliveries,
    asked: usize,
    compress: bool,
    may_go_on: impl Fn() -> Result<(), Refusal>,
) -> Result<(), Ending> {
    let mut concluded = 0;
    while let Some(delivery) = next(writer, &mut deliveries).await? {
        may_go_on()?;
        match delivery {
            Delivery::Run(run) => send_run(writer, run, compress).await?,
            Delivery::End(file) => {
                concluded += 1;
                writer.answer(&Answer::End(file)).await?;
            }
            Delivery::Fault(file, fault) => {
                concluded += 1;
                writer.answer(&Answer::Fault(file, fault)).await?;
            }
        }
    }
    if concluded < asked { Err(broke_off()) } else { Ok(()) }
}

/// Sends what has become of a file, as long as it may.
pub(super) async fn anews(
    writer: &mut FrameWriter,
    mut anews: Anews,
    file: EntryIndex,
    compress: bool,
    may_go_on: impl Fn() -> Result<(), Refusal>,
) -> Result<(), Ending> {
    let mut is_done = false;
    while let Some(item) = next(writer, &mut anews).await? {
        may_go_on()?;
        is_done = match &item {
            Anew::Is(version) => !matches!(version, Version::File(_)),
            Anew::End | Anew::Fault(_) => true,
            Anew::Run(_) | Anew::Kept { .. } | Anew::Reading(_) => false,
        };
        match item {
            Anew::Is(version) => {
                let payload = version.encode().map_err(|error| refused(&error.to_string()))?;
                writer.answer(&Answer::Version(payload.len() as u32)).await?;
                writer.payload(payload.into()).await?;
            }
            Anew::Reading(blocks) => writer.answer(&Answer::Reading(blocks)).await?,
            Anew::Run(run) => send_run(writer, run, compress).await?,
            Anew::Kept { first, digests } => writer.answer(&Answer::Kept(first, digests)).await?,
            Anew::End => writer.answer(&Answer::End(file)).await?,
            Anew::Fault(fault) => writer.answer(&Answer::Fault(file, fault)).await?,
        }
    }
    if is_done { Ok(()) } else { Err(broke_off()) }
}

/// The next item. What was gathered is written before waiting for it, so that nobody waits for what is already here.
async fn next<T>(
    writer: &mut FrameWriter,
    items: &mut Receiver<Result<T, OriginError>>,
) -> Result<Option<T>, Ending> {
    let item = match items.try_recv() {
        Ok(item) => Some(item),
        Err(TryRecvError::Disconnected) => None,
        Err(TryRecvError::Empty) => {
            writer.flush().await?;
            timeout(ITEM_MAX, items.recv()).await.map_err(|_| stalled())?
        }
    };
    Ok(item.transpose().map_err(|error| refusal(&error))?)
}

async fn send_run(writer: &mut FrameWriter, run: Run, compress: bool) -> Result<(), Ending> {
    let (encoding, payload) = encode(run.bytes, compress && writer.outlet().is_slow()).await;
    let header = RunHeader {
        file: run.file,
        first: run.first,
        digests: run.digests,
        payload_bytes: payload.len() as u32,
        encoding,
    };
    writer.answer(&Answer::Run(header)).await?;
    Ok(writer.payload(payload).await?)
}

async fn encode(bytes: Bytes, compress: bool) -> (Encoding, Bytes) {
    if !compress || !compress::may_gain(&bytes) {
        return (Encoding::Raw, bytes);
    }
    // Up to 3 ms of work, which would delay every other stream of this thread.
    let task = tokio::task::spawn_blocking({
        let bytes = bytes.clone();
        move || compress::compress(&bytes)
    });
    match task.await {
        Ok(Some(smaller)) => (Encoding::Zstd, smaller.into()),
        _ => (Encoding::Raw, bytes),
    }
}

fn refusal(error: &OriginError) -> Refusal {
    match error {
        OriginError::Refused(_) => Refusal::NotGranted,
        OriginError::SnapshotGone => Refusal::SnapshotGone,
        // What this node reads from is out of reach; the node itself is not.
        OriginError::Gone(_) | OriginError::Busy(_) | OriginError::Invalid(_) => {
            Refusal::Internal(Text::new(&error.to_string()))
        }
    }
}

fn stalled() -> Ending {
    refused("reading took too long")
}

fn broke_off() -> Ending {
    refused("reading broke off")
}

fn refused(why: &str) -> Ending {
    Refusal::Internal(Text::new(why)).into()
}
