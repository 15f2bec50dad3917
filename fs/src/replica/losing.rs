//! Who must know when the disk has lost content, or some of it is evicted: every replica that believes in the same files.

use std::sync::{Arc, Mutex, MutexGuard, Weak};

use super::engine::Engine;
use super::lock;

/// The replicas whose files lie in one place. A clone is alone; the editions of a view share theirs.
#[derive(Debug, Default)]
pub(super) struct Losing {
    /// Held while what the disk lost is removed from it.
    losing: Mutex<()>,
    /// Held while a file is evicted, so that nobody comes to believe in it meanwhile.
    evicting: Mutex<()>,
    /// A leaf.
    engines: Mutex<Vec<Weak<Engine>>>,
}

impl Losing {
    /// Waits for whoever removes what the disk lost, and keeps others from it.
    pub(super) fn lock(&self) -> MutexGuard<'_, ()> {
        lock(&self.losing)
    }

    /// Keeps others from evicting, and from joining.
    pub(super) fn alone(&self) -> MutexGuard<'_, ()> {
        lock(&self.evicting)
    }

    /// One more that believes in the files.
    pub(super) fn add(&self, engine: &Arc<Engine>) {
        let _alone = self.alone();
        let mut engines = lock(&self.engines);
        engines.retain(|engine| engine.strong_count() > 0);
        engines.push(Arc::downgrade(engine));
    }

    /// One that believes in nothing any more, although somebody may still hold it.
    pub(super) fn leave(&self, engine: &Arc<Engine>) {
        let _alone = self.alone();
        lock(&self.engines).retain(|other| !std::ptr::eq(other.as_ptr(), Arc::as_ptr(engine)));
    }

    /// All that believe in the files.
    pub(super) fn all(&self) -> Vec<Arc<Engine>> {
        lock(&self.engines).iter().filter_map(Weak::upgrade).collect()
    }
}
