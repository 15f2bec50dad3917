//! The privileged helper: a process that keeps CAP_SYS_ADMIN and does three things with it for its parent.
//!
//! Parent and helper share a SEQPACKET socket pair made before the fork. Each request is one packet and is answered
//! by one packet with the request's number and, for a mount, the FUSE descriptor (SCM_RIGHTS). The helper trusts its
//! parent no further than it must: it mounts only our file system type, at absolute paths, and unmounts and tunes
//! only mounts of that type. It talks to nobody else, and dies with its parent.

use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, recvmsg, sendmsg,
};
use serde::{Deserialize, Serialize};

use super::direct::{self, Spec};
use super::mountinfo::Device;

/// Bytes of one packet at most: a path (`PATH_MAX`) and a name, with room to spare.
const PACKET_BYTES_MAX: usize = 8 * 1024;
/// How long the parent waits for an answer. The helper waits for nothing but the kernel, and the kernel waits for
/// nothing but the file system the mount point lies on.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);

/// What the helper is asked for.
#[derive(Debug, Serialize, Deserialize)]
enum Request {
    Mount { at: Vec<u8>, spec: Spec },
    Unmount { at: Vec<u8> },
    SetReadAhead { device: Device, kib: u32 },
}

/// The helper's answer; the error is an errno.
#[derive(Debug, Serialize, Deserialize)]
struct Answer {
    number: u64,
    result: Result<(), i32>,
}

/// The parent's end.
#[derive(Debug)]
pub(super) struct Helper {
    line: Mutex<Line>,
    answer_within: Duration,
}

#[derive(Debug)]
struct Line {
    socket: OwnedFd,
    /// The number of the last request; an answer to an earlier one, which came too late, is dropped.
    last: u64,
}

impl Helper {
    pub(super) fn new(socket: OwnedFd) -> Self {
        Self { line: Mutex::new(Line { socket, last: 0 }), answer_within: ANSWER_WITHIN }
    }

    pub(super) fn mount(&self, at: &Path, spec: &Spec) -> Result<OwnedFd, Errno> {
        let bytes = at.as_os_str().as_bytes().to_vec();
        let mounted = self.ask(&Request::Mount { at: bytes.clone(), spec: spec.clone() });
        let mounted = mounted.and_then(|device| device.ok_or(Errno::PROTO));
        if let Err(Errno::TIMEDOUT | Errno::PROTO) = mounted {
            self.take_back(bytes);
        }
        mounted
    }

    /// Has what may still come of a mount request undone: the helper does one thing after the other. Nobody would serve
    /// the mount. Does not wait for it.
    fn take_back(&self, at: Vec<u8>) {
        let mut line = self.line.lock().unwrap_or_else(PoisonError::into_inner);
        // A helper that takes no request any more has ended, or ends with its parent; so does its mount.
        let _ = line.send(&Request::Unmount { at });
    }

    pub(super) fn unmount(&self, at: &Path) -> Result<(), Errno> {
        self.ask(&Request::Unmount { at: at.as_os_str().as_bytes().to_vec() }).map(|_| ())
    }

    pub(super) fn set_read_ahead(&self, device: Device, kib: u32) -> Result<(), Errno> {
        self.ask(&Request::SetReadAhead { device, kib }).map(|_| ())
    }

    fn ask(&self, request: &Request) -> Result<Option<OwnedFd>, Errno> {
        // The line holds no invariant that a panic could break: at worst an answer is left to be dropped.
        let mut line = self.line.lock().unwrap_or_else(PoisonError::into_inner);
        line.send(request)?;
        let until = Instant::now() + self.answer_within;
        loop {
            await_readable(line.socket.as_fd(), until)?;
            let (packet, descriptor) = receive(line.socket.as_fd())?.ok_or(Errno::PIPE)?;
            let answer: Answer = postcard::from_bytes(&packet).map_err(|_| Errno::PROTO)?;
            if answer.number == line.last {
                return answer.result.map(|()| descriptor).map_err(Errno::from_raw_os_error);
            }
        }
    }
}

impl Line {
    fn send(&mut self, request: &Request) -> Result<(), Errno> {
        self.last += 1;
        let packet = postcard::to_stdvec(&(self.last, request)).map_err(|_| Errno::INVAL)?;
        send(self.socket.as_fd(), &packet, None)
    }
}

/// Serves requests until the parent's end is closed.
pub(super) fn serve(socket: BorrowedFd<'_>) -> Result<(), Errno> {
    while let Some((packet, _)) = receive(socket)? {
        let (number, request) = postcard::from_bytes(&packet).map_err(|_| Errno::PROTO)?;
        let (result, descriptor) = match perform(request) {
            Ok(descriptor) => (Ok(()), descriptor),
            Err(errno) => (Err(errno.raw_os_error()), None),
        };
        let answer = postcard::to_stdvec(&Answer { number, result }).map_err(|_| Errno::PROTO)?;
        send(socket, &answer, descriptor.as_ref().map(AsFd::as_fd))?;
    }
    Ok(())
}

fn perform(request: Request) -> Result<Option<OwnedFd>, Errno> {
    match request {
        Request::Mount { at, spec } => direct::mount(absolute(&at)?, &spec).map(Some),
        Request::Unmount { at } => direct::unmount(absolute(&at)?).map(|()| None),
        Request::SetReadAhead { device, kib } => direct::set_read_ahead(device, kib).map(|()| None),
    }
}

fn absolute(path: &[u8]) -> Result<&Path, Errno> {
    let path = Path::new(std::ffi::OsStr::from_bytes(path));
    if path.is_absolute() { Ok(path) } else { Err(Errno::INVAL) }
}

fn send(socket: BorrowedFd<'_>, packet: &[u8], descriptor: Option<BorrowedFd<'_>>) -> Result<(), Errno> {
    if packet.len() > PACKET_BYTES_MAX {
        return Err(Errno::NAMETOOLONG);
    }
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let descriptors: Vec<_> = descriptor.into_iter().collect();
    if !descriptors.is_empty() {
        control.push(SendAncillaryMessage::ScmRights(&descriptors));
    }
    let sent = rustix::io::retry_on_intr(|| {
        sendmsg(socket, &[IoSlice::new(packet)], &mut control, SendFlags::NOSIGNAL)
    });
    match sent {
        // It closed without having read all that was sent to it.
        Err(Errno::CONNRESET) => Err(Errno::PIPE),
        sent => sent.map(|_| ()),
    }
}

/// What arrives at once: bytes, and at most one descriptor.
pub(super) type Packet = (Vec<u8>, Option<OwnedFd>);

/// The next packet; `None` when the other end is closed.
pub(super) fn receive(socket: BorrowedFd<'_>) -> Result<Option<Packet>, Errno> {
    let mut packet = vec![0; PACKET_BYTES_MAX];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let received = rustix::io::retry_on_intr(|| {
        recvmsg(socket, &mut [IoSliceMut::new(&mut packet)], &mut control, RecvFlags::CMSG_CLOEXEC)
    });
    let received = match received {
        Err(Errno::CONNRESET) => return Ok(None),
        received => received?,
    };
    let descriptor = control.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut descriptors) => descriptors.next(),
        _ => None,
    });
    packet.truncate(received.bytes);
    Ok((received.bytes > 0).then_some((packet, descriptor)))
}

/// Waits until something can be read, or the other end is closed; ETIMEDOUT at `until`.
pub(super) fn await_readable(socket: BorrowedFd<'_>, until: Instant) -> Result<(), Errno> {
    loop {
        let left = until.saturating_duration_since(Instant::now());
        let timeout = Timespec::try_from(left).map_err(|_| Errno::INVAL)?;
        match poll(&mut [PollFd::new(&socket, PollFlags::IN)], Some(&timeout)) {
            Ok(0) => return Err(Errno::TIMEDOUT),
            Ok(_) => return Ok(()),
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};

    use super::*;

    fn pair() -> (OwnedFd, OwnedFd) {
        socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).unwrap()
    }

    fn spec() -> Spec {
        Spec { source: "twinshare:a/b".into(), owner: (0, 0), allow_other: false, is_read_only: true }
    }

    #[test]
    fn a_helper_does_nothing_but_its_three_things() {
        let (ours, theirs) = pair();
        let server = thread::spawn(move || serve(theirs.as_fd()));
        let helper = Helper::new(ours);
        assert_eq!(helper.mount(Path::new("relative"), &spec()).unwrap_err(), Errno::INVAL);
        assert_eq!(helper.unmount(Path::new("relative")), Err(Errno::INVAL));
        // The root is mounted, but it is none of ours, and nor is its device.
        assert_eq!(helper.unmount(Path::new("/")), Err(Errno::INVAL));
        assert_eq!(helper.set_read_ahead(Device { major: 0, minor: 0 }, 1), Err(Errno::INVAL));
        let long = format!("/{}", "x".repeat(PACKET_BYTES_MAX));
        assert_eq!(helper.unmount(Path::new(&long)), Err(Errno::NAMETOOLONG));
        drop(helper);
        assert_eq!(server.join().unwrap(), Ok(()));
    }

    #[test]
    fn an_answer_that_comes_too_late_is_dropped() {
        let (ours, theirs) = pair();
        let answer = |number, result| postcard::to_stdvec(&Answer { number, result }).unwrap();
        send(theirs.as_fd(), &answer(0, Ok(())), None).unwrap();
        send(theirs.as_fd(), &answer(1, Err(Errno::BUSY.raw_os_error())), None).unwrap();
        assert_eq!(Helper::new(ours).unmount(Path::new("/x")), Err(Errno::BUSY));
    }

    #[test]
    fn a_mount_that_may_come_too_late_is_taken_back() {
        let (ours, theirs) = pair();
        let helper = Helper { answer_within: Duration::from_millis(10), ..Helper::new(ours) };
        assert_eq!(helper.mount(Path::new("/x"), &spec()).unwrap_err(), Errno::TIMEDOUT);
        let asked = || {
            let (packet, _) = receive(theirs.as_fd()).unwrap().unwrap();
            postcard::from_bytes::<(u64, Request)>(&packet).unwrap()
        };
        assert!(matches!(asked(), (1, Request::Mount { at, .. }) if at == b"/x"));
        assert!(matches!(asked(), (2, Request::Unmount { at }) if at == b"/x"));
    }

    #[test]
    fn a_descriptor_travels_with_its_answer_and_a_dead_helper_is_told() {
        let (ours, theirs) = pair();
        let answer = postcard::to_stdvec(&Answer { number: 1, result: Ok(()) }).unwrap();
        send(theirs.as_fd(), &answer, Some(theirs.as_fd())).unwrap();
        let helper = Helper::new(ours);
        assert!(helper.mount(Path::new("/x"), &spec()).is_ok());
        drop(theirs);
        assert_eq!(helper.unmount(Path::new("/x")), Err(Errno::PIPE));
    }
}
