//! Files that are nowhere to be found until they are complete, or ever.

use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use rustix::fs::{Mode, OFlags};

/// A file in the making: beside its path until it is finished, and gone if it never is.
#[derive(Debug)]
pub(crate) struct Partial {
    pub(crate) file: File,
    path: PathBuf,
    temporary: PathBuf,
}

impl Partial {
    /// Creates it for reading and writing, and removes what processes that died have left of others for this path.
    /// One process at a time may be at it, with as many as it likes; the last to finish stays.
    pub(crate) fn create(path: &Path) -> io::Result<Self> {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let own = format!("{}-", std::process::id());
        sweep(path, &own)?;
        loop {
            let number = NUMBER.fetch_add(1, Relaxed);
            let temporary = path.with_file_name(beside(path, &format!("{own}{number}")));
            match File::options().read(true).write(true).create_new(true).open(&temporary) {
                Ok(file) => return Ok(Self { file, path: path.into(), temporary }),
                // A process with our number has left it.
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Puts it at its path, durably, in place of what is there.
    pub(crate) fn finish(&self) -> io::Result<()> {
        self.file.sync_all()?;
        std::fs::rename(&self.temporary, &self.path)?;
        File::open(parent(&self.path))?.sync_all()
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        // Gone already once it has been renamed.
        let _ = std::fs::remove_file(&self.temporary);
    }
}

/// The name of a file that is to be `path` one day.
fn beside(path: &Path, suffix: &str) -> OsString {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".partial-");
    name.push(suffix);
    name
}

fn sweep(path: &Path, own: &str) -> io::Result<()> {
    let (all, own) = (beside(path, ""), beside(path, own));
    for entry in std::fs::read_dir(parent(path))? {
        let name = entry?.file_name();
        let starts_with = |prefix: &OsString| name.as_encoded_bytes().starts_with(prefix.as_encoded_bytes());
        if starts_with(&all) && !starts_with(&own) {
            std::fs::remove_file(path.with_file_name(&name))?;
        }
    }
    Ok(())
}

fn parent(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// A file without a name on the filesystem of `beside`.
pub(crate) fn unnamed_file(beside: &Path) -> io::Result<File> {
    let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
    Ok(rustix::fs::open(parent(beside), flags, Mode::RUSR | Mode::WUSR)?.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_appears_when_it_is_finished_and_leaves_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("f");
        let names = || {
            let names = std::fs::read_dir(directory.path()).unwrap();
            let mut names: Vec<_> = names.map(|entry| entry.unwrap().file_name()).collect();
            names.sort();
            names
        };
        std::fs::write(directory.path().join("f.partial-1-0"), "left by another").unwrap();
        std::fs::write(directory.path().join("g.partial-1-0"), "of another").unwrap();
        let (first, second) = (Partial::create(&path).unwrap(), Partial::create(&path).unwrap());
        assert_eq!(names().len(), 3);
        drop(first);
        std::fs::write(&path, "before").unwrap();
        second.finish().unwrap();
        drop(second);
        assert_eq!(names(), ["f", "g.partial-1-0"]);
        assert_eq!(std::fs::read(&path).unwrap(), b"");
    }
}
