//! Programs 12, 13 and 14, of `002_b121f0979f52a9f4.txt`: exchanging data through a queue, a pipe and a list.

use kinfolk::{Connection, List, Manager, Process, Queue, pipe};

use crate::Outcome;
use crate::value::Value;

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
    let d = List::new_in(manager.segment())?;
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
