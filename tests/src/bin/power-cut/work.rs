//! Somebody works in a clone that fills, becomes complete, and settles.

use std::fs::{self, File};
use std::io::{Write, stdout};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use rustix::fs::RenameFlags;
use twinshare_fs::filesystem::{Change, CloneTree, NodeId, Owner};
use twinshare_fs::manifest;
use twinshare_fs::origin::{LocalOrigin, ReadPool};
use twinshare_fs::replica::{Layout, Replica, ReplicaConfig, settle};
use twinshare_tests::random::Random;

use super::facts::{self, CLONE, EDITED, FILES, KEPT, SHORT, SLOT, SLOTS};

/// Changes before it may settle, and after it was finished once.
const CHANGES: u64 = 120;
const CHANGES_AFTER: u64 = 20;

/// Opens the clone in `layout`, which fills. The manifest arrives for as long as what comes with it lives.
pub(crate) async fn open(snapshot: &Path, layout: Layout) -> Result<(Arc<Replica>, manifest::Fetched)> {
    let origin = Arc::new(LocalOrigin::open(snapshot, ReadPool::default())?);
    let fetched = manifest::fetch(origin.clone(), &layout.manifest_path()).await?;
    let config = ReplicaConfig { hydrate: true, is_writable: true, ..ReplicaConfig::new(layout) };
    let runtime = tokio::runtime::Handle::current();
    Ok((Replica::open(config, fetched.manifest.clone(), origin, runtime)?, fetched))
}

pub(crate) fn work(snapshot: &Path, disk: &Path, seed: u64) -> Result<()> {
    let is_over = AtomicBool::new(false);
    let opened = File::open(disk)?;
    std::thread::scope(|scope| {
        // What is written reaches the disk at other moments than at the end of a change.
        scope.spawn(|| {
            let mut random = Random::new(seed + 1);
            while !is_over.load(Relaxed) {
                std::thread::sleep(Duration::from_micros(500 + random.below(12_000) as u64));
                let _ = rustix::fs::syncfs(&opened);
            }
        });
        let runtime = tokio::runtime::Runtime::new()?;
        let worked = runtime.block_on(work_in(snapshot, disk, seed));
        is_over.store(true, Relaxed);
        worked
    })
}

async fn work_in(snapshot: &Path, disk: &Path, seed: u64) -> Result<()> {
    let (at, kept) = (disk.join(CLONE), disk.join(KEPT));
    fs::create_dir(&at)?;
    let (replica, _fetched) = open(snapshot, Layout::clone_at(&at)?).await?;
    rustix::fs::syncfs(File::open(disk)?)?;
    say("began")?;
    let names = replica.names().context("it cannot be changed")?.clone();
    let tree = Arc::new(CloneTree::new(replica.clone(), names, Owner::of_this_process()));
    let mut worker = Worker { tree, random: Random::new(seed), next: [0; 4], version: 0 };
    for _ in 0..CHANGES {
        worker.change().await?;
    }
    replica.hydrated().await;
    say("hydrated")?;
    finished(&replica).await?;
    say("finished")?;
    for _ in 0..CHANGES_AFTER {
        worker.change().await?;
    }
    finished(&replica).await?;
    let name =
        replica.layout().path().file_name().context("no name")?.to_str().context("its name")?.to_owned();
    let moving = replica.clone();
    tokio::task::spawn_blocking(move || moving.move_up()).await??;
    drop(worker);
    replica.close().await;
    drop(replica);
    settle::conclude(&at, &name, &kept)?;
    say("settled")
}

/// Makes ordinary trees of it: what the workers changed last may still be coming.
pub(crate) async fn finished(replica: &Arc<Replica>) -> Result<()> {
    let finishing = replica.clone();
    Ok(tokio::task::spawn_blocking(move || finishing.finish()).await?.map(drop)?)
}

struct Worker {
    tree: Arc<CloneTree>,
    random: Random,
    /// The next to be made, moved, removed, cut.
    next: [u64; 4],
    version: u64,
}

impl Worker {
    async fn change(&mut self) -> Result<()> {
        match self.random.below(10) {
            0..4 => self.write().await,
            4..6 => self.make().await,
            6 | 7 => self.rename(),
            8 => self.remove(),
            _ => self.cut().await,
        }
    }

    async fn write(&mut self) -> Result<()> {
        let file = self.random.below(EDITED as usize) as u64;
        let node = self.node(&format!("edit/e{file}"))?;
        self.tree.open(node, true)?;
        let mut written = Vec::new();
        for _ in 0..1 + self.random.below(4) {
            self.version += 1;
            let slot = self.random.below(SLOTS as usize) as u64;
            let bytes = facts::slot(file, slot, self.version).into();
            self.tree.write(node, slot * SLOT, bytes).await?;
            written.push((slot, self.version));
        }
        self.tree.sync(node, true).await?;
        self.tree.release(node);
        written.into_iter().try_for_each(|(slot, version)| say(&format!("slot {file} {slot} {version}")))
    }

    async fn make(&mut self) -> Result<()> {
        let number = self.take(0);
        let directory = self.node("new")?;
        let name = format!("n{number}");
        let made = self.tree.create(directory, name.as_bytes(), 0o644, Owner::of_this_process())?;
        self.tree.write(made.node, 0, facts::made(number).into()).await?;
        self.tree.sync(made.node, false).await?;
        self.tree.release(made.node);
        self.tree.sync_directory(directory)?;
        say(&format!("made {number}"))
    }

    fn rename(&mut self) -> Result<()> {
        let number = self.take(1);
        if number >= FILES {
            return Ok(());
        }
        let (from, to, name) = (self.node("move")?, self.node("moved")?, format!("m{number}"));
        self.tree.rename((from, name.as_bytes()), (to, name.as_bytes()), RenameFlags::empty())?;
        self.tree.sync_directory(from)?;
        self.tree.sync_directory(to)?;
        say(&format!("moved {number}"))
    }

    fn remove(&mut self) -> Result<()> {
        let number = self.take(2);
        if number >= FILES {
            return Ok(());
        }
        let directory = self.node("gone")?;
        self.tree.unlink(directory, format!("g{number}").as_bytes())?;
        self.tree.sync_directory(directory)?;
        say(&format!("removed {number}"))
    }

    async fn cut(&mut self) -> Result<()> {
        let number = self.take(3);
        if number >= FILES {
            return Ok(());
        }
        let node = self.node(&format!("cut/c{number}"))?;
        self.tree.change(node, Change { size: Some(SHORT), ..Change::default() }).await?;
        self.tree.sync(node, false).await?;
        say(&format!("cut {number}"))
    }

    fn take(&mut self, kind: usize) -> u64 {
        self.next[kind] += 1;
        self.next[kind] - 1
    }

    fn node(&self, path: &str) -> Result<NodeId> {
        path.split('/').try_fold(NodeId::ROOT, |at, name| {
            let found = self.tree.lookup(at, name.as_bytes())?;
            Ok(found.ok_or_else(|| anyhow!("{path} is not there"))?.node)
        })
    }
}

fn say(line: &str) -> Result<()> {
    let mut out = stdout().lock();
    writeln!(out, "{line}")?;
    Ok(out.flush()?)
}
