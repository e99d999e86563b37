//! The fork server, seen by the process that owns it: started at first use, asked for children, replaced when it was killed.
//!
//! A server is this program, started once more as a child is ([`super::entry`]); [`serving`] is its side. It forks each
//! child before it is needed: a *spare*, which has done all that does not depend on its work, and waits for that. The owner
//! makes a line to it, gets its pidfd, and starts it with one message, to which there is no answer. Then it asks for the
//! next. All this goes over pairs of sockets without a name, so nobody else can ask.
//!
//! # If somebody is killed
//! | who | what becomes of it |
//! |---|---|
//! | a spare, before it was sent its work | its pidfd says so, and the next one gets the work |
//! | the same, after that | it is the child, and this is how it ended; its row's lock goes with the line |
//! | the server | its line is broken, and the owner starts a new one; spares and children live on |
//! | the owner | the life pipe kills its server, its spare and its children: they are bound to the owner, not to the server |
//!
//! So work is sent to one process only, whose end is always told, and nothing is ever in doubt.
//!
//! # The exit status
//! The server is the parent by the system's account. Since Linux 6.15 a pidfd keeps the status of a process that was reaped,
//! and the server has the kernel reap its children at once. An older kernel forgets it; then children stay zombies until the
//! owner asks the server for their status, as they would stay if they were the owner's. If such a server is killed, the
//! status of its children is lost.
//!
//! # Rules
//! 1. One question is open at a time, but for the one for a spare, whose answer is then taken first.
//! 2. A server is asked under its own lock, which is never held together with that of [`SLOT`].
//! 3. The server holds its spare's end of the line, too, until it is asked for the next: so when an end is closed for good, none
//!    is on its way in a message. In that case the kernel would look for cycles of sockets, which costs it more than the rest
//!    of the line (`unix_release_sock`).

pub(super) mod serving;

use super::builder::Builder;
use super::launch::Streams;
use super::log;
use super::reaper::Reaper;
use super::start::Started;
use crate::segment::{ObjectId, ReservedRow};
use crate::sys::clock::Deadline;
use crate::sys::exec::{self, Launch};
use crate::sys::fork;
use crate::sys::identity::{Ended, Order, Pidfd};
use crate::sys::line::{Broken, Line};
use crate::sys::spawn::{self, Above};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// How many servers and spares may end under one start before it is given up.
const ATTEMPTS: u32 = 100;

const WORDS: usize = 8;

/// Every message is eight words; behind the one with a child's work are the numbers of its kept descriptors.
type Message = [u8; WORDS * 4];

fn to_message(words: [u32; WORDS]) -> Message {
    let mut message = [0; WORDS * 4];
    for (bytes, word) in message.chunks_exact_mut(4).zip(words) {
        bytes.copy_from_slice(&word.to_ne_bytes());
    }
    message
}

fn to_words(message: &Message) -> [u32; WORDS] {
    std::array::from_fn(|k| u32::from_ne_bytes(message[k * 4..k * 4 + 4].try_into().expect("four bytes")))
}

/// What the owner asks its server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Question {
    /// For a spare; its end of the line comes with that.
    Spare,
    /// For the exit status of a child that has ended.
    Status { pid: u32 },
}

impl Question {
    fn to_message(self) -> Message {
        to_message(match self {
            Self::Spare => [1, 0, 0, 0, 0, 0, 0, 0],
            Self::Status { pid } => [2, pid, 0, 0, 0, 0, 0, 0],
        })
    }

    fn parse(message: &Message) -> Option<Self> {
        match to_words(message) {
            [1, ..] => Some(Self::Spare),
            [2, pid, ..] => Some(Self::Status { pid }),
            _ => None,
        }
    }
}

/// What the server answers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Answer {
    /// The spare's pid; with it comes its pidfd.
    pid: u32,
    /// Why there is no answer, or 0.
    errno: i32,
    /// Whether the server keeps its children until it is asked for their status.
    keeps: bool,
    /// The wait status that was asked for.
    status: i32,
}

impl Answer {
    fn to_message(self) -> Message {
        to_message([self.pid, self.errno as u32, u32::from(self.keeps), self.status as u32, 0, 0, 0, 0])
    }

    fn parse(message: &Message) -> Self {
        let [pid, errno, keeps, status, ..] = to_words(message);
        Self { pid, errno: errno as i32, keeps: keeps != 0, status: status as i32 }
    }
}

/// What a spare is to become. With it come the lock of its row, the standard streams that are open, the working directory,
/// and the kept descriptors.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Work {
    row: u32,
    handoff: ObjectId,
    /// The signal mask.
    mask: u64,
    /// Which standard streams there are, a bit for each.
    streams: u32,
    directory: bool,
    /// The numbers of the kept descriptors.
    kept: Vec<RawFd>,
}

impl Work {
    fn to_bytes(&self) -> Vec<u8> {
        let Self { row, handoff: ObjectId { index, generation }, mask, streams, directory, kept } = self;
        let (low, high) = (*mask as u32, (mask >> 32) as u32);
        let mut bytes = to_message([*row, *index, *generation, low, high, *streams, u32::from(*directory), 0]).to_vec();
        bytes.extend(kept.iter().flat_map(|fd| fd.to_ne_bytes()));
        bytes
    }

    /// `None` if `bytes` are not what [`to_bytes`](Self::to_bytes) makes.
    fn parse(bytes: &[u8]) -> Option<Self> {
        let (message, kept) = bytes.split_first_chunk::<{ WORDS * 4 }>()?;
        let [row, index, generation, low, high, streams, directory, _] = to_words(message);
        let mask = u64::from(high) << 32 | u64::from(low);
        let numbers = kept.chunks_exact(4);
        if !numbers.remainder().is_empty() {
            return None;
        }
        let kept = numbers.map(|fd| RawFd::from_ne_bytes(fd.try_into().expect("four bytes"))).collect();
        Some(Self { row, handoff: ObjectId { index, generation }, mask, streams, directory: directory != 0, kept })
    }
}

/// A fork server of this process.
pub(super) struct Server {
    /// Whose it is.
    owner: u32,
    pidfd: Pidfd,
    talk: Mutex<Talk>,
    keeps: AtomicBool,
    gone: AtomicBool,
}

struct Talk {
    /// `None` once this process has no use for it.
    line: Option<Line>,
    /// A spare was asked for, and has not been taken: this is the line to it.
    asked: Option<Line>,
    /// One that was taken while another answer was waited for.
    spare: Option<Spare>,
}

/// A child that waits for its work.
struct Spare {
    pid: u32,
    pidfd: Pidfd,
    line: Line,
}

/// The server of this process.
struct Slot {
    /// A forked copy of the process inherits it, but may not use it.
    server: Option<Arc<Server>>,
}

static SLOT: Mutex<Slot> = Mutex::new(Slot { server: None });

fn slot() -> MutexGuard<'static, Slot> {
    SLOT.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Keeps other threads from starting or replacing the server, so that a fork finds the slot in order.
pub(super) fn hold() -> impl Sized {
    slot()
}

/// Starts a child on the work in `handoff`, for which `row` was reserved.
pub(super) fn start(builder: &Builder, streams: &Streams, row: ReservedRow, handoff: ObjectId) -> io::Result<Started> {
    let (given, own) = (streams.as_fds(), fork::standard_streams());
    let streams = [0, 1, 2].map(|k| given[k].or(own[k]));
    let directory = fork::working_directory();
    let mut descriptors = vec![row.lock.as_fd()];
    descriptors.extend(streams.iter().flatten());
    descriptors.extend(directory.as_ref().map(AsFd::as_fd));
    descriptors.extend(builder.kept.iter().map(|fd| fd.as_fd()));
    let work = Work {
        row: row.index,
        handoff,
        mask: fork::signal_mask(),
        streams: (0..3).filter(|&k| streams[k].is_some()).map(|k| 1 << k).sum(),
        directory: directory.is_some(),
        kept: builder.kept.iter().map(|fd| fd.as_raw_fd()).collect(),
    };
    for _ in 0..ATTEMPTS {
        let server = running(row.segment_fd())?;
        let begun = server.start(&work, &descriptors);
        if server.gone.load(Ordering::Relaxed) {
            replace(&server);
        }
        match begun {
            Ok((pid, pidfd)) => {
                drop(descriptors);
                row.started(pid);
                return Ok(Started { pid, pidfd, reaper: Reaper::Server(server) });
            }
            Err(Broken::Os(error)) => return Err(error),
            Err(Broken::Gone) => {}
        }
    }
    Err(io::Error::other(format!("fork servers or their children have ended {ATTEMPTS} times before this one began")))
}

/// The server; a new one if there is none.
fn running(segment: BorrowedFd<'_>) -> io::Result<Arc<Server>> {
    let mut slot = slot();
    if let Some(server) = slot.server.as_ref().filter(|server| server.belongs_here()) {
        return Ok(Arc::clone(server));
    }
    let server = Arc::new(Server::launch(segment)?);
    slot.server = Some(Arc::clone(&server));
    Ok(server)
}

/// Takes a server that is gone out of the slot, and reaps it.
fn replace(server: &Arc<Server>) {
    let mut slot = slot();
    slot.server.take_if(|current| Arc::ptr_eq(current, server));
    drop(slot);
    server.bury();
}

/// Reaps the server if it has ended, so that it does not stay as a zombie until the next start; it does not block.
pub(super) fn reap() {
    let server = slot().server.clone().filter(|server| server.is_gone());
    if let Some(server) = server.filter(|server| server.belongs_here()) {
        replace(&server);
    }
}

/// How long a server may take to end when this process does.
const GRACE: Duration = Duration::from_secs(1);

/// At exit, when no child is left: ends the server and its spare, and reaps the server.
///
/// Another thread may hold a lock, and may be stopped for good; then this is left to the life pipe.
pub(super) fn settle() {
    let Ok(mut slot) = SLOT.try_lock() else { return };
    let Some(server) = slot.server.take_if(|server| server.belongs_here()) else { return };
    drop(slot);
    let Ok(mut talk) = server.talk.try_lock() else { return };
    // The spare ends without its line; the server without its own, when the spare has.
    (talk.line, talk.asked, talk.spare) = (None, None, None);
    if !server.pidfd.wait(Deadline::after(GRACE)).unwrap_or(true) {
        let _ = server.pidfd.signal(Order::Kill);
        let _ = server.pidfd.wait(Deadline::after(GRACE));
    }
    let _ = server.pidfd.reap();
}

impl Server {
    fn launch(segment: BorrowedFd<'_>) -> io::Result<Self> {
        let (line, far) = Line::pair()?;
        let life = spawn::life_line()?;
        let segment = Above::stdio(segment)?;
        let inherited = [segment.as_fd(), life.as_fd(), far.as_fd()];
        let ticket = serving::Ticket(inherited.map(|fd| fd.as_raw_fd()));
        let environment = Builder::default().environment(ticket.to_text());
        let launch = Launch { environment, inherited: inherited.to_vec(), streams: [None; 3] };
        let (pid, pidfd) = exec::spawn_self(&launch)?;
        log::set_up("fork server", pid);
        let talk = Mutex::new(Talk { line: Some(line), asked: None, spare: None });
        let (keeps, gone) = (AtomicBool::new(false), AtomicBool::new(false));
        Ok(Self { owner: std::process::id(), pidfd, talk, keeps, gone })
    }

    fn talk(&self) -> MutexGuard<'_, Talk> {
        self.talk.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether it is this process's, and not that of the one of which this is a fork.
    fn belongs_here(&self) -> bool {
        self.owner == std::process::id()
    }

    /// Whether its children stay until it is asked for their status: true only if it said so.
    pub(super) fn keeps_children(&self) -> bool {
        // Relaxed: it is set before the first child is returned, by the thread that returns it.
        self.keeps.load(Ordering::Relaxed)
    }

    /// Whether it has ended; it does not block.
    pub(super) fn is_gone(&self) -> bool {
        // Relaxed: a hint, which the pidfd confirms.
        self.gone.load(Ordering::Relaxed) || self.pidfd.wait(Deadline::after(Duration::ZERO)).unwrap_or(false)
    }

    /// Ends it, if it has not ended, and reaps it.
    pub(super) fn bury(&self) {
        // Under the lock, as the kernel tells the status once. Errors mean that somebody else has reaped it.
        let mut talk = self.talk();
        // Its spare ends without its line.
        (talk.asked, talk.spare) = (None, None);
        let _ = self.pidfd.signal(Order::Kill);
        let _ = self.pidfd.wait(Deadline::NEVER);
        let _ = self.pidfd.reap();
    }

    /// Starts a spare on this work. `Gone` is said of the server, or of the spare.
    fn start(&self, work: &Work, with: &[BorrowedFd<'_>]) -> Result<(u32, Pidfd), Broken> {
        let mut talk = self.talk();
        let spare = match talk.spare.take() {
            Some(spare) => spare,
            None => self.take_spare(&mut talk)?,
        };
        if spare.pidfd.wait(Deadline::PASSED).map_err(Broken::Os)? {
            return Err(Broken::Gone);
        }
        let Spare { pid, pidfd, line } = spare;
        line.send(&work.to_bytes(), with)?;
        // Rule 3.
        drop(line);
        // The child has its work, whatever comes of this.
        let _ = self.ask_for_spare(&mut talk);
        Ok((pid, pidfd))
    }

    /// How a child ended that has ended, if this server still knows.
    pub(super) fn ask_for_status(&self, pid: u32) -> Option<Ended> {
        let mut talk = self.talk();
        if talk.asked.is_some() {
            // Rule 1. An error is the next start's concern, too.
            let spare = self.take_spare(&mut talk);
            talk.spare = spare.ok();
        }
        self.ask(&talk, Question::Status { pid }, &[]).ok()?;
        let (answer, _) = self.answer(&talk).ok()?;
        (answer.errno == 0).then(|| Ended::of_status(answer.status))
    }

    fn take_spare(&self, talk: &mut Talk) -> Result<Spare, Broken> {
        if talk.asked.is_none() {
            self.ask_for_spare(talk)?;
        }
        let (answer, descriptors) = self.answer(talk)?;
        let line = talk.asked.take().ok_or(Broken::Gone)?;
        if answer.errno != 0 {
            return Err(Broken::Os(io::Error::from_raw_os_error(answer.errno)));
        }
        self.keeps.store(answer.keeps, Ordering::Relaxed);
        let Ok([pidfd]) = <[_; 1]>::try_from(descriptors) else {
            // The line to that spare goes, so it ends.
            return Err(Broken::Os(fork::too_many_files()));
        };
        Ok(Spare { pid: answer.pid, pidfd: Pidfd::of_other(pidfd), line })
    }

    fn ask_for_spare(&self, talk: &mut Talk) -> Result<(), Broken> {
        let (near, far) = Line::pair().map_err(Broken::Os)?;
        self.ask(talk, Question::Spare, &[far.as_fd()])?;
        talk.asked = Some(near);
        Ok(())
    }

    fn ask(&self, talk: &Talk, question: Question, with: &[BorrowedFd<'_>]) -> Result<(), Broken> {
        if self.gone.load(Ordering::Relaxed) {
            return Err(Broken::Gone);
        }
        let sent = talk.line.as_ref().ok_or(Broken::Gone).and_then(|line| line.send(&question.to_message(), with));
        sent.map_err(|broken| self.noting(broken))
    }

    fn answer(&self, talk: &Talk) -> Result<(Answer, Vec<OwnedFd>), Broken> {
        let mut message = Message::default();
        let line = talk.line.as_ref().ok_or(Broken::Gone);
        let received = line.and_then(|line| line.receive_from(&mut message, self.pidfd.as_fd()));
        let received = received.map_err(|broken| self.noting(broken))?;
        if received.bytes != message.len() {
            return Err(self.noting(Broken::Gone));
        }
        Ok((Answer::parse(&message), received.descriptors))
    }

    /// Notes that the server is gone, if that is what `broken` says.
    fn noting(&self, broken: Broken) -> Broken {
        if matches!(broken, Broken::Gone) {
            // Relaxed: who reads it holds the lock of `talk`, or only wants a hint.
            self.gone.store(true, Ordering::Relaxed);
        }
        broken
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Run by the test below, as a program on a kernel that forgets how children ended.
    #[test]
    #[ignore = "run by another test"]
    fn program_on_an_older_kernel() {
        use crate::process::{JoinError, Process, StartMethod};
        use crate::shared::Semaphore;
        let start = |code: i32| {
            let exit = |code: i32| if code < 0 { std::process::abort() } else { std::process::exit(code) };
            Process::<()>::spawn_by(StartMethod::ForkServer, exit, code)
        };
        let some: Vec<_> = (0..20).map(start).collect();
        assert!(slot().server.as_ref().unwrap().keeps_children());
        for (code, child) in (0..).zip(some) {
            assert!(matches!(child.join(), Err(JoinError::Exited { code: told }) if told == code));
        }
        assert!(matches!(start(-1).join(), Err(JoinError::Signaled { signal: 6, .. })));

        // A server that is gone has taken what it knew along; the children are as they were.
        let (go_on, begun) = (Semaphore::new(0).unwrap(), Semaphore::new(0).unwrap());
        let wait = |(go_on, begun): (Semaphore, Semaphore)| {
            begun.release().unwrap();
            go_on.acquire().unwrap().forget();
        };
        let child = Process::spawn_by(StartMethod::ForkServer, wait, (go_on.clone(), begun.clone()));
        begun.acquire().unwrap().forget();
        let server = slot().server.clone().unwrap();
        server.pidfd.signal(Order::Kill).unwrap();
        server.pidfd.wait(Deadline::NEVER).unwrap();
        assert!(child.is_alive());
        go_on.release().unwrap();
        child.child().wait().unwrap();
        assert!(child.exit_code() == Some(0), "by what its function did");
        child.join().unwrap();
        assert!(matches!(start(7).join(), Err(JoinError::Exited { code: 7 } | JoinError::Failed(_))));
        assert!(matches!(start(8).join(), Err(JoinError::Exited { code: 8 })));
    }

    #[test]
    fn a_kernel_that_forgets_is_helped_by_the_server() {
        let program = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "process::forkserver::tests::program_on_an_older_kernel", "--ignored"])
            .env(serving::KEEPS, "1")
            .output()
            .unwrap();
        assert!(program.status.success(), "{}", String::from_utf8_lossy(&program.stdout));
        assert!(String::from_utf8_lossy(&program.stdout).contains("1 passed"));
    }

    impl<R: serde::Serialize + serde::de::DeserializeOwned> crate::process::Process<R> {
        fn spawn_by<F, A>(method: super::super::StartMethod, function: F, args: A) -> Self
        where
            F: Fn(A) -> R + Copy + Send + 'static,
            A: serde::Serialize + serde::de::DeserializeOwned,
        {
            crate::process::Process::builder().start_method(method).spawn(function, args).unwrap()
        }
    }

    #[test]
    fn messages_are_read_as_they_were_written() {
        let handoff = ObjectId { index: 7, generation: u32::MAX };
        for (streams, directory, kept) in [(7, true, vec![]), (0, false, vec![3]), (5, true, vec![i32::MAX, 7])] {
            let work = Work { row: 255, handoff, mask: 0x8000_0001_4000_0002, streams, directory, kept };
            let bytes = work.to_bytes();
            assert_eq!(Work::parse(&bytes), Some(work));
            assert_eq!(Work::parse(&bytes[1..]), None);
        }
        for question in [Question::Spare, Question::Status { pid: 1 << 22 }] {
            assert_eq!(Question::parse(&question.to_message()), Some(question));
        }
        assert_eq!(Question::parse(&[0; 32]), None);
        let answer = Answer { pid: 4_000_000, errno: 11, keeps: true, status: -1 };
        assert_eq!(Answer::parse(&answer.to_message()), answer);
    }
}
