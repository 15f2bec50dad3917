//! SEEK_DATA and SEEK_HOLE in a file of which some is here.
//!
//! Of blocks that are missing the origin's hole map tells; of everything else the disk. So what the origin's user sees
//! is seen here, except that the zeros in a block of which a part is a hole become data once the block is here.

use std::fs::File;
use std::sync::Arc;

use rustix::fs::SeekFrom;
use rustix::io::Errno;

use super::ReadError;
use super::block_set::BlockSet;
use super::engine::Engine;
use super::inode::Inode;
use super::key::InodeKey;
use super::write::WriteError;
use crate::digest::BlockIndex;
use crate::filesystem::Seek;

/// A file at one moment.
struct Map<'i> {
    inode: &'i Inode,
    present: BlockSet,
    size: u64,
    file: Option<Arc<File>>,
}

impl Engine {
    /// See [`super::Replica::seek`].
    pub(super) async fn seek(
        self: &Arc<Self>,
        key: InodeKey,
        offset: u64,
        seek: Seek,
    ) -> Result<Option<u64>, WriteError> {
        let inode = self.inode(key).ok_or(ReadError::NoSuchFile)?;
        self.loaded(&inode).await?;
        let engine = self.clone();
        self.on_disk(move || {
            let file = engine.file(&inode)?;
            let present = inode.lock().present.clone();
            let map = Map { inode: &inode, present, size: inode.size(), file };
            Ok(map.find(offset, seek)?)
        })
        .await
    }
}

impl Map<'_> {
    fn find(&self, offset: u64, seek: Seek) -> Result<Option<u64>, Errno> {
        let mut at = offset;
        while at < self.size {
            // A stretch of which one source tells, and the first thing of the kind in it.
            let (found, end) = self.stretch(at, seek)?;
            if let Some(found) = found.filter(|found| *found < end) {
                return Ok(Some(found));
            }
            at = end;
        }
        Ok(match seek {
            Seek::Hole if offset < self.size => Some(self.size),
            Seek::Hole | Seek::Data => None,
        })
    }

    fn stretch(&self, at: u64, seek: Seek) -> Result<(Option<u64>, u64), Errno> {
        let first = BlockIndex::containing(at).0;
        let blocks = self.present.blocks();
        let next = self.inode.next_missing(&self.present, first..blocks);
        if next == Some(first) {
            let end = BlockIndex(first + 1).offset().min(self.inode.remote()).min(self.size);
            return Ok((self.of_origin(at, end, seek), end.max(at + 1)));
        }
        let end = next.map_or(self.size, |block| BlockIndex(block).offset().min(self.size));
        Ok((self.of_disk(at, seek)?, end))
    }

    /// What the origin's hole map has between `at` and `end`.
    fn of_origin(&self, at: u64, end: u64, seek: Seek) -> Option<u64> {
        let holes = self.inode.holes();
        let next = holes.get(holes.partition_point(|hole| hole.end <= at));
        let inside = next.filter(|hole| hole.start <= at);
        let found = match (seek, inside) {
            (Seek::Data, None) | (Seek::Hole, Some(_)) => Some(at),
            (Seek::Data, Some(hole)) => Some(hole.end),
            (Seek::Hole, None) => next.map(|hole| hole.start),
        };
        found.filter(|found| *found < end)
    }

    /// What the disk has at or after `at`.
    fn of_disk(&self, at: u64, seek: Seek) -> Result<Option<u64>, Errno> {
        let Some(file) = &self.file else {
            // Not there yet: what is not missing of it is a hole.
            return Ok(Some(at).filter(|_| matches!(seek, Seek::Hole)));
        };
        let from = match seek {
            Seek::Data => SeekFrom::Data(at),
            Seek::Hole => SeekFrom::Hole(at),
        };
        match rustix::fs::seek(&**file, from) {
            Ok(found) => Ok(Some(found)),
            Err(Errno::NXIO) => Ok(None),
            Err(errno) => Err(errno),
        }
    }
}
