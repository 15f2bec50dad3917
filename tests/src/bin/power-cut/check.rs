//! What a disk has after its power was cut: the clone goes on, and loses nothing that was durable.

use std::fs;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use twinshare_fs::replica::{Layout, SettleError, layout, settle};

use super::facts::{CLONE, EDITED, FILES, Facts, KEPT, SHORT, SLOT, SLOTS, made, version_of};
use super::work;

/// Bytes of a page.
const PAGE: u64 = 4096;

/// For everything to come: a few MiB from the same machine.
const HYDRATED_WITHIN: Duration = Duration::from_secs(60);

pub(crate) fn check(snapshot: &Path, disk: &Path, log: &Path) -> Result<()> {
    let facts = Facts::read(&fs::read_to_string(log)?)?;
    let (at, kept) = (disk.join(CLONE), disk.join(KEPT));
    if !facts.began {
        return Ok(());
    }
    let origin = snapshot.with_file_name("origin");
    if let Some(name) = replica_directory(&at)? {
        match settle::conclude(&at, &name, &kept) {
            Ok(()) => {}
            Err(SettleError::Unfinished { .. }) => {
                let runtime = tokio::runtime::Runtime::new()?;
                runtime.block_on(goes_on(snapshot, &at, &name, &kept))?;
            }
            Err(error) => return Err(error).context("it cannot be concluded"),
        }
    }
    holds(&facts, &origin, &at)
}

fn replica_directory(at: &Path) -> Result<Option<String>> {
    for entry in fs::read_dir(at)? {
        let name = entry?.file_name().into_string().unwrap_or_default();
        if name.starts_with(layout::PREFIX) {
            return Ok(Some(name));
        }
    }
    Ok(None)
}

async fn goes_on(snapshot: &Path, at: &Path, name: &str, kept: &Path) -> Result<()> {
    let (replica, _fetched) = work::open(snapshot, Layout::clone_as(at, name)?).await?;
    if tokio::time::timeout(HYDRATED_WITHIN, replica.hydrated()).await.is_err() {
        bail!("it does not become complete: {:?}", replica.status());
    }
    work::finished(&replica).await?;
    let moving = replica.clone();
    tokio::task::spawn_blocking(move || moving.move_up()).await??;
    replica.close().await;
    drop(replica);
    Ok(settle::conclude(at, name, kept)?)
}

/// Checks an ordinary directory.
fn holds(facts: &Facts, origin: &Path, at: &Path) -> Result<()> {
    is_plain(at)?;
    for name in ["keep/large", "keep/deep/again", "new/first", "moved/first"] {
        same(origin, name, at, name)?;
    }
    ensure!(fs::read_link(at.join("keep/link"))? == Path::new("deep/k1"));
    for number in 0..FILES {
        let kept = format!("keep/deep/k{number}");
        same(origin, &kept, at, &kept)?;

        let (from, to) = (format!("move/m{number}"), format!("moved/m{number}"));
        let (was, is) = (at.join(&from).exists(), at.join(&to).exists());
        ensure!(was != is, "{from}: there {was}, and moved {is}");
        ensure!(is || !facts.moved.contains(&number), "{from} is back");
        same(origin, &from, at, if is { &to } else { &from })?;

        let gone = format!("gone/g{number}");
        if at.join(&gone).exists() {
            ensure!(!facts.removed.contains(&number), "{gone} is back");
            same(origin, &gone, at, &gone)?;
        }

        let cut = format!("cut/c{number}");
        let (whole, found) = (fs::read(origin.join(&cut))?, fs::read(at.join(&cut))?);
        let is_cut = found.len() as u64 == SHORT;
        ensure!(is_cut || found.len() == whole.len(), "{cut} has {} bytes", found.len());
        ensure!(is_cut || !facts.cut.contains(&number), "{cut} has grown again");
        // Cutting a file clears the rest of its last page, which a disk may have before the length.
        let cleared = SHORT as usize..SHORT.next_multiple_of(PAGE) as usize;
        let is_right =
            |at: usize| found[at] == whole[at] || !is_cut && cleared.contains(&at) && found[at] == 0;
        let differs = (0..found.len()).find(|at| !is_right(*at));
        ensure!(differs.is_none(), "{cut} has other content, from {differs:?} of {} bytes on", found.len());
    }
    for number in &facts.made {
        let found = fs::read(at.join(format!("new/n{number}"))).with_context(|| format!("n{number}"))?;
        ensure!(found == made(*number), "n{number} has other content");
    }
    (0..EDITED).try_for_each(|file| has_slots(facts, origin, at, file))
}

fn has_slots(facts: &Facts, origin: &Path, at: &Path, file: u64) -> Result<()> {
    let name = format!("edit/e{file}");
    let (before, now) = (fs::read(origin.join(&name))?, fs::read(at.join(&name))?);
    ensure!(before.len() == now.len(), "{name} has {} bytes", now.len());
    for slot in 0..SLOTS {
        let range = (slot * SLOT) as usize..((slot + 1) * SLOT) as usize;
        let durable = facts.slots.get(&(file, slot));
        let found = version_of(file, slot, &now[range.clone()]);
        let is_right = match (found, durable) {
            (Some(found), durable) => durable.is_none_or(|durable| found >= *durable),
            (None, None) => before[range.clone()] == now[range],
            (None, Some(_)) => false,
        };
        ensure!(is_right, "{name} has {found:?} at {slot} in place of {durable:?}");
    }
    Ok(())
}

fn same(origin: &Path, name: &str, at: &Path, here: &str) -> Result<()> {
    let found = fs::read(at.join(here)).with_context(|| here.to_owned())?;
    ensure!(found == fs::read(origin.join(name))?, "{here} has other content than {name}");
    Ok(())
}

/// Nothing of ours is left.
fn is_plain(at: &Path) -> Result<()> {
    let mut directories: Vec<PathBuf> = vec![at.to_owned()];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(&directory)? {
            let (entry, mut names) = (entry?, [0; 4096]);
            let (path, kind) = (entry.path(), entry.file_type()?);
            ensure!(!kind.is_char_device(), "{} is a whiteout", path.display());
            let length = rustix::fs::llistxattr(&path, &mut names[..])?;
            ensure!(length == 0, "{} has xattrs", path.display());
            if kind.is_dir() {
                directories.push(path);
            }
        }
    }
    Ok(())
}
