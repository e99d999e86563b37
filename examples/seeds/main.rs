//! The programs from which this library started, written with it.
//!
//! Each is a Python `multiprocessing` program of a tutorial, turned into Rust line by line: one module for a tutorial or a part of it,
//! one function for each program. They keep the numbers and the output of the originals.
//!
//! ```text
//! cargo run --example seeds -- 13                       one program
//! cargo run --example seeds -- --all --time-scale 0.02  all of them, sleeping a fiftieth of the time
//! ```

mod clock;
mod exchange;
mod life;
mod pools;
mod sharing;
mod start_and_queue;
mod threads_and_processes;
mod value;

use std::error::Error;
use std::process::ExitCode;

use kinfolk::process;

/// How a program ends.
type Outcome = Result<(), Box<dyn Error>>;

/// A program: its number, what it shows, and its `main`.
struct Program {
    number: &'static str,
    shows: &'static str,
    main: fn() -> Outcome,
}

const PROGRAMS: &[Program] = &[
    Program { number: "1", shows: "ten processes", main: start_and_queue::ten_processes },
    Program { number: "2", shows: "ten processes of a class", main: start_and_queue::processes_with_a_name },
    Program { number: "3", shows: "a queue from three producers", main: start_and_queue::three_producers },
    Program { number: "4", shows: "three workers", main: life::three_workers },
    Program { number: "5", shows: "a clock", main: life::clock },
    Program { number: "6", shows: "a child that is not a daemon", main: life::no_daemon },
    Program { number: "7", shows: "a daemon", main: life::daemon },
    Program { number: "8", shows: "a daemon that is joined", main: life::joined_daemon },
    Program { number: "9", shows: "six tasks for a pool of four", main: pools::six_tasks_for_four },
    Program { number: "9b", shows: "six tasks for a pool of five", main: pools::six_tasks_for_five },
    Program { number: "10", shows: "a writer and a reader that never ends", main: life::writer_and_reader },
    Program { number: "11", shows: "a process of a class", main: exchange::a_class_of_its_own },
    Program { number: "12", shows: "everything out of a queue", main: exchange::all_of_a_queue },
    Program { number: "13", shows: "a pipe between father and son", main: exchange::father_and_son },
    Program { number: "14", shows: "a list that five children append to", main: exchange::five_append_to_a_list },
    Program { number: "15", shows: "a sum in a dictionary", main: exchange::sum_in_a_dictionary },
    Program { number: "16", shows: "two bars of progress", main: threads_and_processes::two_bars },
    Program { number: "17", shows: "thirteen tasks for a pool of four", main: pools::thirteen_tasks },
    Program { number: "18", shows: "a queue to a child", main: threads_and_processes::message_to_a_child },
    Program { number: "19", shows: "a thread", main: threads_and_processes::a_thread },
    Program { number: "20", shows: "who is whose parent", main: sharing::parents },
    Program { number: "21", shows: "a mixed list through a queue", main: sharing::mixed_list_through_a_queue },
    Program { number: "22", shows: "a mixed list through a pipe", main: sharing::mixed_list_through_a_pipe },
    Program { number: "23", shows: "a dictionary and a list of a manager", main: sharing::dictionary_and_list },
    Program { number: "24", shows: "a lock around print", main: sharing::lock_around_print },
    Program { number: "25", shows: "a pool that calls back", main: pools::calls_back },
    Program { number: "25b", shows: "one task after the other", main: pools::one_after_the_other },
];

const USAGE: &str = "usage: seeds [--time-scale FACTOR] NUMBER... | --all
  FACTOR  every sleep is that much as long as in the original (1.0)";

fn main() -> ExitCode {
    let programs = match parse(std::env::args().skip(1)) {
        Ok(programs) => programs,
        Err(wrong) => {
            eprintln!("{wrong}\n{USAGE}");
            for Program { number, shows, .. } in PROGRAMS {
                eprintln!("  {number:>6}  {shows}");
            }
            return ExitCode::from(2);
        }
    };
    let alone = programs.len() == 1;
    for Program { number, shows, main } in programs {
        if !alone {
            println!("=== {number}: {shows}");
        }
        if let Err(error) = main() {
            eprintln!("program {number}: {error}");
            return ExitCode::FAILURE;
        }
        if !alone {
            wait_for_children();
        }
    }
    ExitCode::SUCCESS
}

/// What the end of a program does by itself; here the next one follows.
fn wait_for_children() {
    for child in process::active_children() {
        if child.is_daemon() {
            child.terminate().expect("a child of our own");
        }
        child.wait().expect("a child of our own");
    }
}

/// The programs that the arguments ask for.
fn parse(mut arguments: impl Iterator<Item = String>) -> Result<Vec<&'static Program>, String> {
    let mut programs = Vec::new();
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--all" => programs.extend(PROGRAMS),
            "--time-scale" => {
                let factor = arguments.next().unwrap_or_default();
                if !factor.parse().is_ok_and(|f: f64| f.is_finite() && f >= 0.0) {
                    return Err(format!("--time-scale {factor:?}: expected a number that is not negative"));
                }
            }
            number => {
                let found = PROGRAMS.iter().find(|p| p.number == number);
                programs.push(found.ok_or_else(|| format!("no program {number:?}"))?);
            }
        }
    }
    if programs.is_empty() { Err("no program".into()) } else { Ok(programs) }
}
