//! The workspace of the demonstration: a virtual environment, its interpreter beside it, a program and a model.

use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use serde::Deserialize;

use crate::error::{Error, Kind, Result};

/// Bytes of the model that are written at once.
const CHUNK_BYTES: usize = 1 << 20;

/// Directories of the standard library that a program does not import, and that would only make the copy larger.
const LEFT_OUT: [&str; 8] =
    ["site-packages", "dist-packages", "test", "idlelib", "turtledemo", "tkinter", "ensurepip", "lib2to3"];

/// Where a system's Python is looked for; the first that works is copied.
const PYTHONS: [&str; 2] = ["/usr/bin/python3", "python3"];

/// What an interpreter says of itself.
#[derive(Debug, Deserialize)]
struct Python {
    executable: PathBuf,
    stdlib: PathBuf,
    version: String,
    /// The library it is linked to, if that is not the system's.
    library: Option<PathBuf>,
}

const ASK: &str = r#"
import json, os, sys, sysconfig
if sys.version_info < (3, 8):
    sys.exit("it is older than 3.8")
variables = sysconfig.get_config_vars()
library = os.path.join(variables.get("LIBDIR") or "", variables.get("INSTSONAME") or "-")
print(json.dumps({
    "executable": os.path.realpath(getattr(sys, "_base_executable", sys.executable)),
    "stdlib": sysconfig.get_path("stdlib"),
    "version": "%d.%d.%d" % sys.version_info[:3],
    "library": library if os.path.isfile(library) and not library.startswith("/usr/lib") else None,
}))
"#;

/// The program. What it prints on standard output is what it read, so that it can be compared.
const PROGRAM: &str = r#"import argparse, array, csv, dataclasses, decimal, email.message, hashlib, json, logging
import os, random, statistics, sys, time, urllib.parse, xml.etree.ElementTree

OFFSET, LENGTH = @OFFSET@, @LENGTH@

print(f"Python {sys.version.split()[0]}, started from {sys.prefix}", file=sys.stderr)
model = os.path.join(os.path.dirname(os.path.abspath(__file__)), "model.bin")
with open(model, "rb") as file:
    file.seek(OFFSET)
    layer = file.read(LENGTH)
sample = array.array("H", layer[:65536])
print(f"read a layer of {len(layer):,} bytes of a model of {os.path.getsize(model):,};"
      f" its mean is {statistics.fmean(sample):.1f}", file=sys.stderr)
sys.stdout.buffer.write(layer)
"#;

/// A workspace that was made.
pub(super) struct Sample {
    pub(super) workspace: PathBuf,
    pub(super) model: PathBuf,
    /// What of the model the program reads.
    pub(super) slice: Range<u64>,
    /// The interpreter's version.
    pub(super) version: String,
    /// Of the workspace and the interpreter beside it.
    pub(super) files: u64,
    pub(super) bytes: u64,
}

impl Sample {
    /// Makes the workspace, whose program reads `slice` of a model of `model_bytes`, and the interpreter in `directory`.
    /// Gives up once `stop` is set.
    pub(super) fn make(
        directory: &Path,
        model_bytes: u64,
        slice: Range<u64>,
        stop: &AtomicBool,
    ) -> Result<Self> {
        let python = find()?;
        let (workspace, beside) = (directory.join("project"), directory.join("python"));
        fs::create_dir_all(&workspace)?;
        let interpreter = copy_python(&python, &beside, stop)?;
        make_environment(&interpreter, &workspace.join(".venv"))?;
        let program = PROGRAM.replace("@OFFSET@", &slice.start.to_string());
        let program = program.replace("@LENGTH@", &(slice.end - slice.start).to_string());
        fs::write(workspace.join("run.py"), program)?;
        let model = workspace.join("model.bin");
        write_model(&model, model_bytes, stop)?;
        let (mut files, mut bytes) = (0, 0);
        measure(directory, &mut files, &mut bytes)?;
        Ok(Self { workspace, model, slice, version: python.version, files, bytes })
    }
}

fn find() -> Result<Python> {
    let mut tried = Vec::new();
    for name in PYTHONS {
        match Command::new(name).args(["-I", "-c", ASK]).output() {
            Ok(output) if output.status.success() => {
                if let Ok(python) = serde_json::from_slice(&output.stdout) {
                    return Ok(python);
                }
                tried.push(format!("{name}: it does not say what it is"));
            }
            Ok(output) => tried.push(format!("{name}: {}", String::from_utf8_lossy(&output.stderr).trim())),
            Err(error) => tried.push(format!("{name}: {error}")),
        }
    }
    let message = format!("the demonstration needs Python 3: {}", tried.join("; "));
    Err(Error::new(Kind::Failure, message).hint("install it: `sudo apt-get install python3`"))
}

/// Copies the interpreter and its standard library, so that `directory` is all it needs. Returns the copy.
fn copy_python(python: &Python, directory: &Path, stop: &AtomicBool) -> Result<PathBuf> {
    let (bin, lib) = (directory.join("bin"), directory.join("lib"));
    fs::create_dir_all(&bin)?;
    fs::create_dir_all(&lib)?;
    let file_name = |path: &Path| path.file_name().map(PathBuf::from).unwrap_or_default();
    let interpreter = bin.join(file_name(&python.executable));
    fs::copy(&python.executable, &interpreter)?;
    if let Some(library) = &python.library {
        fs::copy(library, lib.join(file_name(library)))?;
    }
    copy_tree(&python.stdlib, &lib.join(file_name(&python.stdlib)), stop)?;
    Ok(interpreter)
}

/// Copies a tree with its times, which say whether compiled modules are current.
fn copy_tree(from: &Path, to: &Path, stop: &AtomicBool) -> io::Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        go_on(stop)?;
        let entry = entry?;
        let (source, target) = (entry.path(), to.join(entry.file_name()));
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if LEFT_OUT.contains(&name.as_ref()) || name.starts_with("config-") {
            continue;
        }
        // Links of the system (`sitecustomize.py` leads to `/etc`) become what they lead to, or nothing.
        let Ok(metadata) = fs::metadata(&source) else { continue };
        if metadata.is_dir() {
            copy_tree(&source, &target, stop)?;
        } else if metadata.is_file() {
            fs::copy(&source, &target)?;
            File::options().write(true).open(&target)?.set_modified(metadata.modified()?)?;
        }
    }
    Ok(())
}

fn make_environment(interpreter: &Path, directory: &Path) -> Result<()> {
    let mut command = Command::new(interpreter);
    // The copy must not find the original's libraries.
    command.env_remove("PYTHONHOME").env_remove("PYTHONPATH").args(["-I", "-m", "venv", "--without-pip"]);
    if let Some(library) = interpreter.parent().and_then(Path::parent) {
        command.env("LD_LIBRARY_PATH", library.join("lib"));
    }
    let output = command.arg(directory).output()?;
    match output.status.success() {
        true => Ok(()),
        false => {
            let text = String::from_utf8_lossy(&output.stderr);
            let last = text.lines().last().unwrap_or("no message").to_owned();
            Err(Error::new(Kind::Failure, format!("the virtual environment could not be made: {last}"))
                .hint("install what Python needs for it: `sudo apt-get install python3-venv`"))
        }
    }
}

/// Writes bytes that cannot be compressed, so that what crosses the network is what was read.
fn write_model(path: &Path, bytes: u64, stop: &AtomicBool) -> io::Result<()> {
    let mut file = File::create(path)?;
    let mut state = 0x9E37_79B9_7F4A_7C15_u64;
    let mut chunk = vec![0; CHUNK_BYTES];
    for _ in 0..bytes / CHUNK_BYTES as u64 {
        for word in chunk.chunks_exact_mut(8) {
            // Xorshift: Marsaglia, "Xorshift RNGs", 2003, with the triple 13, 7, 17.
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            word.copy_from_slice(&state.to_le_bytes());
        }
        go_on(stop)?;
        file.write_all(&chunk)?;
    }
    Ok(())
}

fn go_on(stop: &AtomicBool) -> io::Result<()> {
    if stop.load(Relaxed) { Err(io::ErrorKind::Interrupted.into()) } else { Ok(()) }
}

fn measure(directory: &Path, files: &mut u64, bytes: &mut u64) -> io::Result<()> {
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let metadata = entry.metadata()?;
        if metadata.is_dir() {
            measure(&entry.path(), files, bytes)?;
        } else if metadata.is_file() {
            *files += 1;
            *bytes += metadata.len();
        }
    }
    Ok(())
}

/// The digest of a part of a file.
pub(super) fn digest(path: &Path, part: Range<u64>) -> Result<blake3::Hash> {
    let mut file = File::open(path)?;
    file.seek(SeekFrom::Start(part.start))?;
    let mut hasher = blake3::Hasher::new();
    io::copy(&mut file.take(part.end - part.start), &mut hasher)?;
    Ok(hasher.finalize())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_program_runs_where_it_was_made() {
        let directory = tempfile::tempdir().unwrap();
        let slice = 1000..2000;
        let sample =
            Sample::make(directory.path(), CHUNK_BYTES as u64, slice.clone(), &AtomicBool::new(false))
                .unwrap();
        let python = sample.workspace.join(".venv/bin/python");
        let real = python.canonicalize().unwrap();
        assert!(real.starts_with(directory.path().canonicalize().unwrap().join("python/bin")), "{real:?}");
        let output = Command::new(python).arg(sample.workspace.join("run.py")).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        assert_eq!(blake3::hash(&output.stdout), digest(&sample.model, slice).unwrap());
        assert!(sample.files > 500 && sample.bytes > CHUNK_BYTES as u64, "{} files", sample.files);
    }
}
