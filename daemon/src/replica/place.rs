//! Where replicas lie: mount points chosen, made and removed, and the directories behind them.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Component, Path, PathBuf};

use twinshare_fs::fuse::is_fuse;

use super::settled;
use super::spec::Spec;
use crate::api::replica_control::ReplicaSpec;
use crate::api::wire::ReplicaKind;
use crate::home::Home;

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

/// The same, told apart by the peer's id from another peer's of the same name.
pub(super) fn default_by_id(home: &Home, wanted: &ReplicaSpec) -> PathBuf {
    let id = wanted.peer.short();
    match wanted.kind {
        ReplicaKind::Clone => home.files().join(format!("{}-{id}", wanted.workspace)),
        ReplicaKind::View => {
            let name = wanted.peer_name.as_ref().filter(|name| is_plain(name));
            let peer = name.map(|name| format!("{name}-{id}")).unwrap_or(id);
            home.view_mount_point(&peer, &wanted.workspace)
        }
    }
}

/// True if `there` is another peer's and keeps `wanted` from its default `place`: a clone lies at it, or a view in the
/// same peer's directory.
pub(super) fn is_anothers(there: &Spec, wanted: &ReplicaSpec, place: &Path) -> bool {
    let same_directory = wanted.kind == ReplicaKind::View && there.mount_point.parent() == place.parent();
    there.peer != wanted.peer && (there.mount_point == place || same_directory)
}

/// True for a name that is one harmless path component.
fn is_plain(name: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    !name.is_empty() && name.len() <= 64 && !name.starts_with('.') && name.bytes().all(plain)
}

/// Where a view's data is kept.
pub(super) fn view_data(home: &Home, id: &str) -> PathBuf {
    views_data(home).join(id)
}

/// Where the data of all views is kept.
pub(super) fn views_data(home: &Home) -> PathBuf {
    home.cache().join("views")
}

/// Where the companions of a replica are mounted.
pub(super) fn companion(home: &Home, id: &str, root: u32) -> PathBuf {
    home.replica(id).join("roots").join(root.to_string())
}

/// The one name of the directory that `asked` names: without links as far as it exists, so that two names of one
/// directory are seen to be one, and as the table of mounts will name it. The directory itself is not looked into: a
/// dead mount may lie on it. Blocks on the disk.
pub(super) fn resolve(asked: &Path) -> Result<PathBuf, String> {
    if asked.to_str().is_none() || !asked.is_absolute() {
        return Err("its path must be absolute and valid UTF-8".into());
    }
    let (Some(parent), Some(name)) = (asked.parent(), asked.file_name()) else {
        return Err("it is the root directory, or its path ends in `..`".into());
    };
    let missing: Vec<_> =
        parent.ancestors().take_while(|above| fs::symlink_metadata(above).is_err()).collect();
    let existing = parent.ancestors().nth(missing.len()).unwrap_or(Path::new("/"));
    let below = parent.strip_prefix(existing).unwrap_or(Path::new(""));
    if below.components().any(|component| component == Component::ParentDir) {
        return Err("its path leads through `..` of a directory that does not exist".into());
    }
    let real = existing.canonicalize().map_err(|error| error.to_string())?;
    let place = real.join(below).join(name);
    match fs::symlink_metadata(&place) {
        Ok(metadata) if metadata.is_symlink() => place.canonicalize().map_err(|error| error.to_string()),
        _ => Ok(place),
    }
    .and_then(|place| {
        if place.to_str().is_some() { Ok(place) } else { Err("its path must be valid UTF-8".into()) }
    })
}

/// Checks that something can be mounted at `place`, which is [`resolve`]d; true if the directory exists. The error
/// says what is wrong and what would do. Changes nothing. Blocks on the disk.
pub(super) fn check(home: &Home, place: &Path) -> Result<bool, String> {
    let said = |error: io::Error| error.to_string();
    for own in home.own_directories().map(|own| own.canonicalize().unwrap_or_else(|_| own.into())) {
        if place.starts_with(&own) || own.starts_with(place) {
            return Err(format!("the node's own files lie in {}", own.display()));
        }
    }
    let views = home.files().join("peers");
    if views.canonicalize().unwrap_or(views).starts_with(place) {
        return Err("mounts of peers' workspaces appear below it".into());
    }
    let existing = place.ancestors().find(|above| fs::symlink_metadata(above).is_ok());
    let existing = existing.unwrap_or(Path::new("/"));
    if is_fuse(&rustix::fs::statfs(existing).map_err(|errno| errno.to_string())?) {
        return Err("it lies on another FUSE mount, and not on a local disk".into());
    }
    if existing != place {
        return Ok(false);
    }
    if !fs::metadata(place).map_err(said)?.is_dir() {
        return Err("it is not a directory".into());
    }
    match fs::read_dir(place).map_err(said)?.next() {
        None => Ok(true),
        Some(_) => Err("it is not empty".into()),
    }
}

/// Removes what is left of a replica that is no longer mounted: the view's data or the clone's replica directory, the
/// mount point where the node made it, and what the node knew of it. Never removes what it did not make. A settled
/// clone's directory is left as it is, and one that was on its way there comes there first.
pub(super) fn remove(home: &Home, spec: &Spec) -> io::Result<()> {
    if !settled::conclude(home, spec).map_err(io::Error::other)? {
        match (spec.kind, &spec.replica_directory) {
            (ReplicaKind::View, _) => remove_tree(&view_data(home, &spec.id))?,
            (ReplicaKind::Clone, Some(name)) => remove_tree(&spec.mount_point.join(name))?,
            (ReplicaKind::Clone, None) => {}
        }
        remove_mount_point(home, spec);
    }
    remove_tree(&home.replica(&spec.id))
}

/// Removes the mount point where the node made it and nobody has put something into it. Under the browsing root the
/// peer's directory goes with its last workspace.
fn remove_mount_point(home: &Home, spec: &Spec) {
    if !spec.made_mount_point || fs::remove_dir(&spec.mount_point).is_err() {
        return;
    }
    let files = home.files().canonicalize().unwrap_or_else(|_| home.files().into());
    let made_along =
        spec.mount_point.ancestors().skip(1).take_while(|above| above.starts_with(files.join("peers")));
    for above in made_along {
        if fs::remove_dir(above).is_err() {
            break;
        }
    }
}

/// Removes a tree of our own; one that is gone already is no error.
fn remove_tree(path: &Path) -> io::Result<()> {
    let removed = match fs::remove_dir_all(path) {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            open_directories(path)?;
            fs::remove_dir_all(path)
        }
        removed => removed,
    };
    match removed {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed,
    }
}

/// Lets this user empty every directory of a tree: the companions of a settled clone have their origin's modes.
fn open_directories(path: &Path) -> io::Result<()> {
    fs::set_permissions(path, fs::Permissions::from_mode(0o700))?;
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        // Of the entry itself: a link is none, wherever it leads.
        if entry.file_type()?.is_dir() {
            open_directories(&entry.path())?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use twinshare_transport::identity::PeerId;

    use crate::replica::testing::spec;

    fn bench() -> (tempfile::TempDir, PathBuf, Home) {
        let directory = tempfile::tempdir().unwrap();
        let base = directory.path().canonicalize().unwrap();
        let home = Home::isolated(&base.join("home"));
        home.prepare().unwrap();
        (directory, base, home)
    }

    #[test]
    fn a_place_has_one_name() {
        let (_directory, base, _) = bench();
        fs::create_dir(base.join("a")).unwrap();
        std::os::unix::fs::symlink("a", base.join("link")).unwrap();
        let check = |asked: &str, expected: Result<&str, &str>| {
            let asked = if asked.starts_with('.') { asked.into() } else { base.join(asked) };
            match (resolve(&asked), expected) {
                (Ok(place), Ok(expected)) => assert_eq!(place, base.join(expected), "{asked:?}"),
                (Err(reason), Err(part)) => assert!(reason.contains(part), "{reason}"),
                (resolved, _) => panic!("{asked:?}: {resolved:?}"),
            }
        };
        check("a", Ok("a"));
        check("link", Ok("a"));
        check("link/new", Ok("a/new"));
        check("a/./new//deep/", Ok("a/new/deep"));
        check("a/../b", Ok("b"));
        check("missing/../b", Err("`..`"));
        check("a/..", Err("`..`"));
        check("./a", Err("absolute"));
    }

    #[test]
    fn a_mount_point_is_checked_and_not_made() {
        let (_directory, base, home) = bench();
        let new = base.join("a/b");
        assert_eq!(check(&home, &new), Ok(false));
        assert!(!new.exists());
        fs::create_dir_all(&new).unwrap();
        assert_eq!(check(&home, &new), Ok(true));
        fs::write(new.join("file"), b"").unwrap();
        let refused = |place: &Path, expected: &str| {
            let reason = check(&home, place).unwrap_err();
            assert!(reason.contains(expected), "{reason} is not about: {expected}");
        };
        refused(&new, "not empty");
        refused(&new.join("file"), "not a directory");
        refused(&home.state().join("replicas/x"), "own files");
        refused(&base, "own files");
        refused(&home.files().join("peers"), "appear below it");
        assert_eq!(check(&home, &home.files().join("peers/anna/demo")), Ok(false));
    }

    #[test]
    fn a_peers_directory_goes_with_its_last_workspace() {
        let (_directory, _, home) = bench();
        let files = home.files().canonicalize().unwrap_or_else(|_| home.files().into());
        let view = |workspace: &str| Spec {
            kind: ReplicaKind::View,
            mount_point: files.join("peers/anna").join(workspace),
            made_mount_point: true,
            ..spec(workspace)
        };
        let [one, two] = ["one", "two"].map(view);
        for spec in [&one, &two] {
            fs::create_dir_all(&spec.mount_point).unwrap();
        }
        remove(&home, &one).unwrap();
        assert!(two.mount_point.exists() && !one.mount_point.exists());
        remove(&home, &two).unwrap();
        assert!(!files.join("peers").exists() && files.exists());
    }

    #[test]
    fn a_clone_takes_nothing_of_others_with_it() {
        let (_directory, base, home) = bench();
        let at = base.join("clone");
        for name in [".twinshare-0a0a", ".twinshare-0b0b"] {
            fs::create_dir_all(at.join(name).join("tree")).unwrap();
        }
        let spec = Spec { kind: ReplicaKind::Clone, mount_point: at.clone(), ..spec("a") };
        remove(&home, &Spec { replica_directory: Some(".twinshare-0a0a".into()), ..spec }).unwrap();
        let left: Vec<_> = fs::read_dir(&at).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(left, [".twinshare-0b0b"]);
    }

    #[test]
    fn two_peers_of_one_name_have_directories_of_their_own() {
        let home = Home::isolated(Path::new("/h"));
        let wanted = |kind, peer: u8, workspace: &str| ReplicaSpec {
            kind,
            peer: PeerId([peer; 32]),
            peer_name: Some("vm".into()),
            addresses: Vec::new(),
            workspace: workspace.into(),
            directory: None,
            keep_mounted: false,
            keep_paths: false,
            plain: false,
            when_gone: Default::default(),
        };
        let check = |there: &ReplicaSpec, wanted: &ReplicaSpec, expected: bool| {
            let mount_point = default(&home, there);
            let there = Spec { kind: there.kind, peer: there.peer, mount_point, ..spec("a") };
            let place = default(&home, wanted);
            assert_eq!(is_anothers(&there, wanted, &place), expected, "{there:?} {wanted:?}");
        };
        let [view, clone] = [ReplicaKind::View, ReplicaKind::Clone];
        check(&wanted(view, 1, "demo"), &wanted(view, 1, "demo"), false);
        check(&wanted(view, 1, "demo"), &wanted(view, 1, "other"), false);
        check(&wanted(view, 1, "demo"), &wanted(view, 2, "demo"), true);
        check(&wanted(view, 1, "demo"), &wanted(view, 2, "other"), true);
        check(&wanted(clone, 1, "demo"), &wanted(clone, 2, "demo"), true);
        check(&wanted(clone, 1, "demo"), &wanted(clone, 2, "other"), false);
        let id = PeerId([2; 32]).short();
        let at = |kind| default_by_id(&home, &wanted(kind, 2, "demo"));
        assert_eq!(at(view), Path::new(&format!("/h/files/peers/vm-{id}/demo")));
        assert_eq!(at(clone), Path::new(&format!("/h/files/demo-{id}")));
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
