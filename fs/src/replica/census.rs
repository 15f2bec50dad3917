//! Counts what there is and what was here at the start, in the background.
//!
//! The totals come from the manifest. What is here comes from the disk: only directories that exist are looked into,
//! so a new replica costs nothing and a full one a few microseconds a file.

use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use rustix::io::Errno;

use super::engine::Engine;
use super::inode::{hole_blocks, is_ours};
use super::ledger::{Amount, Ledger, Share};
use super::numbers::Numbers;
use crate::beneath;
use crate::digest::block_count;
use crate::manifest::{Arrival, Entry, EntryIndex, Kind};
use crate::name::RelPath;

/// Waits for the manifest and counts; ends early when the replica is closed.
pub(super) async fn run(engine: Arc<Engine>) {
    let mut closing = engine.closing();
    let mut arrival = engine.manifest.arrival();
    let complete = tokio::select! {
        _ = closing.wait_for(|closing| *closing) => false,
        arrived = arrival.wait_for(|arrival| !matches!(arrival, Arrival::Listed(_))) => {
            // A manifest that was opened complete has nobody left to send news of it.
            arrived.is_ok_and(|arrival| *arrival == Arrival::Complete)
        }
    };
    if complete {
        // It ends by itself; nothing waits for it.
        let counting = engine.clone();
        engine.runtime.spawn_blocking(move || count(&counting));
    }
}

fn count(engine: &Arc<Engine>) {
    let ledger = engine.ledger();
    count_totals(engine, &ledger);
    match count_resident(engine) {
        Ok(()) => ledger.is_counted.store(true, Relaxed),
        Err(Uncounted::Closing) => {}
        Err(Uncounted::Disk(errno)) => {
            engine.counters.error(format!("what is on the disk cannot be counted: {errno}"));
        }
    }
}

/// Counts the files of the manifest. Those without content, those whose content is made here, and holes, are here from
/// the start.
fn count_totals(engine: &Engine, ledger: &Ledger) {
    let (mut files, mut empty, mut holes, mut hole_bytes) = (0, 0, 0, 0);
    for entry in engine.manifest.iter().filter(is_inode) {
        files += 1;
        if entry.size() > 0 && is_ours(&engine.manifest, &entry) {
            count_ours(engine, ledger, &entry);
            continue;
        }
        let mut content = block_count(entry.size());
        if entry.has_extra() {
            let (blocks, bytes) = hole_blocks(&entry.extra().holes, entry.size());
            holes += blocks;
            hole_bytes += bytes;
            content -= blocks;
        }
        empty += i64::from(content == 0);
    }
    engine.counters.files.store(files, Relaxed);
    let here = Amount { files: empty, blocks: holes as i64, bytes: hole_bytes as i64 };
    ledger.add(Share { here, ..Share::default() });
}

/// Counts a file whose content is made here, as its inode does.
fn count_ours(engine: &Engine, ledger: &Ledger, file: &Entry<'_>) {
    if engine.is_forgotten(file.index()) {
        return;
    }
    let here = Amount { files: 1, blocks: block_count(file.size()) as i64, bytes: file.size() as i64 };
    ledger.add_found(file.index(), Share { here, ..Share::default() });
}

fn is_inode(entry: &Entry<'_>) -> bool {
    entry.kind() == Kind::File && entry.inode() == entry.index()
}

/// Why not everything was counted.
enum Uncounted {
    /// The replica is being closed.
    Closing,
    /// The disk failed.
    Disk(Errno),
}

/// Loads every file that is on the disk, which counts it.
fn count_resident(engine: &Arc<Engine>) -> Result<(), Uncounted> {
    if let (Some(in_view), Some(numbers)) = (engine.store.layout.in_view(), &engine.store.numbers) {
        return count_numbered(engine, in_view.content(), numbers);
    }
    let layout = &engine.store.layout;
    for name in names(layout.links(), &RelPath::default())? {
        let index = std::str::from_utf8(&name).ok().and_then(|name| name.parse().ok()).map(EntryIndex);
        index.map_or(Ok(()), |index| load(engine, index))?;
    }
    for root in engine.manifest.roots() {
        count_directory(engine, root)?;
    }
    Ok(())
}

/// Loads every file whose content lies by number.
fn count_numbered(engine: &Arc<Engine>, content: BorrowedFd<'_>, numbers: &Numbers) -> Result<(), Uncounted> {
    for group in names(content, &RelPath::default())? {
        let Ok(group) = RelPath::from_names([group.as_slice()]) else { continue };
        for name in names(content, &group)? {
            let number = std::str::from_utf8(&name).ok().and_then(|name| name.parse().ok());
            // Content of another edition is not this one's.
            let Some(index) = number.and_then(|number| numbers.entry(number)) else { continue };
            load(engine, index)?;
        }
    }
    Ok(())
}

/// Walks the directories below a root that exist on the disk.
fn count_directory(engine: &Arc<Engine>, root: EntryIndex) -> Result<(), Uncounted> {
    let manifest = &engine.manifest;
    let mut directories = vec![root];
    while let Some(directory) = directories.pop() {
        let (top, path) =
            engine.store.layout.below(&engine.manifest, directory).ok_or(Uncounted::Disk(Errno::IO))?;
        for name in names(top, &path)? {
            // Names that the manifest does not have are not of its files.
            let Ok(Some(entry)) = manifest.lookup(directory, &name) else { continue };
            match entry.kind() {
                Kind::Directory => directories.push(entry.index()),
                Kind::File if entry.inode() == entry.index() && entry.nlink() == 1 => {
                    load(engine, entry.index())?;
                }
                Kind::File | Kind::Symlink => {}
            }
        }
    }
    Ok(())
}

/// Loads one file. A file that cannot be loaded says so when it is read; here it does not count.
fn load(engine: &Arc<Engine>, index: EntryIndex) -> Result<(), Uncounted> {
    if *engine.closing().borrow() {
        return Err(Uncounted::Closing);
    }
    if let Some(inode) =
        engine.manifest.entry(index).filter(is_inode).and_then(|_| engine.inode(index.into()))
    {
        let _ = engine.load(&inode);
    }
    Ok(())
}

/// The names in a directory; none where it does not exist, where something else is in its place, or where its own user
/// may not look: somebody has closed it, and what is in it counts when it is found.
fn names(top: BorrowedFd<'_>, path: &RelPath) -> Result<Vec<Vec<u8>>, Uncounted> {
    match beneath::names(top, path.as_bytes()) {
        Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::ACCESS) => Ok(Vec::new()),
        names => names.map_err(Uncounted::Disk),
    }
}
