//! Open origins, kept so that the next request finds the manifest mapped and the digests at hand.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::OnceCell;
use twinshare_fs::manifest::SnapshotId;
use twinshare_fs::origin::Origin;
use twinshare_fs::origin::ReadPool;
use twinshare_fs::origin::local::LocalOrigin;

use super::SnapshotError;
use super::store::blocking;

/// Origins kept open at most; the one that was not asked for longest is let go, and closed when its last reader is
/// done. Each costs some descriptors and a mapping.
const OPEN_MAX: usize = 32;

type Cell = Arc<OnceCell<Arc<dyn Origin>>>;

/// The cache.
#[derive(Debug, Default)]
pub(super) struct Origins {
    /// Held for map operations only, and never across an `.await`.
    kept: Mutex<Kept>,
    /// In which they all read.
    pool: ReadPool,
}

#[derive(Debug, Default)]
struct Kept {
    cells: HashMap<SnapshotId, (Cell, u64)>,
    clock: u64,
}

impl Origins {
    /// The origin of the snapshot in `directory`. Those who ask for it at once wait for one opening.
    pub(super) async fn open(
        &self,
        snapshot: SnapshotId,
        directory: PathBuf,
    ) -> Result<Arc<dyn Origin>, SnapshotError> {
        let cell = self.cell(snapshot);
        let opened = cell.get_or_try_init(|| open_local(directory, self.pool.clone())).await;
        opened.cloned()
    }

    /// Lets go of all others.
    pub(super) fn retain(&self, mut keep: impl FnMut(&SnapshotId) -> bool) {
        self.lock().cells.retain(|snapshot, _| keep(snapshot));
    }

    fn cell(&self, snapshot: SnapshotId) -> Cell {
        let mut kept = self.lock();
        kept.clock += 1;
        let now = kept.clock;
        let (cell, used) = kept.cells.entry(snapshot).or_default();
        *used = now;
        let cell = cell.clone();
        if kept.cells.len() > OPEN_MAX {
            let oldest = kept.cells.iter().min_by_key(|(_, (_, used))| *used).map(|(snapshot, _)| *snapshot);
            oldest.map(|snapshot| kept.cells.remove(&snapshot));
        }
        cell
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Opens the snapshot in `directory`, where the node put it.
async fn open_local(directory: PathBuf, pool: ReadPool) -> Result<Arc<dyn Origin>, SnapshotError> {
    blocking(move || match LocalOrigin::open(&directory, pool) {
        Ok(origin) => Ok(Arc::new(origin) as Arc<dyn Origin>),
        Err(source) => Err(SnapshotError::Open { path: directory, source }),
    })
    .await
}
