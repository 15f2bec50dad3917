//! What the registry keeps, across restarts and damage.

use std::fs;
use std::time::UNIX_EPOCH;

use twinshare_fs::digest::Digest;
use twinshare_fs::manifest::SnapshotId;
use twinshare_transport::identity::{PeerId, PublicKey};
use twinshare_transport::protocol::TreeSize;

use super::*;

struct Bench {
    directory: tempfile::TempDir,
    tables: Tables,
}

const OPENED: LeaseReason = LeaseReason::Opened;

fn bench() -> Bench {
    let directory = tempfile::tempdir().unwrap();
    let tables = Tables::open(&directory.path().join("registry.db")).unwrap();
    // Some of the tests write thousands of times.
    tables.connection.pragma_update(None, "synchronous", "OFF").unwrap();
    Bench { directory, tables }
}

fn at(seconds: u64) -> std::time::SystemTime {
    UNIX_EPOCH + Duration::from_secs(seconds)
}

fn name(text: &str) -> WorkspaceName {
    text.parse().unwrap()
}

fn snapshot(id: u8, workspace: WorkspaceId) -> SnapshotRecord {
    let size = TreeSize { entries: 3, file_bytes: u64::MAX };
    SnapshotRecord { snapshot: SnapshotId(Digest([id; 32])), workspace, created: at(id.into()), size }
}

fn sighting(id: u16) -> Sighting {
    let mut peer = [0; 32];
    peer[..2].copy_from_slice(&id.to_be_bytes());
    Sighting {
        peer: PeerId(peer),
        name: "anna".parse().unwrap(),
        addresses: vec!["[fe80::1%2]:37778".parse().unwrap()],
        host: None,
        public_key: None,
    }
}

#[test]
fn names_and_directories_are_unique() {
    let Bench { mut tables, .. } = bench();
    let added = tables.add_workspace(&name("a"), Path::new("/a"), at(5)).unwrap();
    assert_eq!(
        (added.directory.as_path(), added.created, added.share.clone()),
        (Path::new("/a"), at(5), None)
    );
    assert_eq!(tables.add_workspace(&name("a"), Path::new("/a"), at(9)).unwrap(), added);
    let taken = tables.add_workspace(&name("a"), Path::new("/b"), at(5)).unwrap_err();
    assert!(matches!(taken, RegistryError::NameTaken { .. }), "{taken}");
    let taken = tables.add_workspace(&name("b"), Path::new("/a"), at(5)).unwrap_err();
    assert!(matches!(taken, RegistryError::DirectoryTaken { .. }), "{taken}");
    assert_eq!(tables.workspaces().unwrap(), [added]);
    tables.remove_workspace(&name("a")).unwrap();
    assert!(matches!(tables.remove_workspace(&name("a")), Err(RegistryError::NoSuchWorkspace(_))));
}

#[test]
fn a_share_keeps_its_beginning() {
    let Bench { mut tables, .. } = bench();
    tables.add_workspace(&name("a"), Path::new("/a"), at(1)).unwrap();
    let share = |record: WorkspaceRecord| record.share.map(|share| (share.mode, share.since));
    assert_eq!(share(tables.share(&name("a"), None, &[], at(2)).unwrap()), Some((ShareMode::Closed, at(2))));
    assert_eq!(
        share(tables.share(&name("a"), Some(ShareMode::Open), &[], at(3)).unwrap()),
        Some((ShareMode::Open, at(2)))
    );
    // Asked for nothing else, it is shared as before, with what is named now.
    let companions = ["/opt/py".into(), "/m".into()];
    let again = tables.share(&name("a"), None, &companions, at(4)).unwrap().share.unwrap();
    assert_eq!(again, ShareRecord { mode: ShareMode::Open, since: at(2), companions: companions.into() });
    assert!(tables.unshare(&name("a")).unwrap());
    assert!(!tables.unshare(&name("a")).unwrap());
    assert!(matches!(tables.share(&name("b"), None, &[], at(3)), Err(RegistryError::NoSuchWorkspace(_))));
}

#[test]
fn a_snapshot_lives_as_long_as_a_lease() {
    let Bench { mut tables, .. } = bench();
    let workspace = tables.add_workspace(&name("a"), Path::new("/a"), at(1)).unwrap().id;
    let (one, two) = (snapshot(1, workspace), snapshot(2, workspace));
    let (anna, ben) = (PeerId([1; 32]), PeerId([2; 32]));
    tables.add_snapshot(&one, anna, OPENED, at(10)).unwrap();
    tables.add_snapshot(&one, ben, OPENED, at(20)).unwrap();
    tables.add_snapshot(&two, ben, OPENED, at(20)).unwrap();
    assert_eq!(tables.snapshot(one.snapshot).unwrap(), Some(one.clone()));
    assert!(tables.renew_lease(one.snapshot, anna, at(30)).unwrap());
    assert!(!tables.renew_lease(two.snapshot, anna, at(30)).unwrap());
    let end = |seconds| at(seconds) + LEASE_TIME;
    assert_eq!(tables.expire_leases(end(19)).unwrap(), [two, one.clone()]);
    assert_eq!(tables.expire_leases(end(20)).unwrap(), [one]);
    assert_eq!(tables.leases().unwrap().len(), 1);
    assert_eq!(tables.expire_leases(end(30)).unwrap(), []);
    assert_eq!(tables.leases().unwrap(), []);
}

#[test]
fn a_workspace_takes_its_snapshots_with_it() {
    let Bench { mut tables, .. } = bench();
    let workspace = tables.add_workspace(&name("a"), Path::new("/a"), at(1)).unwrap().id;
    tables.share(&name("a"), Some(ShareMode::Open), &[], at(1)).unwrap();
    tables.add_snapshot(&snapshot(1, workspace), PeerId([1; 32]), OPENED, at(1)).unwrap();
    tables.remove_workspace(&name("a")).unwrap();
    assert_eq!((tables.snapshots().unwrap().len(), tables.leases().unwrap().len()), (0, 0));
}

#[test]
fn one_peer_has_a_bounded_number_of_leases() {
    let Bench { mut tables, .. } = bench();
    let workspace = tables.add_workspace(&name("a"), Path::new("/a"), at(1)).unwrap().id;
    let (anna, ben) = (PeerId([1; 32]), PeerId([2; 32]));
    tables.add_snapshot(&snapshot(0, workspace), ben, OPENED, at(0)).unwrap();
    for id in 0..LEASES_PER_PEER_MAX as u8 + 3 {
        tables.add_snapshot(&snapshot(id, workspace), anna, OPENED, at(u64::from(id))).unwrap();
    }
    let leases = tables.leases().unwrap();
    assert_eq!(leases.len(), LEASES_PER_PEER_MAX as usize + 1);
    assert!(leases.iter().all(|lease| lease.peer == ben || lease.last_contact >= at(3)));
}

#[test]
fn a_peer_that_watches_keeps_the_last_it_was_told_of() {
    let Bench { directory: _directory, mut tables } = bench();
    let workspace = tables.add_workspace(&name("w"), Path::new("/w"), at(0)).unwrap().id;
    let (anna, ben) = (PeerId([1; 32]), PeerId([2; 32]));
    let mut lease = |id: u8, peer, reason| {
        tables.add_snapshot(&snapshot(id, workspace), peer, reason, at(7)).unwrap();
        tables.expire_leases(at(7)).unwrap();
        let leases = tables.leases().unwrap();
        let of_peer = leases.iter().filter(|lease| lease.peer == peer);
        let mut ids: Vec<_> = of_peer.map(|lease| lease.snapshot.0.0[0]).collect();
        ids.sort();
        ids
    };
    lease(0, ben, LeaseReason::Watched);
    lease(1, anna, OPENED);
    for id in 2..=5 {
        lease(id, anna, LeaseReason::Watched);
    }
    assert_eq!(lease(6, anna, LeaseReason::Watched), [1, 3, 4, 5, 6]);
    // What it opens it keeps, before or after it is told of it.
    assert_eq!(lease(3, anna, OPENED), [1, 3, 4, 5, 6]);
    assert_eq!(lease(1, anna, LeaseReason::Watched), [1, 3, 4, 5, 6]);
    // What it is told of again is the last.
    assert_eq!(lease(4, anna, LeaseReason::Watched), [1, 3, 4, 5, 6]);
    lease(7, anna, LeaseReason::Watched);
    assert_eq!(lease(8, anna, LeaseReason::Watched), [1, 3, 4, 6, 7, 8]);
    assert_eq!(lease(9, anna, LeaseReason::Watched), [1, 3, 4, 7, 8, 9]);
    assert_eq!(lease(0, ben, LeaseReason::Watched), [0]);
}

#[test]
fn what_a_peer_that_watches_still_shows_is_kept_whatever_it_is_told_of() {
    let Bench { directory: _directory, mut tables } = bench();
    let workspace = tables.add_workspace(&name("w"), Path::new("/w"), at(0)).unwrap().id;
    let anna = PeerId([1; 32]);
    let shown = snapshot(0, workspace).snapshot;
    for id in 0..10 {
        tables.keep_watched(shown, anna, at(7)).unwrap();
        tables.add_snapshot(&snapshot(id, workspace), anna, LeaseReason::Watched, at(7)).unwrap();
    }
    let mut kept: Vec<_> = tables.leases().unwrap().iter().map(|lease| lease.snapshot.0.0[0]).collect();
    kept.sort();
    assert_eq!(kept, [0, 7, 8, 9]);
    // What it opened is as it was.
    tables.add_snapshot(&snapshot(8, workspace), anna, OPENED, at(7)).unwrap();
    tables.keep_watched(snapshot(8, workspace).snapshot, anna, at(7)).unwrap();
    tables.add_snapshot(&snapshot(10, workspace), anna, LeaseReason::Watched, at(7)).unwrap();
    assert_eq!(tables.leases().unwrap().len(), 5);
}

#[test]
fn newcomers_end_no_lease_that_is_in_use() {
    let Bench { mut tables, .. } = bench();
    let workspace = tables.add_workspace(&name("a"), Path::new("/a"), at(1)).unwrap().id;
    let idle = IDLE_AFTER.as_secs();
    let peer = |number: u32| sighting(number as u16).peer;
    let one = snapshot(1, workspace);
    for number in 0..LEASES_PER_SNAPSHOT_MAX {
        tables.add_snapshot(&one, peer(number), OPENED, at(100)).unwrap();
    }
    let crowded = tables.add_snapshot(&one, peer(5000), OPENED, at(100 + idle)).unwrap_err();
    assert!(matches!(crowded, RegistryError::Crowded), "{crowded}");
    // Who has a lease keeps it, and renews it.
    tables.add_snapshot(&one, peer(0), OPENED, at(100 + idle)).unwrap();
    // One that nobody used for a day makes room.
    tables.add_snapshot(&one, peer(5000), OPENED, at(101 + idle)).unwrap();
    let leases = tables.leases().unwrap();
    assert_eq!(leases.len(), LEASES_PER_SNAPSHOT_MAX as usize);
    assert!(leases.iter().any(|lease| lease.peer == peer(5000)));
    assert!(leases.iter().any(|lease| lease.peer == peer(0)));
}

#[test]
fn a_workspace_has_a_bounded_number_of_snapshots() {
    let Bench { mut tables, .. } = bench();
    let workspace = tables.add_workspace(&name("a"), Path::new("/a"), at(1)).unwrap().id;
    let idle = IDLE_AFTER.as_secs();
    let record = |number: u32| {
        let mut id = [0; 32];
        id[..4].copy_from_slice(&number.to_be_bytes());
        SnapshotRecord { snapshot: SnapshotId(Digest(id)), ..snapshot(1, workspace) }
    };
    let peer = |number: u32| sighting(number as u16).peer;
    for number in 0..SNAPSHOTS_PER_WORKSPACE_MAX {
        tables.add_snapshot(&record(number), peer(number), OPENED, at(100 + u64::from(number))).unwrap();
    }
    let crowded = tables.add_snapshot(&record(5000), peer(5000), OPENED, at(100 + idle)).unwrap_err();
    assert!(matches!(crowded, RegistryError::Crowded), "{crowded}");
    assert_eq!(tables.snapshot(record(5000).snapshot).unwrap(), None);
    tables.add_snapshot(&record(5000), peer(5000), OPENED, at(101 + idle)).unwrap();
    let left = tables.expire_leases(at(101 + idle)).unwrap();
    assert_eq!(left.len(), SNAPSHOTS_PER_WORKSPACE_MAX as usize);
    assert!(left.iter().all(|kept| kept.snapshot != record(0).snapshot));
}

#[test]
fn a_peer_is_remembered_by_its_last_meeting() {
    let Bench { mut tables, .. } = bench();
    let added = Sighting { host: Some("annas-laptop".into()), ..sighting(1) };
    tables.meet_peer(&added, at(1)).unwrap();
    let key = Some(PublicKey([9; 32]));
    let later = Sighting { addresses: vec![], public_key: key, name: "ann".parse().unwrap(), ..sighting(1) };
    tables.meet_peer(&later, at(2)).unwrap();
    let expected = PeerRecord {
        peer: added.peer,
        name: later.name,
        addresses: added.addresses,
        host: added.host,
        public_key: key,
        first_seen: at(1),
        last_seen: Some(at(2)),
    };
    assert_eq!(tables.peer(added.peer).unwrap().as_ref(), Some(&expected));
    assert_eq!(tables.peers().unwrap(), [expected]);
}

#[test]
fn a_peers_last_address_comes_first() {
    let Bench { mut tables, .. } = bench();
    let at_address = |text: &str| Sighting { addresses: vec![text.parse().unwrap()], ..sighting(1) };
    for (number, address) in ["10.0.0.1:7", "10.0.0.2:7", "10.0.0.1:7"].into_iter().enumerate() {
        tables.meet_peer(&at_address(address), at(number as u64)).unwrap();
    }
    let known = tables.peer(sighting(1).peer).unwrap().unwrap().addresses;
    assert_eq!(known, ["10.0.0.1:7", "10.0.0.2:7"].map(|address| address.parse().unwrap()));
}

#[test]
fn the_peers_are_bounded_and_those_added_by_hand_stay() {
    let Bench { mut tables, .. } = bench();
    tables.meet_peer(&Sighting { host: Some("h".into()), ..sighting(0) }, at(0)).unwrap();
    for id in 1..=PEERS_MAX as u16 + 1 {
        tables.meet_peer(&sighting(id), at(id.into())).unwrap();
    }
    let peers = tables.peers().unwrap();
    assert_eq!(peers.len(), PEERS_MAX as usize);
    assert!(peers.iter().any(|peer| peer.peer == sighting(0).peer));
    assert!(peers.iter().all(|peer| peer.peer != sighting(1).peer && peer.peer != sighting(2).peer));
}

#[tokio::test]
async fn what_was_written_is_there_after_a_restart() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("registry.db");
    let registry = Registry::open(file.clone()).await.unwrap();
    registry.call(|tables| tables.add_workspace(&name("a"), Path::new("/a"), at(1))).await.unwrap();
    let second = Registry::open(file).await.unwrap();
    drop(registry);
    assert_eq!(second.call(|tables| tables.workspaces()).await.unwrap().len(), 1);
}

/// Opening the file that `spoil` left must fail, and leave it as it is.
#[track_caller]
fn check_refused(spoil: impl FnOnce(&Path), expected: &str) {
    let Bench { directory, tables } = bench();
    drop(tables);
    let file = directory.path().join("registry.db");
    spoil(&file);
    let before = fs::read(&file).unwrap();
    let error = Tables::open(&file).unwrap_err().to_string();
    assert!(error.contains(expected) && error.contains(file.to_str().unwrap()), "{error}");
    assert_eq!(fs::read(&file).unwrap(), before);
}

#[test]
fn a_damaged_or_foreign_file_is_refused_and_kept() {
    check_refused(
        |file| fs::write(file, "not a database, but long enough to have a header".repeat(50)).unwrap(),
        "damaged",
    );
    check_refused(
        |file| {
            let mut bytes = fs::read(file).unwrap();
            let end = bytes.len();
            bytes[4096..end].fill(0x55);
            fs::write(file, bytes).unwrap();
        },
        "damaged",
    );
    check_refused(
        |file| {
            let bytes = fs::read(file).unwrap();
            fs::write(file, &bytes[..bytes.len() / 2]).unwrap();
        },
        "damaged",
    );
    let pragma = |name: &'static str, value: i64| {
        move |file: &Path| Connection::open(file).unwrap().pragma_update(None, name, value).unwrap()
    };
    check_refused(pragma("application_id", 7), "another program");
    check_refused(pragma("user_version", 99), "newer");
}

#[test]
fn a_registry_of_before_is_brought_along() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("registry.db");
    let mut old = Connection::open(&file).unwrap();
    schema::prepare_as_of(&mut old, &file, 1).unwrap();
    old.execute_batch(
        "INSERT INTO workspaces VALUES (7, 'a', x'2f61', 1); INSERT INTO shares VALUES (7, 'open', 2);",
    )
    .unwrap();
    drop(old);
    let share = Tables::open(&file).unwrap().workspace(&name("a")).unwrap().unwrap().share;
    let expected = ShareRecord { mode: ShareMode::Open, since: at(2), companions: Vec::new() };
    assert_eq!(share, Some(expected));
}

#[test]
fn damage_found_later_is_reported_too() {
    let error = RegistryError::from(rusqlite::Error::SqliteFailure(
        rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_CORRUPT),
        None,
    ));
    assert!(error.at(Path::new("/r.db")).to_string().starts_with("/r.db is damaged"));
}
