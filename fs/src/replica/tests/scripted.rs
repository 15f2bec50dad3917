//! An origin in memory that does what a test tells it: serve, stall, break off, lie.

use std::collections::{HashMap, VecDeque};
use std::ops::Range;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{mpsc, watch};

use crate::digest::{BLOCK_BYTES, BlockIndex, Digest, block_count};
use crate::manifest::{
    Builder, EntryIndex, Extra, Flags, Kind, LeftOutList, Manifest, Meta, Mtime, NewEntry, SnapshotId,
};
use crate::origin::{
    Anew, Anews, Availability, BlockRange, Class, DELIVERIES_AHEAD, Deliveries, Delivery, FileFault,
    FileVersion, Frames, Origin, OriginError, RUN_BLOCKS, Run, TakeAnew, Version,
};

/// A file of a test's workspace.
#[derive(Clone, Debug)]
pub(in crate::replica) struct TestFile {
    pub(in crate::replica) path: &'static str,
    pub(in crate::replica) content: Bytes,
    pub(in crate::replica) holes: Vec<Range<u64>>,
}

/// `bytes` bytes that differ from page to page and from file to file.
pub(in crate::replica) fn file(path: &'static str, bytes: u64) -> TestFile {
    let seed = path.bytes().fold(7u64, |seed, byte| seed.wrapping_mul(31).wrapping_add(byte.into()));
    let mut page: Vec<u8> = (0..=255u8).cycle().take(4096).collect();
    let mut content = Vec::with_capacity(bytes as usize);
    for number in 0..bytes.div_ceil(4096) {
        page[..8].copy_from_slice(&(seed ^ number.wrapping_mul(0x9e37_79b9_7f4a_7c15)).to_le_bytes());
        let rest = (bytes as usize - content.len()).min(4096);
        content.extend_from_slice(&page[..rest]);
    }
    TestFile { path, content: content.into(), holes: vec![] }
}

/// A snapshot of some files, and its content.
#[derive(Debug)]
pub(in crate::replica) struct TestTree {
    _directory: tempfile::TempDir,
    pub(in crate::replica) manifest: Manifest,
    contents: HashMap<EntryIndex, Bytes>,
    indices: HashMap<&'static str, EntryIndex>,
}

impl TestTree {
    /// Files by path; those with the same first path component lie in one directory, at most one deep. A path that
    /// ends in `=OTHER` is a further name of the file OTHER, which must come earlier in manifest order.
    pub(in crate::replica) fn new(files: &[TestFile]) -> Arc<Self> {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("manifest");
        let meta = Meta { roots: vec![b"/w".to_vec(), b"/companion".to_vec()] };
        let root = || entry("root", Kind::Directory, 0, vec![], None);
        let mut builder = Builder::new(&path, &meta, vec![root(), root()]).unwrap();
        let mut prefixes =
            HashMap::from([(EntryIndex(0), String::new()), (EntryIndex(1), "@1/".to_string())]);
        let mut indices: HashMap<&'static str, EntryIndex> = HashMap::new();
        let mut links: Vec<(EntryIndex, EntryIndex)> = vec![];
        while let Some(at) = builder.next_directory().unwrap() {
            let prefix = prefixes[&at].clone();
            let mut entries: HashMap<String, (NewEntry, Option<&'static str>)> = HashMap::new();
            for file in files {
                let Some(rest) = file.path.strip_prefix(prefix.as_str()) else { continue };
                let (name, target) = rest.split_once('=').map_or((rest, None), |(n, t)| (n, Some(t)));
                match name.split_once('/') {
                    Some(("@1", _)) => {}
                    Some((directory, _)) => {
                        entries.insert(
                            directory.into(),
                            (entry(directory, Kind::Directory, 0, vec![], None), None),
                        );
                    }
                    None => {
                        let link = target.map(|target| indices[target]);
                        let new =
                            entry(name, Kind::File, file.content.len() as u64, file.holes.clone(), link);
                        entries.insert(name.into(), (new, Some(file.path)));
                    }
                }
            }
            let mut sorted: Vec<_> = entries.into_iter().collect();
            sorted.sort_by(|a, b| a.0.cmp(&b.0));
            let range = builder.list(sorted.iter().map(|(_, (entry, _))| entry.clone()).collect()).unwrap();
            for (index, (name, (new, path))) in range.zip(sorted) {
                match path {
                    Some(path) => indices.insert(path, EntryIndex(index)),
                    None => {
                        prefixes.insert(EntryIndex(index), format!("{prefix}{name}/"));
                        None
                    }
                };
                links.extend(new.link.map(|link| (link, EntryIndex(index))));
            }
        }
        for (link, index) in links {
            builder.set_nlink(link, 2).unwrap();
            builder.set_nlink(index, 2).unwrap();
        }
        let manifest = builder.finish(&LeftOutList::default(), Digest([0; 32])).unwrap();
        let contents = files.iter().map(|file| (indices[file.path], file.content.clone())).collect();
        Arc::new(Self { _directory: directory, manifest, contents, indices })
    }

    pub(in crate::replica) fn index(&self, path: &str) -> EntryIndex {
        self.indices[path]
    }

    pub(in crate::replica) fn content(&self, file: EntryIndex) -> &Bytes {
        &self.contents[&file]
    }

    fn run(&self, file: EntryIndex, blocks: Range<u64>) -> Run {
        let content = &self.contents[&file];
        let size = content.len() as u64;
        let start = BlockIndex(blocks.start).offset() as usize;
        let end = (blocks.end * BLOCK_BYTES).min(size) as usize;
        Run::hashed(file, BlockIndex(blocks.start), size, content.slice(start..end))
    }
}

fn entry(name: &str, kind: Kind, size: u64, holes: Vec<Range<u64>>, link: Option<EntryIndex>) -> NewEntry {
    NewEntry {
        name: name.as_bytes().try_into().unwrap(),
        kind,
        mode: if kind == Kind::Directory { 0o755 } else { 0o640 },
        size,
        mtime: Mtime { sec: -5, nsec: 7 },
        link,
        flags: Flags::default(),
        extra: Extra { holes, ..Extra::default() },
    }
}

/// What happens to one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::replica) enum Act {
    /// It is answered, each delivery after so long.
    Serve(Duration),
    /// It fails at once.
    Gone,
    Busy,
    Refused,
    SnapshotGone,
    Invalid,
    /// The channel closes without an error after so many deliveries.
    BreakOff(usize),
    /// Nothing more comes after so many deliveries, and the channel stays open.
    Stall(usize),
    /// The first file has this fault.
    Changed,
    Unreadable,
    /// A byte of the first run is another one.
    Corrupt,
    /// A run is as it should be, but its file has changed: other bytes with their own digests.
    OtherVersion,
    /// Each run comes twice.
    Twice,
    /// The runs of a range come in the wrong order.
    Backwards,
    /// A run of a file, or a block, that was not asked for comes first.
    Foreign,
    /// Files end before their runs have come.
    EndsEarly,
}

/// One request as it was seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::replica) struct Seen {
    pub(in crate::replica) class: Class,
    pub(in crate::replica) whole_files: bool,
    pub(in crate::replica) ranges: Vec<BlockRange>,
}

/// What a file has become.
#[derive(Clone, Debug)]
pub(in crate::replica) enum Now {
    /// A file with this content, a mode and the paths that are its names.
    File { content: Bytes, mode: u16, names: Vec<&'static str> },
    /// Something without content.
    Version(Version),
    /// It is being changed: half of it comes, and then a fault.
    Changing(Bytes),
    /// It cannot be read.
    Unreadable,
    /// Half of it comes, and nothing more.
    Halting(Bytes),
    /// A block that nobody holds is called unchanged.
    Liar(Bytes),
    /// It knows nothing of such requests.
    Unknown,
}

/// The origin.
#[derive(Debug)]
pub(in crate::replica) struct ScriptedOrigin {
    /// Files that are no longer what the snapshot names.
    changed: Mutex<HashMap<EntryIndex, Now>>,
    /// While it is closed, what has become of files is said up to their content, and no further.
    gate: watch::Sender<bool>,
    /// Blocks that were sent of files taken anew, and those that were called unchanged.
    sent: Mutex<(u64, u64)>,
    tree: Arc<TestTree>,
    acts: Mutex<VecDeque<Act>>,
    otherwise: Mutex<Act>,
    seen: Mutex<Vec<Seen>>,
    availability: watch::Sender<Availability>,
}

impl ScriptedOrigin {
    pub(in crate::replica) fn new(tree: &Arc<TestTree>) -> Arc<Self> {
        Arc::new(Self {
            changed: Mutex::default(),
            gate: watch::Sender::new(true),
            sent: Mutex::default(),
            tree: tree.clone(),
            acts: Mutex::default(),
            otherwise: Mutex::new(Act::Serve(Duration::ZERO)),
            seen: Mutex::default(),
            availability: watch::Sender::new(Availability::Reachable),
        })
    }

    /// The next requests meet these acts, those after them the last one given to [`otherwise`](Self::otherwise).
    pub(in crate::replica) fn script(&self, acts: impl IntoIterator<Item = Act>) {
        self.acts.lock().unwrap().extend(acts);
    }

    pub(in crate::replica) fn otherwise(&self, act: Act) {
        *self.otherwise.lock().unwrap() = act;
    }

    /// The file is no longer what the snapshot names.
    pub(in crate::replica) fn changes(&self, path: &str, now: Now) {
        self.changed.lock().unwrap().insert(self.tree.index(path), now);
    }

    /// Opens and closes the gate before the content of files that are taken anew.
    pub(in crate::replica) fn set_gate(&self, is_open: bool) {
        self.gate.send_replace(is_open);
    }

    /// Requests that wait at the gate.
    pub(in crate::replica) fn at_gate(&self) -> usize {
        self.gate.receiver_count()
    }

    /// Blocks that were sent of files taken anew, and those that were called unchanged.
    pub(in crate::replica) fn sent(&self) -> (u64, u64) {
        *self.sent.lock().unwrap()
    }

    /// What is said of a file that was changed: the names of the old version have its digests.
    fn anew(&self, wanted: &TakeAnew, now: &Now) -> Vec<Anew> {
        let file = |content: &Bytes, mode: u16, names: Vec<EntryIndex>| {
            Anew::Is(Version::File(FileVersion {
                size: content.len() as u64,
                mtime: Mtime { sec: 1_700_000_000, nsec: 5 },
                mode,
                xattrs: vec![(b"user.new".to_vec(), b"1".to_vec())],
                holes: vec![],
                names,
            }))
        };
        let only = vec![wanted.entry];
        match now {
            Now::File { content, mode, names } => {
                let mut names: Vec<_> = names.iter().map(|path| self.tree.index(path)).collect();
                names.sort();
                let mut items = vec![file(content, *mode, names), Anew::Reading(0)];
                items.extend(self.content_of(wanted, content));
                items.push(Anew::End);
                items
            }
            Now::Version(version) => vec![Anew::Is(version.clone())],
            Now::Changing(content) | Now::Halting(content) => {
                let mut items = vec![file(content, 0o600, only)];
                let content = self.content_of(wanted, content);
                let half = content.len() / 2;
                items.extend(content.into_iter().take(half));
                if matches!(now, Now::Changing(_)) {
                    items.push(Anew::Fault(FileFault::Changed));
                }
                items
            }
            Now::Unreadable => vec![Anew::Fault(FileFault::Unreadable("scripted".into()))],
            Now::Liar(content) => {
                let digests = vec![Digest([7; 32])];
                vec![file(content, 0o600, only), Anew::Kept { first: BlockIndex(0), digests }]
            }
            Now::Unknown => vec![],
        }
    }

    fn content_of(&self, wanted: &TakeAnew, content: &Bytes) -> Vec<Anew> {
        let old = self.tree.content(wanted.entry);
        let size = content.len() as u64;
        let block = |content: &Bytes, index: u64| {
            let range = BlockIndex(index).bytes_in(content.len() as u64);
            content.slice(range.start as usize..range.end as usize)
        };
        let held = |index: u64| wanted.held.iter().any(|(first, n)| (first.0..first.0 + n).contains(&index));
        let one = |index: u64| {
            let bytes = block(content, index);
            let digest = Digest::of_block(BlockIndex(index), size, &bytes);
            let mut sent = self.sent.lock().unwrap();
            if held(index) && index * BLOCK_BYTES < old.len() as u64 && block(old, index) == bytes {
                sent.1 += 1;
                return Anew::Kept { first: BlockIndex(index), digests: vec![digest] };
            }
            sent.0 += 1;
            Anew::Run(Run { file: wanted.entry, first: BlockIndex(index), digests: vec![digest], bytes })
        };
        (0..block_count(size)).map(one).collect()
    }

    /// Forgets what of the script has not been played.
    pub(in crate::replica) fn forgive(&self) {
        self.acts.lock().unwrap().clear();
        self.otherwise(Act::Serve(Duration::ZERO));
    }

    pub(in crate::replica) fn goes(&self, why: &str) {
        let since = tokio::time::Instant::now();
        self.availability.send_replace(Availability::Gone { since, why: why.into() });
    }

    pub(in crate::replica) fn returns(&self) {
        self.availability.send_replace(Availability::Reachable);
    }

    /// How many requests [`seen`](Self::seen) would return.
    pub(in crate::replica) fn seen_so_far(&self) -> usize {
        self.seen.lock().unwrap().len()
    }

    /// The requests since this was last called.
    pub(in crate::replica) fn seen(&self) -> Vec<Seen> {
        std::mem::take(&mut self.seen.lock().unwrap())
    }

    fn answer(&self, class: Class, whole_files: bool, ranges: Vec<BlockRange>) -> Deliveries {
        self.seen.lock().unwrap().push(Seen { class, whole_files, ranges: ranges.clone() });
        let act = self.acts.lock().unwrap().pop_front().unwrap_or(*self.otherwise.lock().unwrap());
        let (sender, deliveries) = mpsc::channel(DELIVERIES_AHEAD);
        let items = self.items(act, &ranges);
        tokio::spawn(async move {
            let (pause, stop, stall) = match act {
                Act::Serve(pause) => (pause, usize::MAX, false),
                Act::BreakOff(after) => (Duration::ZERO, after, false),
                Act::Stall(after) => (Duration::ZERO, after, true),
                _ => (Duration::ZERO, usize::MAX, false),
            };
            for item in items.into_iter().take(stop) {
                if !pause.is_zero() {
                    tokio::time::sleep(pause).await;
                }
                if sender.send(item).await.is_err() {
                    return;
                }
            }
            if stall {
                sender.closed().await;
            }
        });
        deliveries
    }

    fn items(&self, act: Act, ranges: &[BlockRange]) -> Vec<Result<Delivery, OriginError>> {
        match act {
            Act::Gone => return vec![Err(OriginError::Gone("scripted".into()))],
            Act::Busy => return vec![Err(OriginError::Busy("scripted".into()))],
            Act::Refused => return vec![Err(OriginError::Refused("scripted".into()))],
            Act::SnapshotGone => return vec![Err(OriginError::SnapshotGone)],
            Act::Invalid => return vec![Err(OriginError::Invalid("scripted".into()))],
            _ => {}
        }
        let mut items = Vec::new();
        if act == Act::Foreign {
            items.push(Ok(Delivery::Run(self.foreign(ranges))));
        }
        for (at, range) in ranges.iter().enumerate() {
            let is_changed = self.changed.lock().unwrap().contains_key(&range.file);
            let fault = match act {
                _ if is_changed => Some(FileFault::Changed),
                Act::Changed if at == 0 => Some(FileFault::Changed),
                Act::Unreadable if at == 0 => Some(FileFault::Unreadable("scripted\n".repeat(1000))),
                _ => None,
            };
            if let Some(fault) = fault {
                items.push(Ok(Delivery::Fault(range.file, fault)));
                continue;
            }
            if act == Act::EndsEarly {
                items.push(Ok(Delivery::End(range.file)));
                continue;
            }
            let mut runs = self.runs(range);
            match act {
                Act::Backwards => runs.reverse(),
                Act::Twice => runs = runs.into_iter().flat_map(|run| [run.clone(), run]).collect(),
                Act::Corrupt if at == 0 => corrupt(&mut runs[0], false),
                Act::OtherVersion if at == 0 => corrupt(&mut runs[0], true),
                _ => {}
            }
            items.extend(runs.into_iter().map(|run| Ok(Delivery::Run(run))));
            items.push(Ok(Delivery::End(range.file)));
        }
        items
    }

    fn runs(&self, range: &BlockRange) -> Vec<Run> {
        let blocks = block_count(self.tree.content(range.file).len() as u64);
        let end = (range.first.0 + range.count).min(blocks);
        let starts = (range.first.0..end).step_by(RUN_BLOCKS);
        starts.map(|at| self.tree.run(range.file, at..(at + RUN_BLOCKS as u64).min(end))).collect()
    }

    /// A good run that nobody asked for: of another file, or of another part of the same one.
    fn foreign(&self, ranges: &[BlockRange]) -> Run {
        let asked = |file: EntryIndex, block: u64| {
            ranges.iter().any(|r| r.file == file && (r.first.0..r.first.0 + r.count).contains(&block))
        };
        let mut files: Vec<_> = self.tree.contents.keys().copied().collect();
        files.sort();
        for file in files {
            let blocks = block_count(self.tree.content(file).len() as u64);
            if let Some(block) = (0..blocks).find(|block| !asked(file, *block)) {
                return self.tree.run(file, block..block + 1);
            }
        }
        Run { file: EntryIndex(0), first: BlockIndex(0), digests: vec![], bytes: Bytes::new() }
    }
}

/// Changes a byte; with `signed` the digests are those of the changed bytes.
fn corrupt(run: &mut Run, signed: bool) {
    let mut bytes = run.bytes.to_vec();
    bytes[0] ^= 1;
    run.bytes = bytes.into();
    if signed {
        let size = run.first.offset() + run.bytes.len() as u64;
        // Only a file that ends with this run gets its true digests, which is all that the tests use it for.
        run.digests = run.blocks().map(|(at, bytes)| Digest::of_block(at, size, &bytes)).collect();
    }
}

impl Origin for ScriptedOrigin {
    fn snapshot(&self) -> SnapshotId {
        self.tree.manifest.snapshot()
    }

    fn read_manifest(&self) -> Frames {
        mpsc::channel(1).1
    }

    fn read_files(&self, files: Vec<EntryIndex>, class: Class) -> Deliveries {
        let whole = |file: EntryIndex| BlockRange {
            file,
            first: BlockIndex(0),
            count: block_count(self.tree.content(file).len() as u64),
        };
        self.answer(class, true, files.into_iter().map(whole).collect())
    }

    fn read_ranges(&self, ranges: Vec<BlockRange>, class: Class) -> Deliveries {
        self.answer(class, false, ranges)
    }

    fn take_anew(&self, wanted: TakeAnew, _: Class) -> Anews {
        let (sender, anews) = mpsc::channel(DELIVERIES_AHEAD);
        let now = self.changed.lock().unwrap().get(&wanted.entry).cloned();
        let now = now.unwrap_or(Now::Version(Version::Absent));
        let (items, mut gate) = (self.anew(&wanted, &now), self.gate.subscribe());
        tokio::spawn(async move {
            if matches!(now, Now::Unknown) {
                let _ = sender.send(Err(OriginError::Invalid("scripted".into()))).await;
                return;
            }
            for (at, item) in items.into_iter().enumerate() {
                if at == 1 && gate.wait_for(|is_open| *is_open).await.is_err() {
                    return;
                }
                if sender.send(Ok(item)).await.is_err() {
                    return;
                }
            }
        });
        anews
    }

    fn availability(&self) -> watch::Receiver<Availability> {
        self.availability.subscribe()
    }
}
