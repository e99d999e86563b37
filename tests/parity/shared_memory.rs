//! `_TestSharedMemory` and `TestSharedMemoryNames`: segments, their names, and who takes them away.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use kinfolk::segment::ObjectId;
use kinfolk::{ErrorKind, GetError, Manager, Mutex, Process, Queue, Segment};

use super::guard;

const SIZE: u64 = 4 << 20;

/// Bytes that several processes see.
type Bytes = Mutex<[u8; 16]>;

/// A name that no other test has.
fn name(of: &str) -> String {
    format!("parity-{}-{of}", std::process::id())
}

#[track_caller]
fn kind<T: std::fmt::Debug>(result: Result<T, kinfolk::Error>) -> ErrorKind {
    result.unwrap_err().kind()
}

/// Whether any process that can be looked at has the memory file mapped.
pub(super) fn is_mapped(inode: u64) -> bool {
    let has = |maps: String| {
        maps.lines().any(|line| line.contains("memfd:kinfolk") && line.split(' ').any(|word| word == inode.to_string()))
    };
    let processes = fs::read_dir("/proc").unwrap().filter_map(Result::ok);
    processes.filter_map(|process| fs::read_to_string(process.path().join("maps")).ok()).any(has)
}

pub(super) fn inode(segment: &Segment) -> u64 {
    rustix::fs::fstat(segment).unwrap().st_ino
}

/// Runs the test `test` of this program as a program of its own, with `name` for it to use.
pub(super) fn program(test: &str, name: &str) -> Output {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", test, "--ignored", "--nocapture"]).env("PARITY_NAME", name).stdin(Stdio::null());
    command.output().unwrap()
}

pub(super) fn name_for_program() -> String {
    std::env::var("PARITY_NAME").unwrap()
}

#[test]
fn a_segment_is_created_attached_and_unlinked_by_name() {
    let name = name("basics");
    let segment = Segment::create(&name, SIZE).unwrap();
    assert_eq!(segment.name(), Some(&*name));
    let bytes: Bytes = Mutex::new_in(&segment, [0; 16]).unwrap();
    bytes.lock().unwrap()[0] = 42;
    // Attached by name; what is written through one is read through the other. A size is nothing to attach with.
    let again = Segment::open_or_create(&name, 123 << 20).unwrap();
    assert_eq!(rustix::fs::fstat(&again).unwrap().st_size as u64, SIZE);
    let same = Bytes::open(&again, bytes.id()).unwrap();
    same.lock().unwrap()[5] = 7;
    assert_eq!(bytes.lock().unwrap()[..6], [42, 0, 0, 0, 0, 7]);
    assert_eq!(kind(Segment::create(&name, SIZE)), ErrorKind::AlreadyExists);
    // One handle less; the other goes on.
    drop((again, same));
    assert_eq!(bytes.lock().unwrap()[0], 42);
    Segment::unlink(&name).unwrap();
    assert_eq!(kind(Segment::unlink(&name)), ErrorKind::NotFound);
    assert_eq!(kind(Segment::open(&name)), ErrorKind::NotFound);
    assert_eq!(bytes.lock().unwrap()[5], 7);
}

#[test]
fn a_name_that_is_taken_is_told_and_segments_without_names_never_collide() {
    let (taken, free) = (name("taken"), name("free"));
    let first = Segment::create(&taken, SIZE).unwrap();
    // What Python retries inside: the caller chooses names, so the caller chooses the next one.
    let names = [&taken, &free];
    let made = names.iter().find_map(|name| match Segment::create(name, SIZE) {
        Err(e) if e.kind() == ErrorKind::AlreadyExists => None,
        made => Some(made.unwrap()),
    });
    assert_eq!(made.unwrap().name(), Some(&*free));
    let ids: Vec<u64> = (0..20).map(|_| Segment::anonymous(SIZE).unwrap()).map(|segment| inode(&segment)).collect();
    assert!(ids.iter().all(|id| *id != inode(&first)));
    names.iter().for_each(|name| Segment::unlink(name).unwrap());
}

#[test]
fn a_segment_without_room_for_anything_is_refused() {
    let name = name("invalid");
    // A negative size cannot be written, and none cannot be left out.
    for size in [0, 1, 4096, u64::MAX] {
        let error = Segment::create(&name, size).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
        assert!(error.to_string().contains(&format!("size {size} B")), "{error}");
        assert_eq!(kind(Segment::anonymous(size)), ErrorKind::InvalidInput);
    }
    assert_eq!(kind(Segment::open(&name)), ErrorKind::NotFound);
}

#[test]
fn a_name_with_a_nul_is_refused() {
    for wrong in ["\0", "a\0", "\0a", "a\0b"] {
        assert_eq!(kind(Segment::create(wrong, SIZE)), ErrorKind::InvalidInput);
        assert_eq!(kind(Segment::open(wrong)), ErrorKind::InvalidInput);
    }
}

#[test]
fn a_segment_that_is_sent_is_the_same_memory() {
    let _guard = guard();
    let name = name("sent");
    for segment in [Segment::create(&name, SIZE).unwrap(), Segment::anonymous(SIZE).unwrap()] {
        let bytes: Bytes = Mutex::new_in(&segment, [0; 16]).unwrap();
        let writes = |(segment, index, generation): (Segment, u32, u32)| {
            let bytes = Bytes::open(&segment, ObjectId { index, generation }).unwrap();
            bytes.lock().unwrap()[..3].copy_from_slice(b"abc");
            segment.name().map(str::to_owned)
        };
        let args = (segment.clone(), bytes.id().index, bytes.id().generation);
        let told = Process::spawn(writes, args).unwrap().join().unwrap();
        assert_eq!(told.as_deref(), segment.name());
        assert_eq!(bytes.lock().unwrap()[..4], *b"abc\0");
    }
    Segment::unlink(&name).unwrap();
}

#[test]
fn a_segment_that_is_gone_when_it_arrives_is_an_error() {
    let _guard = guard();
    let (name, queue) = (name("dead"), Queue::<Segment>::new(0).unwrap());
    let sends = |(name, queue): (String, Queue<Segment>)| queue.put(Segment::create(&name, SIZE).unwrap()).unwrap();
    Process::spawn(sends, (name.clone(), queue.clone())).unwrap().join().unwrap();
    Segment::unlink(&name).unwrap();
    match queue.get() {
        Err(GetError::Decode(e)) => assert_eq!(e.kind(), ErrorKind::NotFound),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_child_attaches_by_name_and_by_handle_and_writes() {
    let _guard = guard();
    let name = name("across");
    let segment = Segment::create(&name, SIZE).unwrap();
    let bytes: Bytes = Mutex::new_in(&segment, [0; 16]).unwrap();
    let id = bytes.id();
    let by_name = |(name, index, generation): (String, u32, u32)| {
        let bytes = Bytes::open(&Segment::open(&name).unwrap(), ObjectId { index, generation }).unwrap();
        bytes.lock().unwrap()[0] = b'n';
    };
    Process::spawn(by_name, (name.clone(), id.index, id.generation)).unwrap().join().unwrap();
    let by_handle = |bytes: Bytes| bytes.lock().unwrap()[1] = b'h';
    Process::spawn(by_handle, bytes.clone()).unwrap().join().unwrap();
    Segment::unlink(&name).unwrap();
    // A handle brings a segment whose name is gone.
    Process::spawn(by_handle, bytes.clone()).unwrap().join().unwrap();
    assert_eq!(bytes.lock().unwrap()[..3], *b"nh\0");
}

#[test]
fn an_interrupt_of_the_maker_takes_nothing_from_others() {
    let _guard = guard();
    let made = Queue::<Queue<String>>::new(0).unwrap();
    let makes = |made: Queue<Queue<String>>| {
        let queue = Manager::with_size(16 << 20).unwrap().queue(0).unwrap();
        made.put(queue.clone()).unwrap();
        assert_eq!(queue.get().unwrap(), "stay");
        std::thread::park();
    };
    let child = Process::builder().daemon(true).spawn(makes, made.clone()).unwrap();
    let queue = made.get().unwrap();
    queue.put("stay".to_owned()).unwrap();
    while !queue.is_empty() {
        std::thread::yield_now();
    }
    child.interrupt().unwrap();
    assert!(child.join().is_err());
    queue.put("still".to_owned()).unwrap();
    assert_eq!(queue.get().unwrap(), "still");
}

#[test]
#[ignore = "run by another test"]
fn a_program_that_makes_two_managers() {
    for _ in 0..2 {
        let manager = Manager::with_size(SIZE).unwrap();
        manager.publish("bytes", &manager.mutex([1u8; 16]).unwrap()).unwrap();
        assert_eq!(manager.find::<Bytes>("bytes").unwrap().lock().unwrap()[3], 1);
    }
}

#[test]
fn managers_one_after_the_other_report_no_leak() {
    let _guard = guard();
    let output = program("shared_memory::a_program_that_makes_two_managers", "");
    assert!(output.status.success(), "{output:?}");
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
}

#[test]
fn everything_a_manager_made_goes_with_it() {
    let _guard = guard();
    // There is nothing to start, so nothing that could not be started; the rest is gone with its last handle.
    let file = {
        let manager = Manager::with_size(SIZE).unwrap();
        let all: Vec<Bytes> = (0..5).map(|_| manager.mutex([0u8; 16]).unwrap()).collect();
        let file = inode(manager.segment());
        Process::spawn(|bytes: Bytes| bytes.lock().unwrap()[0] = 1, all[3].clone()).unwrap().join().unwrap();
        assert_eq!(all[3].lock().unwrap()[0], 1);
        drop(manager);
        assert!(is_mapped(file), "its handles keep it");
        file
    };
    while is_mapped(file) {
        std::thread::yield_now();
    }
}

#[test]
fn the_memory_of_a_killed_maker_is_gone_if_nobody_else_has_it() {
    let _guard = guard();
    let told = Queue::<u64>::new(0).unwrap();
    let names = |told: &Queue<u64>| (Segment::names().unwrap(), told.get().unwrap());
    let makes = |told: Queue<u64>| {
        let segment = Segment::anonymous(SIZE).unwrap();
        let _bytes: Bytes = Mutex::new_in(&segment, [9; 16]).unwrap();
        told.put(inode(&segment)).unwrap();
        std::thread::park();
    };
    let child = Process::builder().daemon(true).spawn(makes, told.clone()).unwrap();
    let (_, file) = names(&told);
    assert!(is_mapped(file));
    child.kill().unwrap();
    child.join().unwrap_err();
    // No process is needed to clean up, and none says anything: the kernel frees the memory, no name was ever there.
    while is_mapped(file) {
        std::thread::yield_now();
    }
    assert!(fs::read_dir("/dev/shm").unwrap().all(|entry| entry.unwrap().metadata().map_or(0, |m| m.ino()) != file));
}

#[test]
#[ignore = "run by another test"]
fn a_program_that_attaches() {
    let manager = Manager::open(&name_for_program()).unwrap();
    manager.find::<Bytes>("bytes").unwrap().lock().unwrap()[0] += 1;
}

/// Another program attaches to a segment of this one, and ends.
fn a_stranger_comes_and_goes(name: &str) {
    let manager = Manager::create(name).unwrap();
    manager.publish("bytes", &manager.mutex([0u8; 16]).unwrap()).unwrap();
    for round in 1..=2 {
        let output = program("shared_memory::a_program_that_attaches", name);
        assert!(output.status.success(), "{output:?}");
        assert_eq!(String::from_utf8_lossy(&output.stderr), "", "no report of a leak");
        assert_eq!(manager.find::<Bytes>("bytes").unwrap().lock().unwrap()[0], round);
    }
    drop(manager);
    let again = Manager::open(name).unwrap();
    assert_eq!(again.find::<Bytes>("bytes").unwrap().lock().unwrap()[0], 2);
    Manager::unlink(name).unwrap();
}

#[test]
fn the_end_of_an_attached_process_leaves_the_segment() {
    let _guard = guard();
    a_stranger_comes_and_goes(&name("untracked"));
}

#[test]
fn a_stranger_that_attaches_unlinks_nothing() {
    let _guard = guard();
    let name = name("stranger");
    a_stranger_comes_and_goes(&name);
    // Not even one that is killed.
    let manager = Manager::create(&name).unwrap();
    let attaches = |(name, here): (String, Queue<()>)| {
        let _manager = Manager::open(&name).unwrap();
        here.put(()).unwrap();
        std::thread::park();
    };
    let here = Queue::new(0).unwrap();
    let child = Process::builder().daemon(true).spawn(attaches, (name.clone(), here.clone())).unwrap();
    here.get_timeout(Duration::from_secs(20)).unwrap();
    child.kill().unwrap();
    child.join().unwrap_err();
    drop(manager);
    Manager::open(&name).unwrap();
    Manager::unlink(&name).unwrap();
}

#[test]
fn odd_names_are_taken_away_like_others() {
    for odd in ["a:b:c", "a\nb", ":", "tab\t:\u{e9}"] {
        let name = name(odd);
        let segment = Segment::create(&name, SIZE).unwrap();
        assert!(Segment::names().unwrap().contains(&name));
        assert_eq!(Segment::open(&name).unwrap().name(), segment.name());
        Segment::unlink(&name).unwrap();
        assert!(!Segment::names().unwrap().contains(&name));
        assert_eq!(kind(Segment::unlink(&name)), ErrorKind::NotFound);
    }
}
