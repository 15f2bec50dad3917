//! Peers that prove who they are and then send whatever they like.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use quinn::{
    Connection, ConnectionError, Endpoint, RecvStream, SendStream, TokioRuntime, TransportConfig, VarInt,
};
use tokio::time::{Instant, timeout};
use twinshare_fs::digest::{BlockIndex, Digest};
use twinshare_fs::manifest::{EntryIndex, SnapshotId};
use twinshare_fs::origin::{BlockRange, Class, Deliveries, OriginError, SinceFrame};

use crate::client::Watched;
use crate::outlet::Outlet;
use crate::protocol::{
    Answer, Encoding, Hello, Offer, Refusal, Request, RunHeader, SnapshotInfo, decode_answer,
};
use crate::testing::OpenToAll;
use crate::wire::{AnswerLost, FrameReader, FrameWriter};
use crate::{CallError, Client, Identity, Remote, Server, tls, tuning};

const SNAPSHOT: SnapshotId = SnapshotId(Digest([3; 32]));
const SOON: Duration = Duration::from_secs(20);

fn loopback() -> SocketAddr {
    (Ipv4Addr::LOCALHOST, 0).into()
}

fn frame(message: &[u8]) -> Vec<u8> {
    [&(message.len() as u32).to_le_bytes()[..], message].concat()
}

fn answer(answer: &Answer) -> Vec<u8> {
    frame(&answer.encode().unwrap())
}

/// A server that answers every request with the same bytes.
struct Liar {
    endpoint: Endpoint,
    remote: Remote,
}

impl Liar {
    /// Ends its streams after the bytes, or leaves them open.
    fn new(bytes: Vec<u8>, ends: bool) -> Self {
        let identity = Identity::generate().unwrap();
        let config = tuning::server_config(tls::server(&identity).unwrap());
        let socket = tuning::listen(loopback()).unwrap();
        let endpoint = tuning::server_endpoint(&identity);
        let endpoint = Endpoint::new(endpoint, Some(config), socket, Arc::new(TokioRuntime)).unwrap();
        let address = endpoint.local_addr().unwrap();
        tokio::spawn(lie(endpoint.clone(), bytes.into(), ends));
        let client = Client::new(&Identity::generate().unwrap(), Hello::new("client")).unwrap();
        Self { endpoint, remote: Remote::new(&client, identity.peer_id(), vec![address]) }
    }
}

impl Drop for Liar {
    fn drop(&mut self) {
        self.endpoint.close(VarInt::from_u32(0), b"");
    }
}

async fn lie(endpoint: Endpoint, bytes: Bytes, ends: bool) {
    while let Some(incoming) = endpoint.accept().await {
        let Ok(connection) = incoming.await else { continue };
        let bytes = bytes.clone();
        tokio::spawn(async move {
            let mut open = Vec::new();
            while let Ok((mut send, receive)) = connection.accept_bi().await {
                // The client may stop reading at the first wrong byte.
                let _ = send.write_all(&bytes).await;
                if !ends {
                    open.push((send, receive));
                }
            }
        });
    }
}

async fn first_error(mut deliveries: Deliveries) -> OriginError {
    loop {
        match timeout(SOON, deliveries.recv()).await.expect("the read does not end") {
            Some(Ok(_)) => {}
            Some(Err(error)) => return error,
            None => panic!("an answer full of lies was taken for complete"),
        }
    }
}

fn run(file: u32, first: u64, digests: usize, payload_bytes: u32, encoding: Encoding) -> Vec<u8> {
    let digests = vec![Digest([0; 32]); digests];
    let first = BlockIndex(first);
    answer(&Answer::Run(RunHeader { file: EntryIndex(file), first, digests, payload_bytes, encoding }))
}

/// What a client makes of `bytes` as the answer to a read of blocks 8 to 11 of file 5.
async fn check_read(bytes: Vec<u8>, expected: fn(&OriginError) -> bool) {
    let liar = Liar::new(bytes.clone(), true);
    let range = BlockRange { file: EntryIndex(5), first: BlockIndex(8), count: 4 };
    let error = first_error(liar.remote.origin(SNAPSHOT).read_ranges(vec![range], Class::Demand)).await;
    assert!(expected(&error), "{error:?} for {bytes:?}");
}

fn is_invalid(error: &OriginError) -> bool {
    matches!(error, OriginError::Invalid(_))
}

fn is_gone(error: &OriginError) -> bool {
    matches!(error, OriginError::Gone(_))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_believes_no_answer_it_did_not_ask_for() {
    let end = answer(&Answer::End(EntryIndex(5)));
    let done = answer(&Answer::Done);
    let raw = |file, first, blocks, payload: u32| {
        [run(file, first, blocks, payload, Encoding::Raw), vec![0; payload as usize]].concat()
    };
    check_read(done.clone(), is_invalid).await;
    check_read([end.clone(), end.clone(), done.clone()].concat(), is_invalid).await;
    check_read([raw(6, 8, 1, 100), end.clone(), done.clone()].concat(), is_invalid).await;
    check_read([raw(5, 7, 1, 100), end.clone(), done.clone()].concat(), is_invalid).await;
    check_read([raw(5, 9, 4, 100), end.clone(), done.clone()].concat(), is_invalid).await;
    check_read([raw(5, 9, 1, 100), raw(5, 9, 1, 100)].concat(), is_invalid).await;
    check_read(answer(&Answer::Hello(Hello::new("x"))), is_invalid).await;
    check_read(answer(&Answer::ManifestFrame(3)), is_gone).await;
    check_read(answer(&Answer::Refused(Refusal::NotGranted)), |e| matches!(e, OriginError::Refused(_))).await;
    check_read(answer(&Answer::Refused(Refusal::TooBusy)), |e| matches!(e, OriginError::Busy(_))).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_survives_bytes_that_are_no_answer() {
    check_read(vec![], is_gone).await;
    check_read(vec![0], is_gone).await;
    check_read(frame(&[]), is_invalid).await;
    check_read(frame(&[200, 1, 2, 3]), is_invalid).await;
    check_read(frame(&[6, 1]), is_invalid).await;
    check_read(vec![0xff; 4], is_invalid).await;
    check_read(run(5, 8, 1, 65536, Encoding::Raw), is_gone).await;
    let bomb = zstd::bulk::compress(&vec![0; 1 << 20], 1).unwrap();
    let bomb = [run(5, 8, 1, bomb.len() as u32, Encoding::Zstd), bomb].concat();
    check_read(bomb, is_invalid).await;
    let junk = [run(5, 8, 1, 4, Encoding::Zstd), b"junk".to_vec()].concat();
    check_read(junk, is_invalid).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_believes_only_what_can_be_an_answer() {
    async fn check(bytes: Vec<u8>, expected: fn(&Result<Watched, CallError>) -> bool) {
        let liar = Liar::new(bytes.clone(), true);
        let watched = timeout(SOON, liar.remote.watch("w", SNAPSHOT)).await.expect("the watch does not end");
        assert!(expected(&watched), "{watched:?} for {bytes:?}");
    }
    let done = answer(&Answer::Done);
    let info = SnapshotInfo { id: SNAPSHOT, size: Default::default() };
    let news = answer(&Answer::Snapshot(info));
    check(done.clone(), |watched| *watched == Ok(Watched::Nothing)).await;
    check([news.clone(), done.clone()].concat(), |watched| matches!(watched, Ok(Watched::New(_)))).await;
    check(answer(&Answer::Refused(Refusal::BadRequest)), |watched| *watched == Ok(Watched::NotOffered)).await;
    check([news.clone(), news, done.clone()].concat(), |w| matches!(w, Err(CallError::Invalid(_)))).await;
    check([answer(&Answer::Hello(Hello::new("x"))), done].concat(), |w| {
        matches!(w, Err(CallError::Invalid(_)))
    })
    .await;
    check(vec![], |watched| matches!(watched, Err(CallError::Unreachable(_)))).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_manifest_since_is_of_frames_only() {
    let since = async |bytes: Vec<u8>| {
        let liar = Liar::new(bytes, true);
        let mut frames = liar.remote.origin(SNAPSHOT).read_manifest_since(SNAPSHOT);
        timeout(SOON, frames.recv())
            .await
            .expect("the answer does not end")
            .expect("an answer of lies was taken")
    };
    assert!(is_invalid(&since(answer(&Answer::Hello(Hello::new("x")))).await.unwrap_err()));
    assert!(is_invalid(&since(answer(&Answer::Refused(Refusal::BadRequest))).await.unwrap_err()));
    assert!(is_gone(&since(answer(&Answer::DeltaFrame(3))).await.unwrap_err()));
    let frame = [answer(&Answer::DeltaFrame(3)), b"abc".to_vec()].concat();
    assert_eq!(since(frame).await, Ok(SinceFrame::Delta(Bytes::from_static(b"abc"))));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_survive_lies_and_silence() {
    let offer = Offer { workspace: "w".into(), summary: "".into(), readable: true, size: None };
    let endless = answer(&Answer::Offer(offer)).repeat(2000);
    let liar = Liar::new(endless, false);
    let error = liar.remote.catalogue(SOON).await.unwrap_err();
    assert!(matches!(error, CallError::Invalid(_)), "{error}");
    let silent = Liar::new(vec![], false);
    let deadline = Duration::from_millis(300);
    assert_eq!(silent.remote.hello(deadline).await, Err(CallError::Deadline(deadline)));
    let other = Liar::new(answer(&Answer::Done), true);
    let opened = other.remote.open_snapshot("w", None, SOON).await;
    assert!(matches!(opened, Err(CallError::Invalid(_))), "{opened:?}");
}

/// A client's connection as QUIC gives it, to do with what it likes.
async fn connect(server: &Server, identity: &Identity, transport: Arc<TransportConfig>) -> Connection {
    let socket = tuning::outgoing().unwrap();
    let endpoint = Endpoint::new(tuning::client_endpoint(), None, socket, Arc::new(TokioRuntime)).unwrap();
    let mut config = quinn::ClientConfig::new(tls::client(identity, None).unwrap().config);
    config.transport_config(transport);
    endpoint.connect_with(config, server.local_address(), tls::SERVER_NAME).unwrap().await.unwrap()
}

async fn ask(connection: &Connection, bytes: &[u8]) -> Answer {
    let (mut send, receive) = connection.open_bi().await.unwrap();
    send.write_all(bytes).await.unwrap();
    send.finish().unwrap();
    timeout(SOON, FrameReader::new(receive).message(1 << 16, decode_answer)).await.unwrap().unwrap().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_answers_what_is_no_request_and_stays() {
    let server = Server::bind(&Identity::generate().unwrap(), loopback(), Arc::new(OpenToAll(None))).unwrap();
    let identity = Identity::generate().unwrap();
    let connection = connect(&server, &identity, tuning::client_transport()).await;
    let refused = Answer::Refused(Refusal::BadRequest);
    for junk in [
        &b""[..],
        b"\0",
        b"\xff\xff\xff\xff",
        &frame(b""),
        &frame(b"\x07"),
        &frame(b"\x05\0"),
        b"\x05\0\0\0\x02",
    ] {
        assert_eq!(ask(&connection, junk).await, refused, "{junk:?}");
    }
    let hello = Request::Hello(Hello::new("x")).encode().unwrap();
    assert_eq!(ask(&connection, &frame(&hello)).await, Answer::Hello(Hello::new("server")));
    // What follows the request is not looked at.
    assert_eq!(
        ask(&connection, &[frame(&hello), vec![7; 1000]].concat()).await,
        Answer::Hello(Hello::new("server"))
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_has_only_so_many_connections_and_gets_them_back() {
    let server = Server::bind(&Identity::generate().unwrap(), loopback(), Arc::new(OpenToAll(None))).unwrap();
    let identity = Identity::generate().unwrap();
    let transport = tuning::client_transport();
    let hello = frame(&Request::Hello(Hello::new("x")).encode().unwrap());
    let mut connections = Vec::new();
    for _ in 0..16 {
        let connection = connect(&server, &identity, Arc::clone(&transport)).await;
        assert!(matches!(ask(&connection, &hello).await, Answer::Hello(_)));
        connections.push(connection);
    }
    let refused = connect(&server, &identity, Arc::clone(&transport)).await.closed().await;
    let too_busy = VarInt::from_u32(2);
    assert!(
        matches!(&refused, ConnectionError::ApplicationClosed(c) if c.error_code == too_busy),
        "{refused}"
    );
    // Others are not affected.
    let other = connect(&server, &Identity::generate().unwrap(), Arc::clone(&transport)).await;
    assert!(matches!(ask(&other, &hello).await, Answer::Hello(_)));
    connections.pop().unwrap().close(VarInt::from_u32(0), b"");
    let end = Instant::now() + SOON;
    loop {
        let connection = connect(&server, &identity, Arc::clone(&transport)).await;
        let answered = timeout(Duration::from_millis(500), connection.closed()).await.is_err();
        if answered {
            break;
        }
        assert!(Instant::now() < end, "the place of a connection that ended stays taken");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_may_not_open_other_streams() {
    let server = Server::bind(&Identity::generate().unwrap(), loopback(), Arc::new(OpenToAll(None))).unwrap();
    let connection = connect(&server, &Identity::generate().unwrap(), tuning::client_transport()).await;
    let opened = timeout(Duration::from_millis(200), connection.open_uni()).await;
    assert!(opened.is_err(), "a unidirectional stream was opened");
    assert_eq!(connection.max_datagram_size(), None);
}

/// Both ends of one stream on a bare connection.
async fn stream() -> (SendStream, RecvStream, [Connection; 2]) {
    let identity = Identity::generate().unwrap();
    let config = tuning::server_config(tls::server(&identity).unwrap());
    let socket = tuning::listen(loopback()).unwrap();
    let endpoint =
        Endpoint::new(tuning::server_endpoint(&identity), Some(config), socket, Arc::new(TokioRuntime))
            .unwrap();
    let address = endpoint.local_addr().unwrap();
    let client = Endpoint::client(loopback()).unwrap();
    let mut config = quinn::ClientConfig::new(tls::client(&identity, None).unwrap().config);
    config.transport_config(tuning::client_transport());
    let connecting = client.connect_with(config, address, tls::SERVER_NAME).unwrap();
    let (ours, theirs) = tokio::join!(connecting, async { endpoint.accept().await.unwrap().await.unwrap() });
    let ours = ours.unwrap();
    let (mut send, receive) = ours.open_bi().await.unwrap();
    send.write_all(b"x").await.unwrap();
    let (answer, _) = theirs.accept_bi().await.unwrap();
    (answer, receive, [ours, theirs])
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_that_takes_nothing_is_given_up() {
    let (send, _receive, connections) = stream().await;
    let mut writer = FrameWriter::new(
        send,
        Duration::from_millis(300),
        Arc::new(Outlet::new(&connections[1], Arc::default())),
    );
    let started = Instant::now();
    let lost = loop {
        assert!(started.elapsed() < SOON, "a reader that takes nothing is waited for");
        if let Err(lost) = writer.payload(vec![0; 1 << 20].into()).await {
            break lost;
        }
    };
    assert!(matches!(lost, AnswerLost::Stalled), "{lost}");
}
