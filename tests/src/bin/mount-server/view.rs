//! A view of a directory of this machine, which goes on to what has become of it when it is told to.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result};
use tokio::runtime::Handle;
use twinshare_fs::filesystem::{Following, Owner};
use twinshare_fs::manifest::walk::MANIFEST_FILE;
use twinshare_fs::manifest::{Carried, Manifest};
use twinshare_fs::origin::LocalOrigin;
use twinshare_fs::replica::{Replica, ReplicaConfig, ViewDirectory, WhenGone};

use super::gate::Gate;
use super::origin;

/// The view, and where its snapshots lie.
pub(crate) struct View {
    source: PathBuf,
    state: PathBuf,
    directory: Arc<ViewDirectory>,
    when_gone: WhenGone,
    pub(crate) following: Arc<Following>,
}

impl View {
    /// What the view in `state` showed last; of the directory as it is, where there is none yet.
    pub(crate) fn open(source: &Path, state: &Path, when_gone: WhenGone) -> Result<(Self, Arc<Gate>)> {
        let directory = ViewDirectory::open(&state.join("replica"))?;
        let layout = directory.shown()?;
        let origin = match layout.snapshot()? {
            Some(shown) => LocalOrigin::open(&state.join(shown.to_string()), Default::default())?.into(),
            None => freeze(source, state)?.1,
        };
        let manifest = origin.manifest().clone();
        let gate = Gate::new(origin);
        let config = ReplicaConfig { when_gone, ..ReplicaConfig::new(layout) };
        if !config.layout.manifest_path().exists() {
            fs::copy(manifest.path(), config.layout.manifest_path())?;
        }
        let replica = Replica::open(config, manifest, gate.clone(), Handle::current())?;
        let following = Following::new(replica, Owner::of_this_process(), Handle::current());
        let (source, state) = (source.into(), state.into());
        Ok((Self { source, state, directory, when_gone, following }, gate))
    }

    /// Goes on to what the directory is now; false where nothing has changed.
    pub(crate) fn advance(&self) -> Result<bool> {
        let shown = self.following.replica();
        let (at, origin) = freeze(&self.source, &self.state)?;
        if origin.manifest().snapshot() == shown.manifest().snapshot() {
            return Ok(false);
        }
        let before = self.state.join(shown.manifest().snapshot().to_string());
        let carried = Carried::between(&before, &at)?;
        let layout = self.directory.make()?;
        fs::copy(at.join(MANIFEST_FILE), layout.manifest_path()).context("the manifest")?;
        let manifest = Manifest::open(&layout.manifest_path())?;
        let config = ReplicaConfig { when_gone: self.when_gone, ..ReplicaConfig::new(layout) };
        let next = shown.next(config, manifest, &carried, Gate::new(origin), Handle::current())?;
        self.following.advance(next);
        Ok(true)
    }
}

/// A snapshot of `source`, in a directory in `state` that is called by its id.
fn freeze(source: &Path, state: &Path) -> Result<(PathBuf, Arc<LocalOrigin>)> {
    let making = state.join("making");
    // An earlier server may have been killed at it.
    let _ = fs::remove_dir_all(&making);
    let id = origin(source, &making)?.manifest().snapshot();
    let at = state.join(id.to_string());
    if at.exists() {
        fs::remove_dir_all(&making)?;
    } else {
        fs::rename(&making, &at)?;
    }
    let origin = origin(source, &at)?;
    Ok((at, origin))
}
