//! Handles in messages, with a death at every instruction of their way.

use super::*;

/// Takes the only handle of an object out of one queue and puts it into another one, killed everywhere in it: it lies in one of
/// them and the object is whole, or the dead had it, and then the object is gone, too. Each has to come.
pub fn hops() {
    let segment = Segment::builder().size(1 << 20).processes(3).lanes(4).anonymous().unwrap();
    let family = Mutex::new([0u64; 2]).unwrap();
    let warm = Queue::builder().bytes(4096).segment(&segment).build::<u8>().unwrap();
    let new_queue = || Queue::builder().bytes(4096).segment(&segment).build::<Event>().unwrap();
    let (from, to) = (new_queue(), new_queue());
    let objects = segment.stats().objects;
    let put_one = || from.put(Event::new_in(&segment).unwrap()).unwrap();
    let prepare = || {
        drop(family.lock().unwrap());
        warm.put(1).unwrap();
    };
    put_one();
    let mut found_in = [0; 3];
    within_steps(STEPS * 4, "a handle hops", &prepare, &|| to.put(from.get().unwrap()).unwrap(), &mut |k, victim| {
        let wait = Duration::from_millis(if k % 7 == 0 { 100 } else { 1 });
        let arrived = to.get_timeout(wait);
        segment.sweep();
        let place = match (arrived, from.get_timeout(Duration::from_millis(1))) {
            (Ok(event), Err(_)) => {
                event.set();
                assert!(event.is_set());
                2
            }
            (Err(_), Ok(event)) => {
                assert_eq!(victim, Victim::Killed);
                event.set();
                assert!(event.is_set());
                1
            }
            (Err(_), Err(_)) => {
                assert_eq!(victim, Victim::Killed, "the handle is gone, and nobody died with it");
                0
            }
            (Ok(_), Ok(_)) => panic!("step {k}: the handle is in both"),
        };
        found_in[place] += 1;
        assert_eq!(segment.stats().objects, objects, "step {k}: {}", segment.inspect());
        put_one();
        while warm.try_get().is_ok() {}
    });
    assert!(found_in.iter().all(|n| *n > 0), "kills with the dead, in the first queue, in the second: {found_in:?}");
}
