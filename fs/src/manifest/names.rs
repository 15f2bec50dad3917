//! Two manifests of one workspace, name by name.
//!
//! Directories under the same path are compared; what lies below one that only one of the two has is not looked at.

use std::cmp::Ordering;
use std::collections::VecDeque;

use super::{Entry, EntryIndex, Kind, Listing, Manifest};

/// A name in a directory that both manifests have.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Name<'m> {
    /// The earlier manifest alone has it.
    Gone(Entry<'m>),
    /// The later one alone has it.
    Came(Entry<'m>),
    /// Both have it: the earlier one's entry, then the later one's.
    Stayed(Entry<'m>, Entry<'m>),
}

/// Tells `of` about every name in every directory that both manifests have under the same path, with the directory's
/// place in the later one; then, with `None`, that it has no more names. Directories come in the later manifest's
/// order, their names ascending.
///
/// Both manifests are complete and have the same roots. Costs a look at each entry of both: some 0.2 s for a million.
pub(crate) fn compare<'m>(
    old: &'m Manifest,
    new: &'m Manifest,
    mut of: impl FnMut(EntryIndex, Option<Name<'m>>),
) {
    let mut pairs: VecDeque<_> = old.roots().zip(new.roots()).collect();
    while let Some((before, after)) = pairs.pop_front() {
        let (mut gone, mut came) = (children(old, before), children(new, after));
        let (mut left, mut right) = (gone.next(), came.next());
        loop {
            let order = match (&left, &right) {
                (None, None) => break,
                (Some(_), None) => Ordering::Less,
                (None, Some(_)) => Ordering::Greater,
                (Some(left), Some(right)) => left.name().cmp(right.name()),
            };
            let taken_left = order.is_le().then(|| left.take()).flatten();
            let taken_right = order.is_ge().then(|| right.take()).flatten();
            let name = match (taken_left, taken_right) {
                (Some(left), Some(right)) => {
                    if left.kind() == Kind::Directory && right.kind() == Kind::Directory {
                        pairs.push_back((left.index(), right.index()));
                    }
                    Name::Stayed(left, right)
                }
                (Some(left), None) => Name::Gone(left),
                (None, Some(right)) => Name::Came(right),
                (None, None) => break,
            };
            if order.is_le() {
                left = gone.next();
            }
            if order.is_ge() {
                right = came.next();
            }
            of(after, Some(name));
        }
        of(after, None);
    }
}

fn children(manifest: &Manifest, directory: EntryIndex) -> impl Iterator<Item = Entry<'_>> {
    let children = match manifest.children(directory) {
        Listing::Known(children) => children,
        Listing::NotYet => 0..0,
    };
    children.map_while(|index| manifest.entry(EntryIndex(index)))
}
