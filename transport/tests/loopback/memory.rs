//! An origin in memory and a service that offers it, with everything a test wants to go wrong.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use tokio::sync::{mpsc, watch};
use twinshare_fs::digest::{BLOCK_BYTES, BlockIndex, Digest, block_count};
use twinshare_fs::manifest::{EntryIndex, SnapshotId};
use twinshare_fs::origin::{
    Anew, Anews, Availability, BlockRange, Class, DELIVERIES_AHEAD, Deliveries, Delivery, FileFault, Frames,
    FramesSince, Origin, OriginError, RUN_BLOCKS, Run, SinceFrame, TakeAnew,
};
use twinshare_transport::protocol::{Hello, Offer, Refusal, Request, SnapshotInfo, TreeSize};
use twinshare_transport::server::{Caller, Reply};
use twinshare_transport::{PeerId, Service};

/// The id of every test's snapshot.
pub(crate) const SNAPSHOT: SnapshotId = SnapshotId(Digest([7; 32]));

/// An earlier snapshot that this origin knows of.
pub(crate) const BASE: SnapshotId = SnapshotId(Digest([6; 32]));

/// What happens behind the last good item of every answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ends {
    Well,
    /// Nothing more comes, and the channel stays open.
    Hangs,
    /// The channel closes after half of the items.
    BreaksOff,
    /// An error comes instead of the second half.
    Fails,
}

#[derive(Debug)]
pub(crate) struct Memory {
    pub(crate) files: Vec<Bytes>,
    pub(crate) frames: Vec<Bytes>,
    /// The answer to every request to take a file anew.
    pub(crate) anew: Vec<Anew>,
    pub(crate) ends: Ends,
    /// Readers of this origin that are still alive.
    pub(crate) readers: Arc<AtomicUsize>,
}

impl Memory {
    pub(crate) fn new(files: Vec<Bytes>) -> Self {
        let frames = (0..3).map(|i| Bytes::from(vec![i; 1000 << (4 * i)])).collect();
        Self { files, frames, anew: Vec::new(), ends: Ends::Well, readers: Arc::default() }
    }

    fn range(&self, range: &BlockRange, items: &mut Vec<Delivery>) {
        let Some(file) = self.files.get(range.file.0 as usize) else {
            return items.push(Delivery::Fault(range.file, FileFault::NoSuchBlock));
        };
        let size = file.len() as u64;
        let end = range.first.0.saturating_add(range.count).min(block_count(size));
        let mut first = range.first.0;
        while first < end {
            let after = (first + RUN_BLOCKS as u64).min(end);
            items.push(Delivery::Run(run(range.file, file, first, after)));
            first = after;
        }
        items.push(Delivery::End(range.file));
    }

    fn send<T: Send + 'static>(&self, items: Vec<T>) -> mpsc::Receiver<Result<T, OriginError>> {
        let (sender, receiver) = mpsc::channel(DELIVERIES_AHEAD);
        let (ends, readers) = (self.ends, self.readers.clone());
        readers.fetch_add(1, Ordering::SeqCst);
        tokio::spawn(async move {
            let count = if ends == Ends::Well { items.len() } else { items.len() / 2 };
            for item in items.into_iter().take(count) {
                if sender.send(Ok(item)).await.is_err() {
                    break;
                }
            }
            match ends {
                Ends::Well | Ends::BreaksOff => {}
                Ends::Hangs => sender.closed().await,
                Ends::Fails => {
                    let _ = sender.send(Err(OriginError::SnapshotGone)).await;
                }
            }
            readers.fetch_sub(1, Ordering::SeqCst);
        });
        receiver
    }
}

pub(crate) fn run(index: EntryIndex, file: &Bytes, first: u64, after: u64) -> Run {
    let size = file.len() as u64;
    let (start, end) = (first * BLOCK_BYTES, (after * BLOCK_BYTES).min(size));
    Run::hashed(index, BlockIndex(first), size, file.slice(start as usize..end as usize))
}

impl Origin for Memory {
    fn snapshot(&self) -> SnapshotId {
        SNAPSHOT
    }

    fn read_manifest(&self) -> Frames {
        self.send(self.frames.clone())
    }

    fn read_manifest_since(&self, base: SnapshotId) -> FramesSince {
        assert_eq!(base, BASE, "it is asked only for what may be read");
        self.send(self.frames.iter().rev().cloned().map(SinceFrame::Delta).collect())
    }

    fn read_files(&self, files: Vec<EntryIndex>, class: Class) -> Deliveries {
        let whole = |file| BlockRange { file, first: BlockIndex(0), count: u64::MAX };
        self.read_ranges(files.into_iter().map(whole).collect(), class)
    }

    fn read_ranges(&self, ranges: Vec<BlockRange>, _: Class) -> Deliveries {
        let mut items = Vec::new();
        ranges.iter().for_each(|range| self.range(range, &mut items));
        self.send(items)
    }

    fn take_anew(&self, _: TakeAnew, _: Class) -> Anews {
        self.send(self.anew.clone())
    }

    fn availability(&self) -> watch::Receiver<Availability> {
        watch::channel(Availability::Reachable).1
    }
}

/// Offers one origin to everybody but the banned.
pub(crate) struct Offering {
    pub(crate) origin: Arc<Memory>,
    pub(crate) banned: Mutex<Vec<PeerId>>,
    /// Every request that reached the seam.
    pub(crate) asked: Mutex<Vec<(PeerId, Request)>>,
    /// True where opening a snapshot never ends.
    pub(crate) freezes_for_ever: bool,
}

impl Offering {
    pub(crate) fn new(origin: Memory) -> Self {
        Self {
            origin: Arc::new(origin),
            banned: Mutex::default(),
            asked: Mutex::default(),
            freezes_for_ever: false,
        }
    }
}

pub(crate) fn offer() -> Offer {
    Offer {
        workspace: "demo".into(),
        summary: "a demonstration".into(),
        readable: true,
        size: Some(TreeSize { entries: 5, file_bytes: 1 << 40 }),
    }
}

impl Service for Offering {
    fn admit(&self, caller: &Caller, request: &Request) -> Result<(), Refusal> {
        self.asked.lock().unwrap().push((caller.peer, request.clone()));
        match request {
            Request::Hello(_) => Ok(()),
            _ if self.banned.lock().unwrap().contains(&caller.peer) => Err(Refusal::NotGranted),
            _ => Ok(()),
        }
    }

    fn may_go_on(&self, caller: &Caller, snapshot: SnapshotId) -> Result<(), Refusal> {
        if ![SNAPSHOT, BASE].contains(&snapshot) {
            return Err(Refusal::SnapshotGone);
        }
        match self.banned.lock().unwrap().contains(&caller.peer) {
            true => Err(Refusal::NotGranted),
            false => Ok(()),
        }
    }

    fn hello(&self, _: &Caller, _: &Hello) -> Hello {
        Hello::new("server")
    }

    fn catalogue<'a>(&'a self, _: &'a Caller) -> Reply<'a, Vec<Offer>> {
        Box::pin(async { Ok(vec![offer(); 3]) })
    }

    fn open_snapshot<'a>(
        &'a self,
        _: &'a Caller,
        workspace: &'a str,
        at: Option<SnapshotId>,
    ) -> Reply<'a, SnapshotInfo> {
        Box::pin(async move {
            if self.freezes_for_ever {
                std::future::pending::<()>().await;
            }
            match (workspace, at) {
                ("demo", None | Some(SNAPSHOT)) => {
                    Ok(SnapshotInfo { id: SNAPSHOT, size: TreeSize::default() })
                }
                ("demo", Some(_)) => Err(Refusal::SnapshotGone),
                _ => Err(Refusal::NoSuchWorkspace),
            }
        })
    }

    fn watch<'a>(&'a self, _: &'a Caller, workspace: &'a str, base: SnapshotId) -> Reply<'a, SnapshotInfo> {
        Box::pin(async move {
            match (workspace, base) {
                ("demo", SNAPSHOT) => std::future::pending().await,
                ("demo", _) => Ok(SnapshotInfo { id: SNAPSHOT, size: TreeSize::default() }),
                _ => Err(Refusal::NoSuchWorkspace),
            }
        })
    }

    fn origin<'a>(&'a self, _: &'a Caller, snapshot: SnapshotId) -> Reply<'a, Arc<dyn Origin>> {
        Box::pin(async move {
            match snapshot {
                SNAPSHOT => Ok(Arc::clone(&self.origin) as Arc<dyn Origin>),
                _ => Err(Refusal::SnapshotGone),
            }
        })
    }
}
