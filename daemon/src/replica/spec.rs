//! What a replica is made from, as the node writes it down and the replica's process reads it.
//!
//! One JSON file per replica in the node's state. It holds all a process needs to serve the replica when the node is
//! not running, and all the node needs to start the process again: nothing else about a replica is kept.

use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use twinshare_fs::manifest::SnapshotId;
use twinshare_fs::replica::WhenGone;
use twinshare_transport::identity::PeerId;

use crate::api::wire::{ReplicaKind, ReplicaRoot, UnixTime};

/// The key of the process that serves all views, in place of a clone's id. It ends in the number of
/// [the protocol](super::control::PROTOCOL), so that a process of another one is not asked for new views.
pub const VIEWS: &str = "views-1";

/// The version of what is written here. What a later one adds is ignored; one that cannot be ignored raises it.
pub const VERSION: u32 = 1;

/// Name of the file in the replica's state directory.
const FILE: &str = "spec.json";

/// Name of the file beside it that names the replica's roots.
const ROOTS: &str = "roots.json";

/// Bytes of a file here at most. 64 roots of 4,095 bytes each, which JSON may write as six, take 2 MiB; some thousand
/// edits of a clone more.
const FILE_BYTES_MAX: u64 = 128 * 1024 * 1024;

/// One replica.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Spec {
    /// [`VERSION`] of whoever wrote it.
    pub version: u32,
    /// Names its directories and, for a clone, its process.
    pub id: String,
    /// The key of the process that serves it.
    pub process: String,
    /// View or clone.
    pub kind: ReplicaKind,
    /// Whose workspace.
    pub peer: PeerId,
    /// How the peer called itself.
    pub peer_name: String,
    /// Where it was last reached, best first.
    pub addresses: Vec<SocketAddr>,
    /// The workspace's name at the peer.
    pub workspace: String,
    /// The snapshot, in hexadecimal digits.
    pub snapshot: String,
    /// Where the workspace is mounted.
    pub mount_point: PathBuf,
    /// True when the node made the mount point, and removes it again.
    pub made_mount_point: bool,
    /// The name of a clone's replica directory below its mount point: it alone is removed with the clone.
    #[serde(default)]
    pub replica_directory: Option<String>,
    /// Whether a clone stays mounted when it is complete and nobody uses it.
    #[serde(default)]
    pub keep_mounted: bool,
    /// Whether a settled clone's environments keep the paths of their origin.
    #[serde(default)]
    pub keep_paths: bool,
    /// Whether a clone is fetched without being mounted.
    #[serde(default)]
    pub plain: bool,
    /// What reads do while the peer is gone.
    pub when_gone: WhenGone,
    /// When it was made.
    pub created_at: UnixTime,
    /// It was unmounted, and what is left of it is to be removed: it is never served again.
    #[serde(default)]
    pub ended: bool,
}

impl Spec {
    /// The key of the process that serves a new replica.
    pub fn process_for(kind: ReplicaKind, id: &str) -> String {
        match kind {
            ReplicaKind::View => VIEWS.to_owned(),
            ReplicaKind::Clone => id.to_owned(),
        }
    }

    /// The snapshot's id.
    pub fn snapshot_id(&self) -> io::Result<SnapshotId> {
        let digest = self.snapshot.parse().map_err(|error| invalid(format!("the snapshot's id: {error}")))?;
        Ok(SnapshotId(digest))
    }

    /// Reads the spec in a replica's state directory.
    pub fn load(directory: &Path) -> io::Result<Self> {
        let spec: Self = read(&directory.join(FILE))?;
        match spec.version {
            ..=VERSION => Ok(spec),
            newer => {
                Err(invalid(format!("it is of version {newer}, written by a newer twinshare: install that")))
            }
        }
    }

    /// Writes it there, atomically and durably, readable by this user alone.
    pub fn save(&self, directory: &Path) -> io::Result<()> {
        write(directory, FILE, self)
    }
}

/// Writes beside the spec which roots the replica has, as its process does once it knows the manifest.
pub fn save_roots(directory: &Path, roots: &[ReplicaRoot]) -> io::Result<()> {
    write(directory, ROOTS, &roots)
}

/// The roots of the replica; none before its manifest is known.
pub fn load_roots(directory: &Path) -> io::Result<Vec<ReplicaRoot>> {
    match read(&directory.join(ROOTS)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        read => read,
    }
}

pub(super) fn read<T: DeserializeOwned>(path: &Path) -> io::Result<T> {
    let mut text = Vec::new();
    std::fs::File::open(path)?.take(FILE_BYTES_MAX).read_to_end(&mut text)?;
    serde_json::from_slice(&text).map_err(|error| invalid(error.to_string()))
}

pub(super) fn write<T: Serialize>(directory: &Path, name: &str, document: &T) -> io::Result<()> {
    let temporary = directory.join(format!("{name}.new"));
    let mut file =
        std::fs::File::options().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
    file.write_all(&serde_json::to_vec_pretty(document)?)?;
    file.sync_all()?;
    std::fs::rename(&temporary, directory.join(name))?;
    std::fs::File::open(directory)?.sync_all()
}

/// All replicas under the node's directory of them, by creation; a directory without a readable spec is the rest of
/// an attempt that was cut short, and is logged and passed over.
pub fn load_all(replicas: &Path) -> Vec<Spec> {
    let entries =
        std::fs::read_dir(replicas).map(|entries| entries.flatten().collect()).unwrap_or_else(|_| Vec::new());
    let mut specs = Vec::new();
    for entry in entries {
        match Spec::load(&entry.path()) {
            Ok(spec) => specs.push(spec),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => {
                tracing::warn!(path = %entry.path().display(), %error, "a replica's description cannot be read");
            }
        }
    }
    specs.sort_by(|a, b| (a.created_at, &a.id).cmp(&(b.created_at, &b.id)));
    specs
}

fn invalid(what: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(id: &str, at: i64) -> Spec {
        Spec { created_at: UnixTime(at), ..crate::replica::testing::spec(id) }
    }

    #[test]
    fn a_spec_is_read_back_and_a_torn_one_passed_over() {
        let directory = tempfile::tempdir().unwrap();
        for (name, at) in [("b", 1), ("a", 2)] {
            std::fs::create_dir(directory.path().join(name)).unwrap();
            spec(name, at).save(&directory.path().join(name)).unwrap();
        }
        std::fs::create_dir(directory.path().join("torn")).unwrap();
        std::fs::write(directory.path().join("torn").join(FILE), b"{\"id\":").unwrap();
        std::fs::create_dir(directory.path().join("empty")).unwrap();
        assert_eq!(load_all(directory.path()), [spec("b", 1), spec("a", 2)]);
        assert_eq!(spec("a", 1).snapshot_id().unwrap().to_string(), "ab".repeat(32));
        assert_eq!(VIEWS, format!("views-{}", crate::replica::control::PROTOCOL));
    }

    #[test]
    fn a_spec_of_another_version_is_read_or_refused() {
        let directory = tempfile::tempdir().unwrap();
        let check = |change: fn(&mut serde_json::Value), expected: Result<Spec, &str>| {
            let mut document = serde_json::to_value(spec("a", 1)).unwrap();
            change(&mut document);
            std::fs::write(directory.path().join(FILE), document.to_string()).unwrap();
            let read = Spec::load(directory.path()).map_err(|error| error.to_string());
            match expected {
                Ok(expected) => assert_eq!(read, Ok(expected)),
                Err(part) => assert!(read.as_ref().is_err_and(|error| error.contains(part)), "{read:?}"),
            }
        };
        check(|document| document["colour"] = "red".into(), Ok(spec("a", 1)));
        check(|document| document["version"] = 2.into(), Err("newer twinshare"));
        check(|document| drop(document.as_object_mut().unwrap().remove("id")), Err("id"));
    }

    #[test]
    fn roots_are_kept_beside_the_spec() {
        let directory = tempfile::tempdir().unwrap();
        assert_eq!(load_roots(directory.path()).unwrap(), []);
        let roots = vec![ReplicaRoot { origin: "\u{1}".repeat(4095), local: "/m".into() }; 64];
        save_roots(directory.path(), &roots).unwrap();
        assert_eq!(load_roots(directory.path()).unwrap(), roots);
    }
}
