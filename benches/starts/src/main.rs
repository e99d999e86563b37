//! Starting a child that does nothing, and waiting for it: kinfolk by its methods, procspawn, and the standard library's
//! `Command` of this very program. In turns, so that what else the machine does falls on all of them alike.
//!
//! `cargo run --release --manifest-path benches/starts/Cargo.toml`

use std::process::Command;
use std::time::{Duration, Instant};

use kinfolk::Process;
use kinfolk::process::StartMethod;

/// Makes this program end at once.
const NOTHING: &str = "KINFOLK_STARTS_NOTHING";
const TURNS: usize = 300;

fn kinfolk(method: StartMethod) {
    let child = Process::builder().start_method(method).spawn(|()| 42, ()).expect("start a child");
    assert_eq!(child.join().expect("join it"), 42);
}

fn procspawn() {
    assert_eq!(procspawn::spawn((), |()| 42).join().expect("join it"), 42);
}

fn command() {
    let program = std::env::current_exe().expect("this program");
    assert!(Command::new(program).env(NOTHING, "1").status().expect("run it").success());
}

fn main() {
    if std::env::var_os(NOTHING).is_some() {
        return;
    }
    procspawn::init();
    let contenders: [(&str, fn()); 4] = [
        ("Command", command),
        ("kinfolk, Spawn", || kinfolk(StartMethod::Spawn)),
        ("kinfolk, ForkServer", || kinfolk(StartMethod::ForkServer)),
        ("procspawn", procspawn),
    ];
    let mut times = contenders.map(|_| Vec::<Duration>::new());
    for _ in 0..TURNS {
        for ((_, run), times) in contenders.iter().zip(&mut times) {
            let began = Instant::now();
            run();
            times.push(began.elapsed());
        }
    }
    println!("{:24}{:>12}{:>12}", "start and join", "median", "fastest");
    for ((name, _), times) in contenders.iter().zip(&mut times) {
        times.sort_unstable();
        println!("{name:24}{:>12.1?}{:>12.1?}", times[TURNS / 2], times[0]);
    }
}
