//! What is done while nobody has to wait: no memory is allocated and the system is not called.
//!
//! Allocations are counted by the allocator, per thread. System calls are forbidden by the kernel: in seccomp's strict mode
//! anything but read, write and exit ends the thread, and so does a look at the clock; so whoever says afterwards that it is
//! done has made none.

mod support;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::io::Read;
use std::os::fd::AsRawFd;
use std::time::Duration;

use kinfolk::{Array, Event, Mutex, Process, Queue, RwLock, Semaphore, Value, pipe};
use serde::{Deserialize, Serialize};
use support::watchdog;

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

struct Counting;

// SAFETY: everything is the system allocator's.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.set(ALLOCATIONS.get() + 1);
        // SAFETY: the caller's promise.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(at, layout) }
    }

    unsafe fn realloc(&self, at: *mut u8, layout: Layout, bytes: usize) -> *mut u8 {
        ALLOCATIONS.set(ALLOCATIONS.get() + 1);
        // SAFETY: the caller's promise.
        unsafe { System.realloc(at, layout, bytes) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// A small message of every day.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
struct Tick {
    number: u64,
    price: f64,
    buys: bool,
}

fn tick(number: u64) -> Tick {
    Tick { number, price: number as f64 / 4.0, buys: number % 2 == 0 }
}

/// What is done again and again; each is checked to have done something.
struct Work {
    queue: Queue<Tick>,
    bounded: Queue<Tick>,
    bytes: Queue<Vec<u8>>,
    ends: (kinfolk::Connection<Tick, Tick>, kinfolk::Connection<Tick, Tick>),
    total: Mutex<u64>,
    table: RwLock<u64>,
    permits: Semaphore,
    event: Event,
    count: Value<u64>,
    place: Value<[u64; 3]>,
    places: Array<[u64; 3]>,
}

impl Work {
    fn new() -> Self {
        Self {
            queue: Queue::new(0).unwrap(),
            bounded: Queue::new(16).unwrap(),
            bytes: Queue::new(0).unwrap(),
            ends: pipe().unwrap(),
            total: Mutex::new(0).unwrap(),
            table: RwLock::new(0).unwrap(),
            permits: Semaphore::new(2).unwrap(),
            event: Event::new().unwrap(),
            count: Value::new(0).unwrap(),
            place: Value::new([0; 3]).unwrap(),
            places: Array::new(10).unwrap(),
        }
    }

    fn round(&self, number: u64) {
        for queue in [&self.queue, &self.bounded] {
            queue.put(tick(number)).unwrap();
            queue.try_put(tick(number + 1)).unwrap();
            assert_eq!(queue.get().unwrap(), tick(number));
            assert_eq!(queue.try_get().unwrap(), tick(number + 1));
        }
        let mut loan = self.bytes.loan(4000).unwrap();
        loan.write(0, &number.to_le_bytes());
        loan.commit();
        let (message, mut found) = (self.bytes.get_ref().unwrap(), [0; 8]);
        message.read(0, &mut found);
        drop(message);
        assert_eq!(u64::from_le_bytes(found), number);

        let (here, there) = &self.ends;
        here.send(tick(number)).unwrap();
        assert_eq!(there.recv().unwrap(), tick(number));

        let before = *self.total.lock().unwrap();
        *self.total.lock().unwrap() += 1;
        assert_eq!(*self.total.lock().unwrap(), before + 1);
        *self.table.write().unwrap() += 1;
        assert!(*self.table.read().unwrap() > 0);
        drop(self.permits.acquire().unwrap());
        self.event.set();
        assert!(self.event.is_set());
        self.event.wait();
        self.event.clear();

        let before = self.count.add(1);
        assert_eq!(self.count.lock().unwrap().get().unwrap(), before + 1);
        self.place.set([number; 3]).unwrap();
        assert_eq!(self.place.update(|now| now.map(|n| n + 1)).unwrap(), ([number; 3], [number + 1; 3]));
        let mut some = [[0; 3]; 2];
        self.places.write_slice(8, &[[number; 3]; 2]).unwrap();
        self.places.read_into(8, &mut some).unwrap();
        assert_eq!(some, [[number; 3]; 2]);
    }
}

#[test]
fn nothing_is_allocated() {
    let work = Work::new();
    work.round(0);
    let before = ALLOCATIONS.get();
    drop(std::hint::black_box(Box::new(1)));
    assert_eq!(ALLOCATIONS.get(), before + 1, "the allocator counts");
    for number in 1..10_000 {
        work.round(number);
    }
    assert_eq!(ALLOCATIONS.get(), before + 1);
}

/// Enters strict mode, works, writes a byte when it is done, and turns until it is killed: nothing else is allowed any more.
fn in_strict_mode((fd, calls): (i32, bool)) {
    if calls {
        // What the runtime says of a thread that the kernel ended is expected, and nobody's business.
        // SAFETY: nothing of ours uses it from here on.
        unsafe { libc::close(2) };
    }
    let work = Work::new();
    for number in 0..100 {
        work.round(number);
    }
    // SAFETY: from here on this thread may only read, write and exit.
    assert_eq!(unsafe { libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_STRICT) }, 0);
    for number in 100..10_000 {
        work.round(number);
        if calls {
            // SAFETY: it kills us.
            unsafe { libc::syscall(libc::SYS_getppid) };
        }
    }
    // SAFETY: a byte of ours to a pipe that was kept open for us.
    unsafe { libc::write(fd, [1u8].as_ptr().cast(), 1) };
    loop {
        std::hint::spin_loop();
    }
}

/// Whether a child that works in strict mode comes to its end.
fn ends(calls: bool) -> bool {
    let _watchdog = watchdog(Duration::from_secs(60));
    let (reader, writer) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap();
    let mut reader = std::fs::File::from(reader);
    let fd = writer.as_raw_fd();
    let child = Process::builder().daemon(true).keep(writer).spawn(in_strict_mode, (fd, calls)).unwrap();
    let mut done = [0];
    let count = reader.read(&mut done).unwrap();
    let _ = child.kill();
    let _ = child.join();
    (count, done) == (1, [1])
}

#[test]
fn the_system_is_not_called() {
    assert!(ends(false), "a system call was made");
    assert!(!ends(true), "strict mode forbids system calls");
}
