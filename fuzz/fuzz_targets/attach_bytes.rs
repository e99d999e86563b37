//! Arbitrary bytes as the file of a segment, and a good segment with some bytes changed, before it is attached or while it
//! is in use: an error or an answer from every operation, in bounded time.
#![no_main]

use std::os::fd::{AsFd, OwnedFd};
use std::sync::OnceLock;
use std::time::Duration;

use arbitrary::Arbitrary;
use kinfolk::segment::ObjectId;
use kinfolk::{
    Barrier, Condvar, Connection, Event, Lock, Manager, Mutex, Once, Queue, RLock, RwLock, Segment, Semaphore, pipe,
};
use libfuzzer_sys::fuzz_target;
use rustix::fs::{MemfdFlags, SealFlags};

const NOW: Duration = Duration::ZERO;
const SIZE: u64 = 2 << 20;
const PAGE: usize = 4096;

#[derive(Arbitrary, Debug)]
enum Plan {
    Bytes(Vec<u8>),
    Changed { before: Vec<Change>, during: Vec<(Use, Vec<Change>)> },
}

/// A word that is written.
#[derive(Arbitrary, Debug)]
struct Change {
    place: Place,
    value: Change64,
}

/// Somewhere in the first pages that are not empty: there are the tables and the objects.
#[derive(Arbitrary, Debug, Clone, Copy)]
struct Place {
    page: u8,
    word: u16,
}

#[derive(Arbitrary, Debug)]
enum Change64 {
    Set(u64),
    Small(u8),
    Flip(u8),
    Low(u32),
    High(u32),
    Add(i8),
}

#[derive(Arbitrary, Debug, Clone, Copy)]
enum Use {
    Put(u16),
    Get,
    Lease(bool),
    Pipe,
    Handles,
    Mutex,
    RLock,
    RwLock,
    Semaphore,
    Condvar,
    Event,
    Barrier,
    Once,
    Names,
    Inspect,
    Create,
    All,
}

/// What a good segment looks like: the pages that are not empty, and the objects in it.
struct Template {
    pages: Vec<(u64, Vec<u8>)>,
    ids: Ids,
}

#[derive(Clone, Copy)]
struct Ids {
    queue: ObjectId,
    ends: ObjectId,
    mutex: ObjectId,
    rlock: ObjectId,
    rwlock: ObjectId,
    semaphore: ObjectId,
    condvar: ObjectId,
    event: ObjectId,
    barrier: ObjectId,
    once: ObjectId,
}

type End = Connection<Vec<u8>, u32>;

fn varint(mut value: u128) -> Vec<u8> {
    let mut bytes = Vec::new();
    while value > 0x7f {
        bytes.push(value as u8 | 0x80);
        value >>= 7;
    }
    bytes.push(value as u8);
    bytes
}

/// Everything in the family's segment, then its bytes under another name, so that a handle in a message means the copy.
fn template() -> Template {
    let segment = Segment::builder().size(SIZE).processes(4).lanes(8).make_family().expect("the first of this process");
    let queue = Queue::<()>::builder().bytes(8192).leases(4).build::<Vec<u8>>().expect("a queue");
    for k in 0..9 {
        queue.put(vec![k; 40 * k as usize]).expect("room");
    }
    drop(queue.get());
    let _leased = queue.lease().expect("eight");
    queue.put(vec![9; 20_000]).expect("room");
    let ends = Queue::<()>::builder().bytes(4096).build::<End>().expect("a queue");
    let (one, other) = pipe::<Vec<u8>, u32>().expect("a pipe");
    one.send(vec![1; 100]).expect("room");
    other.send(7).expect("room");
    for _ in 0..3 {
        ends.put(one.clone()).expect("room");
    }
    let mutex = Mutex::new(1u64).expect("a lock");
    let _held = mutex.lock().expect("nobody has it");
    let (rlock, rwlock) = (RLock::new().expect("a lock"), RwLock::new(2u64).expect("a lock"));
    let _read = rwlock.read().expect("nobody has it");
    let (semaphore, condvar) = (Semaphore::new(3).expect("permits"), Condvar::new().expect("a condition"));
    let _permit = semaphore.acquire().expect("three");
    let (event, barrier, once) =
        (Event::new().expect("an event"), Barrier::new(2).expect("a barrier"), Once::new().expect("a once"));
    let manager = Manager::from(segment.clone());
    manager.publish("queue", &(queue.clone(), 5u32)).expect("a name");
    manager.publish("event", &event).expect("another");
    let ids = Ids {
        queue: queue.id(),
        ends: ends.id(),
        mutex: mutex.id(),
        rlock: rlock.id(),
        rwlock: rwlock.id(),
        semaphore: semaphore.id(),
        condvar: condvar.id(),
        event: event.id(),
        barrier: barrier.id(),
        once: once.id(),
    };
    let mut bytes = vec![0; SIZE as usize];
    assert_eq!(rustix::io::pread(&segment, &mut bytes, 0).expect("a memory file"), bytes.len());
    let half = |at: usize| u128::from(u64::from_le_bytes(bytes[at..at + 8].try_into().expect("8 bytes")));
    let id = half(40) << 64 | half(32);
    let (old, new) = (varint(id), varint(id ^ 1));
    bytes[32] ^= 1;
    let mut renamed = 0;
    for at in 0..bytes.len() - old.len() {
        if bytes[at..].starts_with(&old) {
            bytes[at..at + new.len()].copy_from_slice(&new);
            renamed += 1;
        }
    }
    assert_eq!(renamed, 5, "three handles in messages, two published");
    let pages = bytes.chunks(PAGE).enumerate().filter(|(_, page)| page.iter().any(|b| *b != 0));
    Template { pages: pages.map(|(k, page)| ((k * PAGE) as u64, page.to_vec())).collect(), ids }
}

fn file(bytes: u64) -> OwnedFd {
    let fd = rustix::fs::memfd_create("fuzz", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING).expect("a memory file");
    rustix::fs::ftruncate(&fd, bytes).expect("its size");
    fd
}

fn seal(fd: &OwnedFd) {
    rustix::fs::fcntl_add_seals(fd, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL).expect("its seals");
}

fn write(fd: impl AsFd, bytes: &[u8], at: u64) {
    assert_eq!(rustix::io::pwrite(fd, bytes, at).expect("inside"), bytes.len());
}

fn change(fd: impl AsFd, template: &Template, change: &Change) {
    let pages = &template.pages;
    let at = pages[change.place.page as usize % pages.len()].0 + u64::from(change.place.word) % 512 * 8;
    let mut old = [0; 8];
    rustix::io::pread(&fd, &mut old, at).expect("inside");
    let old = u64::from_le_bytes(old);
    let new = match change.value {
        Change64::Set(value) => value,
        Change64::Small(value) => value.into(),
        Change64::Flip(bit) => old ^ 1 << (bit % 64),
        Change64::Low(value) => old >> 32 << 32 | u64::from(value),
        Change64::High(value) => old & 0xffff_ffff | u64::from(value) << 32,
        Change64::Add(value) => old.wrapping_add_signed(value.into()),
    };
    write(fd, &new.to_le_bytes(), at);
}

/// What is open in the segment, of what could be opened.
struct Open {
    segment: Segment,
    queue: Option<Queue<Vec<u8>>>,
    ends: Option<Queue<End>>,
    end: Option<End>,
    mutex: Option<Mutex<u64>>,
    rlock: Option<RLock>,
    rwlock: Option<RwLock<u64>>,
    semaphore: Option<Semaphore>,
    condvar: Option<Condvar>,
    event: Option<Event>,
    barrier: Option<Barrier>,
    once: Option<Once>,
}

impl Open {
    fn new(segment: Segment, ids: Ids) -> Self {
        Self {
            queue: Queue::open(&segment, ids.queue).ok(),
            ends: Queue::open(&segment, ids.ends).ok(),
            end: None,
            mutex: Mutex::open(&segment, ids.mutex).ok(),
            rlock: RLock::open(&segment, ids.rlock).ok(),
            rwlock: RwLock::open(&segment, ids.rwlock).ok(),
            semaphore: Semaphore::open(&segment, ids.semaphore).ok(),
            condvar: Condvar::open(&segment, ids.condvar).ok(),
            event: Event::open(&segment, ids.event).ok(),
            barrier: Barrier::open(&segment, ids.barrier).ok(),
            once: Once::open(&segment, ids.once).ok(),
            segment,
        }
    }

    fn use_it(&mut self, what: Use) {
        match what {
            Use::Put(len) => self.queue.iter().for_each(|queue| drop(queue.try_put(vec![3; len.into()]))),
            Use::Get => self.queue.iter().for_each(|queue| {
                let _ = (queue.len(), queue.is_empty(), queue.get_delivery(Some(NOW)), queue.try_get());
            }),
            Use::Lease(ack) => self.queue.iter().for_each(|queue| {
                if let Ok(lease) = queue.try_lease() {
                    if ack { drop(lease.ack()) } else { drop(lease) }
                }
            }),
            Use::Handles => {
                if let Some(Ok(end)) = self.ends.as_ref().map(Queue::try_get) {
                    let _ = self.ends.iter().map(|ends| ends.try_put(end.clone())).count();
                    self.end = Some(end);
                }
            }
            Use::Pipe => self.end.iter().for_each(|end| {
                let _ =
                    (end.poll(Some(NOW)), end.try_recv(), end.try_send(vec![4; 100]), end.try_send(vec![5; 150_000]));
            }),
            Use::Mutex => self.mutex.iter().for_each(|mutex| {
                if let Some(mut guard) = mutex.try_lock().map_or_else(|e| e.into_guard(), Some) {
                    *guard += u64::from(*guard < 1000);
                    guard.mark_consistent();
                }
                let _ = mutex.holder();
            }),
            Use::RLock => self.rlock.iter().for_each(|lock| {
                let outer = lock.try_lock();
                let _ = (lock.try_lock().is_ok(), lock.depth(), lock.holder());
                drop(outer);
            }),
            Use::RwLock => self.rwlock.iter().for_each(|lock| {
                let read = lock.try_read();
                let _ = (lock.try_write().is_ok(), lock.readers(), lock.holder());
                drop(read);
                let _ = lock.try_write().is_ok();
            }),
            Use::Semaphore => self.semaphore.iter().for_each(|semaphore| {
                let permit = semaphore.try_acquire();
                let _ = (semaphore.value(), semaphore.release(), semaphore.holder());
                drop(permit);
            }),
            Use::Condvar => self.condvar.iter().for_each(|condvar| {
                let _ = (condvar.notify_one(), condvar.notify_all(), condvar.waiters());
                let lock = Lock::new_in(&self.segment, ());
                if let Some(guard) = lock.iter().find_map(|lock| lock.try_lock().ok()) {
                    let _ = condvar.wait_timeout(guard, NOW).is_ok();
                }
            }),
            Use::Event => self.event.iter().for_each(|event| {
                let _ = (event.is_set(), event.wait_timeout(NOW));
                event.set();
                event.clear();
            }),
            Use::Barrier => self.barrier.iter().for_each(|barrier| {
                let _ = (barrier.n_waiting(), barrier.is_broken(), barrier.wait_timeout(NOW));
                barrier.reset();
                barrier.abort();
            }),
            Use::Once => self.once.iter().for_each(|once| {
                let _ = (once.is_completed(), once.try_call_once(|_| {}));
            }),
            Use::Names => {
                let manager = Manager::from(self.segment.clone());
                let _ = (manager.published(), manager.find::<Event>("event"), manager.find::<Event>("queue"));
                if let Ok((queue, _)) = manager.find::<(Queue<Vec<u8>>, u32)>("queue") {
                    let _ = queue.try_put(vec![6]);
                }
                let _ = (manager.withdraw("event"), manager.publish("event", &7u32), manager.withdraw("queue"));
            }
            Use::Inspect => {
                let _ = (self.segment.sweep(), self.segment.stats(), self.segment.deaths());
                let _ = self.segment.inspect().to_string();
            }
            Use::Create => {
                if let Ok(queue) = Queue::<()>::builder().bytes(4096).segment(&self.segment).build() {
                    let _ = (queue.try_put(7u32), queue.try_get());
                }
                drop(Mutex::new_in(&self.segment, 5u32));
            }
            Use::All => {
                use Use::*;
                for what in [
                    Inspect,
                    Get,
                    Put(100),
                    Put(30_000),
                    Handles,
                    Pipe,
                    Mutex,
                    RLock,
                    RwLock,
                    Semaphore,
                    Condvar,
                    Event,
                    Barrier,
                    Once,
                    Names,
                    Create,
                ] {
                    self.use_it(what);
                }
            }
        }
    }
}

fuzz_target!(|plan: Plan| {
    static TEMPLATE: OnceLock<Template> = OnceLock::new();
    match plan {
        Plan::Bytes(bytes) => {
            let fd = file(bytes.len() as u64);
            write(&fd, &bytes, 0);
            seal(&fd);
            drop(Segment::from_fd(fd));
        }
        Plan::Changed { before, during } => {
            let template = TEMPLATE.get_or_init(template);
            let fd = file(SIZE);
            for (at, page) in &template.pages {
                write(&fd, page, *at);
            }
            before.iter().for_each(|c| change(&fd, template, c));
            seal(&fd);
            let Ok(segment) = Segment::from_fd(fd) else { return };
            let mut open = Open::new(segment.clone(), template.ids);
            open.use_it(Use::All);
            for (what, changes) in &during {
                changes.iter().for_each(|c| change(&segment, template, c));
                open.use_it(*what);
            }
        }
    }
});
