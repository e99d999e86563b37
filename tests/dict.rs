//! Dictionaries: what one process sees, and what several do.

use std::collections::HashMap;

use kinfolk::{ByteDict, Dict, Process, Segment};

#[test]
fn it_does_what_a_hash_map_does() {
    let dict: Dict<u32, String> = Dict::new().unwrap();
    let mut model = HashMap::new();
    let mut random = 12345u64;
    for step in 0..60_000u32 {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        let key = (random >> 40) as u32 % 3000;
        match random >> 60 {
            0..=8 => {
                let value = format!("{step}").repeat((random >> 50) as usize % 20);
                dict.set(&key, &value).unwrap();
                model.insert(key, value);
            }
            9..=12 => assert_eq!(dict.remove(&key).unwrap(), model.remove(&key)),
            _ => assert_eq!(dict.get(&key).unwrap(), model.get(&key).cloned()),
        }
        assert_eq!(dict.len(), model.len());
    }
    for key in 0..3000 {
        assert_eq!(dict.get(&key).unwrap(), model.get(&key).cloned());
    }
}

#[test]
fn values_of_every_size_come_back() {
    let segment = Segment::anonymous(256 << 20).unwrap();
    let dict = ByteDict::new_in(&segment).unwrap();
    let used = segment.stats().used_bytes;
    for round in 0..3 {
        for len in [0usize, 1, 7, 8, 100, 4000, 4072, 4073, 5000, 100_000, 3 << 20] {
            let value: Vec<u8> = (0..len).map(|k| (k * 7 + round) as u8).collect();
            dict.set(&len.to_le_bytes(), &value).unwrap();
            assert_eq!(dict.get(&len.to_le_bytes()).unwrap(), Some(value));
        }
    }
    for len in [0usize, 1, 7, 8, 100, 4000, 4072, 4073, 5000, 100_000, 3 << 20] {
        assert!(dict.remove(&len.to_le_bytes()).unwrap());
    }
    assert!(dict.is_empty());
    drop(dict);
    assert!(segment.stats().used_bytes < used);
    assert_eq!(segment.stats().objects, 0);
}

#[test]
fn processes_change_it_together() {
    let dict: Dict<u64, u64> = Dict::new().unwrap();
    let fill = |(dict, from): (Dict<u64, u64>, u64)| {
        for k in from..from + 5000 {
            dict.set(&k, &(k * 3)).unwrap();
        }
        for k in (from..from + 5000).step_by(2) {
            assert_eq!(dict.remove(&k).unwrap(), Some(k * 3));
        }
    };
    let children: Vec<_> = (0..3).map(|k| Process::spawn(fill, (dict.clone(), k * 5000)).unwrap()).collect();
    for child in children {
        child.join().unwrap();
    }
    assert_eq!(dict.len(), 7500);
    for k in 0..15_000 {
        assert_eq!(dict.get(&k).unwrap(), (k % 2 == 1).then_some(k * 3));
    }
}

#[test]
fn what_is_removed_is_given_back() {
    let segment = Segment::anonymous(256 << 20).unwrap();
    let dict = ByteDict::new_in(&segment).unwrap();
    let empty = segment.stats().used_bytes;
    for _ in 0..3 {
        (0..50_000u32).for_each(|k| dict.set(&k.to_le_bytes(), &[1; 100]).unwrap());
        let full = segment.stats().used_bytes - empty;
        assert!(full > 50_000 * 100, "{full} B");
        (0..50_000u32).for_each(|k| assert!(dict.remove(&k.to_le_bytes()).unwrap()));
        // The tables stay as they are until the next insertion.
        let left = segment.stats().used_bytes - empty;
        assert!(left < full / 2, "{left} of {full} B are left");
    }
}
