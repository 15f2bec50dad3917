//! One edit: which file, what it was and what it becomes. What becomes of a file follows from what it holds, from the
//! moves, and for lists of digests from the edits before it; so an interrupted edit is done again and is the same.

use std::collections::HashMap;

use data_encoding::HEXLOWER;
use ring::digest::{SHA256, digest};
use serde::{Deserialize, Serialize};

use super::moves::{Move, Moves, Rewritten, Unfit};
use super::record::{self, Changed};
use super::{conda, python, scripts};
use crate::api::wire::{EditKind, ReplacedPath};

/// Bytes of a text that is edited at most: the largest known are some hundred KiB.
const TEXT_BYTES_MAX: u64 = 16 << 20;

/// Bytes of a binary that is edited at most, and of a list of digests.
pub(super) const BINARY_BYTES_MAX: u64 = 128 << 20;

/// One file or link that is edited.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Edit {
    pub(super) target: Target,
    pub(super) replaced: Vec<ReplacedPath>,
    /// SHA-256 of what the file held and of what it holds then; of a link, where it led and leads.
    pub(super) before: String,
    pub(super) after: String,
    /// Bytes it has then.
    pub(super) bytes: u64,
}

/// What is to be edited, and how.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Target {
    /// The number of its root.
    pub(super) root: usize,
    /// Its path below that.
    pub(super) path: String,
    pub(super) kind: EditKind,
    /// Of a binary, the bytes of the placeholder it was built with.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub(super) placeholder_bytes: u64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "as serde calls it")]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

impl Target {
    /// True for a list of other files' digests.
    pub(super) fn is_list(&self) -> bool {
        matches!(self.kind, EditKind::CondaDigests | EditKind::Record)
    }

    /// Bytes of it that are read at most.
    pub(super) fn bytes_max(&self) -> u64 {
        match self.kind {
            EditKind::CondaBinary | EditKind::CondaDigests | EditKind::Record => BINARY_BYTES_MAX,
            EditKind::Configuration
            | EditKind::Activation
            | EditKind::Script
            | EditKind::Paths
            | EditKind::Finder
            | EditKind::DirectUrl
            | EditKind::Kernel
            | EditKind::CondaText
            | EditKind::Link => TEXT_BYTES_MAX,
        }
    }

    /// What becomes of a file that holds `content`; nothing where it stays. Edits of other files are those `before` it.
    pub(super) fn rewritten(
        &self,
        content: &[u8],
        moves: &Moves,
        before: &[Edit],
    ) -> Result<Option<Rewritten>, Unfit> {
        let alone = |bytes| Rewritten { bytes, replaced: Vec::new() };
        match self.kind {
            EditKind::Configuration => python::configuration(content, moves),
            EditKind::Activation => python::activation(content, moves),
            EditKind::Script => scripts::script(content, moves),
            EditKind::Paths => python::paths(content, moves),
            EditKind::Finder | EditKind::Kernel => python::strings(content, moves),
            EditKind::DirectUrl => python::direct_url(content, moves),
            EditKind::CondaText => conda::text(content, moves),
            EditKind::CondaBinary => conda::binary(content, moves, self.placeholder_bytes),
            EditKind::CondaDigests => {
                let changed = self.others(before);
                let by_digest = changed.map(|edit| (edit.before.as_str(), edit.after.as_str()));
                Ok(conda::digests(content, &by_digest.collect::<HashMap<_, _>>()).map(alone))
            }
            EditKind::Record => {
                let mut changed: Vec<_> = self.others(before).filter_map(changed).collect();
                changed.sort_by(|a, b| a.path.cmp(b.path));
                let site_packages = self.path.rsplitn(3, '/').nth(2).unwrap_or_default();
                Ok(record::record(content, site_packages, &changed).map(alone))
            }
            EditKind::Link => Ok(None),
        }
    }

    /// The edits of other files in its root.
    fn others<'e>(&self, edits: &'e [Edit]) -> impl Iterator<Item = &'e Edit> {
        let (root, path) = (self.root, self.path.clone());
        edits.iter().filter(move |edit| {
            edit.target.root == root && edit.target.path != path && edit.target.kind != EditKind::Link
        })
    }
}

fn changed(edit: &Edit) -> Option<Changed<'_>> {
    let digest = |text: &str| HEXLOWER.decode(text.as_bytes()).ok()?.try_into().ok();
    Some(Changed {
        path: &edit.target.path,
        before: digest(&edit.before)?,
        after: digest(&edit.after)?,
        bytes: edit.bytes,
    })
}

impl Edit {
    /// The edit that makes `rewritten` of a file that holds `content`.
    pub(super) fn of_file(target: Target, content: &[u8], rewritten: &Rewritten) -> Self {
        Self {
            target,
            replaced: rewritten.replaced.iter().map(|(moved, times)| replaced(moved, *times)).collect(),
            before: sha256(content),
            after: sha256(&rewritten.bytes),
            bytes: rewritten.bytes.len() as u64,
        }
    }

    /// The edit that leads a link elsewhere; nothing for one that stays.
    pub(super) fn of_link(root: usize, path: String, target: String, moves: &Moves) -> Option<Self> {
        let (to, moved) = moves.path(target.as_bytes())?;
        let bytes = to.len() as u64;
        Some(Self {
            target: Target { root, path, kind: EditKind::Link, placeholder_bytes: 0 },
            replaced: vec![replaced(moved, 1)],
            before: target,
            after: String::from_utf8(to).ok()?,
            bytes,
        })
    }
}

fn replaced(moved: &Move, times: u32) -> ReplacedPath {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    ReplacedPath { from: text(&moved.from), to: text(&moved.to), times }
}

/// In hexadecimal digits.
pub(super) fn sha256(content: &[u8]) -> String {
    HEXLOWER.encode(digest(&SHA256, content).as_ref())
}
