//! The same children, however they are started; and what becomes of a fork server that is killed.

mod support;

use kinfolk::process::{self, StartMethod, all_start_methods};
use kinfolk::{ErrorKind, JoinError, Mutex, Process, Queue, Semaphore};
use nix::sys::signal::{SigHandler, SigSet, Signal, raise, signal};
use std::io::Write;
use std::os::fd::AsRawFd;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use support::children::{alone, deserted, park, processes, start};
use support::watchdog;
use support::watchdog::Watchdog;

fn guard() -> Watchdog {
    watchdog(Duration::from_secs(240))
}

#[test]
fn results_and_ends_are_told_alike() {
    let _guard = guard();
    for &method in all_start_methods() {
        assert_eq!(start(method, |(a, b): (u64, u64)| a + b, (2, 40)).join().unwrap(), 42);
        assert_eq!(start(method, |n: usize| vec![7u8; n], 100_000).join().unwrap(), vec![7; 100_000]);
        let process = start(method, |()| std::process::id(), ());
        let pid = process.pid();
        assert_eq!(process.join().unwrap(), pid);

        let process = start(method, |n: i32| -> i32 { panic!("no {n} today") }, 7);
        process.child().wait().unwrap();
        assert_eq!(process.exit_code(), Some(1));
        let Err(JoinError::Panicked { message, location, .. }) = process.join() else { panic!("{method}") };
        assert_eq!(message, "no 7 today");
        assert!(location.starts_with(file!()), "{location}");

        let process = start(method, |code: i32| -> () { std::process::exit(code) }, 44);
        process.child().wait().unwrap();
        assert_eq!(process.exit_code(), Some(44), "{method}");
        assert!(matches!(process.join(), Err(JoinError::Exited { code: 44 })));
        for signal in [Signal::SIGKILL, Signal::SIGTERM, Signal::SIGUSR1] {
            fn die(signal: i32) {
                raise(Signal::try_from(signal).unwrap()).unwrap();
                park(());
            }
            match start(method, die, signal as i32).join() {
                Err(JoinError::Signaled { signal: told, .. }) => assert_eq!(told, signal as i32, "{method}"),
                other => panic!("{method}: {other:?}"),
            }
        }
        let error = Process::builder().name("a\0b").start_method(method).spawn(park, ()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
    }
}

#[test]
fn signals_come_to_a_child_alike() {
    let _guard = guard();
    for &method in all_start_methods() {
        type Send = fn(&process::Child) -> Result<(), kinfolk::Error>;
        let signals: [(Send, i32); 3] =
            [(process::Child::terminate, -15), (process::Child::kill, -9), (process::Child::interrupt, -2)];
        for (send, code) in signals {
            let begun = Semaphore::new(0).unwrap();
            let mut process = start(
                method,
                |begun: Semaphore| {
                    begun.release().unwrap();
                    park(());
                },
                begun.clone(),
            );
            begun.acquire().unwrap().forget();
            assert!(process.is_alive() && process.exit_code().is_none());
            assert!(process.join_timeout(Duration::ZERO).unwrap().is_none());
            assert!(process::active_children().iter().any(|c| c.pid() == process.pid()));
            send(process.child()).unwrap();
            let mut polled = libc::pollfd { fd: process.sentinel().as_raw_fd(), events: libc::POLLIN, revents: 0 };
            // SAFETY: one structure, as is said.
            assert_eq!(unsafe { libc::poll(&raw mut polled, 1, -1) }, 1);
            process.child().wait().unwrap();
            assert_eq!(process.exit_code(), Some(code), "{method}");
            assert!(!process.is_alive());
            send(process.child()).unwrap();
            assert!(process::active_children().iter().all(|c| c.pid() != process.pid()));
        }
    }
}

#[test]
fn what_is_ignored_when_children_are_first_started_they_ignore_too() {
    let _guard = guard();
    /// Whether the calling process ignores interrupts.
    fn ignores(_: ()) -> bool {
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:\t")).unwrap();
        u64::from_str_radix(ignored, 16).unwrap() >> (Signal::SIGINT as u32 - 1) & 1 == 1
    }
    fn children_ignore(_: ()) -> Vec<bool> {
        all_start_methods().iter().map(|method| start(*method, ignores, ()).join().unwrap()).collect()
    }
    fn ignoring(_: ()) -> Vec<bool> {
        // SAFETY: no handler is installed.
        unsafe { signal(Signal::SIGINT, SigHandler::SigIgn) }.unwrap();
        children_ignore(())
    }
    assert_eq!(alone(children_ignore), vec![false; all_start_methods().len()]);
    assert_eq!(alone(ignoring), vec![true; all_start_methods().len()]);
}

#[test]
fn a_child_knows_who_it_is_and_by_whom_it_was_started() {
    let _guard = guard();
    type Identity = (String, bool, Option<(String, u32, bool)>, String);
    fn identity(_: ()) -> Identity {
        let parent = process::parent().map(|p| (p.name().to_owned(), p.pid(), p.is_alive()));
        let current = process::current();
        assert_eq!(current.pid(), std::process::id());
        (current.name().to_owned(), current.is_daemon(), parent, process::start_method().to_string())
    }
    fn nested(method: StartMethod) -> (Identity, Identity, u32) {
        (identity(()), start(method, identity, ()).join().unwrap(), std::process::id())
    }
    for &method in all_start_methods() {
        for &inner in all_start_methods() {
            let process =
                Process::builder().name("middle").daemon(true).start_method(method).spawn(nested, inner).unwrap();
            assert!(process.is_daemon() && process.name() == "middle");
            let (child, grandchild, pid) = process.join().unwrap();
            let me = Some(("MainProcess".to_owned(), std::process::id(), true));
            assert_eq!(child, ("middle".to_owned(), true, me, method.to_string()));
            assert!(grandchild.1, "a daemon's children are daemons");
            assert_eq!(grandchild.2, Some(("middle".to_owned(), pid, true)));
            assert_eq!(grandchild.3, inner.name());
            assert!(grandchild.0.ends_with(":1"), "{}", grandchild.0);
        }
    }
}

#[test]
fn a_child_gets_what_the_parent_has_now() {
    let _guard = guard();
    /// Working directory, blocked signals, ignored signals but the two that the C library keeps for itself.
    fn look(_: ()) -> (String, u64, u64) {
        let status = std::fs::read_to_string("/proc/thread-self/status").unwrap();
        let signals = |which: &str| {
            let line = status.lines().find_map(|l| l.strip_prefix(which)).unwrap();
            u64::from_str_radix(line.trim(), 16).unwrap() & !(3 << 31)
        };
        println!("a word to standard output");
        (std::env::current_dir().unwrap().display().to_string(), signals("SigBlk:"), signals("SigIgn:"))
    }
    alone(|()| {
        // So that the server has its own idea of all this.
        start(StartMethod::ForkServer, |()| (), ()).join().unwrap();
        let mut usr1 = SigSet::empty();
        usr1.add(Signal::SIGUSR1);
        usr1.thread_block().unwrap();
        let folder = std::env::temp_dir().join(format!("kinfolk-test-{}", std::process::id()));
        std::fs::create_dir(&folder).unwrap();
        std::env::set_current_dir(&folder).unwrap();
        let file = std::fs::File::create("output").unwrap();
        nix::unistd::dup2_stdout(&file).unwrap();
        let seen: Vec<_> = all_start_methods().iter().map(|&m| start(m, look, ()).join().unwrap()).collect();
        assert_eq!(seen[0], seen[1]);
        assert_eq!(seen[0].0, folder.display().to_string());
        assert_eq!(seen[0].1, 1 << (Signal::SIGUSR1 as i32 - 1));
        let printed = std::fs::read_to_string("output").unwrap();
        assert_eq!(printed.matches("a word to standard output\n").count(), 2);
        std::fs::remove_dir_all(&folder).unwrap();

        // Streams that are closed are empty, not somebody else's.
        // SAFETY: this process has nothing more to read or print.
        unsafe { libc::close(0) };
        let input = |()| std::fs::read_link("/proc/self/fd/0").unwrap().display().to_string();
        for &method in all_start_methods() {
            assert_eq!(start(method, input, ()).join().unwrap(), "/dev/null");
        }
    });
}

#[test]
fn a_child_has_no_descriptors_of_its_parent() {
    let _guard = guard();
    alone(|()| {
        let (read, write) = nix::unistd::pipe().unwrap();
        // One that a started program would inherit, and the server with it.
        let pipe = std::fs::read_link(format!("/proc/self/fd/{}", write.as_raw_fd())).unwrap();
        let stray = start(StartMethod::ForkServer, has_open, pipe);
        assert!(!stray.join().unwrap());
        for &method in all_start_methods() {
            let siblings: Vec<_> = (0..5).map(|_| start(method, park, ())).collect();
            let count = |()| std::fs::read_dir("/proc/self/fd").unwrap().count();
            let among_many = start(method, count, ()).join().unwrap();
            for sibling in siblings {
                sibling.kill().unwrap();
                assert!(sibling.join().is_err());
            }
            assert_eq!(start(method, count, ()).join().unwrap(), among_many, "{method}");
        }
        drop(write);
        assert_eq!(nix::unistd::read(&read, &mut [0]), Ok(0), "nobody has the other end");
    });
    fn has_open(file: PathBuf) -> bool {
        let open = std::fs::read_dir("/proc/self/fd").unwrap();
        open.filter_map(|fd| std::fs::read_link(fd.unwrap().path()).ok()).any(|link| link == file)
    }
}

#[test]
fn handles_go_to_children_of_every_kind() {
    let _guard = guard();
    let queue = Queue::<(String, u32)>::new(8).unwrap();
    let total = Mutex::new(0u32).unwrap();
    fn relay((queue, total, depth): (Queue<(String, u32)>, Mutex<u32>, u32)) {
        *total.lock().unwrap() += depth;
        queue.put((process::start_method().to_string(), depth)).unwrap();
        if depth > 0 {
            for &method in all_start_methods() {
                start(method, relay, (queue.clone(), total.clone(), depth - 1)).join().unwrap();
            }
        }
    }
    for &method in all_start_methods() {
        let process = start(method, relay, (queue.clone(), total.clone(), 2));
        let came: Vec<_> = (0..7).map(|_| queue.get().unwrap()).collect();
        process.join().unwrap();
        assert_eq!(came[0], (method.to_string(), 2));
        assert_eq!(came.iter().filter(|c| c.1 == 0).count(), 4);
    }
    assert_eq!(*total.lock().unwrap(), 2 * (2 + 1 + 1));
}

#[test]
fn daemons_end_with_their_parent_and_others_are_waited_for() {
    let _guard = guard();
    fn parent((method, done): (StartMethod, Semaphore)) -> u32 {
        let daemon = Process::builder().daemon(true).start_method(method).spawn(park, ()).unwrap();
        drop(start(method, |done: Semaphore| done.release().unwrap(), done));
        daemon.pid()
    }
    for &method in all_start_methods() {
        let done = Semaphore::new(0).unwrap();
        let daemon = start(method, parent, (method, done.clone())).join().unwrap() as i32;
        assert_eq!(done.value(), 1, "{method}");
        assert!(processes().iter().all(|p| p.pid != daemon || p.state == 'Z'), "{method}");
    }
}

/// In a new session: starts children of all kinds, which start some more, and all of which stay.
fn family((methods, begun): (Vec<StartMethod>, Semaphore)) {
    if let [_, rest @ ..] = &methods[..] {
        for &method in all_start_methods() {
            drop(Process::builder().start_method(method).spawn(family, (rest.to_vec(), begun.clone())).unwrap());
        }
    }
    begun.release().unwrap();
    park(());
}

#[test]
fn a_killed_parent_takes_its_descendants_and_servers_along() {
    let _guard = guard();
    fn head((methods, begun): (Vec<StartMethod>, Semaphore)) {
        nix::unistd::setsid().unwrap();
        family((methods, begun));
    }
    for &method in all_start_methods() {
        let begun = Semaphore::new(0).unwrap();
        let generations = vec![StartMethod::Spawn; 3];
        let process = start(method, head, (generations, begun.clone()));
        (0..7).for_each(|_| begun.acquire().unwrap().forget());
        assert!(processes().iter().filter(|p| p.session == process.pid() as i32).count() >= 7);
        process.kill().unwrap();
        let pid = process.pid();
        assert!(matches!(process.join(), Err(JoinError::Signaled { signal: 9, .. })));
        deserted(pid);
    }
}

#[test]
fn busy_threads_of_the_parent_hold_no_child_up() {
    let _guard = guard();
    fn busy(method: StartMethod) {
        static STOP: AtomicBool = AtomicBool::new(false);
        let nowhere = std::fs::File::options().write(true).open("/dev/null").unwrap();
        nix::unistd::dup2_stdout(&nowhere).unwrap();
        let shared = Mutex::new(0u64).unwrap();
        let private = std::sync::Arc::new(std::sync::Mutex::new(0u64));
        let threads: Vec<_> = (0..8)
            .map(|k| {
                let (shared, private) = (shared.clone(), private.clone());
                std::thread::spawn(move || {
                    while !STOP.load(Ordering::Relaxed) {
                        let text = vec![k; 1000 + k];
                        println!("{}", text.len());
                        *private.lock().unwrap() += 1;
                        *shared.lock().unwrap() += 1;
                        std::thread::yield_now();
                    }
                })
            })
            .collect();
        let child = |(n, shared): (u64, Mutex<u64>)| {
            println!("{n}");
            std::io::stdout().flush().unwrap();
            let text = vec![n; 1000];
            *shared.lock().unwrap() += 1;
            text.iter().sum::<u64>()
        };
        // Several at a time: what counts is the moments at which they begin.
        for round in 0..125 {
            let some: Vec<_> = (0..8).map(|k| start(method, child, (round * 8 + k, shared.clone()))).collect();
            for (k, process) in (0..).zip(some) {
                assert_eq!(process.join().unwrap(), (round * 8 + k) * 1000);
            }
        }
        STOP.store(true, Ordering::Relaxed);
        threads.into_iter().for_each(|t| t.join().unwrap());
        let total = *shared.lock().unwrap();
        assert_eq!(total, *private.lock().unwrap() + 1000);
    }
    for &method in all_start_methods() {
        start(StartMethod::Spawn, busy, method).join().unwrap();
    }
}

#[test]
fn the_default_is_set_once_or_by_force() {
    let _guard = guard();
    alone(|()| {
        // A child's default is how it was started.
        assert_eq!(process::start_method(), StartMethod::Spawn);
        assert_eq!(process::set_start_method(StartMethod::ForkServer).unwrap_err().kind(), ErrorKind::InvalidInput);
        process::force_start_method(StartMethod::ForkServer);
        assert_eq!(Process::spawn(|()| process::start_method(), ()).unwrap().join().unwrap(), StartMethod::ForkServer);
    });
    for &method in all_start_methods() {
        assert_eq!(method.name().parse::<StartMethod>().unwrap(), method);
    }
    assert_eq!("xxx".parse::<StartMethod>().unwrap_err().kind(), ErrorKind::InvalidInput);
}
