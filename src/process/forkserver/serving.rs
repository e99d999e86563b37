//! What a fork server does: forks spares, and hands them over to its owner.
//!
//! It has one thread, so a fork of it is as good as a new process. It has mapped the family's segment, to spare its children
//! that, but takes no part: it has no row and no lane. Besides it holds the lines to its owner and its spare, and a read end of
//! the owner's life pipe.

use super::{Answer, Message, Question, Work};
use crate::error::Error;
use crate::process::child;
use crate::process::handoff::Order;
use crate::segment::Segment;
use crate::sys::fork::{self, Dispositions, Forked, Kept};
use crate::sys::identity::{Pidfd, abandon_child};
use crate::sys::line::{self, Line};
use crate::sys::overflow::Watchable;
use crate::sys::spawn;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd, RawFd};

/// What its owner left open for a server: the segment, the life pipe, the line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::process) struct Ticket(pub(in crate::process) [RawFd; 3]);

/// As for the tickets of children.
const VERSION: &str = concat!(env!("CARGO_PKG_VERSION"), ":server:");

impl Ticket {
    pub(super) fn to_text(self) -> String {
        let [segment, life, line] = self.0;
        format!("{VERSION}{segment},{life},{line}")
    }

    /// `None` if `text` is not what [`to_text`](Self::to_text) makes.
    pub(in crate::process) fn parse(text: &str) -> Option<Self> {
        let numbers: Result<Vec<RawFd>, _> = text.strip_prefix(VERSION)?.split(',').map(str::parse).collect();
        let [segment, life, line] = numbers.ok()?.try_into().ok()?;
        // Each is taken over by an owner of its own.
        (segment != life && life != line && line != segment).then_some(Self([segment, life, line]))
    }
}

/// Serves until the owner is gone.
pub(in crate::process) fn serve(ticket: Ticket) -> ! {
    match Service::set_up(ticket) {
        Ok(service) => service.run(),
        Err(error) => {
            eprintln!("kinfolk: the fork server cannot begin: {error}");
            fork::exit_now(1)
        }
    }
}

struct Service {
    segment: Segment,
    line: Line,
    /// The last spare's end of the line to it (rule 3).
    spares: Option<Line>,
    /// The end of the owner's life pipe by which this process is bound.
    life: OwnedFd,
    /// Whether the kernel remembers how children ended that it has reaped.
    remembered: bool,
    /// What the next child is to find, as this process found it.
    dispositions: Dispositions,
    /// The thread of this process, and of its forks.
    thread: Option<Watchable>,
}

impl Service {
    fn set_up(ticket: Ticket) -> Result<Self, Error> {
        let take = |fd| {
            // SAFETY: the owner opened these three for this process and names them in the ticket; nothing has run here yet
            // that could have taken the numbers for its own.
            unsafe { spawn::inherited(fd) }.map_err(|e| Error::os(format!("take over descriptor {fd}"), e))
        };
        let [segment, life, line] = ticket.0;
        let (segment, life, line) = (take(segment)?, take(life)?, Line::from_fd(take(line)?));
        let os = |e| Error::os("set up", e);
        let life = spawn::bind_life(life).map_err(os)?;
        let dispositions = Dispositions::current();
        fork::ignore_interrupts();
        fork::let_kernel_reap(false);
        // SAFETY: this process has one thread, unless a constructor of the program has started more, which `StartMethod`
        // tells programs not to do; the kernel does not reap by itself (the line above), and there are no children.
        let remembered = unsafe { fork::kernel_remembers() }.map_err(os)? && !told_to_keep();
        fork::let_kernel_reap(remembered);
        let segment = Segment::look_on(segment)?;
        let thread = child::prepare();
        fork::set_command_name(b"kinfolk-server");
        fork::let_go_of_standard_streams().map_err(os)?;
        Ok(Self { segment, line, spares: None, life, remembered, dispositions, thread })
    }

    fn run(mut self) -> ! {
        loop {
            let mut message = Message::default();
            let received = match self.line.receive(&mut message) {
                Ok(received) if received.bytes == message.len() => received,
                // The owner has dropped it, or is gone.
                _ => self.retire(),
            };
            let answer = match Question::parse(&message) {
                Some(Question::Spare) => match self.spare(received.descriptors) {
                    Ok(Made::Child(spare)) => spare.run(self),
                    Ok(Made::Spare(pid, pidfd)) => {
                        let answer = Answer { pid, keeps: !self.remembered, ..Answer::default() };
                        let told = self.tell(answer, &[pidfd.as_fd()]);
                        drop(pidfd);
                        self.let_go_of_children();
                        if !told {
                            self.retire();
                        }
                        None
                    }
                    Err(error) => {
                        self.let_go_of_children();
                        Some(refusal(&error))
                    }
                },
                Some(Question::Status { pid }) => Some(match fork::take_status(pid) {
                    Ok(status) => Answer { status, ..Answer::default() },
                    Err(error) => refusal(&error),
                }),
                None => fork::exit_now(1),
            };
            if answer.is_some_and(|answer| !self.tell(answer, &[])) {
                self.retire();
            }
        }
    }

    /// Waits for those whom nobody else could reap, and ends: the spare, which nobody has the line to; and children of an
    /// owner that waits for none of them any more. They are bound to the owner, as this process is.
    fn retire(self) -> ! {
        drop(self.line);
        fork::reap_to_the_last();
        fork::exit_now(0)
    }

    /// Has the kernel reap again, after a child was made or not, if it remembers. Whoever has ended in between has waited
    /// for this process.
    fn let_go_of_children(&self) {
        if self.remembered {
            fork::let_kernel_reap(true);
            fork::reap_all();
        }
    }

    /// Answers; whether the owner is still there to hear it.
    fn tell(&self, answer: Answer, with: &[BorrowedFd<'_>]) -> bool {
        self.line.send(&answer.to_message(), with).is_ok()
    }

    /// Makes one at the far end of a line, which came with the question.
    fn spare(&mut self, line: Vec<OwnedFd>) -> io::Result<Made> {
        self.spares = None;
        let Ok([line]) = <[_; 1]>::try_from(line) else { return Err(fork::too_many_files()) };
        let life = spawn::another_life_line(self.life.as_fd())?;
        // A child that ends before its pidfd is open has to wait for that, or nobody would know how it ended.
        fork::let_kernel_reap(false);
        // SAFETY: this process has one thread (see `set_up`).
        match unsafe { fork::fork() }? {
            Forked::Child => Ok(Made::Child(SpareChild { line: Line::from_fd(line), life })),
            Forked::Parent(pid) => {
                let pidfd = Pidfd::of_pid(pid).inspect_err(|_| abandon_child(pid))?;
                self.spares = Some(Line::from_fd(line));
                Ok(Made::Spare(pid, pidfd))
            }
        }
    }
}

/// For tests: whether to do as on a kernel that remembers nothing.
fn told_to_keep() -> bool {
    cfg!(test) && std::env::var_os(KEEPS).is_some()
}

/// The environment variable of [`told_to_keep`].
pub(super) const KEEPS: &str = "KINFOLK_TEST_KEEPS";

fn refusal(error: &io::Error) -> Answer {
    /// `EIO`, for what has no number.
    const OTHER: i32 = 5;
    Answer { errno: error.raw_os_error().unwrap_or(OTHER), ..Answer::default() }
}

/// What a fork has made.
enum Made {
    /// In the child: itself.
    Child(SpareChild),
    /// In the server: the child's pid and pidfd.
    Spare(u32, Pidfd),
}

/// A child that was just forked, its end of the line, and its own one of the life pipe.
struct SpareChild {
    line: Line,
    life: OwnedFd,
}

impl SpareChild {
    /// Waits for work, and does it.
    fn run(self, service: Service) -> ! {
        let Service { segment, line, life, dispositions, thread, .. } = service;
        // First of all: the owner takes the end of the line for the end of the server.
        drop(line);
        let own_life = spawn::bind_life(self.life);
        drop(life);
        child::rehearse(&segment);
        let mut message = [0; size_of::<Message>() + line::MOST * size_of::<RawFd>()];
        // If there is no message, the owner does not need it.
        let Ok(received) = self.line.receive(&mut message) else { fork::exit_now(0) };
        let Some(work) = Work::parse(&message[..received.bytes]) else { fork::exit_now(1) };
        drop(self.line);
        dispositions.restore();
        fork::set_signal_mask(work.mask);
        work.run(&segment, received.descriptors, own_life, thread)
    }
}

impl Work {
    fn run(self, segment: &Segment, with: Vec<OwnedFd>, life: io::Result<OwnedFd>, thread: Option<Watchable>) -> ! {
        let os = |e| Error::os("begin", e);
        let kept = Kept(&self.kept);
        let mut with = with.into_iter();
        let lock = with.next();
        // Before anything is printed.
        let furnished = self.furnish(&kept, with).map_err(os);
        let begin = || {
            segment.adopt_row(lock.ok_or_else(|| os(fork::too_many_files()))?, self.row)?;
            child::begin(segment, self.handoff, life.and_then(|life| kept.clear(life)).map_err(os)?)
        };
        child::run(begin(), thread, |order: &Order| {
            kept.place(furnished?).map_err(os)?;
            // SAFETY: this process has one thread (see `set_up`).
            unsafe { spawn::edit_environment(order.setup.environment()) };
            Ok(())
        })
    }

    /// Sets the standard streams and the working directory; gives what is to be kept.
    fn furnish(&self, kept: &Kept<'_>, mut with: impl Iterator<Item = OwnedFd>) -> io::Result<Vec<OwnedFd>> {
        for stream in (0..3).filter(|stream| self.streams >> stream & 1 == 1) {
            fork::set_standard_stream(stream, with.next().ok_or_else(fork::too_many_files)?.as_fd())?;
        }
        if self.directory {
            fork::set_working_directory(with.next().ok_or_else(fork::too_many_files)?.as_fd())?;
        }
        let given: Vec<_> = with.map(|fd| kept.clear(fd)).collect::<io::Result<_>>()?;
        if given.len() == self.kept.len() { Ok(given) } else { Err(fork::too_many_files()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ticket_is_read_as_it_was_written() {
        let ticket = Ticket([3, 4, 1023]);
        assert_eq!(Ticket::parse(&ticket.to_text()), Some(ticket));
        for text in
            ["", "0.0.0:server:1,2,3", &format!("{VERSION}1,2"), &format!("{VERSION}1,2,x"), &format!("{VERSION}3,4,3")]
        {
            assert_eq!(Ticket::parse(text), None);
        }
    }
}
