//! Extended attributes: the user's travel, the others are dropped.

use std::fs::File;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use rustix::io::Errno;

use crate::manifest::{LeftOutReason, XATTR_BYTES_MAX};

/// Bytes of names that the kernel lists at most (`XATTR_LIST_MAX`).
const LIST_BYTES_MAX: usize = 64 * 1024;

/// Labels and measurements that a system puts on every file for its own policy: nobody misses them elsewhere.
const POLICY: [&[u8]; 6] = [
    b"security.selinux",
    b"security.SMACK64",
    b"security.apparmor",
    b"security.ima",
    b"security.evm",
    b"system.nfs4_acl",
];

/// Names and values.
pub(crate) type Xattrs = Vec<(Vec<u8>, Vec<u8>)>;

/// The user xattrs of what lies at `path` (its last component is not followed), sorted by name.
///
/// ACLs, capabilities and all others are dropped and listed, once an entry; so are the user's when they are more than
/// a manifest takes, and names of our own. One system call for a file without any.
pub(super) fn read(path: &[u8], without_xattrs: &AtomicBool, left_out: &mut Vec<LeftOutReason>) -> Xattrs {
    if without_xattrs.load(Relaxed) {
        return Vec::new();
    }
    let names = match list(|buffer| rustix::fs::llistxattr(path, buffer)) {
        Ok(names) if names.is_empty() => return Vec::new(),
        Ok(names) => names,
        Err(Errno::NOTSUP) => {
            without_xattrs.store(true, Relaxed);
            return Vec::new();
        }
        Err(error) => return unreadable(error, left_out),
    };
    let names = names.split(|byte| *byte == 0).filter(|name| !name.is_empty());
    let (user, others): (Vec<_>, Vec<_>) = names.partition(|name| travels(name));
    if others.iter().any(|name| !POLICY.contains(name)) {
        left_out.push(LeftOutReason::Xattr);
    }
    match values(&user, |name, value| rustix::fs::lgetxattr(path, name, value)) {
        Ok(Some(xattrs)) => xattrs,
        Ok(None) => {
            left_out.push(LeftOutReason::Limit("more than 64 KiB of xattrs".into()));
            Vec::new()
        }
        Err(error) => unreadable(error, left_out),
    }
}

/// The user xattrs of an open file, sorted by name: none where they are more than a manifest takes.
pub(crate) fn read_open(file: &File) -> Result<Xattrs, Errno> {
    let names = match list(|buffer| rustix::fs::flistxattr(file, buffer)) {
        Ok(names) => names,
        Err(Errno::NOTSUP) => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let user: Vec<_> = names.split(|byte| *byte == 0).filter(|name| travels(name)).collect();
    let values = values(&user, |name, value| rustix::fs::fgetxattr(file, name, value))?;
    Ok(values.unwrap_or_default())
}

fn travels(name: &[u8]) -> bool {
    name.starts_with(b"user.") && !name.starts_with(b"user.twinshare")
}

fn unreadable(error: Errno, left_out: &mut Vec<LeftOutReason>) -> Xattrs {
    // An entry that vanished is noticed where its directory is listed again.
    if error != Errno::NOENT {
        left_out.push(LeftOutReason::Unreadable(format!("its xattrs: {error}")));
    }
    Vec::new()
}

fn list(of: impl Fn(&mut [u8]) -> Result<usize, Errno>) -> Result<Vec<u8>, Errno> {
    let mut short = [0; 512];
    match of(&mut short) {
        Ok(length) => Ok(short[..length].to_vec()),
        Err(Errno::RANGE) => {
            let mut long = vec![0; LIST_BYTES_MAX];
            let length = of(&mut long)?;
            long.truncate(length);
            Ok(long)
        }
        Err(error) => Err(error),
    }
}

/// The values of `names`, sorted by name; `None` when they are too long together.
fn values(
    names: &[&[u8]],
    of: impl Fn(&[u8], &mut [u8]) -> Result<usize, Errno>,
) -> Result<Option<Xattrs>, Errno> {
    let (mut xattrs, mut bytes) = (Vec::new(), 0);
    let mut value = vec![0; if names.is_empty() { 0 } else { XATTR_BYTES_MAX }];
    for name in names {
        let length = match of(name, &mut value) {
            Ok(length) => length,
            Err(Errno::NODATA) => continue,
            Err(error) => return Err(error),
        };
        bytes += name.len() + length;
        if bytes > XATTR_BYTES_MAX {
            return Ok(None);
        }
        xattrs.push((name.to_vec(), value[..length].to_vec()));
    }
    xattrs.sort_unstable();
    Ok(Some(xattrs))
}
