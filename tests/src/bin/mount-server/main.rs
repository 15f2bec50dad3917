//! Serves one directory of this machine on a mount, and does as it is told on standard input.
//!
//!     mount-server view SOURCE MOUNT_POINT STATE WHEN_GONE
//!     mount-server clone SOURCE MOUNT_POINT STATE WHEN_GONE
//!     mount-server filling SOURCE MOUNT_POINT STATE WHEN_GONE
//!     mount-server sweep MOUNT_POINT
//!
//! A view cannot be changed; a clone can, lies beneath its mount point, and answers to all users where it may. One that is
//! filling fetches everything in the background, once the origin's gate is opened.
//!
//! It says `mounted MODE`, then answers each line with `ok` or `error …`: `advance` has a view go on to what the directory is
//! by now, `stall` and `resume` close and open the
//! origin's gate, `unmount` tries to unmount, `ended` waits for the end of the session, `fetched` is answered with the bytes
//! that have come, `changed` with how many changed files were taken anew, removed, and are in conflict. When its input
//! ends it unmounts by itself and ends, so that nothing is left behind by a test that died.

use std::env;
use std::fs;
use std::io::{BufRead, Write, stdin, stdout};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use tokio::runtime::Handle;
use tokio::time::timeout;
use twinshare_fs::filesystem::{CloneTree, Owner, Tree};
use twinshare_fs::fuse::{MountOptions, MountedRoot, Mounter, SessionEnd, sweep_dead};
use twinshare_fs::manifest::walk::{WalkOptions, build};
use twinshare_fs::origin::{LocalOrigin, ReadPool};
use twinshare_fs::replica::{Layout, Replica, ReplicaConfig, WhenGone};

mod gate;
mod view;

use gate::Gate;
use view::View;

fn main() -> Result<()> {
    let arguments: Vec<_> = env::args_os().skip(1).map(PathBuf::from).collect();
    match &arguments[..] {
        [sweep, at] if sweep.as_os_str() == "sweep" => say(&sweep_dead(at)?.to_string()),
        [kind, source, at, state, when_gone] if kind.as_os_str() == "view" => {
            serve(What::View, source, at, state, when_gone)
        }
        [kind, source, at, state, when_gone] if kind.as_os_str() == "clone" => {
            serve(What::Clone, source, at, state, when_gone)
        }
        [kind, source, at, state, when_gone] if kind.as_os_str() == "filling" => {
            serve(What::Filling, source, at, state, when_gone)
        }
        _ => anyhow::bail!("view|clone|filling SOURCE MOUNT_POINT STATE WHEN_GONE, or: sweep MOUNT_POINT"),
    }
}

/// What is served.
#[derive(Clone, Copy, PartialEq, Eq)]
enum What {
    View,
    Clone,
    Filling,
}

fn serve(what: What, source: &Path, at: &Path, state: &Path, when_gone: &Path) -> Result<()> {
    let mounter = Mounter::start().context("the mounter")?;
    let runtime = tokio::runtime::Runtime::new()?;
    let _entered = runtime.enter();
    let when_gone = when_gone.to_str().context("WHEN_GONE")?.parse()?;
    let owner = Owner::of_this_process();
    let is_clone = what != What::View;
    let (shown, gate, tree): (_, _, Tree) = if is_clone {
        let (replica, gate) = open_clone(what, source, at, state, when_gone)?;
        let names = replica.names().context("a clone has names")?.clone();
        (Shown::Clone(replica.clone()), gate, CloneTree::new(replica, names, owner).into())
    } else {
        let (view, gate) = View::open(source, state, when_gone)?;
        let tree = view.following.root(0).into();
        (Shown::View(view), gate, tree)
    };
    let allow_other = is_clone && owner.uid == 0;
    let options = MountOptions { name: "test/mount".into(), allow_other };
    let mounted = mounter.mount(tree, at, &options, runtime.handle().clone())?;
    say(&format!("mounted {}", mounter.mode()))?;
    for line in stdin().lock().lines() {
        say(&match obey(&line?, &gate, &mounted, &shown) {
            Ok(answer) => answer,
            Err(error) => format!("error {error:#}"),
        })?;
    }
    // Nobody listens any more: a mount that stays in use is left to whoever finds it dead.
    let until = Instant::now() + UNMOUNT_BOUND;
    while let Err(error) = mounted.unmount() {
        ensure!(Instant::now() < until, "the mount stays: {error}");
        std::thread::sleep(Duration::from_millis(50));
    }
    runtime.block_on(shown.replica().close());
    Ok(())
}

/// What is mounted.
enum Shown {
    Clone(Arc<Replica>),
    View(View),
}

impl Shown {
    fn replica(&self) -> Arc<Replica> {
        match self {
            Self::Clone(replica) => replica.clone(),
            Self::View(view) => view.following.replica(),
        }
    }
}

fn open_clone(
    what: What,
    source: &Path,
    at: &Path,
    state: &Path,
    when_gone: WhenGone,
) -> Result<(Arc<Replica>, Arc<Gate>)> {
    let origin = origin(source, &state.join("snapshot"))?;
    let manifest = origin.manifest().clone();
    let gate = Gate::new(origin);
    let hydrate = what == What::Filling;
    gate.set_open(!hydrate);
    let layout = Layout::clone_at(at)?;
    let config = ReplicaConfig { when_gone, hydrate, is_writable: true, ..ReplicaConfig::new(layout) };
    Ok((Replica::open(config, manifest, gate.clone(), Handle::current())?, gate))
}

/// A snapshot of `source`, made in `directory` unless there is one.
fn origin(source: &Path, directory: &Path) -> Result<Arc<LocalOrigin>> {
    if !directory.exists() {
        fs::create_dir(directory)?;
        let (cancel, progress) = Default::default();
        let options = WalkOptions { threads: 2, exclude: &[], cancel: &cancel, progress: &progress };
        build(directory, &[source.canonicalize()?], &options)?;
    }
    Ok(Arc::new(LocalOrigin::open(directory, ReadPool::default())?))
}

fn obey(line: &str, gate: &Gate, mounted: &MountedRoot, shown: &Shown) -> Result<String> {
    let replica = shown.replica();
    match line {
        "advance" => match shown {
            Shown::View(view) => {
                return Ok(if view.advance()? { "ok" } else { "error nothing has changed" }.into());
            }
            Shown::Clone(_) => anyhow::bail!("a clone stays at its snapshot"),
        },
        "fetched" => {
            let fetched = replica.status().fetched;
            return Ok((fetched.demand + fetched.read_ahead + fetched.bulk).to_string());
        }
        "changed" => {
            let changed = replica.status().changed;
            let [taken, removed, conflicts] =
                [changed.taken_anew, changed.removed, changed.conflicts].map(|list| list.total);
            return Ok(format!("{taken} {removed} {conflicts}"));
        }
        "stall" => gate.set_open(false),
        "resume" => gate.set_open(true),
        "unmount" => mounted.unmount()?,
        "ended" => has_ended(mounted)?,
        other => anyhow::bail!("what is `{other}`?"),
    }
    Ok("ok".into())
}

/// Whoever used the mount was the test, which is gone.
const UNMOUNT_BOUND: Duration = Duration::from_secs(20);

/// The kernel lets a session end soon after the last copy of its mount.
const END_BOUND: Duration = Duration::from_secs(10);

fn has_ended(mounted: &MountedRoot) -> Result<()> {
    let end = Handle::current().block_on(async { timeout(END_BOUND, mounted.ended()).await })?;
    ensure!(end == SessionEnd::Unmounted, "the session ended as {end:?}");
    Ok(())
}

fn say(line: &str) -> Result<()> {
    let mut out = stdout().lock();
    writeln!(out, "{line}")?;
    Ok(out.flush()?)
}
