//! Honest input for every decoder: where mutation starts, and what each has to accept.

use std::path::PathBuf;

use twinshare_fs::{
    digest::{BlockIndex, Digest},
    manifest::{
        Builder, Carried, CarriedRun, EntryIndex, Extra, Flags, Kind, LeftOut, LeftOutList, LeftOutReason,
        Manifest, Meta, Mtime, NewEntry, SnapshotId, delta::DeltaFrames, frame::Frames,
    },
    name::EntryName,
    origin::{BlockRange, Class, FileFault, TakeAnew},
};
use twinshare_transport::protocol::{
    Answer, Encoding, Hello, Offer, OpenSnapshot, ReadFiles, ReadManifestSince, ReadRanges, Refusal, Request,
    RunHeader, SnapshotInfo, TakeAnewOf, Text, TreeSize, Watch,
};

/// Honest inputs of the decoder called `name`.
///
/// # Panics
/// When there is no such decoder, or an encoder refuses its own values.
pub fn seeds(name: &str) -> Vec<Vec<u8>> {
    match name {
        "manifest_frame" => raw_frames(),
        "manifest_stream" => vec![stream()],
        "manifest_delta" => deltas(),
        "manifest_file" => {
            vec![manifest(|manifest| std::fs::read(manifest.path()).expect("it was just written"))]
        }
        "git_config" => {
            texts(&[GIT_CONFIG, "[core]\n\tbare = true\n", "[remote \"o\\\"x\"]\nurl = a;b # c\n"])
        }
        "request" => {
            requests().iter().map(|request| request.encode().expect("it is within limits")).collect()
        }
        "answer" => answers().iter().map(|answer| answer.encode().expect("it is within limits")).collect(),
        "beacon" => texts(&[BEACON]),
        "workspace_file" => texts(&[WORKSPACE_FILE, "schema: 1\nname: a\n"]),
        "node_config" => texts(&[NODE_CONFIG, "{}\n"]),
        "executable" => vec![executable(), b"#!/usr/bin/env python3\n".to_vec()],
        "virtual_environment" => texts(&[VIRTUAL_ENVIRONMENT, "home=relative\n/opt/src\nimport os\n"]),
        "relocation" => texts(&RELOCATION),
        _ => unreachable!("no decoder is called {name}"),
    }
}

fn texts(texts: &[&str]) -> Vec<Vec<u8>> {
    texts.iter().map(|text| text.as_bytes().to_vec()).collect()
}

const GIT_CONFIG: &str = "[core]\n\trepositoryformatversion = 0\n\tfilemode = true\n\tfsmonitor = ./evil\n\tsshCommand = \"sh -c \\\"x\\\"\"\n\
[remote \"origin\"]\n\turl = https://user:password@example.org/a.git\n\tfetch = +refs/heads/*:refs/remotes/origin/*\n\
[branch \"main\"]\n\tremote = origin\n\tmerge = refs/heads/main\n[alias]\n\tx = !touch /tmp/owned\n[include]\n\tpath = /etc/passwd\n\
[filter \"lfs\"]\n\tclean = git-lfs clean -- %f\n";

const BEACON: &str = r#"{"kind":"announce","sent_ms":1700000000000,"name":"ada","port":37778,"workspaces":["gpt4-demo","b"],"workspaces_total":2,"catalogue":7}"#;

const WORKSPACE_FILE: &str = "schema: 1\nname: gpt4-demo\ndescription: \"a: b\"\ncompanions:\n  - /opt/python\n\
environments:\n  - name: main\n    runtime: process\n    command: [python, main.py]\n    env:\n      A: \"1\"\nshare:\n  open: true\n";

const VIRTUAL_ENVIRONMENT: &str =
    "home = /opt/python/bin\nversion_info = 3.11.2\nexecutable = /opt/python/bin/python3.11\n";

const RELOCATION: [&str; 6] = [
    "home = /opt/python/bin\ncommand = /opt/python/bin/python3 -m venv /home/ada/demo/v\n",
    "VIRTUAL_ENV=\"/home/ada/demo/v\"\nexport VIRTUAL_ENV\nif [ ! -d /home/ada/demo/v ]; then :; fi\n",
    "#!/bin/sh\n'''exec' /home/ada/demo/v/bin/python \"$0\" \"$@\"\n' '''\nimport sys\n",
    "#!/opt/python/bin/python3 -I\nimport sys\n",
    "{\"dir_info\": {\"editable\": true}, \"url\": \"file:///home/ada/demo/a%20b\"}",
    "\u{7f}ELF\0-I/opt/python/include:/opt/python/lib\0\0\0\0\0\0\0\0x\0",
];

/// The least executable that names its loader: a header, one program header after it, and the name.
fn executable() -> Vec<u8> {
    const LOADER: &[u8] = b"/lib64/ld-linux-x86-64.so.2\0";
    let mut bytes = vec![0; 64 + 56];
    bytes[..6].copy_from_slice(b"\x7fELF\x02\x01");
    bytes[32..40].copy_from_slice(&64u64.to_le_bytes());
    bytes[54..58].copy_from_slice(&[56, 0, 1, 0]);
    bytes[64] = 3;
    bytes[64 + 8..64 + 16].copy_from_slice(&120u64.to_le_bytes());
    bytes[64 + 32..64 + 40].copy_from_slice(&(LOADER.len() as u64).to_le_bytes());
    bytes.extend_from_slice(LOADER);
    bytes
}

const NODE_CONFIG: &str = "name: ada\nlisten:\n  address: 127.0.0.1\n  port: 0\ndiscovery:\n  enabled: true\n  port: 37777\n\
  interfaces: [lo]\nwhen_gone: wait=10s\nlog: debug\n";

/// Frames before compression.
fn raw_frames() -> Vec<Vec<u8>> {
    manifest(|manifest| {
        Frames::new(manifest)
            .map(|frame| postcard::to_stdvec(&frame).expect("a frame is plain data"))
            .collect()
    })
}

fn stream() -> Vec<u8> {
    joined(&raw_frames())
}

/// The sample made of itself: all of it copied, and nothing.
fn deltas() -> Vec<Vec<u8>> {
    manifest(|manifest| {
        let roots = manifest.roots().count() as u32;
        let all =
            CarriedRun { new: EntryIndex(roots), old: EntryIndex(roots), len: manifest.entries() - roots };
        [vec![all], vec![]]
            .map(|runs| {
                let carried = Carried::new(runs, manifest.entries(), manifest.entries());
                let carried = carried.expect("the run is within the manifest");
                let frames = DeltaFrames::new(manifest.snapshot(), manifest, carried);
                let raw = frames.map(|frame| postcard::to_stdvec(&frame).expect("a frame is plain data"));
                joined(&raw.collect::<Vec<_>>())
            })
            .into()
    })
}

fn joined(frames: &[Vec<u8>]) -> Vec<u8> {
    let mut stream = Vec::new();
    for frame in frames {
        let length = u16::try_from(frame.len()).expect("the sample is small");
        stream.extend_from_slice(&length.to_le_bytes());
        stream.extend_from_slice(frame);
    }
    stream
}

/// A manifest with one of everything.
pub(super) fn manifest<T>(with: impl FnOnce(&Manifest) -> T) -> T {
    let scratch = tempfile::tempdir().expect("the temporary directory is writable");
    let path: PathBuf = scratch.path().join("manifest");
    let roots = vec![entry("root", Kind::Directory, 0), entry("companion", Kind::Directory, 0)];
    let meta = Meta { roots: vec![b"/home/ada/work".to_vec(), b"/opt/python".to_vec()] };
    let mut builder = Builder::new(&path, &meta, roots).expect("the roots are valid");
    builder.next_directory().expect("the first root is there");
    let mut link = entry("link", Kind::Symlink, 0);
    link.extra = Extra { target: b"../else\xff".to_vec(), ..Extra::default() };
    let mut sparse = entry("sparse", Kind::File, 1 << 20);
    sparse.extra = Extra {
        xattrs: vec![(b"user.a".to_vec(), b"\0\xff".to_vec())],
        holes: vec![0..65_536, 131_072..1 << 20],
        ..Extra::default()
    };
    let listing = vec![entry("dir", Kind::Directory, 0), entry("file", Kind::File, 100_000), link, sparse];
    builder.list(listing).expect("the listing is valid");
    while let Some(directory) = builder.next_directory().expect("the sample is valid") {
        let children = if directory.0 == 1 { vec![entry("python", Kind::File, 7)] } else { Vec::new() };
        builder.list(children).expect("the listing is valid");
    }
    let mut left_out = LeftOutList::default();
    left_out.push(LeftOut { root: 0, path: b"socket".to_vec(), reason: LeftOutReason::SpecialFile });
    left_out.push(LeftOut {
        root: 1,
        path: b"x".to_vec(),
        reason: LeftOutReason::LeavesTheTree(b"/etc".to_vec()),
    });
    with(&builder.finish(&left_out, Digest([7; 32])).expect("the sample is valid"))
}

fn entry(name: &str, kind: Kind, size: u64) -> NewEntry {
    NewEntry {
        name: EntryName::try_from(name.as_bytes()).expect("the sample's names are valid"),
        kind,
        mode: 0o755,
        size,
        mtime: Mtime { sec: -1, nsec: 999_999_999 },
        link: None,
        flags: Flags::default(),
        extra: Extra::default(),
    }
}

fn snapshot() -> SnapshotId {
    SnapshotId(Digest([7; 32]))
}

fn requests() -> Vec<Request> {
    let range = BlockRange { file: EntryIndex(3), first: BlockIndex(5), count: 16 };
    vec![
        Request::Hello(Hello::new("ada")),
        Request::Catalogue,
        Request::OpenSnapshot(OpenSnapshot { workspace: "gpt4-demo".into(), at: None }),
        Request::OpenSnapshot(OpenSnapshot { workspace: "gpt4-demo".into(), at: Some(snapshot()) }),
        Request::ReadManifest(snapshot()),
        Request::ReadFiles(ReadFiles {
            snapshot: snapshot(),
            files: vec![EntryIndex(2), EntryIndex(300)],
            class: Class::Bulk,
            compress: true,
        }),
        Request::ReadRanges(ReadRanges {
            snapshot: snapshot(),
            ranges: vec![range; 3],
            class: Class::Demand,
            compress: false,
        }),
        Request::Watch(Watch { workspace: "gpt4-demo".into(), base: snapshot() }),
        Request::ReadManifestSince(ReadManifestSince {
            snapshot: snapshot(),
            base: SnapshotId(Digest([8; 32])),
        }),
        Request::TakeAnew(TakeAnewOf {
            snapshot: snapshot(),
            wanted: TakeAnew { entry: EntryIndex(7), held: vec![(BlockIndex(3), 4); 2] },
            class: Class::Bulk,
            compress: true,
        }),
    ]
}

fn answers() -> Vec<Answer> {
    let size = TreeSize { entries: 40_000, file_bytes: 1 << 33 };
    vec![
        Answer::Done,
        Answer::Refused(Refusal::NotGranted),
        Answer::Refused(Refusal::Internal(Text::new("the disk failed"))),
        Answer::Hello(Hello::new("ben")),
        Answer::Offer(Offer {
            workspace: Text::new("gpt4-demo"),
            summary: Text::new("a model"),
            readable: true,
            size: Some(size),
        }),
        Answer::Snapshot(SnapshotInfo { id: snapshot(), size }),
        Answer::ManifestFrame(70_000),
        Answer::Run(RunHeader {
            file: EntryIndex(3),
            first: BlockIndex(5),
            digests: vec![Digest([1; 32]), Digest([2; 32])],
            payload_bytes: 100_000,
            encoding: Encoding::Zstd,
        }),
        Answer::End(EntryIndex(3)),
        Answer::Fault(EntryIndex(4), FileFault::Unreadable("denied".into())),
        Answer::Version(300),
        Answer::Kept(BlockIndex(9), vec![Digest([3; 32]); 2]),
        Answer::Reading(1000),
        Answer::DeltaFrame(200),
    ]
}
