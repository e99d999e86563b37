//! Programs 16, 18 and 19, of `003_24ed68fbf1248ba9.txt`: two bars of progress, a message to a child that is already waiting,
//! and a thread.

use std::io::IsTerminal;
use std::thread;
use std::time::Duration;

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use kinfolk::{Process, Queue, Value};

use crate::Outcome;
use crate::clock::sleep;

/// Program 16. Two processes that draw to the same terminal spoil each other's lines, so they count in shared memory, and
/// the parent draws both bars.
pub fn two_bars() -> Outcome {
    const COUNT: u64 = 10_000_000;

    fn run_proc((name, progress): (String, Value<u64>)) {
        println!("Run child process {name} ({})...", std::process::id());
        for i in 0..COUNT {
            if i % 1000 == 999 {
                progress.set(i + 1).unwrap();
            }
        }
    }

    println!("Parent process {}.", std::process::id());
    let bars = MultiProgress::new();
    let style = ProgressStyle::with_template("{prefix} {wide_bar} {percent:>3}% {pos}/{len} [{elapsed}<{eta}]")?;
    println!("Child process will start.");
    let mut children = vec![];
    for name in ["test1", "test2"] {
        let progress = Value::new(0)?;
        let bar = bars.add(ProgressBar::new(COUNT).with_style(style.clone()).with_prefix(name));
        let p = Process::spawn(run_proc, (name.to_owned(), progress.clone()))?;
        children.push((p, progress, bar));
    }
    for k in 0..children.len() {
        while children[k].0.join_timeout(Duration::from_millis(20))?.is_none() {
            for (_, progress, bar) in &children {
                bar.set_position(progress.get()?);
            }
        }
    }
    for (p, progress, bar) in &children {
        assert_eq!(p.exit_code(), Some(0));
        bar.set_position(progress.get()?);
        bar.abandon();
        if !std::io::stderr().is_terminal() {
            // Where nothing is drawn.
            println!("{}: {}% {}/{COUNT}", bar.prefix(), bar.position() * 100 / COUNT, bar.position());
        }
    }
    println!("Child process end.");
    Ok(())
}

/// Program 19.
pub fn a_thread() -> Outcome {
    fn name() -> String {
        match thread::current().name() {
            // Python's name for it.
            Some("main") | None => "MainThread".to_owned(),
            Some(name) => name.to_owned(),
        }
    }

    fn run() {
        println!("thread {} is running...", name());
        let mut n = 0;
        while n < 5 {
            n += 1;
            println!("thread {} >>> {n}", name());
            sleep(1.0);
        }
        println!("thread {} ended.", name());
    }

    println!("thread {} is running...", name());
    let t = thread::Builder::new().name("LoopThread".to_owned()).spawn(run)?;
    t.join().expect("it does not panic");
    println!("thread {} ended.", name());
    Ok(())
}

/// Program 18.
pub fn message_to_a_child() -> Outcome {
    fn foo(aa: Queue<String>) {
        let message = aa.get().unwrap();
        println!("子进程已收到数据...");
        println!("{message}");
    }

    let xt = Queue::new(0)?;
    let jc = Process::spawn(foo, xt.clone())?;
    println!("主进程准备发送数据...");
    xt.put("有内鬼，终止交易！".to_owned())?;
    jc.join()?;
    Ok(())
}
