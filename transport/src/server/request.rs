//! One request, from its first byte to the end of its answer.

use std::sync::Arc;
use std::time::Duration;

use quinn::{RecvStream, SendStream};
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::timeout;
use twinshare_fs::manifest::SnapshotId;
use twinshare_fs::origin::{Class, Origin};

use super::peers::Place;
use super::{Caller, Reply, Shared, deliver};
use crate::codes::StreamCode;
use crate::protocol::{
    Answer, OFFERS_MAX, OpenSnapshot, REQUEST_BYTES_MAX, ReadFiles, ReadManifestSince, ReadRanges, Refusal,
    Request, TakeAnewOf, Text, WATCH_MAX, Watch, decode_request,
};
use crate::wire::{AnswerLost, FrameReader, FrameWriter};

/// How long a client may take to send its request, which fits into a dozen packets.
const REQUEST_MAX: Duration = Duration::from_secs(10);

/// How long the service may take for what it knows without work.
const LOOKUP_MAX: Duration = Duration::from_secs(10);

/// How long freezing a snapshot may take: a walk over millions of entries on a cold disk.
const FREEZE_MAX: Duration = Duration::from_secs(600);

/// How long the other side may take for one write of at most 1 MiB.
const WRITE_MAX: Duration = Duration::from_secs(60);

/// How long a request waits for its turn.
const TURN_MAX: Duration = Duration::from_secs(10);

/// How many answers may be in the making. Each kind has places of its own, so that reads which somebody waits for never
/// wait behind background reads, walks of a tree or lists.
pub(super) struct Work {
    demand: Semaphore,
    others: Semaphore,
    opening: Semaphore,
    listing: Semaphore,
    watching: Semaphore,
}

/// What a place is taken for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// A read, by its class.
    Read(Class),
    /// A snapshot, which may wait for a walk of ten minutes, or a manifest.
    Opening,
    /// A catalogue.
    Listing,
    /// A wait for news, which costs next to nothing and lasts a minute.
    Watching,
}

impl Work {
    /// Of all peers together: with the 2 MiB an origin prepares for each answer, 384 MiB.
    pub(super) fn for_all() -> Self {
        Self::new(96, 32, 64, 32, 256)
    }

    /// Of one address: half. Peer ids cost nothing, addresses do.
    pub(super) fn for_address() -> Self {
        Self::new(48, 16, 32, 16, 128)
    }

    /// Of one peer: a third of the reads, so that it takes more than three to keep everybody else waiting.
    pub(super) fn for_peer() -> Self {
        Self::new(32, 12, 8, 4, 32)
    }

    fn new(demand: usize, others: usize, opening: usize, listing: usize, watching: usize) -> Self {
        let [demand, others, opening, listing, watching] =
            [demand, others, opening, listing, watching].map(Semaphore::new);
        Self { demand, others, opening, listing, watching }
    }

    async fn turn(&self, kind: Kind) -> Option<SemaphorePermit<'_>> {
        let semaphore = match kind {
            Kind::Read(Class::Demand) => &self.demand,
            Kind::Read(Class::ReadAhead | Class::Bulk) => &self.others,
            Kind::Opening => &self.opening,
            Kind::Listing => &self.listing,
            Kind::Watching => &self.watching,
        };
        // Closed never happens: nobody closes it.
        semaphore.acquire().await.ok()
    }
}

/// How an answer ends early.
pub(super) enum Ending {
    /// The caller is told why.
    Refused(Refusal),
    /// The caller is not there to be told.
    Lost(AnswerLost),
}

impl From<Refusal> for Ending {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

impl From<AnswerLost> for Ending {
    fn from(lost: AnswerLost) -> Self {
        match lost {
            // What the service gave us breaks our own protocol; the stream itself is sound.
            AnswerLost::Bad(error) => Self::Refused(Refusal::Internal(Text::new(&error.to_string()))),
            AnswerLost::Stream(_) | AnswerLost::Stalled => Self::Lost(lost),
        }
    }
}

/// Serves the request on one pair of streams, until it is answered or nobody wants the answer any more.
pub(super) async fn serve(
    shared: Arc<Shared>,
    caller: Caller,
    place: Arc<Place>,
    send: SendStream,
    receive: RecvStream,
) {
    let stopped = send.stopped();
    let writer = FrameWriter::new(send, WRITE_MAX, place.outlet());
    let request = Running { shared: &shared, caller, place: &place };
    tokio::select! {
        () = request.run(writer, receive) => {}
        // The client has cancelled, or the connection is gone. Dropping the streams resets them.
        _ = stopped => {}
    }
}

struct Running<'r> {
    shared: &'r Shared,
    caller: Caller,
    place: &'r Place,
}

impl Running<'_> {
    async fn run(&self, mut writer: FrameWriter, receive: RecvStream) {
        let ended = self.answer(&mut writer, receive).await;
        let concluded = match ended {
            Ok(()) => conclude(writer, Answer::Done).await,
            Err(Ending::Refused(refusal)) => {
                self.log(&refusal);
                conclude(writer, Answer::Refused(refusal)).await
            }
            Err(Ending::Lost(lost)) => {
                if matches!(lost, AnswerLost::Stalled) {
                    // It is still open: nothing else has ended it.
                    let _ = writer.stream().reset(StreamCode::Stalled.code());
                }
                Err(lost)
            }
        };
        if let Err(lost) = concluded {
            tracing::debug!(peer = %self.caller.peer.short(), %lost, "an answer was not taken");
        }
    }

    fn log(&self, refusal: &Refusal) {
        let (peer, address) = (self.caller.peer.short(), self.caller.address);
        match refusal {
            Refusal::Internal(text) => tracing::warn!(%peer, %address, %text, "a request failed"),
            _ => tracing::info!(%peer, %address, %refusal, "a request was refused"),
        }
    }

    async fn answer(&self, writer: &mut FrameWriter, receive: RecvStream) -> Result<(), Ending> {
        let request = read_request(receive).await?;
        self.shared.service.admit(&self.caller, &request)?;
        writer.set_class(request.class());
        match request {
            Request::Hello(theirs) => {
                let ours = self.shared.service.hello(&self.caller, &theirs);
                Ok(writer.answer(&Answer::Hello(ours)).await?)
            }
            Request::Catalogue => self.catalogue(writer).await,
            Request::OpenSnapshot(open) => self.open_snapshot(writer, open).await,
            Request::ReadManifest(snapshot) => self.read_manifest(writer, snapshot).await,
            Request::ReadFiles(read) => self.read_files(writer, read).await,
            Request::ReadRanges(read) => self.read_ranges(writer, read).await,
            Request::Watch(watch) => self.watch(writer, watch).await,
            Request::TakeAnew(take) => self.take_anew(writer, take).await,
            Request::ReadManifestSince(read) => self.read_manifest_since(writer, read).await,
        }
    }

    async fn catalogue(&self, writer: &mut FrameWriter) -> Result<(), Ending> {
        let _turn = self.turn(Kind::Listing).await?;
        let offers = within(LOOKUP_MAX, self.shared.service.catalogue(&self.caller)).await?;
        for offer in offers.into_iter().take(OFFERS_MAX) {
            writer.answer(&Answer::Offer(offer)).await?;
        }
        Ok(())
    }

    async fn open_snapshot(&self, writer: &mut FrameWriter, open: OpenSnapshot) -> Result<(), Ending> {
        let _turn = self.turn(Kind::Opening).await?;
        let opening = self.shared.service.open_snapshot(&self.caller, &open.workspace, open.at);
        let info = within(FREEZE_MAX, opening).await?;
        Ok(writer.answer(&Answer::Snapshot(info)).await?)
    }

    async fn read_manifest(&self, writer: &mut FrameWriter, snapshot: SnapshotId) -> Result<(), Ending> {
        let _turn = self.turn(Kind::Opening).await?;
        let origin = self.origin(snapshot).await?;
        deliver::frames(writer, origin.read_manifest(), || self.may_go_on(snapshot)).await
    }

    async fn watch(&self, writer: &mut FrameWriter, watch: Watch) -> Result<(), Ending> {
        let _turn = self.turn(Kind::Watching).await?;
        let watching = self.shared.service.watch(&self.caller, &watch.workspace, watch.base);
        match timeout(WATCH_MAX, watching).await {
            Ok(news) => Ok(writer.answer(&Answer::Snapshot(news?)).await?),
            Err(_) => Ok(()),
        }
    }

    async fn read_manifest_since(
        &self,
        writer: &mut FrameWriter,
        ReadManifestSince { snapshot, base }: ReadManifestSince,
    ) -> Result<(), Ending> {
        let _turn = self.turn(Kind::Opening).await?;
        let origin = self.origin(snapshot).await?;
        // What the caller may not read it learns nothing of, not even that it is there.
        match self.may_go_on(base) {
            Ok(()) => {
                let frames = origin.read_manifest_since(base);
                deliver::frames_since(writer, frames, || self.may_go_on(snapshot)).await
            }
            Err(_) => deliver::frames(writer, origin.read_manifest(), || self.may_go_on(snapshot)).await,
        }
    }

    async fn read_files(&self, writer: &mut FrameWriter, read: ReadFiles) -> Result<(), Ending> {
        let _turn = self.turn(Kind::Read(read.class)).await?;
        let origin = self.origin(read.snapshot).await?;
        let asked = read.files.len();
        let deliveries = origin.read_files(read.files, read.class);
        deliver::deliveries(writer, deliveries, asked, read.compress, || self.may_go_on(read.snapshot)).await
    }

    async fn read_ranges(&self, writer: &mut FrameWriter, read: ReadRanges) -> Result<(), Ending> {
        let _turn = self.turn(Kind::Read(read.class)).await?;
        let origin = self.origin(read.snapshot).await?;
        let asked = read.ranges.len();
        let deliveries = origin.read_ranges(read.ranges, read.class);
        deliver::deliveries(writer, deliveries, asked, read.compress, || self.may_go_on(read.snapshot)).await
    }

    async fn take_anew(&self, writer: &mut FrameWriter, take: TakeAnewOf) -> Result<(), Ending> {
        let _turn = self.turn(Kind::Read(take.class)).await?;
        let origin = self.origin(take.snapshot).await?;
        let file = take.wanted.entry;
        let anews = origin.take_anew(take.wanted, take.class);
        deliver::anews(writer, anews, file, take.compress, || self.may_go_on(take.snapshot)).await
    }

    fn may_go_on(&self, snapshot: SnapshotId) -> Result<(), Refusal> {
        self.shared.service.may_go_on(&self.caller, snapshot)
    }

    async fn origin(&self, snapshot: SnapshotId) -> Result<Arc<dyn Origin>, Refusal> {
        within(LOOKUP_MAX, self.shared.service.origin(&self.caller, snapshot)).await
    }

    /// Waits for a place among the answers in the making: first among the peer's own, then among its address's, then
    /// among all.
    async fn turn(&self, kind: Kind) -> Result<[SemaphorePermit<'_>; 3], Refusal> {
        let all = async {
            let peer = self.place.peer_work().turn(kind).await?;
            let address = self.place.address_work().turn(kind).await?;
            Some([peer, address, self.shared.work.turn(kind).await?])
        };
        timeout(TURN_MAX, all).await.ok().flatten().ok_or(Refusal::TooBusy)
    }
}

async fn read_request(receive: RecvStream) -> Result<Request, Refusal> {
    let mut reader = FrameReader::new(receive);
    match timeout(REQUEST_MAX, reader.message(REQUEST_BYTES_MAX, decode_request)).await {
        Ok(Ok(Some(request))) => Ok(request),
        Ok(Ok(None)) | Ok(Err(_)) | Err(_) => Err(Refusal::BadRequest),
    }
}

async fn conclude(mut writer: FrameWriter, last: Answer) -> Result<(), AnswerLost> {
    writer.answer(&last).await?;
    writer.finish().await
}

async fn within<T>(limit: Duration, reply: Reply<'_, T>) -> Result<T, Refusal> {
    let late = || Refusal::Internal(Text::new("the answer took too long to find"));
    timeout(limit, reply).await.unwrap_or_else(|_| Err(late()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Takes all places of one kind; the others must have some left.
    #[track_caller]
    fn check(taken: Kind) {
        let all = [
            Kind::Read(Class::Demand),
            Kind::Read(Class::Bulk),
            Kind::Opening,
            Kind::Listing,
            Kind::Watching,
        ];
        let has_room = |work: &Work, kind| {
            let mut context = std::task::Context::from_waker(std::task::Waker::noop());
            match std::pin::pin!(work.turn(kind)).as_mut().poll(&mut context) {
                std::task::Poll::Ready(permit) => permit.map(SemaphorePermit::forget).is_some(),
                std::task::Poll::Pending => false,
            }
        };
        let work = Work::for_peer();
        while has_room(&work, taken) {}
        for other in all.into_iter().filter(|other| *other != taken) {
            assert!(has_room(&work, other), "{taken:?} keeps {other:?} waiting");
        }
    }

    #[test]
    fn no_kind_of_work_keeps_another_waiting() {
        check(Kind::Read(Class::Demand));
        check(Kind::Read(Class::Bulk));
        check(Kind::Opening);
        check(Kind::Listing);
        check(Kind::Watching);
    }
}
