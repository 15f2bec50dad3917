//! The file that things are done to: every way to its bytes.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use memmap2::MmapOptions;
use rustix::fs::{Advice, FallocateFlags, SeekFrom};
use rustix::io::Errno;

pub(crate) struct Subject {
    path: PathBuf,
    file: File,
}

impl Subject {
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let file = OpenOptions::new().read(true).write(true).open(path).context("open")?;
        Ok(Self { path: path.to_owned(), file })
    }

    pub(crate) fn read(&self, from: usize, length: usize) -> Result<Vec<u8>> {
        let mut bytes = vec![0xaa; length];
        self.file.read_exact_at(&mut bytes, from as u64).context("read")?;
        Ok(bytes)
    }

    pub(crate) fn write(&self, from: usize, bytes: &[u8]) -> Result<()> {
        self.file.write_all_at(bytes, from as u64).context("write")
    }

    pub(crate) fn append(&self, bytes: &[u8]) -> Result<()> {
        let mut file = OpenOptions::new().append(true).open(&self.path).context("open to append")?;
        io::Write::write_all(&mut file, bytes).context("append")
    }

    pub(crate) fn truncate(&self, size: usize) -> Result<()> {
        self.file.set_len(size as u64).context("truncate")
    }

    pub(crate) fn has_length(&self, expected: usize) -> Result<()> {
        let (by_file, by_path) = (self.file.metadata()?.len(), fs::metadata(&self.path)?.len());
        ensure!(
            [by_file, by_path] == [expected as u64; 2],
            "{by_file}, {by_path} in place of {expected} bytes"
        );
        Ok(())
    }

    pub(crate) fn read_mapped(&self, from: usize, length: usize) -> Result<Vec<u8>> {
        if length == 0 {
            return Ok(Vec::new());
        }
        #[expect(unsafe_code, reason = "mapping is what is tested")]
        // SAFETY: nobody else changes or cuts the file.
        let mapped = unsafe { part(from, length).map(&self.file) };
        Ok(mapped.context("map")?.to_vec())
    }

    pub(crate) fn write_mapped(&self, from: usize, bytes: &[u8], is_synced: bool) -> Result<()> {
        if bytes.is_empty() {
            return Ok(());
        }
        #[expect(unsafe_code, reason = "mapping is what is tested")]
        // SAFETY: nobody else changes or cuts the file.
        let mapped = unsafe { part(from, bytes.len()).map_mut(&self.file) };
        let mut mapped = mapped.context("map to write")?;
        mapped.copy_from_slice(bytes);
        if is_synced { mapped.flush().context("msync") } else { Ok(()) }
    }

    /// Writes to a mapping of which nobody else sees anything.
    pub(crate) fn write_private(&self, from: usize, bytes: &[u8]) -> Result<()> {
        if bytes.is_empty() {
            return Ok(());
        }
        #[expect(unsafe_code, reason = "mapping is what is tested")]
        // SAFETY: nobody else changes or cuts the file.
        let mapped = unsafe { part(from, bytes.len()).map_copy(&self.file) };
        let mut mapped = mapped.context("map privately")?;
        mapped.copy_from_slice(bytes);
        ensure!(mapped[..] == *bytes, "a private mapping does not keep what is written to it");
        Ok(())
    }

    /// False where the filesystem does not do that.
    pub(crate) fn punch(&self, from: usize, length: usize) -> Result<bool> {
        self.fallocate(FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, from, length).context("punch")
    }

    pub(crate) fn zero(&self, from: usize, length: usize) -> Result<bool> {
        self.fallocate(FallocateFlags::ZERO_RANGE, from, length).context("zero")
    }

    pub(crate) fn allocate(&self, from: usize, length: usize) -> Result<bool> {
        self.fallocate(FallocateFlags::empty(), from, length).context("allocate")
    }

    fn fallocate(&self, flags: FallocateFlags, from: usize, length: usize) -> Result<bool> {
        match rustix::fs::fallocate(&self.file, flags, from as u64, length as u64) {
            Ok(()) => Ok(true),
            Err(Errno::OPNOTSUPP) => Ok(false),
            Err(errno) => Err(errno.into()),
        }
    }

    /// Copies within the file; the bytes that were.
    pub(crate) fn copy(&self, from: usize, to: usize, length: usize) -> Result<usize> {
        let (mut source, mut target) = (from as u64, to as u64);
        let into = &mut target;
        rustix::fs::copy_file_range(&self.file, Some(&mut source), &self.file, Some(into), length)
            .context("copy")
    }

    /// What is said to be a hole has to be zeros.
    pub(crate) fn has_no_wrong_holes(&self, truth: &[u8]) -> Result<()> {
        let mut at = 0;
        while at < truth.len() {
            let data = match rustix::fs::seek(&self.file, SeekFrom::Data(at as u64)) {
                Ok(data) => (data as usize).min(truth.len()),
                Err(Errno::NXIO) => truth.len(),
                Err(errno) => return Err(errno).context("seek data"),
            };
            ensure!(truth[at..data].iter().all(|byte| *byte == 0), "{at} to {data} is no hole");
            if data == truth.len() {
                break;
            }
            at = rustix::fs::seek(&self.file, SeekFrom::Hole(data as u64)).context("seek hole")? as usize;
            ensure!(at > data, "a hole at {at}, where data begins");
        }
        Ok(())
    }

    pub(crate) fn sync(&self, data_only: bool) -> Result<()> {
        if data_only { self.file.sync_data() } else { self.file.sync_all() }.context("sync")
    }

    /// Has the kernel forget what it can.
    pub(crate) fn forget(&self) -> Result<()> {
        self.file.sync_data()?;
        rustix::fs::fadvise(&self.file, 0, None, Advice::DontNeed).context("advise")
    }

    pub(crate) fn reopen(&mut self) -> Result<()> {
        *self = Self::open(&self.path)?;
        Ok(())
    }

    /// To another name and back, with the file open.
    pub(crate) fn rename(&self) -> Result<()> {
        let other = self.beside("renamed");
        fs::rename(&self.path, &other).context("rename")?;
        fs::rename(&other, &self.path).context("rename back")
    }

    /// A second name takes the first one's place.
    pub(crate) fn link(&mut self) -> Result<()> {
        let other = self.beside("linked");
        fs::hard_link(&self.path, &other).context("link")?;
        fs::remove_file(&self.path).context("unlink")?;
        fs::rename(&other, &self.path).context("rename the link")?;
        self.reopen()
    }

    fn beside(&self, what: &str) -> PathBuf {
        let mut path = self.path.clone().into_os_string();
        path.push(".");
        path.push(what);
        path.into()
    }
}

fn part(from: usize, length: usize) -> MmapOptions {
    let mut part = MmapOptions::new();
    part.offset(from as u64).len(length);
    part
}
