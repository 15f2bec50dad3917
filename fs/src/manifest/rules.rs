//! The rules every entry obeys, whoever it comes from.

use super::frame::{Head, WireEntry};
use super::{
    ENTRIES_MAX, Extra, FILE_BYTES_MAX, Flags, GIT_CONFIG_BYTES_MAX, HOLES_MAX, Kind, ManifestError, Meta,
    Mtime, ROOTS_MAX, TARGET_BYTES_MAX, XATTR_BYTES_MAX,
};
use crate::name::EntryName;

/// Bytes of a root's path at most (`PATH_MAX` less its NUL).
const ROOT_BYTES_MAX: usize = 4095;

/// Checks what a stream announces.
pub(super) fn check_head(head: &Head) -> Result<(), ManifestError> {
    let invalid = |what| Err(ManifestError::Invalid(what));
    if head.entries > ENTRIES_MAX || head.heap_bytes > u64::from(u32::MAX) {
        return invalid("the manifest announces more entries than there may be");
    }
    if head.roots.iter().any(|root| root.kind != Kind::Directory || !root.name.is_empty()) {
        return invalid("a root is not a directory without a name");
    }
    check_roots(&head.meta, head.roots.len())
}

/// Checks the paths of `roots` roots. One may lie below another: there, a companion is reached through a symlink.
pub(super) fn check_roots(meta: &Meta, roots: usize) -> Result<(), ManifestError> {
    let invalid = |what| Err(ManifestError::Invalid(what));
    if roots == 0 || roots > ROOTS_MAX as usize || roots != meta.roots.len() {
        return invalid("a manifest has between one and 64 roots, each with a path");
    }
    let normal = |path: &[u8]| match path {
        b"/" => true,
        [b'/', names @ ..] => names.split(|byte| *byte == b'/').all(|name| EntryName::check(name).is_ok()),
        _ => false,
    };
    if !meta.roots.iter().all(|path| path.len() <= ROOT_BYTES_MAX && normal(path)) {
        return invalid("a root's path is not absolute, not normal or too long");
    }
    match (1..roots).any(|at| meta.roots[..at].contains(&meta.roots[at])) {
        true => invalid("two roots have one path"),
        false => Ok(()),
    }
}

/// Checks the metadata of a file's or symlink's further version.
pub(crate) fn check_version(
    kind: Kind,
    mode: u16,
    size: u64,
    mtime: Mtime,
    extra: Extra,
) -> Result<(), ManifestError> {
    let (name, extra) = (Vec::new(), Some(Box::new(extra)));
    check_entry(&WireEntry { name, kind, mode, size, mtime, nlink: 1, link: None, flags: 0, extra })
}

/// Checks one entry by itself; what concerns its neighbours, the appender checks.
pub(super) fn check_entry(entry: &WireEntry) -> Result<(), ManifestError> {
    let invalid = |what| Err(ManifestError::Invalid(what));
    let empty = Extra::default();
    let extra = entry.extra.as_deref().unwrap_or(&empty);
    if entry.mode & !0o1777 != 0 {
        return invalid("an entry has mode bits that do not travel");
    }
    if entry.mtime.nsec >= 1_000_000_000 {
        return invalid("an entry's time has more than a second of nanoseconds");
    }
    if entry.nlink == 0 || (entry.kind == Kind::Symlink && entry.nlink != 1) {
        return invalid("an entry has a wrong number of links");
    }
    if entry.flags & !Flags::KNOWN.0 != 0 {
        return invalid("an entry has flags that mean nothing");
    }
    if entry.kind != Kind::File
        && (entry.link.is_some() || !extra.holes.is_empty() || extra.git_config.is_some())
    {
        return invalid("an entry that is no file has a file's properties");
    }
    match entry.kind {
        Kind::File if entry.size > FILE_BYTES_MAX => {
            return invalid("a file is larger than any kernel allows");
        }
        Kind::Directory if entry.size != 0 => return invalid("a directory has a size"),
        Kind::Symlink if entry.size != extra.target.len() as u64 => {
            return invalid("a symlink's size is not its target's");
        }
        Kind::Symlink if extra.target.is_empty() || extra.target.len() > TARGET_BYTES_MAX => {
            return invalid("a symlink's target is empty or too long");
        }
        Kind::Symlink if extra.target.contains(&0) => return invalid("a symlink's target holds a NUL byte"),
        Kind::File | Kind::Directory if !extra.target.is_empty() => {
            return invalid("an entry that is no symlink has a target");
        }
        Kind::File | Kind::Directory | Kind::Symlink => {}
    }
    check_extra(entry.size, extra)
}

fn check_extra(size: u64, extra: &Extra) -> Result<(), ManifestError> {
    let invalid = |what| Err(ManifestError::Invalid(what));
    let xattr_bytes: usize = extra.xattrs.iter().map(|(name, value)| name.len() + value.len()).sum();
    // Names of our own mean something to whoever stores a tree: none may come from its sender.
    let own = |name: &[u8]| name.starts_with(b"user.twinshare");
    let xattr_ok =
        |name: &[u8]| name.starts_with(b"user.") && name.len() <= 255 && !name.contains(&0) && !own(name);
    if xattr_bytes > XATTR_BYTES_MAX || !extra.xattrs.iter().all(|(name, _)| xattr_ok(name)) {
        return invalid("an entry has xattrs that do not travel");
    }
    if !extra.xattrs.is_sorted_by(|a, b| a.0 < b.0) {
        return invalid("xattrs are not sorted, or one comes twice");
    }
    let apart = extra.holes.is_sorted_by(|a, b| a.end < b.start);
    let inside = extra.holes.iter().all(|hole| hole.start < hole.end && hole.end <= size);
    if extra.holes.len() > HOLES_MAX || !apart || !inside {
        return invalid("a hole map is not one");
    }
    if extra.git_config.as_ref().is_some_and(|config| config.len() > GIT_CONFIG_BYTES_MAX) {
        return invalid("a git configuration is too long");
    }
    Ok(())
}
