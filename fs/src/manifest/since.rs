//! Getting a manifest from an origin by somebody who has an earlier one.

use std::path::Path;

use super::delta::DeltaReceiver;
use super::fetch::{blocking, next};
use super::{Carried, FetchError, Manifest, ManifestError, Receiver, SnapshotId};
use crate::origin::{Origin, SinceFrame};

/// The manifest of the origin's snapshot, durably in the file at `path`, and what it carries of the complete manifest
/// `base`, an earlier one of the same workspace. Nothing is carried where the origin knows nothing of the base any
/// more: then all of it has been sent.
///
/// Unlike [`fetch`](fn@super::fetch) this waits until the manifest is complete; one that breaks off leaves nothing
/// behind, and is asked for again by whoever wants it. A replica that waits with the new version until it has all of
/// it shows no half of it. Must be called within a Tokio runtime. Safe to drop.
pub async fn fetch_since(
    origin: &dyn Origin,
    base: &Manifest,
    path: &Path,
) -> Result<(Manifest, Carried), FetchError> {
    let snapshot = origin.snapshot();
    let mut frames = origin.read_manifest_since(base.snapshot());
    let first = next(&mut frames).await?;
    let (base, path) = (base.clone(), path.to_owned());
    let mut taking = blocking(move || Taking::begin(&first, base, snapshot, &path)).await?;
    loop {
        let frame = next(&mut frames).await?;
        let (back, complete) = blocking(move || {
            let complete = taking.accept(&frame)?;
            Ok((taking, complete))
        })
        .await?;
        taking = back;
        if complete {
            return Ok(taking.finish());
        }
    }
}

/// A manifest that is being received, one way or the other.
enum Taking {
    Whole(Box<Receiver>),
    Delta(Box<DeltaReceiver>),
}

impl Taking {
    fn begin(
        first: &SinceFrame,
        base: Manifest,
        snapshot: SnapshotId,
        path: &Path,
    ) -> Result<Self, ManifestError> {
        Ok(match first {
            SinceFrame::Whole(frame) => Self::Whole(Box::new(Receiver::new(path, snapshot, frame)?)),
            SinceFrame::Delta(frame) => {
                Self::Delta(Box::new(DeltaReceiver::new(path, base, snapshot, frame)?))
            }
        })
    }

    fn accept(&mut self, frame: &SinceFrame) -> Result<bool, ManifestError> {
        match (self, frame) {
            (Self::Whole(receiver), SinceFrame::Whole(frame)) => receiver.accept(frame),
            (Self::Delta(receiver), SinceFrame::Delta(frame)) => receiver.accept(frame),
            _ => Err(ManifestError::Invalid("it changes to another kind of frames")),
        }
    }

    fn finish(self) -> (Manifest, Carried) {
        match self {
            Self::Whole(receiver) => (receiver.manifest(), Carried::default()),
            Self::Delta(receiver) => receiver.finish(),
        }
    }
}

#[cfg(test)]
mod tests;
