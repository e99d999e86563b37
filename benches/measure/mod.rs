//! Two processes that exchange messages over a transport: what the benches and the `kinfolk` binary time.
//!
//! [`Pair::start`] starts the *driver*, which sends and holds the clock, and through it the *peer*, which receives and
//! answers. Both are processes of their own, so that each is pinned before it first uses a queue, and the caller stays
//! where it is. The driver takes orders over a pipe of the library, between the samples, never during one.
//!
//! Every payload is written whole by its sender, read whole by its receiver and checked there, by the same code for all
//! transports ([`wire`]).

mod placement;
mod wire;

use std::error::Error;
use std::time::{Duration, Instant};

use kinfolk::process::Builder;
use kinfolk::{Connection, Process};
use serde::{Deserialize, Serialize};

pub use placement::Placement;
use wire::{ANSWER, Ends, LAST, Wire};

/// Anything that went wrong; it is only ever printed.
pub type Failure = Box<dyn Error + Send + Sync>;

/// An answer that takes longer than this is a hang.
const ORDER_TIMEOUT: Duration = Duration::from_secs(60);
/// How long the pair runs before the clock does.
const WARM_UP: Duration = Duration::from_micros(200);

/// The payloads of the comparison, in bytes.
pub const PAYLOADS: [usize; 5] = [8, 64, 1 << 10, 64 << 10, 1 << 20];

/// What carries the messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Who {
    /// Two queues of this library.
    Kinfolk,
    /// Two pipes of the system.
    Pipe,
    /// A pair of stream sockets.
    UnixSocket,
}

impl Who {
    /// The library and its peers.
    pub const ALL: [Self; 3] = [Self::Kinfolk, Self::Pipe, Self::UnixSocket];

    /// Its name in ids.
    pub fn name(self) -> &'static str {
        match self {
            Self::Kinfolk => "kinfolk",
            Self::Pipe => "pipe",
            Self::UnixSocket => "unix_socket",
        }
    }
}

/// Who waits for whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Shape {
    /// Every message is answered by one of the same size before the next is sent.
    #[serde(rename = "rtt")]
    RoundTrip,
    /// Messages go one way; the last of a batch is answered by 8 bytes, so the batch ends when all has arrived.
    #[serde(rename = "oneway")]
    OneWay,
}

impl Shape {
    /// Both.
    pub const ALL: [Self; 2] = [Self::RoundTrip, Self::OneWay];

    /// Its name in ids.
    pub fn name(self) -> &'static str {
        match self {
            Self::RoundTrip => "rtt",
            Self::OneWay => "oneway",
        }
    }
}

/// One thing to measure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Case {
    /// Who waits for whom.
    pub shape: Shape,
    /// Bytes of a message.
    pub payload: usize,
    /// Where the two processes run.
    pub placement: Placement,
    /// What carries the messages.
    pub who: Who,
}

impl Case {
    /// Its name: `rtt/64B/two_cpus/kinfolk`.
    pub fn id(&self) -> String {
        let (shape, size) = (self.shape.name(), size_name(self.payload));
        format!("{shape}/{size}/{}/{}", self.placement.name(), self.who.name())
    }
}

/// A number of bytes as it stands in ids: `64B`, `1KiB`.
pub fn size_name(bytes: usize) -> String {
    match bytes {
        n if n >= 1 << 20 => format!("{}MiB", n >> 20),
        n if n >= 1 << 10 => format!("{}KiB", n >> 10),
        n => format!("{n}B"),
    }
}

/// Asks the driver for `batches` timed batches of `messages` messages (of round trips, if each is answered).
#[derive(Serialize, Deserialize)]
struct Order {
    batches: u32,
    messages: u32,
}

/// What the driver needs to know.
#[derive(Serialize, Deserialize)]
struct Drive {
    case: Case,
    cpus: [Option<usize>; 2],
    orders: Connection<Vec<u64>, Order>,
}

/// What the peer needs to know.
#[derive(Serialize, Deserialize)]
struct Answer {
    case: Case,
    cpu: Option<usize>,
    ends: Ends,
}

/// A driver and its peer, at rest between orders.
pub struct Pair {
    driver: Process<()>,
    orders: Connection<Order, Vec<u64>>,
}

impl Pair {
    /// Starts both processes, and exchanges a few messages to see that they work.
    ///
    /// # Errors
    /// If a process or a transport cannot be made, if there are not CPUs enough, or if the first messages are wrong.
    pub fn start(case: Case) -> Result<Self, Failure> {
        let cpus = case.placement.cpus()?.ok_or("this machine has one CPU only")?;
        let (orders, taken) = kinfolk::pipe()?;
        let driver = Process::spawn(drive, Drive { case, cpus, orders: taken })?;
        let mut pair = Self { driver, orders };
        for messages in [1, 3] {
            pair.run(1, messages)?;
        }
        Ok(pair)
    }

    /// Times `batches` batches of `messages` messages each: the nanoseconds of each batch.
    ///
    /// # Errors
    /// If a message was wrong or a process died.
    pub fn run(&mut self, batches: u32, messages: u32) -> Result<Vec<u64>, Failure> {
        self.orders.send(Order { batches, messages })?;
        Ok(self.orders.recv_timeout(ORDER_TIMEOUT)?)
    }

    /// Ends both processes.
    ///
    /// # Errors
    /// If one of them had failed.
    pub fn finish(self) -> Result<(), Failure> {
        drop(self.orders);
        Ok(self.driver.join()?)
    }
}

/// The first process: sends, and holds the clock.
fn drive(Drive { case, cpus: [here, there], orders }: Drive) {
    placement::pin(here).expect("pin the driver");
    let (mut wire, ends, kept) = Wire::pair(case.who).expect("make the transport");
    let builder = kept.into_iter().fold(Process::builder(), Builder::keep);
    let peer = builder.spawn(answer, Answer { case, cpu: there, ends }).expect("start the peer");

    while let Ok(order) = orders.recv() {
        let start = Instant::now();
        while start.elapsed() < WARM_UP {
            batch(&mut wire, case, 1);
        }
        let mut times = Vec::with_capacity(order.batches as usize);
        let mut before = Instant::now();
        for _ in 0..order.batches {
            batch(&mut wire, case, order.messages);
            let after = Instant::now();
            times.push((after - before).as_nanos() as u64);
            before = after;
        }
        if orders.send(times).is_err() {
            break;
        }
    }
    wire.send(case.payload, LAST).expect("send the last message");
    peer.join().expect("the peer ends well");
}

/// Sends `messages` messages, and waits for what is answered.
#[inline]
fn batch(wire: &mut Wire, case: Case, messages: u32) {
    for left in (0..messages).rev() {
        let answered = case.shape == Shape::RoundTrip || left == 0;
        wire.send(case.payload, if answered { ANSWER } else { 0 }).expect("send a message");
        if answered {
            wire.receive(answer_bytes(case)).expect("receive the answer");
        }
    }
}

fn answer_bytes(case: Case) -> usize {
    match case.shape {
        Shape::RoundTrip => case.payload,
        Shape::OneWay => 8,
    }
}

/// The second process: receives, and answers what wants an answer.
fn answer(Answer { case, cpu, ends }: Answer) {
    placement::pin(cpu).expect("pin the peer");
    let mut wire = Wire::from_ends(ends);
    loop {
        match wire.receive(case.payload).expect("receive a message") {
            0 => {}
            LAST => return,
            _ => wire.send(answer_bytes(case), 0).expect("send the answer"),
        }
    }
}
