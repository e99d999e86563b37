//! `TestResourceTracker`, `TestNamedResource` and `_TestFinalize`: what is left of whom, and who cleans up.
//!
//! Python has a process for that, the resource tracker. Here there is none: memory goes with its last user, and what a dead
//! process left in a segment is put right by whoever is held up by it.

use std::collections::BTreeSet;
use std::fs;
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use kinfolk::{ErrorKind, Event, LockError, Manager, Mutex, Process, Queue, Segment, Semaphore};
use nix::sys::signal::{SigSet, SigmaskHow, Signal, kill, pthread_sigmask};
use nix::sys::wait::waitpid;
use nix::unistd::{ForkResult, Pid, alarm, fork, pause};

use super::guard;
use super::shared_memory::{inode, is_mapped, name_for_program, program};

const SIZE: u64 = 4 << 20;

fn name(of: &str) -> String {
    format!("parity-cleanup-{}-{of}", std::process::id())
}

/// What a child tells of the manager that it makes: the file, and its semaphore.
type Told = Queue<(u64, Semaphore)>;

/// Makes a manager and a semaphore in it, takes a permit, and waits for its end.
fn makes_and_waits(told: Told) {
    let manager = Manager::with_size(SIZE).unwrap();
    let semaphore = manager.semaphore(1).unwrap();
    std::mem::forget(semaphore.acquire().unwrap());
    told.put((inode(manager.segment()), semaphore)).unwrap();
    std::thread::park();
}

/// A process that has these things gets the signal: what others have goes on, the rest is gone.
fn ends_by(signal: Signal) {
    let told = Told::new(0).unwrap();
    let start = || Process::builder().daemon(true).spawn(makes_and_waits, told.clone()).unwrap();
    let child = start();
    let (file, semaphore) = told.get().unwrap();
    kill(Pid::from_raw(child.pid() as i32), signal).unwrap();
    child.join().unwrap_err();
    // Its permit is had by whoever waits for it.
    drop(semaphore.acquire_timeout(Duration::from_secs(20)).unwrap());
    assert!(is_mapped(file));
    drop(semaphore);
    while is_mapped(file) {
        std::thread::yield_now();
    }
}

#[test]
fn the_semaphore_and_the_segment_of_a_killed_process_vanish() {
    let _guard = guard();
    let segment = Segment::family().unwrap();
    let told = Queue::<(u64, u32)>::new(0).unwrap();
    let makes = |told: Queue<(u64, u32)>| {
        let semaphore = Semaphore::new(1).unwrap();
        let own = Segment::anonymous(SIZE).unwrap();
        told.put((inode(&own), semaphore.id().index)).unwrap();
        std::thread::park();
    };
    let child = Process::builder().daemon(true).name("leaks").spawn(makes, told.clone()).unwrap();
    let (file, _) = told.get().unwrap();
    let semaphores = || segment.inspect().to_string().matches(": semaphore,").count();
    assert!(is_mapped(file) && semaphores() > 0);
    let pid = child.pid();
    child.kill().unwrap();
    child.join().unwrap_err();
    while is_mapped(file) {
        std::thread::yield_now();
    }
    // What Python writes to stderr is in a ledger.
    let death = segment.deaths().into_iter().find(|death| death.pid == pid).unwrap();
    assert_eq!(death.name, "leaks");
    assert!(!segment.inspect().to_string().contains(&format!("(pid {pid}), lanes")), "it has no row any more");
}

#[test]
fn an_interrupt_ends_one_process_and_nothing_that_others_have() {
    let _guard = guard();
    ends_by(Signal::SIGINT);
}

#[test]
fn a_termination_ends_one_process_and_nothing_that_others_have() {
    let _guard = guard();
    ends_by(Signal::SIGTERM);
}

#[test]
fn a_kill_ends_one_process_and_the_next_one_cleans_up_as_well() {
    let _guard = guard();
    ends_by(Signal::SIGKILL);
    // Whoever cleans up may be killed as well: there is always another.
    let lock = Manager::with_size(SIZE).unwrap().mutex(0u32).unwrap();
    let holds = |(lock, held): (Mutex<u32>, Event)| {
        let guard = lock.lock().or_else(|e| e.into_guard().ok_or("no guard")).unwrap();
        held.set();
        std::thread::park();
        drop(guard);
    };
    for _ in 0..3 {
        let held = Event::new().unwrap();
        let child = Process::builder().daemon(true).spawn(holds, (lock.clone(), held.clone())).unwrap();
        held.wait();
        child.kill().unwrap();
        child.join().unwrap_err();
    }
    assert!(matches!(lock.lock(), Err(LockError::OwnerDied(_))));
}

/// The children that the system knows of this process.
fn children() -> BTreeSet<String> {
    let of_thread = |thread: fs::DirEntry| fs::read_to_string(thread.path().join("children")).unwrap_or_default();
    let threads = fs::read_dir("/proc/self/task").unwrap().filter_map(Result::ok);
    threads.map(of_thread).flat_map(|all| all.split_whitespace().map(str::to_owned).collect::<Vec<_>>()).collect()
}

#[test]
fn neither_a_process_nor_its_child_has_a_helper() {
    let _guard = guard();
    let made = |manager: Manager| {
        let (own, event) = (Manager::with_size(SIZE).unwrap(), manager.event().unwrap());
        own.publish("x", &own.event().unwrap()).unwrap();
        event.set();
        (children().len(), fs::read_dir("/proc/self/task").unwrap().count())
    };
    let manager = Manager::with_size(SIZE).unwrap();
    let (children, threads) = Process::spawn(made, manager.clone()).unwrap().join().unwrap();
    assert_eq!((children, threads), (0, 1));
}

#[test]
fn a_name_that_is_too_long_is_refused_before_anything_is_made() {
    let (long, before) = ("x".repeat(300), Segment::names().unwrap().len());
    for error in [Segment::create(&long, SIZE).unwrap_err(), Manager::create(&long).unwrap_err()] {
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
        assert!(error.to_string().contains("the name has 300 bytes, expected at most 200"), "{error}");
    }
    assert!(!Segment::names().unwrap().iter().any(|name| name.starts_with("xxx")), "{before}");
}

#[test]
fn the_ledger_tells_a_leak_from_a_clean_end() {
    let _guard = guard();
    let manager = Manager::with_size(SIZE).unwrap();
    let lock = manager.mutex(0u32).unwrap();
    Process::spawn(|lock: Mutex<u32>| *lock.lock().unwrap() = 1, lock.clone()).unwrap().join().unwrap();
    let stats = manager.segment().stats();
    assert_eq!((stats.deaths, stats.processes, manager.segment().deaths().len()), (0, 1, 0));
    let child = Process::spawn(holds_and_aborts, lock.clone()).unwrap();
    let pid = child.pid();
    child.join().unwrap_err();
    let deaths = manager.segment().deaths();
    assert_eq!((deaths.len(), deaths[0].pid, deaths[0].losses.locks), (1, pid, 1));
}

fn holds_and_aborts(lock: Mutex<u32>) {
    std::mem::forget(lock.lock().unwrap());
    std::process::abort();
}

#[test]
fn the_callers_signal_mask_is_as_it_was() {
    let _guard = guard();
    let masked = || {
        let mut mask = SigSet::empty();
        pthread_sigmask(SigmaskHow::SIG_BLOCK, None, Some(&mut mask)).unwrap();
        Signal::iterator().filter(|signal| mask.contains(*signal)).collect::<Vec<_>>()
    };
    let before = masked();
    let mut some = SigSet::empty();
    some.add(Signal::SIGUSR1);
    pthread_sigmask(SigmaskHow::SIG_BLOCK, Some(&some), None).unwrap();
    let manager = Manager::with_size(SIZE).unwrap();
    let queue = Queue::<Event>::new(0).unwrap();
    // With a handle of another segment comes the thread that gives it away, which has no signals.
    queue.put(manager.event().unwrap()).unwrap();
    Process::spawn(|queue: Queue<Event>| queue.get().unwrap().set(), queue).unwrap().join().unwrap();
    assert_eq!(masked(), [before.clone(), vec![Signal::SIGUSR1]].concat());
    pthread_sigmask(SigmaskHow::SIG_UNBLOCK, Some(&some), None).unwrap();
    assert_eq!(masked(), before);
}

/// Forks a child that runs `f` and ends, after half a minute at the latest.
fn forked(f: impl FnOnce()) -> Pid {
    // SAFETY: the child calls nothing that another thread could have left locked but the allocator, which the C library
    // hands over unlocked, and ends without returning.
    match unsafe { fork() }.unwrap() {
        ForkResult::Child => {
            alarm::set(30);
            f();
            // SAFETY: the end of this process, without the exit hooks of its parent.
            unsafe { libc::_exit(0) }
        }
        ForkResult::Parent { child } => child,
    }
}

#[test]
#[ignore = "run by another test"]
fn a_program_with_a_forked_child_that_stays() {
    let manager = Manager::create(&name_for_program()).unwrap();
    let queue = manager.queue::<u32>(4).unwrap();
    manager.publish("queue", &queue).unwrap();
    Process::spawn(|queue: Queue<u32>| queue.put(1).unwrap(), queue.clone()).unwrap().join().unwrap();
    let stays = forked(pause);
    manager.publish("stays", &stays.as_raw()).unwrap();
}

#[test]
fn a_program_ends_though_a_forked_child_has_what_it_had() {
    let _guard = guard();
    let name = name("fork");
    // Without pipes, which the forked child would keep open.
    let status = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "cleanup::a_program_with_a_forked_child_that_stays", "--ignored"])
        .env("PARITY_NAME", &name)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .unwrap();
    assert!(status.success());
    let manager = Manager::open(&name).unwrap();
    let stays = Pid::from_raw(manager.find("stays").unwrap());
    kill(stays, None).expect("it is still there");
    // Its copy of the parent's place in the segment counts for nothing.
    assert_eq!(manager.segment().stats().processes, 1);
    assert_eq!(manager.find::<Queue<u32>>("queue").unwrap().try_get().unwrap(), 1);
    kill(stays, Signal::SIGKILL).unwrap();
    Manager::unlink(&name).unwrap();
}

#[test]
#[ignore = "run by another test"]
fn a_program_that_forks() {
    let manager = Manager::with_size(SIZE).unwrap();
    let lock = manager.mutex(0u32).unwrap();
    let child = forked(|| {
        *lock.lock().unwrap() += 1;
        assert_eq!(manager.segment().stats().processes, 2, "it is a process of its own");
        std::mem::forget(manager.event().unwrap());
    });
    waitpid(child, None).unwrap();
    assert_eq!(manager.segment().sweep(), 1);
    let stats = manager.segment().stats();
    assert_eq!((stats.processes, stats.objects, *lock.lock().unwrap()), (1, 1, 1));
    println!("done");
}

#[test]
fn a_forked_child_uses_what_its_parent_has_and_is_cleaned_up_after() {
    let _guard = guard();
    let output = program("cleanup::a_program_that_forks", "");
    assert!(output.status.success() && String::from_utf8_lossy(&output.stdout).contains("done"), "{output:?}");
}

#[test]
#[ignore = "run by another test"]
fn a_program_that_forks_and_is_killed() {
    let manager = Manager::open(&name_for_program()).unwrap();
    let lock = manager.find::<Mutex<u32>>("lock").unwrap();
    std::mem::forget(lock.lock().unwrap());
    let stays = forked(pause);
    manager.publish("stays", &stays.as_raw()).unwrap();
    kill(Pid::this(), Signal::SIGKILL).unwrap();
}

#[test]
fn a_forked_child_does_not_keep_its_parent_alive_for_others() {
    let _guard = guard();
    let name = name("forks");
    let manager = Manager::create(&name).unwrap();
    let lock = manager.mutex(0u32).unwrap();
    manager.publish("lock", &lock).unwrap();
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "cleanup::a_program_that_forks_and_is_killed", "--ignored"]);
    command.env("PARITY_NAME", &name).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    assert!(!command.status().unwrap().success());
    let stays = Pid::from_raw(manager.find("stays").unwrap());
    kill(stays, None).expect("it is still there");
    assert!(matches!(lock.lock(), Err(LockError::OwnerDied(_))));
    kill(stays, Signal::SIGKILL).unwrap();
    Manager::unlink(&name).unwrap();
}

#[test]
#[ignore = "run by another test"]
fn a_program_that_forks_while_a_lock_is_held() {
    let manager = Manager::with_size(SIZE).unwrap();
    let (lock, forked_now) = (manager.mutex(0u32).unwrap(), manager.event().unwrap());
    let ready = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut guard = lock.lock().unwrap();
            ready.store(true, Ordering::Release);
            forked_now.wait();
            *guard += 1;
        });
        while !ready.load(Ordering::Acquire) {
            std::thread::yield_now();
        }
        let child = forked(|| {
            // Another process's, and not this one's copy of it: waited for, and had.
            assert!(matches!(lock.try_lock(), Err(LockError::WouldBlock)));
            forked_now.set();
            *lock.lock().unwrap() += 10;
        });
        waitpid(child, None).unwrap();
    });
    assert_eq!(*lock.lock().unwrap(), 11);
    println!("done");
}

#[test]
fn a_lock_that_is_held_at_a_fork_is_had_by_the_child_in_its_turn() {
    let _guard = guard();
    let output = program("cleanup::a_program_that_forks_while_a_lock_is_held", "");
    assert!(output.status.success() && String::from_utf8_lossy(&output.stdout).contains("done"), "{output:?}");
}

#[test]
#[ignore = "run by another test"]
fn a_program_with_a_child_that_will_not_end() {
    let ready = Event::new().unwrap();
    let stays = |ready: Event| {
        SigSet::all().thread_block().unwrap();
        // SAFETY: to ignore a signal runs no code.
        unsafe { nix::sys::signal::signal(Signal::SIGTERM, nix::sys::signal::SigHandler::SigIgn) }.unwrap();
        ready.set();
        std::thread::park();
    };
    let child = Process::builder().daemon(true).spawn(stays, ready.clone()).unwrap();
    ready.wait();
    std::mem::forget(child);
}

#[test]
fn the_end_of_a_program_waits_for_a_stubborn_child_for_a_second_and_not_for_ever() {
    let _guard = guard();
    let begin = Instant::now();
    let output = program("cleanup::a_program_with_a_child_that_will_not_end", "");
    assert!(output.status.success(), "{output:?}");
    assert!(begin.elapsed() < Duration::from_secs(30));
}

static GLOBAL: OnceLock<Semaphore> = OnceLock::new();

#[test]
#[ignore = "run by another test"]
fn a_program_with_a_global_semaphore() {
    let semaphore = GLOBAL.get_or_init(|| Semaphore::new(1).unwrap());
    let takes = |semaphore: Semaphore| drop(GLOBAL.get_or_init(|| semaphore).acquire().unwrap());
    Process::spawn(takes, semaphore.clone()).unwrap().join().unwrap();
    assert_eq!((semaphore.value(), Segment::family().unwrap().stats().deaths), (1, 0));
}

#[test]
fn a_global_semaphore_and_a_child_that_has_it_are_no_leak() {
    let _guard = guard();
    let output = program("cleanup::a_program_with_a_global_semaphore", "");
    assert!(output.status.success(), "{output:?}");
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
}

/// Says at its end that it was there.
struct Finalizer<'a>(&'static str, &'a Queue<String>);

impl Drop for Finalizer<'_> {
    fn drop(&mut self) {
        self.1.put(self.0.to_owned()).unwrap();
    }
}

/// What comes last is finalised first; what ended before is finalised there.
fn finalises((queue, end): (Queue<String>, u8)) {
    let _e = Finalizer("e", &queue);
    let a = Finalizer("a", &queue);
    drop(a);
    let _d1 = Finalizer("d01", &queue);
    let _d2 = (Finalizer("d02", &queue), Finalizer("d03", &queue));
    let b = Finalizer("b", &queue);
    drop(b);
    match end {
        0 => {}
        1 => panic!("on purpose"),
        _ => std::process::abort(),
    }
}

#[test]
fn what_a_process_has_is_dropped_latest_first_unless_it_is_killed() {
    let _guard = guard();
    let queue = Queue::new(0).unwrap();
    let all = ["a", "b", "d02", "d03", "d01", "e"];
    for (end, wanted) in [(0, &all[..]), (1, &all[..]), (2, &all[..2])] {
        let ended = Process::spawn(finalises, (queue.clone(), end)).unwrap().join();
        assert_eq!(ended.is_ok(), end == 0);
        let said: Vec<String> = std::iter::from_fn(|| queue.try_get().ok()).collect();
        assert_eq!(said, wanted);
    }
}

#[test]
fn handles_come_and_go_in_many_threads_while_others_look() {
    let _guard = guard();
    let manager = Manager::with_size(64 << 20).unwrap();
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let makers: Vec<_> = (0..4)
            .map(|thread| {
                let manager = &manager;
                scope.spawn(move || {
                    for round in 0..200 {
                        let name = format!("{thread}-{round}");
                        let (queue, event) = (manager.queue::<Event>(2).unwrap(), manager.event().unwrap());
                        queue.put(event.clone()).unwrap();
                        manager.publish(&name, &queue).unwrap();
                        drop(queue);
                        manager.find::<Queue<Event>>(&name).unwrap().get().unwrap().set();
                        assert!(event.is_set());
                        manager.withdraw(&name).unwrap();
                    }
                })
            })
            .collect();
        scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                let segment = manager.segment();
                let _ = (segment.sweep(), segment.stats(), segment.inspect().to_string(), manager.published().unwrap());
            }
        });
        let ended: Vec<_> = makers.into_iter().map(|maker| maker.join()).collect();
        over.store(true, Ordering::Relaxed);
        ended.into_iter().for_each(|ended| ended.unwrap());
    });
    assert_eq!(manager.segment().stats().objects, 1);
}
