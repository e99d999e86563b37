//! Programs 9 and 9b of `001_6e8f269cecf74a83.txt`, 17 of `003_24ed68fbf1248ba9.txt`, 25 and 25b of
//! `004_bafb37afb4d383a5.txt`: pools.

use std::hash::{BuildHasher, RandomState};
use std::time::Instant;

use kinfolk::Pool;

use crate::Outcome;
use crate::clock::sleep;

/// A number between 0 and 1, as `random.random()`. Forked workers begin with the same random state, so the process has its part.
fn random() -> f64 {
    RandomState::new().hash_one(std::process::id()) as f64 / u64::MAX as f64
}

fn six_tasks(processes: usize) -> Outcome {
    fn long_time_task(name: u32) {
        println!("进程的名称：{name} ；进程的PID: {} ", std::process::id());
        let start = Instant::now();
        sleep(random() * 3.0);
        println!("进程 {name} 运行了 {} 秒", start.elapsed().as_secs_f64());
    }

    println!("主进程的 PID：{}", std::process::id());
    let p = Pool::new(processes)?;
    for i in 0..6 {
        // Nobody asks for the result.
        drop(p.apply_async(long_time_task, i)?);
    }
    p.close();
    p.join()?;
    println!("【End】");
    Ok(())
}

/// Program 9.
pub fn six_tasks_for_four() -> Outcome {
    six_tasks(4)
}

/// Program 9b, the variant that the text tells of.
pub fn six_tasks_for_five() -> Outcome {
    six_tasks(5)
}

/// Program 17. The workers may be quicker than the parent's next line, in Python too.
pub fn thirteen_tasks() -> Outcome {
    fn long_time_task(name: u32) {
        println!("Run task {name} ({})...", std::process::id());
        let start = Instant::now();
        sleep(random() * 3.0);
        println!("Task {name} runs {:.2} seconds.", start.elapsed().as_secs_f64());
    }

    println!("Parent process {}.", std::process::id());
    let p = Pool::new(4)?;
    for i in 0..13 {
        drop(p.apply_async(long_time_task, i)?);
    }
    println!("Waiting for all subprocesses done...");
    p.close();
    p.join()?;
    println!("All subprocesses done.");
    Ok(())
}

fn foo(i: u32) -> u32 {
    sleep(2.0);
    i + 100
}

fn bar(arg: &u32) {
    println!("-->exec done: {arg}");
}

/// Program 25. The parent prints what the workers return. The original makes its pool while the module is imported, which
/// ends in an error for ever where children import it too; here a child does not come by the function that makes the pool.
pub fn calls_back() -> Outcome {
    let pool = Pool::new(5)?;
    for i in 0..10 {
        drop(pool.job(foo, i).callback(bar).submit()?);
    }
    println!("end");
    pool.close();
    pool.join()?;
    Ok(())
}

/// Program 25b, the line that is commented out. What `apply` returns nobody prints there.
pub fn one_after_the_other() -> Outcome {
    let pool = Pool::new(5)?;
    for i in 0..10 {
        bar(&pool.apply(foo, i)?);
    }
    println!("end");
    pool.close();
    pool.join()?;
    Ok(())
}
