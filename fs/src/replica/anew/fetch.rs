//! Fetching what a file has become at the origin, into a file of its own that has no name yet.
//!
//! All of it or nothing: what came before a fault, or before the origin broke off, goes with the file. Blocks that the
//! origin calls unchanged are copied from the old file, if they have the digest that it names.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use rustix::fs::Mode;
use rustix::io::Errno;

use super::super::engine::Engine;
use super::super::finish::{set_xattrs, times};
use super::super::inode::Inode;
use super::super::names::{Names, Successor};
use super::super::store::{StoreError, to_errno, write_at};
use crate::digest::{BLOCK_BYTES, BlockIndex, Digest};
use crate::git::{self, Role, Shown};
use crate::manifest::{EntryIndex, Extra, Kind};
use crate::origin::{
    Anew, Class, FileFault, FileVersion, OriginError, RANGES_PER_REQUEST_MAX, Run, STALL_MAX, TakeAnew,
    Version,
};

/// What the origin has now.
#[derive(Debug)]
pub(super) struct Fetched {
    pub(super) successor: Successor,
    /// The manifest's names that it is to have.
    pub(super) names: Vec<EntryIndex>,
}

/// Why there is nothing to be put in place.
#[derive(Debug)]
pub(super) enum Unfetched {
    /// It changed while it was read there.
    KeepsChanging,
    /// Something that cannot be had is there.
    AnotherKind,
    /// The origin says that it cannot read it, or does not know.
    Unreadable(String),
    /// The origin is gone, or busy, or does not know how: as for anything that is fetched.
    Origin(OriginError),
    /// What came is not what it should be.
    Invalid(String),
    /// The local disk failed.
    Disk(Errno),
}

impl From<Errno> for Unfetched {
    fn from(errno: Errno) -> Self {
        Self::Disk(errno)
    }
}

/// Fetches what `entry`, a name of the inode, is now. May be dropped at any moment.
pub(super) async fn fetch(
    engine: &Arc<Engine>,
    names: &Arc<Names>,
    inode: &Arc<Inode>,
    entry: EntryIndex,
) -> Result<Fetched, Unfetched> {
    let wanted = TakeAnew { entry, held: held(inode) };
    let mut items = engine.origin.take_anew(wanted.clone(), Class::Bulk);
    let mut making: Option<Making> = None;
    loop {
        let item = tokio::time::timeout(STALL_MAX, items.recv()).await;
        let broke_off = |why: &str| Unfetched::Origin(OriginError::Gone(why.into()));
        let item = item.map_err(|_| broke_off("it sent nothing for 20 s"))?;
        let item = item.ok_or_else(|| broke_off("it broke off"))?.map_err(Unfetched::Origin)?;
        match (item, &mut making) {
            (Anew::Is(Version::File(version)), None) => {
                if !version.names.contains(&entry) {
                    return Err(invalid("it sent a file that is another one"));
                }
                let (engine, names, inode) = (engine.clone(), names.clone(), inode.clone());
                let begin = move || Making::begin(&engine, &names, inode, entry, version);
                making = Some(on_disk(begin).await?);
            }
            (Anew::Is(version), None) => return without_content(engine, entry, version),
            (Anew::Fault(fault), _) => {
                return Err(match fault {
                    FileFault::Changed => Unfetched::KeepsChanging,
                    FileFault::Unreadable(why) => Unfetched::Unreadable(why),
                    FileFault::NoSuchBlock => Unfetched::Unreadable("it does not know the file".into()),
                });
            }
            (Anew::Reading(_), Some(_)) => {}
            (Anew::Run(run), Some(making)) if run.file == entry => {
                engine.counters.fetched(Class::Bulk, run.bytes.len() as u64);
                making.skip_to(run.first, run.digests.len() as u64)?;
                let making = making.clone();
                on_disk(move || making.store(&run)).await?;
            }
            (Anew::Kept { first, digests }, Some(making)) => {
                making.skip_to(first, digests.len() as u64)?;
                if !(first.0..making.next).all(|block| is_held(&wanted, block)) {
                    return Err(invalid("it names blocks that are not here"));
                }
                let (making, engine) = (making.clone(), engine.clone());
                on_disk(move || making.keep(&engine, first, &digests)).await?;
            }
            (Anew::End, Some(making)) => {
                let end = making.version.blocks();
                making.skip_to(BlockIndex(end), 0)?;
                let (making, names) = (making.clone(), making.version.names.clone());
                let file = on_disk(move || making.finish()).await?;
                return Ok(Fetched { successor: Successor::File(file), names });
            }
            (Anew::Is(_) | Anew::Reading(_) | Anew::Run(_) | Anew::Kept { .. } | Anew::End, _) => {
                return Err(invalid("what it sent does not belong there"));
            }
        }
    }
}

fn without_content(engine: &Engine, entry: EntryIndex, version: Version) -> Result<Fetched, Unfetched> {
    let successor = match version {
        Version::Symlink { target, mtime } => {
            let shown = engine.manifest.entry(entry).ok_or(Errno::STALE)?;
            let role = git::role_as(&engine.manifest, &shown, Kind::Symlink).map_err(|_| Errno::STALE)?;
            match role {
                Role::Ordinary => Successor::Symlink(target, mtime),
                Role::Config | Role::Hook => Successor::Symlink(git::WITHHELD_TARGET.to_vec(), mtime),
            }
        }
        Version::Absent => Successor::Nothing,
        Version::Other | Version::File(_) => return Err(Unfetched::AnotherKind),
    };
    Ok(Fetched { successor, names: vec![entry] })
}

/// The longest stretches of blocks that are here.
fn held(inode: &Inode) -> Vec<(BlockIndex, u64)> {
    let blocks = inode.lock();
    let (mut held, mut at, end) = (Vec::new(), 0, blocks.present.blocks());
    while let Some(first) = blocks.present.first_present(at..end) {
        let past = blocks.present.first_absent(first..end).unwrap_or(end);
        held.push((BlockIndex(first), past - first));
        at = past;
    }
    held.sort_unstable_by_key(|(_, count)| std::cmp::Reverse(*count));
    held.truncate(RANGES_PER_REQUEST_MAX);
    held
}

fn is_held(wanted: &TakeAnew, block: u64) -> bool {
    wanted.held.iter().any(|(first, count)| (first.0..first.0 + count).contains(&block))
}

async fn on_disk<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Unfetched> + Send + 'static,
) -> Result<T, Unfetched> {
    tokio::task::spawn_blocking(work).await.map_err(|_| Unfetched::Disk(Errno::IO))?
}

fn invalid(what: &str) -> Unfetched {
    Unfetched::Invalid(what.into())
}

/// A file in the making.
#[derive(Clone)]
struct Making {
    file: Arc<File>,
    old: Arc<Inode>,
    version: Arc<FileVersion>,
    mode: u16,
    /// The first block that has not come.
    next: u64,
}

impl Making {
    fn begin(
        engine: &Engine,
        names: &Names,
        old: Arc<Inode>,
        entry: EntryIndex,
        version: FileVersion,
    ) -> Result<Self, Unfetched> {
        let shown = engine.manifest.entry(entry).ok_or(Errno::STALE)?;
        let shown = git::shown(&engine.manifest, &shown).map_err(|_| Errno::STALE)?;
        if matches!(shown, Shown::Config(_) | Shown::Withheld) {
            return Err(Unfetched::AnotherKind);
        }
        let mode = shown.mode(version.mode);
        let file = File::from(names.unnamed_file()?);
        file.set_len(version.size).map_err(to_errno)?;
        set_xattrs(&file, &Extra { xattrs: version.xattrs.clone(), ..Extra::default() })?;
        Ok(Self { file: Arc::new(file), old, version: Arc::new(version), mode, next: 0 })
    }

    /// Checks that `count` blocks from `first` on are the next that have content.
    fn skip_to(&mut self, first: BlockIndex, count: u64) -> Result<(), Unfetched> {
        let end =
            first.0.checked_add(count).filter(|end| first.0 >= self.next && *end <= self.version.blocks());
        let end = end.ok_or_else(|| invalid("it sent blocks that the file does not have"))?;
        if !(self.next..first.0).all(|block| self.version.is_hole(block)) {
            return Err(invalid("it left out blocks"));
        }
        self.next = end;
        Ok(())
    }

    fn store(&self, run: &Run) -> Result<(), Unfetched> {
        run.verify(self.version.size).map_err(|bad| Unfetched::Invalid(bad.to_string()))?;
        write_at(&self.file, &run.bytes, run.first.offset()).map_err(|(_, errno)| Unfetched::Disk(errno))
    }

    /// Copies blocks that have not changed from the old file.
    fn keep(&self, engine: &Engine, first: BlockIndex, digests: &[Digest]) -> Result<(), Unfetched> {
        let old = engine.file(&self.old).map_err(|error: StoreError| error.errno())?;
        let old = old.ok_or_else(|| invalid("it names blocks that are not here any more"))?;
        let mut bytes = vec![0; BLOCK_BYTES as usize];
        for (block, digest) in (first.0..).map(BlockIndex).zip(digests) {
            let range = block.bytes_in(self.version.size);
            let bytes = &mut bytes[..(range.end - range.start) as usize];
            if old.read_exact_at(bytes, range.start).is_err()
                || Digest::of_block(block, self.version.size, bytes) != *digest
            {
                return Err(invalid("a block that it calls unchanged is another one here"));
            }
            write_at(&self.file, bytes, range.start).map_err(|(_, errno)| Unfetched::Disk(errno))?;
        }
        Ok(())
    }

    /// Makes it last, and gives it its times and mode.
    fn finish(&self) -> Result<OwnedFd, Unfetched> {
        rustix::fs::futimens(&*self.file, &times(self.version.mtime))?;
        rustix::fs::fchmod(&*self.file, Mode::from_raw_mode(self.mode.into()))?;
        // All of it must be there before its name is.
        rustix::fs::fsync(&*self.file)?;
        Ok(self.file.try_clone().map_err(to_errno)?.into())
    }
}
