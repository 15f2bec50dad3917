//! An origin with a gate: while it is closed, requests are taken and nothing is said.

use std::sync::Arc;

use tokio::sync::{mpsc, watch};
use twinshare_fs::manifest::{EntryIndex, SnapshotId};
use twinshare_fs::origin::{
    Anews, Availability, BlockRange, Class, Deliveries, Frames, FramesSince, Origin, TakeAnew,
};

/// The gate.
#[derive(Debug)]
pub(crate) struct Gate {
    inner: Arc<dyn Origin>,
    open: watch::Sender<bool>,
}

impl Gate {
    pub(crate) fn new(inner: Arc<dyn Origin>) -> Arc<Self> {
        Arc::new(Self { inner, open: watch::Sender::new(true) })
    }

    pub(crate) fn set_open(&self, open: bool) {
        self.open.send_replace(open);
    }

    /// The answer of `ask`, when the gate lets it through.
    fn pass<T: Send + 'static>(
        &self,
        ask: impl FnOnce(&dyn Origin) -> mpsc::Receiver<T> + Send + 'static,
    ) -> mpsc::Receiver<T> {
        if *self.open.borrow() {
            return ask(&*self.inner);
        }
        let (sender, receiver) = mpsc::channel(1);
        let (inner, mut open) = (self.inner.clone(), self.open.subscribe());
        tokio::spawn(async move {
            tokio::select! {
                opened = open.wait_for(|open| *open) => if opened.is_err() { return },
                () = sender.closed() => return,
            }
            let mut deliveries = ask(&*inner);
            while let Some(delivery) = deliveries.recv().await {
                if sender.send(delivery).await.is_err() {
                    return;
                }
            }
        });
        receiver
    }
}

impl Origin for Gate {
    fn snapshot(&self) -> SnapshotId {
        self.inner.snapshot()
    }

    fn read_manifest(&self) -> Frames {
        self.inner.read_manifest()
    }

    fn read_manifest_since(&self, base: SnapshotId) -> FramesSince {
        self.inner.read_manifest_since(base)
    }

    fn read_files(&self, files: Vec<EntryIndex>, class: Class) -> Deliveries {
        self.pass(move |inner| inner.read_files(files, class))
    }

    fn read_ranges(&self, ranges: Vec<BlockRange>, class: Class) -> Deliveries {
        self.pass(move |inner| inner.read_ranges(ranges, class))
    }

    fn take_anew(&self, wanted: TakeAnew, class: Class) -> Anews {
        self.pass(move |inner| inner.take_anew(wanted, class))
    }

    fn availability(&self) -> watch::Receiver<Availability> {
        self.inner.availability()
    }
}
