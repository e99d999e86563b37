//! Open descriptors on their way to a process that shares none with this one.
//!
//! The process that has them listens on a socket with an abstract name, so there is nothing in the file system and nothing
//! left when it ends. Who has been told a token connects and gets what the token stands for.
//!
//! # Protocol
//! Sequenced packets: the asker sends the 16 bytes of the token. The answer is one byte: 1, and with it the descriptor
//! (SCM_RIGHTS), or 0 if the token stands for nothing. Then both close. Or it sends one more byte, 1: what the token stands
//! for is not needed any more; then it closes without an answer.
//!
//! # Trust
//! Anybody in the same network namespace may connect, or listen under the name of a process that has ended. So both sides
//! ask the kernel who the other is (SO_PEERCRED) and hang up on another user; tokens are random. Nobody who connects and
//! says nothing holds others up.
//!
//! Source: Python's `multiprocessing.resource_sharer` has the same shape.

use std::collections::VecDeque;
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::cmsg_space;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, SocketAddrUnix, SocketFlags, SocketType, accept_with, bind, connect, listen, recv, recvmsg, send,
    sendmsg, socket_with,
};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use super::clock::Deadline;

/// What a descriptor is asked for by.
pub type Token = [u8; 16];

/// What is wanted of a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asked {
    /// What it stands for.
    Fetch,
    /// Nothing any more.
    Release,
}

/// Connections that wait to be accepted, and accepted ones that have not asked yet.
const BACKLOG: usize = 256;
/// How long to wait for something that nothing tells of: a place in a backlog, a free descriptor.
const PAUSE: Duration = Duration::from_millis(2);

const WITH_DESCRIPTOR: u8 = 1;
const WITHOUT: u8 = 0;
/// Behind the token: it is released.
const RELEASED: u8 = 1;

/// Why a descriptor was not fetched.
#[derive(Debug)]
pub enum Unfetched {
    /// The process that had it has ended.
    Gone,
    /// It has no such descriptor, or no more.
    Unknown,
    /// It lives and does not answer.
    NoAnswer,
    /// The system refused.
    Os(io::Error),
}

impl From<Errno> for Unfetched {
    fn from(e: Errno) -> Self {
        match e {
            Errno::PIPE | Errno::CONNRESET | Errno::CONNREFUSED => Self::Gone,
            other => Self::Os(other.into()),
        }
    }
}

/// The socket at which a process gives descriptors away.
pub struct Giver {
    listener: OwnedFd,
    /// Who connected and has not asked yet, the latest last.
    asking: VecDeque<OwnedFd>,
}

fn socket() -> Result<OwnedFd, Errno> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)
}

impl Giver {
    /// Listens under the abstract name.
    pub fn bind(name: &[u8]) -> io::Result<Self> {
        let listener = socket()?;
        bind(&listener, &SocketAddrUnix::new_abstract_name(name)?)?;
        listen(&listener, BACKLOG as i32)?;
        Ok(Self { listener, asking: VecDeque::new() })
    }

    /// Answers for ever what `give` finds for a token; it is called once for each asker. Signals do not come to the calling
    /// thread any more.
    pub fn serve(mut self, mut give: impl FnMut(Asked, &Token) -> Option<OwnedFd>) -> ! {
        // It fails for impossible arguments only.
        let _ = nix::sys::signal::SigSet::all().thread_block();
        loop {
            if self.round(&mut give).is_err() {
                // No descriptor or no memory is free.
                pause();
            }
        }
    }

    fn round(&mut self, give: &mut impl FnMut(Asked, &Token) -> Option<OwnedFd>) -> Result<(), Errno> {
        let all = std::iter::once(&self.listener).chain(&self.asking);
        let mut polled: Vec<_> = all.map(|fd| PollFd::new(fd, PollFlags::IN)).collect();
        rustix::io::retry_on_intr(|| poll(&mut polled, None))?;
        let ready: Vec<bool> = polled.iter().map(|p| !p.revents().is_empty()).collect();
        let mut asked = ready[1..].iter();
        self.asking.retain(|asker| {
            let has_asked = asked.next().is_some_and(|ready| *ready);
            if has_asked {
                answer(asker.as_fd(), give);
            }
            !has_asked
        });
        if !ready[0] {
            return Ok(());
        }
        match accept_with(&self.listener, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK) {
            Ok(asker) if is_same_user(asker.as_fd()) => {
                if self.asking.len() == BACKLOG {
                    self.asking.pop_front();
                }
                self.asking.push_back(asker);
                Ok(())
            }
            Ok(_) | Err(Errno::AGAIN | Errno::CONNABORTED | Errno::INTR) => Ok(()),
            Err(e) => Err(e),
        }
    }
}

/// Gives the descriptor to who asked for it. If the asker is dead by now, it goes with the asker.
fn answer(asker: BorrowedFd<'_>, give: &mut impl FnMut(Asked, &Token) -> Option<OwnedFd>) {
    let mut packet = [0; 17];
    let Ok((bytes, _)) = recv(asker, &mut packet, RecvFlags::DONTWAIT) else { return };
    let [token @ .., kind] = packet;
    let given = match (bytes, kind) {
        (16, _) => give(Asked::Fetch, &token),
        (17, RELEASED) => return drop(give(Asked::Release, &token)),
        _ => return,
    };
    let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(1))];
    let mut with = SendAncillaryBuffer::new(&mut space);
    let descriptors = given.as_ref().map(AsFd::as_fd);
    let word = [if given.is_some() { WITH_DESCRIPTOR } else { WITHOUT }];
    with.push(SendAncillaryMessage::ScmRights(descriptors.as_slice()));
    let _ = sendmsg(asker, &[IoSlice::new(&word)], &mut with, SendFlags::NOSIGNAL | SendFlags::DONTWAIT);
}

/// Connects to the process that listens under `name`, which is of the same user.
fn connection(name: &[u8], deadline: Deadline) -> Result<OwnedFd, Unfetched> {
    let (socket, address) = (socket()?, SocketAddrUnix::new_abstract_name(name)?);
    loop {
        match connect(&socket, &address) {
            Ok(()) => break,
            Err(Errno::INTR) => {}
            // Too many ask at once.
            Err(Errno::AGAIN) if !deadline.passed() => pause(),
            Err(Errno::AGAIN) => return Err(Unfetched::NoAnswer),
            Err(e) => return Err(e.into()),
        }
    }
    if is_same_user(socket.as_fd()) { Ok(socket) } else { Err(Unfetched::Gone) }
}

/// Tells the process that listens under `name` that what `token` stands for is not needed any more, if it has room to hear
/// that before `deadline`.
pub fn release(name: &[u8], token: &Token, deadline: Deadline) {
    let Ok(socket) = connection(name, deadline) else { return };
    let mut packet = [RELEASED; 17];
    packet[..16].copy_from_slice(token);
    let _ = rustix::io::retry_on_intr(|| send(&socket, &packet, SendFlags::NOSIGNAL | SendFlags::DONTWAIT));
}

/// Fetches what `token` stands for from the process that listens under `name`.
pub fn fetch(name: &[u8], token: &Token, deadline: Deadline) -> Result<OwnedFd, Unfetched> {
    let socket = connection(name, deadline)?;
    // A copy of the socket may outlive the process in what it forked: so its end is watched too.
    let giver = match peer(socket.as_fd()).and_then(|(pid, _)| Pid::from_raw(pid)) {
        Some(pid) => match pidfd_open(pid, PidfdFlags::empty()) {
            Ok(pidfd) => Some(pidfd),
            Err(Errno::SRCH) => return Err(Unfetched::Gone),
            Err(_) => None,
        },
        None => None,
    };
    rustix::io::retry_on_intr(|| send(&socket, token, SendFlags::NOSIGNAL))?;
    loop {
        let mut polled: Vec<_> =
            std::iter::once(&socket).chain(&giver).map(|fd| PollFd::new(fd, PollFlags::IN)).collect();
        let timeout = deadline.left_ns().map(timespec);
        match poll(&mut polled, timeout.as_ref()) {
            Err(Errno::INTR) => {}
            Err(e) => return Err(e.into()),
            Ok(0) if deadline.passed() => return Err(Unfetched::NoAnswer),
            Ok(0) => {}
            Ok(_) if polled[0].revents().is_empty() => return Err(Unfetched::Gone),
            Ok(_) => return receive(socket.as_fd()),
        }
    }
}

/// The answer, which is there.
fn receive(socket: BorrowedFd<'_>) -> Result<OwnedFd, Unfetched> {
    let mut word = [WITHOUT];
    let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(1))];
    let mut with = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT;
    let received = rustix::io::retry_on_intr(|| recvmsg(socket, &mut [IoSliceMut::new(&mut word)], &mut with, flags))?;
    let mut descriptors = with.drain().filter_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut descriptors) => descriptors.next(),
        _ => None,
    });
    match (descriptors.next(), received.bytes, word) {
        (Some(fd), _, _) => Ok(fd),
        (None, 0, _) => Err(Unfetched::Gone),
        (None, _, [WITHOUT]) => Err(Unfetched::Unknown),
        // It was sent, and there was no number free for it here.
        (None, _, _) => Err(Unfetched::Os(Errno::MFILE.into())),
    }
}

/// Whether the other end of a connection belongs to a process of the same user.
fn is_same_user(socket: BorrowedFd<'_>) -> bool {
    peer(socket).is_some_and(|(_, uid)| uid == rustix::process::geteuid().as_raw())
}

/// Process (0 if this process cannot see it) and user of the other end of a connection.
fn peer(socket: BorrowedFd<'_>) -> Option<(libc::pid_t, libc::uid_t)> {
    let mut peer = libc::ucred { pid: 0, uid: 0, gid: 0 };
    let mut bytes = size_of_val(&peer) as libc::socklen_t;
    // SAFETY: the option writes at most `bytes` bytes, which is what there is behind the pointer; any bytes are a `ucred`.
    let done = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_PEERCRED,
            (&raw mut peer).cast(),
            &raw mut bytes,
        )
    };
    (done == 0).then_some((peer.pid, peer.uid))
}

fn pause() {
    let _ = poll(&mut [], Some(&timespec(PAUSE.as_nanos() as u64)));
}

fn timespec(ns: u64) -> Timespec {
    // Below 2^64 ns there are fewer than 2^35 seconds.
    Timespec { tv_sec: (ns / 1_000_000_000) as _, tv_nsec: (ns % 1_000_000_000) as _ }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;
    use std::sync::Mutex;

    fn soon() -> Deadline {
        Deadline::after(Duration::from_secs(20))
    }

    #[test]
    fn a_descriptor_is_given_once_to_who_knows_its_token() {
        let name = b"kinfolk-test-given-once".as_slice();
        let giver = Giver::bind(&[name, &std::process::id().to_le_bytes()].concat()).unwrap();
        let name = [name, &std::process::id().to_le_bytes()].concat();
        let (mut here, there) = UnixStream::pair().unwrap();
        let kept = Mutex::new(Some(OwnedFd::from(there)));
        std::thread::spawn(move || giver.serve(|_, token| kept.lock().unwrap().take_if(|_| token == &[7; 16])));
        // Those who say nothing, or something else, hold nobody up.
        let address = SocketAddrUnix::new_abstract_name(&name).unwrap();
        let silent: Vec<OwnedFd> = (0..20).map(|_| socket().unwrap()).collect();
        silent.iter().for_each(|socket| connect(socket, &address).unwrap());
        send(&silent[3], b"what?", SendFlags::NOSIGNAL).unwrap();
        assert!(matches!(fetch(&name, &[8; 16], soon()), Err(Unfetched::Unknown)));
        let mut got = UnixStream::from(fetch(&name, &[7; 16], soon()).unwrap());
        assert!(rustix::io::fcntl_getfd(&got).unwrap().contains(rustix::io::FdFlags::CLOEXEC));
        got.write_all(b"through").unwrap();
        drop(got);
        let mut text = String::new();
        here.read_to_string(&mut text).unwrap();
        assert_eq!(text, "through", "and the giver's copy is closed, or this would not have ended");
        assert!(matches!(fetch(&name, &[7; 16], soon()), Err(Unfetched::Unknown)));
    }

    #[test]
    fn who_is_told_that_something_is_not_needed_does_not_answer() {
        let name = [b"kinfolk-test-released".as_slice(), &std::process::id().to_le_bytes()].concat();
        let giver = Giver::bind(&name).unwrap();
        let (told, asked) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            giver.serve(|asked, token| {
                told.send((asked, *token)).unwrap();
                None
            })
        });
        release(&name, &[3; 16], soon());
        assert_eq!(asked.recv().unwrap(), (Asked::Release, [3; 16]));
        assert!(matches!(fetch(&name, &[4; 16], soon()), Err(Unfetched::Unknown)));
        assert_eq!(asked.recv().unwrap(), (Asked::Fetch, [4; 16]));
    }

    #[test]
    fn a_name_that_nobody_has_is_a_process_that_is_gone() {
        assert!(matches!(fetch(b"kinfolk-test-nobody", &[0; 16], soon()), Err(Unfetched::Gone)));
    }

    #[test]
    fn who_does_not_answer_is_waited_for_as_long_as_said() {
        let name = [b"kinfolk-test-silent".as_slice(), &std::process::id().to_le_bytes()].concat();
        let _giver = Giver::bind(&name).unwrap();
        let short = Deadline::after(Duration::from_millis(20));
        assert!(matches!(fetch(&name, &[0; 16], short), Err(Unfetched::NoAnswer)));
    }
}
