//! A thousand children of one family at once.

mod support {
    pub mod watchdog;
}

use std::time::Duration;

use kinfolk::process::all_start_methods;
use kinfolk::{Event, Process, Segment, Value};
use support::watchdog::watchdog;

const CHILDREN: u32 = if cfg!(debug_assertions) { 300 } else { 1000 };

#[test]
fn more_children_than_256_are_in_flight_in_a_family_that_is_made_for_them() {
    let _guard = watchdog(Duration::from_secs(120));
    Segment::builder().processes(CHILDREN + 10).make_family().unwrap();
    for &method in all_start_methods() {
        let (go, here, gone) = (Event::new().unwrap(), Value::new(0u32).unwrap(), Value::new(0u32).unwrap());
        fn work((go, here, gone): (Event, Value<u32>, Value<u32>)) {
            here.add(1);
            go.wait();
            gone.add(1);
        }
        let start = |_| {
            let args = (go.clone(), here.clone(), gone.clone());
            Process::builder().start_method(method).spawn(work, args).unwrap()
        };
        let children: Vec<_> = (0..CHILDREN).map(start).collect();
        while here.load() < CHILDREN {
            std::thread::yield_now();
        }
        assert_eq!(gone.load(), 0);
        // One in ten dies with it open.
        children.iter().step_by(10).for_each(|child| child.kill().unwrap());
        let dead = CHILDREN.div_ceil(10);
        go.set();
        let ended = children.into_iter().filter_map(|child| child.join().ok()).count();
        assert_eq!(ended as u32, gone.load());
        assert!(gone.load() >= CHILDREN - dead);
    }
}
