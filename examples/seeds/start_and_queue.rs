//! Programs 1 to 3, of `000_7ead920800e22ba7.txt`: starting processes, and a queue that many put into.

use kinfolk::process::Run;
use kinfolk::{Process, Queue};
use serde::{Deserialize, Serialize};

use crate::Outcome;

/// Program 1.
pub fn ten_processes() -> Outcome {
    fn runner(pool_id: u32) {
        println!("pool_id: {pool_id}");
    }

    let mut process_list = vec![];
    let pool_size = 10;
    for pool_id in 0..pool_size {
        let p = Process::spawn(runner, pool_id)?;
        process_list.push(p);
    }
    for p in process_list {
        p.join()?;
    }
    Ok(())
}

/// Program 2. The name is the process's, too.
pub fn processes_with_a_name() -> Outcome {
    #[derive(Serialize, Deserialize)]
    struct MyProcess {
        name: String,
    }

    impl Run for MyProcess {
        type Output = ();

        fn run(self) {
            assert_eq!(kinfolk::process::current().name(), self.name);
            println!("test process {}", self.name);
        }

        fn name(&self) -> Option<String> {
            Some(self.name.clone())
        }
    }

    let mut process_list = vec![];
    for i in 0..10 {
        let p = Process::run(MyProcess { name: i.to_string() })?;
        process_list.push(p);
    }

    for i in process_list {
        i.join()?;
    }
    Ok(())
}

/// Program 3. The producers are joined before anybody reads: what was put is in shared memory, and no process has to
/// wait until it is read.
pub fn three_producers() -> Outcome {
    fn fun((q, i): (Queue<String>, u32)) {
        println!("child process {i} start put data");
        q.put(format!("i am {i} communicate throught queue")).unwrap();
    }

    let q = Queue::new(0)?;

    let mut process_list = vec![];
    for i in 0..3 {
        let p = Process::spawn(fun, (q.clone(), i))?;
        process_list.push(p);
    }

    for p in process_list {
        p.join()?;
    }

    println!("main process get queue data");
    println!("{}", q.get()?);
    println!("{}", q.get()?);
    println!("{}", q.get()?);
    println!("end test");
    Ok(())
}
