//! For tests and measurements: a service that lets everybody in.

use std::sync::Arc;

use twinshare_fs::manifest::SnapshotId;
use twinshare_fs::origin::Origin;

use crate::Service;
use crate::protocol::{Hello, Offer, Refusal, Request, SnapshotInfo};
use crate::server::{Caller, Reply};

/// Serves one origin, or none, to whoever asks; names no workspace.
#[derive(Debug)]
pub struct OpenToAll(pub Option<Arc<dyn Origin>>);

impl Service for OpenToAll {
    fn admit(&self, _: &Caller, _: &Request) -> Result<(), Refusal> {
        Ok(())
    }

    fn may_go_on(&self, _: &Caller, _: SnapshotId) -> Result<(), Refusal> {
        Ok(())
    }

    fn hello(&self, _: &Caller, _: &Hello) -> Hello {
        Hello::new("server")
    }

    fn catalogue<'a>(&'a self, _: &'a Caller) -> Reply<'a, Vec<Offer>> {
        Box::pin(async { Ok(vec![]) })
    }

    fn open_snapshot<'a>(
        &'a self,
        _: &'a Caller,
        _: &'a str,
        _: Option<SnapshotId>,
    ) -> Reply<'a, SnapshotInfo> {
        Box::pin(async { Err(Refusal::NoSuchWorkspace) })
    }

    fn watch<'a>(&'a self, _: &'a Caller, _: &'a str, _: SnapshotId) -> Reply<'a, SnapshotInfo> {
        Box::pin(async { Err(Refusal::NoSuchWorkspace) })
    }

    fn origin<'a>(&'a self, _: &'a Caller, snapshot: SnapshotId) -> Reply<'a, Arc<dyn Origin>> {
        let origin = self.0.clone().filter(|origin| origin.snapshot() == snapshot);
        Box::pin(async { origin.ok_or(Refusal::SnapshotGone) })
    }
}
