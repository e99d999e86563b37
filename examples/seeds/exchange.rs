//! Programs 11 to 13, of `002_b121f0979f52a9f4.txt`: a class, and exchanging data through a queue and through a pipe.

use std::os::unix::process::parent_id;

use kinfolk::process::Run;
use kinfolk::{Connection, Process, Queue, pipe};
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
