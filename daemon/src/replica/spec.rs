//! What a replica is made from, as the node writes it down and the replica's process reads it.
//!
//! One JSON file per replica in the node's state. It holds all a process needs to serve the replica when the node is
//! not running, and all the node needs to start the process again: nothing else about a replica is kept.

use std::io::{self, Write};
use std::net::SocketAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use twinshare_fs::manifest::SnapshotId;
use twinshare_fs::replica::WhenGone;
use twinshare_transport::identity::PeerId;

use crate::api::wire::{ReplicaKind, UnixTime};

/// The key of the process that serves all views, in place of a clone's id.
pub const VIEWS: &str = "views";

/// Name of the file in the replica's state directory.
const FILE: &str = "spec.json";

/// One replica.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Spec {
    /// Names its directories and, for a clone, its process.
    pub id: String,
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
    /// What reads do while the peer is gone.
    pub when_gone: WhenGone,
    /// When it was made.
    pub created_at: UnixTime,
}

impl Spec {
    /// The key of the process that serves it.
    pub fn process(&self) -> &str {
        match self.kind {
            ReplicaKind::View => VIEWS,
            ReplicaKind::Clone => &self.id,
        }
    }

    /// The snapshot's id.
    pub fn snapshot_id(&self) -> io::Result<SnapshotId> {
        let digest = self.snapshot.parse().map_err(|error| invalid(format!("the snapshot's id: {error}")))?;
        Ok(SnapshotId(digest))
    }

    /// Reads the spec in a replica's state directory.
    pub fn load(directory: &Path) -> io::Result<Self> {
        let text = std::fs::read(directory.join(FILE))?;
        serde_json::from_slice(&text).map_err(|error| invalid(error.to_string()))
    }

    /// Writes it there, atomically and durably, readable by this user alone.
    pub fn save(&self, directory: &Path) -> io::Result<()> {
        let temporary = directory.join(format!("{FILE}.new"));
        let mut file =
            std::fs::File::options().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
        file.write_all(&serde_json::to_vec_pretty(self)?)?;
        file.sync_all()?;
        std::fs::rename(&temporary, directory.join(FILE))?;
        std::fs::File::open(directory)?.sync_all()
    }
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
        Spec {
            id: id.into(),
            kind: ReplicaKind::Clone,
            peer: PeerId([7; 32]),
            peer_name: "anna".into(),
            addresses: vec!["[fe80::1%2]:37778".parse().unwrap()],
            workspace: "demo".into(),
            snapshot: "ab".repeat(32),
            mount_point: "/home/b/demo".into(),
            made_mount_point: true,
            when_gone: WhenGone::default(),
            created_at: UnixTime(at),
        }
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
        assert_eq!(
            (spec("a", 1).process(), Spec { kind: ReplicaKind::View, ..spec("a", 1) }.process()),
            ("a", "views")
        );
    }
}
