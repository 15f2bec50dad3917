//! The bytes of every message, and what happens to bytes that are none.

use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use twinshare_fs::digest::{BlockIndex, Digest};
use twinshare_fs::manifest::{EntryIndex, Mtime, SnapshotId};
use twinshare_fs::origin::{
    BlockRange, Class, FILES_PER_REQUEST_MAX, FileFault, FileVersion, KEPT_BLOCKS_MAX, RANGE_BLOCKS_MAX,
    RANGES_PER_REQUEST_MAX, RUN_BLOCKS_MAX, TakeAnew, Version,
};

use super::*;

const ID: SnapshotId = SnapshotId(Digest([0xab; 32]));

fn id() -> String {
    "ab".repeat(32)
}

fn hex(bytes: &[u8]) -> String {
    data_encoding::HEXLOWER.encode(bytes)
}

#[track_caller]
fn check_request(request: Request, expected: &str) {
    let bytes = request.encode().unwrap();
    assert_eq!(hex(&bytes), expected.replace(' ', ""));
    assert_eq!(decode_request(&bytes), Ok(request));
}

#[track_caller]
fn check_answer(answer: Answer, expected: &str) {
    let bytes = answer.encode().unwrap();
    assert_eq!(hex(&bytes), expected.replace(' ', ""));
    assert_eq!(decode_answer(&bytes), Ok(answer));
}

#[test]
fn the_bytes_of_requests() {
    let hello = Hello { revision: 1, name: "ada".into(), software: "x/1".into() };
    check_request(Request::Hello(hello), "01 01 03616461 03782f31");
    check_request(Request::Catalogue, "02");
    let open = |at| Request::OpenSnapshot(OpenSnapshot { workspace: "w".into(), at });
    check_request(open(None), "03 0177 00");
    check_request(open(Some(ID)), &format!("03 0177 01 {}", id()));
    check_request(Request::ReadManifest(ID), &format!("04 {}", id()));
    let files = vec![EntryIndex(1), EntryIndex(300)];
    let read = |class, compress| {
        Request::ReadFiles(ReadFiles { snapshot: ID, files: files.clone(), class, compress })
    };
    check_request(read(Class::Bulk, false), &format!("05 {} 02 01 ac02 00 00", id()));
    check_request(read(Class::ReadAhead, true), &format!("05 {} 02 01 ac02 01 01", id()));
    let ranges = vec![BlockRange { file: EntryIndex(5), first: BlockIndex(128), count: 4 }];
    let read = ReadRanges { snapshot: ID, ranges, class: Class::Demand, compress: false };
    check_request(Request::ReadRanges(read), &format!("06 {} 01 05 8001 04 02 00", id()));
    let wanted = TakeAnew { entry: EntryIndex(300), held: vec![(BlockIndex(0), 3), (BlockIndex(128), 1)] };
    let take = TakeAnewOf { snapshot: ID, wanted, class: Class::Bulk, compress: true };
    check_request(Request::TakeAnew(take), &format!("0a {} ac02 02 00 03 8001 01 00 01", id()));
    check_request(Request::Watch(Watch { workspace: "w".into(), base: ID }), &format!("07 0177 {}", id()));
    let since = ReadManifestSince { snapshot: ID, base: SnapshotId(Digest([1; 32])) };
    check_request(Request::ReadManifestSince(since), &format!("0b {} {}", id(), "01".repeat(32)));
}

#[test]
fn the_bytes_of_answers() {
    check_answer(Answer::Done, "00");
    check_answer(Answer::Refused(Refusal::NotGranted), "01 00");
    check_answer(Answer::Refused(Refusal::NoSuchWorkspace), "01 01");
    check_answer(Answer::Refused(Refusal::SnapshotGone), "01 02");
    check_answer(Answer::Refused(Refusal::TooBusy), "01 03");
    check_answer(Answer::Refused(Refusal::BadRequest), "01 04");
    check_answer(Answer::Refused(Refusal::Internal("no".into())), "01 05 026e6f");
    check_answer(Answer::Refused(Refusal::NotNear), "01 06");
    let hello = Hello { revision: 1, name: "ada".into(), software: "x/1".into() };
    check_answer(Answer::Hello(hello), "02 01 03616461 03782f31");
    let size = TreeSize { entries: 2, file_bytes: 1 << 14 };
    let offer = Offer { workspace: "w".into(), summary: "s".into(), readable: true, size: Some(size) };
    check_answer(Answer::Offer(offer), "03 0177 0173 01 01 02 808001");
    check_answer(Answer::Snapshot(SnapshotInfo { id: ID, size }), &format!("04 {} 02 808001", id()));
    check_answer(Answer::ManifestFrame(300), "05 ac02");
    let run = |encoding| {
        let digests = vec![ID.0];
        Answer::Run(RunHeader {
            file: EntryIndex(1),
            first: BlockIndex(2),
            digests,
            payload_bytes: 3,
            encoding,
        })
    };
    check_answer(run(Encoding::Raw), &format!("06 01 02 01 {} 03 00", id()));
    check_answer(run(Encoding::Zstd), &format!("06 01 02 01 {} 03 01", id()));
    check_answer(Answer::End(EntryIndex(9)), "07 09");
    check_answer(Answer::Fault(EntryIndex(9), FileFault::Changed), "08 09 00");
    check_answer(Answer::Fault(EntryIndex(9), FileFault::Unreadable("io".into())), "08 09 01 02696f");
    check_answer(Answer::Fault(EntryIndex(9), FileFault::NoSuchBlock), "08 09 02");
    check_answer(Answer::Version(300), "0a ac02");
    check_answer(Answer::Kept(BlockIndex(128), vec![ID.0]), &format!("0b 8001 01 {}", id()));
    check_answer(Answer::Reading(128), "0c 8001");
    check_answer(Answer::DeltaFrame(300), "0d ac02");
}

#[test]
#[expect(clippy::single_range_in_vec_init, reason = "a hole map of one hole")]
fn the_bytes_of_versions() {
    #[track_caller]
    fn check(version: Version, expected: &str) {
        let bytes = version.encode().unwrap();
        assert_eq!(hex(&bytes), expected.replace(' ', ""));
        assert_eq!(Version::decode(&bytes).unwrap(), version);
    }
    let file = FileVersion {
        size: 300,
        mtime: Mtime { sec: -1, nsec: 5 },
        mode: 0o644,
        xattrs: vec![(b"user.a".to_vec(), b"b".to_vec())],
        holes: vec![0..128],
        names: vec![EntryIndex(3), EntryIndex(300)],
    };
    check(Version::File(file), "00 ac02 01 05 a403 01 06 757365722e61 01 62 01 00 8001 02 03 ac02");
    check(Version::Symlink { target: b"x".to_vec(), mtime: Mtime { sec: 1, nsec: 0 } }, "01 01 78 02 00");
    check(Version::Absent, "02");
    check(Version::Other, "03");
}

#[test]
fn what_is_no_message_is_refused() {
    let request = |bytes: &[u8]| decode_request(bytes).unwrap_err();
    assert_eq!(request(b""), BadFrame::Body);
    assert_eq!(request(&[0]), BadFrame::Unknown(0));
    assert_eq!(request(&[8]), BadFrame::Unknown(8));
    assert_eq!(request(&[2, 0]), BadFrame::Body, "a byte too many");
    assert_eq!(request(&[4; 32]), BadFrame::Body, "a byte too few");
    assert_eq!(request(&[5; REQUEST_BYTES_MAX + 1]), BadFrame::Limit);
    let answer = |bytes: &[u8]| decode_answer(bytes).unwrap_err();
    assert_eq!(answer(b""), BadFrame::Body);
    assert_eq!(answer(&[9]), BadFrame::Unknown(9));
    assert_eq!(answer(&[0, 0]), BadFrame::Body);
    assert_eq!(answer(&[1, 7]), BadFrame::Body, "an unknown refusal");
    assert_eq!(answer(&vec![0; ANSWER_BYTES_MAX + 1]), BadFrame::Limit);
}

#[test]
fn limits_hold_in_both_directions() {
    #[track_caller]
    fn check(request: Request, bytes: &[u8]) {
        assert_eq!(request.encode(), Err(BadFrame::Limit));
        assert_eq!(decode_request(bytes), Err(BadFrame::Limit));
    }
    let encode = |number: u8, body: &dyn Fn(Vec<u8>) -> Vec<u8>| body(vec![number]);
    let open = |workspace: String| OpenSnapshot { workspace, at: None };
    for name in [String::new(), "x".repeat(256), "a\nb".into()] {
        let bytes = encode(3, &|start| postcard::to_extend(&open(name.clone()), start).unwrap());
        check(Request::OpenSnapshot(open(name.clone())), &bytes);
        let watch = Watch { workspace: name, base: ID };
        check(
            Request::Watch(watch.clone()),
            &encode(7, &|start| postcard::to_extend(&watch, start).unwrap()),
        );
    }
    let files = vec![EntryIndex(0); FILES_PER_REQUEST_MAX + 1];
    let read = ReadFiles { snapshot: ID, files, class: Class::Bulk, compress: false };
    check(Request::ReadFiles(read.clone()), &encode(5, &|start| postcard::to_extend(&read, start).unwrap()));
    let range = |first, count| BlockRange { file: EntryIndex(0), first: BlockIndex(first), count };
    let too_many = vec![range(0, 1); RANGES_PER_REQUEST_MAX + 1];
    let empty = vec![range(0, 0)];
    let too_long = vec![range(0, RANGE_BLOCKS_MAX + 1)];
    let beyond = vec![range(u64::MAX, 1)];
    for ranges in [too_many, empty, too_long, beyond] {
        let read = ReadRanges { snapshot: ID, ranges, class: Class::Bulk, compress: false };
        check(
            Request::ReadRanges(read.clone()),
            &encode(6, &|start| postcard::to_extend(&read, start).unwrap()),
        );
    }
    let run = |blocks: usize, payload_bytes| RunHeader {
        file: EntryIndex(0),
        first: BlockIndex(0),
        digests: vec![Digest([0; 32]); blocks],
        payload_bytes,
        encoding: Encoding::Raw,
    };
    let take = |held: Vec<(BlockIndex, u64)>| TakeAnewOf {
        snapshot: ID,
        wanted: TakeAnew { entry: EntryIndex(0), held },
        class: Class::Bulk,
        compress: false,
    };
    let many = vec![(BlockIndex(0), 1); RANGES_PER_REQUEST_MAX + 1];
    for held in [many, vec![(BlockIndex(0), 0)], vec![(BlockIndex(u64::MAX), 1)]] {
        let bytes = encode(10, &|start| postcard::to_extend(&take(held.clone()), start).unwrap());
        check(Request::TakeAnew(take(held)), &bytes);
    }
    for (first, blocks) in [(0, 0), (0, KEPT_BLOCKS_MAX + 1), (u64::MAX, 1)] {
        let kept = (BlockIndex(first), vec![ID.0; blocks]);
        let bytes = encode(11, &|start| postcard::to_extend(&kept, start).unwrap());
        assert_eq!(decode_answer(&bytes), Err(BadFrame::Limit));
        assert_eq!(Answer::Kept(kept.0, kept.1).encode(), Err(BadFrame::Limit));
    }
    assert_eq!(Answer::Version(u32::MAX).encode(), Err(BadFrame::Limit));
    for run in [run(0, 0), run(RUN_BLOCKS_MAX + 1, 0), run(1, 65537)] {
        let bytes = encode(6, &|start| postcard::to_extend(&run, start).unwrap());
        assert_eq!(decode_answer(&bytes), Err(BadFrame::Limit));
        assert_eq!(Answer::Run(run).encode(), Err(BadFrame::Limit));
    }
    assert_eq!(Answer::ManifestFrame(u32::MAX).encode(), Err(BadFrame::Limit));
    assert_eq!(Answer::DeltaFrame(u32::MAX).encode(), Err(BadFrame::Limit));
    assert_eq!(decode_answer(&[13, 0xff, 0xff, 0xff, 0xff, 0x0f]), Err(BadFrame::Limit));
    assert_eq!(decode_answer(&[5, 0xff, 0xff, 0xff, 0xff, 0x0f]), Err(BadFrame::Limit));
}

#[test]
fn the_largest_of_everything_fits_its_message() {
    let ranges = vec![
        BlockRange { file: EntryIndex(u32::MAX), first: BlockIndex(1 << 63), count: 4096 };
        RANGES_PER_REQUEST_MAX
    ];
    let read = ReadRanges { snapshot: ID, ranges, class: Class::Demand, compress: true };
    assert!(Request::ReadRanges(read).encode().unwrap().len() <= REQUEST_BYTES_MAX);
    let files = vec![EntryIndex(u32::MAX); FILES_PER_REQUEST_MAX];
    let read = ReadFiles { snapshot: ID, files, class: Class::Demand, compress: true };
    assert!(Request::ReadFiles(read).encode().unwrap().len() <= REQUEST_BYTES_MAX);
    let held = vec![(BlockIndex(1 << 62), 1 << 62); RANGES_PER_REQUEST_MAX];
    let wanted = TakeAnew { entry: EntryIndex(u32::MAX), held };
    let take = TakeAnewOf { snapshot: ID, wanted, class: Class::Demand, compress: true };
    assert!(Request::TakeAnew(take).encode().unwrap().len() <= REQUEST_BYTES_MAX);
    let kept = Answer::Kept(BlockIndex(1 << 62), vec![ID.0; KEPT_BLOCKS_MAX]);
    assert!(kept.encode().unwrap().len() <= ANSWER_BYTES_MAX);
    let long: Text = "x".repeat(TEXT_BYTES_MAX).into();
    let offer = Offer {
        workspace: long.clone(),
        summary: long,
        readable: true,
        size: Some(TreeSize { entries: u32::MAX, file_bytes: u64::MAX }),
    };
    assert!(Answer::Offer(offer).encode().unwrap().len() <= ANSWER_BYTES_MAX);
    let run = RunHeader {
        file: EntryIndex(u32::MAX),
        first: BlockIndex(1 << 62),
        digests: vec![ID.0; RUN_BLOCKS_MAX],
        payload_bytes: RUN_BYTES_MAX as u32,
        encoding: Encoding::Zstd,
    };
    assert!(Answer::Run(run).encode().unwrap().len() <= ANSWER_BYTES_MAX);
}

#[test]
fn a_peers_text_is_safe_wherever_it_arrives() {
    let refused = [&[1, 5, 4][..], b"a\x1b[b"].concat();
    assert_eq!(decode_answer(&refused), Ok(Answer::Refused(Refusal::Internal("a\u{fffd}[b".into()))));
    let fault = [&[8, 0, 1, 2][..], b"\r\n"].concat();
    let unreadable = FileFault::Unreadable("\u{fffd}\u{fffd}".into());
    assert_eq!(decode_answer(&fault), Ok(Answer::Fault(EntryIndex(0), unreadable)));
}

fn text() -> impl Strategy<Value = Text> {
    ".{0,40}".prop_map(Text::from)
}

fn snapshot() -> impl Strategy<Value = SnapshotId> {
    any::<[u8; 32]>().prop_map(|bytes| SnapshotId(Digest(bytes)))
}

fn file() -> impl Strategy<Value = EntryIndex> {
    any::<u32>().prop_map(EntryIndex)
}

fn class() -> impl Strategy<Value = Class> {
    prop_oneof![Just(Class::Bulk), Just(Class::ReadAhead), Just(Class::Demand)]
}

fn hello() -> impl Strategy<Value = Hello> {
    (any::<u16>(), text(), text()).prop_map(|(revision, name, software)| Hello { revision, name, software })
}

fn range() -> impl Strategy<Value = BlockRange> {
    (file(), 0..u64::MAX / 2, 1..=RANGE_BLOCKS_MAX).prop_map(|(file, first, count)| BlockRange {
        file,
        first: BlockIndex(first),
        count,
    })
}

fn request() -> impl Strategy<Value = Request> {
    prop_oneof![
        hello().prop_map(Request::Hello),
        Just(Request::Catalogue),
        ("[^\\p{Cc}]{1,60}", option::of(snapshot()))
            .prop_map(|(workspace, at)| Request::OpenSnapshot(OpenSnapshot { workspace, at })),
        snapshot().prop_map(Request::ReadManifest),
        ("[^\\p{Cc}]{1,60}", snapshot())
            .prop_map(|(workspace, base)| Request::Watch(Watch { workspace, base })),
        (snapshot(), snapshot()).prop_map(|(snapshot, base)| {
            Request::ReadManifestSince(ReadManifestSince { snapshot, base })
        }),
        (snapshot(), vec(file(), 0..50), class(), any::<bool>()).prop_map(
            |(snapshot, files, class, compress)| {
                Request::ReadFiles(ReadFiles { snapshot, files, class, compress })
            }
        ),
        (snapshot(), vec(range(), 0..50), class(), any::<bool>()).prop_map(
            |(snapshot, ranges, class, compress)| {
                Request::ReadRanges(ReadRanges { snapshot, ranges, class, compress })
            }
        ),
        (snapshot(), file(), vec((0..u64::MAX / 2, 1..u64::MAX / 2), 0..50), class(), any::<bool>())
            .prop_map(|(snapshot, entry, held, class, compress)| {
                let held = held.into_iter().map(|(first, count)| (BlockIndex(first), count)).collect();
                let wanted = TakeAnew { entry, held };
                Request::TakeAnew(TakeAnewOf { snapshot, wanted, class, compress })
            }),
    ]
}

fn refusal() -> impl Strategy<Value = Refusal> {
    prop_oneof![
        Just(Refusal::NotGranted),
        Just(Refusal::NoSuchWorkspace),
        Just(Refusal::SnapshotGone),
        Just(Refusal::TooBusy),
        Just(Refusal::BadRequest),
        text().prop_map(Refusal::Internal),
        Just(Refusal::NotNear),
    ]
}

fn size() -> impl Strategy<Value = TreeSize> {
    (any::<u32>(), any::<u64>()).prop_map(|(entries, file_bytes)| TreeSize { entries, file_bytes })
}

fn offer() -> impl Strategy<Value = Offer> {
    (text(), text(), any::<bool>(), option::of(size()))
        .prop_map(|(workspace, summary, readable, size)| Offer { workspace, summary, readable, size })
}

fn run_header() -> impl Strategy<Value = RunHeader> {
    let encoding = prop_oneof![Just(Encoding::Raw), Just(Encoding::Zstd)];
    let digests = vec(any::<[u8; 32]>().prop_map(Digest), 1..=RUN_BLOCKS_MAX);
    (file(), 0..u64::MAX / 2, digests, 0..=65536u32, encoding).prop_map(
        |(file, first, digests, payload_bytes, encoding)| RunHeader {
            file,
            first: BlockIndex(first),
            digests,
            payload_bytes,
            encoding,
        },
    )
}

fn fault() -> impl Strategy<Value = FileFault> {
    prop_oneof![
        Just(FileFault::Changed),
        text().prop_map(|text| FileFault::Unreadable(text.to_string())),
        Just(FileFault::NoSuchBlock),
    ]
}

fn answer() -> impl Strategy<Value = Answer> {
    prop_oneof![
        Just(Answer::Done),
        refusal().prop_map(Answer::Refused),
        hello().prop_map(Answer::Hello),
        offer().prop_map(Answer::Offer),
        (snapshot(), size()).prop_map(|(id, size)| Answer::Snapshot(SnapshotInfo { id, size })),
        (0..2_000_000u32).prop_map(Answer::ManifestFrame),
        run_header().prop_map(Answer::Run),
        file().prop_map(Answer::End),
        (file(), fault()).prop_map(|(file, fault)| Answer::Fault(file, fault)),
        (0..500_000u32).prop_map(Answer::Version),
        (0..u64::MAX / 2, vec(any::<[u8; 32]>().prop_map(Digest), 1..=KEPT_BLOCKS_MAX))
            .prop_map(|(first, digests)| Answer::Kept(BlockIndex(first), digests)),
        any::<u64>().prop_map(Answer::Reading),
        (0..2_000_000u32).prop_map(Answer::DeltaFrame),
    ]
}

proptest! {
    #[test]
    fn every_request_is_read_back(request in request()) {
        prop_assert_eq!(decode_request(&request.encode().unwrap()), Ok(request));
    }

    #[test]
    fn every_answer_is_read_back(answer in answer()) {
        prop_assert_eq!(decode_answer(&answer.encode().unwrap()), Ok(answer));
    }

    #[test]
    fn any_bytes_are_a_message_or_an_error(number in 0u8..15, body in vec(any::<u8>(), 0..200)) {
        let bytes = [&[number][..], &body].concat();
        // What decodes is within the limits, and encodes to a message that says the same.
        if let Ok(request) = decode_request(&bytes) {
            prop_assert_eq!(decode_request(&request.encode().unwrap()), Ok(request));
        }
        if let Ok(answer) = decode_answer(&bytes) {
            prop_assert_eq!(decode_answer(&answer.encode().unwrap()), Ok(answer));
        }
    }

    #[test]
    fn damaged_messages_never_panic(answer in answer(), at in any::<prop::sample::Index>(), to in any::<u8>()) {
        let mut bytes = answer.encode().unwrap();
        let at = at.index(bytes.len());
        bytes[at] = to;
        let _ = decode_answer(&bytes);
        let _ = decode_answer(&bytes[..at]);
    }
}
