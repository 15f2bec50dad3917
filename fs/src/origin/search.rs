//! Looking for what is no longer where the snapshot has it: one walk over the names of a root.
//!
//! Somebody who renames a directory moves all files in it, and has changed none of them. The stamps know the inode
//! number of every entry, and a directory lists its names with theirs; so a walk that lists, and asks for nothing
//! else, finds each entry again that is still in the tree. The number of what was removed may be another's by now, so
//! what was made after the entry last changed is not taken for it. What it found is a hint: the tree may change at any
//! moment, and what is opened for it is compared with its stamp as ever.
//!
//! A walk keeps a bit an entry, and each name that the snapshot does not have there, as long as it lasts (some 40
//! bytes for each). What stays of it is the bits and the paths of what has moved: of a directory its own, not those of
//! what is in it.

use std::collections::{HashMap, HashSet};
use std::ops::Range;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use rustix::fs::{AtFlags, Dir, FileType, OFlags, StatxFlags};
use rustix::io::Errno;

use super::files::{Files, OpenRoot};
use super::stamps::Stamp;
use crate::beneath;
use crate::manifest::{Entry, EntryIndex, Kind, Listing, Mtime};

/// Names a walk keeps at most that the snapshot does not have; it ends at the bound.
const STRAYS_MAX: usize = 1 << 20;

/// How long a walk may take: a cold disk lists some 100,000 names a second.
const WALK_MAX: Duration = Duration::from_secs(120);

/// What has moved is remembered of so many entries at most, each with its path.
const MOVED_MAX: usize = 1 << 16;

/// Stamps read at once.
const STAMPS_AT_ONCE: u32 = 1024;

/// What a walk over a root saw.
#[derive(Debug)]
pub(super) struct Sighting {
    /// When it began.
    pub(super) began: Instant,
    /// Entries that have their name, in their directory wherever that is by now.
    here: Bits,
    moved: HashMap<EntryIndex, Moved>,
    /// It saw all names: what it has not seen is not there.
    pub(super) is_complete: bool,
}

#[derive(Debug)]
enum Moved {
    /// Its path beneath the root.
    To(Vec<u8>),
    /// The file has lost this name, and has that one.
    Is(EntryIndex),
}

/// Where an entry was seen.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Seen {
    /// At this path beneath the root.
    At(Vec<u8>),
    /// Nowhere.
    Nowhere,
}

impl Sighting {
    /// Where the entry was, or is by what became of the directories above it.
    pub(super) fn of(&self, files: &Files, entry: EntryIndex) -> Seen {
        self.path(files, entry).map_or(Seen::Nowhere, Seen::At)
    }

    fn path(&self, files: &Files, entry: EntryIndex) -> Option<Vec<u8>> {
        let mut names = Vec::new();
        let mut at = files.manifest.entry(entry)?;
        let start = loop {
            match self.moved.get(&at.index()) {
                Some(Moved::To(path)) => break path.clone(),
                // That one is where the snapshot has it, or in a directory that moved.
                Some(Moved::Is(other)) if names.is_empty() => return self.path(files, *other),
                Some(Moved::Is(_)) => return None,
                None if at.parent() == at.index() => break Vec::new(),
                None if !self.here.contains(at.index()) => return None,
                None => {}
            }
            names.push(at.name());
            at = files.manifest.entry(at.parent())?;
        };
        Some(names.into_iter().rev().fold(start, |path, name| joined(&path, name)))
    }

    /// Where it would be now: as [`of`](Self::of), and for one that is nowhere, its name in its directory, if that is
    /// anywhere.
    pub(super) fn place_of(&self, files: &Files, entry: EntryIndex) -> Option<Vec<u8>> {
        if let Some(path) = self.path(files, entry) {
            return Some(path);
        }
        let entry = files.manifest.entry(entry)?;
        Some(joined(&self.path(files, entry.parent())?, entry.name()))
    }
}

fn joined(directory: &[u8], name: &[u8]) -> Vec<u8> {
    match directory {
        b"" => name.to_vec(),
        _ => [directory, b"/", name].concat(),
    }
}

/// Walks over all names of a root. Blocks for as long as listing them takes.
pub(super) fn walk(files: &Files, root: EntryIndex, open: &OpenRoot) -> Sighting {
    let mut walk = Walk {
        files,
        open,
        began: Instant::now(),
        here: Bits::new(files.manifest.entries()),
        names: Vec::new(),
        directories: vec![Directory { above: 0, name: 0..0, entry: Some(root) }],
        strays: Vec::new(),
        is_complete: true,
    };
    walk.here.insert(root);
    let mut next = vec![0];
    while let Some(directory) = next.pop() {
        if walk.strays.len() >= STRAYS_MAX || walk.began.elapsed() >= WALK_MAX {
            walk.is_complete = false;
            break;
        }
        match walk.list(directory) {
            Ok(found) => next.extend(found),
            // Another filesystem, or a directory that is closed to us: nothing of it can be served.
            Err(Errno::XDEV | Errno::ACCESS) => {}
            // It was moved meanwhile.
            Err(_) => walk.is_complete = false,
        }
    }
    walk.conclude(root)
}

struct Walk<'w> {
    files: &'w Files,
    open: &'w OpenRoot,
    began: Instant,
    here: Bits,
    /// The names of directories and strays, one after the other.
    names: Vec<u8>,
    directories: Vec<Directory>,
    strays: Vec<Stray>,
    is_complete: bool,
}

/// A directory that is there.
struct Directory {
    /// The one it lies in.
    above: u32,
    name: Range<u32>,
    /// The entry it is, where it is where that belongs.
    entry: Option<EntryIndex>,
}

/// A name that the snapshot does not have there, or has for another inode.
struct Stray {
    inode: u64,
    /// The directory it lies in.
    directory: u32,
    name: Range<u32>,
    /// Its own number where it is a directory.
    own: Option<u32>,
}

impl Walk<'_> {
    /// Lists a directory; returns those in it.
    fn list(&mut self, at: u32) -> Result<Vec<u32>, Errno> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY;
        let directory = beneath::open(self.open.as_fd(), &self.path(at), flags)?;
        let entry = self.directories[at as usize].entry;
        let stamps = entry.map(|entry| self.stamps_of_children(entry)).unwrap_or_default();
        let mut found = Vec::new();
        for listed in Dir::read_from(&directory)? {
            let listed = listed?;
            let name = listed.file_name().to_bytes();
            if matches!(name, b"." | b"..") {
                continue;
            }
            let is_directory = match listed.file_type() {
                FileType::Unknown => is_directory(directory.as_fd(), name)?,
                kind => kind == FileType::Directory,
            };
            let child = entry.and_then(|entry| self.files.manifest.lookup(entry, name).ok().flatten());
            let is_here = |child: &Entry<'_>| stamps.get(child.index()) == Some(listed.ino());
            let child = child.filter(is_here).map(|child| child.index());
            if let Some(child) = child {
                self.here.insert(child);
            } else if self.strays.len() >= STRAYS_MAX {
                self.is_complete = false;
                break;
            }
            if child.is_some() && !is_directory {
                continue;
            }
            let name = self.keep(name);
            let own = is_directory.then_some(self.directories.len() as u32);
            if let Some(own) = own {
                self.directories.push(Directory { above: at, name: name.clone(), entry: child });
                found.push(own);
            }
            if child.is_none() {
                self.strays.push(Stray { inode: listed.ino(), directory: at, name, own });
            }
        }
        Ok(found)
    }

    fn stamps_of_children(&self, directory: EntryIndex) -> Inodes {
        match self.files.manifest.children(directory) {
            Listing::Known(children) => Inodes::read(self.files, children),
            Listing::NotYet => Inodes::default(),
        }
    }

    fn keep(&mut self, name: &[u8]) -> Range<u32> {
        let start = self.names.len() as u32;
        self.names.extend_from_slice(name);
        start..self.names.len() as u32
    }

    fn name(&self, range: &Range<u32>) -> &[u8] {
        &self.names[range.start as usize..range.end as usize]
    }

    /// The path of a directory beneath the root.
    fn path(&self, at: u32) -> Vec<u8> {
        let (mut names, mut at) = (Vec::new(), at);
        while at != 0 {
            let directory = &self.directories[at as usize];
            names.push(self.name(&directory.name));
            at = directory.above;
        }
        names.reverse();
        names.join(&b'/')
    }

    /// Finds, among what was not expected, the entries that are not where they belong.
    fn conclude(mut self, root: EntryIndex) -> Sighting {
        self.strays.sort_unstable_by_key(|stray| stray.inode);
        let (mut within, mut moved) = (Bits::new(self.files.manifest.entries()), HashMap::new());
        within.insert(root);
        let mut directories: HashMap<EntryIndex, u32> = HashMap::new();
        let mut lost: Vec<EntryIndex> = Vec::new();
        let entries = self.files.manifest.entries();
        for start in (0..entries).step_by(STAMPS_AT_ONCE as usize) {
            let chunk = start..entries.min(start + STAMPS_AT_ONCE);
            let mut inodes = None;
            for entry in chunk.clone().filter_map(|index| self.files.manifest.entry(EntryIndex(index))) {
                if entry.index() == root || !within.contains(entry.parent()) {
                    continue;
                }
                within.insert(entry.index());
                if self.here.contains(entry.index()) {
                    continue;
                }
                let inodes = inodes.get_or_insert_with(|| Inodes::read(self.files, chunk.clone()));
                let Some(at) =
                    inodes.get(entry.index()).and_then(|inode| self.find(&entry, inode, &directories))
                else {
                    lost.push(entry.index());
                    continue;
                };
                let stray = &self.strays[at];
                let is_in_place = directories.get(&entry.parent()) == Some(&stray.directory)
                    && self.name(&stray.name) == entry.name();
                if !is_in_place && !self.is_it(&entry, stray) {
                    lost.push(entry.index());
                    continue;
                }
                if let Some(own) = stray.own {
                    directories.insert(entry.index(), own);
                }
                if is_in_place {
                    self.here.insert(entry.index());
                } else if moved.len() < MOVED_MAX {
                    let path = joined(&self.path(stray.directory), self.name(&stray.name));
                    moved.insert(entry.index(), Moved::To(path));
                } else {
                    self.is_complete = false;
                }
            }
        }
        self.other_names(lost, &mut moved);
        Sighting { began: self.began, here: self.here, moved, is_complete: self.is_complete }
    }

    /// The stray that has the entry's inode; of several, which are names of one file, the one that is in the entry's
    /// own directory.
    fn find(&self, entry: &Entry<'_>, inode: u64, directories: &HashMap<EntryIndex, u32>) -> Option<usize> {
        let first = self.strays.partition_point(|stray| stray.inode < inode);
        let same = self.strays[first..].iter().take_while(|stray| stray.inode == inode).enumerate();
        let mut fit = same
            .filter(|(_, stray)| stray.own.is_some() == (entry.kind() == Kind::Directory))
            .map(|(at, stray)| (first + at, stray));
        let directory = directories.get(&entry.parent());
        let is_in_place =
            |stray: &Stray| Some(&stray.directory) == directory && self.name(&stray.name) == entry.name();
        let any = fit.clone().next().map(|(at, _)| at);
        fit.find(|(_, stray)| is_in_place(stray)).map(|(at, _)| at).or(any)
    }

    /// True unless something else has got the entry's inode number since.
    fn is_it(&self, entry: &Entry<'_>, stray: &Stray) -> bool {
        let path = joined(&self.path(stray.directory), self.name(&stray.name));
        let flags = StatxFlags::BASIC_STATS | StatxFlags::BTIME;
        let stat = beneath::open(self.open.as_fd(), &path, OFlags::PATH)
            .and_then(|there| rustix::fs::statx(there, "", AtFlags::EMPTY_PATH, flags));
        let (Ok(stat), Ok(stamp)) = (stat, self.files.stamps.get(entry.index())) else { return false };
        let kind = match FileType::from_raw_mode(stat.stx_mode.into()) {
            FileType::Directory => Kind::Directory,
            FileType::RegularFile => Kind::File,
            FileType::Symlink => Kind::Symlink,
            _ => return false,
        };
        let made = Mtime { sec: stat.stx_btime.tv_sec, nsec: stat.stx_btime.tv_nsec };
        let is_told = StatxFlags::from_bits_retain(stat.stx_mask).contains(StatxFlags::BTIME);
        kind == entry.kind()
            && match is_told {
                true => made <= stamp.ctime,
                // Where the filesystem does not say, a directory is taken for it, and a file that looks like it.
                false => kind == Kind::Directory || Stamp::of(&stat).looks_like(&stamp),
            }
    }

    /// Files that have lost a name may have another one that the snapshot knows.
    fn other_names(&self, lost: Vec<EntryIndex>, moved: &mut HashMap<EntryIndex, Moved>) {
        let manifest = &self.files.manifest;
        let inode = |index: &EntryIndex| {
            manifest.entry(*index).filter(|entry| entry.kind() == Kind::File && entry.nlink() > 1)
        };
        let lost: Vec<_> = lost.iter().filter_map(inode).collect();
        let wanted: HashSet<EntryIndex> = lost.iter().map(Entry::inode).collect();
        if wanted.is_empty() {
            return;
        }
        let seen = |entry: &Entry<'_>| {
            wanted.contains(&entry.inode())
                && (self.here.contains(entry.index()) || moved.contains_key(&entry.index()))
        };
        let names: HashMap<_, _> =
            manifest.iter().filter(seen).map(|entry| (entry.inode(), entry.index())).collect();
        for entry in lost {
            if let Some(name) = names.get(&entry.inode()).filter(|_| moved.len() < MOVED_MAX) {
                moved.insert(entry.index(), Moved::Is(*name));
            }
        }
    }
}

fn is_directory(at: std::os::fd::BorrowedFd<'_>, name: &[u8]) -> Result<bool, Errno> {
    let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT;
    match rustix::fs::statx(at, name, flags, StatxFlags::TYPE) {
        Ok(stat) => Ok(FileType::from_raw_mode(stat.stx_mode.into()) == FileType::Directory),
        Err(Errno::NOENT) => Ok(false),
        Err(errno) => Err(errno),
    }
}

/// The inode numbers of consecutive entries.
#[derive(Default)]
struct Inodes {
    first: u32,
    inodes: Vec<u64>,
}

impl Inodes {
    /// What cannot be read is of no inode.
    fn read(files: &Files, entries: Range<u32>) -> Self {
        let stamps = files.stamps.range(entries.clone()).unwrap_or_default();
        Self { first: entries.start, inodes: stamps.iter().map(|Stamp { inode, .. }| *inode).collect() }
    }

    fn get(&self, entry: EntryIndex) -> Option<u64> {
        self.inodes.get(entry.0.checked_sub(self.first)? as usize).copied()
    }
}

/// One bit for each entry.
#[derive(Debug)]
struct Bits(Vec<u64>);

impl Bits {
    fn new(entries: u32) -> Self {
        Self(vec![0; entries.div_ceil(64) as usize])
    }

    fn insert(&mut self, entry: EntryIndex) {
        if let Some(word) = self.0.get_mut(entry.0 as usize / 64) {
            *word |= 1 << (entry.0 % 64);
        }
    }

    fn contains(&self, entry: EntryIndex) -> bool {
        self.0.get(entry.0 as usize / 64).is_some_and(|word| word & (1 << (entry.0 % 64)) != 0)
    }
}
