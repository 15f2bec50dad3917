//! The kernel's requests, one method each: decode, call the [`ViewTree`], reply.
//!
//! A dispatch thread runs these and never waits: what is not answered from memory becomes a
//! [task of its own](super::waits).

use std::ffi::OsStr;
use std::future::Future;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use fuser::{
    Errno, FileHandle, Filesystem, FopenFlags, INodeNo, InitFlags, KernelConfig, LockOwner, OpenFlags,
    ReplyAttr, ReplyData, ReplyDirectory, ReplyDirectoryPlus, ReplyEmpty, ReplyEntry, ReplyLseek, ReplyOpen,
    ReplyStatfs, ReplyXattr, Request,
};
use tokio::runtime::Handle;

use super::errno::errno;
use super::interrupt::Caller;
use super::reply::{self, DirectoryReply, TTL, file_attr};
use super::waits::Waits;
use crate::filesystem::{ListedAt, NodeId, Now, Seek, ViewError, ViewTree};
use crate::name::NAME_BYTES_MAX;

/// Bytes of one request at most; the kernel grants no more by default (`fs.fuse.max_pages_limit`).
const REQUEST_BYTES_MAX: u32 = 1024 * 1024;
/// Read-ahead requests of one mount under way at most.
pub(super) const BACKGROUND_MAX: u16 = 64;
/// What is asked of the kernel where it offers it. Listings always come with attributes: most who list also stat.
const CAPABILITIES: [InitFlags; 4] = [
    InitFlags::FUSE_ASYNC_READ,
    InitFlags::FUSE_PARALLEL_DIROPS,
    InitFlags::FUSE_DO_READDIRPLUS,
    InitFlags::FUSE_CACHE_SYMLINKS,
];
/// Serves one mount.
#[derive(Debug)]
pub(super) struct Adapter {
    view: Arc<ViewTree>,
    waits: Waits,
}

impl Adapter {
    pub(super) fn new(view: ViewTree, runtime: Handle) -> Self {
        Self { view: Arc::new(view), waits: Waits::new(runtime) }
    }

    /// Answers when `work` is done, from a task of its own.
    fn later<R, T, W>(
        &self,
        request: &Request,
        reply: R,
        work: impl FnOnce(Arc<ViewTree>) -> W + Send + 'static,
        answer: impl FnOnce(R, Result<T, ViewError>) + Send + 'static,
    ) where
        R: Send + 'static,
        T: Send + 'static,
        W: Future<Output = Result<T, ViewError>> + Send + 'static,
    {
        let (caller, limit) = (Caller::new(request.pid()), self.view.replica().when_gone().limit());
        self.waits.answer_later(caller, limit, reply, work(self.view.clone()), answer);
    }

    fn list<R: DirectoryReply>(
        &self,
        request: &Request,
        directory: NodeId,
        handle: FileHandle,
        position: u64,
        reply: R,
    ) {
        guarded(|| match self.view.listing(handle.0, directory, position) {
            Ok(at) => self.list_at(request, at, directory, handle, position, reply),
            Err(error) => reply.send(Err(error)),
        });
    }

    fn list_at<R: DirectoryReply>(
        &self,
        request: &Request,
        at: ListedAt,
        directory: NodeId,
        handle: FileHandle,
        position: u64,
        mut reply: R,
    ) {
        match reply::fill(&at, directory, position, &mut reply) {
            Ok(Now::Ready(filled)) => self.filled(handle, filled, reply),
            Err(error) => reply.send(Err(error)),
            Ok(Now::Later) => {
                let listed = at.clone();
                let work = move |_| async move { listed.tree()?.listed(directory).await };
                self.later(request, reply, work, move |mut reply, listed| {
                    let filled = listed.and_then(|()| reply::fill(&at, directory, position, &mut reply));
                    reply.send(filled.and_then(|now| match now {
                        Now::Ready(_) => Ok(()),
                        // A listing that has arrived stays, unless the manifest fails.
                        Now::Later => Err(ViewError::Late),
                    }));
                });
            }
        }
    }

    fn filled<R: DirectoryReply>(&self, handle: FileHandle, filled: usize, reply: R) {
        if filled == 0 {
            self.view.listed_all(handle.0);
        }
        reply.send(Ok(()));
    }
}

impl Filesystem for Adapter {
    fn init(&mut self, _request: &Request, config: &mut KernelConfig) -> io::Result<()> {
        configure(config, &CAPABILITIES)
    }

    fn lookup(&self, request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let parent = NodeId(parent.0);
        guarded(|| match self.view.try_lookup(parent, name.as_bytes()) {
            Ok(Now::Ready(found)) => reply::entry(reply, Ok(found)),
            Err(error) => reply::entry(reply, Err(error)),
            Ok(Now::Later) => {
                let name = name.as_bytes().to_vec();
                let work = move |view: Arc<ViewTree>| async move { view.lookup(parent, &name).await };
                self.later(request, reply, work, reply::entry);
            }
        });
    }

    fn getattr(&self, _request: &Request, ino: INodeNo, _handle: Option<FileHandle>, reply: ReplyAttr) {
        guarded(|| match self.view.attributes(NodeId(ino.0)) {
            Ok(attributes) => reply.attr(&TTL, &file_attr(&attributes)),
            Err(error) => reply.error(errno(&error)),
        });
    }

    fn readlink(&self, _request: &Request, ino: INodeNo, reply: ReplyData) {
        guarded(|| reply::data(reply, self.view.read_link(NodeId(ino.0))));
    }

    fn open(&self, _request: &Request, ino: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        // Who serves a handle, this process or the kernel by itself, is decided here and nowhere else. A file
        // that changes becomes another one, so what the kernel has cached stays good, and there is nothing to flush.
        guarded(|| match self.view.open(NodeId(ino.0)) {
            Ok(handle) => {
                let flags = FopenFlags::FOPEN_KEEP_CACHE | FopenFlags::FOPEN_NOFLUSH;
                reply.opened(FileHandle(handle), flags);
            }
            Err(error) => reply.error(errno(&error)),
        });
    }

    fn read(
        &self,
        request: &Request,
        ino: INodeNo,
        handle: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let node = NodeId(ino.0);
        guarded(|| match self.view.try_read(handle.0, node, offset, size) {
            Ok(Now::Ready(bytes)) => reply::data(reply, Ok(bytes)),
            Err(error) => reply::data(reply, Err(error)),
            Ok(Now::Later) => {
                let work =
                    move |view: Arc<ViewTree>| async move { view.read(handle.0, node, offset, size).await };
                self.later(request, reply, work, reply::data);
            }
        });
    }

    fn release(
        &self,
        _request: &Request,
        _ino: INodeNo,
        handle: FileHandle,
        _flags: OpenFlags,
        _owner: Option<LockOwner>,
        _flush: bool,
        reply: ReplyEmpty,
    ) {
        guarded(|| {
            self.view.release(handle.0);
            reply.ok();
        });
    }

    fn fsync(&self, _request: &Request, _ino: INodeNo, _handle: FileHandle, _data: bool, reply: ReplyEmpty) {
        reply.ok();
    }

    fn opendir(&self, _request: &Request, _ino: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        if self.view.follows() {
            // A listing is of one edition, which its handle tells. The kernel keeps none: what it keeps it puts together of
            // what several handles were told, which may be of two editions.
            guarded(|| reply.opened(FileHandle(self.view.open_directory()), FopenFlags::empty()));
        } else {
            // From then on the kernel opens directories without asking, and keeps what it listed (Linux 5.1): nothing here
            // changes. It saves a walk two requests a directory.
            reply.error(Errno::ENOSYS);
        }
    }

    fn releasedir(
        &self,
        _request: &Request,
        _ino: INodeNo,
        handle: FileHandle,
        _flags: OpenFlags,
        reply: ReplyEmpty,
    ) {
        guarded(|| {
            self.view.release(handle.0);
            reply.ok();
        });
    }

    fn readdir(
        &self,
        request: &Request,
        ino: INodeNo,
        handle: FileHandle,
        offset: u64,
        reply: ReplyDirectory,
    ) {
        self.list(request, NodeId(ino.0), handle, offset, reply);
    }

    fn readdirplus(
        &self,
        request: &Request,
        ino: INodeNo,
        handle: FileHandle,
        offset: u64,
        reply: ReplyDirectoryPlus,
    ) {
        self.list(request, NodeId(ino.0), handle, offset, reply);
    }

    fn fsyncdir(
        &self,
        _request: &Request,
        _ino: INodeNo,
        _handle: FileHandle,
        _data: bool,
        reply: ReplyEmpty,
    ) {
        reply.ok();
    }

    fn statfs(&self, _request: &Request, _ino: INodeNo, reply: ReplyStatfs) {
        guarded(|| match self.view.space() {
            Ok(space) => reply::space(reply, &space, NAME_BYTES_MAX as u32),
            Err(error) => reply.error(errno(&error)),
        });
    }

    fn getxattr(&self, _request: &Request, ino: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        guarded(|| reply::xattr(reply, size, self.view.xattr(NodeId(ino.0), name.as_bytes())));
    }

    fn listxattr(&self, _request: &Request, ino: INodeNo, size: u32, reply: ReplyXattr) {
        guarded(|| reply::xattr(reply, size, self.view.xattr_names(NodeId(ino.0))));
    }

    fn lseek(
        &self,
        _request: &Request,
        ino: INodeNo,
        _handle: FileHandle,
        offset: i64,
        whence: i32,
        reply: ReplyLseek,
    ) {
        let seek = match whence {
            libc::SEEK_DATA => Seek::Data,
            libc::SEEK_HOLE => Seek::Hole,
            // The kernel answers the others itself.
            _ => return reply.error(Errno::EINVAL),
        };
        let found = |offset| self.view.seek(NodeId(ino.0), offset, seek);
        guarded(|| match u64::try_from(offset).map_err(|_| ViewError::BeyondEnd).and_then(found) {
            // Sizes are at most `i64::MAX`, which the manifest sees to.
            Ok(offset) => reply.offset(offset.cast_signed()),
            Err(error) => reply.error(errno(&error)),
        });
    }
}

/// Agrees with the kernel on what it offers of `capabilities`.
pub(super) fn configure(config: &mut KernelConfig, capabilities: &[InitFlags]) -> io::Result<()> {
    for capability in capabilities {
        if let Err(missing) = config.add_capabilities(*capability) {
            tracing::debug!(?missing, "the kernel lacks a FUSE capability");
        }
    }
    if config.set_max_write(REQUEST_BYTES_MAX).is_err() || config.set_max_background(BACKGROUND_MAX).is_err()
    {
        return Err(io::Error::other("fuser refuses the size or the number of requests"));
    }
    Ok(())
}

/// Keeps a panic from ending the dispatch thread, and the mount with it: the reply, dropped on the way, answers EIO.
pub(super) fn guarded(work: impl FnOnce()) {
    if catch_unwind(AssertUnwindSafe(work)).is_err() {
        tracing::error!("a request of the kernel was answered with EIO since its handler panicked");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_stays_inside_its_request() {
        let reply = Arc::new(());
        let moved = reply.clone();
        guarded(move || {
            let _owned = moved;
            panic!("as a handler might");
        });
        assert_eq!(Arc::strong_count(&reply), 1, "the reply was not dropped, hence not answered");
    }
}
