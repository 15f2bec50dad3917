//! The entries of a directory, one after the other.

use std::ops::Range;

use super::{Attributes, NodeId, TreeView, ViewError};
use crate::manifest::{Entry, EntryIndex};

/// Positions before the first child: `.` and `..`.
pub(super) const DOTS: u64 = 2;

/// One entry of a directory.
#[derive(Clone, Debug)]
pub struct Listed<'m> {
    /// Its name.
    pub name: &'m [u8],
    /// What `stat` shows of it.
    pub attributes: Attributes,
    /// The position after it, from which a listing goes on.
    pub next: u64,
}

/// The rest of a directory's entries. Positions are stable: a listing never changes.
#[derive(Debug)]
pub struct List<'m> {
    view: &'m TreeView,
    directory: Entry<'m>,
    children: Range<u32>,
    position: u64,
}

impl<'m> List<'m> {
    pub(super) fn new(view: &'m TreeView, directory: Entry<'m>, children: Range<u32>, position: u64) -> Self {
        Self { view, directory, children, position }
    }

    fn parent(&self) -> NodeId {
        let index = self.directory.index();
        self.view.node(if index == self.view.root { index } else { self.directory.parent() })
    }

    fn child(&self, number: u64) -> Option<Result<(&'m [u8], Attributes), ViewError>> {
        let index =
            u64::from(self.children.start).checked_add(number).filter(|i| *i < self.children.end.into())?;
        let entry = self.view.manifest().entry(EntryIndex(u32::try_from(index).ok()?));
        let entry = entry.ok_or_else(|| self.view.failure());
        Some(entry.and_then(|entry| {
            let attributes = self.view.attributes_of(&self.view.shared(entry)?)?;
            Ok((entry.name(), attributes))
        }))
    }
}

impl<'m> Iterator for List<'m> {
    type Item = Result<Listed<'m>, ViewError>;

    fn next(&mut self) -> Option<Self::Item> {
        let dot =
            |name: &'static [u8], attributes: Result<_, _>| attributes.map(|attributes| (name, attributes));
        let found = match self.position {
            0 => dot(b".", self.view.attributes_of(&self.directory)),
            1 => dot(b"..", self.view.attributes(self.parent())),
            position => self.child(position - DOTS)?,
        };
        self.position += 1;
        let next = self.position;
        Some(found.map(|(name, attributes)| Listed { name, attributes, next }))
    }
}
