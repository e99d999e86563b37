//! What can be started: functions, also generic ones, and closures that capture nothing.

fn first<T: Clone>(values: Vec<T>) -> Option<T> {
    values.first().cloned()
}

fn main() {
    assert_eq!(kinfolk::Process::spawn(first::<u8>, vec![1, 2]).unwrap().join().unwrap(), Some(1));
    assert_eq!(kinfolk::Process::spawn(|n: i32| n + 1, 4).unwrap().join().unwrap(), 5);
}
