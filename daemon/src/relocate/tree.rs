//! One directory tree as relocation reads it: beneath its top, through no link, on one filesystem.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags};
use rustix::io::Errno;
use twinshare_fs::beneath;

/// Names of one directory that are looked at, at most.
const NAMES_MAX: usize = 200_000;

/// A tree. Paths are those of names below its top, with slashes between them; the empty one is the top.
#[derive(Debug)]
pub(super) struct Tree {
    top: OwnedFd,
}

impl Tree {
    /// The tree in the directory at `path`.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        Ok(Self { top: rustix::fs::open(path, flags, Mode::empty())? })
    }

    pub(super) fn top(&self) -> BorrowedFd<'_> {
        self.top.as_fd()
    }

    /// The names in a directory and what each is, by name; none for anything else, or one that cannot be read.
    pub(super) fn list(&self, path: &str) -> Vec<(String, FileType)> {
        let mut all = self.entries(path).unwrap_or_default();
        all.sort_by(|a, b| a.0.cmp(&b.0));
        all
    }

    fn entries(&self, path: &str) -> Result<Vec<(String, FileType)>, Errno> {
        let directory = self.at(path, OFlags::RDONLY | OFlags::DIRECTORY)?;
        let mut all = Vec::new();
        for entry in Dir::read_from(&directory)?.take(NAMES_MAX) {
            let entry = entry?;
            // What is written down as text has to be text; nothing that is looked for has another name.
            let Ok(name) = entry.file_name().to_str() else { continue };
            let kind = match entry.file_type() {
                FileType::Unknown => {
                    let stat = rustix::fs::statat(&directory, entry.file_name(), AtFlags::SYMLINK_NOFOLLOW);
                    stat.map_or(FileType::Unknown, |stat| FileType::from_raw_mode(stat.st_mode))
                }
                kind => kind,
            };
            if !matches!(name, "." | "..") {
                all.push((name.to_owned(), kind));
            }
        }
        Ok(all)
    }

    /// What a regular file holds.
    pub(super) fn read(&self, path: &str, bytes_max: u64) -> io::Result<Vec<u8>> {
        read(self.at(path, OFlags::RDONLY)?, bytes_max)
    }

    /// Where a link leads, as text.
    pub(super) fn target(&self, path: &str) -> Option<String> {
        let link = self.at(path, OFlags::PATH).ok()?;
        rustix::fs::readlinkat(&link, c"", Vec::new()).ok()?.into_string().ok()
    }

    /// The directory that holds `path`, good for reaching names in it, and its name there.
    pub(super) fn parent<'p>(&self, path: &'p str) -> Result<(OwnedFd, &'p str), Errno> {
        let (parent, name) = path.rsplit_once('/').unwrap_or(("", path));
        Ok((self.at(parent, OFlags::PATH | OFlags::DIRECTORY)?, name))
    }

    fn at(&self, path: &str, flags: OFlags) -> Result<OwnedFd, Errno> {
        beneath::open(self.top.as_fd(), path.as_bytes(), flags)
    }
}

/// What an open regular file holds, up to a bound.
pub(super) fn read(file: OwnedFd, bytes_max: u64) -> io::Result<Vec<u8>> {
    let file = File::from(file);
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Err(io::Error::other("it is not a regular file"));
    }
    if metadata.len() > bytes_max {
        return Err(io::Error::other(format!("it has more than {} MiB", bytes_max >> 20)));
    }
    let mut bytes = Vec::with_capacity(usize::try_from(metadata.len()).unwrap_or(0));
    file.take(bytes_max).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// A path below another one.
pub(super) fn join(directory: &str, name: &str) -> String {
    if directory.is_empty() { name.to_owned() } else { format!("{directory}/{name}") }
}
