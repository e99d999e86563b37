//! Segments with names, and what is published in them, with a death at every instruction.

use kinfolk::{ErrorKind, Manager};

use super::*;

/// Tables of the least sizes: most steps would be looks at rows and lanes.
fn small() -> kinfolk::segment::SegmentBuilder {
    Segment::builder().size(1 << 20).processes(3).lanes(4)
}

fn new_manager() -> Manager {
    Manager::from(small().anonymous().unwrap())
}

/// A segment gets its name, killed everywhere in it: the name is there with a whole segment behind it, or it is not.
pub fn named() {
    let warm = Mutex::new([0u64; 2]).unwrap();
    let name = format!("step-{}", std::process::id());
    let (mut whole, mut none) = (0, 0);
    let create = || std::mem::forget(small().create(&name).unwrap());
    at_every_instruction("create segment", &|| drop(warm.lock().unwrap()), &create, &mut |_, victim| {
        match Segment::open(&name) {
            Ok(segment) => {
                assert_eq!(segment.stats().processes, 1, "its maker was found dead");
                assert!(lock_is_had(&Mutex::new_in(&segment, [1, 1]).unwrap()) || segment.stats().objects == 0);
                Segment::unlink(&name).unwrap();
                whole += 1;
            }
            Err(e) => {
                assert_eq!((e.kind(), victim), (ErrorKind::NotFound, Victim::Killed));
                none += 1;
            }
        }
        assert!(!Segment::names().unwrap().contains(&name));
    });
    assert!(whole > 0 && none > 0, "{whole} and {none}");
}

/// Publishing and withdrawing, killed everywhere in it: the name is there with its value or not at all, and nothing is left
/// of what is not.
pub fn published() {
    let manager = new_manager();
    let segment = manager.segment();
    let family = Mutex::new([0u64; 2]).unwrap();
    let warm = manager.mutex([0u64; 2]).unwrap();
    let prepare = || {
        drop(family.lock().unwrap());
        drop(warm.lock().unwrap());
    };
    let objects = segment.stats().objects;
    let (mut whole, mut none) = (0, 0);
    // The first time there is no root, so it is made, too.
    let fresh = std::cell::RefCell::new(new_manager());
    let first = || fresh.borrow().publish("first", &7u32).unwrap();
    at_every_instruction("publish the first", &|| drop(family.lock().unwrap()), &first, &mut |_, victim| {
        fresh.borrow().segment().sweep();
        let found = fresh.borrow().find::<u32>("first");
        assert!(found.as_ref().is_ok_and(|n| *n == 7) || victim == Victim::Killed);
        if found.is_err() {
            fresh.borrow().publish("first", &8u32).unwrap();
            assert_eq!(fresh.borrow().find::<u32>("first").unwrap(), 8);
        }
        assert_eq!(fresh.borrow().segment().stats().objects, 2, "the root and what was published");
        fresh.replace(new_manager());
    });
    manager.publish("other", &0u32).unwrap();
    let objects = objects + 2;
    let publish = || {
        let event = manager.event().unwrap();
        manager.publish("event", &(event, 5u32)).unwrap();
    };
    at_every_instruction("publish", &prepare, &publish, &mut |k, victim| {
        if k % 2 == 0 {
            segment.sweep();
        }
        match manager.find::<(Event, u32)>("event") {
            Ok((event, number)) => {
                event.set();
                assert_eq!(number, 5);
                drop(event);
                manager.withdraw("event").unwrap();
                whole += 1;
            }
            Err(e) => {
                assert_eq!((e.kind(), victim), (ErrorKind::NotFound, Victim::Killed));
                none += 1;
            }
        }
        manager.publish("next", &k).unwrap();
        manager.withdraw("next").unwrap();
        segment.sweep();
        assert_eq!(segment.stats().objects, objects, "step {k}: {}", segment.inspect());
    });
    assert!(whole > 0 && none > 0, "{whole} and {none}");
    let (mut there, mut gone) = (0, 0);
    publish();
    at_every_instruction("withdraw", &prepare, &|| manager.withdraw("event").unwrap(), &mut |k, victim| {
        segment.sweep();
        match manager.find::<(Event, u32)>("event") {
            Ok(_) => {
                assert_eq!(victim, Victim::Killed);
                there += 1;
            }
            Err(e) => {
                assert_eq!(e.kind(), ErrorKind::NotFound);
                assert_eq!(segment.stats().objects, objects, "step {k}: {}", segment.inspect());
                gone += 1;
                publish();
            }
        }
        assert_eq!(manager.published().unwrap(), ["event", "other"]);
    });
    assert!(there > 0 && gone > 0, "{there} and {gone}");
}

/// An object is made and dropped, killed everywhere in it: nothing is left of it.
pub fn objects() {
    let segment = small().anonymous().unwrap();
    let family = Mutex::new([0u64; 2]).unwrap();
    let warm = Mutex::new_in(&segment, [0u64; 2]).unwrap();
    let prepare = || {
        drop(family.lock().unwrap());
        drop(warm.lock().unwrap());
    };
    let before = segment.stats();
    let make = || drop(Event::new_in(&segment).unwrap());
    at_every_instruction("make and drop an object", &prepare, &make, &mut |k, _| {
        segment.sweep();
        let now = segment.stats();
        assert_eq!((now.objects, now.used_bytes), (before.objects, before.used_bytes), "step {k}");
    });
}
