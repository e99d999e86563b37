//! Processes that are stopped, and go on.

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

pub fn signal(pid: u32, signal: Signal) {
    kill(Pid::from_raw(pid as i32), signal).unwrap();
}

/// Stops the process, and waits until it has stopped.
pub fn stop(pid: u32) {
    signal(pid, Signal::SIGSTOP);
    let state = || {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
        stat.rsplit(") ").next().unwrap().chars().next()
    };
    while state() != Some('T') {
        std::thread::yield_now();
    }
}
