//! The directory of a view, which shows one snapshot after the other.
//!
//! | name | what |
//! |---|---|
//! | `README` | what this is, for whoever finds it |
//! | `content/G/N` | the content of the file whose number is `N`, where `G` is `N` divided by 4096 |
//! | `editions/K/` | the `K`th snapshot shown: `manifest`, `digests`, `changed`, and `numbers` |
//! | `editions/K.making/` | one that is not complete yet |
//!
//! An edition is one snapshot as the view shows it: a [replica](super::Replica) of its own, with its own manifest. Content
//! lies by [number](super::numbers), so what stays from one edition to the next is where it was, and no change of
//! edition moves a file. An edition counts once its directory has its final name, which it gets when its manifest and
//! its numbers are on the disk; the highest counts alone. So a crash leaves the view at one edition or the other, and
//! what the others left is removed when the directory is opened again: unfinished editions, earlier ones, and content
//! whose number the edition does not have.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{AtFlags, FlockOperation, Mode, OFlags};
use rustix::io::Errno;

use super::layout::{self, Layout, LayoutError};
use super::losing::Losing;
use super::numbers::Numbers;
use crate::beneath;

/// The name of the table of numbers in an edition's directory.
const NUMBERS: &str = "numbers";

/// What is added to the name of an edition that is not complete.
const MAKING: &str = ".making";

/// Numbers whose files share a directory.
const GROUP: u64 = 4096;

/// What a replica directory of an earlier layout held.
const FORMER: [&str; 7] = ["tree", "links", "companions", "staging", "manifest", "digests", "changed"];

const README: &str = "\
This directory belongs to twinshare. It holds what has been fetched of a peer's workspace that is shown here, read-only.

Nothing in here should be changed by hand. It is removed with the view (`twinshare unmount`), and everything in
it can be fetched again.
";

/// The open directory of a view, locked against other processes until it is dropped.
#[derive(Debug)]
pub struct ViewDirectory {
    path: PathBuf,
    directory: OwnedFd,
    content: OwnedFd,
    editions: OwnedFd,
    losing: Arc<Losing>,
}

impl ViewDirectory {
    /// Opens the directory of a view, makes it where it does not exist, and removes what an earlier process left
    /// unfinished. Blocks: some microseconds for each file whose content is here.
    pub fn open(path: &Path) -> Result<Arc<Self>, LayoutError> {
        let disk = |doing| move |errno: Errno| layout::disk(path, doing, errno);
        layout::make_directories(path).map_err(disk("it cannot be made"))?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory = rustix::fs::open(path, flags, Mode::empty()).map_err(disk("it cannot be opened"))?;
        match rustix::fs::flock(&directory, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(Errno::WOULDBLOCK) => return Err(LayoutError::InUse { path: path.into() }),
            Err(errno) => return Err(disk("it cannot be locked")(errno)),
        }
        let part = |name| {
            layout::make_directory(&directory, name)
                .and_then(|()| layout::subdirectory(&directory, name))
                .map_err(disk("nothing can be made in it"))
        };
        let (content, editions) = (part("content")?, part("editions")?);
        layout::write_readme(&directory, README).map_err(|source| LayoutError::Disk {
            path: path.into(),
            doing: "nothing can be written in it",
            source,
        })?;
        let view = Self { path: path.into(), directory, content, editions, losing: Arc::default() };
        view.tidy().map_err(disk("what was left in it cannot be removed"))?;
        Ok(Arc::new(view))
    }

    /// The edition that is shown; a new one where there is none.
    pub fn shown(self: &Arc<Self>) -> Result<Layout, LayoutError> {
        let number = self.newest().map_err(|errno| self.disk("it cannot be listed", errno))?;
        self.edition(number.unwrap_or(0), "")
    }

    /// Begins the edition after the one that is shown. Nothing else may be making one.
    pub fn make(self: &Arc<Self>) -> Result<Layout, LayoutError> {
        let newest = self.newest().map_err(|errno| self.disk("it cannot be listed", errno))?;
        let number = newest.map_or(0, |newest| newest + 1);
        self.remove(&format!("{number}{MAKING}"))
            .map_err(|errno| self.disk("it cannot be removed", errno))?;
        self.edition(number, MAKING)
    }

    fn edition(self: &Arc<Self>, number: u32, suffix: &str) -> Result<Layout, LayoutError> {
        let name = format!("{number}{suffix}");
        let opened = layout::make_directory(&self.editions, &name)
            .and_then(|()| layout::subdirectory(&self.editions, &name));
        let path = self.path.join("editions").join(&name);
        let directory = opened.map_err(|errno| layout::disk(&path, "it cannot be opened", errno))?;
        Layout::edition(path, directory, InView { view: self.clone(), number })
    }

    fn disk(&self, doing: &'static str, errno: Errno) -> LayoutError {
        layout::disk(&self.path, doing, errno)
    }

    pub(super) fn losing(&self) -> &Arc<Losing> {
        &self.losing
    }

    /// Lets other processes open it.
    pub(super) fn unlock(&self) {
        // It can only fail for a descriptor that is none.
        let _ = rustix::fs::flock(&self.directory, FlockOperation::Unlock);
    }

    /// The number of the edition that is shown.
    fn newest(&self) -> Result<Option<u32>, Errno> {
        Ok(self.names()?.iter().filter_map(|name| name.parse().ok()).max())
    }

    fn names(&self) -> Result<Vec<String>, Errno> {
        let names = beneath::names(self.editions.as_fd(), b"")?;
        Ok(names.into_iter().filter_map(|name| String::from_utf8(name).ok()).collect())
    }

    /// Removes everything but the edition that is shown and what belongs to it.
    fn tidy(&self) -> Result<(), Errno> {
        for former in FORMER {
            let at = self.path.join(former);
            remove_all(if at.is_dir() { fs::remove_dir_all(&at) } else { fs::remove_file(&at) })?;
        }
        let mut numbers: Vec<u32> = self.names()?.iter().filter_map(|name| name.parse().ok()).collect();
        numbers.sort_unstable();
        let mut shown = None;
        while shown.is_none()
            && let Some(newest) = numbers.pop()
        {
            shown = match self.numbers(newest) {
                Ok(numbers) => Some((newest.to_string(), numbers)),
                Err(error) => {
                    let at = self.path.display();
                    tracing::warn!(%at, newest, %error, "what was shown cannot be read and is fetched anew");
                    None
                }
            };
        }
        for name in self.names()? {
            if shown.as_ref().is_none_or(|(shown, _)| *shown != name) {
                self.remove(&name)?;
            }
        }
        let numbers = shown.map(|(_, numbers)| numbers);
        // Of the first edition no other's content can be here.
        let Some(None) = numbers else { return self.sweep(numbers.flatten().as_ref()) };
        Ok(())
    }

    /// The table of an edition; none of the first.
    fn numbers(&self, edition: u32) -> io::Result<Option<Numbers>> {
        let path = format!("{edition}/{NUMBERS}");
        match beneath::open(self.editions.as_fd(), path.as_bytes(), OFlags::RDONLY) {
            Ok(file) => read_numbers(File::from(file)).map(Some),
            Err(Errno::NOENT) if edition == 0 => Ok(None),
            Err(errno) => Err(errno.into()),
        }
    }

    /// Removes content whose number is not among these.
    fn sweep(&self, kept: Option<&Numbers>) -> Result<(), Errno> {
        for group in beneath::names(self.content.as_fd(), b"")? {
            let directory = beneath::open(self.content.as_fd(), &group, OFlags::RDONLY | OFlags::DIRECTORY)?;
            for name in beneath::names(directory.as_fd(), b"")? {
                let number = std::str::from_utf8(&name).ok().and_then(|name| name.parse().ok());
                let is_kept =
                    number.is_some_and(|number| kept.is_some_and(|kept| kept.entry(number).is_some()));
                if !is_kept {
                    gone(rustix::fs::unlinkat(&directory, name.as_slice(), AtFlags::empty()))?;
                }
            }
        }
        Ok(())
    }

    /// Removes an edition's directory.
    fn remove(&self, name: &str) -> Result<(), Errno> {
        remove_all(fs::remove_dir_all(self.path.join("editions").join(name)))
    }
}

fn read_numbers(mut file: File) -> io::Result<Numbers> {
    let mut bytes = Vec::new();
    io::Read::read_to_end(&mut file, &mut bytes)?;
    Numbers::decode(&bytes)
}

fn remove_all(removed: io::Result<()>) -> Result<(), Errno> {
    gone(removed.map_err(super::store::to_errno))
}

fn gone(removed: Result<(), Errno>) -> Result<(), Errno> {
    match removed {
        Err(Errno::NOENT) => Ok(()),
        removed => removed,
    }
}

/// Where an edition belongs.
#[derive(Clone, Debug)]
pub(super) struct InView {
    view: Arc<ViewDirectory>,
    number: u32,
}

impl InView {
    pub(super) fn view(&self) -> &ViewDirectory {
        &self.view
    }

    /// The directory of all content.
    pub(super) fn content(&self) -> BorrowedFd<'_> {
        self.view.content.as_fd()
    }

    /// The numbers of an edition of `entries` entries, which lies in `directory`.
    pub(super) fn numbers(&self, directory: BorrowedFd<'_>, entries: u32) -> io::Result<Numbers> {
        match beneath::open(directory, NUMBERS.as_bytes(), OFlags::RDONLY) {
            Ok(file) => read_numbers(File::from(file)),
            Err(Errno::NOENT) => Ok(Numbers::first(entries)),
            Err(errno) => Err(errno.into()),
        }
    }

    /// Gives the edition in the making in `directory` its numbers, durably.
    pub(super) fn write_numbers(&self, directory: BorrowedFd<'_>, numbers: &Numbers) -> io::Result<()> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::CLOEXEC;
        let mut file = File::from(rustix::fs::openat(directory, NUMBERS, flags, Mode::RUSR | Mode::WUSR)?);
        file.write_all(&numbers.encode())?;
        file.sync_all()
    }

    /// The edition in the making in `directory` is complete, durably: from now on the view opens as it.
    pub(super) fn publish(&self, directory: BorrowedFd<'_>) -> Result<(), Errno> {
        rustix::fs::fsync(directory)?;
        let editions = &self.view.editions;
        let name = self.number.to_string();
        rustix::fs::renameat(editions, format!("{name}{MAKING}"), editions, name)?;
        rustix::fs::fsync(editions)
    }

    /// Removes the edition, which is not shown any more, with the content of the files that have a number in `had` and
    /// none in `has`. Nothing uses either.
    pub(super) fn discard(&self, had: &Numbers, has: &Numbers) -> Result<(), Errno> {
        let mut result = Ok(());
        had.each_without(has, |number| {
            let removed = rustix::fs::unlinkat(self.content(), names_of(number).join("/"), AtFlags::empty());
            result = std::mem::replace(&mut result, Ok(())).and(gone(removed));
        });
        result.and_then(|()| self.view.remove(&self.number.to_string()))
    }
}

/// Where below the directory of all content that of a file lies.
pub(super) fn names_of(number: u64) -> [String; 2] {
    [(number / GROUP).to_string(), number.to_string()]
}
