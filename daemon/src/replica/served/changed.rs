//! What a process tells of files that changed at the peer before they were here, and what it is told to do with them.

use twinshare_fs::replica::anew::{Became, Decision, ResolveError};
use twinshare_fs::replica::status::{ChangedFile, ChangedFiles, ChangedList};

use super::{Failure, Served, blocking};
use crate::api::wire::{Keep, ReplicaChanged, ReplicaChangedFile, ReplicaChangedFiles, UnixTime};

/// Files of a list that a report names at most.
const SHOWN: usize = 20;

/// Bytes of their paths, in all lists: they are the peer's, and go into every report.
const BYTES_MAX: usize = 2048;

impl Served {
    /// Decides what becomes of the file at `path` below the workspace, or only tells how many bytes of it never came; `None`
    /// where there is no such file.
    pub(in super::super) async fn resolve(
        &self,
        path: String,
        keep: Option<Keep>,
    ) -> Result<Option<u64>, Failure> {
        let replica = self.replica.clone();
        let decision = keep.map(|keep| match keep {
            Keep::Mine => Decision::Mine,
            Keep::Theirs => Decision::Theirs,
        });
        blocking(move || match replica.resolve(path.as_bytes(), decision) {
            Ok(missing) => Ok(Some(missing)),
            Err(ResolveError::NoSuchFile) => Ok(None),
            Err(error @ (ResolveError::NothingToDecide | ResolveError::OtherNames)) => {
                Err(Failure::NothingToDecide(error.to_string()))
            }
            Err(error @ ResolveError::Disk(_)) => Err(Failure::Other(format!("{path}: {error}"))),
        })
        .await
    }
}

/// In the words of the API; nothing where nothing changed.
pub(super) fn changed(files: &ChangedFiles) -> Option<ReplicaChanged> {
    let mut bytes = 0;
    // What somebody must do something about comes first.
    let ChangedFiles { conflicts, unsettled, waiting, removed, kept, taken_anew } = files;
    let [conflicts, unsettled, waiting, removed, kept, taken_anew] =
        [conflicts, unsettled, waiting, removed, kept, taken_anew].map(|list| told(list, &mut bytes));
    let changed = ReplicaChanged { waiting, taken_anew, removed, conflicts, unsettled, kept };
    (changed != ReplicaChanged::default()).then_some(changed)
}

fn told(list: &ChangedList, bytes: &mut usize) -> ReplicaChangedFiles {
    let fits = |file: &&ChangedFile| {
        *bytes += file.path.len();
        *bytes <= BYTES_MAX
    };
    let file = |file: &ChangedFile| ReplicaChangedFile {
        path: file.path.clone(),
        reason: file.became.and_then(reason).map(str::to_owned),
        at: file.at_ms.map(|ms| UnixTime((ms / 1000).cast_signed())),
    };
    ReplicaChangedFiles {
        total: list.total,
        first: list.listed.iter().take(SHOWN).take_while(fits).map(file).collect(),
    }
}

fn reason(became: Became) -> Option<&'static str> {
    match became {
        Became::KeepsChanging => Some("it keeps changing"),
        Became::AnotherKind => Some("a directory or a special file is in its place"),
        Became::Unreadable => Some("the peer cannot read it"),
        Became::Decided => Some("somebody decided for the peer's version"),
        Became::TakenAnew | Became::Removed | Became::Conflict | Became::Kept => None,
    }
}
