//! The fork-server rows of `_TestProcess`.

use std::collections::BTreeSet;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;

use kinfolk::process::StartMethod;
use kinfolk::{Process, Semaphore};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::guard;
use super::support::children::{alone, server, servers, start, until};

fn run(n: u32) -> u32 {
    start(StartMethod::ForkServer, |n: u32| n + 1, n).join().unwrap()
}

/// A child is at work, its server gets the signal, another is started, and both end as they should.
fn survives(signal: Signal) {
    let go_on = Semaphore::new(0).unwrap();
    let old: Process<u32> = start(
        StartMethod::ForkServer,
        |go_on: Semaphore| {
            go_on.acquire().unwrap().forget();
            7
        },
        go_on.clone(),
    );
    let before = server();
    kill(before, signal).unwrap();
    if signal == Signal::SIGKILL {
        until(|| !servers().0.contains(&before.as_raw()));
    }
    assert_eq!([run(1), run(2)], [2, 3]);
    assert!(old.is_alive());
    go_on.release().unwrap();
    assert_eq!(old.join().unwrap(), 7);
}

#[test]
fn an_interrupted_server_goes_on_and_its_children_too() {
    let _guard = guard();
    alone(|()| survives(Signal::SIGINT));
}

#[test]
fn a_killed_server_is_replaced_and_its_children_go_on() {
    let _guard = guard();
    alone(|()| survives(Signal::SIGKILL));
}

/// The inodes of a process's sockets.
fn sockets(pid: Pid) -> BTreeSet<String> {
    let fds = std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap();
    let links = fds.filter_map(|fd| std::fs::read_link(fd.ok()?.path()).ok());
    let inode = |link: PathBuf| Some(link.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.to_owned());
    links.filter_map(inode).collect()
}

/// The sockets of a process that have a name or are listened at, as `/proc/net/unix` has them.
fn reachable(pid: Pid) -> Vec<String> {
    const LISTENING: u32 = 1 << 16;
    let table = std::fs::read_to_string("/proc/net/unix").unwrap();
    let own = sockets(pid);
    let is_reachable = |line: &&str| {
        let words: Vec<_> = line.split_whitespace().collect();
        let flags = u32::from_str_radix(words[3], 16).unwrap_or(0);
        own.contains(words[6]) && (words.len() > 7 || flags & LISTENING != 0)
    };
    table.lines().skip(1).filter(is_reachable).map(str::to_owned).collect()
}

/// CPython's server listens at a named socket and asks for a key. Ours has one pair of sockets without names, of which its
/// owner has the other end: nobody else has a way to ask.
#[test]
fn nobody_but_its_owner_can_reach_a_server() {
    let _guard = guard();
    // What is looked for can be found.
    let name = std::env::temp_dir().join(format!("kinfolk-parity-{}", std::process::id()));
    let listener = std::os::unix::net::UnixListener::bind(&name).unwrap();
    std::fs::remove_file(&name).unwrap();
    assert!(!reachable(Pid::this()).is_empty());
    drop(listener);
    alone(|()| {
        assert_eq!(run(1), 2);
        let server = server();
        assert!(!sockets(server).is_empty(), "it has one for its owner");
        assert_eq!(reachable(server), [""; 0]);
    });
}

#[test]
fn who_has_no_line_to_a_server_gets_no_child_and_later_starts_work() {
    let _guard = guard();
    alone(|()| {
        assert_eq!(run(1), 2);
        let before = server();
        // Another process of the same user: opening the descriptor of another's socket is refused by the system.
        for inode in sockets(before) {
            let fds = std::fs::read_dir(format!("/proc/{before}/fd")).unwrap();
            for fd in fds.filter_map(Result::ok) {
                let link = std::fs::read_link(fd.path()).unwrap_or_default();
                if link.to_str() == Some(&format!("socket:[{inode}]")) {
                    assert!(std::fs::File::open(fd.path()).is_err());
                    assert!(UnixStream::connect(fd.path()).is_err());
                }
            }
        }
        assert_eq!((run(2), server()), (3, before));
    });
}
