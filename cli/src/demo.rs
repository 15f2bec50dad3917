//! The demonstration: two nodes on one machine, and a program that runs on the second before its data is there.
//!
//! Nothing of it is staged. The nodes are processes of this binary with homes and identities of their own, which find
//! each other by multicast on the loopback interface; the workspace is a real virtual environment whose interpreter
//! lies outside of it and outside `/usr`; the program is run with `twinshare run`, in whose namespace the first node's
//! directories do not exist.

mod nodes;
mod sample;

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::{ExitCode, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use tempfile::TempDir;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::Command;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::task::{JoinHandle, spawn_blocking};
use twinshare_daemon::api::wire::{CreateWorkspace, MountRequest, Replica};
use twinshare_daemon::home::HOME_VARIABLE;

use crate::commands::mount::mount;
use crate::error::{Error, Kind, Result};
use crate::interrupts::{Interrupts, interrupted};
use crate::node;
use crate::output::line;
use crate::text::{bytes, count, per_cent, shown, span};
use nodes::Nodes;
use sample::Sample;

/// The workspace's name.
const WORKSPACE: &str = "demo";

/// Size of the model.
const MODEL_BYTES: u64 = 300 << 20;

/// The part of the model the program reads: a layer from the middle, say.
const SLICE: Range<u64> = (128 << 20)..(136 << 20);

/// How long the program may run.
const PROGRAM_WITHIN: Duration = Duration::from_secs(60);

/// Bytes of what the program says that are shown at most.
const SAID_BYTES_MAX: u64 = 64 * 1024;

/// Runs the demonstration and removes what it made, however it ends.
pub(crate) fn run() -> Result {
    node::wait(async {
        let begun = Instant::now();
        // Before anything is made that would be left behind.
        let mut ends = Ends::listen()?;
        // On a disk: what is in memory cannot hold what a view keeps of its files.
        let base = tempfile::Builder::new().prefix("twinshare-demo-").tempdir_in(place())?;
        let mut nodes = Nodes::new(base.path())?;
        let mut making = Making::default();
        let shown = tokio::select! {
            // First: what Ctrl-C ended on the same terminal has failed, too.
            biased;
            () = ends.next() => Err(interrupted()),
            shown = show(base.path(), &mut nodes, &mut making) => shown,
        };
        making.stop().await;
        let mut failures: Vec<Error> = shown.err().into_iter().collect();
        failures.extend(nodes.end().await);
        if failures.iter().any(|failure| failure.kind() != Kind::Interrupted) {
            // What the messages point to is about to be removed.
            nodes.tell_logs();
        }
        failures.extend(remove(base).await.err());
        if let Some(failure) = Error::joined(failures) {
            return Err(failure);
        }
        line(format!("done in {}; nothing is left behind", span(begun.elapsed())))?;
        Ok(ExitCode::SUCCESS)
    })
}

fn place() -> PathBuf {
    std::env::var_os("TMPDIR").map_or_else(|| PathBuf::from("/var/tmp"), PathBuf::from)
}

/// The signals that end the demonstration early.
struct Ends([Signal; 3]);

impl Ends {
    fn listen() -> Result<Self> {
        let [interrupt, terminate, hangup] =
            [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()].map(signal);
        Ok(Self([interrupt?, terminate?, hangup?]))
    }

    async fn next(&mut self) {
        let Self([interrupt, terminate, hangup]) = self;
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
            _ = hangup.recv() => {}
        }
    }
}

async fn remove(base: TempDir) -> Result<()> {
    let path = base.path().to_owned();
    spawn_blocking(move || base.close()).await.map_err(std::io::Error::from)?.map_err(|error| {
        Error::new(Kind::Failure, format!("{} could not be removed: {error}", path.display()))
    })
}

/// The making of the workspace, which happens on a thread of its own and has to stop before its files are removed.
#[derive(Default)]
struct Making {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<Result<Sample>>>,
}

impl Making {
    async fn sample(&mut self, base: &Path) -> Result<Sample> {
        let (directory, stop) = (base.join("anna"), self.stop.clone());
        let make = move || Sample::make(&directory, MODEL_BYTES, SLICE, &stop);
        let made = self.thread.insert(spawn_blocking(make)).await;
        self.thread = None;
        made.map_err(std::io::Error::from)?
    }

    async fn stop(self) {
        self.stop.store(true, Relaxed);
        if let Some(thread) = self.thread {
            // What came of it does not matter any more.
            let _ = thread.await;
        }
    }
}

/// A line of the timeline.
fn event(what: &str, took: &str) -> Result<()> {
    line(format!("  {what:<60}{took}").trim_end())
}

async fn show(base: &Path, nodes: &mut Nodes, making: &mut Making) -> Result<()> {
    line("Two nodes on this machine, anna and bob, with nothing in common but the loopback interface.")?;
    let begun = Instant::now();
    let sample = making.sample(base).await?;
    let what = format!(
        "anna makes a workspace: Python {}, {}, {}",
        shown(&sample.version),
        count(sample.files, "file"),
        bytes(sample.bytes)
    );
    event(&what, &span(begun.elapsed()))?;
    let begun = Instant::now();
    let up = nodes.start().await?;
    event("both nodes are started", &span(begun.elapsed()))?;
    nodes.discover().await?;
    event("bob has discovered anna, by multicast", &format!("after {}", span(up.elapsed())))?;
    share(nodes, &sample).await?;
    event("anna shares the workspace with everybody", "")?;
    let (view, began) = mount_view(nodes).await?;
    let program = run_program(nodes, &sample, began).await?;
    report(nodes, &sample, &view, &program).await
}

async fn share(nodes: &Nodes, sample: &Sample) -> Result<()> {
    let directory = node::absolute(&sample.workspace)?;
    let request = CreateWorkspace { directory, name: Some(WORKSPACE.to_owned()) };
    nodes.anna.create_workspace(&request).await?;
    nodes.anna.share_workspace(WORKSPACE, Some(true)).await?;
    Ok(())
}

/// Mounts on the second node. Also returns when that began.
async fn mount_view(nodes: &Nodes) -> Result<(Replica, Instant)> {
    let began = Instant::now();
    let wanted = MountRequest { workspace: format!("anna/{WORKSPACE}"), ..MountRequest::default() };
    let view = mount(&nodes.bob, &wanted, &mut Interrupts::listen()?).await?;
    event("bob has mounted it: usable", &format!("after {}", span(began.elapsed())))?;
    Ok((view, began))
}

/// What the program did.
struct Ran {
    /// What it printed for people.
    said: Vec<String>,
    /// The digest of the bytes it read of the model and passed on.
    digest: blake3::Hash,
    bytes: u64,
}

/// Runs the program on the second node with `twinshare run`. It passes what it reads of the model on to its standard
/// output, and talks on standard error.
async fn run_program(nodes: &Nodes, sample: &Sample, began: Instant) -> Result<Ran> {
    let mut command = Command::new(std::env::current_exe()?);
    command.args(["run", &format!("anna/{WORKSPACE}"), "--", "python", "run.py"]);
    command.env(HOME_VARIABLE, nodes.home_of_bob()).stdin(Stdio::null()).kill_on_drop(true);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    let (Some(out), Some(err)) = (child.stdout.take(), child.stderr.take()) else {
        return Err(Error::new(Kind::Failure, "the program has no output"));
    };
    let read = async { tokio::join!(digest(out), collect(err), child.wait()) };
    let (digest, said, status) = tokio::time::timeout(PROGRAM_WITHIN, read).await.map_err(|_| {
        Error::new(Kind::Failure, format!("the program did not end within {} s", PROGRAM_WITHIN.as_secs()))
    })?;
    let (first, digest, bytes) = digest?;
    let said = said?;
    if !status?.success() || bytes != sample.slice.end - sample.slice.start {
        return Err(Error::new(Kind::Failure, format!("the program failed:\n{}", said.join("\n"))));
    }
    let first = first.map_or_else(Duration::default, |first| first.duration_since(began));
    event("bob runs its program there: first output", &format!("after {}", span(first)))?;
    Ok(Ran { said, digest, bytes })
}

/// Digests everything; also tells when the first of it came.
async fn digest(mut from: impl AsyncRead + Unpin) -> Result<(Option<Instant>, blake3::Hash, u64)> {
    let mut hasher = blake3::Hasher::new();
    let mut first = None;
    let mut buffer = vec![0; 64 * 1024];
    loop {
        match from.read(&mut buffer).await? {
            0 => return Ok((first, hasher.finalize(), hasher.count())),
            read => {
                first.get_or_insert_with(Instant::now);
                hasher.update(&buffer[..read]);
            }
        }
    }
}

async fn collect(from: impl AsyncRead + Unpin) -> Result<Vec<String>> {
    let mut text = Vec::new();
    from.take(SAID_BYTES_MAX).read_to_end(&mut text).await?;
    Ok(String::from_utf8_lossy(&text).lines().map(shown).collect())
}

async fn report(nodes: &Nodes, sample: &Sample, view: &Replica, ran: &Ran) -> Result<()> {
    for said in &ran.said {
        line(format!("    | {said}"))?;
    }
    let progress = nodes.bob.mount_status(&view.id).await?.progress;
    let Some(progress) = progress else {
        return Err(Error::new(Kind::Failure, "the mount does not say what it has fetched"));
    };
    let (fetched, total) = (progress.bytes_fetched, progress.bytes_total);
    event("fetched", &format!("{} of {} ({} %)", bytes(fetched), bytes(total), per_cent(fetched, total)))?;
    if fetched >= total {
        return Err(Error::new(Kind::Failure, "everything was fetched, not only what was needed"));
    }
    let (model, slice) = (sample.model.clone(), sample.slice.clone());
    let origin =
        spawn_blocking(move || sample::digest(&model, slice)).await.map_err(std::io::Error::from)??;
    if origin != ran.digest {
        return Err(Error::new(Kind::Failure, "what the program read differs from the origin's"));
    }
    let verified = format!("BLAKE3 of the {} it read is the origin's", bytes(ran.bytes));
    event("verified", &verified)
}
