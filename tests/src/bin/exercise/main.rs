//! Does random things to a file, knows at every moment what must be in it, and ends with an error where it is not.
//!
//! `exercise FILE TRUTH SEED OPERATIONS`: `TRUTH` holds what is in `FILE` at first, and what must be in it at last. Every way
//! to the bytes is used: system calls, shared and private mappings, holes, other names. Offsets keep to the edges of pages
//! and of the 64 KiB blocks in which content travels.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use twinshare_tests::random::Random;

mod subject;

use subject::Subject;

/// No file grows beyond this.
const BYTES_MAX: usize = 12 << 20;
/// Bytes that one operation is about, at most.
const LENGTH_MAX: usize = 200 << 10;
/// Operations that are told of when one fails.
const TOLD: usize = 12;

/// What can be done, each as often as it stands here.
const OPERATIONS: &[Operation] = &[
    Operation::Read,
    Operation::Read,
    Operation::Read,
    Operation::MapRead,
    Operation::MapRead,
    Operation::Write,
    Operation::Write,
    Operation::Write,
    Operation::MapWrite,
    Operation::MapWrite,
    Operation::MapPrivate,
    Operation::Append,
    Operation::Truncate,
    Operation::Punch,
    Operation::Zero,
    Operation::Allocate,
    Operation::Copy,
    Operation::Holes,
    Operation::Sync,
    Operation::Forget,
    Operation::Reopen,
    Operation::Rename,
    Operation::Link,
];

#[derive(Clone, Copy, Debug)]
enum Operation {
    Read,
    MapRead,
    Write,
    MapWrite,
    MapPrivate,
    Append,
    Truncate,
    Punch,
    Zero,
    Allocate,
    Copy,
    Holes,
    Sync,
    Forget,
    Reopen,
    Rename,
    Link,
}

fn main() -> Result<()> {
    let arguments: Vec<_> = std::env::args_os().skip(1).map(PathBuf::from).collect();
    let [file, truth, seed, operations] = &arguments[..] else {
        bail!("exercise FILE TRUTH SEED OPERATIONS");
    };
    let number = |text: &Path| text.to_str().and_then(|text| text.parse().ok()).context("not a number");
    let (seed, operations): (u64, u64) = (number(seed)?, number(operations)?);
    let mut exercise = Exercise {
        subject: Subject::open(file)?,
        truth: fs::read(truth)?,
        random: Random::new(seed),
        done: Vec::new(),
    };
    for number in 0..operations {
        exercise.step().with_context(|| {
            let last = exercise.done.iter().rev().take(TOLD).rev().cloned().collect::<Vec<_>>();
            format!("{} after {number} operations:\n{}", file.display(), last.join("\n"))
        })?;
    }
    let found = fs::read(file)?;
    same(&found, &exercise.truth, 0).context("at the end")?;
    Ok(fs::write(truth, &exercise.truth)?)
}

struct Exercise {
    subject: Subject,
    truth: Vec<u8>,
    random: Random,
    done: Vec<String>,
}

impl Exercise {
    fn step(&mut self) -> Result<()> {
        let operation = OPERATIONS[self.random.below(OPERATIONS.len())];
        let (from, length) = self.place();
        self.done.push(format!("{operation:?} {from}+{length} of {}", self.truth.len()));
        match operation {
            Operation::Read => {
                self.looks(from, length, |subject, from, length| subject.read(from, length))?
            }
            Operation::MapRead => {
                self.looks(from, length, |subject, from, length| subject.read_mapped(from, length))?;
            }
            Operation::Write => {
                let bytes = self.noise(length);
                self.subject.write(from, &bytes)?;
                self.overwrite(from, &bytes);
            }
            Operation::MapWrite => {
                let bytes = self.noise(length.min(self.truth.len().saturating_sub(from)));
                let is_synced = self.random.chance(0.3);
                self.subject.write_mapped(from, &bytes, is_synced)?;
                self.overwrite(from, &bytes);
            }
            Operation::MapPrivate => {
                let bytes = self.noise(length.min(self.truth.len().saturating_sub(from)));
                self.subject.write_private(from, &bytes)?;
            }
            Operation::Append => {
                let bytes = self.noise(length.min(BYTES_MAX.saturating_sub(self.truth.len())));
                self.subject.append(&bytes)?;
                self.truth.extend_from_slice(&bytes);
            }
            Operation::Truncate => {
                // Now and then, or nothing of what came from elsewhere would be left soon.
                let shorter = self.truth.len().saturating_sub(self.random.below(LENGTH_MAX));
                let size =
                    if self.random.chance(0.6) { (from + length).max(self.truth.len()) } else { shorter };
                self.subject.truncate(size)?;
                self.truth.resize(size, 0);
            }
            Operation::Punch => {
                if self.subject.punch(from, length)? {
                    self.clear(from, length);
                }
            }
            Operation::Zero => {
                if self.subject.zero(from, length)? {
                    self.truth.resize(self.truth.len().max(from + length), 0);
                    self.clear(from, length);
                }
            }
            Operation::Allocate => {
                if self.subject.allocate(from, length)? {
                    self.truth.resize(self.truth.len().max(from + length), 0);
                }
            }
            Operation::Copy => {
                let length = length.min(self.truth.len().saturating_sub(from));
                // Ranges that overlap are refused.
                let to = if from >= length { from - length } else { from + length };
                let copied = self.subject.copy(from, to, length)?;
                let bytes = self.truth[from..from + copied].to_vec();
                self.overwrite(to, &bytes);
            }
            Operation::Holes => self.subject.has_no_wrong_holes(&self.truth)?,
            Operation::Sync => self.subject.sync(self.random.chance(0.5))?,
            Operation::Forget => self.subject.forget()?,
            Operation::Reopen => self.subject.reopen()?,
            Operation::Rename => self.subject.rename()?,
            Operation::Link => self.subject.link()?,
        }
        self.subject.has_length(self.truth.len())
    }

    /// Where an operation begins and how long it is: any bytes, whole pages, or whole blocks, and near their edges.
    fn place(&mut self) -> (usize, usize) {
        let random = &mut self.random;
        let unit = [1, 512, 4096, 65536][random.below(4)];
        let from = random.below(self.truth.len() + 1) / unit * unit;
        let from =
            if random.chance(0.2) { (from / 65536 * 65536).saturating_sub(random.below(3)) } else { from };
        let length = (random.below(LENGTH_MAX) / unit * unit).max(1);
        (from, length.min(BYTES_MAX - from.min(BYTES_MAX - 1)))
    }

    fn noise(&mut self, length: usize) -> Vec<u8> {
        twinshare_tests::random::noise(length, self.random.number())
    }

    fn overwrite(&mut self, from: usize, bytes: &[u8]) {
        if !bytes.is_empty() {
            self.truth.resize(self.truth.len().max(from + bytes.len()), 0);
            self.truth[from..from + bytes.len()].copy_from_slice(bytes);
        }
    }

    fn clear(&mut self, from: usize, length: usize) {
        let end = self.truth.len().min(from + length);
        if from < end {
            self.truth[from..end].fill(0);
        }
    }

    fn looks(
        &self,
        from: usize,
        length: usize,
        read: impl FnOnce(&Subject, usize, usize) -> Result<Vec<u8>>,
    ) -> Result<()> {
        let length = length.min(self.truth.len().saturating_sub(from));
        same(&read(&self.subject, from, length)?, &self.truth[from..from + length], from)
    }
}

/// That these are the bytes that must be at `from`.
fn same(found: &[u8], expected: &[u8], from: usize) -> Result<()> {
    ensure!(found.len() == expected.len(), "{} bytes in place of {}", found.len(), expected.len());
    let Some(at) = found.iter().zip(expected).position(|(found, expected)| found != expected) else {
        return Ok(());
    };
    let wrong =
        found[at..].iter().zip(&expected[at..]).take_while(|(found, expected)| found != expected).count();
    let zeros = found[at..at + wrong].iter().all(|byte| *byte == 0);
    bail!("{wrong} wrong bytes from {} on{}", from + at, if zeros { ", zeros" } else { "" })
}
