//! A program that does nothing before `main` (feature `explicit-init`).

use kinfolk::process::{self, Stdio, all_start_methods};
use kinfolk::{ErrorKind, JoinError, Process, Queue};

fn deeper(n: u64) -> u64 {
    std::hint::black_box(if n == 0 { 0 } else { deeper(n - 1) + 1 })
}

fn main() {
    // Children run this, too, and get no further.
    let error = Process::spawn(|n: u32| n, 5).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error}");
    assert!(error.to_string().contains("kinfolk::init()"), "{error}");
    kinfolk::init();
    assert!(process::parent().is_none(), "only the first process gets here");

    let queue = Queue::<u32>::new(8).unwrap();
    for &method in all_start_methods() {
        let builder = || Process::builder().start_method(method);
        let put = |(queue, n): (Queue<u32>, u32)| {
            queue.put(n).unwrap();
            let grandchild = Process::spawn(|()| process::parent().map(|parent| parent.pid()), ()).unwrap();
            assert_eq!(grandchild.join().unwrap(), Some(std::process::id()));
            (process::current().name().to_owned(), std::env::var_os("KINFOLK_CHILD").is_none())
        };
        let child = builder().name("child").spawn(put, (queue.clone(), 7)).unwrap();
        assert_eq!(child.join().unwrap(), ("child".to_owned(), true), "{method}");
        assert_eq!(queue.get().unwrap(), 7);
        let deep = builder().stderr(Stdio::null()).spawn(deeper, u64::MAX).unwrap();
        let ended = deep.join();
        assert!(matches!(ended, Err(JoinError::StackOverflow)), "{method}: {ended:?}");
    }
    println!("a program that begins with kinfolk::init(): ok");
}
