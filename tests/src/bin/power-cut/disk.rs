//! The disk, its copies, and who works on them.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write, stdout};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use twinshare_fs::manifest::walk::{WalkOptions, build};
use twinshare_tests::random::Random;

use super::facts::make_tree;

/// Copies of a disk at most while somebody works on it once: what is early and what is late is both seen.
const CUTS_EACH: u64 = 12;

/// Mebibytes of the disk; xfs wants 300 at least.
const DISK_MIB: u64 = 320;

/// Between two copies.
const PAUSE_MAX: Duration = Duration::from_millis(90);

pub(crate) fn run(directory: &Path, kind: &str, cuts: u64, seed: u64) -> Result<()> {
    let at = |name: &str| directory.join(name);
    for name in ["outer", "inner", "cut", "origin", "snapshot"] {
        fs::create_dir(at(name))?;
    }
    make_tree(&at("origin"))?;
    let (cancel, progress) = Default::default();
    let options = WalkOptions { threads: 2, exclude: &[], cancel: &cancel, progress: &progress };
    build(&at("snapshot"), &[at("origin").canonicalize()?], &options)?;
    make_image(&at("outer.img"), "xfs", 16 * DISK_MIB)?;
    let outer = Mounted::at(&at("outer.img"), at("outer"))?;
    let (mut random, mut done, mut durable) = (Random::new(seed), 0, 0);
    while done < cuts {
        let seed = random.number();
        let taken = take(directory, kind, seed, &mut random)?;
        for (number, copy) in taken.iter().enumerate() {
            durable += copy.log.lines().count();
            verify(directory, copy).with_context(|| {
                format!("{kind}, seed {seed}, cut {number} of {}, after\n{}", taken.len(), copy.log)
            })?;
            fs::remove_file(&copy.image)?;
        }
        done += taken.len() as u64;
    }
    drop(outer);
    Ok(writeln!(stdout(), "{kind}: {done} cuts, {durable} durable changes looked at")?)
}

/// A disk at one moment, and what had been said before.
struct Copy {
    image: PathBuf,
    log: String,
}

/// Has somebody work on a fresh disk, and copies it now and then.
fn take(directory: &Path, kind: &str, seed: u64, random: &mut Random) -> Result<Vec<Copy>> {
    let (image, inner) = (directory.join("outer/disk.img"), directory.join("inner"));
    make_image(&image, kind, DISK_MIB)?;
    let disk = Mounted::at(&image, inner.clone())?;
    let mut worker = Command::new(std::env::current_exe()?)
        .arg("work")
        .args([&directory.join("snapshot"), &inner])
        .arg(seed.to_string())
        .stdout(Stdio::piped())
        .spawn()?;
    let said = Arc::new(Mutex::new(String::new()));
    let (out, saying) = (worker.stdout.take().context("no output")?, said.clone());
    let listener = std::thread::spawn(move || {
        for line in BufReader::new(out).lines().map_while(Result::ok) {
            let mut said = saying.lock().unwrap_or_else(PoisonError::into_inner);
            said.push_str(&line);
            said.push('\n');
        }
    });
    let mut copies = Vec::new();
    while (copies.len() as u64) < CUTS_EACH {
        // The moment is what is tested; nothing is waited for.
        std::thread::sleep(PAUSE_MAX.mul_f64(random.below(1000) as f64 / 1000.0));
        let log = said.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let copy = directory.join(format!("outer/cut-{}.img", copies.len()));
        let (from, to) = (File::open(&image)?, File::create(&copy)?);
        rustix::fs::ioctl_ficlone(&to, &from).context("copying the disk")?;
        let is_last = log.ends_with("settled\n");
        copies.push(Copy { image: copy, log });
        if is_last {
            break;
        }
    }
    let ended = worker.wait()?;
    ensure!(ended.success(), "whoever worked failed: {ended}, seed {seed}");
    let _ = listener.join();
    drop(disk);
    fs::remove_file(&image)?;
    Ok(copies)
}

fn verify(directory: &Path, copy: &Copy) -> Result<()> {
    let log = directory.join("log");
    fs::write(&log, &copy.log)?;
    let _disk = Mounted::at(&copy.image, directory.join("cut"))?;
    let checked = Command::new(std::env::current_exe()?)
        .arg("check")
        .args([&directory.join("snapshot"), &directory.join("cut"), &log])
        .output()?;
    ensure!(checked.status.success(), "{}", String::from_utf8_lossy(&checked.stderr));
    Ok(())
}

fn make_image(image: &Path, kind: &str, mebibytes: u64) -> Result<()> {
    File::create(image)?.set_len(mebibytes << 20)?;
    tool(Command::new(format!("mkfs.{kind}")).arg("-q").arg(image))
}

/// A mounted image.
struct Mounted(PathBuf);

impl Mounted {
    fn at(image: &Path, at: PathBuf) -> Result<Self> {
        tool(Command::new("mount").args(["-o", "loop"]).args([image, &at]))?;
        Ok(Self(at))
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        // What stays mounted goes with the mount namespace.
        let _ = tool(Command::new("umount").arg(&self.0));
    }
}

fn tool(command: &mut Command) -> Result<()> {
    let output = command.output().with_context(|| format!("{command:?}"))?;
    ensure!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}
