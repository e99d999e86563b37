//! A kernel without the newer system calls, as a filter (seccomp) makes it look.

mod support;

use kinfolk::process::{StartMethod, all_start_methods};
use kinfolk::{JoinError, Process, Queue};
use std::time::Duration;
use support::children::{alone, start};
use support::watchdog;

/// `futex_waitv` (5.16), `close_range` (5.9), `clone3` (5.3; containers refuse it, too) and the request that tells how a process ended by its
/// pidfd (6.15) are not there, for this process and all that it starts.
fn become_old() {
    const LOAD: u16 = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16;
    const EQUAL: u16 = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
    const AND: u16 = (libc::BPF_ALU | libc::BPF_AND | libc::BPF_K) as u16;
    const RETURN: u16 = (libc::BPF_RET | libc::BPF_K) as u16;
    let line = |code, jt, jf, k| libc::sock_filter { code, jt, jf, k };
    let refuse = |error: i32| libc::SECCOMP_RET_ERRNO | error as u32;
    let mut filter = [
        // The number of the call.
        line(LOAD, 0, 0, 0),
        line(EQUAL, 7, 0, libc::SYS_close_range as u32),
        line(EQUAL, 6, 0, libc::SYS_futex_waitv as u32),
        line(EQUAL, 5, 0, libc::SYS_clone3 as u32),
        line(EQUAL, 0, 3, libc::SYS_ioctl as u32),
        // The lower half of its second argument.
        line(LOAD, 0, 0, 24),
        line(AND, 0, 0, 0xffff),
        line(EQUAL, 2, 0, 0xff0b),
        line(RETURN, 0, 0, libc::SECCOMP_RET_ALLOW),
        line(RETURN, 0, 0, refuse(libc::ENOSYS)),
        line(RETURN, 0, 0, refuse(libc::ENOTTY)),
    ];
    let program = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_mut_ptr() };
    // SAFETY: the second call reads the program, which lives until it returns.
    unsafe {
        assert_eq!(libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), 0);
        let flag = libc::SECCOMP_FILTER_FLAG_TSYNC;
        assert_eq!(libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, flag, &raw const program), 0);
        assert_eq!(libc::syscall(libc::SYS_futex_waitv, 0, 0, 0, 0, 0), -1);
        assert_eq!(*libc::__errno_location(), libc::ENOSYS);
    }
}

#[test]
fn children_of_all_kinds_work_and_are_told_of() {
    let _guard = watchdog(Duration::from_secs(120));
    alone(|()| {
        become_old();
        let stray = std::os::fd::IntoRawFd::into_raw_fd(std::fs::File::open("/dev/null").unwrap());
        // SAFETY: the number is open.
        assert_eq!(unsafe { libc::fcntl(stray, libc::F_SETFD, 0) }, 0);
        for &method in all_start_methods() {
            let is_open =
                |fd: i32| std::fs::read_link(format!("/proc/self/fd/{fd}")).is_ok_and(|f| f.ends_with("null"));
            assert!(!start(method, is_open, stray).join().unwrap(), "{method}");
            let queue = Queue::<u32>::new(4).unwrap();
            let children: Vec<Process<()>> = (0..20)
                .map(|n| {
                    let end = |(n, queue): (i32, Queue<u32>)| -> () {
                        queue.put_timeout(n as u32, Duration::from_secs(20)).unwrap();
                        std::process::exit(n)
                    };
                    start(method, end, (n, queue.clone()))
                })
                .collect();
            let mut got: Vec<u32> = children.iter().map(|_| queue.get().unwrap()).collect();
            got.sort_unstable();
            assert_eq!(got, (0..20).collect::<Vec<_>>());
            for (n, child) in (0..).zip(children) {
                match child.join() {
                    Err(JoinError::Exited { code }) => assert_eq!(code, n, "{method}"),
                    other => panic!("{method}: {other:?}"),
                }
            }
            let killed = start(method, support::children::park, ());
            killed.kill().unwrap();
            assert!(matches!(killed.join(), Err(JoinError::Signaled { signal: 9, .. })), "{method}");
        }
        // A process that has a server ends in order: the server keeps its children until they are asked for.
        let user = |()| start(StartMethod::ForkServer, |n: u32| n, 5).join().unwrap();
        assert_eq!(start(StartMethod::Spawn, user, ()).join().unwrap(), 5);
    });
}

#[test]
fn many_things_are_waited_for_at_once() {
    let _guard = watchdog(Duration::from_secs(60));
    alone(|()| {
        become_old();
        let queues: Vec<Queue<u32>> = (0..3).map(|_| Queue::new(4).unwrap()).collect();
        let late = |queue: Queue<u32>| queue.put(7).unwrap();
        let child = start(StartMethod::Spawn, late, queues[2].clone());
        let ready = kinfolk::channel::wait(&[&queues[0], &queues[1], &queues[2]], None).unwrap();
        assert_eq!(ready, [2]);
        child.join().unwrap();
    });
}
