//! The kernel's requests to a clone, one method each: decode, call the [`CloneTree`], reply.
//!
//! A dispatch thread runs these and never waits: what is not answered from memory is done by a thread that may block on
//! the local disk, or by a task that waits for content.

use std::ffi::OsStr;
use std::future::Future;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;
use fuser::{
    BsdFileFlags, Errno, FileHandle, Filesystem, FopenFlags, INodeNo, InitFlags, KernelConfig, LockOwner,
    OpenFlags, RenameFlags, ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory, ReplyDirectoryPlus,
    ReplyEmpty, ReplyEntry, ReplyLseek, ReplyOpen, ReplyStatfs, ReplyWrite, ReplyXattr, Request, TimeOrNow,
    WriteFlags,
};
use rustix::fs::{FallocateFlags, FileType, XattrFlags};
use tokio::runtime::Handle as Runtime;

use super::adapter::{configure, guarded};
use super::errno::errno;
use super::interrupt::Caller;
use super::reply;
use super::waits::Waits;
use crate::filesystem::{Change, CloneTree, NodeId, Now, Seek, ViewError};
use crate::name::NAME_BYTES_MAX;
use crate::replica::names::Made;

mod answer;
mod decode;
mod listings;

use decode::{owner, permissions, when, writes};
use listings::Listings;

/// The kernel caches attributes and names without asking, what it does itself included.
const CAPABILITIES: [InitFlags; 5] = [
    InitFlags::FUSE_ASYNC_READ,
    InitFlags::FUSE_PARALLEL_DIROPS,
    InitFlags::FUSE_DO_READDIRPLUS,
    InitFlags::FUSE_CACHE_SYMLINKS,
    // Without it every write asks for an xattr first. What must lose its set-id bits on a write loses them here.
    InitFlags::FUSE_HANDLE_KILLPRIV_V2,
];

/// Serves the mount of a clone.
#[derive(Debug)]
pub(super) struct CloneAdapter {
    tree: Arc<CloneTree>,
    waits: Waits,
    listings: Listings,
}

impl CloneAdapter {
    pub(super) fn new(tree: Arc<CloneTree>, runtime: Runtime) -> Self {
        Self { tree, waits: Waits::new(runtime), listings: Listings::default() }
    }

    fn on_disk<R: Send + 'static, T: Send + 'static>(
        &self,
        request: &Request,
        reply: R,
        work: impl Fn(&CloneTree) -> Result<T, ViewError> + Send + Sync + 'static,
        answer: impl FnOnce(R, Result<T, ViewError>) + Send + 'static,
    ) {
        let caller = Caller::new(request.pid());
        self.waits.answer_from_disk(caller, self.tree.clone(), reply, work, answer);
    }

    fn later<R, T, W>(
        &self,
        request: &Request,
        reply: R,
        work: impl FnOnce(Arc<CloneTree>) -> W + Send + 'static,
        answer: impl FnOnce(R, Result<T, ViewError>) + Send + 'static,
    ) where
        R: Send + 'static,
        T: Send + 'static,
        W: Future<Output = Result<T, ViewError>> + Send + 'static,
    {
        let caller = Caller::new(request.pid());
        let limit = self.tree.replica().when_gone().limit();
        self.waits.answer_later(caller, limit, reply, work(self.tree.clone()), answer);
    }

    /// Makes something that is not opened.
    fn make(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        made: Made,
        mode: u32,
        reply: ReplyEntry,
    ) {
        let (parent, name, owner) = (NodeId(parent.0), name.as_bytes().to_vec(), owner(request));
        let work =
            move |tree: &CloneTree| tree.make(parent, &name, &made, permissions(mode), owner).map(Some);
        guarded(|| self.on_disk(request, reply, work, reply::entry));
    }
}

impl Filesystem for CloneAdapter {
    fn init(&mut self, _request: &Request, config: &mut KernelConfig) -> io::Result<()> {
        configure(config, &CAPABILITIES)
    }

    fn lookup(&self, request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let (parent, name) = (NodeId(parent.0), name.as_bytes());
        guarded(|| match self.tree.lookup_now(parent, name) {
            Some(found) => reply::entry(reply, found),
            None => {
                let name = name.to_vec();
                self.on_disk(request, reply, move |tree| tree.lookup(parent, &name), reply::entry);
            }
        });
    }

    fn forget(&self, _request: &Request, ino: INodeNo, nlookup: u64) {
        guarded(|| self.tree.forget(NodeId(ino.0), nlookup));
    }

    fn getattr(&self, request: &Request, ino: INodeNo, _handle: Option<FileHandle>, reply: ReplyAttr) {
        let node = NodeId(ino.0);
        guarded(|| self.on_disk(request, reply, move |tree| tree.attributes(node), reply::attributes));
    }

    fn setattr(
        &self,
        request: &Request,
        ino: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        atime: Option<TimeOrNow>,
        mtime: Option<TimeOrNow>,
        _ctime: Option<SystemTime>,
        _handle: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let node = NodeId(ino.0);
        let change = Change {
            mode: mode.map(permissions),
            uid,
            gid,
            size,
            atime: atime.map(when),
            mtime: mtime.map(when),
        };
        let is_ordinary_user = request.uid() != 0;
        // A cut may have to wait for content. The kernel asks anew for what it knows after EINTR.
        let work = move |tree: Arc<CloneTree>| async move {
            if size.is_some() && is_ordinary_user {
                tree.drop_set_id(node).await?;
            }
            tree.change(node, change).await
        };
        guarded(|| self.later(request, reply, work, reply::attributes));
    }

    fn readlink(&self, request: &Request, ino: INodeNo, reply: ReplyData) {
        let node = NodeId(ino.0);
        let work = move |tree: &CloneTree| tree.read_link(node).map(Bytes::from);
        guarded(|| self.on_disk(request, reply, work, reply::data));
    }

    fn mknod(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        _umask: u32,
        rdev: u32,
        reply: ReplyEntry,
    ) {
        let made = match FileType::from_raw_mode(mode) {
            FileType::RegularFile => Made::File,
            special => Made::Special(special, rdev.into()),
        };
        self.make(request, parent, name, made, mode, reply);
    }

    fn mkdir(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        _umask: u32,
        reply: ReplyEntry,
    ) {
        self.make(request, parent, name, Made::Directory, mode, reply);
    }

    fn unlink(&self, request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let (parent, name) = (NodeId(parent.0), name.as_bytes().to_vec());
        guarded(|| self.on_disk(request, reply, move |tree| tree.unlink(parent, &name), reply::done));
    }

    fn rmdir(&self, request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let (parent, name) = (NodeId(parent.0), name.as_bytes().to_vec());
        let work = move |tree: &CloneTree| tree.remove_directory(parent, &name);
        guarded(|| self.on_disk(request, reply, work, reply::done));
    }

    fn symlink(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        target: &std::path::Path,
        reply: ReplyEntry,
    ) {
        let made = Made::Symlink(target.as_os_str().as_bytes().to_vec());
        self.make(request, parent, name, made, 0o777, reply);
    }

    fn rename(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        newparent: INodeNo,
        newname: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        let (parent, name) = (NodeId(parent.0), name.as_bytes().to_vec());
        let (newparent, newname) = (NodeId(newparent.0), newname.as_bytes().to_vec());
        let flags = rustix::fs::RenameFlags::from_bits_retain(flags.bits());
        let work = move |tree: &CloneTree| tree.rename((parent, &name), (newparent, &newname), flags);
        guarded(|| self.on_disk(request, reply, work, reply::done));
    }

    fn link(&self, request: &Request, ino: INodeNo, newparent: INodeNo, newname: &OsStr, reply: ReplyEntry) {
        let (node, parent, name) = (NodeId(ino.0), NodeId(newparent.0), newname.as_bytes().to_vec());
        let work = move |tree: &CloneTree| tree.link(node, parent, &name).map(Some);
        guarded(|| self.on_disk(request, reply, work, reply::entry));
    }

    fn open(&self, request: &Request, ino: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        let (node, writes) = (NodeId(ino.0), writes(flags.0));
        guarded(|| self.on_disk(request, reply, move |tree| tree.open(node, writes), answer::opened));
    }

    fn create(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        _umask: u32,
        _flags: i32,
        reply: ReplyCreate,
    ) {
        let (parent, name, owner) = (NodeId(parent.0), name.as_bytes().to_vec(), owner(request));
        let work = move |tree: &CloneTree| tree.create(parent, &name, permissions(mode), owner);
        guarded(|| self.on_disk(request, reply, work, answer::created));
    }

    fn read(
        &self,
        request: &Request,
        ino: INodeNo,
        _handle: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let node = NodeId(ino.0);
        guarded(|| match self.tree.try_read(node, offset, size) {
            Ok(Now::Ready(bytes)) => reply::data(reply, Ok(bytes)),
            Err(error) => reply::data(reply, Err(error)),
            Ok(Now::Later) => {
                let work = move |tree: Arc<CloneTree>| async move { tree.read(node, offset, size).await };
                self.later(request, reply, work, reply::data);
            }
        });
    }

    fn write(
        &self,
        request: &Request,
        ino: INodeNo,
        _handle: FileHandle,
        offset: u64,
        data: &[u8],
        write_flags: WriteFlags,
        _flags: OpenFlags,
        _owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let (node, bytes) = (NodeId(ino.0), Bytes::copy_from_slice(data));
        // An ordinary user's process need not do it: the disk's filesystem does.
        let drops_set_id =
            write_flags.contains(WriteFlags::FUSE_WRITE_KILL_SUIDGID) && rustix::process::geteuid().is_root();
        let work = move |tree: Arc<CloneTree>| async move {
            if drops_set_id {
                tree.drop_set_id(node).await?;
            }
            tree.write(node, offset, bytes).await
        };
        guarded(|| self.later(request, reply, work, answer::written));
    }

    fn flush(
        &self,
        _request: &Request,
        _ino: INodeNo,
        _handle: FileHandle,
        _owner: LockOwner,
        reply: ReplyEmpty,
    ) {
        // From then on the kernel does not ask: what was written is on the disk's side already.
        reply.error(Errno::ENOSYS);
    }

    fn release(
        &self,
        request: &Request,
        ino: INodeNo,
        _handle: FileHandle,
        _flags: OpenFlags,
        _owner: Option<LockOwner>,
        _flush: bool,
        reply: ReplyEmpty,
    ) {
        let node = NodeId(ino.0);
        let work = move |tree: &CloneTree| {
            tree.release(node);
            Ok(())
        };
        guarded(|| self.on_disk(request, reply, work, reply::done));
    }

    fn fsync(&self, request: &Request, ino: INodeNo, _handle: FileHandle, data: bool, reply: ReplyEmpty) {
        let node = NodeId(ino.0);
        let work = move |tree: Arc<CloneTree>| async move { tree.sync(node, data).await };
        guarded(|| self.later(request, reply, work, reply::done));
    }

    fn opendir(&self, _request: &Request, _ino: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        // What the kernel has listed stays good until it changes the directory itself.
        let flags = FopenFlags::FOPEN_CACHE_DIR | FopenFlags::FOPEN_KEEP_CACHE;
        guarded(|| reply.opened(self.listings.open(), flags));
    }

    fn readdir(
        &self,
        request: &Request,
        ino: INodeNo,
        handle: FileHandle,
        offset: u64,
        reply: ReplyDirectory,
    ) {
        guarded(|| self.list(request, NodeId(ino.0), handle, offset, reply));
    }

    fn readdirplus(
        &self,
        request: &Request,
        ino: INodeNo,
        handle: FileHandle,
        offset: u64,
        reply: ReplyDirectoryPlus,
    ) {
        guarded(|| self.list(request, NodeId(ino.0), handle, offset, reply));
    }

    fn releasedir(
        &self,
        _request: &Request,
        _ino: INodeNo,
        handle: FileHandle,
        _flags: OpenFlags,
        reply: ReplyEmpty,
    ) {
        self.listings.close(handle);
        reply.ok();
    }

    fn fsyncdir(&self, request: &Request, ino: INodeNo, _handle: FileHandle, _data: bool, reply: ReplyEmpty) {
        let node = NodeId(ino.0);
        guarded(|| self.on_disk(request, reply, move |tree| tree.sync_directory(node), reply::done));
    }

    fn statfs(&self, request: &Request, _ino: INodeNo, reply: ReplyStatfs) {
        guarded(|| {
            self.on_disk(request, reply, CloneTree::space, |reply, space| match space {
                Ok(space) => reply::space(reply, &space, NAME_BYTES_MAX as u32),
                Err(error) => reply.error(errno(&error)),
            });
        });
    }

    fn setxattr(
        &self,
        request: &Request,
        ino: INodeNo,
        name: &OsStr,
        value: &[u8],
        flags: i32,
        _position: u32,
        reply: ReplyEmpty,
    ) {
        let (node, name, value) = (NodeId(ino.0), name.as_bytes().to_vec(), value.to_vec());
        let flags = XattrFlags::from_bits_retain(flags.cast_unsigned());
        let work = move |tree: &CloneTree| tree.set_xattr(node, &name, &value, flags);
        guarded(|| self.on_disk(request, reply, work, reply::done));
    }

    fn getxattr(&self, request: &Request, ino: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        let (node, name) = (NodeId(ino.0), name.as_bytes().to_vec());
        let answer = move |reply, value| reply::xattr(reply, size, value);
        guarded(|| self.on_disk(request, reply, move |tree| tree.xattr(node, &name), answer));
    }

    fn listxattr(&self, request: &Request, ino: INodeNo, size: u32, reply: ReplyXattr) {
        let node = NodeId(ino.0);
        let answer = move |reply, value| reply::xattr(reply, size, value);
        guarded(|| self.on_disk(request, reply, move |tree| tree.xattr_names(node), answer));
    }

    fn removexattr(&self, request: &Request, ino: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let (node, name) = (NodeId(ino.0), name.as_bytes().to_vec());
        guarded(|| self.on_disk(request, reply, move |tree| tree.remove_xattr(node, &name), reply::done));
    }

    fn fallocate(
        &self,
        request: &Request,
        ino: INodeNo,
        _handle: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        let node = NodeId(ino.0);
        let mode = FallocateFlags::from_bits_retain(mode.cast_unsigned());
        let work = move |tree: Arc<CloneTree>| async move { tree.allocate(node, mode, offset, length).await };
        guarded(|| self.later(request, reply, work, reply::done));
    }

    fn lseek(
        &self,
        request: &Request,
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
        let Ok(offset) = u64::try_from(offset) else { return reply.error(Errno::ENXIO) };
        let node = NodeId(ino.0);
        let work = move |tree: Arc<CloneTree>| async move { tree.seek(node, offset, seek).await };
        guarded(|| self.later(request, reply, work, answer::found));
    }
}
