//! The rules every entry obeys, whoever it comes from.

use super::frame::WireEntry;
use super::{
    Extra, FILE_BYTES_MAX, GIT_CONFIG_BYTES_MAX, HOLES_MAX, Kind, ManifestError, TARGET_BYTES_MAX,
    XATTR_BYTES_MAX,
};

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
