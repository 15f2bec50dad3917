//! twinshare's transport against the least that could do the same work.
//!
//! Both move one file over loopback: read from the page cache, BLAKE3 at the server, QUIC with TLS 1.3, BLAKE3 at the
//! client, written to tmpfs. The bare program does that and nothing else; twinshare adds the protocol, the seam, its
//! limits, the supervision of the connection, and the interfaces a replica sees.

#![expect(clippy::print_stdout, reason = "a program that prints what it measured")]

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use tokio::runtime::Runtime;
use twinshare_benches::measure::{Cost, median};

mod bare;
mod ours;

/// Requests that are under way at the same time, in both programs.
const PARALLEL: usize = 4;

/// Bytes of a read at the server and of a write at the client, in both programs.
const RUN_BYTES: usize = 256 * 1024;

/// The work, and how often it is done.
struct Plan {
    source: PathBuf,
    target: PathBuf,
    bytes: u64,
    rounds: usize,
}

fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1).map(|text| text.parse::<u64>());
    let megabytes =
        arguments.next().transpose().context("usage: transport [MEGABYTES] [ROUNDS]")?.unwrap_or(384);
    let rounds = arguments.next().transpose().context("usage: transport [MEGABYTES] [ROUNDS]")?.unwrap_or(7);
    let directory = tempfile::tempdir_in(memory_backed())?;
    let plan = Plan {
        source: directory.path().join("source"),
        target: directory.path().join("target"),
        bytes: megabytes << 20,
        rounds: rounds as usize,
    };
    fill(&plan.source, plan.bytes)?;
    run(&plan)
}

/// tmpfs where there is one, so that no disk takes part.
fn memory_backed() -> PathBuf {
    let shared_memory = PathBuf::from("/dev/shm");
    if shared_memory.is_dir() { shared_memory } else { std::env::temp_dir() }
}

/// Bytes that do not compress and do not repeat.
fn fill(path: &Path, bytes: u64) -> Result<()> {
    let mut file = File::create(path)?;
    let mut noise = blake3::Hasher::new().finalize_xof();
    let mut buffer = vec![0; 1 << 20];
    for _ in 0..bytes >> 20 {
        noise.fill(&mut buffer);
        file.write_all(&buffer)?;
    }
    Ok(())
}

fn run(plan: &Plan) -> Result<()> {
    let (mut bare, mut ours) = (Vec::new(), Vec::new());
    for round in 0..=plan.rounds {
        let costs = (once(plan, bare::transfer)?, once(plan, ours::transfer)?);
        // The first round warms the page cache and the allocator.
        if round == 0 {
            continue;
        }
        println!("round {round}: bare {} | twinshare {}", costs.0, costs.1);
        bare.push(costs.0);
        ours.push(costs.1);
    }
    report(&bare, &ours);
    Ok(())
}

/// One transfer in a runtime of its own, checked to have moved the whole file.
fn once(plan: &Plan, transfer: impl AsyncFn(&Plan) -> Result<Cost>) -> Result<Cost> {
    drop(std::fs::remove_file(&plan.target));
    let cost = Runtime::new()?.block_on(transfer(plan))?;
    let moved = std::fs::metadata(&plan.target)?.len();
    anyhow::ensure!(moved == plan.bytes, "{moved} of {} bytes arrived", plan.bytes);
    Ok(cost)
}

fn report(bare: &[Cost], ours: &[Cost]) {
    let speed = |costs: &[Cost]| median(costs.iter().map(Cost::gigabytes_per_second).collect());
    let cpu = |costs: &[Cost]| median(costs.iter().map(Cost::cpu_per_gigabyte).collect());
    let pairs = bare.iter().zip(ours);
    let ratio =
        median(pairs.map(|(bare, ours)| ours.gigabytes_per_second() / bare.gigabytes_per_second()).collect());
    println!("bare       median {:.3} GB/s, {:.2} CPU s/GB both ends", speed(bare), cpu(bare));
    println!("twinshare  median {:.3} GB/s, {:.2} CPU s/GB both ends", speed(ours), cpu(ours));
    println!("twinshare reaches {:.0} % of the bare program's throughput", ratio * 100.0);
    println!("and takes {:.0} % of its processor time", cpu(ours) / cpu(bare) * 100.0);
}
