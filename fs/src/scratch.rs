//! Files that exist only as long as somebody has them open.

use std::fs::File;
use std::io;
use std::path::Path;

use rustix::fs::{Mode, OFlags};

/// A file without a name on the filesystem of `beside`.
pub(crate) fn unnamed_file(beside: &Path) -> io::Result<File> {
    let directory = beside.parent().unwrap_or(Path::new("."));
    let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
    Ok(rustix::fs::open(directory, flags, Mode::RUSR | Mode::WUSR)?.into())
}
