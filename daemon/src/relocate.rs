//! Makes a clone's environments work where the clone lies, by edits of single files, each of which is listed.
//!
//! A virtual environment names absolute paths: its own in the first lines of scripts and in what activates it, its
//! interpreter's in a link and in `pyvenv.cfg`. In a settled clone those are paths of the origin, which are there only in
//! `twinshare run`. Where a file is known to name such paths ([`EditKind`]), and leads into a tree of the clone, the
//! tree's path is replaced by where it lies here. Nothing else is touched: no file of another kind, nothing through a
//! symbolic link, no path that leads elsewhere.
//!
//! First [all edits are planned](Relocation::plan), with the SHA-256 of each file before and after; who keeps them writes
//! that down, and [goes on](Relocation::advance) until all is done, after an interruption with what was written down. A
//! file that is neither the one nor the other is somebody else's by then, and stays. Lists of digests (`RECORD`,
//! `conda-meta/*.json`) come second: they follow from the edits that were carried out.
//!
//! What is not replaced: compiled Python (it names its origin in tracebacks and works anywhere), an interpreter's build
//! configuration, binaries other than conda's, and whatever no table here knows.

mod apply;
mod conda;
mod edit;
mod find;
mod moves;
mod plan;
mod python;
mod record;
mod scripts;
mod tree;

use std::io;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::api::wire::{EditKind, ReplicaEdit, ReplicaNotEdited, ReplicaRelocation};
use crate::workspace::Root;
use edit::{Edit, Target};
use moves::Moves;
use tree::Tree;

/// Edits at most; a large conda environment takes some thousand.
const EDITS_MAX: usize = 10_000;

/// Files that are listed as left at most; more are counted.
const LEFT_MAX: usize = 1_000;

/// Edits that are planned, under way or done.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Relocation {
    stage: Stage,
    edits: Vec<Edit>,
    /// Lists of digests that may have to follow.
    lists: Vec<Target>,
    left: Vec<Left>,
    /// How many were left beyond those.
    left_more: u64,
}

/// What is to be done next.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Stage {
    /// All but the lists of digests.
    #[default]
    Files,
    Lists,
    Done,
}

/// Something that names a path of the origin and stays as it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Left {
    root: usize,
    path: String,
    reason: String,
}

impl Relocation {
    /// Looks at the trees, the workspace's first, and changes nothing. Blocks on the disk.
    pub(crate) fn plan(roots: &[Root]) -> Self {
        let (moves, hidden) = moves(roots);
        let mut planned = match moves.is_empty() {
            true => Self::default(),
            false => plan::plan(roots, &moves),
        };
        for root in hidden {
            let reason = "a run would not see it here: another tree of the workspace lies around it there";
            planned.add_left(Left { root, path: String::new(), reason: reason.into() });
        }
        planned
    }

    /// Does what is next. To be written down before and after; may be repeated, and has to be when the disk fails. `mark`
    /// is a text of letters and digits that nobody else knows. Blocks on the disk.
    pub(crate) fn advance(&mut self, roots: &[Root], mark: &str) -> io::Result<()> {
        let trees: Vec<_> = roots.iter().map(|root| Tree::open(&root.here).ok()).collect();
        let (moves, _) = moves(roots);
        match self.stage {
            Stage::Files => {
                self.apply(&trees, &moves, mark, false)?;
                for list in std::mem::take(&mut self.lists) {
                    if let Some(Some(tree)) = trees.get(list.root) {
                        self.plan_list(tree, list, &moves);
                    }
                }
                self.stage = Stage::Lists;
            }
            Stage::Lists => {
                self.apply(&trees, &moves, mark, true)?;
                self.stage = Stage::Done;
            }
            Stage::Done => {}
        }
        Ok(())
    }

    /// True when there is nothing left to do.
    pub(crate) fn is_done(&self) -> bool {
        self.stage == Stage::Done
    }

    /// How many files and links were edited, and how many left although they name a path of the origin.
    pub(crate) fn counts(&self) -> (u64, u64) {
        (self.edits.len() as u64, self.left.len() as u64 + self.left_more)
    }

    /// All of it, as the API shows it.
    pub(crate) fn document(&self, roots: &[Root]) -> ReplicaRelocation {
        let edits = self.edits.iter().map(|edit| ReplicaEdit {
            path: shown(roots, edit.target.root, &edit.target.path),
            kind: edit.target.kind,
            replaced: edit.replaced.clone(),
        });
        let left_alone = self.left.iter().map(|left| ReplicaNotEdited {
            path: shown(roots, left.root, &left.path),
            reason: left.reason.clone(),
        });
        let (edited, left) = self.counts();
        ReplicaRelocation { edited, left, edits: edits.collect(), left_alone: left_alone.collect() }
    }

    fn apply(&mut self, trees: &[Option<Tree>], moves: &Moves, mark: &str, lists: bool) -> io::Result<()> {
        let failed = apply::apply(trees, &self.edits, moves, mark, |edit| edit.target.is_list() == lists);
        apply::write_back(trees)?;
        // The numbers of those that stay change; the next stage begins with all of this one done.
        for (number, reason) in failed.into_iter().rev() {
            let Target { root, path, .. } = self.edits.remove(number).target;
            self.add_left(Left { root, path, reason });
        }
        Ok(())
    }

    fn plan_list(&mut self, tree: &Tree, list: Target, moves: &Moves) {
        let Ok(content) = tree.read(&list.path, list.bytes_max()) else { return };
        if let Ok(Some(rewritten)) = list.rewritten(&content, moves, &self.edits) {
            self.edits.push(Edit::of_file(list, &content, &rewritten));
        }
    }

    fn add_left(&mut self, left: Left) {
        match self.left.len() < LEFT_MAX {
            true => self.left.push(left),
            false => self.left_more += 1,
        }
    }
}

/// What a file of this kind that holds `content` becomes in trees that lie elsewhere; nothing where it stays, and why where
/// it cannot hold what it should. A list of digests stays by itself: it follows from other files.
pub fn rewritten(kind: EditKind, content: &[u8], roots: &[Root]) -> Result<Option<Vec<u8>>, String> {
    /// What conda's packages are built with.
    const PLACEHOLDER_BYTES: u64 = 255;
    let target = Target { root: 0, path: String::new(), kind, placeholder_bytes: PLACEHOLDER_BYTES };
    let rewritten = target.rewritten(content, &Moves::of(roots), &[]);
    rewritten.map(|rewritten| rewritten.map(|text| text.bytes)).map_err(|unfit| unfit.to_string())
}

/// The moves of those trees whose new place a run sees too, and the numbers of the others.
///
/// In a run, each tree lies over what this machine has at its origin path: a place in there is not to be seen.
fn moves(roots: &[Root]) -> (Moves, Vec<usize>) {
    let is_elsewhere = |root: &Root| root.origin != root.here;
    let is_covered = |root: &Root| roots.iter().any(|other| root.here.starts_with(&other.origin));
    // A path that was no text is not known exactly.
    let is_known = |root: &Root| !root.origin.to_string_lossy().contains(char::REPLACEMENT_CHARACTER);
    let meant = |root: &&Root| is_known(root) && !is_covered(root);
    let hidden = roots.iter().enumerate().filter(|(_, root)| is_elsewhere(root) && is_covered(root));
    (Moves::of(roots.iter().filter(meant)), hidden.map(|(number, _)| number).collect())
}

fn shown(roots: &[Root], root: usize, path: &str) -> String {
    let top = roots.get(root).map_or(Path::new(""), |root| &root.here);
    let path = if path.is_empty() { top.to_owned() } else { top.join(path) };
    path.to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests;
