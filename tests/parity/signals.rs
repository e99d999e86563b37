//! `_TestPollEintr`, `TestIgnoreEINTR`, `_TestLogging`.

use std::io::{Read, Write};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use kinfolk::channel::Fd;
use kinfolk::process::Stdio;
use kinfolk::{Connection, Event, Process, pipe};

use super::guard;

/// How many signals this process has handled.
static HANDLED: AtomicU32 = AtomicU32::new(0);
/// Is set by the handler, if it is there.
static TOLD: OnceLock<Event> = OnceLock::new();

extern "C" fn handle(_: i32) {
    HANDLED.fetch_add(1, Ordering::Relaxed);
    if let Some(told) = TOLD.get() {
        told.set();
    }
}

/// Has SIGUSR1 handled from now on, so that it interrupts system calls; the calling thread's number.
fn handle_signals() -> i32 {
    // SAFETY: all bytes zero are an action without flags: no SA_RESTART.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = handle as extern "C" fn(i32) as libc::sighandler_t;
    // SAFETY: the handler touches atomics and sets an event, which handlers may do.
    assert_eq!(unsafe { libc::sigaction(libc::SIGUSR1, &action, std::ptr::null_mut()) }, 0);
    rustix::thread::gettid().as_raw_nonzero().get()
}

fn send(pid: u32, thread: i32) {
    // SAFETY: takes numbers. A thread that has ended is no harm.
    unsafe { libc::syscall(libc::SYS_tgkill, pid, thread, libc::SIGUSR1) };
}

/// Runs `during` while a thread of this process sends signals to a thread of another, as fast as it can.
fn under_signals<R>(pid: u32, thread: i32, during: impl FnOnce() -> R) -> R {
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                send(pid, thread);
                std::thread::yield_now();
            }
        });
        let result = during();
        done.store(true, Ordering::Relaxed);
        result
    })
}

#[test]
fn a_join_goes_on_after_signals() {
    let _guard = guard();
    const SIGNALS: u32 = 200;
    /// Sends one signal after the other, each when the last has been handled.
    fn disturb((told, thread): (Event, i32)) {
        let parent = kinfolk::process::parent().unwrap().pid();
        for _ in 0..SIGNALS {
            told.clear();
            send(parent, thread);
            told.wait();
        }
    }
    /// Joins a child that disturbs it, in a process of its own: handlers are the whole process's.
    fn join(_: ()) -> (u32, Option<i32>) {
        let thread = handle_signals();
        let told = TOLD.get_or_init(|| Event::new().unwrap());
        let process = Process::spawn(disturb, (told.clone(), thread)).unwrap();
        let child = process.child().clone();
        process.join().unwrap();
        (HANDLED.load(Ordering::Relaxed), child.exit_code())
    }
    assert_eq!(Process::spawn(join, ()).unwrap().join().unwrap(), (SIGNALS, Some(0)));
}

#[test]
fn messages_survive_signals() {
    let _guard = guard();
    const BYTES: usize = 4 << 20;
    const ROUNDS: u32 = 200;
    /// So many signals at least.
    const WANTED: u32 = 10;
    fn exchange(connection: Connection<Vec<u8>, Vec<u8>>) -> u32 {
        connection.send(handle_signals().to_le_bytes().to_vec()).unwrap();
        loop {
            let mut got = connection.recv().unwrap();
            if got.is_empty() {
                break;
            }
            got.extend_from_slice(&HANDLED.load(Ordering::Relaxed).to_le_bytes());
            connection.send(got).unwrap();
        }
        // More than there is room for, so the last of it waits for the other side.
        for part in 0..4 {
            connection.send(vec![part; BYTES / 4]).unwrap();
        }
        HANDLED.load(Ordering::Relaxed)
    }
    let (here, there) = pipe().unwrap();
    let process = Process::spawn(exchange, there).unwrap();
    let thread = i32::from_le_bytes(here.recv().unwrap().try_into().unwrap());
    under_signals(process.pid(), thread, || {
        let (mut round, mut handled) = (0, 0);
        while round < ROUNDS || handled <= WANTED {
            round += 1;
            let sent = vec![round as u8; (round % ROUNDS + 1) as usize];
            here.send(sent.clone()).unwrap();
            // The child waits meanwhile, and signals come.
            std::thread::yield_now();
            let mut got = here.recv().unwrap();
            handled = u32::from_le_bytes(got.split_off(sent.len()).try_into().unwrap());
            assert_eq!(got, sent);
        }
        here.send(Vec::new()).unwrap();
        for part in 0..4 {
            assert_eq!(here.recv().unwrap(), vec![part; BYTES / 4]);
        }
    });
    assert!(process.join().unwrap() > WANTED);
}

#[test]
fn descriptors_are_handed_over_under_signals() {
    let _guard = guard();
    const ROUNDS: u32 = 100;
    /// So many signals at least.
    const WANTED: i32 = 10;
    /// Fetches descriptors over the socket that the other process listens at.
    fn fetch(connection: Connection<i32, Option<Fd>>) -> u32 {
        connection.send(handle_signals()).unwrap();
        while let Some(fd) = connection.recv().unwrap() {
            let mut file = std::fs::File::from(fd);
            file.write_all(b"got it").unwrap();
            connection.send(HANDLED.load(Ordering::Relaxed) as i32).unwrap();
        }
        HANDLED.load(Ordering::Relaxed)
    }
    let (here, there) = pipe().unwrap();
    let process = Process::spawn(fetch, there).unwrap();
    let thread = here.recv().unwrap();
    under_signals(process.pid(), thread, || {
        let (mut round, mut handled) = (0, 0);
        while round < ROUNDS || handled <= WANTED {
            round += 1;
            let (reader, writer) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap();
            here.send(Some(Fd::from(writer))).unwrap();
            handled = here.recv().unwrap();
            let mut said = [0; 6];
            std::fs::File::from(reader).read_exact(&mut said).unwrap();
            assert_eq!(&said, b"got it");
        }
        here.send(None).unwrap();
    });
    assert!(process.join().unwrap() > WANTED as u32);
}

#[test]
fn what_a_family_logs_goes_to_one_place() {
    let _guard = guard();
    // There is no logger of the library's: a program's own writes to standard error, which is handed on.
    fn log(left: u32) {
        eprintln!("level {left}");
        if left > 0 {
            Process::spawn(log, left - 1).unwrap().join().unwrap();
        }
    }
    let mut process = Process::builder().stderr(Stdio::piped()).spawn(log, 2).unwrap();
    let mut said = String::new();
    process.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    process.join().unwrap();
    assert_eq!(said, "level 2\nlevel 1\nlevel 0\n");
}

#[test]
fn a_level_in_the_environment_is_inherited() {
    let _guard = guard();
    fn levels(left: u32) -> Vec<Option<String>> {
        let mut levels = vec![std::env::var("RUST_LOG").ok()];
        if left > 0 {
            levels.extend(Process::spawn(levels_of_a_child, left - 1).unwrap().join().unwrap());
        }
        levels
    }
    fn levels_of_a_child(left: u32) -> Vec<Option<String>> {
        levels(left)
    }
    let see = |builder: kinfolk::process::Builder| builder.spawn(levels, 1).unwrap().join().unwrap();
    let level = Some("debug".to_owned());
    assert_eq!(see(Process::builder().env("RUST_LOG", "debug")), [level.clone(), level]);
    assert_eq!(see(Process::builder().env_remove("RUST_LOG")), [None, None]);
}
