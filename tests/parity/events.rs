//! `_TestEvent`.

use std::time::{Duration, Instant};

use kinfolk::{Event, Process};

use super::{DELTA, guard};

#[test]
fn an_event_is_set_waited_for_set_by_another_process_and_cleared() {
    let _guard = guard();
    let event = Event::new().unwrap();
    assert!(!event.is_set());
    assert!(!event.wait_timeout(Duration::ZERO));
    let begin = Instant::now();
    assert!(!event.wait_timeout(DELTA));
    assert!(begin.elapsed() >= DELTA);
    event.set();
    event.set();
    assert!(event.is_set());
    assert!(event.wait_timeout(Duration::ZERO) && event.wait_timeout(DELTA));
    event.wait();
    event.clear();
    event.clear();
    assert!(!event.is_set());
    let child = Process::spawn(|event: Event| event.set(), event.clone()).unwrap();
    event.wait();
    assert!(event.is_set());
    child.join().unwrap();
}

#[test]
fn an_event_as_text_says_whether_it_is_set() {
    let event = Event::new().unwrap();
    assert_eq!(format!("{event:?}"), "Event(not set)");
    event.set();
    assert_eq!(format!("{event:?}"), "Event(set)");
    event.clear();
    assert_eq!(format!("{event:?}"), "Event(not set)");
}
