//! Snapshots and the leases that keep them.
//!
//! A snapshot is kept for as long as some peer's lease on it lasts. Every contact renews the lease; one that is not
//! renewed for [`LEASE_TIME`] is gone, and with its last lease the snapshot.

use std::time::{Duration, SystemTime};

use rusqlite::{OptionalExtension, Row, Transaction, params};
use twinshare_fs::manifest::SnapshotId;
use twinshare_transport::identity::PeerId;
use twinshare_transport::protocol::{TreeSize, WATCHED_KEPT};

use super::columns::{peer_at, seconds, snapshot_at, time_at};
use super::{RegistryError, Tables, WorkspaceId};

/// How long a snapshot is kept for a peer that is not heard of.
pub const LEASE_TIME: Duration = Duration::from_secs(30 * 24 * 60 * 60);

/// Leases of one peer on one workspace at most. A further one ends the one that was not used for longest, so a peer
/// that opens snapshots without end fills nobody's disk.
pub const LEASES_PER_PEER_MAX: u32 = 64;

/// Snapshots of one workspace at most: any number of peers can open an open share, and each may find the tree changed.
pub const SNAPSHOTS_PER_WORKSPACE_MAX: u32 = 256;

/// Leases of all peers on one snapshot at most.
pub const LEASES_PER_SNAPSHOT_MAX: u32 = 1024;

/// At the two bounds above, a newcomer takes the place of a lease that was not used for so long, and is refused where
/// there is none: a peer id costs nothing, so newcomers must not end leases that are in use. Those are renewed hourly.
pub const IDLE_AFTER: Duration = Duration::from_secs(24 * 60 * 60);

/// Why a peer has a lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LeaseReason {
    /// It asked for the snapshot, and may come back to it after weeks.
    Opened,
    /// It watches the workspace and was told of the snapshot. Of these it keeps [`WATCHED_KEPT`]: it has moved on from
    /// the others. One that it opens as well is as any other it opened.
    Watched,
}

/// A frozen manifest in the node's state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapshotRecord {
    /// Its id, which names its directory.
    pub snapshot: SnapshotId,
    /// Of which workspace.
    pub workspace: WorkspaceId,
    /// When it was frozen.
    pub created: SystemTime,
    /// How large the tree is.
    pub size: TreeSize,
}

/// That a snapshot is kept for a peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lease {
    /// Which snapshot.
    pub snapshot: SnapshotId,
    /// For whom.
    pub peer: PeerId,
    /// When the peer last used it.
    pub last_contact: SystemTime,
    /// When it ends unless the peer uses it again.
    pub expires: SystemTime,
}

fn record(row: &Row<'_>) -> rusqlite::Result<SnapshotRecord> {
    Ok(SnapshotRecord {
        snapshot: snapshot_at(row, "snapshot")?,
        workspace: WorkspaceId(row.get("workspace")?),
        created: time_at(row, "created")?,
        size: TreeSize { entries: row.get("entries")?, file_bytes: row.get::<_, i64>("file_bytes")? as u64 },
    })
}

fn lease(row: &Row<'_>) -> rusqlite::Result<Lease> {
    Ok(Lease {
        snapshot: snapshot_at(row, "snapshot")?,
        peer: peer_at(row, "peer")?,
        last_contact: time_at(row, "last_contact")?,
        expires: time_at(row, "expires")?,
    })
}

impl Tables {
    /// Records a snapshot together with the first lease on it. A tree that has not changed gives the same snapshot
    /// again: then only the lease is new. [`RegistryError::Crowded`] where others use all there is room for.
    pub fn add_snapshot(
        &mut self,
        snapshot: &SnapshotRecord,
        peer: PeerId,
        reason: LeaseReason,
        now: SystemTime,
    ) -> Result<(), RegistryError> {
        let transaction = self.connection.transaction()?;
        make_room(&transaction, snapshot, peer, now)?;
        transaction.execute(
            "INSERT INTO snapshots (snapshot, workspace, created, entries, file_bytes) VALUES (?1, ?2, ?3, ?4, ?5)
             ON CONFLICT (snapshot) DO UPDATE SET workspace = excluded.workspace, created = excluded.created",
            params![
                snapshot.snapshot.0.0,
                snapshot.workspace.0,
                seconds(snapshot.created),
                snapshot.size.entries,
                // The sum of all sizes may exceed what SQLite's integers hold; it comes back as it went in.
                snapshot.size.file_bytes as i64
            ],
        )?;
        transaction.execute(
            "INSERT INTO leases (snapshot, peer, last_contact, expires, watched) VALUES (?1, ?2, ?3, ?4,
                 CASE WHEN ?5 THEN (SELECT coalesce(max(watched), 0) + 1 FROM leases) END)
             ON CONFLICT (snapshot, peer) DO UPDATE
             SET last_contact = excluded.last_contact, expires = excluded.expires,
                 watched = CASE WHEN watched IS NOT NULL THEN excluded.watched END",
            params![
                snapshot.snapshot.0.0,
                peer.0,
                seconds(now),
                seconds(now + LEASE_TIME),
                reason == LeaseReason::Watched
            ],
        )?;
        end_left_behind(&transaction, snapshot, peer)?;
        end_own_leases_beyond_bound(&transaction, snapshot, peer)?;
        Ok(transaction.commit()?)
    }

    /// The peer, which watches, still shows this snapshot: of those that it has only for watching it is the last to go.
    pub fn keep_watched(
        &mut self,
        snapshot: SnapshotId,
        peer: PeerId,
        now: SystemTime,
    ) -> Result<(), RegistryError> {
        self.connection.execute(
            "UPDATE leases SET last_contact = ?3, expires = ?4,
                 watched = (SELECT coalesce(max(watched), 0) + 1 FROM leases)
             WHERE snapshot = ?1 AND peer = ?2 AND watched IS NOT NULL",
            params![snapshot.0.0, peer.0, seconds(now), seconds(now + LEASE_TIME)],
        )?;
        Ok(())
    }

    /// One snapshot.
    pub fn snapshot(&self, snapshot: SnapshotId) -> Result<Option<SnapshotRecord>, RegistryError> {
        let mut query = self.connection.prepare_cached("SELECT * FROM snapshots WHERE snapshot = ?1")?;
        Ok(query.query_row([snapshot.0.0], record).optional()?)
    }

    /// All snapshots, the newest first.
    pub fn snapshots(&self) -> Result<Vec<SnapshotRecord>, RegistryError> {
        let mut query = self.connection.prepare_cached("SELECT * FROM snapshots ORDER BY created DESC")?;
        let rows = query.query_map([], record)?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    /// Renews the peer's lease on a snapshot; false where it has none (any more).
    pub fn renew_lease(
        &mut self,
        snapshot: SnapshotId,
        peer: PeerId,
        now: SystemTime,
    ) -> Result<bool, RegistryError> {
        let renewed = self.connection.execute(
            "UPDATE leases SET last_contact = ?3, expires = ?4 WHERE snapshot = ?1 AND peer = ?2",
            params![snapshot.0.0, peer.0, seconds(now), seconds(now + LEASE_TIME)],
        )?;
        Ok(renewed > 0)
    }

    /// All leases, the one used last first.
    pub fn leases(&self) -> Result<Vec<Lease>, RegistryError> {
        let mut query = self.connection.prepare_cached("SELECT * FROM leases ORDER BY last_contact DESC")?;
        let rows = query.query_map([], lease)?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    /// Ends the leases whose time is over, forgets the snapshots that no lease keeps, and returns those that are
    /// left.
    pub fn expire_leases(&mut self, now: SystemTime) -> Result<Vec<SnapshotRecord>, RegistryError> {
        let transaction = self.connection.transaction()?;
        transaction.execute("DELETE FROM leases WHERE expires <= ?1", [seconds(now)])?;
        transaction.execute(
            "DELETE FROM snapshots WHERE NOT EXISTS (SELECT 1 FROM leases WHERE leases.snapshot = snapshots.snapshot)",
            [],
        )?;
        transaction.commit()?;
        self.snapshots()
    }
}

/// Makes room for a lease of `peer` that is not there yet, at the cost of leases that nobody uses.
fn make_room(
    transaction: &Transaction<'_>,
    snapshot: &SnapshotRecord,
    peer: PeerId,
    now: SystemTime,
) -> Result<(), RegistryError> {
    let idle = seconds(now.checked_sub(IDLE_AFTER).unwrap_or(SystemTime::UNIX_EPOCH));
    let id = snapshot.snapshot.0.0;
    let mut leases =
        transaction.prepare_cached("SELECT count(*) FROM leases WHERE snapshot = ?1 AND peer <> ?2")?;
    if leases.query_row(params![id, peer.0], |row| row.get::<_, u32>(0))? >= LEASES_PER_SNAPSHOT_MAX {
        let ended = transaction.execute(
            "DELETE FROM leases WHERE snapshot = ?1 AND peer IN (
                 SELECT peer FROM leases WHERE snapshot = ?1 AND last_contact < ?2 ORDER BY last_contact LIMIT 1)",
            params![id, idle],
        )?;
        if ended == 0 {
            return Err(RegistryError::Crowded);
        }
    }
    let mut snapshots = transaction.prepare_cached(
        "SELECT count(DISTINCT snapshot) FROM leases JOIN snapshots USING (snapshot)
         WHERE workspace = ?1 AND snapshot <> ?2",
    )?;
    let others: u32 = snapshots.query_row(params![snapshot.workspace.0, id], |row| row.get(0))?;
    if others >= SNAPSHOTS_PER_WORKSPACE_MAX {
        let ended = transaction.execute(
            "DELETE FROM leases WHERE snapshot IN (
                 SELECT snapshot FROM leases JOIN snapshots USING (snapshot) WHERE workspace = ?1 AND snapshot <> ?2
                 GROUP BY snapshot HAVING max(last_contact) < ?3 ORDER BY max(last_contact), created LIMIT 1)",
            params![snapshot.workspace.0, id, idle],
        )?;
        if ended == 0 {
            return Err(RegistryError::Crowded);
        }
    }
    Ok(())
}

/// Ends the leases that the peer has only for having watched, but the last ones.
fn end_left_behind(
    transaction: &Transaction<'_>,
    snapshot: &SnapshotRecord,
    peer: PeerId,
) -> Result<(), RegistryError> {
    transaction.execute(
        "DELETE FROM leases WHERE peer = ?1 AND snapshot IN (
             SELECT snapshot FROM leases JOIN snapshots USING (snapshot)
             WHERE peer = ?1 AND workspace = ?2 AND watched IS NOT NULL
             ORDER BY watched DESC LIMIT -1 OFFSET ?3)",
        params![peer.0, snapshot.workspace.0, WATCHED_KEPT],
    )?;
    Ok(())
}

/// Ends the peer's own leases that the one just given pushes out.
fn end_own_leases_beyond_bound(
    transaction: &Transaction<'_>,
    snapshot: &SnapshotRecord,
    peer: PeerId,
) -> Result<(), RegistryError> {
    transaction.execute(
        "DELETE FROM leases WHERE peer = ?1 AND snapshot IN (
             SELECT snapshot FROM leases JOIN snapshots USING (snapshot)
             WHERE peer = ?1 AND workspace = ?2
             ORDER BY last_contact DESC, created DESC LIMIT -1 OFFSET ?3)",
        params![peer.0, snapshot.workspace.0, LEASES_PER_PEER_MAX],
    )?;
    Ok(())
}
