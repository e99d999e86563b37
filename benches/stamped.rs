//! Rings of fixed-size values against channels between threads and a pipe of the system: messages of 56 bytes one way.
//!
//! A round is an order to every worker, so many messages from the producers to the consumers, and the consumers' word
//! that all have come. Each worker is pinned: of one to one each side has a CPU, of two to two each CPU has a producer
//! and a consumer. Rings and pipes have workers in processes of their own, the other channels in threads. A consumer
//! looks at every message, and a round that lost one does not end.
//!
//! All times are for one message. Of one to one it is the median of those that the consumer took for its blocks of
//! messages, so that whatever else the machine does in a round counts little. Of two to two it is that of the round.

#[path = "measure/placement.rs"]
#[allow(dead_code, reason = "shared with the other benches")]
mod placement;

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use criterion::{Criterion, SamplingMode, Throughput, criterion_group, criterion_main};
use kinfolk::channel::stamped::{Mpsc, Ring, Spmc, Spsc};
use kinfolk::process::Builder;
use kinfolk::{Connection, Process, pipe};
use placement::{Placement, pin};
use serde::{Deserialize, Serialize};

type Message = [u64; 7];

/// Slots of every ring and channel; the pipe has as many bytes.
const CAPACITY: usize = 256;
/// Messages of a block: many more than a ring holds, so that none is only the emptying of a full one.
const BLOCK: u64 = 5_000;
/// Messages of a round.
const ROUND: u64 = 40 * BLOCK;
const END: u64 = u64::MAX;
/// Nothing takes this long.
const NEVER: Duration = Duration::from_secs(60);

fn message(number: u64) -> Message {
    [number, 1, 2, 3, 4, 5, !number]
}

/// Pushes `count` messages and the end.
fn produce(count: u64, mut push: impl FnMut(Message)) {
    (0..count).for_each(|number| push(message(number)));
    push(message(END));
}

/// How many messages came, and the median of the nanoseconds that each [`BLOCK`] of them took.
type Came = (u64, u64);

/// Pops until an end comes.
fn consume(mut pop: impl FnMut() -> Message) -> Came {
    let (mut blocks, mut start) = (Vec::new(), Instant::now());
    for count in 0.. {
        let got = pop();
        assert_eq!(got[6], !got[0], "a message in pieces");
        if got[0] == END {
            blocks.sort_unstable();
            return (count, blocks.get(blocks.len() / 2).copied().unwrap_or(0));
        }
        if count % BLOCK == BLOCK - 1 {
            let now = Instant::now();
            blocks.push((now - start).as_nanos() as u64);
            start = now;
        }
    }
    unreachable!("an endless range ended")
}

/// What a process does in a round.
#[derive(Serialize, Deserialize)]
enum Work {
    Push(Ring<Message>),
    Pop(Ring<Message>),
    PushOne(Spsc<Message>),
    PopOne(Spsc<Message>),
    PushAll(Spsc<Message>),
    PopAll(Spsc<Message>),
    PushMpsc(Mpsc<Message>),
    PopMpsc(Mpsc<Message>),
    PushSpmc(Spmc<Message>),
    PopSpmc(Spmc<Message>),
    Write(RawFd),
    Read(RawFd),
}

fn own(fd: RawFd) -> File {
    // SAFETY: a descriptor that was kept for this worker alone.
    File::from(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// A process that works when told: on which CPU, at what.
fn worker((work, cpu, orders): (Work, Option<usize>, Connection<Came, u64>)) {
    pin(cpu).expect("pin the worker");
    let rounds = |round: &mut dyn FnMut(u64) -> Came| {
        while let Ok(count) = orders.recv() {
            orders.send(round(count)).expect("tell the end of the round");
        }
    };
    macro_rules! pushing {
        ($ring:expr) => {{
            #[allow(unused_mut, reason = "of many it is shared")]
            let mut ring = $ring;
            rounds(&mut |count| {
                produce(count, |message| ring.push(message).expect("push"));
                (0, 0)
            })
        }};
    }
    macro_rules! popping {
        ($ring:expr) => {{
            #[allow(unused_mut, reason = "of many it is shared")]
            let mut ring = $ring;
            rounds(&mut |_| consume(|| ring.pop().expect("pop")))
        }};
    }
    match work {
        Work::Push(ring) => pushing!(ring),
        Work::Pop(ring) => popping!(ring),
        Work::PushOne(ring) => pushing!(ring.producer().expect("the one producer")),
        Work::PopOne(ring) => popping!(ring.consumer().expect("the one consumer")),
        Work::PushMpsc(ring) => pushing!(ring),
        Work::PopMpsc(ring) => popping!(ring.consumer().expect("the one consumer")),
        Work::PushSpmc(ring) => pushing!(ring.producer().expect("the one producer")),
        Work::PopSpmc(ring) => popping!(ring),
        Work::PushAll(ring) => {
            let mut producer = ring.producer().expect("the one producer");
            rounds(&mut |count| {
                let mut batch = Vec::with_capacity(64);
                produce(count, |message| {
                    batch.push(message);
                    if batch.len() == 64 || message[0] == END {
                        let mut pushed = 0;
                        while pushed < batch.len() {
                            pushed += producer.try_push_all(&batch[pushed..]).expect("push");
                        }
                        batch.clear();
                    }
                });
                (0, 0)
            });
        }
        Work::PopAll(ring) => {
            let mut consumer = ring.consumer().expect("the one consumer");
            rounds(&mut |_| {
                let (mut batch, mut next) = (Vec::with_capacity(64), 0);
                consume(|| {
                    if next == batch.len() {
                        (next, _) = (0, batch.clear());
                        batch.push(consumer.pop().expect("pop"));
                        consumer.try_pop_all(&mut batch, 63).expect("pop");
                    }
                    next += 1;
                    batch[next - 1]
                })
            });
        }
        Work::Write(fd) => {
            let mut file = own(fd);
            rounds(&mut |count| {
                produce(count, |message| file.write_all(bytemuck::bytes_of(&message)).expect("write"));
                (0, 0)
            });
        }
        Work::Read(fd) => {
            let mut file = own(fd);
            rounds(&mut |_| {
                consume(|| {
                    let mut message = Message::default();
                    file.read_exact(bytemuck::bytes_of_mut(&mut message)).expect("read");
                    message
                })
            });
        }
    }
}

/// One worker, as whoever gives the orders sees it.
enum Worker {
    Process(Process<()>, Connection<u64, Came>),
    Thread(mpsc::Sender<u64>, mpsc::Receiver<Came>),
}

impl Worker {
    fn process(cpu: Option<usize>, work: Work) -> Self {
        Self::built(Process::builder(), cpu, work)
    }

    fn built(builder: Builder, cpu: Option<usize>, work: Work) -> Self {
        let (here, there) = pipe().expect("make a pipe");
        Self::Process(builder.spawn(worker, (work, cpu, there)).expect("start a worker"), here)
    }

    fn thread(cpu: Option<usize>, mut round: impl FnMut(u64) -> Came + Send + 'static) -> Self {
        let ((order, orders), (end, ends)) = (mpsc::channel(), mpsc::channel());
        std::thread::spawn(move || {
            pin(cpu).expect("pin the worker");
            while let Ok(count) = orders.recv() {
                end.send(round(count)).expect("tell the end of the round");
            }
        });
        Self::Thread(order, ends)
    }

    fn order(&self, count: u64) {
        match self {
            Self::Process(_, orders) => orders.send(count).expect("the worker lives"),
            Self::Thread(order, _) => order.send(count).expect("the worker lives"),
        }
    }

    fn end(&self) -> Came {
        match self {
            Self::Process(_, orders) => orders.recv_timeout(NEVER).expect("the worker lives"),
            Self::Thread(_, ends) => ends.recv_timeout(NEVER).expect("the worker lives"),
        }
    }

    fn finish(self) {
        if let Self::Process(process, orders) = self {
            drop(orders);
            process.join().expect("the worker ends well");
        }
    }
}

/// Nanoseconds a message, of so many in all from these producers to these consumers.
fn round(producers: &[Worker], consumers: &[Worker], messages: u64) -> f64 {
    let each = messages / producers.len() as u64;
    let start = Instant::now();
    consumers.iter().chain(producers).for_each(|worker| worker.order(each));
    let came: Vec<Came> = consumers.iter().map(Worker::end).collect();
    let took = start.elapsed();
    assert_eq!(came.iter().map(|(count, _)| count).sum::<u64>(), each * producers.len() as u64);
    for producer in producers {
        producer.end();
    }
    match came[..] {
        [(_, median)] if median > 0 => median as f64 / BLOCK as f64,
        _ => took.as_nanos() as f64 / messages as f64,
    }
}

fn time(criterion: &mut Criterion, name: &str, workers: impl Fn() -> (Vec<Worker>, Vec<Worker>)) {
    let mut group = criterion.benchmark_group("56B");
    group.throughput(Throughput::Elements(1)).sampling_mode(SamplingMode::Flat);
    let mut started = None;
    group.bench_function(name, |bencher| {
        // Started when it is reached: a filter starts nothing in vain. The first round checks that it works.
        let (producers, consumers) = started.get_or_insert_with(|| {
            let (producers, consumers) = workers();
            round(&producers, &consumers, 10);
            (producers, consumers)
        });
        // As many whole rounds as it takes to pass that many messages: criterion doubles the number while it warms up and
        // plans by the time that it saw go by, so the work has to grow with the number.
        bencher.iter_custom(|count| {
            let rounds = count.div_ceil(ROUND);
            let each = (0..rounds).map(|_| round(producers, consumers, ROUND)).sum::<f64>() / rounds as f64;
            Duration::from_secs_f64(each * count as f64 / 1e9)
        });
    });
    group.finish();
    if let Some((producers, consumers)) = started {
        producers.into_iter().chain(consumers).for_each(Worker::finish);
    }
}

fn stamped(criterion: &mut Criterion) {
    let Some([here, there]) = Placement::TwoCpus.cpus().expect("ask which CPUs there are") else {
        println!("skipped: there is one CPU only");
        return;
    };
    macro_rules! rings {
        ($name:literal, $ring:ty, $push:ident, $pop:ident) => {
            time(criterion, $name, || {
                let ring = <$ring>::with_capacity(CAPACITY).expect("make a ring");
                (vec![Worker::process(here, Work::$push(ring.clone()))], vec![Worker::process(there, Work::$pop(ring))])
            });
        };
    }
    rings!("1to1/kinfolk_spsc", Spsc<Message>, PushOne, PopOne);
    rings!("1to1/kinfolk_spsc_batches", Spsc<Message>, PushAll, PopAll);
    rings!("1to1/kinfolk_mpsc", Mpsc<Message>, PushMpsc, PopMpsc);
    rings!("1to1/kinfolk_spmc", Spmc<Message>, PushSpmc, PopSpmc);
    rings!("1to1/kinfolk_mpmc", Ring<Message>, Push, Pop);
    let cross = |cpus: &[Option<usize>]| {
        let (to, from) = crossbeam_channel::bounded::<Message>(CAPACITY);
        let push = |cpu: &Option<usize>| {
            let to = to.clone();
            Worker::thread(*cpu, move |count| {
                produce(count, |message| to.send(message).expect("send"));
                (0, 0)
            })
        };
        let pop = |cpu: &Option<usize>| {
            let from = from.clone();
            Worker::thread(*cpu, move |_| consume(|| from.recv().expect("receive")))
        };
        match cpus {
            [one, other] => (vec![push(one)], vec![pop(other)]),
            both => (both[..2].iter().map(push).collect(), both[2..].iter().map(pop).collect::<Vec<_>>()),
        }
    };
    time(criterion, "1to1/crossbeam_threads", || cross(&[here, there]));
    time(criterion, "1to1/std_threads", || {
        let (to, from) = mpsc::sync_channel::<Message>(CAPACITY);
        let push = move |count| {
            produce(count, |message| to.send(message).expect("send"));
            (0, 0)
        };
        let pop = move |_| consume(|| from.recv().expect("receive"));
        (vec![Worker::thread(here, push)], vec![Worker::thread(there, pop)])
    });
    time(criterion, "1to1/pipe", || {
        let (reader, writer) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).expect("make a pipe");
        rustix::pipe::fcntl_setpipe_size(&writer, CAPACITY * 64).expect("set its size");
        let (write, read) = (Work::Write(writer.as_raw_fd()), Work::Read(reader.as_raw_fd()));
        (
            vec![Worker::built(Process::builder().keep(writer), here, write)],
            vec![Worker::built(Process::builder().keep(reader), there, read)],
        )
    });
    time(criterion, "2to2/kinfolk_mpmc", || {
        let ring = Ring::<Message>::new(CAPACITY).expect("make a ring");
        let push = |cpu| Worker::process(cpu, Work::Push(ring.clone()));
        let pop = |cpu| Worker::process(cpu, Work::Pop(ring.clone()));
        (vec![push(here), push(there)], vec![pop(here), pop(there)])
    });
    time(criterion, "2to2/crossbeam_threads", || cross(&[here, there, here, there]));
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .sample_size(20)
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(2));
    targets = stamped
}
criterion_main!(benches);
