//! What a builder gives a child, by every way to start one.

mod support;

use kinfolk::process::{Builder, StartMethod, Stdio};
use kinfolk::{ErrorKind, JoinError, Process};
use rustix::process::{Resource, Rlimit};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::path::PathBuf;
use std::time::Duration;
use support::children::{alone, server, start};
use support::watchdog;
use support::watchdog::Watchdog;

fn guard() -> Watchdog {
    watchdog(Duration::from_secs(120))
}

/// A way to start a child.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    By(StartMethod),
    Fork,
}

const ALL: [Way; 3] = [Way::By(StartMethod::Spawn), Way::By(StartMethod::ForkServer), Way::Fork];

impl Way {
    fn try_start<F, A, R>(self, builder: Builder, function: F, args: A) -> Result<Process<R>, kinfolk::Error>
    where
        F: Fn(A) -> R + Copy + Send + 'static,
        A: Serialize + DeserializeOwned,
        R: Serialize + DeserializeOwned,
    {
        match self {
            Self::By(method) => builder.start_method(method).spawn(function, args),
            // SAFETY: all tests here start children from a process of their own, whose other threads sleep.
            Self::Fork => unsafe { builder.fork(function, args) },
        }
    }

    fn start<F, A, R>(self, builder: Builder, function: F, args: A) -> Process<R>
    where
        F: Fn(A) -> R + Copy + Send + 'static,
        A: Serialize + DeserializeOwned,
        R: Serialize + DeserializeOwned,
    {
        self.try_start(builder, function, args).unwrap()
    }
}

fn all(_: ()) -> Vec<(String, String)> {
    std::env::vars().collect()
}

#[test]
fn the_environment() {
    let _guard = guard();
    alone(|()| {
        let get = |name: String| std::env::var(name).ok();
        for way in ALL {
            let see = |builder, name: &str| way.start(builder, get, name.to_owned()).join().unwrap();
            let path = std::env::var("PATH").ok();
            assert_eq!(see(Process::builder(), "PATH"), path, "{way:?}");
            assert_eq!(see(Process::builder().env("KINFOLK_TEST", "a=b"), "KINFOLK_TEST"), Some("a=b".to_owned()));
            assert_eq!(see(Process::builder().env_remove("PATH"), "PATH"), None);
            let cleared = Process::builder().env("A", "x").env_clear().env("B", "y");
            assert_eq!(way.start(cleared, all, ()).join().unwrap(), [("B".to_owned(), "y".to_owned())]);
            // One child's is not the next one's.
            assert_eq!(see(Process::builder(), "PATH"), path);
            assert_eq!(see(Process::builder(), "KINFOLK_TEST"), None);
            let wrong = way.try_start(Process::builder().env("a=b", "x"), all, ()).unwrap_err();
            assert_eq!(wrong.kind(), ErrorKind::InvalidInput);
        }
    });
}

#[test]
fn the_working_directory() {
    let _guard = guard();
    alone(|()| {
        let see = |_: ()| std::env::current_dir().unwrap();
        let here = std::env::current_dir().unwrap();
        for way in ALL {
            assert_eq!(way.start(Process::builder(), see, ()).join().unwrap(), here);
            assert_eq!(way.start(Process::builder().current_dir("/"), see, ()).join().unwrap(), PathBuf::from("/"));
            assert_eq!(way.start(Process::builder().current_dir("src"), see, ()).join().unwrap(), here.join("src"));
            assert!(way.try_start(Process::builder().current_dir("/nowhere"), see, ()).is_err());
        }
        // What this process has changed since the server was started is what counts.
        std::env::set_current_dir("/").unwrap();
        for way in ALL {
            assert_eq!(way.start(Process::builder(), see, ()).join().unwrap(), PathBuf::from("/"));
        }
    });
}

#[test]
fn the_standard_streams() {
    let _guard = guard();
    fn shout(_: ()) {
        let mut read = String::new();
        std::io::stdin().read_to_string(&mut read).unwrap();
        print!("{}", read.to_uppercase());
        eprintln!("read {} bytes", read.len());
    }
    alone(|()| {
        for way in ALL {
            let piped = Process::builder().stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
            for _ in 0..2 {
                let mut child = way.start(piped.clone(), shout, ());
                child.stdin.take().unwrap().write_all(b"hello").unwrap();
                let (mut said, mut complained) = (String::new(), String::new());
                child.stdout.take().unwrap().read_to_string(&mut said).unwrap();
                child.stderr.take().unwrap().read_to_string(&mut complained).unwrap();
                assert_eq!((said.as_str(), complained.as_str()), ("HELLO", "read 5 bytes\n"), "{way:?}");
                child.join().unwrap();
            }
            let (mut read, write) = std::io::pipe().unwrap();
            let into = Stdio::from(OwnedFd::from(write));
            let builder = Process::builder().stdin(Stdio::null()).stdout(into.clone()).stderr(into);
            way.start(builder, shout, ()).join().unwrap();
            let mut said = String::new();
            read.read_to_string(&mut said).unwrap();
            assert_eq!(said, "read 0 bytes\n", "{way:?}");
        }
    });
}

#[test]
fn kept_descriptors() {
    let _guard = guard();
    /// Writes to all of them; the flags of each.
    fn write(kept: Vec<RawFd>) -> Vec<i32> {
        let write = |fd: RawFd| {
            // SAFETY: the parent has left it open; one byte is read.
            assert_eq!(unsafe { libc::write(fd, c"x".as_ptr().cast(), 1) }, 1);
            // SAFETY: asks for flags only.
            unsafe { libc::fcntl(fd, libc::F_GETFD) }
        };
        kept.into_iter().map(write).collect()
    }
    alone(|()| {
        // The server takes numbers of its own first.
        start(StartMethod::ForkServer, |()| (), ()).join().unwrap();
        for way in ALL {
            let (mut read, write_end) = std::io::pipe().unwrap();
            // Close together, and so numbers that a server or a child has used for something else.
            let many: Vec<OwnedFd> = (0..100).map(|_| OwnedFd::from(write_end.try_clone().unwrap())).collect();
            let numbers: Vec<RawFd> = many.iter().map(AsRawFd::as_raw_fd).collect();
            drop(write_end);
            let builder = many.into_iter().fold(Process::builder(), Builder::keep);
            let flags = way.start(builder, write, numbers.clone()).join().unwrap();
            assert_eq!(flags, vec![0; 100], "{way:?}: open, and for those that it starts");
            let mut written = Vec::new();
            read.read_to_end(&mut written).unwrap();
            assert_eq!(written.len(), 100);
        }
        let null = || OwnedFd::from(File::open("/dev/null").unwrap());
        let too_many = (0..201).fold(Process::builder(), |builder, _| builder.keep(null()));
        assert_eq!(ALL[1].try_start(too_many, |()| (), ()).unwrap_err().kind(), ErrorKind::InvalidInput);
    });
}

#[test]
fn processors_and_priority() {
    let _guard = guard();
    fn see(_: ()) -> (usize, i32) {
        let cpus = nix::sched::sched_getaffinity(nix::unistd::Pid::from_raw(0)).unwrap();
        let count = (0..nix::sched::CpuSet::count()).filter(|cpu| cpus.is_set(*cpu).unwrap()).count();
        // SAFETY: asks for this process's.
        (count, unsafe { libc::getpriority(libc::PRIO_PROCESS, 0) })
    }
    alone(|()| {
        let (count, nice) = see(());
        for way in ALL {
            let seen = way.start(Process::builder().affinity([0]).nice(1), see, ()).join().unwrap();
            assert_eq!(seen, (1, (nice + 1).min(19)), "{way:?}");
            assert_eq!(way.start(Process::builder(), see, ()).join().unwrap(), (count, nice), "{way:?}");
            match way.start(Process::builder().affinity([100_000]), see, ()).join() {
                Err(JoinError::Failed(error)) => assert_eq!(error.kind(), ErrorKind::InvalidInput, "{way:?}"),
                other => panic!("{way:?}: {other:?}"),
            }
        }
    });
}

fn deeper(n: u64) -> u64 {
    std::hint::black_box(if n == 0 { 0 } else { deeper(n - 1) + 1 })
}

#[test]
fn stack_overflows_and_backtraces() {
    let _guard = guard();
    alone(|()| {
        for way in ALL {
            let quiet = || Process::builder().stderr(Stdio::piped());
            let mut child = way.start(quiet().name("deep"), deeper, u64::MAX);
            let mut complained = String::new();
            child.stderr.take().unwrap().read_to_string(&mut complained).unwrap();
            assert!(complained.contains("thread 'deep' has overflowed its stack"), "{way:?}: {complained}");
            let ended = child.join();
            assert!(matches!(ended, Err(JoinError::StackOverflow)), "{way:?}: {ended:?}");
            let wild = |address: usize| {
                // SAFETY: it is not: that is what is tried.
                unsafe { std::ptr::without_provenance::<u8>(address).read_volatile() }
            };
            match way.start(quiet(), wild, 64).join() {
                Err(JoinError::Signaled { signal: libc::SIGSEGV, .. }) => {}
                other => panic!("{way:?}: {other:?}"),
            }
            let fail = |()| -> () { panic!("on purpose") };
            match way.start(quiet().env("RUST_BACKTRACE", "1"), fail, ()).join() {
                Err(JoinError::Panicked { message, backtrace, .. }) => {
                    // In a fork the runtime may have looked at the variable already.
                    assert!(backtrace.is_some_and(|b| b.contains("start_options")) || way == Way::Fork, "{way:?}");
                    assert_eq!(message, "on purpose");
                }
                other => panic!("{way:?}: {other:?}"),
            }
        }
        // A fork of a fork, and of a child that has a watch of its own.
        // SAFETY: this process's other threads sleep.
        let nested = unsafe {
            Process::fork(
                |()| {
                    let deep = Process::builder().stderr(Stdio::null()).fork(deeper, u64::MAX).unwrap().join();
                    matches!(deep, Err(JoinError::StackOverflow))
                },
                (),
            )
        };
        assert!(nested.unwrap().join().unwrap());
    });
}

#[test]
fn too_many_processes() {
    let _guard = guard();
    fn limited(_: ()) -> (Vec<String>, bool) {
        if rustix::process::geteuid().is_root() {
            // Root may have any number. Numbers of its own, so that nobody else's processes count.
            // SAFETY: takes a number.
            assert_eq!(unsafe { libc::setuid(4_000_000 + std::process::id()) }, 0);
        }
        let start = |way: Way| way.try_start(Process::builder(), |()| (), ()).map(|process| process.join().unwrap());
        let limit = |pid, most| {
            let limit = Rlimit { current: Some(most), maximum: Some(1000) };
            rustix::process::prlimit(pid, Resource::Nproc, limit).unwrap();
        };
        limit(None, 1);
        let mut errors: Vec<_> = ALL.iter().map(|way| start(*way).unwrap_err()).collect();
        limit(None, 1000);
        // The server's own limit, when it runs already: it has one spare.
        start(ALL[1]).unwrap();
        limit(rustix::process::Pid::from_raw(server().as_raw()), 1);
        errors.push((0..3).find_map(|_| start(ALL[1]).err()).expect("it can fork no more"));
        limit(rustix::process::Pid::from_raw(server().as_raw()), 1000);
        (errors.iter().map(|e| format!("{:?}", e.kind())).collect(), ALL.iter().all(|way| start(*way).is_ok()))
    }
    let (errors, well) = start(StartMethod::Spawn, limited, ()).join().unwrap();
    assert_eq!(errors, ["TooManyProcesses"; 4]);
    assert!(well, "it is over when the limit is");
}
