//! Programs 20 to 24, of `004_bafb37afb4d383a5.txt`: who is whose parent, mixed values, a manager, and a lock.

use std::os::unix::process::parent_id;

use kinfolk::{Connection, Dict, List, Lock, Manager, Process, Queue, pipe};
use serde::{Deserialize, Serialize};

use crate::Outcome;
use crate::value::Value;

/// Program 20.
pub fn parents() -> Outcome {
    fn info(title: &str) {
        println!("{title}");
        println!("module name: {}", module_path!());
        println!("parent process: {}", parent_id());
        println!("process id: {}", std::process::id());
        println!("\n\n");
    }

    fn f(name: String) {
        info("\x1b[31;1mfunction f\x1b[0m");
        println!("hello {name}");
    }

    info("\x1b[32;1mmain process line\x1b[0m");
    let p = Process::spawn(f, "bob".to_owned())?;
    p.join()?;
    Ok(())
}

/// `[42, None, 'hello']`
fn mixed_list() -> Value {
    Value::List(vec![42.into(), Value::None, "hello".into()])
}

/// Program 21.
pub fn mixed_list_through_a_queue() -> Outcome {
    fn f(q: Queue<Value>) {
        q.put(mixed_list()).unwrap();
    }

    let q = Queue::new(0)?;
    let p = Process::spawn(f, q.clone())?;
    println!("{}", q.get()?);
    p.join()?;
    Ok(())
}

/// Program 22.
pub fn mixed_list_through_a_pipe() -> Outcome {
    fn f(conn: Connection<Value, ()>) {
        conn.send(mixed_list()).unwrap();
        conn.close();
    }

    let (parent_conn, child_conn) = pipe()?;
    let p = Process::spawn(f, child_conn)?;
    println!("{}", parent_conn.recv()?);
    p.join()?;
    Ok(())
}

/// Program 23. Keys of several types are an enum, and are printed as what is in them. A float is told from others by its bits.
pub fn dictionary_and_list() -> Outcome {
    #[derive(Serialize, Deserialize)]
    enum Key {
        Int(i64),
        Str(String),
        Float(f64),
    }

    fn f((d, l): (Dict<Key, Value>, List<i64>)) {
        d.set(&Key::Int(1), &"1".into()).unwrap();
        d.set(&Key::Str("2".to_owned()), &2.into()).unwrap();
        d.set(&Key::Float(0.25), &Value::None).unwrap();
        l.append(1).unwrap();
        println!("{l}");
    }

    let manager = Manager::new()?;
    let d = manager.dict()?;

    let l = manager.list()?;
    l.extend(0..5)?;
    let mut p_list = vec![];
    for _ in 0..10 {
        p_list.push(Process::spawn(f, (d.clone(), l.clone()))?);
    }
    for res in p_list {
        res.join()?;
    }

    println!("{d}");
    println!("{l}");
    Ok(())
}

/// Program 24. Nobody joins the children: the program waits for them at its end.
pub fn lock_around_print() -> Outcome {
    fn f((l, i): (Lock, u32)) {
        let _guard = l.lock().unwrap();
        println!("hello world {i}");
    }

    let lock = Lock::new(())?;

    for num in 0..10 {
        Process::spawn(f, (lock.clone(), num))?;
    }
    Ok(())
}
