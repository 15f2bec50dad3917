//! What was edited in a settled clone, as it is written down beside its mark.

use std::io;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::spec;
use crate::api::wire::{ReplicaRelocation, ReplicaRoot};
use crate::relocate::Relocation;
use crate::workspace::Root;

/// Name of the file in the replica's state directory.
const FILE: &str = "relocation.json";

/// How much was edited, as it is kept in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Edited {
    pub(super) edited: u64,
    pub(super) left: u64,
}

/// Makes the environments of a clone that is not mounted any more work where it lies. Goes on where it was interrupted;
/// what cannot be edited is listed, and no error. Blocks on the disk.
pub(super) fn relocate(state: &Path, id: &str, roots: &[ReplicaRoot]) -> io::Result<Edited> {
    let roots = trees(roots);
    let mut relocation = match load(state)? {
        Some(relocation) => relocation,
        None => {
            let planned = Relocation::plan(&roots);
            spec::write(state, FILE, &planned)?;
            planned
        }
    };
    while !relocation.is_done() {
        relocation.advance(&roots, id)?;
        spec::write(state, FILE, &relocation)?;
    }
    let (edited, left) = relocation.counts();
    tracing::info!(replica = id, edited, left, "its environments work where it lies");
    Ok(Edited { edited, left })
}

/// All that was edited.
pub(super) fn document(state: &Path, roots: &[ReplicaRoot]) -> io::Result<Option<ReplicaRelocation>> {
    Ok(load(state)?.map(|relocation| relocation.document(&trees(roots))))
}

fn load(state: &Path) -> io::Result<Option<Relocation>> {
    match spec::read(&state.join(FILE)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        read => read.map(Some),
    }
}

fn trees(roots: &[ReplicaRoot]) -> Vec<Root> {
    let tree = |root: &ReplicaRoot| Root { origin: (&root.origin).into(), here: (&root.local).into() };
    roots.iter().map(tree).collect()
}
