//! A function pointer is data too: it means nothing in another process.

fn main() {
    let double: fn(i32) -> i32 = |n| 2 * n;
    let _ = kinfolk::Process::spawn(double, 4);
}
