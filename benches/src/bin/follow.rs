//! How soon a change at the origin is told of, and what it costs to say what changed.
//!
//! A node shares a workspace of many files in one process; a visitor watches it over loopback and fetches each new
//! manifest as what became of the one before. Each round changes one file.

#![expect(clippy::print_stdout, reason = "a program that prints what it measured")]

use std::fs;
use std::net::Ipv4Addr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use twinshare_daemon::home::Home;
use twinshare_daemon::registry::{Registry, ShareMode};
use twinshare_daemon::share::Shares;
use twinshare_daemon::workspace::create;
use twinshare_fs::manifest::{Arrival, Manifest, fetch, fetch_since};
use twinshare_fs::origin::SinceFrame;
use twinshare_transport::client::{Client, Remote, Watched};
use twinshare_transport::identity::Identity;
use twinshare_transport::protocol::Hello;
use twinshare_transport::server::Server;

/// Files of a directory.
const FILES_PER_DIRECTORY: u64 = 100;

/// Longest wait for an answer.
const PATIENCE: Duration = Duration::from_secs(600);

#[tokio::main]
async fn main() -> Result<()> {
    let usage = "usage: follow [FILES] [ROUNDS]";
    let mut arguments = std::env::args().skip(1).map(|text| text.parse::<u64>());
    let files = arguments.next().transpose().context(usage)?.unwrap_or(100_000);
    let rounds = arguments.next().transpose().context(usage)?.unwrap_or(7);
    let directory = tempfile::tempdir()?;
    let workspace = directory.path().join("w");
    fill(&workspace, files)?;
    let (_server, remote) = share(directory.path(), &workspace).await?;
    let mut base = whole(&remote, &directory.path().join("manifest")).await?;
    println!("{} entries; a manifest of {} bytes on disk", base.entries(), fs::metadata(base.path())?.len());
    for round in 0..rounds {
        base = follow(&remote, &workspace, base, round).await?;
    }
    Ok(())
}

fn fill(workspace: &Path, files: u64) -> Result<()> {
    for directory in 0..files.div_ceil(FILES_PER_DIRECTORY) {
        let path = workspace.join(format!("directory-{directory}"));
        fs::create_dir_all(&path)?;
        let here = FILES_PER_DIRECTORY.min(files - directory * FILES_PER_DIRECTORY);
        (0..here).try_for_each(|file| fs::write(path.join(format!("file-{file}.txt")), "content"))?;
    }
    Ok(())
}

async fn share(base: &Path, workspace: &Path) -> Result<(Server, Remote)> {
    let home = Home::isolated(&base.join("home"));
    home.prepare()?;
    let registry = Registry::open(home.registry()).await?;
    let name = create(&home, &registry, workspace, Some("demo".parse()?)).await?.record.name;
    let shares = Shares::open(home, registry, "bench".parse()?).await?;
    shares.share(&name, Some(ShareMode::Open)).await?;
    let identity = Identity::generate()?;
    let server = Server::bind(&identity, (Ipv4Addr::LOCALHOST, 0).into(), Arc::new(shares))?;
    let client = Client::new(&Identity::generate()?, Hello::new("visitor"))?;
    let remote = Remote::new(&client, identity.peer_id(), vec![server.local_address()]);
    Ok((server, remote))
}

async fn whole(remote: &Remote, path: &Path) -> Result<Manifest> {
    let info = remote.open_snapshot("demo", None, PATIENCE).await?;
    let fetched = fetch(remote.origin(info.id), path).await?;
    let mut arrival = fetched.manifest.arrival();
    arrival.wait_for(|arrival| *arrival == Arrival::Complete).await?;
    Ok(fetched.manifest.clone())
}

/// Changes a file and follows; prints what that took.
async fn follow(remote: &Remote, workspace: &Path, base: Manifest, round: u64) -> Result<Manifest> {
    let watch = {
        let (remote, base) = (remote.clone(), base.snapshot());
        tokio::spawn(async move {
            loop {
                match remote.watch("demo", base).await {
                    Ok(Watched::Nothing) => {}
                    other => return other,
                }
            }
        })
    };
    // Long enough for the walks that follow a watch's beginning, or the last change: what is measured is a change at
    // rest.
    tokio::time::sleep(Duration::from_secs(if round == 0 { 15 } else { 5 })).await;
    let changed = Instant::now();
    fs::write(workspace.join("directory-0/file-0.txt"), format!("content of round {round}"))?;
    let Watched::New(news) = watch.await?? else { bail!("the peer cannot be watched") };
    let told = changed.elapsed();
    let origin = remote.origin(news.id);
    let (manifest, carried) = fetch_since(&*origin, &base, base.path()).await?;
    let there = changed.elapsed();
    let mut frames = origin.read_manifest_since(base.snapshot());
    let mut bytes = 0;
    while let Some(frame) = frames.recv().await {
        bytes += match frame? {
            SinceFrame::Delta(frame) | SinceFrame::Whole(frame) => frame.len(),
        };
    }
    println!(
        "told after {:.2} s, the manifest there after {:.2} s: {bytes} bytes, {} entries carried in {} runs",
        told.as_secs_f64(),
        there.as_secs_f64(),
        carried.entries(),
        carried.runs().len(),
    );
    Ok(manifest)
}
