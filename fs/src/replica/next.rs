//! The step of a view from one edition to the next.

use std::fs::File;
use std::os::fd::BorrowedFd;
use std::sync::Arc;

use tokio::runtime::Handle;

use super::numbers::Numbers;
use super::{Replica, ReplicaConfig, ReplicaError};
use crate::manifest::{Carried, Manifest};
use crate::origin::Origin;

impl Replica {
    /// Opens the edition that comes after this one in its view, of a complete manifest that lies in `config.layout`, which
    /// was [begun](super::ViewDirectory::make) for it. `carried` says what stays. When it returns, the view opens as the new
    /// edition from now on; this one goes on for whoever uses it.
    ///
    /// Blocks: some 0.3 s for a million entries.
    pub fn next(
        &self,
        config: ReplicaConfig,
        manifest: Manifest,
        carried: &Carried,
        origin: Arc<dyn Origin>,
        runtime: Handle,
    ) -> Result<Arc<Self>, ReplicaError> {
        let path = config.layout.path().to_owned();
        let disk = |doing, source| ReplicaError::Disk { path: path.clone(), doing, source };
        let not_a_view = || disk("it is no part of a view", std::io::ErrorKind::InvalidInput.into());
        if self.manifest().meta().roots != manifest.meta().roots {
            return Err(ReplicaError::OtherRoots);
        }
        let here = self.numbers().ok_or_else(not_a_view)?;
        let in_view = config.layout.in_view().ok_or_else(not_a_view)?.clone();
        let numbers = here.after(self.manifest(), &manifest, carried)?;
        in_view
            .write_numbers(config.layout.directory(), &numbers)
            .and_then(|()| File::open(config.layout.manifest_path())?.sync_all())
            .map_err(|source| disk("the new edition cannot be written", source))?;
        let cached = self.engine.cached.as_ref().map(|cached| cached.next(manifest.entries()));
        let sync = Box::new(|directory: BorrowedFd<'_>| rustix::fs::syncfs(directory));
        let next = Self::open_cached(config, manifest, origin, runtime, sync, cached)?;
        in_view
            .publish(next.layout().directory())
            .map_err(|errno| disk("the new edition cannot be put in place", errno.into()))?;
        if let (Some(here), Some(there)) = (&self.engine.cached, &next.engine.cached) {
            let entry_of =
                |file| self.numbers()?.number(file).and_then(|number| next.numbers()?.entry(number));
            here.followed_by(there, entry_of);
        }
        Ok(next)
    }

    /// Ends this edition, which nobody uses any more, and removes it with all content that the one after it, with these
    /// numbers, does not have.
    pub(crate) async fn discard(self: Arc<Self>, has: Arc<Numbers>) {
        self.quiet().await;
        let leaving = self.engine.clone();
        // It can only fail with the runtime itself.
        let _ = self.engine.runtime.spawn_blocking(move || leaving.losing.leave(&leaving)).await;
        let (layout, had) = (self.engine.store.layout.clone(), self.numbers().cloned());
        let removed = self.engine.runtime.spawn_blocking(move || match (layout.in_view(), had) {
            (Some(in_view), Some(had)) => in_view.discard(&had, &has),
            _ => Ok(()),
        });
        if let Ok(Err(errno)) = removed.await {
            let at = self.layout().path().display();
            tracing::warn!(%at, %errno, "what is not shown any more cannot be removed yet");
        }
    }
}
