//! SEEK_DATA and SEEK_HOLE from the origin's hole map (`lseek(2)`).

use std::ops::Range;

use super::{File, NodeId, TreeView, ViewError};

/// What to look for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seek {
    /// The next byte of data.
    Data,
    /// The next byte of a hole; the end of the file counts as one.
    Hole,
}

impl TreeView {
    /// The first offset at or after `offset` at which there is what is looked for.
    pub fn seek(&self, node: NodeId, offset: u64, seek: Seek) -> Result<u64, ViewError> {
        let File { entry, shown, .. } = self.file(node)?;
        find(shown.holes(), shown.size(&entry), offset, seek).ok_or(ViewError::BeyondEnd)
    }
}

fn find(holes: &[Range<u64>], size: u64, offset: u64, seek: Seek) -> Option<u64> {
    if offset >= size {
        return None;
    }
    let next = holes.partition_point(|hole| hole.end <= offset);
    let inside = holes.get(next).filter(|hole| hole.start <= offset);
    match (seek, inside) {
        (Seek::Data, None) | (Seek::Hole, Some(_)) => Some(offset),
        // Adjacent holes do not occur: the manifest refuses them.
        (Seek::Data, Some(hole)) => Some(hole.end).filter(|end| *end < size),
        (Seek::Hole, None) => Some(holes.get(next).map_or(size, |hole| hole.start)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(offset: u64, data: Option<u64>, hole: Option<u64>) {
        let holes = [10..20, 30..40, 90..100];
        assert_eq!(find(&holes, 100, offset, Seek::Data), data, "data from {offset}");
        assert_eq!(find(&holes, 100, offset, Seek::Hole), hole, "hole from {offset}");
    }

    #[test]
    fn data_and_holes_take_turns() {
        check(0, Some(0), Some(10));
        check(9, Some(9), Some(10));
        check(10, Some(20), Some(10));
        check(19, Some(20), Some(19));
        check(20, Some(20), Some(30));
        check(50, Some(50), Some(90));
        check(95, None, Some(95));
        check(100, None, None);
        check(u64::MAX, None, None);
        assert_eq!(find(&[], 5, 4, Seek::Hole), Some(5));
        assert_eq!(find(&[], 0, 0, Seek::Data), None);
    }
}
