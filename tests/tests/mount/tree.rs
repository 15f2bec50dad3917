//! A tree of oddities, and how a mount of it is compared with it.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, PermissionsExt, symlink};
use std::path::Path;

use anyhow::{Context, Result, ensure};
use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, XattrFlags, lsetxattr, utimensat};
use twinshare_tests::substitution::{Facts, differences, expected};
use twinshare_tests::tree::observe;

/// Makes one of everything below `root`, on a file system with user xattrs and holes.
pub(crate) fn make_odd(root: &Path) -> Result<()> {
    let odd_names: [&[u8]; 7] = [b"\xff\xfe", b"new\nline", b"-rf", b" ", b"'\"`$(x)", b"...", &[b'n'; 255]];
    for name in odd_names {
        fs::write(root.join(OsStr::from_bytes(name)), name)?;
    }
    make_deep(root)?;
    for (name, mode) in [("secret", 0o600), ("program", 0o755), ("closed", 0o000), ("sticky", 0o1644)] {
        fs::write(root.join(name), name)?;
        fs::set_permissions(root.join(name), fs::Permissions::from_mode(mode))?;
    }
    for (index, size) in [0u64, 1, 4095, 65_535, 65_536, 65_537, 1_048_577, 3_000_000].into_iter().enumerate()
    {
        fs::write(root.join(format!("size{index}")), content(size))?;
    }
    for (name, target) in
        [("abs", "/etc/hostname"), ("up", "../../outside"), ("dangling", "no/such"), ("dot", ".")]
    {
        symlink(target, root.join(name))?;
    }
    fs::hard_link(root.join("size3"), root.join("deep").join("again"))?;
    fs::create_dir(root.join("empty"))?;
    make_sparse(&root.join("sparse"))?;
    lsetxattr(root.join("program"), "user.note", b"a\0b", XattrFlags::empty())?;
    lsetxattr(root.join("empty"), "user.on.a.directory", b"", XattrFlags::empty())?;
    set_time(&root.join("size1"), -1_000_000_000, 123_456_789)?;
    set_time(&root.join("dangling"), 5_000_000_000, 1)?;
    set_time(&root.join("empty"), 0, 999_999_999)
}

fn make_deep(root: &Path) -> Result<()> {
    let mut deep = root.join("deep");
    for _ in 0..12 {
        fs::create_dir(&deep)?;
        deep.push("d".repeat(100));
    }
    fs::create_dir(&deep)?;
    Ok(fs::write(deep.join("bottom"), b"reached")?)
}

/// Holes at the start, in the middle and at the end.
fn make_sparse(path: &Path) -> Result<()> {
    let file = File::create(path)?;
    for at in [1 << 20, 5 << 20] {
        file.write_all_at(&content(100_000), at)?;
    }
    Ok(file.set_len(8 << 20)?)
}

fn set_time(path: &Path, tv_sec: i64, tv_nsec: i64) -> Result<()> {
    let time = Timespec { tv_sec, tv_nsec };
    let times = Timestamps { last_access: time, last_modification: time };
    Ok(utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW)?)
}

pub(crate) fn content(size: u64) -> Vec<u8> {
    (0..size).map(|at| (at % 251) as u8 ^ (at >> 16) as u8).collect()
}

/// A tree of `directories` directories with `files` small files each, and its number of entries.
pub(crate) fn make_wide(root: &Path, directories: u32, files: u32) -> Result<u32> {
    for directory in 0..directories {
        let directory = root.join(format!("d{}", directory / 100)).join(format!("e{directory}"));
        fs::create_dir_all(&directory)?;
        for file in 0..files {
            File::create(directory.join(format!("f{file}")))?.write_all(b"x")?;
        }
    }
    Ok(directories.div_ceil(100) + directories + directories * files)
}

/// Compares what is below `mounted` with what is below `source`, but for the substitutions that are documented.
pub(crate) fn compare(source: &Path, mounted: &Path) -> Result<()> {
    let owner = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    let observed = |root: &Path| observe(root.to_str().context("a path of the test's own")?);
    let expected = expected(&observed(source)?, &Facts { owner, ..Facts::default() }, None);
    let differences = differences(&expected, &observed(mounted)?);
    ensure!(differences.is_empty(), "{}", differences.join("\n"));
    Ok(())
}
