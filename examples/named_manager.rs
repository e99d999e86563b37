//! Two programs that are no family meet by a name: one serves, the other asks.
//!
//! `cargo run --example named_manager` runs both, as two programs that know nothing of each other but the name. By hand, in
//! two terminals, in any order, the second more often than once:
//!
//! ```text
//! cargo run --example named_manager -- serve squares 3
//! cargo run --example named_manager -- ask squares 12
//! ```

use std::process::{Command, ExitCode};

use kinfolk::{ErrorKind, Manager, Mutex, Queue, process};
use serde::{Deserialize, Serialize};

type Answer<T = ()> = Result<T, Box<dyn std::error::Error>>;

/// What the server publishes. Both programs have to have the type, so it is in a crate that both use.
#[derive(Serialize, Deserialize)]
struct Service {
    requests: Queue<Request>,
    /// How many requests were answered.
    answered: Mutex<u64>,
}

/// A question, and where the answer goes.
#[derive(Serialize, Deserialize)]
struct Request {
    number: u64,
    reply: Queue<u64>,
}

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let result = match args[..] {
        ["serve", name, requests] => serve(name, requests),
        ["ask", name, number] => ask(name, number),
        [] => both(),
        _ => Err("expected nothing, `serve NAME REQUESTS` or `ask NAME NUMBER`".into()),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("named_manager: {e}");
            ExitCode::FAILURE
        }
    }
}

/// Whoever comes first makes the service; what was asked before the server came is answered when it comes.
fn service(name: &str) -> Answer<(Manager, Service)> {
    let manager = Manager::open_or_create(name)?;
    let make = || Ok(Service { requests: manager.queue(64)?, answered: manager.mutex(0)? });
    let service = manager.find_or_publish("squares", make)?;
    Ok((manager, service))
}

/// Answers so many requests.
fn serve(name: &str, requests: &str) -> Answer {
    let (_manager, service) = service(name)?;
    for _ in 0..requests.parse()? {
        let request = service.requests.get()?;
        request.reply.put(request.number * request.number)?;
        *service.answered.lock().map_err(|e| e.to_string())? += 1;
    }
    println!("served {requests} requests");
    Ok(())
}

/// Asks for a square, and waits for the answer.
fn ask(name: &str, number: &str) -> Answer {
    let (manager, service) = service(name)?;
    let reply = manager.queue(1)?;
    service.requests.put(Request { number: number.parse()?, reply: reply.clone() })?;
    println!("the square of {number} is {}", reply.get()?);
    Ok(())
}

/// Starts the programs: two ask, then one serves, and when all have ended a third asks what is left.
fn both() -> Answer {
    let name = format!("example-{}", process::current().pid());
    let program = std::env::current_exe()?;
    let start = |args: [&str; 3]| Command::new(&program).args(args).spawn();
    let mut programs = vec![start(["ask", &name, "12"])?, start(["ask", &name, "20"])?, start(["serve", &name, "2"])?];
    for program in &mut programs {
        if !program.wait()?.success() {
            return Err("one of the programs failed".into());
        }
    }
    let manager = Manager::open(&name)?;
    let service = manager.find::<Service>("squares")?;
    let answered = *service.answered.lock().map_err(|e| e.to_string())?;
    println!("all programs have ended; {:?} is still there: {answered} requests answered", manager.published()?);
    Manager::unlink(&name)?;
    assert!(Manager::open(&name).is_err_and(|e| e.kind() == ErrorKind::NotFound));
    Ok(())
}
