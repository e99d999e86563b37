//! Starts of children when the family's memory is full.

mod support;

use std::time::Duration;

use kinfolk::process::all_start_methods;
use kinfolk::{Error, ErrorKind, Process, RawArray, Segment};
use support::watchdog::watchdog;

#[test]
fn a_start_without_memory_is_an_error_by_every_way_and_works_when_there_is_some() {
    let _guard = watchdog(Duration::from_secs(60));
    Segment::builder().size(4 << 20).processes(8).lanes(40).make_family().unwrap();
    let length = |text: String| text.len();
    let text = "x".repeat(100_000);
    for &method in all_start_methods() {
        let start = || Process::builder().start_method(method).spawn(length, text.clone());
        assert_eq!(start().unwrap().join().unwrap(), text.len());
        // All that there is, down to the last page.
        let mut taken = Vec::new();
        for bytes in [256 << 10, 8 << 10] {
            loop {
                match RawArray::<u8>::new(bytes) {
                    Ok(array) => taken.push(array),
                    Err(full) => break assert_eq!(full.kind(), ErrorKind::OutOfSpace),
                }
            }
        }
        let refused: Error = start().expect_err("there is no memory");
        assert_eq!(refused.kind(), ErrorKind::OutOfSpace, "{refused}");
        // SAFETY: the parent's other threads hold nothing that the child needs.
        let forked = unsafe { Process::fork(length, text.clone()) };
        // It has its arguments with it, and may find a place that small.
        match forked {
            Ok(child) => assert_eq!(child.join().unwrap(), text.len()),
            Err(refused) => assert_eq!(refused.kind(), ErrorKind::OutOfSpace, "{refused}"),
        }
        drop(taken);
        assert_eq!(start().unwrap().join().unwrap(), text.len());
    }
}
