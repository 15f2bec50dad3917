//! Where replicas lie: mount points made and removed, and the directories behind them.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::spec::Spec;
use crate::api::replica_control::ReplicaSpec;
use crate::api::wire::ReplicaKind;
use crate::home::Home;

/// The filesystem type of a FUSE mount (`FUSE_SUPER_MAGIC`, `linux/magic.h`).
const FUSE_SUPER_MAGIC: i64 = 0x6573_5546;

/// Where a replica is mounted when nobody said: views under the browsing root, clones beside it.
pub(super) fn default(home: &Home, wanted: &ReplicaSpec) -> PathBuf {
    match wanted.kind {
        ReplicaKind::Clone => home.files().join(&wanted.workspace),
        ReplicaKind::View => {
            let name = wanted.peer_name.clone().filter(|name| is_plain(name));
            home.view_mount_point(&name.unwrap_or_else(|| wanted.peer.short()), &wanted.workspace)
        }
    }
}

/// True for a name that is one harmless path component.
fn is_plain(name: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    !name.is_empty() && name.len() <= 64 && !name.starts_with('.') && name.bytes().all(plain)
}

/// Where a view's data is kept.
pub(super) fn view_data(home: &Home, id: &str) -> PathBuf {
    home.cache().join("views").join(id)
}

/// Where the companions of a replica are mounted.
pub(super) fn companion(home: &Home, id: &str, root: u32) -> PathBuf {
    home.replica(id).join("roots").join(root.to_string())
}

/// Makes the mount point where it does not exist (true then) and checks that it can be one; the error says what is
/// wrong and what would do.
pub(super) fn prepare(mount_point: &Path, kind: ReplicaKind) -> Result<bool, String> {
    let said = |error: io::Error| error.to_string();
    if mount_point.to_str().is_none() || !mount_point.is_absolute() {
        return Err("its path must be absolute and valid UTF-8".into());
    }
    let made = match fs::metadata(mount_point) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            fs::create_dir_all(mount_point).map_err(said)?;
            true
        }
        Err(error) => return Err(said(error)),
        Ok(metadata) if !metadata.is_dir() => return Err("it is not a directory".into()),
        Ok(_) => false,
    };
    if rustix::fs::statfs(mount_point).map_err(|errno| errno.to_string())?.f_type == FUSE_SUPER_MAGIC {
        return Err("it lies on another FUSE mount; choose a directory on a local disk".into());
    }
    let mut entries = fs::read_dir(mount_point).map_err(said)?;
    match (entries.next(), kind) {
        (None, _) => Ok(made),
        (Some(_), ReplicaKind::Clone | ReplicaKind::View) => {
            Err("it is not empty; choose a directory that is empty or does not exist yet".into())
        }
    }
}

/// Removes what is left of a replica that is no longer mounted: the view's data or the clone's replica directory, the
/// mount point where the node made it, and what the node knew of it. Never removes what it did not make.
pub(super) fn remove(home: &Home, spec: &Spec) -> io::Result<()> {
    match spec.kind {
        ReplicaKind::View => remove_tree(&view_data(home, &spec.id))?,
        ReplicaKind::Clone => {
            for entry in fs::read_dir(&spec.mount_point).into_iter().flatten().flatten() {
                let name = entry.file_name();
                if name.as_encoded_bytes().starts_with(twinshare_fs::replica::layout::PREFIX.as_bytes()) {
                    remove_tree(&entry.path())?;
                }
            }
        }
    }
    if spec.made_mount_point {
        // Stays where somebody has put something into it.
        let _ = fs::remove_dir(&spec.mount_point);
    }
    remove_tree(&home.replica(&spec.id))
}

/// Removes a tree of our own; one that is gone already is no error.
fn remove_tree(path: &Path) -> io::Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mount_point_is_made_or_refused() {
        let base = tempfile::tempdir().unwrap();
        let new = base.path().join("a/b");
        assert_eq!(prepare(&new, ReplicaKind::View), Ok(true));
        assert_eq!(prepare(&new, ReplicaKind::Clone), Ok(false));
        fs::write(new.join("file"), b"").unwrap();
        let check = |path: &Path, expected: &str| {
            let reason = prepare(path, ReplicaKind::Clone).unwrap_err();
            assert!(reason.contains(expected), "{reason} is not about: {expected}");
        };
        check(&new, "not empty");
        check(&new.join("file"), "not a directory");
        check(Path::new("relative"), "absolute");
        assert_eq!(fs::read_dir(&new).unwrap().count(), 1);
    }

    #[test]
    fn a_name_is_a_plain_component() {
        for (name, plain) in
            [("anna", true), ("a.b-c_1", true), ("..", false), ("a/b", false), ("", false), ("é", false)]
        {
            assert_eq!(is_plain(name), plain, "{name}");
        }
    }
}
