//! A manifest for somebody who has an earlier one.

use std::path::{Path, PathBuf};

use bytes::Bytes;
use tokio::sync::mpsc;

use super::files::Files;
use super::{Frames, OriginError};
use crate::manifest::delta::{self, DeltaFrames};
use crate::manifest::{Manifest, ManifestError, SnapshotId, frame};

/// A frame of a manifest, one way or the other; all of one answer are of one kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SinceFrame {
    /// A frame of the [whole](crate::manifest::frame) manifest: the origin knows nothing of the earlier one any more.
    Whole(Bytes),
    /// A frame of what became of the [earlier](crate::manifest::delta) one.
    Delta(Bytes),
}

/// The frames in order. Dropping it cancels the request.
pub type FramesSince = mpsc::Receiver<Result<SinceFrame, OriginError>>;

/// The frames of a snapshot's manifest, encoded one at a time.
pub(super) type Encoded = Box<dyn Iterator<Item = Result<SinceFrame, ManifestError>> + Send>;

/// The manifest as what became of the snapshot `base`, where that lies beside it; otherwise all of it.
pub(super) fn since(files: &Files, base: SnapshotId) -> Encoded {
    match files.carried_from(&place_of(files, base), base) {
        Ok(carried) => {
            let frames = DeltaFrames::new(base, &files.manifest, carried);
            Box::new(frames.map(|frame| Ok(SinceFrame::Delta(delta::encode(&frame)?.into()))))
        }
        Err(error) => {
            tracing::debug!(%base, %error, "a manifest is sent whole");
            whole(&files.manifest)
        }
    }
}

/// All of the manifest.
fn whole(manifest: &Manifest) -> Encoded {
    let frames = frame::Frames::new(manifest);
    Box::new(frames.map(|frame| Ok(SinceFrame::Whole(frame::encode(&frame)?.into()))))
}

/// Where the snapshot `base` lies, of which `files` is a later one: beside it, under its own id.
fn place_of(files: &Files, base: SnapshotId) -> PathBuf {
    let directory = files.manifest.path().parent().unwrap_or(Path::new("/"));
    directory.with_file_name(base.to_string())
}

/// Passes on what was asked for as a whole.
pub(super) fn all_of(mut frames: Frames) -> FramesSince {
    let (sender, since) = mpsc::channel(1);
    tokio::spawn(async move {
        while let Some(frame) = frames.recv().await {
            if sender.send(frame.map(SinceFrame::Whole)).await.is_err() {
                return;
            }
        }
    });
    since
}
