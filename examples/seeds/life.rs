//! Programs 4 to 8 and 10, of `001_6e8f269cecf74a83.txt`: workers, classes, daemons, and a reader that never ends.

use kinfolk::process::{self, Run};
use kinfolk::{JoinableQueue, Process};
use serde::{Deserialize, Serialize};

use crate::Outcome;
use crate::clock::{ctime, sleep};

/// Program 4. Nobody joins the workers: the program waits for them at its end.
pub fn three_workers() -> Outcome {
    fn worker((interval, name): (f64, String)) {
        println!("{name}【start】");
        sleep(interval);
        println!("{name}【end】");
    }

    Process::spawn(worker, (2.0, "两点水1".to_owned()))?;
    Process::spawn(worker, (3.0, "两点水2".to_owned()))?;
    Process::spawn(worker, (4.0, "两点水3".to_owned()))?;

    println!("The number of CPU is:{}", process::cpu_count());
    for p in process::active_children() {
        println!("child   p.name:{}\tp.id{}", p.name(), p.pid());
    }
    println!("END!!!!!!!!!!!!!!!!!");
    Ok(())
}

/// Program 5.
pub fn clock() -> Outcome {
    #[derive(Serialize, Deserialize)]
    struct ClockProcess {
        interval: f64,
    }

    impl Run for ClockProcess {
        type Output = ();

        fn run(self) {
            let mut n = 5;
            while n > 0 {
                println!("当前时间: {}", ctime());
                sleep(self.interval);
                n -= 1;
            }
        }
    }

    Process::run(ClockProcess { interval: 3.0 })?;
    Ok(())
}

fn worker(interval: f64) {
    println!("工作开始时间：{}", ctime());
    sleep(interval);
    println!("工作结果时间：{}", ctime());
}

/// Program 6.
pub fn no_daemon() -> Outcome {
    Process::spawn(worker, 3.0)?;
    println!("【EMD】");
    Ok(())
}

/// Program 7. What the daemon has printed by the time at which the program ends is a matter of luck, in Python too.
pub fn daemon() -> Outcome {
    Process::builder().daemon(true).spawn(worker, 3.0)?;
    println!("【EMD】");
    Ok(())
}

/// Program 8.
pub fn joined_daemon() -> Outcome {
    let p = Process::builder().daemon(true).spawn(worker, 3.0)?;
    p.join()?;
    println!("【EMD】");
    Ok(())
}

/// Program 10. In Python the last value may be lost, when the reader is terminated before it has read or printed it. Here a
/// value counts as unfinished until the reader says that it is done, and the program waits for that.
pub fn writer_and_reader() -> Outcome {
    fn write(q: JoinableQueue<String>) {
        println!("写进程的PID:{}", std::process::id());
        for (k, value) in ["两点水", "三点水", "四点水"].into_iter().enumerate() {
            println!("写进 Queue 的值为：{value}");
            q.put(value.to_owned()).unwrap();
            sleep([0.3, 0.7, 0.5][k]);
        }
    }

    fn read(q: JoinableQueue<String>) {
        println!("读进程的PID:{}", std::process::id());
        loop {
            let value = q.get().unwrap();
            println!("从 Queue 读取的值为：{value}");
            q.task_done().unwrap();
        }
    }

    let q = JoinableQueue::new(0)?;
    let pw = Process::spawn(write, q.clone())?;
    let pr = Process::spawn(read, q.clone())?;
    pw.join()?;
    q.join()?;
    pr.terminate()?;
    pr.child().wait()?;
    assert_eq!(pr.exit_code(), Some(-15));
    Ok(())
}
