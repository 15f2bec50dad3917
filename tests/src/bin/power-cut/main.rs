//! Cuts the power of a clone's disk at random moments, and looks at what is left.
//!
//!     power-cut run DIRECTORY ext4|xfs CUTS SEED    in a mount namespace of its own
//!     power-cut work SNAPSHOT DISK SEED             what it runs on the disk that is cut
//!     power-cut check SNAPSHOT DISK LOG             what it runs on each disk that was cut
//!
//! The disk is an image on a filesystem with reflinks, so a copy of it is that of one moment, between two of the kernel's
//! writes to it. Whoever works says which changes are durable; a copy must have all that was said before it was made.

use std::env;
use std::path::Path;

use anyhow::{Result, bail};

mod check;
mod disk;
mod facts;
mod work;

fn main() -> Result<()> {
    let arguments: Vec<_> = env::args().skip(1).collect();
    let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
    match arguments[..] {
        ["run", directory, kind, cuts, seed] => {
            disk::run(Path::new(directory), kind, cuts.parse()?, seed.parse()?)
        }
        ["work", snapshot, disk, seed] => work::work(Path::new(snapshot), Path::new(disk), seed.parse()?),
        ["check", snapshot, disk, log] => check::check(Path::new(snapshot), Path::new(disk), Path::new(log)),
        _ => bail!("run DIRECTORY ext4|xfs CUTS SEED, work SNAPSHOT DISK SEED, or check SNAPSHOT DISK LOG"),
    }
}
