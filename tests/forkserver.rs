//! Fork servers that are killed, asked by many, or asked often.

mod support;

use kinfolk::process::{self, StartMethod, all_start_methods};
use kinfolk::{JoinError, Process, Queue, Semaphore};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};
use support::children::{alone, deserted, park, processes, server, servers, start, until};
use support::random::Random;
use support::watchdog;
use support::watchdog::Watchdog;

fn guard() -> Watchdog {
    watchdog(Duration::from_secs(240))
}

#[test]
fn a_server_does_not_hear_ctrl_c_and_is_replaced_when_it_is_killed() {
    let _guard = guard();
    alone(|()| {
        let run = || start(StartMethod::ForkServer, |n: u32| n + 1, 41).join().unwrap();
        assert_eq!(run(), 42);
        let first = server();
        kill(first, Signal::SIGINT).unwrap();
        assert_eq!((run(), server()), (42, first));
        for signal in [Signal::SIGKILL, Signal::SIGTERM] {
            let go_on = Semaphore::new(0).unwrap();
            let wait = |go_on: Semaphore| {
                go_on.acquire().unwrap().forget();
                std::process::exit(3)
            };
            let old = start(StartMethod::ForkServer, wait, go_on.clone());
            let before = server();
            kill(before, signal).unwrap();
            until(|| !servers().0.contains(&before.as_raw()));
            // The spare that was left may do for the first.
            assert_eq!([run(), run()], [42; 2]);
            assert_ne!(server(), before);
            assert!(old.is_alive(), "a child does not depend on the server");
            go_on.release().unwrap();
            old.child().wait().unwrap();
            // The kernel keeps its status since Linux 6.15.
            assert!(matches!(old.exit_code(), Some(3 | 255)), "{:?}", old.exit_code());
            let ended: Result<(), _> = old.join();
            assert!(matches!(ended, Err(JoinError::Exited { code: 3 } | JoinError::Failed(_))), "{ended:?}");
        }
        let zombies = processes().into_iter().filter(|p| p.parent == std::process::id() as i32 && p.state == 'Z');
        assert_eq!(zombies.count(), 0);
    });
}

#[test]
fn servers_and_spares_killed_at_any_moment_hold_nobody_up() {
    let _guard = guard();
    alone(|()| {
        static STOP: AtomicBool = AtomicBool::new(false);
        /// No child is to be started, so that the spare stays one.
        static PAUSE: AtomicBool = AtomicBool::new(false);
        /// Servers and spares that were killed.
        static KILLED: [AtomicU32; 2] = [AtomicU32::new(0), AtomicU32::new(0)];
        let killer = std::thread::spawn(|| {
            let mut random = Random::new(3);
            while !STOP.load(Ordering::Relaxed) {
                let wait = |micros| {
                    let moment = Instant::now() + Duration::from_micros(micros);
                    until(|| Instant::now() >= moment);
                };
                wait(random.below(8_000));
                let which = usize::from(random.below(3) == 0);
                let victims = if which == 0 {
                    servers().0
                } else {
                    PAUSE.store(true, Ordering::Relaxed);
                    let spares = servers().1;
                    PAUSE.store(false, Ordering::Relaxed);
                    wait(random.below(500));
                    spares
                };
                for victim in victims {
                    // It may have ended, or become a child in between: then that is killed.
                    if kill(Pid::from_raw(victim), Signal::SIGKILL).is_ok() {
                        KILLED[which].fetch_add(1, Ordering::Relaxed);
                    }
                }
            }
        });
        let ran = Queue::<u32>::new(1024).unwrap();
        let (mut seen, mut returned, mut lost) = (Vec::new(), Vec::new(), 0);
        let mut number = 0;
        let killed = |which: usize| KILLED[which].load(Ordering::Relaxed);
        let (servers, spares) = if cfg!(debug_assertions) { (40, 20) } else { (100, 50) };
        while number < 300 || killed(0) < servers || killed(1) < spares {
            let work = |(n, ran): (u32, Queue<u32>)| {
                ran.put(n).unwrap();
                n
            };
            while let Ok(n) = ran.try_get() {
                seen.push(n);
            }
            until(|| !PAUSE.load(Ordering::Relaxed));
            match start(StartMethod::ForkServer, work, (number, ran.clone())).join() {
                Ok(n) => returned.push(n),
                Err(JoinError::Signaled { signal: 9, .. }) => lost += 1,
                // The server was killed and then the child, or the other way round.
                Err(JoinError::Failed(error)) => {
                    lost += u32::from(error.to_string().contains("taken by somebody else"))
                }
                Err(other) => panic!("{other:?}"),
            }
            number += 1;
        }
        STOP.store(true, Ordering::Relaxed);
        killer.join().unwrap();
        assert_eq!(returned.len() as u32 + lost, number);
        while let Ok(n) = ran.try_get() {
            seen.push(n);
        }
        assert!(returned.iter().all(|n| seen.contains(n)));
        let all = seen.len();
        seen.sort_unstable();
        seen.dedup();
        assert_eq!(seen.len(), all, "nothing ran twice");
        // Servers that were killed are reaped, and their children by whom they were given to.
        let me = std::process::id() as i32;
        until(|| {
            // The first may have been the spare that was killed last.
            let ended = start(StartMethod::ForkServer, |()| (), ()).join();
            ended.is_ok() && processes().iter().all(|p| p.parent != me || p.state != 'Z')
        });
    });
}

#[test]
fn a_thousand_starts_leave_nothing_behind() {
    let _guard = guard();
    alone(|()| {
        let resident = |pid: Pid| -> u64 {
            let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
            let line = status.lines().find(|l| l.starts_with("VmRSS")).unwrap();
            line.split_whitespace().nth(1).unwrap().parse().unwrap()
        };
        let open = |pid: &str| std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count();
        let run = |n: u32| assert_eq!(start(StartMethod::ForkServer, |n: u32| n, n).join().unwrap(), n);
        (0..50).for_each(run);
        let server = server();
        // It is at rest when the next spare is there.
        let at_rest = || until(|| servers().1.len() == 1);
        at_rest();
        let before = (resident(server), open(&server.to_string()), open("self"));
        (0..1000).for_each(run);
        at_rest();
        let after = (resident(server), open(&server.to_string()), open("self"));
        assert_eq!((before.1, before.2), (after.1, after.2));
        assert!(after.0 <= before.0 + 256, "kB resident: {} and {}", before.0, after.0);
        assert_eq!(self::server(), server);
        assert_eq!(servers().1.len(), 1);
    });
}

#[test]
fn many_threads_start_children_at_once() {
    let _guard = guard();
    std::thread::scope(|scope| {
        for t in 0..8 {
            scope.spawn(move || {
                for n in 0..25 {
                    let process = start(StartMethod::ForkServer, |n: u32| n, t * 100 + n);
                    assert_eq!(process.join().unwrap(), t * 100 + n);
                }
            });
        }
    });
}

#[test]
fn a_parent_killed_while_it_starts_children_leaves_nobody() {
    let _guard = guard();
    fn starter((method, begun): (StartMethod, Semaphore)) {
        nix::unistd::setsid().unwrap();
        begun.release().unwrap();
        let mut kept = Vec::new();
        loop {
            kept.push(start(method, park, ()));
            kept.truncate(5);
            if kept.len() == 5 {
                process::active_children().iter().for_each(|c| c.kill().unwrap());
                kept.clear();
            }
        }
    }
    let mut random = Random::new(11);
    for round in 0..30 {
        let begun = Semaphore::new(0).unwrap();
        let process = start(all_start_methods()[round % 2], starter, (StartMethod::ForkServer, begun.clone()));
        begun.acquire().unwrap().forget();
        let moment = Instant::now() + Duration::from_micros(random.below(20_000));
        until(|| Instant::now() >= moment);
        process.kill().unwrap();
        let pid = process.pid();
        assert!(process.join().is_err());
        deserted(pid);
    }
    let segment = kinfolk::Segment::family().unwrap();
    segment.sweep();
    assert!(Process::spawn(|n: u32| n, 5).unwrap().join().is_ok_and(|n| n == 5));
}

/// The zombies among the children of this process.
fn zombies() -> Vec<String> {
    let me = std::process::id() as i32;
    processes().into_iter().filter(|p| p.parent == me && p.state == 'Z').map(|p| p.name).collect()
}

#[test]
fn a_server_that_was_killed_is_reaped_without_another_start() {
    let _guard = guard();
    alone(|()| {
        start(StartMethod::ForkServer, |()| (), ()).join().unwrap();
        kill(server(), Signal::SIGKILL).unwrap();
        until(|| !zombies().is_empty());
        assert!(process::active_children().is_empty());
        assert_eq!(zombies(), [""; 0]);
    });
}

#[test]
fn nothing_of_a_server_is_left_to_others_when_its_owner_exits() {
    let _guard = guard();
    alone(|()| {
        // Orphans of this process's children become its own, and nobody but the test looks at them.
        // SAFETY: takes numbers.
        assert_eq!(unsafe { libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) }, 0);
        for method in all_start_methods().iter().cycle().take(20) {
            let user = |()| start(StartMethod::ForkServer, |()| (), ()).join().unwrap();
            start(*method, user, ()).join().unwrap();
        }
        let (own_server, own_spares) = servers();
        let me = std::process::id() as i32;
        let orphans: Vec<_> =
            processes().into_iter().filter(|p| p.parent == me && !own_server.contains(&p.pid)).collect();
        assert!(orphans.is_empty() && own_spares.len() <= 1, "{orphans:?}");
    });
}
