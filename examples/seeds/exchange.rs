//! Programs 11 to 15, of `002_b121f0979f52a9f4.txt`: a class, and exchanging data through a queue and a pipe, in a list and a
//! dictionary.

use std::hash::{BuildHasher, RandomState};
use std::ops::RangeInclusive;
use std::os::unix::process::parent_id;

use kinfolk::process::Run;
use kinfolk::{Connection, Dict, List, Manager, Process, Queue, pipe};
use serde::{Deserialize, Serialize};

use crate::Outcome;
use crate::clock::sleep;
use crate::value::Value;

/// Program 11. The function is a value in Python; here the class has it as a constant.
pub fn a_class_of_its_own() -> Outcome {
    fn run() {
        sleep(3.0);
        println!("父进程的PID: {}", parent_id());
        println!("当前进程的PID: {}", std::process::id());
    }

    #[derive(Serialize, Deserialize)]
    struct MyProcess;

    impl MyProcess {
        const FUNC: fn() = run;
    }

    impl Run for MyProcess {
        type Output = ();

        fn run(self) {
            Self::FUNC();
        }

        fn name(&self) -> Option<String> {
            Some("XeanYu".to_owned())
        }
    }

    println!("主进程的父进程PID: {}", parent_id());
    println!("主进程的PID: {}", std::process::id());
    println!("{}\n", "_".repeat(20));

    Process::run(MyProcess)?;
    Ok(())
}

/// Program 12. "Please input Queue Object!", which the original raises for anything else, is said by the compiler here.
pub fn all_of_a_queue() -> Outcome {
    fn get_all(queue: &Queue<String>) -> Result<Vec<String>, kinfolk::GetError> {
        let mut q = vec![];
        loop {
            if queue.is_empty() {
                return Ok(q);
            }
            q.push(queue.get()?);
        }
    }

    fn run((q, name): (Queue<String>, String)) {
        q.put(name).unwrap();
    }

    let q = Queue::new(0)?;
    let process1 = Process::spawn(run, (q.clone(), "XeanYu".to_owned()))?;
    let process2 = Process::spawn(run, (q.clone(), "XY".to_owned()))?;

    process1.join()?;
    process2.join()?;

    let li = get_all(&q)?;
    println!("{}", Value::from(li));
    Ok(())
}

/// Program 13. Each end is given away to a child, so the pipe belongs to the two of them.
pub fn father_and_son() -> Outcome {
    fn son(pipe: Connection<String, String>) {
        pipe.send("Hello Father".to_owned()).unwrap();
        println!("From Father:{}", pipe.recv().unwrap());
    }

    fn father(pipe: Connection<String, String>) {
        println!("From Son:{}", pipe.recv().unwrap());
        pipe.send("Hi my son!".to_owned()).unwrap();
    }

    let (father_end, son_end) = pipe()?;
    let f = Process::spawn(father, father_end)?;
    let s = Process::spawn(son, son_end)?;

    f.join()?;
    s.join()?;
    Ok(())
}

/// Program 14.
pub fn five_append_to_a_list() -> Outcome {
    fn run((d, i): (List<i32>, i32)) {
        d.append(i).unwrap();
    }

    let manager = Manager::new()?;
    let d = manager.list()?;
    let mut p_list = vec![];
    for i in 0..5 {
        p_list.push(Process::spawn(run, (d.clone(), i))?);
    }

    for i in p_list {
        i.join()?;
    }

    println!("{d}");
    Ok(())
}

/// A random number, for which Rust has no function of its own.
fn randint(range: RangeInclusive<u64>) -> u64 {
    range.start() + RandomState::new().hash_one(()) % (range.end() - range.start() + 1)
}

/// Program 15. Ten processes send a number each, ten others add one each to a sum. The original's `add` gets the sum, waits
/// for its number and puts both together back, over what others have put there meanwhile: its total is usually too small.
/// `update` is one step, and `recv` stands before it, since `update` may call its function more than once.
///
/// The original also has a class of its own for processes, which hands its arguments on; a function is enough here.
pub fn sum_in_a_dictionary() -> Outcome {
    type Inter = Dict<String, u64>;

    fn send((a, random_int): (Connection<u64, u64>, u64)) {
        a.send(random_int).unwrap();
    }

    fn add((inter, b): (Inter, Connection<u64, u64>)) {
        let number = b.recv().unwrap();
        let sum = inter.update("int", |sum| Some(sum.unwrap_or(0) + number)).unwrap();
        println!("{}", sum.unwrap_or(0));
    }

    let manager = Manager::new()?;
    let (a, b) = pipe()?;
    let inter: Inter = manager.dict()?;
    inter.set("int", &0)?;

    let mut sent = 0;
    let mut p_list = vec![];
    for _ in 0..10 {
        let number = randint(10..=100);
        sent += number;
        p_list.push(Process::spawn(send, (a.clone(), number))?);
        p_list.push(Process::spawn(add, (inter.clone(), b.clone()))?);
    }

    for p in p_list {
        p.join()?;
    }

    let total = inter.get("int")?.unwrap_or(0);
    println!("{total}");
    if total == sent { Ok(()) } else { Err(format!("the sum is {total}, and {sent} was sent").into()) }
}
