//! Everything here that reads bytes somebody else may have written, under one signature: what the fuzz targets and the smoke
//! test run.
//!
//! A decoder may refuse; it may not panic, allocate what it was merely promised, or accept what it would not write itself.
//! The last is checked here where there is an encoder: whatever is accepted must survive being encoded and read again.

use std::path::Path;

use twinshare_daemon::{
    api::wire::EditKind,
    config::Config,
    discovery, relocate,
    workspace::{Root, Roots, WorkspaceFile, requirements},
};
use twinshare_fs::{
    git,
    manifest::{
        Entry, Kind, Listing, Manifest, Receiver,
        delta::{self, DeltaReceiver},
        frame,
    },
    origin::Version,
};
use twinshare_transport::{Identity, protocol};

mod seeds;

pub use seeds::seeds;

/// A decoder: its name, which is also that of its fuzz target and its corpus, and what runs it. The run panics when the decoder
/// breaks a promise.
#[derive(Clone, Copy, Debug)]
pub struct Decoder {
    /// The name.
    pub name: &'static str,
    /// Reads any bytes.
    pub run: fn(&[u8]),
}

/// All of them.
pub const DECODERS: &[Decoder] = &[
    Decoder { name: "manifest_frame", run: manifest_frame },
    Decoder { name: "manifest_stream", run: manifest_stream },
    Decoder { name: "manifest_delta", run: manifest_delta },
    Decoder { name: "manifest_file", run: manifest_file },
    Decoder { name: "git_config", run: git_config },
    Decoder { name: "request", run: request },
    Decoder { name: "answer", run: answer },
    Decoder { name: "beacon", run: beacon },
    Decoder { name: "workspace_file", run: workspace_file },
    Decoder { name: "node_config", run: node_config },
    Decoder { name: "executable", run: executable },
    Decoder { name: "virtual_environment", run: virtual_environment },
    Decoder { name: "relocation", run: relocation },
];

/// Runs the decoder called `name`.
///
/// # Panics
/// When there is none, or when it breaks a promise.
pub fn run(name: &str, bytes: &[u8]) {
    let decoder = DECODERS.iter().find(|decoder| decoder.name == name);
    (decoder.expect("the fuzz target names a decoder that exists").run)(bytes);
}

/// Both as it arrives and as the inside of a valid zstd frame, which no mutation would find.
fn manifest_frame(bytes: &[u8]) {
    let _ = frame::decode(bytes);
    if let Ok(frame) = frame::decode(&compressed(bytes)) {
        let again = frame::encode(&frame).and_then(|encoded| frame::decode(&encoded));
        assert!(again.is_ok_and(|again| again == frame), "a frame changed by being written: {frame:?}");
    }
}

/// A whole stream: each frame is a length of two bytes and so many bytes, which are compressed before they are received.
fn manifest_stream(bytes: &[u8]) {
    let frames = cut(bytes);
    let Some((first, others)) = frames.split_first() else { return };
    in_scratch(|path| {
        let Ok(frame::Frame::Head(head)) = frame::decode(first) else { return };
        let Ok(mut receiver) = Receiver::new(path, head.snapshot, first) else { return };
        for frame in others {
            if receiver.accept(frame).is_err() {
                break;
            }
        }
        walk(&receiver.manifest());
    });
}

/// The frames of a stream, compressed.
fn cut(bytes: &[u8]) -> Vec<Vec<u8>> {
    let mut frames = Vec::new();
    let mut rest = bytes;
    while let Some((length, after)) = rest.split_first_chunk::<2>() {
        let (frame, after) = after.split_at(after.len().min(usize::from(u16::from_le_bytes(*length))));
        frames.push(compressed(frame));
        rest = after;
    }
    frames
}

/// A whole stream, cut in the same way, of what became of the sample's manifest.
fn manifest_delta(bytes: &[u8]) {
    let frames = cut(bytes);
    let Some((first, others)) = frames.split_first() else { return };
    let Ok(delta::DeltaFrame::Head(head)) = delta::decode(first) else { return };
    seeds::manifest(|base| {
        in_scratch(|path| {
            let Ok(mut receiver) = DeltaReceiver::new(path, base.clone(), head.head.snapshot, first) else {
                return;
            };
            if others.iter().any(|frame| receiver.accept(frame).unwrap_or(false)) {
                let (manifest, carried) = receiver.finish();
                walk(&manifest);
                for run in carried.runs() {
                    let is_same = |new: Option<Entry<'_>>, old: Option<Entry<'_>>| match (new, old) {
                        (Some(new), Some(old)) => new.name() == old.name() && new.size() == old.size(),
                        _ => false,
                    };
                    assert!(is_same(manifest.entry(run.new), base.entry(run.old)), "{run:?} is not the same");
                }
            }
        });
    });
}

fn manifest_file(bytes: &[u8]) {
    in_scratch(|path| {
        std::fs::write(path, bytes).expect("the scratch directory is writable");
        if let Ok(manifest) = Manifest::open(path) {
            walk(&manifest);
        }
    });
}

/// Asks a manifest everything that a mount asks it.
fn walk(manifest: &Manifest) {
    for entry in manifest.iter() {
        let _ = (
            entry.mode(),
            entry.size(),
            entry.mtime(),
            entry.blocks(),
            entry.extra(),
            manifest.locate(entry.index()),
        );
        if entry.kind() == Kind::Directory
            && let Listing::Known(children) = manifest.children(entry.index())
        {
            assert!(children.end <= manifest.entries(), "a directory has children beyond the manifest's end");
            let _ = manifest.lookup(entry.index(), b"name");
        }
    }
    let _ = (manifest.left_out(), manifest.meta(), manifest.file_bytes());
}

/// The keys git would run programs for, or send a user's password by.
const NEVER_SHOWN: [&str; 12] = [
    "fsmonitor",
    "sshcommand",
    "hookspath",
    "pager",
    "editor",
    "askpass",
    "helper",
    "textconv",
    "clean",
    "smudge",
    "process",
    "proxycommand",
];

fn git_config(bytes: &[u8]) {
    let shown = git::shown_config(bytes);
    let keys = shown
        .split(|byte| *byte == b'\n')
        .map(|line| line.split(|byte| *byte == b'=').next().unwrap_or_default());
    for key in keys {
        let key = String::from_utf8_lossy(key).trim().to_lowercase();
        assert!(!NEVER_SHOWN.contains(&key.as_str()), "{key} is shown");
    }
}

fn request(bytes: &[u8]) {
    if let Ok(request) = protocol::decode_request(bytes) {
        let again = request.encode().and_then(|encoded| protocol::decode_request(&encoded));
        assert!(again.is_ok_and(|again| again == request), "a request changed by being written: {request:?}");
    }
}

fn answer(bytes: &[u8]) {
    if let Ok(version) = Version::decode(bytes) {
        let again = version.encode().and_then(|encoded| Version::decode(&encoded));
        assert_eq!(again.ok(), Some(version), "a version is not read back");
    }
    if let Ok(answer) = protocol::decode_answer(bytes) {
        let again = answer.encode().and_then(|encoded| protocol::decode_answer(&encoded));
        assert!(again.is_ok_and(|again| again == answer), "an answer changed by being written: {answer:?}");
    }
}

/// What every signed part of a beacon begins from (the discovery module's documentation has the format).
const BEACON_CONTEXT: &str = "twinshare beacon 1";

/// Both as it arrives and as the JSON inside of a beacon with a valid signature, which anybody can make.
fn beacon(bytes: &[u8]) {
    let _ = discovery::sender(bytes);
    let identity = Identity::generate().expect("the system has random bytes");
    let packed = compressed(bytes);
    let signature = identity.sign(BEACON_CONTEXT, &packed);
    let signed = [b"TWB\x01".as_slice(), &identity.public_key().0, &signature, &packed].concat();
    if let Some(sender) = discovery::sender(&signed) {
        assert!(sender == identity.peer_id(), "a beacon is taken for somebody else's");
    }
}

fn workspace_file(bytes: &[u8]) {
    if let Ok(text) = str::from_utf8(bytes) {
        let _ = WorkspaceFile::parse(text, Path::new("/workspace/twinshare.yaml"));
    }
}

fn node_config(bytes: &[u8]) {
    if let Ok(text) = str::from_utf8(bytes) {
        let _ = Config::parse(text, Path::new("/home/config.yaml"));
    }
}

fn compressed(bytes: &[u8]) -> Vec<u8> {
    zstd::bulk::compress(bytes, 1).expect("compressing into memory cannot fail")
}

/// What a receiver reads of an environment's interpreter before it runs anything: the dynamic loader it names.
fn executable(bytes: &[u8]) {
    in_environment(|venv| std::fs::write(venv.join("bin/python"), bytes));
}

/// What a receiver reads of an environment's own descriptions: `pyvenv.cfg`, and paths added to the import path.
fn virtual_environment(bytes: &[u8]) {
    in_environment(|venv| {
        std::fs::write(venv.join("pyvenv.cfg"), bytes)?;
        std::fs::write(venv.join("lib/python3/site-packages/x.pth"), bytes)
    });
}

/// Every kind of file whose paths are replaced in a settled clone.
fn relocation(bytes: &[u8]) {
    let root = |origin: &str, here: &str| Root { origin: origin.into(), here: here.into() };
    let roots = [root("/home/ada/demo", "/home/ben/a clone"), root("/opt/python", "/home/ben/kept/1")];
    for kind in [
        EditKind::Configuration,
        EditKind::Activation,
        EditKind::Script,
        EditKind::Paths,
        EditKind::Finder,
        EditKind::DirectUrl,
        EditKind::Kernel,
        EditKind::CondaText,
        EditKind::CondaBinary,
        EditKind::CondaDigests,
        EditKind::Record,
        EditKind::Link,
    ] {
        let Ok(Some(rewritten)) = relocate::rewritten(kind, bytes, &roots) else { continue };
        let named = b"/home/ben/kept/1";
        let holds = |text: &[u8]| text.windows(named.len()).any(|window| window == named);
        let is_spaced =
            rewritten.windows(12).any(|window| window == b"/home/ben/a " || window == b"/home/ben/a%");
        assert!(is_spaced || holds(&rewritten), "{kind:?} lost a path");
        let is_binary = kind == EditKind::CondaBinary;
        assert!(!is_binary || rewritten.len() == bytes.len(), "a binary has another size");
    }
}

fn in_environment(write: impl FnOnce(&Path) -> std::io::Result<()>) {
    let scratch = tempfile::tempdir().expect("the temporary directory is writable");
    let venv = scratch.path().join(".venv");
    for directory in ["bin", "lib/python3/site-packages"] {
        std::fs::create_dir_all(venv.join(directory)).expect("the temporary directory is writable");
    }
    std::fs::write(venv.join("pyvenv.cfg"), "").expect("the temporary directory is writable");
    write(&venv).expect("the temporary directory is writable");
    let roots = Roots::new([Root { origin: "/w".into(), here: scratch.path().into() }]);
    for needed in requirements(&roots) {
        assert!(needed.path.is_absolute() && !needed.path.starts_with("/w"), "{needed:?}");
    }
}

fn in_scratch(act: impl FnOnce(&Path)) {
    let scratch = tempfile::tempdir().expect("the temporary directory is writable");
    act(&scratch.path().join("manifest"));
}
