//! What is mounted where, as this thread sees it (`/proc/thread-self/mountinfo`, `proc(5)`).
//!
//! The table is the only way to know a mount without touching it: a mount whose server has died answers every other
//! question with ENOTCONN.

use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// The file system type of our mounts: FUSE with our subtype.
pub(super) const FS_TYPE: &str = "fuse.twinshare";

/// The number of a mounted file system's (virtual) device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Device {
    pub(super) major: u32,
    pub(super) minor: u32,
}

/// One mount.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Mounted {
    /// The mount's own number, as `fdinfo` names it.
    pub(super) id: u64,
    pub(super) device: Device,
    pub(super) at: PathBuf,
    pub(super) fs_type: OsString,
}

impl Mounted {
    pub(super) fn is_ours(&self) -> bool {
        self.fs_type == FS_TYPE
    }
}

/// One mount, with its place among the others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Placed {
    pub(super) id: u64,
    /// The mount it lies on.
    pub(super) parent: u64,
    pub(super) device: Device,
    /// What of its file system it shows.
    pub(super) root: PathBuf,
    pub(super) at: PathBuf,
    /// The peer groups it belongs to, hears from, and hears from through another (`mount_namespaces(7)`).
    pub(super) shared: Option<u64>,
    pub(super) master: Option<u64>,
    pub(super) propagate_from: Option<u64>,
}

/// The number of the mount that an open descriptor of this thread lies on.
pub(super) fn mount_id(descriptor: impl AsFd) -> Option<u64> {
    let text =
        std::fs::read_to_string(format!("/proc/thread-self/fdinfo/{}", descriptor.as_fd().as_raw_fd()))
            .ok()?;
    text.lines().find_map(|line| line.strip_prefix("mnt_id:"))?.trim().parse().ok()
}

/// All mounts, in the order in which they were made over one another.
pub(super) fn mounted() -> io::Result<Vec<Mounted>> {
    Ok(parse(&std::fs::read("/proc/thread-self/mountinfo")?))
}

/// The mount that answers for `at`, which must be absolute and free of symlinks; `None` where nothing is mounted.
pub(super) fn mounted_at(at: &Path) -> io::Result<Option<Mounted>> {
    Ok(mounted()?.into_iter().rfind(|mounted| mounted.at == at))
}

/// True when a file system of ours has this device number.
pub(super) fn is_our_device(device: Device) -> io::Result<bool> {
    Ok(mounted()?.iter().any(|mounted| mounted.device == device && mounted.is_ours()))
}

fn parse(table: &[u8]) -> Vec<Mounted> {
    table.split(|byte| *byte == b'\n').filter_map(parse_line).collect()
}

/// The mounts of a table, each with its place. Lines that cannot be read are passed over.
pub(super) fn parse_placed(table: &[u8]) -> Vec<Placed> {
    table.split(|byte| *byte == b'\n').filter_map(parse_placed_line).collect()
}

fn parse_placed_line(line: &[u8]) -> Option<Placed> {
    let Mounted { id, device, at, .. } = parse_line(line)?;
    let fields: Vec<_> = line.split(|byte| *byte == b' ').collect();
    let number = |digits: &[u8]| std::str::from_utf8(digits).ok()?.parse().ok();
    let group = |tag: &[u8]| {
        let mut tags = fields.iter().skip(6).take_while(|field| **field != b"-");
        tags.find_map(|field| number(field.strip_prefix(tag)?))
    };
    Some(Placed {
        id,
        parent: number(fields.get(1)?)?,
        device,
        root: unescape(fields.get(3)?).into(),
        at,
        shared: group(b"shared:"),
        master: group(b"master:"),
        propagate_from: group(b"propagate_from:"),
    })
}

/// `36 35 98:0 /root /mount/point options optional… - type source options`
fn parse_line(line: &[u8]) -> Option<Mounted> {
    let mut fields = line.split(|byte| *byte == b' ');
    let id = std::str::from_utf8(fields.next()?).ok()?.parse().ok()?;
    let (major, minor) = std::str::from_utf8(fields.nth(1)?).ok()?.split_once(':')?;
    let at = unescape(fields.nth(1)?);
    let mut rest = fields.skip_while(|field| *field != b"-").skip(1);
    let device = Device { major: major.parse().ok()?, minor: minor.parse().ok()? };
    Some(Mounted { id, device, at: at.into(), fs_type: unescape(rest.next()?) })
}

/// Undoes the kernel's `\040` for bytes that would break the table (`mangle` in `fs/proc_namespace.c`).
fn unescape(field: &[u8]) -> OsString {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((byte, tail)) = rest.split_first() {
        let octal = tail.first_chunk::<3>().filter(|_| *byte == b'\\').and_then(octal);
        bytes.push(octal.unwrap_or(*byte));
        rest = if octal.is_some() { &tail[3..] } else { tail };
    }
    OsString::from_vec(bytes)
}

fn octal(digits: &[u8; 3]) -> Option<u8> {
    u8::from_str_radix(std::str::from_utf8(digits).ok()?, 8).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(line: &str, expected: Option<(u32, &str, &str)>) {
        let found = parse_line(line.as_bytes());
        let found =
            found.as_ref().map(|m| (m.device.minor, m.at.to_str().unwrap(), m.fs_type.to_str().unwrap()));
        assert_eq!(found, expected);
    }

    #[test]
    fn a_line_of_the_table_is_read() {
        check("27 1 254:0 / / rw,relatime - ext4 /dev/vda rw,discard", Some((0, "/", "ext4")));
        check(
            "99 27 0:77 / /home/a\\040b\\134c ro,nosuid shared:5 master:1 - fuse.twinshare twinshare:x/y ro,user_id=0",
            Some((77, "/home/a b\\c", "fuse.twinshare")),
        );
        check("99 27 0:77 / /trailing\\04 ro - tmpfs  rw", Some((77, "/trailing\\04", "tmpfs")));
        check("", None);
        check("27 1 254 / / rw - ext4 x rw", None);
        check("27 1 254:0 / / rw", None);
    }

    #[test]
    fn the_table_of_this_machine_holds_the_root() {
        assert!(mounted_at(Path::new("/")).unwrap().is_some());
    }
}
