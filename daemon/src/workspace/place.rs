//! Which directories may be a workspace.

use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use twinshare_fs::replica::layout;

use super::{is_within, nodes_directories, user_home};
use crate::home::Home;

/// Why a directory cannot be a workspace.
#[derive(Debug, thiserror::Error)]
pub enum PlaceError {
    /// There is none, or it cannot be looked at.
    #[error("{path}: {source}")]
    Disk {
        /// The directory.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// It is the user's home directory, or holds it: keys, passwords and mail are in there.
    #[error("{path} {}: it has more in it than a project", if path == home { "is your home directory" } else { "holds your home directory" })]
    HoldsHome {
        /// The directory.
        path: PathBuf,
        /// The user's home directory.
        home: PathBuf,
    },
    /// A private key lies in it: this node's, or that of another node of the user.
    #[error("{path} holds a node's private key and state ({state}): share a directory that does not")]
    HoldsIdentity {
        /// The directory.
        path: PathBuf,
        /// What of the node lies there.
        state: PathBuf,
    },
    /// It belongs to a node.
    #[error("{path} belongs to a node's own state: share another directory")]
    NodeState {
        /// The directory.
        path: PathBuf,
    },
    /// It shows a peer's workspace.
    #[error(
        "{path} is a peer's workspace that is not complete here: share it from the node it comes from, or copy what \
         you need"
    )]
    Replica {
        /// The directory.
        path: PathBuf,
    },
}

/// Checks that `directory` may be a workspace, and returns its path without links. Blocks on the disk.
pub fn check_place(directory: &Path, home: &Home) -> Result<PathBuf, PlaceError> {
    check(directory, home, user_home().as_deref())
}

fn check(directory: &Path, home: &Home, user_home: Option<&Path>) -> Result<PathBuf, PlaceError> {
    let disk = |source| PlaceError::Disk { path: directory.into(), source };
    let path = directory.canonicalize().map_err(disk)?;
    if !path.metadata().map_err(disk)?.is_dir() {
        return Err(disk(io::ErrorKind::NotADirectory.into()));
    }
    let user_home = user_home.map(|user| user.canonicalize().unwrap_or_else(|_| user.into()));
    if let Some(user) = user_home.filter(|user| is_within(user, &path)) {
        return Err(PlaceError::HoldsHome { path, home: user });
    }
    let own = nodes_directories(home);
    if let Some(state) = own.iter().find(|own| is_within(own, &path)) {
        return Err(PlaceError::HoldsIdentity { path, state: state.clone() });
    }
    if own.iter().any(|own| is_within(&path, own)) {
        return Err(PlaceError::NodeState { path });
    }
    match is_replica(&path).map_err(disk)? {
        true => Err(PlaceError::Replica { path }),
        false => Ok(path),
    }
}

/// True for a directory in a mount of twinshare, and for what an unfinished clone leaves while it is not mounted.
fn is_replica(path: &Path) -> io::Result<bool> {
    let is_within_one = |above: &Path| {
        let name = above.file_name().unwrap_or_default().as_bytes();
        layout::is_replica_name(name) && above.join("manifest").exists()
    };
    if path.ancestors().any(is_within_one) || has_replica_directory(path)? {
        return Ok(true);
    }
    let device = path.metadata()?.dev();
    let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
    let mounts = fs::read("/proc/self/mountinfo")?;
    Ok(mounts.split(|byte| *byte == b'\n').any(|line| is_ours(line, &format!("{major}:{minor}"))))
}

fn has_replica_directory(path: &Path) -> io::Result<bool> {
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        let named = layout::is_replica_name(entry.file_name().as_bytes());
        if named && entry.file_type()?.is_dir() && entry.path().join("manifest").exists() {
            return Ok(true);
        }
    }
    Ok(false)
}

/// True when a line of `mountinfo` (proc(5)) is of a twinshare mount with this device number.
fn is_ours(line: &[u8], device: &str) -> bool {
    let fields: Vec<_> = line.split(|byte| *byte == b' ').collect();
    let separator = fields.iter().position(|field| *field == b"-");
    let kind = separator.and_then(|at| fields.get(at + 1));
    fields.get(2) == Some(&device.as_bytes()) && kind == Some(&&b"fuse.twinshare"[..])
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn the_nodes_own_things_are_not_shared() {
        let base = tempfile::tempdir().unwrap();
        let base = base.path().canonicalize().unwrap();
        let home = Home::isolated(&base.join("home"));
        home.prepare().unwrap();
        let workspace = base.join("w");
        fs::create_dir(&workspace).unwrap();
        symlink(&workspace, base.join("link")).unwrap();
        fs::write(base.join("file"), "").unwrap();
        assert_eq!(check_place(&base.join("link"), &home).unwrap(), workspace);
        let refused = |name: &str| check_place(&base.join(name), &home).unwrap_err();
        assert!(matches!(refused(""), PlaceError::HoldsIdentity { .. }));
        assert!(matches!(refused("home"), PlaceError::HoldsIdentity { .. }));
        assert!(matches!(refused("home/state"), PlaceError::HoldsIdentity { .. }));
        assert!(matches!(refused("home/state/run"), PlaceError::NodeState { .. }));
        assert!(matches!(refused("file"), PlaceError::Disk { .. }));
        assert!(matches!(refused("gone"), PlaceError::Disk { .. }));
    }

    #[test]
    fn a_home_directory_is_no_workspace() {
        let base = tempfile::tempdir().unwrap();
        let base = base.path().canonicalize().unwrap();
        // The node's own things lie elsewhere.
        let home = Home::isolated(&base.join("node"));
        let user = base.join("home/anna");
        fs::create_dir_all(user.join("src/demo")).unwrap();
        let at = |name: &str| check(&base.join(name), &home, Some(&user));
        for (name, told) in
            [("home/anna", "is your home"), ("home", "holds your home"), ("/", "holds your home")]
        {
            let error = at(name).unwrap_err();
            assert!(matches!(error, PlaceError::HoldsHome { .. }), "{error}");
            assert!(error.to_string().contains(told), "{error}");
        }
        assert!(at("home/anna/src").is_ok() && at("home/anna/src/demo").is_ok());
    }

    #[test]
    fn an_unfinished_clone_is_recognised_without_its_mount() {
        let base = tempfile::tempdir().unwrap();
        let home = Home::isolated(&base.path().join("home"));
        let clone = base.path().join("clone");
        fs::create_dir_all(clone.join(".twinshare-4f1c")).unwrap();
        assert!(check_place(&clone, &home).is_ok());
        fs::write(clone.join(".twinshare-4f1c/manifest"), "").unwrap();
        assert!(matches!(check_place(&clone, &home), Err(PlaceError::Replica { .. })));
        let within = clone.join(".twinshare-4f1c/tree/src");
        fs::create_dir_all(&within).unwrap();
        assert!(matches!(check_place(&within, &home), Err(PlaceError::Replica { .. })));
    }

    #[test]
    fn a_mount_of_ours_is_recognised() {
        let line =
            b"40 25 0:41 / /home/b/demo ro,nosuid,nodev shared:1 master:2 - fuse.twinshare demo ro,user_id=0";
        assert!(is_ours(line, "0:41"));
        assert!(!is_ours(line, "0:4"));
        assert!(!is_ours(b"40 25 0:41 / /mnt rw - fuse.sshfs x rw", "0:41"));
        assert!(!is_ours(b"", "0:41"));
        assert!(is_ours(b"40 25 0:41 / /mnt rw - fuse.twinshare x rw", "0:41"));
    }
}
