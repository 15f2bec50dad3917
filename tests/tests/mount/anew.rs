//! Files that change at the origin before a clone has them, seen through the mount.

use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;

use anyhow::{Context, Result, ensure};
use twinshare_tests::wait;

use super::BOUND;
use super::served::{Place, Who};

const BLOCK: usize = 64 * 1024;
/// Blocks of each file, more than is fetched along with the first.
const BLOCKS: usize = 64;
/// The place of one that is not here.
const LATER: u64 = (40 * BLOCK) as u64;

/// Content of which every eight bytes tell the version.
fn version(number: u64, blocks: usize) -> Vec<u8> {
    number.to_le_bytes().repeat(blocks * BLOCK / 8)
}

fn is_one_version(bytes: &[u8]) -> bool {
    let (words, _) = bytes.as_chunks::<8>();
    words.windows(2).all(|pair| pair[0] == pair[1])
}

fn write(source: &Path, path: &str, bytes: &[u8]) -> Result<()> {
    let path = source.join(path);
    fs::create_dir_all(path.parent().context("a path")?)?;
    Ok(fs::write(path, bytes)?)
}

fn replace(source: &Path, path: &str, bytes: &[u8]) -> Result<()> {
    write(source, "new", bytes)?;
    Ok(fs::rename(source.join("new"), source.join(path))?)
}

/// Reads the first block, and has the kernel read no more.
fn first_block(path: &Path) -> Result<()> {
    let file = File::open(path)?;
    rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::Random)?;
    Ok(file.read_exact_at(&mut [0; BLOCK], 0)?)
}

fn is_stale(error: &io::Error) -> bool {
    error.kind() == ErrorKind::StaleNetworkFileHandle
}

#[test]
fn changed_files_come_in_one_version_and_nobody_sees_two() -> Result<()> {
    let place = Place::new(Who::Myself)?;
    let (source, at) = (place.source(), place.mount_point());
    for path in ["open", "unread", "written", "d/moved", "d/changed", "gone", "link", "edited", "same"] {
        write(&source, path, &version(1, BLOCKS))?;
    }
    {
        // Of some files the first block is here.
        let served = place.serve_clone("wait=20s")?;
        for path in ["open", "written", "d/changed", "edited"] {
            first_block(&at.join(path))?;
        }
        File::options().write(true).open(at.join("edited"))?.write_all_at(&[9; BLOCK], 0)?;
        drop(served);
    }
    replace(&source, "open", &version(2, 12))?;
    replace(&source, "unread", &version(2, 3))?;
    fs::write(source.join("written"), version(2, 8))?;
    replace(&source, "d/changed", &version(2, 8))?;
    replace(&source, "edited", &version(2, 8))?;
    fs::rename(source.join("d"), source.join("e"))?;
    fs::remove_file(source.join("gone"))?;
    fs::remove_file(source.join("link"))?;
    std::os::unix::fs::symlink("same", source.join("link"))?;

    let mut served = place.serve_filling("wait=20s")?;
    // The kernel knows all of it, and somebody has some open.
    for path in ["open", "unread", "written", "d/moved", "d/changed", "gone", "link", "edited", "same"] {
        ensure!(fs::metadata(at.join(path))?.len() == (BLOCKS * BLOCK) as u64, "{path}");
    }
    let names = |path: &Path| -> Result<Vec<_>> {
        let mut names =
            fs::read_dir(path)?.map(|entry| Ok(entry?.file_name())).collect::<io::Result<Vec<_>>>()?;
        names.sort();
        Ok(names)
    };
    ensure!(names(&at)?.len() == 8);
    let open = File::open(at.join("open"))?;
    rustix::fs::fadvise(&open, 0, None, rustix::fs::Advice::Random)?;
    open.read_exact_at(&mut [0; BLOCK], 0)?;
    let writer = File::options().read(true).write(true).open(at.join("written"))?;
    served.ask("resume")?;

    // Meanwhile somebody reads, again and again.
    let mut read = 0;
    wait::until_true("all that may be replaced is", BOUND, || {
        for path in ["open", "unread", "d/changed", "d/moved"] {
            match fs::read(at.join(path)) {
                Ok(bytes) => {
                    ensure!(is_one_version(&bytes), "two versions of {path}");
                    read += 1;
                }
                Err(error) => ensure!(is_stale(&error), "{path}: {error}"),
            }
        }
        Ok(served.changed()? == [4, 1, 1])
    })
    .with_context(|| format!("{:?}", served.changed()))?;
    ensure!(read > 0);
    // What is shown is the new versions, to those who look anew.
    let looks_new = |path: &str, number: u64, blocks: usize| -> Result<bool> {
        let bytes = fs::read(at.join(path))?;
        let length = fs::metadata(at.join(path))?.len() as usize;
        Ok(bytes == version(number, blocks) && length == blocks * BLOCK)
    };
    wait::until_true("the kernel looks anew", BOUND, || {
        Ok(looks_new("open", 2, 12)?
            && looks_new("unread", 2, 3)?
            && looks_new("d/changed", 2, 8)?
            && looks_new("d/moved", 1, BLOCKS)?
            && !at.join("gone").exists()
            && fs::read_link(at.join("link")).is_ok_and(|target| target == Path::new("same"))
            && names(&at)?.len() == 7)
    })?;
    // Who has the old version keeps what is here of it, and never sees the new one.
    let mut bytes = vec![0; BLOCK];
    open.read_exact_at(&mut bytes, 0)?;
    ensure!(bytes == version(1, 1));
    let missing = open.read_at(&mut bytes, LATER);
    ensure!(missing.as_ref().is_err_and(is_stale), "{missing:?}");
    ensure!(open.metadata()?.len() == (BLOCKS * BLOCK) as u64 && open.metadata()?.nlink() == 0);
    // What is open for writing is what it was, and replaced once it is closed.
    ensure!(writer.metadata()?.ino() == fs::metadata(at.join("written"))?.ino());
    drop(writer);
    wait::until_true("what was closed is replaced", BOUND, || Ok(served.changed()? == [5, 1, 1]))?;
    wait::until_true("the kernel looks anew at it", BOUND, || looks_new("written", 2, 8))?;
    // What was edited here is as it was.
    let edited = File::open(at.join("edited"))?;
    edited.read_exact_at(&mut bytes, 0)?;
    ensure!(bytes == [9; BLOCK]);
    let missing = edited.read_at(&mut bytes, LATER);
    ensure!(missing.as_ref().is_err_and(is_stale), "{missing:?}");
    drop((open, edited, served));

    let mut served = place.serve_filling("wait=20s")?;
    ensure!(looks_new("open", 2, 12)? && looks_new("written", 2, 8)? && !at.join("gone").exists());
    ensure!(served.changed()? == [5, 1, 1], "it is still known after a restart");
    Ok(())
}
