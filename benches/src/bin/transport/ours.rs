//! The same work through twinshare's interfaces: a server of an origin, and a remote that is one.

use std::fs::File;
use std::net::Ipv4Addr;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use anyhow::{Result, bail};
use tokio::sync::{mpsc, watch};
use twinshare_benches::measure::{Cost, Stopwatch};
use twinshare_fs::digest::{BLOCK_BYTES, BlockIndex, Digest, block_count};
use twinshare_fs::manifest::{EntryIndex, SnapshotId};
use twinshare_fs::origin::{
    Availability, BlockRange, Class, DELIVERIES_AHEAD, Deliveries, Delivery, Frames, Origin, OriginError,
    RANGE_BLOCKS_MAX, RUN_BLOCKS, Run,
};
use twinshare_transport::protocol::Hello;
use twinshare_transport::testing::OpenToAll;
use twinshare_transport::{Client, Identity, Remote, Server};

use crate::{PARALLEL, Plan};

const SNAPSHOT: SnapshotId = SnapshotId(Digest([1; 32]));
const FILE: EntryIndex = EntryIndex(1);

/// Moves the file once.
pub(crate) async fn transfer(plan: &Plan) -> Result<Cost> {
    let (ours, theirs) = (Identity::generate()?, Identity::generate()?);
    let origin = Arc::new(OneFile { file: Arc::new(File::open(&plan.source)?), size: plan.bytes });
    let service = Arc::new(OpenToAll(Some(origin)));
    let server = Server::bind(&theirs, (Ipv4Addr::LOCALHOST, 0).into(), service)?;
    let client = Client::new(&ours, Hello::new("bench"))?;
    let remote = Remote::new(&client, theirs.peer_id(), vec![server.local_address()]);
    remote.hello(std::time::Duration::from_secs(5)).await?;
    let origin = remote.origin(SNAPSHOT);
    let target = Arc::new(File::create(&plan.target)?);

    let stopwatch = Stopwatch::start();
    let mut parts = tokio::task::JoinSet::new();
    for place in 0..PARALLEL as u64 {
        parts.spawn(receive(Arc::clone(&origin), Arc::clone(&target), place, plan.bytes));
    }
    while let Some(received) = parts.join_next().await {
        received??;
    }
    Ok(stopwatch.stop(plan.bytes))
}

/// One of the parts the file is fetched in, each with a request of its own at a time.
async fn receive(origin: Arc<dyn Origin>, target: Arc<File>, place: u64, size: u64) -> Result<()> {
    let part = block_count(size).div_ceil(PARALLEL as u64);
    let end = ((place + 1) * part).min(block_count(size));
    for first in (place * part..end).step_by(RANGE_BLOCKS_MAX as usize) {
        let count = RANGE_BLOCKS_MAX.min(end - first);
        let range = BlockRange { file: FILE, first: BlockIndex(first), count };
        let mut deliveries = origin.read_ranges(vec![range], Class::Bulk);
        while let Some(delivery) = deliveries.recv().await {
            match delivery? {
                Delivery::Run(run) => store(&target, run, size).await?,
                Delivery::End(_) => {}
                Delivery::Fault(_, fault) => bail!(fault),
            }
        }
    }
    Ok(())
}

async fn store(target: &Arc<File>, run: Run, size: u64) -> Result<()> {
    let target = Arc::clone(target);
    tokio::task::spawn_blocking(move || {
        run.verify(size)?;
        Ok(target.write_all_at(&run.bytes, run.first.offset())?)
    })
    .await?
}

/// An origin of one file.
#[derive(Debug)]
struct OneFile {
    file: Arc<File>,
    size: u64,
}

impl Origin for OneFile {
    fn snapshot(&self) -> SnapshotId {
        SNAPSHOT
    }

    fn read_manifest(&self) -> Frames {
        mpsc::channel(1).1
    }

    fn read_files(&self, _: Vec<EntryIndex>, _: Class) -> Deliveries {
        mpsc::channel(1).1
    }

    fn read_ranges(&self, ranges: Vec<BlockRange>, _: Class) -> Deliveries {
        let (sender, receiver) = mpsc::channel(DELIVERIES_AHEAD);
        let (file, size) = (Arc::clone(&self.file), self.size);
        tokio::task::spawn_blocking(move || {
            for range in ranges {
                let end = (range.first.0 + range.count).min(block_count(size));
                for first in (range.first.0..end).step_by(RUN_BLOCKS) {
                    let run = read(&file, size, first, (first + RUN_BLOCKS as u64).min(end));
                    if sender.blocking_send(run.map(Delivery::Run)).is_err() {
                        return;
                    }
                }
                if sender.blocking_send(Ok(Delivery::End(range.file))).is_err() {
                    return;
                }
            }
        });
        receiver
    }

    fn availability(&self) -> watch::Receiver<Availability> {
        watch::channel(Availability::Reachable).1
    }
}

fn read(file: &File, size: u64, first: u64, end: u64) -> Result<Run, OriginError> {
    let start = first * BLOCK_BYTES;
    let mut bytes = vec![0; ((end * BLOCK_BYTES).min(size) - start) as usize];
    file.read_exact_at(&mut bytes, start).map_err(|error| OriginError::Gone(error.to_string()))?;
    Ok(Run::hashed(FILE, BlockIndex(first), size, bytes.into()))
}
