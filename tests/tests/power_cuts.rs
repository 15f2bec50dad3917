//! The power goes while somebody works in a clone: what was durable is there, what was not fetched is fetched again, and
//! nothing is taken for what it is not. On a disk that is an image, copied at random moments; see `power-cut`.

use std::process::Command;

use anyhow::{Context, Result, ensure};

/// Moments looked at when nobody says how many (`TWINSHARE_CUTS`).
const CUTS: &str = "24";

fn cut(kind: &str) -> Result<()> {
    let cuts = std::env::var("TWINSHARE_CUTS").unwrap_or_else(|_| CUTS.into());
    let directory = tempfile::tempdir()?;
    let ended = Command::new("unshare")
        .args([
            "--mount",
            "--propagation",
            "private",
            "--pid",
            "--fork",
            "--kill-child",
            "--mount-proc",
            "--",
        ])
        .args([env!("CARGO_BIN_EXE_power-cut"), "run"])
        .arg(directory.path())
        .args([kind, &cuts, "7"])
        .output()
        .context("starting unshare (package util-linux)")?;
    let said = String::from_utf8_lossy(&ended.stdout);
    ensure!(
        ended.status.success() && said.contains("cuts"),
        "{said}{}",
        String::from_utf8_lossy(&ended.stderr)
    );
    Ok(())
}

#[test]
fn a_clone_on_ext4_outlives_a_power_cut() -> Result<()> {
    cut("ext4")
}

#[test]
fn a_clone_on_xfs_outlives_a_power_cut() -> Result<()> {
    cut("xfs")
}
