//! The demonstration, to its end and interrupted: it works, and leaves nothing behind.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use tempfile::TempDir;

fn start(directory: &Path) -> Child {
    let mut command = Command::new(env!("CARGO_BIN_EXE_twinshare"));
    command.arg("demo").env("TMPDIR", directory).stdin(Stdio::null());
    // A group of its own, as a shell gives it.
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0).spawn().unwrap()
}

/// On a disk: the system's `/tmp` may be memory.
fn place() -> TempDir {
    TempDir::with_prefix_in("twinshare-demo-test-", "/var/tmp").unwrap()
}

/// No file, no mount and no process that knows of it.
fn assert_nothing_left(directory: &Path) {
    assert_eq!(fs::read_dir(directory).unwrap().count(), 0);
    let name = directory.to_str().unwrap();
    assert!(!fs::read_to_string("/proc/self/mountinfo").unwrap().contains(name));
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let environment = fs::read(entry.path().join("environ")).unwrap_or_default();
        let knows = environment.windows(name.len()).any(|part| part == name.as_bytes());
        assert!(!knows, "{:?}", fs::read_to_string(entry.path().join("cmdline")));
    }
}

#[test]
fn the_demonstration_works() {
    let directory = place();
    let output = start(directory.path()).wait_with_output().unwrap();
    let (said, errors) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{said}{errors}");
    for line in ["discovered anna", "usable", "first output", "fetched", "BLAKE3", "nothing is left behind"] {
        assert!(said.contains(line), "{line}: {said}");
    }
    assert_nothing_left(directory.path());
}

/// Who gets a signal.
enum Sent {
    /// The demonstration's process.
    ToIt,
    /// It and what it has started in its group, as from a terminal.
    ToAll,
}

#[test]
fn an_interrupted_demonstration_leaves_nothing() {
    let moments = [
        ("Two nodes", Signal::INT, Sent::ToAll),
        ("anna makes", Signal::INT, Sent::ToIt),
        ("both nodes", Signal::TERM, Sent::ToIt),
        ("shares the workspace", Signal::INT, Sent::ToAll),
        ("usable", Signal::HUP, Sent::ToIt),
        ("usable", Signal::INT, Sent::ToAll),
    ];
    for (moment, signal, sent) in moments {
        let directory = place();
        let mut child = start(directory.path());
        let mut out = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        while !line.contains(moment) {
            line.clear();
            assert_ne!(out.read_line(&mut line).unwrap(), 0, "{moment} is never reached");
        }
        let pid = Pid::from_child(&child);
        match sent {
            Sent::ToIt => kill_process(pid, signal).unwrap(),
            Sent::ToAll => kill_process_group(pid, signal).unwrap(),
        }
        let (mut rest, mut errors) = (String::new(), String::new());
        out.read_to_string(&mut rest).unwrap();
        child.stderr.take().unwrap().read_to_string(&mut errors).unwrap();
        assert_eq!(child.wait().unwrap().code(), Some(130), "{moment}: {rest}{errors}");
        assert_nothing_left(directory.path());
    }
}
