//! Two processes that take turns: over two events, or over two pipes of the system with a byte in each.
//!
//! A round trip is two turns. In each, one side waits for its signal, clears it, looks whether the counter in the shared
//! memory is what the other side must have left there, counts on and gives the signal to the other side. The counter is
//! not ordered by itself, only by the signals.

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::fd::{AsRawFd, RawFd};
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use kinfolk::{Connection, Event, Process, pipe};
use rustix::pipe::{PipeFlags, pipe_with};
use serde::{Deserialize, Serialize};

use super::locks::{Memory, MemoryName};
use super::{NEVER, Placement, now_ns, pin};

/// What the counter says when there are no more turns.
const END: u64 = u64::MAX;

/// What carries the signals.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum By {
    Event,
    Pipe,
}

impl By {
    pub const ALL: [Self; 2] = [Self::Event, Self::Pipe];

    /// Its name in ids.
    pub fn name(self) -> &'static str {
        match self {
            Self::Event => "kinfolk",
            Self::Pipe => "pipe",
        }
    }
}

/// One side's signals: the one it waits for, and the other's.
enum Signals {
    Events { mine: Event, theirs: Event },
    Pipes { mine: File, theirs: File },
}

/// The other side's, on their way to it: the descriptors are those of the process that is named.
#[derive(Serialize, Deserialize)]
enum Passed {
    Events { mine: Event, theirs: Event },
    Pipes { process: u32, mine: RawFd, theirs: RawFd },
}

impl Signals {
    /// This side's, the other side's, and what has to stay open until the other side has opened its own.
    fn new(by: By) -> (Self, Passed, Vec<File>) {
        match by {
            By::Event => {
                let [here, there] = [(); 2].map(|()| Event::new().expect("make an event"));
                let passed = Passed::Events { mine: there.clone(), theirs: here.clone() };
                (Self::Events { mine: here, theirs: there }, passed, Vec::new())
            }
            By::Pipe => {
                let make = || pipe_with(PipeFlags::CLOEXEC).expect("make a pipe");
                let ((here, to_here), (there, to_there)) = (make(), make());
                let passed =
                    Passed::Pipes { process: std::process::id(), mine: there.as_raw_fd(), theirs: to_here.as_raw_fd() };
                let signals = Self::Pipes { mine: here.into(), theirs: to_there.into() };
                (signals, passed, vec![there.into(), to_here.into()])
            }
        }
    }

    fn open(passed: Passed) -> Self {
        match passed {
            Passed::Events { mine, theirs } => Self::Events { mine, theirs },
            Passed::Pipes { process, mine, theirs } => {
                let path = |fd| format!("/proc/{process}/fd/{fd}");
                let mine = File::open(path(mine)).expect("open a pipe to read");
                let theirs = OpenOptions::new().write(true).open(path(theirs)).expect("open a pipe to write");
                Self::Pipes { mine, theirs }
            }
        }
    }

    /// Waits for this side's turn, and takes the signal back.
    #[inline]
    fn take(&mut self) {
        match self {
            Self::Events { mine, .. } => {
                mine.wait();
                mine.clear();
            }
            Self::Pipes { mine, .. } => mine.read_exact(&mut [0]).expect("read a byte"),
        }
    }

    /// Makes it the other side's turn.
    #[inline]
    fn pass(&mut self) {
        match self {
            Self::Events { theirs, .. } => theirs.set(),
            Self::Pipes { theirs, .. } => theirs.write_all(&[1]).expect("write a byte"),
        }
    }
}

/// What the first side needs to know.
#[derive(Serialize, Deserialize)]
struct First {
    by: By,
    cpus: [Option<usize>; 2],
    orders: Connection<u64, u64>,
}

/// The first side: takes turns as often as it is told, and says how many nanoseconds that took.
fn first(First { by, cpus: [here, there], orders }: First) {
    pin(here).expect("pin the first side");
    let memory = Memory::new().expect("make memory");
    let (mut signals, passed, theirs) = Signals::new(by);
    let (ready, opened) = pipe::<(), ()>().expect("make a pipe");
    let other = Process::spawn(second, (passed, memory.name(), there, opened)).expect("start the second side");
    ready.recv_timeout(NEVER).expect("the second side has all it needs");
    drop(theirs);

    let mut turn = 0;
    while let Ok(trips) = orders.recv() {
        let before = now_ns();
        for _ in 0..trips {
            memory.count().store(turn + 1, Relaxed);
            signals.pass();
            signals.take();
            turn += 2;
            assert_eq!(memory.count().load(Relaxed), turn, "it is not the first side's turn");
        }
        if orders.send(now_ns() - before).is_err() {
            break;
        }
    }
    memory.count().store(END, Relaxed);
    signals.pass();
    other.join().expect("the second side ends well");
}

/// The second side: answers every turn.
fn second((passed, memory, cpu, opened): (Passed, MemoryName, Option<usize>, Connection<(), ()>)) {
    pin(cpu).expect("pin the second side");
    let memory = Memory::open(memory).expect("open the memory");
    let mut signals = Signals::open(passed);
    opened.send(()).expect("say that all is open");
    let mut turn = 1;
    loop {
        signals.take();
        match memory.count().load(Relaxed) {
            END => return,
            count => assert_eq!(count, turn, "it is not the second side's turn"),
        }
        memory.count().store(turn + 1, Relaxed);
        turn += 2;
        signals.pass();
    }
}

/// Two sides, at rest between orders.
pub struct Turns {
    first: Process<()>,
    orders: Connection<u64, u64>,
}

impl Turns {
    /// Starts both sides, and takes a few turns to see that they work.
    pub fn start(by: By, placement: Placement) -> Self {
        let cpus = placement.cpus().expect("ask which CPUs there are").expect("CPUs enough");
        let (orders, taken) = pipe().expect("make a pipe");
        let first = Process::spawn(first, First { by, cpus, orders: taken }).expect("start the first side");
        let turns = Self { first, orders };
        turns.run(3);
        turns
    }

    /// How long `trips` round trips take.
    pub fn run(&self, trips: u64) -> Duration {
        self.orders.send(trips).expect("order round trips");
        Duration::from_nanos(self.orders.recv_timeout(NEVER).expect("the time that they took"))
    }

    /// Ends both sides.
    pub fn end(self) {
        drop(self.orders);
        self.first.join().expect("the first side ends well");
    }
}

/// A process that keeps each usable CPU of the first two busy, as long as this lives.
pub struct Load(Vec<Process<()>>);

impl Load {
    pub fn start() -> Self {
        fn burn(cpu: Option<usize>) {
            pin(cpu).expect("pin a busy process");
            loop {
                super::work(1_000);
            }
        }
        let cpus = Placement::TwoCpus.cpus().expect("ask which CPUs there are");
        let cpus = cpus.or_else(|| Placement::OneCpu.cpus().ok().flatten()).expect("a CPU");
        Self(cpus.into_iter().map(|cpu| Process::spawn(burn, cpu).expect("start a busy process")).collect())
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        for busy in self.0.drain(..) {
            busy.kill().expect("kill a busy process");
            busy.join().expect_err("it was killed");
        }
    }
}
