//! Children by every method, and what `/proc` says of them.

use kinfolk::Process;
use kinfolk::process::StartMethod;
use nix::unistd::Pid;
use serde::Serialize;
use serde::de::DeserializeOwned;

/// Starts a child by this method.
pub fn start<F, A, R>(method: StartMethod, function: F, args: A) -> Process<R>
where
    F: Fn(A) -> R + Copy + Send + 'static,
    A: Serialize + DeserializeOwned,
    R: Serialize + DeserializeOwned,
{
    Process::builder().start_method(method).spawn(function, args).unwrap()
}

/// Runs `function` in a process of its own, whose settings, signals and descriptors are its own.
pub fn alone<R: Serialize + DeserializeOwned>(function: impl Fn(()) -> R + Copy + Send + 'static) -> R {
    start(StartMethod::Spawn, function, ()).join().unwrap()
}

/// Ends by a signal only.
pub fn park(_: ()) {
    loop {
        std::thread::park();
    }
}

/// A process as `/proc` describes it.
#[derive(Debug)]
pub struct Seen {
    pub pid: i32,
    pub name: String,
    pub state: char,
    pub parent: i32,
    pub session: i32,
}

pub fn processes() -> Vec<Seen> {
    let read = |entry: std::fs::DirEntry| {
        let pid = entry.file_name().to_str()?.parse().ok()?;
        let stat = std::fs::read_to_string(entry.path().join("stat")).ok()?;
        let (name, rest) = stat.split_once('(')?.1.rsplit_once(')')?;
        let rest: Vec<_> = rest.split_whitespace().collect();
        let number = |k: usize| rest[k].parse().ok();
        Some(Seen { pid, name: name.into(), state: rest[0].chars().next()?, parent: number(1)?, session: number(3)? })
    };
    std::fs::read_dir("/proc").unwrap().filter_map(|entry| read(entry.ok()?)).collect()
}

/// The fork servers of this process, of which there should be one, and their spares.
pub fn servers() -> (Vec<i32>, Vec<i32>) {
    let all: Vec<_> = processes().into_iter().filter(|p| p.name == "kinfolk-server" && p.state != 'Z').collect();
    let me = std::process::id() as i32;
    let servers: Vec<i32> = all.iter().filter(|p| p.parent == me).map(|p| p.pid).collect();
    let spares = all.iter().filter(|p| servers.contains(&p.parent)).map(|p| p.pid).collect();
    (servers, spares)
}

pub fn server() -> Pid {
    let (servers, _) = servers();
    assert_eq!(servers.len(), 1, "one server");
    Pid::from_raw(servers[0])
}

/// Waits until `now` says so; the watchdog ends it otherwise.
pub fn until(now: impl Fn() -> bool) {
    while !now() {
        std::thread::yield_now();
    }
}

/// Waits until nobody lives in this session.
pub fn deserted(session: u32) {
    until(|| processes().iter().all(|p| p.session != session as i32 || p.state == 'Z'));
}
