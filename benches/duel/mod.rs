//! Two processes that run the same exchange from its two sides, one thing after the other without a pause: the limit, what is
//! measured, the limit again. So like is compared with like, on machines whose CPUs are now near each other, now far.
//!
//! A *limit* is a loop over raw words in memory of its own, with nothing that a crash or a full ring would need.

#[path = "../measure/placement.rs"]
#[allow(dead_code, reason = "shared with the other benches")]
pub mod placement;
mod raw;

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::Instant;

use kinfolk::channel::{bytes, spsc};
use kinfolk::{Connection, Process, pipe};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use serde::{Deserialize, Serialize};

use placement::{Placement, pin};
use raw::{Memory, MemoryName};

/// 56 bytes: with a sequence they fill a cache line.
pub type Payload = [u64; 7];

/// Slots of every ring here.
pub const SLOTS: usize = 1024;
const BATCH: usize = 32;

/// What is exchanged how. Round trips unless it says stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum What {
    /// The limit: a number in a line each way.
    Line,
    /// 56 bytes and a flag in a line each way, and no more.
    Slot,
    /// `push_spin`, `pop_spin`.
    Spin,
    /// As that, in place: `loan`, `peek`.
    SpinBytes,
    /// The limit of a stream: 56 bytes and a flag in a line; the reader tells its place eight times a lap.
    StreamLimit,
    /// A stream by `push_spin`, `pop_spin`.
    Stream,
    /// A stream by `push_slice`, `try_pop_into`.
    StreamBatch,
    /// A stream of records by `push`, `peek_spin`.
    StreamBytes,
    /// A stream through the stamped ring.
    StreamStamped,
    /// The limit of blocking: a number and a futex each way.
    Futex,
    /// `push`, `pop`.
    Blocking,
    /// A pipe of the system each way.
    Pipe,
}

#[derive(Clone, Serialize, Deserialize)]
struct Order {
    whats: Vec<What>,
    messages: u64,
    base: u64,
}

#[derive(Serialize, Deserialize)]
struct Start {
    cpu: Option<usize>,
    memory: MemoryName,
    orders: Connection<(), Order>,
    slots: (spsc::Producer<Payload>, spsc::Consumer<Payload>),
    records: (bytes::Producer, bytes::Consumer),
    pid: u32,
    fds: [i32; 2],
}

/// Everything that a side exchanges by.
pub struct Side {
    memory: Memory,
    /// 0 sends first.
    number: usize,
    out: spsc::Producer<Payload>,
    inward: spsc::Consumer<Payload>,
    records_out: bytes::Producer,
    records_in: bytes::Consumer,
    pipe_out: File,
    pipe_in: File,
}

#[inline(always)]
fn payload(number: u64) -> Payload {
    std::array::from_fn(|k| number.wrapping_add(k as u64))
}

#[inline(always)]
fn check(found: Payload, number: u64) {
    let wrong = found.iter().enumerate().fold(0, |wrong, (k, word)| wrong | (word ^ number.wrapping_add(k as u64)));
    assert_eq!(wrong, 0, "{found:?} is not the payload of {number}");
}

fn as_bytes(value: &Payload) -> [u8; 56] {
    let mut bytes = [0; 56];
    bytes.chunks_exact_mut(8).zip(value).for_each(|(to, word)| to.copy_from_slice(&word.to_ne_bytes()));
    bytes
}

fn from_bytes(bytes: &[u8; 56]) -> Payload {
    std::array::from_fn(|k| u64::from_ne_bytes(bytes[k * 8..k * 8 + 8].try_into().expect("eight bytes")))
}

impl Side {
    /// `messages` round trips: of the first side, sends and waits; of the other, waits and answers.
    #[inline(always)]
    fn round_trips(
        &mut self,
        messages: u64,
        base: u64,
        mut send: impl FnMut(&mut Self, u64),
        mut receive: impl FnMut(&mut Self, u64),
    ) {
        for number in base..base + messages {
            if self.number == 0 {
                send(self, number);
                receive(self, number);
            } else {
                receive(self, number);
                send(self, number);
            }
        }
    }

    /// `messages` messages from the first side to the other, and a word back at the end.
    #[inline(always)]
    fn stream(
        &mut self,
        messages: u64,
        base: u64,
        mut send: impl FnMut(&mut Self, u64),
        mut receive: impl FnMut(&mut Self, u64),
    ) {
        for number in base..base + messages {
            if self.number == 0 { send(self, number) } else { receive(self, number) }
        }
        self.end_of_stream(base + messages);
    }

    fn end_of_stream(&mut self, number: u64) {
        if self.number == 0 { self.memory.wait_for_end(number) } else { self.memory.end(number) }
    }

    /// This side's part of the exchange.
    #[inline(never)]
    fn run(&mut self, what: What, messages: u64, base: u64) {
        match what {
            What::Line => {
                let (out, inward) = (self.number, 1 - self.number);
                let send = |side: &mut Self, n| side.memory.set_line(out, n);
                self.round_trips(messages, base, send, |side, n| side.memory.wait_line(inward, n));
            }
            What::Slot => {
                let (out, inward) = (self.number, 1 - self.number);
                let send = |side: &mut Self, n| side.memory.write_slot(out, n, payload(n));
                self.round_trips(messages, base, send, |side, n| check(side.memory.read_slot(inward, n), n));
            }
            What::Spin => {
                let send = |side: &mut Self, n| side.out.push_spin(payload(n)).expect("push");
                self.round_trips(messages, base, send, |side, n| check(side.inward.pop_spin().expect("pop"), n));
            }
            What::SpinBytes => {
                let send = |side: &mut Self, n| side.records_out.push(&as_bytes(&payload(n))).expect("push");
                self.round_trips(messages, base, send, |side, n| {
                    let record = side.records_in.peek_spin().expect("peek");
                    let mut bytes = [0; 56];
                    record.bytes().read(0, &mut bytes);
                    check(from_bytes(&bytes), n);
                    record.release();
                });
            }
            What::StreamLimit => {
                let mut room = base;
                let send = |side: &mut Self, n: u64| {
                    while n >= room {
                        room = side.memory.place().max(base) + SLOTS as u64;
                    }
                    side.memory.write_slot(0, n, payload(n));
                };
                self.stream(messages, base, send, |side, n| {
                    check(side.memory.read_slot(0, n), n);
                    if n % (SLOTS as u64 / 8) == 0 {
                        side.memory.tell_place(n);
                    }
                });
            }
            What::Stream => {
                let send = |side: &mut Self, n| side.out.push_spin(payload(n)).expect("push");
                self.stream(messages, base, send, |side, n| check(side.inward.pop_spin().expect("pop"), n));
            }
            What::StreamBatch => self.batches(messages, base),
            What::StreamBytes => {
                let send = |side: &mut Self, n| {
                    side.records_out.push(&as_bytes(&payload(n))).expect("push");
                };
                self.stream(messages, base, send, |side, n| {
                    let record = side.records_in.peek_spin().expect("peek");
                    let mut bytes = [0; 56];
                    record.bytes().read(0, &mut bytes);
                    check(from_bytes(&bytes), n);
                    record.release();
                });
            }
            What::StreamStamped => {
                let memory = self.memory.clone();
                let (ring, lane) = (memory.ring(), self.number as u16 + 1);
                let cache = ring.cache();
                let send = |side: &mut Self, n| {
                    let claim = loop {
                        if let Ok(claim) = ring.claim(&cache, lane, 1, u32::MAX) {
                            break claim;
                        }
                    };
                    side.memory.write_granule(ring.index(claim.position), payload(n));
                    ring.commit(claim, lane);
                };
                self.stream(messages, base, send, |side, n| {
                    let taken = loop {
                        if let Ok(taken) = ring.take(&cache, lane) {
                            break taken;
                        }
                    };
                    check(side.memory.read_granule(ring.index(taken.position)), n);
                    ring.done(taken, false).expect("a ring in order");
                });
            }
            What::Futex => {
                let (out, inward) = (self.number, 1 - self.number);
                let send = |side: &mut Self, n| side.memory.set_and_wake(out, n as u32);
                self.round_trips(messages, base, send, |side, n| side.memory.sleep_until(inward, n as u32));
            }
            What::Blocking => {
                let send = |side: &mut Self, n| side.out.push(payload(n)).expect("push");
                self.round_trips(messages, base, send, |side, n| check(side.inward.pop().expect("pop"), n));
            }
            What::Pipe => {
                let send = |side: &mut Self, n| side.pipe_out.write_all(&as_bytes(&payload(n))).expect("write");
                self.round_trips(messages, base, send, |side, n| {
                    let mut bytes = [0; 56];
                    side.pipe_in.read_exact(&mut bytes).expect("read");
                    check(from_bytes(&bytes), n);
                });
            }
        }
    }

    fn batches(&mut self, messages: u64, base: u64) {
        let mut number = base;
        let mut values = [payload(0); BATCH];
        while number < base + messages {
            let count = (base + messages - number).min(BATCH as u64);
            if self.number == 0 {
                (0..count).for_each(|k| values[k as usize] = payload(number + k));
                self.out.push_slice(&values[..count as usize]).expect("push");
                number += count;
            } else {
                let popped = self.inward.try_pop_into(&mut values[..count as usize]).unwrap_or(0) as u64;
                (0..popped).for_each(|k| check(values[k as usize], number + k));
                number += popped;
            }
        }
        self.end_of_stream(number);
    }
}

/// The two sides, of which this process is the first.
pub struct Duel {
    side: Side,
    peer: Process<()>,
    orders: Connection<Order, ()>,
    base: u64,
    /// Where this process might run before.
    before: CpuSet,
}

fn peer(start: Start) {
    pin(start.cpu).expect("pin the peer");
    let open = |k: usize, write: bool| {
        let path = format!("/proc/{}/fd/{}", start.pid, start.fds[k]);
        OpenOptions::new().read(!write).write(write).open(path).expect("open the pipe")
    };
    let mut side = Side {
        memory: Memory::open(start.memory).expect("map the memory"),
        number: 1,
        out: start.slots.0,
        inward: start.slots.1,
        records_out: start.records.0,
        records_in: start.records.1,
        pipe_in: open(0, false),
        pipe_out: open(1, true),
    };
    start.orders.send(()).expect("say that all is open");
    while let Ok(Order { whats, messages, mut base }) = start.orders.recv() {
        for what in whats {
            side.run(what, messages / 4 + 1, base);
            base += messages / 4 + 1;
            side.run(what, messages, base);
            base += messages;
        }
    }
}

impl Duel {
    /// Starts the other side; `None` if there are not CPUs enough.
    pub fn start(placement: Placement) -> Option<Self> {
        let [here, there] = placement.cpus().expect("ask which CPUs there are")?;
        let before = sched_getaffinity(None).expect("ask where this process may run");
        pin(here).expect("pin this side");
        let memory = Memory::new().expect("make memory");
        let (out, its_inward) = spsc::channel(SLOTS).expect("make a channel");
        let (its_out, inward) = spsc::channel(SLOTS).expect("make a channel");
        let (records_out, its_records_in) = bytes::channel(SLOTS * 64).expect("make a channel");
        let (its_records_out, records_in) = bytes::channel(SLOTS * 64).expect("make a channel");
        let pair = || pipe_with(PipeFlags::CLOEXEC).expect("make a pipe");
        let ((its_pipe_in, pipe_out), (pipe_in, its_pipe_out)): ((OwnedFd, OwnedFd), (OwnedFd, OwnedFd)) =
            (pair(), pair());
        let (orders, taken) = pipe().expect("make a pipe");
        let start = Start {
            cpu: there,
            memory: memory.name(),
            orders: taken,
            slots: (its_out, its_inward),
            records: (its_records_out, its_records_in),
            pid: std::process::id(),
            fds: [its_pipe_in.as_raw_fd(), its_pipe_out.as_raw_fd()],
        };
        let peer = Process::spawn(peer, start).expect("start the other side");
        let (pipe_out, pipe_in) = (File::from(pipe_out), File::from(pipe_in));
        let side = Side { memory, number: 0, out, inward, records_out, records_in, pipe_out, pipe_in };
        orders.recv().expect("the other side is ready");
        Some(Self { side, peer, orders, base: SLOTS as u64, before })
    }

    /// Runs one after the other, each for `messages` messages after a quarter of that to warm up: nanoseconds a message.
    pub fn run(&mut self, whats: &[What], messages: u64) -> Vec<f64> {
        self.orders.send(Order { whats: whats.to_vec(), messages, base: self.base }).expect("give an order");
        let mut times = Vec::with_capacity(whats.len());
        for what in whats {
            self.side.run(*what, messages / 4 + 1, self.base);
            self.base += messages / 4 + 1;
            let before = Instant::now();
            self.side.run(*what, messages, self.base);
            times.push(before.elapsed().as_nanos() as f64 / messages as f64);
            self.base += messages;
        }
        times
    }

    /// Ends the other side.
    pub fn end(self) {
        drop(self.orders);
        sched_setaffinity(None, &self.before).expect("let this process run where it might before");
        self.peer.join().expect("the other side ends well");
    }
}
