//! Who is let in, over real connections.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use twinshare_fs::digest::Digest;
use twinshare_fs::manifest::frame::{Frame, decode};
use twinshare_fs::manifest::{Arrival, EntryIndex, fetch, fetch_since};
use twinshare_fs::origin::{Class, Delivery, OriginError};
use twinshare_transport::client::{CallError, Client, Remote, Watched};
use twinshare_transport::identity::Identity;
use twinshare_transport::protocol::{Hello, Refusal};
use twinshare_transport::server::Server;

use super::*;
use crate::registry::LEASE_TIME;
use crate::workspace::create;

/// Longest wait for something that takes milliseconds.
const SOON: Duration = Duration::from_secs(20);

/// A node that shares, as far as sharing goes.
struct Owner {
    base: tempfile::TempDir,
    home: Home,
    identity: Identity,
    registry: Registry,
    shares: Arc<Shares>,
    server: Server,
}

impl Owner {
    async fn new() -> Self {
        let base = tempfile::tempdir().unwrap();
        let home = Home::isolated(&base.path().join("home"));
        home.prepare().unwrap();
        let identity = Identity::generate().unwrap();
        let registry = Registry::open(home.registry()).await.unwrap();
        let (shares, server) = Self::serve(&home, &identity, &registry).await;
        Self { base, home, identity, registry, shares, server }
    }

    async fn serve(home: &Home, identity: &Identity, registry: &Registry) -> (Arc<Shares>, Server) {
        let shares = Shares::open(home.clone(), registry.clone(), "anna".parse().unwrap()).await.unwrap();
        let shares = Arc::new(shares);
        let server = Server::bind(identity, (Ipv4Addr::LOCALHOST, 0).into(), shares.clone()).unwrap();
        (shares, server)
    }

    /// As after a stop and a start of the node.
    async fn restart(self) -> Self {
        let Self { base, home, identity, registry, shares, server } = self;
        server.shutdown().await;
        drop((shares, registry));
        let registry = Registry::open(home.registry()).await.unwrap();
        let (shares, server) = Self::serve(&home, &identity, &registry).await;
        Self { base, home, identity, registry, shares, server }
    }

    /// A workspace with a file `f` and a companion with a file `c`.
    async fn workspace(&self, name: &str) -> PathBuf {
        let base = self.base.path().canonicalize().unwrap();
        let (directory, companion) = (base.join(name), base.join(format!("{name}-companion")));
        fs::create_dir(&directory).unwrap();
        fs::create_dir(&companion).unwrap();
        fs::write(directory.join("f"), "content").unwrap();
        fs::write(companion.join("c"), "companion").unwrap();
        let text =
            format!("schema: 1\nname: {name}\ndescription: A demo.\ncompanions: [{}]\n", companion.display());
        fs::write(directory.join("twinshare.yaml"), text).unwrap();
        create(&self.home, &self.registry, &directory, None).await.unwrap();
        directory
    }

    async fn share(&self, name: &str, mode: ShareMode) {
        self.shares.share(&name.parse().unwrap(), Some(mode)).await.unwrap();
    }

    fn visitor(&self) -> Remote {
        let client = Client::new(&Identity::generate().unwrap(), Hello::new("ben")).unwrap();
        Remote::new(&client, self.identity.peer_id(), vec![self.address()])
    }

    fn address(&self) -> SocketAddr {
        self.server.local_address()
    }

    fn snapshots_on_disk(&self) -> usize {
        fs::read_dir(self.home.snapshots()).unwrap().count()
    }
}

/// Tells a visitor where the owner is after a restart, and waits until it has found it.
async fn follow(remote: &Remote, owner: &Owner) {
    remote.set_addresses(vec![owner.address()]);
    let until = Instant::now() + SOON;
    while let Err(error) = remote.hello(SOON).await {
        assert!(Instant::now() < until, "{error}");
        tokio::task::yield_now().await;
    }
}

async fn open(remote: &Remote, name: &str, at: Option<SnapshotId>) -> Result<SnapshotId, Refusal> {
    match remote.open_snapshot(name, at, SOON).await {
        Ok(info) => Ok(info.id),
        Err(CallError::Refused(refusal)) => Err(refusal),
        Err(error) => panic!("{error}"),
    }
}

/// The names in the manifest, or what was said instead.
async fn names(remote: &Remote, snapshot: SnapshotId) -> Result<Vec<String>, String> {
    let mut frames = remote.origin(snapshot).read_manifest();
    let mut names = Vec::new();
    while let Some(frame) = tokio::time::timeout(SOON, frames.recv()).await.unwrap() {
        match decode(&frame.map_err(|error| error.to_string())?).unwrap() {
            Frame::Entries(parts) => names.extend(parts.into_iter().flat_map(|part| part.entries)),
            Frame::Head(_) | Frame::Tail(_) => {}
        }
    }
    Ok(names.into_iter().map(|entry| String::from_utf8(entry.name).unwrap()).collect())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_open_share_is_seen_and_read_by_everyone() {
    let owner = Owner::new().await;
    owner.workspace("demo").await;
    owner.share("demo", ShareMode::Open).await;
    assert_eq!(*owner.shares.open_to_all().borrow(), ["demo".parse().unwrap()]);
    let visitor = owner.visitor();
    let hello = visitor.hello(SOON).await.unwrap();
    assert_eq!(&*hello.name, "anna");
    let offers = visitor.catalogue(SOON).await.unwrap();
    assert_eq!(offers.len(), 1);
    assert_eq!((&*offers[0].workspace, &*offers[0].summary, offers[0].size), ("demo", "A demo.", None));
    let snapshot = open(&visitor, "demo", None).await.unwrap();
    assert_eq!(names(&visitor, snapshot).await.unwrap(), ["f", "twinshare.yaml", "c"]);
    let origin = visitor.origin(snapshot);
    let mut deliveries = origin.read_files(vec![EntryIndex(2)], Class::Demand);
    let Some(Ok(Delivery::Run(run))) = deliveries.recv().await else { panic!("no content") };
    assert_eq!(&*run.bytes, b"content");
    assert_eq!(visitor.catalogue(SOON).await.unwrap()[0].size.unwrap().entries, 5);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_closed_share_admits_nobody() {
    let owner = Owner::new().await;
    owner.workspace("demo").await;
    owner.share("demo", ShareMode::Closed).await;
    let visitor = owner.visitor();
    assert_eq!(visitor.catalogue(SOON).await.unwrap(), []);
    assert_eq!(open(&visitor, "demo", None).await, Err(Refusal::NoSuchWorkspace));
    assert!(owner.shares.open_to_all().borrow().is_empty());
    assert_eq!(owner.snapshots_on_disk(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_workspaces_file_opens_nothing() {
    let owner = Owner::new().await;
    let directory = owner.workspace("demo").await;
    let demo: WorkspaceName = "demo".parse().unwrap();
    fs::write(directory.join("twinshare.yaml"), "schema: 1\nname: demo\nshare: {open: true}\n").unwrap();
    for asked in [None, Some(ShareMode::Closed)] {
        let record = owner.shares.share(&demo, asked).await.unwrap();
        assert_eq!(record.share.map(|share| share.mode), Some(ShareMode::Closed));
        assert_eq!(open(&owner.visitor(), "demo", None).await, Err(Refusal::NoSuchWorkspace));
    }
    owner.share("demo", ShareMode::Open).await;
    let record = owner.shares.share(&demo, None).await.unwrap();
    assert_eq!(record.share.map(|share| share.mode), Some(ShareMode::Open));
    open(&owner.visitor(), "demo", None).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_companion_that_was_added_later_is_not_served() {
    let owner = Owner::new().await;
    let directory = owner.workspace("demo").await;
    owner.share("demo", ShareMode::Open).await;
    let visitor = owner.visitor();
    open(&visitor, "demo", None).await.unwrap();
    // As a `git pull` may do.
    let secret = owner.base.path().canonicalize().unwrap().join("secret");
    fs::create_dir(&secret).unwrap();
    fs::write(secret.join("key"), "").unwrap();
    let file = directory.join("twinshare.yaml");
    let text = fs::read_to_string(&file).unwrap();
    fs::write(&file, text.replace("companions: [", &format!("companions: [{}, ", secret.display()))).unwrap();
    assert!(matches!(open(&visitor, "demo", None).await, Err(Refusal::Internal(_))));
    let record = owner.shares.share(&"demo".parse().unwrap(), None).await.unwrap();
    assert_eq!(record.share.map(|share| share.companions.contains(&secret)), Some(true));
    let snapshot = open(&visitor, "demo", None).await.unwrap();
    assert!(names(&visitor, snapshot).await.unwrap().contains(&"key".to_owned()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_withdrawn_share_is_refused_at_the_next_request() {
    let owner = Owner::new().await;
    owner.workspace("demo").await;
    owner.share("demo", ShareMode::Open).await;
    let visitor = owner.visitor();
    let snapshot = open(&visitor, "demo", None).await.unwrap();
    assert!(owner.shares.unshare(&"demo".parse().unwrap()).await.unwrap());
    let error = names(&visitor, snapshot).await.unwrap_err();
    assert!(error.contains("has not been granted"), "{error}");
    assert_eq!(open(&visitor, "demo", None).await, Err(Refusal::NoSuchWorkspace));
    // Shared again, what was mounted goes on.
    owner.share("demo", ShareMode::Open).await;
    assert_eq!(names(&visitor, snapshot).await.unwrap().len(), 3);
    // Forgotten, it is gone for good.
    owner.shares.remove_workspace(&"demo".parse().unwrap()).await.unwrap();
    let error = names(&visitor, snapshot).await.unwrap_err();
    assert!(error.contains("no longer serves"), "{error}");
    assert_eq!(owner.snapshots_on_disk(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_withdrawn_share_ends_what_is_under_way() {
    let owner = Owner::new().await;
    let directory = owner.workspace("demo").await;
    // Far more than lies between the disk and a reader that does not take it.
    let bytes: Vec<u8> =
        (0..48u32 << 18).flat_map(|word| word.wrapping_mul(0x9e37_79b9).to_le_bytes()).collect();
    fs::write(directory.join("large"), &bytes).unwrap();
    owner.share("demo", ShareMode::Open).await;
    let visitor = owner.visitor();
    let snapshot = open(&visitor, "demo", None).await.unwrap();
    let place = names(&visitor, snapshot).await.unwrap().iter().position(|name| name == "large").unwrap();
    // Before the entries come the two roots.
    let large = EntryIndex(place as u32 + 2);
    let mut deliveries = visitor.origin(snapshot).read_files(vec![large], Class::Bulk);
    assert!(matches!(deliveries.recv().await, Some(Ok(Delivery::Run(_)))));
    owner.shares.unshare(&"demo".parse().unwrap()).await.unwrap();
    let last = loop {
        match tokio::time::timeout(SOON, deliveries.recv()).await.unwrap() {
            Some(Ok(Delivery::Run(_))) => {}
            last => break last,
        }
    };
    assert!(matches!(last, Some(Err(OriginError::Refused(_)))), "{last:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_belongs_to_who_opened_it_and_outlives_the_process() {
    let owner = Owner::new().await;
    let directory = owner.workspace("demo").await;
    owner.share("demo", ShareMode::Open).await;
    let (ben, chris) = (owner.visitor(), owner.visitor());
    let snapshot = open(&ben, "demo", None).await.unwrap();
    // Nothing changed: the same snapshot.
    assert_eq!(open(&ben, "demo", None).await.unwrap(), snapshot);
    assert!(names(&chris, snapshot).await.unwrap_err().contains("no longer serves"));
    fs::write(directory.join("g"), "").unwrap();
    let newer = open(&ben, "demo", None).await.unwrap();
    assert_ne!(newer, snapshot);
    let owner = owner.restart().await;
    follow(&ben, &owner).await;
    follow(&chris, &owner).await;
    assert_eq!(names(&ben, snapshot).await.unwrap(), ["f", "twinshare.yaml", "c"]);
    assert_eq!(names(&ben, newer).await.unwrap(), ["f", "g", "twinshare.yaml", "c"]);
    // Whoever may open the workspace may open a snapshot of it that is kept.
    assert_eq!(open(&chris, "demo", Some(snapshot)).await, Ok(snapshot));
    assert_eq!(names(&chris, snapshot).await.unwrap().len(), 3);
    let unknown = SnapshotId(Digest([7; 32]));
    assert_eq!(open(&ben, "demo", Some(unknown)).await, Err(Refusal::SnapshotGone));
}

#[tokio::test(flavor = "multi_thread")]
async fn leases_end_without_contact() {
    let owner = Owner::new().await;
    let directory = owner.workspace("demo").await;
    owner.share("demo", ShareMode::Open).await;
    let visitor = owner.visitor();
    let old = open(&visitor, "demo", None).await.unwrap();
    fs::write(directory.join("g"), "").unwrap();
    let new = open(&visitor, "demo", None).await.unwrap();
    assert_eq!(owner.snapshots_on_disk(), 2);
    let month = SystemTime::now() + LEASE_TIME;
    // The newer one was used since.
    owner
        .registry
        .call(move |tables| tables.renew_lease(new, tables.leases()?[0].peer, month))
        .await
        .unwrap();
    owner.shares.collect(month).await.unwrap();
    assert_eq!(owner.snapshots_on_disk(), 1);
    assert!(names(&visitor, old).await.unwrap_err().contains("no longer serves"));
    assert_eq!(names(&visitor, new).await.unwrap().len(), 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn many_who_ask_at_once_share_a_walk() {
    let owner = Owner::new().await;
    owner.workspace("demo").await;
    owner.share("demo", ShareMode::Open).await;
    let visitors: Vec<_> = (0..8).map(|_| owner.visitor()).collect();
    let mut opening = tokio::task::JoinSet::new();
    for visitor in visitors {
        opening.spawn(async move {
            let snapshot = open(&visitor, "demo", None).await.unwrap();
            (snapshot, names(&visitor, snapshot).await.unwrap().len())
        });
    }
    let opened = opening.join_all().await;
    assert!(opened.iter().all(|one| *one == (opened[0].0, 3)), "{opened:?}");
    assert_eq!(owner.snapshots_on_disk(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_is_told_to_the_owner_and_not_to_the_peer() {
    let owner = Owner::new().await;
    let directory = owner.workspace("demo").await;
    let demo: WorkspaceName = "demo".parse().unwrap();
    let file = directory.join("twinshare.yaml");
    let good = fs::read(&file).unwrap();
    let share = || owner.shares.share(&demo, Some(ShareMode::Open));
    fs::write(&file, "schema: 1\nname: demo\nfoo: 1\n").unwrap();
    assert!(matches!(share().await, Err(ShareError::Workspace(WorkspaceError::File(_)))));
    fs::write(&file, "schema: 1\nname: demo\ncompanions: [/nonexistent]\n").unwrap();
    assert!(matches!(share().await, Err(ShareError::Workspace(WorkspaceError::Companion(_)))));
    let unknown = owner.shares.share(&"other".parse().unwrap(), None).await;
    assert!(
        matches!(unknown, Err(ShareError::Registry(RegistryError::NoSuchWorkspace(name))) if name == "other")
    );
    fs::write(&file, good).unwrap();
    share().await.unwrap();
    fs::write(&file, "broken").unwrap();
    let visitor = owner.visitor();
    assert_eq!(visitor.catalogue(SOON).await.unwrap().len(), 1);
    match open(&visitor, "demo", None).await {
        Err(Refusal::Internal(text)) => assert!(!text.contains(directory.to_str().unwrap()), "{text}"),
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_snapshot_is_gone() {
    let owner = Owner::new().await;
    owner.workspace("demo").await;
    owner.share("demo", ShareMode::Open).await;
    let visitor = owner.visitor();
    let snapshot = open(&visitor, "demo", None).await.unwrap();
    let owner = owner.restart().await;
    follow(&visitor, &owner).await;
    let manifest: &Path = &owner.home.snapshot(snapshot).join("manifest");
    let bytes = fs::read(manifest).unwrap();
    fs::write(manifest, &bytes[..bytes.len() - 1]).unwrap();
    assert!(names(&visitor, snapshot).await.unwrap_err().contains("no longer serves"));
}

#[tokio::test(flavor = "multi_thread")]
async fn who_watches_follows() {
    let owner = Owner::new().await;
    let directory = owner.workspace("demo").await;
    owner.share("demo", ShareMode::Open).await;
    let visitor = owner.visitor();
    let first = open(&visitor, "demo", None).await.unwrap();
    let path = owner.base.path().join("manifest");
    let fetched = fetch(visitor.origin(first), &path).await.unwrap();
    fetched.manifest.arrival().wait_for(|arrival| *arrival == Arrival::Complete).await.unwrap();
    let mut base = fetched.manifest.clone();
    let watch = async |base| tokio::time::timeout(SOON, visitor.watch("demo", base)).await.unwrap();
    for (file, carried) in [("demo/f", 2), ("demo-companion/c", 2), ("demo/new", 3)] {
        fs::write(directory.join("..").join(file), format!("more in {file}")).unwrap();
        let Ok(Watched::New(news)) = watch(base.snapshot()).await else { panic!("no news of {file}") };
        let origin = visitor.origin(news.id);
        let (manifest, kept) = fetch_since(&*origin, &base, &path).await.unwrap();
        assert_eq!((manifest.snapshot(), kept.entries()), (news.id, carried), "{file}");
        base = manifest;
    }
    // A stranger that names the snapshot of another learns nothing of it.
    let stranger = owner.visitor();
    let last = open(&stranger, "demo", None).await.unwrap();
    assert_eq!(last, base.snapshot());
    let (_, kept) = fetch_since(&*stranger.origin(last), &fetched.manifest, &path).await.unwrap();
    assert_eq!(kept.entries(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_shared_is_not_watched() {
    let owner = Owner::new().await;
    owner.workspace("demo").await;
    owner.share("demo", ShareMode::Open).await;
    let visitor = owner.visitor();
    let snapshot = open(&visitor, "demo", None).await.unwrap();
    let mut watching = std::pin::pin!(visitor.watch("demo", snapshot));
    // A further call is answered, so the watch has begun.
    tokio::select! {
        early = &mut watching => panic!("{early:?}"),
        hello = visitor.hello(SOON) => drop(hello.unwrap()),
    }
    owner.shares.unshare(&"demo".parse().unwrap()).await.unwrap();
    let refused = Err(CallError::Refused(Refusal::NoSuchWorkspace));
    assert_eq!(tokio::time::timeout(SOON, watching).await.unwrap(), refused);
    assert_eq!(visitor.watch("demo", snapshot).await, refused);
}
