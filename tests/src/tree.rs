//! What a directory tree looks like to whoever walks it: every fact that a program could notice, as plain data.
//!
//! The walk goes by descriptors, so that paths longer than `PATH_MAX` are nothing special, and an error is a fact like any
//! other: two trees that refuse the same thing are alike. It runs inside a host through the `twinshare-observe` executable,
//! since root outside cannot look into a FUSE mount of an ordinary user.

use std::{
    collections::BTreeMap,
    ffi::{CStr, CString},
    fs::File,
    io,
    os::{fd::OwnedFd, unix::fs::FileExt},
};

use anyhow::{Context, Result, ensure};
use rustix::{
    fs::{
        AtFlags, CWD, Dir, FileType, Mode, OFlags, SeekFrom, Stat, lgetxattr, llistxattr, openat, readlinkat,
        seek, statat,
    },
    io::Errno,
};
use serde::{Deserialize, Serialize};

/// Files up to this size are read whole, holes included; of larger ones only the data, at its offsets.
const WHOLE_BYTES_MAX: u64 = 256 << 20;
/// How much is read at once.
const CHUNK_BYTES: usize = 1 << 20;

/// One entry as a walker sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// What it is.
    pub kind: Kind,
    /// Permission bits with set-id and sticky.
    pub mode: u32,
    /// Link count.
    pub nlink: u64,
    /// Owning user and group.
    pub owner: (u32, u32),
    /// Size in bytes as lstat says.
    pub size: u64,
    /// Units of 512 bytes as lstat says.
    pub blocks: u64,
    /// Times in seconds and nanoseconds.
    pub mtime: (i64, i64),
    /// As above.
    pub atime: (i64, i64),
    /// As above.
    pub ctime: (i64, i64),
    /// Device and inode number.
    pub inode: (u64, u64),
    /// The first path, in byte order, under which this same inode appears in the tree.
    pub first_name: String,
    /// Where a symbolic link leads, quoted.
    pub target: Option<String>,
    /// Extended attributes by name, values quoted; or the error of listing them.
    pub xattrs: Result<BTreeMap<String, String>, String>,
    /// Runs of data (start, end) of a regular file, as SEEK_DATA and SEEK_HOLE say.
    pub data: Option<Result<Vec<(u64, u64)>, String>>,
    /// BLAKE3 of a regular file's content (of its data, with offsets, above 256 MiB); or the error of reading it.
    pub content: Option<Result<String, String>>,
    /// The error of listing a directory.
    pub listing: Option<String>,
}

/// What an entry is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "each says what lstat says")]
pub enum Kind {
    File,
    Directory,
    Symlink,
    Fifo,
    Socket,
    CharacterDevice,
    BlockDevice,
}

/// A tree by quoted path; the root is the empty path.
pub type Tree = BTreeMap<String, Entry>;

/// Bytes as text that loses nothing: printable ASCII stays, everything else and `%` becomes `%XX`.
pub fn quoted(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for byte in bytes {
        match byte {
            b'%' | 0..=0x1f | 0x7f.. => text.push_str(&format!("%{byte:02X}")),
            printable => text.push(char::from(*printable)),
        }
    }
    text
}

/// Walks `root` and describes all of it.
///
/// # Errors
/// When the root itself cannot be described; errors further down are part of the description.
pub fn observe(root: &str) -> Result<Tree> {
    let mut walk = Walk { tree: Tree::new() };
    let name = CString::new(root).context("the root's path holds a NUL")?;
    let root = openat(CWD, &name, OFlags::DIRECTORY | OFlags::NOFOLLOW, Mode::empty())
        .context("opening the root")?;
    walk.visit(&root, c".", "")?;
    let mut tree = walk.tree;
    name_inodes(&mut tree);
    Ok(tree)
}

fn name_inodes(tree: &mut Tree) {
    let mut first: BTreeMap<(u64, u64), String> = BTreeMap::new();
    for (path, entry) in tree.iter_mut() {
        entry.first_name = first.entry(entry.inode).or_insert_with(|| path.clone()).clone();
    }
}

struct Walk {
    tree: Tree,
}

impl Walk {
    fn visit(&mut self, parent: &OwnedFd, name: &CStr, path: &str) -> Result<()> {
        let stat =
            statat(parent, name, AtFlags::SYMLINK_NOFOLLOW).with_context(|| format!("lstat of {path:?}"))?;
        let mut entry = describe(parent, name, &stat)?;
        if entry.kind == Kind::Directory {
            entry.listing = self.descend(parent, name, path).err().map(|error| spelled(&error));
        }
        self.tree.insert(path.to_owned(), entry);
        Ok(())
    }

    fn descend(&mut self, parent: &OwnedFd, name: &CStr, path: &str) -> io::Result<()> {
        let directory = openat(parent, name, OFlags::DIRECTORY | OFlags::NOFOLLOW, Mode::empty())?;
        for child in Dir::read_from(&directory)? {
            let child = child?;
            let name = child.file_name();
            if name == c"." || name == c".." {
                continue;
            }
            let quoted = quoted(name.to_bytes());
            let path = if path.is_empty() { quoted } else { format!("{path}/{quoted}") };
            self.visit(&directory, name, &path).map_err(io::Error::other)?;
        }
        Ok(())
    }
}

fn describe(parent: &OwnedFd, name: &CStr, stat: &Stat) -> Result<Entry> {
    let kind = match FileType::from_raw_mode(stat.st_mode) {
        FileType::Directory => Kind::Directory,
        FileType::Symlink => Kind::Symlink,
        FileType::Fifo => Kind::Fifo,
        FileType::Socket => Kind::Socket,
        FileType::CharacterDevice => Kind::CharacterDevice,
        FileType::BlockDevice => Kind::BlockDevice,
        FileType::RegularFile | FileType::Unknown => Kind::File,
    };
    let size = u64::try_from(stat.st_size).context("a negative size")?;
    // The map before the content: reading may turn what was never written into data.
    let file =
        (kind == Kind::File).then(|| openat(parent, name, OFlags::NOFOLLOW, Mode::empty()).map(File::from));
    let data = file.as_ref().map(|opened| match opened {
        Ok(file) => data_runs(file, size).map_err(|error| spelled(&error)),
        Err(error) => Err(spelled(&io::Error::from(*error))),
    });
    let content = file.as_ref().map(|opened| match (opened, &data) {
        (Ok(file), Some(Ok(runs))) => digest(file, size, runs).map_err(|error| spelled(&error)),
        (Ok(_), Some(Err(error))) => Err(error.clone()),
        (Ok(_), None) => Err("unreachable".into()),
        (Err(error), _) => Err(spelled(&io::Error::from(*error))),
    });
    Ok(Entry {
        kind,
        mode: stat.st_mode & 0o7777,
        nlink: stat.st_nlink,
        owner: (stat.st_uid, stat.st_gid),
        size,
        blocks: u64::try_from(stat.st_blocks).context("negative blocks")?,
        mtime: (stat.st_mtime, stat.st_mtime_nsec.cast_signed()),
        atime: (stat.st_atime, stat.st_atime_nsec.cast_signed()),
        ctime: (stat.st_ctime, stat.st_ctime_nsec.cast_signed()),
        inode: (stat.st_dev, stat.st_ino),
        first_name: String::new(),
        target: (kind == Kind::Symlink)
            .then(|| readlinkat(parent, name, Vec::new()))
            .transpose()?
            .map(|to| quoted(to.to_bytes())),
        xattrs: xattrs(parent, name).map_err(|error| spelled(&error)),
        data,
        content,
        listing: None,
    })
}

fn data_runs(file: &File, size: u64) -> io::Result<Vec<(u64, u64)>> {
    let mut runs = Vec::new();
    let mut at = 0;
    while at < size {
        let start = match seek(file, SeekFrom::Data(at)) {
            Ok(start) => start,
            Err(Errno::NXIO) => break,
            Err(error) => return Err(error.into()),
        };
        at = seek(file, SeekFrom::Hole(start))?;
        runs.push((start, at.min(size)));
    }
    Ok(runs)
}

fn digest(file: &File, size: u64, runs: &[(u64, u64)]) -> io::Result<String> {
    let mut hasher = blake3::Hasher::new();
    if size <= WHOLE_BYTES_MAX {
        hash_range(file, 0, size, &mut hasher)?;
    } else {
        for (start, end) in runs {
            hasher.update(&start.to_le_bytes());
            hash_range(file, *start, *end, &mut hasher)?;
        }
    }
    Ok(hasher.finalize().to_hex().to_string())
}

fn hash_range(file: &File, start: u64, end: u64, hasher: &mut blake3::Hasher) -> io::Result<()> {
    let mut chunk = vec![0; CHUNK_BYTES];
    let mut at = start;
    while at < end {
        let wanted = usize::try_from(end - at).map_or(CHUNK_BYTES, |left| left.min(CHUNK_BYTES));
        let length = file.read_at(&mut chunk[..wanted], at)?;
        if length == 0 {
            return Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                format!("the file ends at {at}, lstat says {end}"),
            ));
        }
        hasher.update(&chunk[..length]);
        at += length as u64;
    }
    Ok(())
}

/// Extended attributes of any kind of entry: by descriptor where one can be had without side effects, else through the
/// parent's descriptor in `/proc`, which keeps the path short and does not follow a symbolic link.
fn xattrs(parent: &OwnedFd, name: &CStr) -> io::Result<BTreeMap<String, String>> {
    use std::os::fd::AsRawFd;
    let mut path = format!("/proc/self/fd/{}/", parent.as_raw_fd()).into_bytes();
    path.extend_from_slice(name.to_bytes());
    let path = CString::new(path).map_err(io::Error::other)?;
    let mut names = vec![0; 64 << 10];
    let length = match llistxattr(&path, &mut names) {
        Ok(length) => length,
        Err(Errno::OPNOTSUPP) => return Ok(BTreeMap::new()),
        Err(error) => return Err(error.into()),
    };
    let mut found = BTreeMap::new();
    for name in names[..length].split(|byte| *byte == 0).filter(|name| !name.is_empty()) {
        let mut value = vec![0; 64 << 10];
        let length = lgetxattr(&path, CString::new(name).map_err(io::Error::other)?, &mut value)?;
        found.insert(quoted(name), quoted(&value[..length]));
    }
    Ok(found)
}

/// The error as two trees can compare it.
fn spelled(error: &io::Error) -> String {
    error.to_string()
}

/// What is left of a description for its owner without root's privileges: where the owner's own permission bits deny it, reading,
/// listing and entering fail.
pub fn as_owner_sees(tree: &Tree) -> Tree {
    let denied = spelled(&io::Error::from(Errno::ACCESS));
    let mut seen = tree.clone();
    let closed = |wanted: u32| {
        move |(path, entry): (&String, &Entry)| {
            (entry.kind == Kind::Directory && entry.mode & wanted != wanted).then(|| format!("{path}/"))
        }
    };
    let hidden: Vec<String> = tree.iter().filter_map(closed(0o500)).collect();
    seen.retain(|path, _| !hidden.iter().any(|above| path.starts_with(above.as_str())));
    for entry in seen.values_mut() {
        match entry.kind {
            Kind::Directory if entry.mode & 0o400 == 0 => entry.listing = Some(denied.clone()),
            Kind::File if entry.mode & 0o400 == 0 => {
                entry.data = Some(Err(denied.clone()));
                entry.content = Some(Err(denied.clone()));
            }
            _ => {}
        }
    }
    seen
}

/// Reads back what `twinshare-observe` printed.
///
/// # Errors
/// When it is not a tree.
pub fn parse(json: &str) -> Result<Tree> {
    let tree: Tree = serde_json::from_str(json).context("the observer's answer is no tree")?;
    ensure!(tree.contains_key(""), "the observer's answer has no root");
    Ok(tree)
}
