//! Listings of directories: each handle has its own, as it was when it was begun.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use fuser::{FileHandle, Request};

use super::CloneAdapter;
use crate::filesystem::{CloneTree, NodeId, Reading, ViewError};
use crate::fuse::interrupt::Caller;
use crate::fuse::reply::{DirectoryReply, TTL};

/// A reply with entries, and how it ended.
type Filled<R> = (R, Result<(), ViewError>);

/// Listings that are being read, by their handles.
#[derive(Clone, Debug, Default)]
pub(super) struct Listings {
    open: Arc<Mutex<HashMap<u64, Option<Arc<Reading>>>>>,
    next: Arc<AtomicU64>,
}

impl Listings {
    pub(super) fn open(&self) -> FileHandle {
        let handle = self.next.fetch_add(1, Relaxed);
        self.locked().insert(handle, None);
        FileHandle(handle)
    }

    pub(super) fn close(&self, handle: FileHandle) {
        let closed = self.locked().remove(&handle.0);
        drop(closed);
    }

    /// The listing as it was when it was begun; from position 0 on it begins anew.
    fn reading(
        &self,
        tree: &CloneTree,
        directory: NodeId,
        handle: FileHandle,
        position: u64,
    ) -> Result<Arc<Reading>, ViewError> {
        let begun = self.locked().get(&handle.0).cloned().flatten();
        match begun.filter(|_| position > 0) {
            Some(begun) => Ok(begun),
            None => {
                let reading = Arc::new(tree.list(directory)?);
                self.locked().insert(handle.0, Some(reading.clone()));
                Ok(reading)
            }
        }
    }

    fn locked(&self) -> MutexGuard<'_, HashMap<u64, Option<Arc<Reading>>>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl CloneAdapter {
    pub(super) fn list<R: DirectoryReply>(
        &self,
        request: &Request,
        directory: NodeId,
        handle: FileHandle,
        position: u64,
        reply: R,
    ) {
        let listings = self.listings.clone();
        let reply = Mutex::new(Some(reply));
        let caller = Caller::new(request.pid());
        let work = move |tree: &CloneTree| {
            let reading = listings.reading(tree, directory, handle, position)?;
            let mut slot = reply.lock().unwrap_or_else(PoisonError::into_inner);
            let Some(mut reply) = slot.take() else { return Ok(None) };
            let mut taken = 0;
            let filled = tree.entries(&reading, position, R::TELLS, |listed| {
                let fits = !reply.add(&listed, TTL);
                taken += u32::from(fits);
                fits
            });
            match filled {
                Err(ViewError::NotYet) if taken == 0 => {
                    *slot = Some(reply);
                    Err(ViewError::NotYet)
                }
                // The kernel has been told of these, and asks again from there.
                Err(_) if taken > 0 => Ok(Some((reply, Ok(())))),
                filled => Ok(Some((reply, filled))),
            }
        };
        // A reply that was not taken answers EIO when it is dropped.
        let answer = |(), done: Result<Option<Filled<R>>, ViewError>| {
            if let Ok(Some((reply, filled))) = done {
                reply.send(filled);
            }
        };
        self.waits.answer_from_disk(caller, self.tree.clone(), (), work, answer);
    }
}
