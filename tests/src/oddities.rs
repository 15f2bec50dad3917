//! A small tree in which everything that a directory tree can hold on Linux occurs, and that finds out what a copy lost.

use std::{
    ffi::{CString, OsStr},
    fs::{self, File, Permissions},
    os::{
        fd::AsFd,
        unix::{
            ffi::OsStrExt,
            fs::{FileExt, PermissionsExt, symlink},
            net::UnixListener,
        },
    },
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use rustix::fs::{
    AtFlags, CWD, FileType, Mode, OFlags, Timespec, Timestamps, XattrFlags, lsetxattr, mkdirat, mkfifoat,
    mknodat, openat, utimensat,
};

use crate::random::noise;

/// Builds the tree in the existing, empty directory `at`. Needs root, for devices and foreign owners.
///
/// `beside` is an existing directory on the same filesystem but outside the tree: one file gets a further name there.
///
/// # Errors
/// As the filesystem says.
pub fn build(at: &Path, beside: &Path) -> Result<()> {
    names(&at.join("names"))?;
    depth(&at.join("depth"))?;
    sizes(&at.join("sizes"))?;
    modes(&at.join("modes"))?;
    links(&at.join("links"), beside)?;
    holes(&at.join("holes"))?;
    xattrs(&at.join("xattrs"))?;
    specials(&at.join("specials"))?;
    crowd(&at.join("crowd"))?;
    // Last, since everything above changes the times of directories.
    times(&at.join("times"))
}

fn names(at: &Path) -> Result<()> {
    fs::create_dir(at)?;
    let long = vec![b'n'; 255];
    let wide = "ü".repeat(127);
    let odd: &[&[u8]] = &[
        b" ",
        b"  two  ",
        b"-rf",
        b"--",
        b"...",
        b".hidden",
        b"~",
        b"#",
        b"%2F",
        b"*",
        b"?",
        b"[a]",
        b"$HOME",
        b"`id`",
        b";",
        b"&",
        b"|",
        b"'",
        b"\"",
        b"\\",
        b"a\\b",
        b"new\nline",
        b"tab\t",
        b"\r",
        b"\x01\x02",
        b"\x7f",
        b"\x1b[31m",
        b"con",
        b"trailing.",
        b"trailing ",
        b"Case",
        b"case",
        b"CASE",
        "e\u{301}".as_bytes(),
        "\u{e9}".as_bytes(),
        "日本語".as_bytes(),
        "\u{202e}gpj".as_bytes(),
        "🦀".as_bytes(),
        b"\xff\xfe",
        b"\xc3",
        b"\xed\xa0\x80",
        &long,
        wide.as_bytes(),
    ];
    for name in odd {
        fs::write(at.join(OsStr::from_bytes(name)), name)
            .with_context(|| format!("naming a file {name:?}"))?;
    }
    fs::create_dir(at.join(OsStr::from_bytes(b"dir\xff\n")))?;
    fs::write(at.join(OsStr::from_bytes(b"dir\xff\n/inside")), b"inside")?;
    Ok(fs::create_dir(at.join("empty"))?)
}

/// A path of more than `PATH_MAX` bytes, made step by step.
fn depth(at: &Path) -> Result<()> {
    fs::create_dir(at)?;
    let step = CString::new(vec![b'd'; 250])?;
    let mut here = openat(CWD, at, OFlags::DIRECTORY, Mode::empty())?;
    for _ in 0..20 {
        mkdirat(&here, &step, Mode::from_raw_mode(0o755))?;
        here = openat(&here, &step, OFlags::DIRECTORY, Mode::empty())?;
    }
    let file = openat(&here, c"bottom", OFlags::CREATE | OFlags::WRONLY, Mode::from_raw_mode(0o644))?;
    File::from(file).write_all_at(b"reached", 0)?;
    Ok(())
}

fn sizes(at: &Path) -> Result<()> {
    fs::create_dir(at)?;
    const BLOCK: usize = 64 << 10;
    for size in
        [0, 1, 1023, 1024, 1025, 4095, 4096, BLOCK - 1, BLOCK, BLOCK + 1, 3 * BLOCK, (1 << 20) + 1, 5_000_011]
    {
        fs::write(at.join(size.to_string()), noise(size, size as u64))?;
    }
    fs::write(at.join("text"), "the same line again and again\n".repeat(20_000))?;
    Ok(fs::write(at.join("zeros"), vec![0; 2 * BLOCK])?)
}

fn modes(at: &Path) -> Result<()> {
    fs::create_dir(at)?;
    for mode in [
        0o000, 0o400, 0o444, 0o111, 0o555, 0o600, 0o640, 0o644, 0o700, 0o755, 0o777, 0o4755, 0o2755, 0o6711,
        0o1644,
    ] {
        let path = at.join(format!("file-{mode:04o}"));
        fs::write(&path, b"#!/bin/sh\necho ran\n")?;
        fs::set_permissions(&path, Permissions::from_mode(mode))?;
    }
    for mode in [0o500, 0o555, 0o700, 0o711, 0o755, 0o1777, 0o2775, 0o000] {
        let path = at.join(format!("dir-{mode:04o}"));
        fs::create_dir(&path)?;
        fs::write(path.join("inside"), b"inside")?;
        fs::set_permissions(&path, Permissions::from_mode(mode))?;
    }
    let owned = at.join("someone-elses");
    fs::write(&owned, b"theirs")?;
    Ok(std::os::unix::fs::chown(&owned, Some(12_345), Some(54_321))?)
}

fn links(at: &Path, beside: &Path) -> Result<()> {
    fs::create_dir_all(at.join("sub/deeper"))?;
    let targets: &[(&str, &[u8])] = &[
        ("relative", b"sub/one"),
        ("absolute", b"/etc/hostname"),
        ("dangling", b"nowhere/at/all"),
        ("loop-a", b"loop-b"),
        ("loop-b", b"loop-a"),
        ("self", b"self"),
        ("upward", b"../../../../outside"),
        ("to-dir", b"sub"),
        ("dot", b"."),
        ("slashes", b"sub//deeper/"),
        ("bytes", b"\xff\n%"),
        ("blank", b" "),
    ];
    for (name, target) in targets {
        symlink(OsStr::from_bytes(target), at.join(name))?;
    }
    symlink("t".repeat(4095), at.join("longest"))?;
    fs::write(at.join("sub/one"), noise(100_000, 1))?;
    for name in ["two", "sub/three", "sub/deeper/four"] {
        fs::hard_link(at.join("sub/one"), at.join(name))?;
    }
    fs::write(at.join("shared-with-outside"), b"two names, one of them elsewhere")?;
    fs::hard_link(at.join("shared-with-outside"), beside.join("other-name"))?;
    symlink("sub", at.join("linked-link"))?;
    fs::hard_link(at.join("linked-link"), at.join("linked-link-too")).context("hard-linking a symbolic link")
}

fn holes(at: &Path) -> Result<()> {
    fs::create_dir(at)?;
    const MIB: u64 = 1 << 20;
    // Name, size, and where 64 KiB of data lie.
    let files: &[(&str, u64, &[u64])] = &[
        ("all-hole", 64 * MIB, &[]),
        ("leading", 8 * MIB, &[8 * MIB - 65_536]),
        ("trailing", 8 * MIB + 1, &[0]),
        ("middle", 8 * MIB, &[0, 4 * MIB, 8 * MIB - 65_536]),
        ("unaligned", 3 * MIB + 12_345, &[MIB + 4096, 2 * MIB + 8192]),
        ("a-terabyte", 1 << 40, &[0, 1 << 39]),
    ];
    for (name, size, data) in files {
        let file = File::create(at.join(name))?;
        file.set_len(*size)?;
        for offset in *data {
            file.write_all_at(&noise(65_536, *offset + 1), *offset)?;
        }
        file.sync_all()?;
    }
    let comb = File::create(at.join("comb"))?;
    comb.set_len(4 * MIB)?;
    for tooth in 0..256 {
        comb.write_all_at(&noise(4096, tooth + 1), tooth * 16_384)?;
    }
    Ok(comb.sync_all()?)
}

fn xattrs(at: &Path) -> Result<()> {
    fs::create_dir(at)?;
    let file = at.join("file");
    fs::write(&file, b"with attributes")?;
    set(&file, "user.plain", b"value")?;
    set(&file, "user.empty", b"")?;
    set(&file, "user.bytes", &noise(1000, 7))?;
    set(&file, "user.with.dots and spaces", b"\0\n")?;
    let dir = at.join("dir");
    fs::create_dir(&dir)?;
    set(&dir, "user.on-a-directory", b"too")?;
    let guarded = at.join("acl-and-capability");
    fs::write(&guarded, b"")?;
    // A minimal ACL with a named user (linux/posix_acl_xattr.h), and CAP_NET_RAW (linux/capability.h, version 2).
    set(&guarded, "system.posix_acl_access", &acl_for_user(12_345))?;
    set(&guarded, "security.capability", &[1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0])?;
    Ok(())
}

fn acl_for_user(user: u32) -> Vec<u8> {
    const NOBODY: u32 = u32::MAX;
    let mut acl = 2_u32.to_le_bytes().to_vec();
    for (tag, permissions, id) in
        [(1_u16, 6_u16, NOBODY), (2, 4, user), (4, 4, NOBODY), (16, 4, NOBODY), (32, 4, NOBODY)]
    {
        acl.extend_from_slice(&tag.to_le_bytes());
        acl.extend_from_slice(&permissions.to_le_bytes());
        acl.extend_from_slice(&id.to_le_bytes());
    }
    acl
}

fn set(path: &Path, name: &str, value: &[u8]) -> Result<()> {
    lsetxattr(path, name, value, XattrFlags::empty())
        .with_context(|| format!("setting {name} on {}", path.display()))
}

fn specials(at: &Path) -> Result<()> {
    fs::create_dir(at)?;
    mkfifoat(CWD, at.join("fifo"), Mode::from_raw_mode(0o644))?;
    // The listener closes at once; the name stays. Socket addresses are short, so it is made through a descriptor.
    let here = openat(CWD, at, OFlags::DIRECTORY, Mode::empty())?;
    drop(UnixListener::bind(through(&here, "socket"))?);
    let device = rustix::fs::makedev(1, 3);
    mknodat(CWD, at.join("null"), FileType::CharacterDevice, Mode::from_raw_mode(0o666), device)?;
    mknodat(
        CWD,
        at.join("block"),
        FileType::BlockDevice,
        Mode::from_raw_mode(0o600),
        rustix::fs::makedev(7, 0),
    )?;
    Ok(fs::write(at.join("neighbour"), b"an ordinary file among them")?)
}

fn through(directory: &impl AsFd, name: &str) -> PathBuf {
    use std::os::fd::AsRawFd;
    PathBuf::from(format!("/proc/self/fd/{}/{name}", directory.as_fd().as_raw_fd()))
}

/// More entries than fit into one reply of readdir.
fn crowd(at: &Path) -> Result<()> {
    fs::create_dir(at)?;
    for number in 0..3000 {
        fs::write(at.join(format!("member-{number:05}-{}", "x".repeat(number % 50))), number.to_string())?;
    }
    Ok(())
}

fn times(at: &Path) -> Result<()> {
    fs::create_dir(at)?;
    // Seconds and nanoseconds: before 1970, the very edges, beyond 2038 and 2106.
    let moments = [
        (-1, 999_999_999),
        (-86_400, 1),
        (-2_000_000_000, 0),
        (0, 0),
        (0, 1),
        (1_700_000_000, 123_456_789),
        (2_147_483_648, 5),
        (4_294_967_296, 999_999_999),
    ];
    for (number, (seconds, nanoseconds)) in moments.into_iter().enumerate() {
        let file = at.join(format!("file-{number}"));
        fs::write(&file, b"")?;
        stamp(&file, seconds, nanoseconds)?;
        let dir = at.join(format!("dir-{number}"));
        fs::create_dir(&dir)?;
        stamp(&dir, seconds, nanoseconds)?;
        let link = at.join(format!("link-{number}"));
        symlink("nowhere", &link)?;
        stamp(&link, seconds, nanoseconds)?;
    }
    stamp(at, -5, 500_000_000)
}

fn stamp(path: &Path, tv_sec: i64, tv_nsec: i64) -> Result<()> {
    let moment = Timespec { tv_sec, tv_nsec };
    let times = Timestamps { last_access: moment, last_modification: moment };
    utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW)
        .with_context(|| format!("dating {}", path.display()))
}
