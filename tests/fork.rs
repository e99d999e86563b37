//! Children that are forks of their parent.

mod support;

use kinfolk::process::{self, StartMethod, all_start_methods};
use kinfolk::{JoinError, Process, Queue, Semaphore};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::time::Duration;
use support::children::{alone, deserted, park, server, start};
use support::watchdog;
use support::watchdog::Watchdog;

fn guard() -> Watchdog {
    watchdog(Duration::from_secs(240))
}

/// Forks in a process with one more thread than it has to have, which does nothing.
fn fork<A, R: Serialize + DeserializeOwned>(function: impl FnOnce(A) -> R, args: A) -> Process<R> {
    // SAFETY: callers are in a process whose other threads sleep, and `function` prints nothing.
    unsafe { Process::fork(function, args) }.unwrap()
}

#[test]
fn a_fork_goes_on_with_all_memory() {
    let _guard = guard();
    alone(|()| {
        let words = ["captured".to_owned(), "not sent".to_owned()];
        let queue = Queue::<u32>::new(4).unwrap();
        let process = fork(
            |n: usize| {
                queue.put(std::process::id()).unwrap();
                let parent = process::parent().unwrap();
                (words[n].clone(), process::current().name().to_owned(), parent.pid(), parent.is_alive())
            },
            1,
        );
        assert_eq!(queue.get().unwrap(), process.pid());
        let name = process.name().to_owned();
        assert_eq!(process.join().unwrap(), ("not sent".to_owned(), name, std::process::id(), true));
        assert_eq!(words.len(), 2);

        match fork(|()| -> u32 { panic!("in a fork") }, ()).join() {
            Err(JoinError::Panicked { message, .. }) => assert_eq!(message, "in a fork"),
            other => panic!("{other:?}"),
        }
        let killed = fork(park, ());
        killed.kill().unwrap();
        assert!(matches!(killed.join(), Err(JoinError::Signaled { signal: 9, .. })));
        let large = fork(|n| vec![1u8; n], 100_000);
        assert_eq!(large.join().unwrap().len(), 100_000);
    });
}

#[test]
fn a_fork_keeps_what_its_parent_lets_go_of() {
    let _guard = guard();
    alone(|()| {
        let (queue, begin) = (Queue::<u32>::new(4).unwrap(), Semaphore::new(0).unwrap());
        queue.put(5).unwrap();
        let theirs = begin.clone();
        let process = fork(
            move |queue: Queue<u32>| {
                theirs.acquire().unwrap().forget();
                queue.get().unwrap()
            },
            queue,
        );
        // Here the queue is gone: `fork` has taken it.
        begin.release().unwrap();
        assert_eq!(process.join().unwrap(), 5);
    });
}

#[test]
fn a_fork_starts_children_of_every_kind_and_is_one() {
    let _guard = guard();
    alone(|()| {
        // So that there is a server, and a child, that are not the fork's.
        let other = start(StartMethod::ForkServer, park, ());
        let mine = server();
        let process = fork(
            |()| {
                assert!(process::active_children().is_empty());
                let nested: Vec<u32> = all_start_methods()
                    .iter()
                    .map(|&m| start(m, |()| process::parent().unwrap().pid(), ()))
                    .map(|p| p.join().unwrap())
                    .collect();
                let deeper = fork(|()| (process::parent().unwrap().pid(), process::current().name().to_owned()), ());
                assert_ne!(server(), mine);
                (nested, deeper.join().unwrap(), process::current().name().to_owned())
            },
            (),
        );
        let pid = process.pid();
        let (nested, deeper, name) = process.join().unwrap();
        assert_eq!((nested, deeper), (vec![pid; 2], (pid, format!("{name}:3"))));
        assert_eq!(server(), mine);
        other.kill().unwrap();
        assert!(other.join().is_err());
    });
}

#[test]
fn a_fork_ends_without_the_hooks_of_its_parent() {
    let _guard = guard();
    static HOOKS: std::sync::OnceLock<Semaphore> = std::sync::OnceLock::new();
    extern "C" fn hook() {
        HOOKS.get().unwrap().release().unwrap();
    }
    let hooks = Semaphore::new(0).unwrap();
    let run = |hooks: Semaphore| {
        HOOKS.set(hooks.clone()).unwrap();
        // SAFETY: a function of the program that does not unwind.
        assert_eq!(unsafe { libc::atexit(hook) }, 0);
        let done = Semaphore::new(0).unwrap();
        // The fork waits for its own child.
        let theirs = done.clone();
        fork(move |()| drop(start(StartMethod::Spawn, |done: Semaphore| done.release().unwrap(), theirs)), ())
            .join()
            .unwrap();
        (hooks.value(), done.value())
    };
    assert_eq!(start(StartMethod::Spawn, run, hooks.clone()).join().unwrap(), (0, 1));
    assert_eq!(hooks.value(), 1, "the parent's own end runs them");
}

#[test]
fn a_fork_ends_with_its_parent() {
    let _guard = guard();
    fn head(begun: Semaphore) {
        nix::unistd::setsid().unwrap();
        let theirs = begun.clone();
        let _fork = fork(
            move |()| {
                theirs.release().unwrap();
                park(());
            },
            (),
        );
        begun.release().unwrap();
        park(());
    }
    let begun = Semaphore::new(0).unwrap();
    let process = start(StartMethod::Spawn, head, begun.clone());
    (0..2).for_each(|_| begun.acquire().unwrap().forget());
    process.kill().unwrap();
    let pid = process.pid();
    assert!(process.join().is_err());
    deserted(pid);
}
