//! What the tests of replicas share.

use twinshare_fs::replica::WhenGone;
use twinshare_transport::identity::PeerId;

use super::spec::{Spec, VERSION};
use crate::api::wire::{ReplicaKind, UnixTime};

/// A view of `anna`'s `demo`.
pub(super) fn spec(id: &str) -> Spec {
    Spec {
        version: VERSION,
        id: id.into(),
        process: Spec::process_for(ReplicaKind::View, id),
        kind: ReplicaKind::View,
        peer: PeerId([7; 32]),
        peer_name: "anna".into(),
        addresses: vec!["[fe80::1%2]:37778".parse().expect("an address")],
        workspace: "demo".into(),
        snapshot: "ab".repeat(32),
        mount_point: "/home/b/demo".into(),
        made_mount_point: true,
        replica_directory: None,
        keep_mounted: false,
        keep_paths: false,
        plain: false,
        when_gone: WhenGone::default(),
        created_at: UnixTime(1),
        ended: false,
    }
}
