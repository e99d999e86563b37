//! Managers: what they make, what is published in them under names, and what a death leaves of that.

mod support;

use std::process::{Command, Output, Stdio};
use std::time::Duration;

use kinfolk::channel::Fd;
use kinfolk::{
    Array, Barrier, BoundedSemaphore, ByteDict, Condvar, Connection, Dict, ErrorKind, Event, JoinableQueue, List, Lock,
    Manager, Mutex, Namespace, Once, Process, Queue, RLock, RawArray, RawValue, Receiver, RwLock, Segment, Semaphore,
    Set, Value,
};
use proptest::prelude::*;
use serde::{Deserialize, Serialize};
use support::random::Random;
use support::watchdog;
use support::watchdog::Watchdog;

const SIZE: u64 = 32 << 20;

fn guard() -> Watchdog {
    watchdog(Duration::from_secs(120))
}

/// A name that nobody else uses, free again at the end of the test.
struct Name(String);

impl Name {
    fn new(text: &str) -> Self {
        Self(format!("test-manager-{}-{text}", std::process::id()))
    }
}

impl Drop for Name {
    fn drop(&mut self) {
        let _ = Manager::unlink(&self.0);
    }
}

/// Runs the test `test` of this file as a program of its own: no child of this one, with a family of its own.
fn program(test: &str, name: &str) -> Output {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", test, "--ignored", "--nocapture"]).env("TEST_MANAGER", name).stdin(Stdio::null());
    let output = command.output().unwrap();
    assert!(output.status.success(), "{output:?}");
    output
}

fn name_of_manager() -> String {
    std::env::var("TEST_MANAGER").unwrap()
}

#[track_caller]
fn kind<T: std::fmt::Debug>(result: Result<T, kinfolk::Error>) -> ErrorKind {
    result.unwrap_err().kind()
}

/// Things that belong together.
#[derive(Debug, Serialize, Deserialize)]
struct Service {
    version: u32,
    requests: Queue<(u32, String)>,
    replies: Vec<Queue<String>>,
    total: Mutex<u64>,
}

impl Service {
    fn new(manager: &Manager) -> Result<Self, kinfolk::Error> {
        let replies = (0..3).map(|_| manager.queue(8)).collect::<Result<_, _>>()?;
        Ok(Self { version: 3, requests: manager.queue(8)?, replies, total: manager.mutex(0)? })
    }
}

#[test]
#[ignore = "run by another test"]
fn a_program_that_serves() {
    let manager = Manager::create(&name_of_manager()).unwrap();
    let service = Service::new(&manager).unwrap();
    service.requests.put((1, "asked before".to_owned())).unwrap();
    manager.publish("service", &service).unwrap();
    manager.publish("ready", &manager.event().unwrap()).unwrap();
}

#[test]
#[ignore = "run by another test"]
fn a_program_that_uses() {
    let manager = Manager::open(&name_of_manager()).unwrap();
    let service = manager.find::<Service>("service").unwrap();
    let (who, text) = service.requests.get().unwrap();
    *service.total.lock().unwrap() += 1;
    service.replies[who as usize].put(format!("{text}, answered")).unwrap();
    manager.find::<Event>("ready").unwrap().set();
}

#[test]
fn programs_that_are_no_family_meet_by_name_though_the_first_has_ended() {
    let _guard = guard();
    let name = Name::new("meet");
    program("a_program_that_serves", &name.0);
    assert!(Segment::names().unwrap().contains(&name.0));
    program("a_program_that_uses", &name.0);
    let manager = Manager::open(&name.0).unwrap();
    assert_eq!(manager.name(), Some(&*name.0));
    assert_eq!(manager.published().unwrap(), ["ready", "service"]);
    assert!(manager.find::<Event>("ready").unwrap().is_set());
    let service = manager.find::<Service>("service").unwrap();
    assert_eq!((service.version, *service.total.lock().unwrap()), (3, 1));
    assert_eq!(service.replies[1].try_get().unwrap(), "asked before, answered");
    let stats = manager.segment().stats();
    assert_eq!((stats.processes, stats.deaths), (1, 0), "both programs left");
    drop(service);
    // Two published values, what is in them, and the root.
    assert_eq!(stats.objects, 2 + 6 + 1);
    manager.withdraw("service").unwrap();
    manager.withdraw("ready").unwrap();
    assert_eq!(manager.segment().stats().objects, 1);
}

#[test]
fn everything_there_is_is_made_in_the_managers_segment_and_used_by_a_child() {
    let _guard = guard();
    type Queues = (Queue<u32>, JoinableQueue<u32>, Connection<u8, u16>, Receiver<u64>);
    type Locks = (Lock, Mutex<u32>, RLock, RwLock<u32>, Semaphore, BoundedSemaphore);
    type Rest = (Condvar, Event, Barrier, Once);
    fn uses(((queue, tasks, end, receiver), locks, rest): (Queues, Locks, Rest)) {
        queue.put(1).unwrap();
        assert_eq!(tasks.get().unwrap(), 2);
        tasks.task_done().unwrap();
        end.send(3).unwrap();
        assert_eq!((end.recv().unwrap(), receiver.recv().unwrap()), (4, 5));
        let (lock, mutex, rlock, rwlock, semaphore, bounded) = locks;
        let _lock = lock.lock().unwrap();
        *mutex.lock().unwrap() += 1;
        let _rlock = rlock.lock().unwrap();
        *rwlock.write().unwrap() += 1;
        let _permits = (semaphore.acquire().unwrap(), bounded.acquire().unwrap());
        let (condvar, event, barrier, once) = rest;
        condvar.notify_all();
        once.call_once(|_| event.set()).unwrap();
        barrier.wait().unwrap();
    }
    let manager = Manager::with_size(SIZE).unwrap();
    let (here, there) = manager.pipe::<u16, u8>().unwrap();
    let (receiver, sender) = manager.pipe_oneway::<u64>().unwrap();
    let queues: Queues = (manager.queue(2).unwrap(), manager.joinable_queue(2).unwrap(), there, receiver);
    let locks: Locks = (
        manager.lock().unwrap(),
        manager.mutex(0).unwrap(),
        manager.rlock().unwrap(),
        manager.rwlock(0).unwrap(),
        manager.semaphore(1).unwrap(),
        manager.bounded_semaphore(1).unwrap(),
    );
    let rest: Rest =
        (manager.condvar().unwrap(), manager.event().unwrap(), manager.barrier(2).unwrap(), manager.once().unwrap());
    assert_eq!(manager.segment().stats().objects, 14);
    queues.1.put(2).unwrap();
    here.send(4).unwrap();
    sender.send(5).unwrap();
    let args = (queues.clone(), locks.clone(), rest.clone());
    let child = Process::spawn(uses, args).unwrap();
    rest.2.wait().unwrap();
    child.join().unwrap();
    assert_eq!((queues.0.get().unwrap(), here.recv().unwrap()), (1, 3));
    queues.1.try_join().unwrap();
    assert_eq!((*locks.1.lock().unwrap(), *locks.3.read().unwrap()), (1, 1));
    assert!(rest.1.is_set() && rest.3.is_completed());
    assert_eq!((locks.4.value(), locks.5.value()), (1, 1));
}

#[test]
fn data_is_made_in_the_managers_segment_and_changed_by_a_child() {
    let _guard = guard();
    type Plain = (Value<u32>, RawValue<u32>, [Array<u32>; 2], [RawArray<u32>; 2]);
    type Containers = (Dict<String, Set<u8>>, ByteDict, Set<u8>, Namespace);
    fn uses(((value, raw, arrays, raws), (dict, bytes, set, names)): (Plain, Containers)) {
        value.update(|n| n + 1).unwrap();
        raw.update(|n| n + 1).unwrap();
        arrays.iter().for_each(|array| array.set(1, 7).unwrap());
        raws.iter().for_each(|array| array.set(1, 7).unwrap());
        dict.get("set").unwrap().unwrap().add(&2).unwrap();
        bytes.set(b"k", b"v").unwrap();
        set.add(&3).unwrap();
        names.set("set", &set).unwrap();
    }
    let manager = Manager::with_size(SIZE).unwrap();
    let segment = manager.segment().clone();
    // A thread of this process lets go what a child has received.
    let reaches = |objects: usize| {
        while segment.stats().objects > objects {
            std::thread::yield_now();
        }
        assert_eq!(segment.stats().objects, objects);
    };
    let plain: Plain = (
        manager.value(1).unwrap(),
        manager.raw_value(2).unwrap(),
        [manager.array(2).unwrap(), manager.array_of(&[5, 6]).unwrap()],
        [manager.raw_array(2).unwrap(), manager.raw_array_of(&[5, 6]).unwrap()],
    );
    let containers: Containers =
        (manager.dict().unwrap(), manager.byte_dict().unwrap(), manager.set().unwrap(), manager.namespace().unwrap());
    let list = manager.list_of(&[7, 8]).unwrap();
    manager.list::<u8>().unwrap().append(1).unwrap();
    Process::spawn(|list: List<u8>| list.append(9).unwrap(), list.clone()).unwrap().join().unwrap();
    assert_eq!(list.to_vec().unwrap(), [7, 8, 9]);
    drop(list);
    // Another one, which only its entry keeps.
    containers.0.set("set", &manager.set().unwrap()).unwrap();
    reaches(6 + 4 + 1);
    Process::spawn(uses, (plain.clone(), containers.clone())).unwrap().join().unwrap();
    assert_eq!((plain.0.get().unwrap(), plain.1.get().unwrap()), (2, 3));
    let arrays = [plain.2[0].to_vec(), plain.2[1].to_vec(), plain.3[0].to_vec(), plain.3[1].to_vec()];
    assert_eq!(arrays.map(Result::unwrap), [[0, 7], [5, 7], [0, 7], [5, 7]]);
    let (dict, bytes, set, names) = &containers;
    assert!(dict.get("set").unwrap().unwrap().contains(&2).unwrap());
    assert_eq!(bytes.get(b"k").unwrap().as_deref(), Some(&b"v"[..]));
    assert!(set.contains(&3).unwrap() && names.get::<Set<u8>>("set").unwrap().unwrap().contains(&3).unwrap());
    drop((plain, containers));
    reaches(0);
}

#[test]
fn a_manager_travels_and_its_segment_goes_with_the_last_of_its_handles() {
    let _guard = guard();
    let manager = Manager::with_size(SIZE).unwrap();
    fn makes((manager, answers): (Manager, Queue<Queue<String>>)) {
        let queue = manager.queue(0).unwrap();
        queue.put(format!("{} processes", manager.segment().stats().processes)).unwrap();
        answers.put(queue).unwrap();
    }
    let answers = manager.queue(0).unwrap();
    let child = Process::spawn(makes, (manager.clone(), answers.clone())).unwrap();
    let queue = answers.get().unwrap();
    child.join().unwrap();
    assert_eq!(queue.get().unwrap(), "2 processes");
    assert!(format!("{manager:?}").starts_with("Manager(Segment("), "{manager:?}");
    assert_eq!(manager.name(), None);
    assert_eq!(manager.segment().stats().processes, 1);
    let same = Manager::from(manager.segment().clone());
    drop(manager);
    assert_eq!(same.segment().stats().objects, 2);
}

#[test]
fn a_name_is_published_once_found_as_its_type_and_free_again_when_withdrawn() {
    let manager = Manager::with_size(SIZE).unwrap();
    assert!(manager.published().unwrap().is_empty());
    assert_eq!(kind(manager.find::<Event>("a")), ErrorKind::NotFound);
    assert_eq!(kind(manager.withdraw("a")), ErrorKind::NotFound);
    let (first, second) = (manager.event().unwrap(), manager.event().unwrap());
    manager.publish("a", &first).unwrap();
    let error = manager.publish("a", &second).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::AlreadyExists);
    assert!(error.to_string().contains("\"a\""), "{error}");
    let error = manager.find::<Queue<u8>>("a").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TypeMismatch);
    assert!(error.to_string().contains("Event") && error.to_string().contains("Queue<u8>"), "{error}");
    drop(first);
    let found = manager.find::<Event>("a").unwrap();
    found.set();
    assert!(!second.is_set());
    manager.withdraw("a").unwrap();
    assert_eq!(kind(manager.withdraw("a")), ErrorKind::NotFound);
    assert!(found.is_set(), "who has it keeps it");
    manager.publish("a", &second).unwrap();
    assert!(!manager.find::<Event>("a").unwrap().is_set());
    for wrong in ["", &"x".repeat(201)] {
        assert_eq!(kind(manager.publish(wrong, &second)), ErrorKind::InvalidInput);
        assert_eq!(kind(manager.find::<Event>(wrong)), ErrorKind::InvalidInput);
        assert_eq!(kind(manager.withdraw(wrong)), ErrorKind::InvalidInput);
    }
    for odd in ["/", "a\0b", "\n", "ü", &"x".repeat(200)] {
        manager.publish(odd, &second).unwrap();
        manager.find::<Event>(odd).unwrap();
        manager.withdraw(odd).unwrap();
    }
}

#[test]
fn values_without_handles_are_published_too_and_what_cannot_be_is_refused() {
    let manager = Manager::with_size(SIZE).unwrap();
    manager.publish("limits", &(5u32, vec!["a".to_owned(); 5000])).unwrap();
    assert_eq!(manager.find::<(u32, Vec<String>)>("limits").unwrap().1.len(), 5000);
    // What would not be there when it is found.
    let other = Manager::with_size(SIZE).unwrap();
    assert_eq!(kind(manager.publish("foreign", &other.event().unwrap())), ErrorKind::InvalidInput);
    assert_eq!(kind(manager.publish("family", &Event::new().unwrap())), ErrorKind::InvalidInput);
    assert_eq!(kind(manager.publish("manager", &manager)), ErrorKind::InvalidInput);
    let file = Fd::from(std::fs::File::open("/dev/null").unwrap());
    assert_eq!(kind(manager.publish("file", &file)), ErrorKind::InvalidInput);
    assert_eq!(manager.published().unwrap(), ["limits"]);
    let small = Manager::with_size(4 << 20).unwrap();
    assert_eq!(kind(small.publish("large", &vec![0u8; 8 << 20])), ErrorKind::OutOfSpace);
    assert!(small.published().unwrap().is_empty());
}

#[test]
fn there_may_be_256_names() {
    let manager = Manager::with_size(SIZE).unwrap();
    let name = |k: u32| format!("name {k}");
    (0..256).for_each(|k| manager.publish(&name(k), &k).unwrap());
    assert_eq!(kind(manager.publish("more", &0u32)), ErrorKind::TooManyObjects);
    (0..256).rev().for_each(|k| assert_eq!(manager.find::<u32>(&name(k)).unwrap(), k));
    assert_eq!(manager.published().unwrap().len(), 256);
    manager.withdraw(&name(77)).unwrap();
    manager.publish("more", &1000u32).unwrap();
    assert_eq!(manager.find::<u32>("more").unwrap(), 1000);
    (0..256).filter(|k| *k != 77).for_each(|k| manager.withdraw(&name(k)).unwrap());
    manager.withdraw("more").unwrap();
    let stats = manager.segment().stats();
    assert_eq!((stats.objects, stats.used_bytes), (1, 8 << 10), "the root");
}

#[test]
fn a_published_end_of_a_pipe_is_open_though_nobody_has_it() {
    let _guard = guard();
    let manager = Manager::with_size(SIZE).unwrap();
    let (here, there) = manager.pipe::<u32, String>().unwrap();
    manager.publish("end", &there).unwrap();
    drop(there);
    assert!(!here.is_closed());
    here.send(4).unwrap();
    let end = manager.find::<Connection<String, u32>>("end").unwrap();
    end.send(end.recv().unwrap().to_string()).unwrap();
    drop(end);
    assert_eq!(here.recv().unwrap(), "4");
    manager.withdraw("end").unwrap();
    assert!(here.is_closed());
    assert!(here.recv().is_err());
}

#[test]
fn of_eight_processes_that_find_or_publish_all_have_the_same() {
    let _guard = guard();
    let name = Name::new("race");
    type Args = (Barrier, String);
    fn run((meet, name): Args) {
        for round in 0..20 {
            meet.wait().unwrap();
            // Some make the manager too.
            let manager = Manager::open_or_create(&name).unwrap();
            let count = manager.find_or_publish(&format!("count {round}"), || manager.mutex(0u32)).unwrap();
            *count.lock().unwrap() += 1;
            meet.wait().unwrap();
            assert_eq!(*count.lock().unwrap(), 8);
            if meet.wait().unwrap() == 0 {
                manager.withdraw(&format!("count {round}")).unwrap();
            }
        }
    }
    let args: Args = (Barrier::new(8).unwrap(), name.0.clone());
    let children: Vec<_> = (0..8).map(|_| Process::spawn(run, args.clone()).unwrap()).collect();
    children.into_iter().for_each(|child| child.join().unwrap());
    let manager = Manager::open(&name.0).unwrap();
    assert!(manager.published().unwrap().is_empty());
    assert_eq!(manager.segment().stats().objects, 1, "what the others made is gone");
}

#[test]
fn what_make_says_is_the_answer_and_nothing_is_published() {
    let manager = Manager::with_size(SIZE).unwrap();
    let fails = manager.find_or_publish("x", || manager.barrier(0));
    assert_eq!(kind(fails), ErrorKind::InvalidInput);
    manager.publish("x", &5u32).unwrap();
    assert_eq!(manager.find_or_publish("x", || -> Result<u32, _> { panic!("not asked") }).unwrap(), 5);
    assert_eq!(kind(manager.find_or_publish("x", || Ok("text".to_owned()))), ErrorKind::TypeMismatch);
}

#[test]
fn a_publisher_killed_at_any_moment_leaves_all_of_it_or_nothing() {
    let _guard = guard();
    let name = Name::new("killed");
    let manager = Manager::create(&name.0).unwrap();
    fn publishes_for_ever((go, name): (Queue<()>, String)) {
        let manager = Manager::open(&name).unwrap();
        go.put(()).unwrap();
        loop {
            manager.publish("service", &Service::new(&manager).unwrap()).unwrap();
            manager.withdraw("service").unwrap();
        }
    }
    let mut random = Random::new(3);
    let (mut whole, rounds) = (0, 60);
    for _ in 0..rounds {
        let go = Queue::new(0).unwrap();
        let child = Process::builder().daemon(true).spawn(publishes_for_ever, (go.clone(), name.0.clone())).unwrap();
        go.get().unwrap();
        // Others look meanwhile, and are never held up.
        for _ in 0..20 {
            match manager.find::<Service>("service") {
                Ok(service) => assert_eq!(service.version, 3),
                Err(e) => assert_eq!(e.kind(), ErrorKind::NotFound, "{e}"),
            }
        }
        random.moment();
        child.kill().unwrap();
        child.join().unwrap_err();
        match manager.find::<Service>("service") {
            Ok(service) => {
                whole += 1;
                service.replies[2].put("works".to_owned()).unwrap();
                assert_eq!(service.replies[2].try_get().unwrap(), "works");
                drop(service);
                manager.withdraw("service").unwrap();
            }
            Err(e) => assert_eq!(e.kind(), ErrorKind::NotFound),
        }
        assert_eq!(manager.published().unwrap(), Vec::<String>::new());
        let objects = manager.segment().stats().objects;
        assert!(objects <= 1, "{objects} objects are left\n{}", manager.segment().inspect());
        manager.publish("next", &1u32).unwrap();
        manager.withdraw("next").unwrap();
    }
    println!("{whole} of {rounds} publishers had published");
}

#[test]
fn a_publisher_that_is_stopped_holds_up_publishers_and_nobody_who_looks() {
    let _guard = guard();
    let manager = Manager::with_size(SIZE).unwrap();
    manager.publish("there", &1u32).unwrap();
    fn uses((manager, here): (Manager, Event)) {
        drop(manager.mutex(0u32).unwrap());
        here.set();
        std::thread::park();
    }
    let mut lanes = [0; 4 * 128];
    let here = Event::new().unwrap();
    let child = Process::builder().daemon(true).name("stopped").spawn(uses, (manager.clone(), here.clone())).unwrap();
    here.wait();
    // As if it had been stopped with the lock in its hand: the lane of its row stands in the root's first word.
    let read =
        |at: u64, to: &mut [u8]| assert_eq!(rustix::io::pread(manager.segment(), &mut *to, at).unwrap(), to.len());
    let word = |at: u64| {
        let mut bytes = [0; 8];
        read(at, &mut bytes);
        u64::from_le_bytes(bytes)
    };
    let (lanes_at, objects_at, pages_at, root) = (word(72), word(88), word(96), u64::from(word(176) as u32) - 1);
    read(lanes_at, &mut lanes);
    let owner = |lane: &[u8]| u32::from_le_bytes(lane[..4].try_into().unwrap());
    let me = owner(&lanes);
    let its = lanes.chunks(128).position(|lane| owner(lane) != 0 && owner(lane) != me).unwrap();
    let (its, row) = (its as u32 + 1, owner(&lanes[128 * its..]) & 0x3ff);
    // It has the root open, too, as whoever locks it has.
    let write =
        |at: u64, bytes: &[u8]| assert_eq!(rustix::io::pwrite(manager.segment(), bytes, at).unwrap(), bytes.len());
    write(objects_at + 512 * root + 32, &(1u64 << row).to_ne_bytes());
    let page = word(objects_at + 512 * root + 8) >> 32;
    write(pages_at + page * (8 << 10), &its.to_ne_bytes());
    assert_eq!(manager.find::<u32>("there").unwrap(), 1);
    assert_eq!(manager.published().unwrap(), ["there"]);
    let error = manager.publish("more", &2u32).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Stalled);
    assert!(error.to_string().contains(&format!("stopped (pid {})", child.pid())), "{error}");
    child.kill().unwrap();
    child.join().unwrap_err();
    manager.publish("more", &2u32).unwrap();
    manager.withdraw("there").unwrap();
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn wrong_bytes_under_the_names_give_errors_and_no_crash(
        writes in prop::collection::vec((0.0f64..1.0, any::<u64>(), 0u8..4), 1..40),
    ) {
        let _watchdog = watchdog(Duration::from_secs(60));
        let manager = Manager::with_size(2 << 20).unwrap();
        let small = || Queue::builder().bytes(4096).segment(manager.segment()).build::<u32>().unwrap();
        manager.publish("one", &small()).unwrap();
        manager.publish("two", &(small(), 5u32, small())).unwrap();
        manager.publish("three", &vec![1u8; 100]).unwrap();
        let mut header = [0; 160];
        rustix::io::pread(manager.segment(), &mut header, 0).unwrap();
        let word = |at: usize| u64::from_le_bytes(header[at..at + 8].try_into().unwrap());
        let (objects_at, pages_at) = (word(88), word(96));
        for (at, value, what) in writes {
            // The header's last words, the entries in use, the first pages.
            let (from, len) = [(104, 80), (objects_at, 8 * 512), (pages_at, 64), (pages_at, 80 << 10)][what as usize];
            let at = from + ((at * len as f64) as u64 & !7);
            let value = if value % 3 == 0 { value & 0xff } else { value };
            // Not the lock of the arena, which is waited for 5 s if a lane that lives is in it.
            prop_assume!(at != 120);
            rustix::io::pwrite(manager.segment(), &value.to_ne_bytes(), at).unwrap();
        }
        for name in ["one", "two", "three", "four"] {
            let _ = (manager.find::<Queue<u32>>(name), manager.find::<(Queue<u32>, u32, Queue<u32>)>(name));
            let _ = manager.find::<Vec<u8>>(name);
            let _ = (manager.published(), manager.publish(name, &7u32), manager.withdraw(name));
        }
        let _ = manager.segment().inspect().to_string();
        let _ = manager.segment().sweep();
    }
}
