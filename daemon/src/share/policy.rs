//! Who may do what: the decisions, without a disk or a network.
//!
//! A grant covers a workspace. A snapshot may be read by those peers that opened it, for as long as its workspace is
//! granted to them: knowing a snapshot's id is not enough, and neither is having been let in once.

use std::collections::{HashMap, HashSet};

use twinshare_fs::manifest::SnapshotId;
use twinshare_transport::identity::PeerId;
use twinshare_transport::protocol::{Refusal, Request};

use crate::registry::{Lease, ShareMode, SnapshotRecord, WorkspaceId, WorkspaceRecord};
use crate::workspace::WorkspaceName;

/// Who asks, as far as decisions go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Visitor {
    /// Who.
    pub(super) peer: PeerId,
    /// Whether it is on this machine's own network.
    pub(super) is_near: bool,
}

/// What is shared, and which snapshots there are.
#[derive(Debug, Default)]
pub(super) struct Policy {
    workspaces: HashMap<WorkspaceName, WorkspaceRecord>,
    names: HashMap<WorkspaceId, WorkspaceName>,
    snapshots: HashMap<SnapshotId, Kept>,
}

/// A snapshot that is kept.
#[derive(Debug)]
struct Kept {
    record: SnapshotRecord,
    peers: HashSet<PeerId>,
}

impl Policy {
    /// Replaces what is known of workspaces.
    pub(super) fn set_workspaces(&mut self, all: Vec<WorkspaceRecord>) {
        self.names = all.iter().map(|record| (record.id, record.name.clone())).collect();
        self.workspaces = all.into_iter().map(|record| (record.name.clone(), record)).collect();
    }

    /// Replaces what is known of snapshots.
    pub(super) fn set_snapshots(&mut self, all: Vec<SnapshotRecord>, leases: &[Lease]) {
        let kept = |record: SnapshotRecord| (record.snapshot, Kept { record, peers: HashSet::new() });
        self.snapshots = all.into_iter().map(kept).collect();
        for lease in leases {
            if let Some(kept) = self.snapshots.get_mut(&lease.snapshot) {
                kept.peers.insert(lease.peer);
            }
        }
    }

    /// Whether the request may be answered at all.
    pub(super) fn admit(&self, by: Visitor, request: &Request) -> Result<(), Refusal> {
        let peer = by.peer;
        match request {
            Request::Hello(_) => Ok(()),
            // All grants there are come from open shares, which are open to the network the owner is on. Whoever asks
            // from elsewhere learns that, whatever it asks for, and not what there is.
            _ if !by.is_near => Err(Refusal::NotNear),
            Request::Catalogue => Ok(()),
            Request::OpenSnapshot(open) => {
                let workspace = self.workspace(peer, &open.workspace)?;
                open.at.map_or(Ok(()), |at| self.may_reopen(workspace.id, at))
            }
            Request::Watch(watch) => self.workspace(peer, &watch.workspace).map(|_| ()),
            Request::ReadManifest(snapshot) => self.may_read(peer, *snapshot),
            Request::ReadManifestSince(read) => self.may_read(peer, read.snapshot),
            Request::ReadFiles(read) => self.may_read(peer, read.snapshot),
            Request::ReadRanges(read) => self.may_read(peer, read.snapshot),
            Request::TakeAnew(take) => self.may_read(peer, take.snapshot),
        }
    }

    /// The workspace of that name, if this peer may read it. One that it may not know of does not exist for it.
    pub(super) fn workspace(&self, peer: PeerId, name: &str) -> Result<&WorkspaceRecord, Refusal> {
        let name: WorkspaceName = name.parse().map_err(|_| Refusal::NoSuchWorkspace)?;
        self.workspaces.get(&name).filter(|record| is_granted(record, peer)).ok_or(Refusal::NoSuchWorkspace)
    }

    /// The workspaces this peer may know of, by name.
    pub(super) fn visible_to(&self, peer: PeerId) -> Vec<WorkspaceRecord> {
        let mut visible: Vec<_> =
            self.workspaces.values().filter(|record| is_granted(record, peer)).cloned().collect();
        visible.sort_by(|a, b| a.name.cmp(&b.name));
        visible
    }

    /// The workspaces that everyone may see, by name.
    pub(super) fn open(&self) -> Vec<WorkspaceName> {
        let open = self.workspaces.values().filter(|record| is_open(record));
        let mut names: Vec<_> = open.map(|record| record.name.clone()).collect();
        names.sort();
        names
    }

    /// The newest snapshot of a workspace.
    pub(super) fn newest(&self, workspace: WorkspaceId) -> Option<&SnapshotRecord> {
        let all = self.snapshots.values().map(|kept| &kept.record);
        all.filter(|record| record.workspace == workspace).max_by_key(|record| record.created)
    }

    /// Whether a snapshot is kept, of this workspace.
    pub(super) fn may_reopen(&self, workspace: WorkspaceId, snapshot: SnapshotId) -> Result<(), Refusal> {
        let kept = self.snapshots.get(&snapshot).filter(|kept| kept.record.workspace == workspace);
        kept.map(|_| ()).ok_or(Refusal::SnapshotGone)
    }

    /// Whether an answer that reads a snapshot may go on.
    pub(super) fn may_go_on(&self, by: Visitor, snapshot: SnapshotId) -> Result<(), Refusal> {
        match by.is_near {
            true => self.may_read(by.peer, snapshot),
            false => Err(Refusal::NotNear),
        }
    }

    /// Whether this peer may read a snapshot. Without a lease there is no telling whether it exists.
    fn may_read(&self, peer: PeerId, snapshot: SnapshotId) -> Result<(), Refusal> {
        let kept = self.snapshots.get(&snapshot).filter(|kept| kept.peers.contains(&peer));
        let kept = kept.ok_or(Refusal::SnapshotGone)?;
        let name = self.names.get(&kept.record.workspace);
        let workspace = name.and_then(|name| self.workspaces.get(name));
        match workspace.is_some_and(|record| is_granted(record, peer)) {
            true => Ok(()),
            false => Err(Refusal::NotGranted),
        }
    }
}

fn is_open(record: &WorkspaceRecord) -> bool {
    record.share.as_ref().is_some_and(|share| share.mode == ShareMode::Open)
}

/// Whether a peer that is near may read a workspace. An open share lets everyone in; there are no other grants yet.
fn is_granted(record: &WorkspaceRecord, _peer: PeerId) -> bool {
    is_open(record)
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use twinshare_fs::digest::Digest;
    use twinshare_fs::manifest::EntryIndex;
    use twinshare_fs::origin::Class;
    use twinshare_fs::origin::TakeAnew;
    use twinshare_transport::protocol::{Hello, OpenSnapshot, ReadFiles, ReadRanges, TakeAnewOf, TreeSize};

    use super::*;
    use crate::registry::ShareRecord;

    const ANNA: PeerId = PeerId([1; 32]);
    const BEN: PeerId = PeerId([2; 32]);

    fn near(peer: PeerId) -> Visitor {
        Visitor { peer, is_near: true }
    }

    fn id(number: u8) -> SnapshotId {
        SnapshotId(Digest([number; 32]))
    }

    fn workspace(number: i64, name: &str, mode: Option<ShareMode>) -> WorkspaceRecord {
        let now = SystemTime::UNIX_EPOCH;
        WorkspaceRecord {
            id: WorkspaceId(number),
            name: name.parse().unwrap(),
            directory: format!("/{name}").into(),
            created: now,
            share: mode.map(|mode| ShareRecord { mode, since: now, companions: Vec::new() }),
        }
    }

    fn snapshot(number: u8, workspace: i64) -> SnapshotRecord {
        let created = SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(number.into());
        SnapshotRecord {
            snapshot: id(number),
            workspace: WorkspaceId(workspace),
            created,
            size: TreeSize::default(),
        }
    }

    /// `open` with snapshots 1 (Anna's) and 2, `closed` with 3 (Anna's), `private` unshared with 4 (Anna's).
    fn policy() -> Policy {
        let mut policy = Policy::default();
        policy.set_workspaces(vec![
            workspace(1, "open", Some(ShareMode::Open)),
            workspace(2, "closed", Some(ShareMode::Closed)),
            workspace(3, "private", None),
        ]);
        let now = SystemTime::UNIX_EPOCH;
        let lease = |number| Lease { snapshot: id(number), peer: ANNA, last_contact: now, expires: now };
        let all = vec![snapshot(1, 1), snapshot(2, 1), snapshot(3, 2), snapshot(4, 3)];
        policy.set_snapshots(all, &[lease(1), lease(3), lease(4), lease(9)]);
        policy
    }

    #[test]
    fn everyone_may_greet_and_ask_what_there_is() {
        let policy = policy();
        assert_eq!(policy.admit(near(BEN), &Request::Hello(Hello::new("ben"))), Ok(()));
        assert_eq!(policy.admit(near(BEN), &Request::Catalogue), Ok(()));
        let visible = policy.visible_to(BEN);
        assert_eq!(visible.iter().map(|record| record.name.as_str()).collect::<Vec<_>>(), ["open"]);
        assert_eq!(policy.open(), ["open".parse().unwrap()]);
        assert_eq!(policy.newest(WorkspaceId(1)).map(|record| record.snapshot), Some(id(2)));
        assert_eq!(policy.newest(WorkspaceId(9)), None);
    }

    #[track_caller]
    fn check_open(workspace: &str, at: Option<u8>, expected: Result<(), Refusal>) {
        let request = OpenSnapshot { workspace: workspace.into(), at: at.map(id) };
        assert_eq!(
            policy().admit(near(BEN), &Request::OpenSnapshot(request)),
            expected,
            "{workspace} {at:?}"
        );
    }

    #[test]
    fn only_what_is_open_can_be_opened() {
        check_open("open", None, Ok(()));
        check_open("open", Some(1), Ok(()));
        check_open("open", Some(3), Err(Refusal::SnapshotGone));
        check_open("open", Some(9), Err(Refusal::SnapshotGone));
        for name in ["closed", "private", "none", "../open", ""] {
            check_open(name, None, Err(Refusal::NoSuchWorkspace));
            check_open(name, Some(3), Err(Refusal::NoSuchWorkspace));
        }
    }

    #[track_caller]
    fn check_read(peer: PeerId, snapshot: u8, expected: Result<(), Refusal>) {
        let (policy, snapshot, class, compress) = (policy(), id(snapshot), Class::Demand, false);
        let files = Request::ReadFiles(ReadFiles { snapshot, files: vec![], class, compress });
        let ranges = Request::ReadRanges(ReadRanges { snapshot, ranges: vec![], class, compress });
        let wanted = TakeAnew { entry: EntryIndex(1), held: vec![] };
        let anew = Request::TakeAnew(TakeAnewOf { snapshot, wanted, class, compress });
        for request in [Request::ReadManifest(snapshot), files, ranges, anew] {
            assert_eq!(policy.admit(near(peer), &request), expected, "{request:?}");
        }
        assert_eq!(policy.may_go_on(near(peer), snapshot), expected);
    }

    #[test]
    fn a_snapshot_is_read_by_who_opened_it_while_its_workspace_is_shared() {
        check_read(ANNA, 1, Ok(()));
        check_read(ANNA, 2, Err(Refusal::SnapshotGone));
        check_read(BEN, 1, Err(Refusal::SnapshotGone));
        check_read(ANNA, 9, Err(Refusal::SnapshotGone));
        // Its grant was withdrawn: the clone is told so, and not that the snapshot is gone.
        check_read(ANNA, 3, Err(Refusal::NotGranted));
        check_read(ANNA, 4, Err(Refusal::NotGranted));
    }

    #[test]
    fn who_comes_from_another_network_is_told_so_and_nothing_else() {
        let (policy, far) = (policy(), Visitor { peer: ANNA, is_near: false });
        assert_eq!(policy.admit(far, &Request::Hello(Hello::new("anna"))), Ok(()));
        let open =
            |name: &str| Request::OpenSnapshot(OpenSnapshot { workspace: name.into(), at: Some(id(1)) });
        for request in [Request::Catalogue, open("open"), open("none"), Request::ReadManifest(id(1))] {
            assert_eq!(policy.admit(far, &request), Err(Refusal::NotNear), "{request:?}");
        }
        assert_eq!(policy.may_go_on(far, id(1)), Err(Refusal::NotNear));
    }
}
