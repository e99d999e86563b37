//! A closure that captures something cannot be started: the child has none of this process's values.

fn main() {
    let offset = 3;
    let _ = kinfolk::Process::spawn(move |n: i32| n + offset, 4);
}
