//! The problems that come from other machines: peers that cannot be reached or refuse, and mounts and clones of theirs.

use axum::http::StatusCode;
use twinshare_transport::client::CallError;
use twinshare_transport::protocol::Refusal;

use super::{Kind, kind};
use crate::api::replica_control::ReplicaError;

pub(super) fn replica_kind(error: &ReplicaError) -> Kind {
    match error {
        ReplicaError::NoSuchReplica(_) => no_such_replica(),
        ReplicaError::Directory { .. } => kind(
            StatusCode::CONFLICT,
            "unusable_directory",
            "Directory cannot be used",
            "choose another directory, empty or not there yet",
        ),
        ReplicaError::Busy { .. } => kind(
            StatusCode::CONFLICT,
            "busy",
            "In use",
            "leave the directory and close its files in the programs named, then try again",
        ),
        ReplicaError::Incomplete { .. } => kind(
            StatusCode::CONFLICT,
            "not_complete",
            "Not everything is here",
            "`twinshare workspace wait` returns when it is",
        ),
        ReplicaError::NothingToDecide { .. } => kind(
            StatusCode::CONFLICT,
            "nothing_to_decide",
            "Nothing is to be decided",
            "`twinshare workspace status` names the files about which something is",
        ),
        ReplicaError::NoRoom(_) => kind(
            StatusCode::CONFLICT,
            "no_room",
            "No room to keep it",
            "`twinshare cache status` shows what is kept; `cache.bytes_max` in the configuration is what may be",
        ),
        ReplicaError::Call(error) => call_kind(error),
        ReplicaError::Unreachable(_) => peer_unreachable(),
        ReplicaError::Refused(_) => peer_refused(),
        ReplicaError::Unsupported(_) => kind(
            StatusCode::NOT_IMPLEMENTED,
            "unsupported_here",
            "Not possible on this machine",
            "`twinshare doctor` says what to install or to allow; `twinshare workspace clone --plain` needs no FUSE",
        ),
        ReplicaError::Cancelled => {
            Kind { status: StatusCode::CONFLICT, code: "cancelled", title: "Cancelled", hint: None }
        }
        ReplicaError::Failed { .. } => kind(
            StatusCode::INTERNAL_SERVER_ERROR,
            "replica_failed",
            "Mount or clone failed",
            "the node's log and the replica's own say more",
        ),
    }
}

pub(super) fn no_such_replica() -> Kind {
    kind(
        StatusCode::NOT_FOUND,
        "no_such_replica",
        "No such mount or clone",
        "`twinshare workspace list` shows those that are there",
    )
}

pub(super) fn call_kind(error: &CallError) -> Kind {
    match error {
        CallError::Unreachable(_) | CallError::Deadline(_) => peer_unreachable(),
        CallError::Refused(refusal) => refusal_kind(refusal),
        CallError::OtherPeer { .. } => kind(
            StatusCode::BAD_GATEWAY,
            "other_peer",
            "Another node answers",
            "the node there has another key than before: ask its owner why before you add it anew",
        ),
        CallError::Invalid(_) => peer_protocol(),
    }
}

fn refusal_kind(refusal: &Refusal) -> Kind {
    match refusal {
        Refusal::NotGranted | Refusal::NoSuchWorkspace => peer_refused(),
        Refusal::NotNear => Kind {
            hint: Some("connect both machines to one network; what is open is open to that only"),
            ..peer_refused()
        },
        Refusal::SnapshotGone => kind(
            StatusCode::GONE,
            "snapshot_gone",
            "Snapshot is gone",
            "mount or clone the workspace anew: that takes a new snapshot",
        ),
        Refusal::TooBusy => {
            kind(StatusCode::SERVICE_UNAVAILABLE, "peer_busy", "Peer is busy", "try again in a moment")
        }
        Refusal::Internal(_) => kind(
            StatusCode::BAD_GATEWAY,
            "peer_failed",
            "Peer failed",
            "ask its owner to look into their node's log; sharing the workspace again may mend it",
        ),
        Refusal::BadRequest => peer_protocol(),
    }
}

pub(super) fn peer_unreachable() -> Kind {
    kind(
        StatusCode::BAD_GATEWAY,
        "peer_unreachable",
        "Peer cannot be reached",
        "is its node running? `twinshare p2p discover` shows who is seen; `twinshare doctor` checks this side",
    )
}

pub(super) fn peer_refused() -> Kind {
    kind(
        StatusCode::FORBIDDEN,
        "peer_refused",
        "Peer refused",
        "ask its owner to share the workspace: `twinshare workspace share NAME --open`",
    )
}

fn peer_protocol() -> Kind {
    kind(
        StatusCode::BAD_GATEWAY,
        "peer_protocol",
        "Peer speaks another protocol",
        "install the same version of twinshare on both sides",
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::error::ApiError;

    #[track_caller]
    fn check(refusal: Refusal, status: u16, code: &str) {
        let call = || CallError::Refused(refusal.clone());
        // However the peer was asked.
        for error in [
            ApiError::Call { peer: "anna".to_owned(), error: call() },
            ApiError::Replica(ReplicaError::Call(call())),
        ] {
            assert_eq!((error.status().as_u16(), error.code()), (status, code), "{error}");
        }
    }

    #[test]
    fn a_peers_no_says_who_has_to_react() {
        check(Refusal::NotGranted, 403, "peer_refused");
        check(Refusal::NoSuchWorkspace, 403, "peer_refused");
        check(Refusal::NotNear, 403, "peer_refused");
        check(Refusal::SnapshotGone, 410, "snapshot_gone");
        check(Refusal::TooBusy, 503, "peer_busy");
        check(Refusal::Internal("disk".into()), 502, "peer_failed");
        check(Refusal::BadRequest, 502, "peer_protocol");
    }
}
