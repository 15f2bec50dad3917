//! The mark of a clone that became an ordinary directory, and the last step there.
//!
//! The mark is written, durably, before the first step that cannot be taken back, and says so until the last one is
//! done. So whoever finds it knows whether there is something to conclude, to mount, or to leave alone.

use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use twinshare_fs::replica::{Receipt, SettleError, settle};

use super::control::Failure;
use super::relocated::{Edited, relocate};
use super::spec::{self, Spec};
use crate::api::wire::{ReplicaChanged, UnixTime};
use crate::chain::chain;
use crate::home::Home;

/// Name of the file in the replica's state directory.
const FILE: &str = "settled.json";

/// Name of the directory beside it with what is kept of the clone: its manifest, its digests and its companions.
const KEPT: &str = "kept";

/// Name of the file beside it that tells what became of files that changed at the peer.
const CHANGED_FILE: &str = "changed.json";

/// Keeps, durably, what became of files that changed at the peer.
pub(super) fn save_changed(directory: &Path, changed: &ReplicaChanged) -> io::Result<()> {
    spec::write(directory, CHANGED_FILE, changed)
}

/// What became of them; nothing where none did.
pub(super) fn load_changed(directory: &Path) -> io::Result<Option<ReplicaChanged>> {
    match spec::read(&directory.join(CHANGED_FILE)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        read => read.map(Some),
    }
}

/// A clone on its way to an ordinary directory, or there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Settled {
    /// It is there: nothing of ours is left in its directory.
    pub(super) concluded: bool,
    /// What it holds of its origin.
    pub(super) receipt: Receipt,
    /// What was edited in it; nothing where nobody wanted that.
    #[serde(default)]
    pub(super) edited: Option<Edited>,
    /// When it was marked.
    pub(super) at: UnixTime,
}

impl Settled {
    /// Of a clone that is to be concluded.
    pub(super) fn begun(receipt: Receipt) -> Self {
        Self { concluded: false, receipt, edited: None, at: UnixTime::now() }
    }

    /// The mark in a replica's state directory, if there is one.
    pub(super) fn load(directory: &Path) -> io::Result<Option<Self>> {
        match spec::read(&directory.join(FILE)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            read => read.map(Some),
        }
    }

    /// Writes it there, atomically and durably.
    pub(super) fn save(&self, directory: &Path) -> io::Result<()> {
        spec::write(directory, FILE, self)
    }
}

/// Of a clone that has settled, its mark; of any other, nothing.
pub(super) fn of(home: &Home, id: &str) -> Option<Settled> {
    let mark = Settled::load(&home.replica(id)).unwrap_or_else(|error| {
        tracing::warn!(replica = id, %error, "whether it has settled cannot be told");
        None
    });
    mark.filter(|mark| mark.concluded)
}

/// True for a clone that was interrupted on its last steps.
pub(super) fn is_pending(home: &Home, id: &str) -> bool {
    matches!(Settled::load(&home.replica(id)), Ok(Some(mark)) if !mark.concluded)
}

/// Takes the last step of a clone that is marked and not mounted any more; true when it has settled, now or before.
/// False for one whose tree has not begun to move: it is mounted as if it had never been marked. Blocks.
pub(super) fn conclude(home: &Home, spec: &Spec) -> Result<bool, Failure> {
    let state = home.replica(&spec.id);
    let unkept = |error: io::Error| Failure::Other(format!("its mark cannot be kept: {error}"));
    let Some(mark) = Settled::load(&state).map_err(unkept)? else { return Ok(false) };
    let Some(name) = spec.replica_directory.as_deref().filter(|_| !mark.concluded) else {
        return Ok(mark.concluded);
    };
    let kept = state.join(KEPT);
    match settle::conclude(&spec.mount_point, name, &kept) {
        Ok(()) => {}
        Err(SettleError::Unfinished { .. }) => {
            std::fs::remove_file(state.join(FILE)).map_err(unkept)?;
            return Ok(false);
        }
        Err(error) => return Err(Failure::Other(format!("it cannot be settled: {}", chain(&error)))),
    }
    // Before the mark: whoever reads that finds the companions.
    let mut roots = spec::load_roots(&state).map_err(unkept)?;
    for (number, root) in roots.iter_mut().enumerate().skip(1) {
        root.local = companion(&kept, number).to_string_lossy().into_owned();
    }
    spec::save_roots(&state, &roots).map_err(unkept)?;
    let unlisted = |error| Failure::Other(format!("what is edited in it cannot be written down: {error}"));
    let edited =
        (!spec.keep_paths).then(|| relocate(&state, &spec.id, &roots)).transpose().map_err(unlisted)?;
    Settled { concluded: true, edited, ..mark }.save(&state).map_err(unkept)?;
    tracing::info!(replica = spec.id, directory = %spec.mount_point.display(), "it has settled: an ordinary directory");
    Ok(true)
}

fn companion(kept: &Path, number: usize) -> PathBuf {
    kept.join(number.to_string())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::api::wire::{ReplicaKind, ReplicaRoot};
    use crate::replica::testing::spec;

    fn bench(name: &str) -> (tempfile::TempDir, Home, Spec) {
        let directory = tempfile::tempdir().unwrap();
        let home = Home::isolated(&directory.path().canonicalize().unwrap().join("home"));
        home.prepare().unwrap();
        let mount_point = directory.path().join("clone");
        fs::create_dir_all(mount_point.join(name).join("tree")).unwrap();
        fs::create_dir(home.replica("a")).unwrap();
        let spec =
            Spec { kind: ReplicaKind::Clone, mount_point, replica_directory: Some(name.into()), ..spec("a") };
        (directory, home, spec)
    }

    #[test]
    fn a_mark_without_a_moved_tree_is_taken_back() {
        let (_directory, home, spec) = bench(".twinshare-0a0a");
        assert_eq!(conclude(&home, &spec), Ok(false));
        Settled::begun(Receipt::default()).save(&home.replica("a")).unwrap();
        assert!(is_pending(&home, "a") && of(&home, "a").is_none());
        assert_eq!(conclude(&home, &spec), Ok(false));
        assert!(!is_pending(&home, "a"));
        assert!(spec.mount_point.join(".twinshare-0a0a/tree").exists());
    }

    #[test]
    fn what_has_settled_is_left_alone() {
        let (_directory, home, spec) = bench(".twinshare-0a0a");
        let roots = [("/w", "/c"), ("/py", "/kept/1")]
            .map(|(origin, local)| ReplicaRoot { origin: origin.into(), local: local.into() });
        spec::save_roots(&home.replica("a"), &roots).unwrap();
        let mark = Settled { concluded: true, ..Settled::begun(Receipt { files: 3, ..Receipt::default() }) };
        mark.save(&home.replica("a")).unwrap();
        assert_eq!(conclude(&home, &spec), Ok(true));
        assert_eq!(of(&home, "a"), Some(mark));
        assert_eq!(spec::load_roots(&home.replica("a")).unwrap(), roots);
    }
}
