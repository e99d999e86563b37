//! Program 18, of `003_24ed68fbf1248ba9.txt`: the parent sends to a child that is already waiting.

use kinfolk::{Process, Queue};

use crate::Outcome;

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
