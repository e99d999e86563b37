//! Leases and tasks, with a death at every instruction.

use kinfolk::JoinableQueue;

use super::*;

/// Leases: taken, given back and ended, killed everywhere in it; an item is finished once, however it got there.
pub fn leases() {
    let segment = Segment::family().unwrap();
    let warm = Queue::builder().leases(2).build::<u8>().unwrap();
    // The process's lane, too, is taken before.
    let prepare = || {
        warm.put(1).unwrap();
        warm.lease().unwrap().ack().unwrap();
    };
    let tidy = || while warm.try_get().is_ok() {};
    let queue = Queue::builder().bytes(4096).leases(2).build::<[u8; 24]>().unwrap();
    for k in 0..63 {
        queue.put([k; 24]).unwrap();
        queue.get().unwrap();
    }
    let all_work = |queue: &Queue<[u8; 24]>| {
        assert!(queue.is_empty() && queue.stats().unwrap().open_leases == 0, "{queue:?} {:?}", queue.stats());
        for j in 0..5 {
            (0..2).for_each(|k| queue.put([j + k; 24]).unwrap());
            let pair = (queue.lease_timeout(SOON).unwrap(), queue.lease_timeout(SOON).unwrap());
            assert_eq!((*pair.0, *pair.1), ([j; 24], [j + 1; 24]));
            pair.0.ack().unwrap();
            pair.1.ack().unwrap();
        }
    };
    let (mut found, mut again) = (0, 0);
    queue.put([7; 24]).unwrap();
    at_every_instruction("lease", &prepare, &|| std::mem::forget(queue.lease().unwrap()), &mut |k, _| {
        tidy();
        let lease = queue.lease_timeout(SOON).unwrap_or_else(|e| panic!("step {k}: an item is gone: {e}"));
        assert_eq!(*lease, [7; 24]);
        found += 1;
        again += u32::from(lease.is_redelivered());
        lease.ack().unwrap();
        all_work(&queue);
        queue.put([7; 24]).unwrap();
    });
    assert!(again > 0 && again < found, "{again} of {found} kills hit a lease");
    let (mut acked, mut back) = (0, 0);
    at_every_instruction("lease and ack", &prepare, &|| queue.lease().unwrap().ack().unwrap(), &mut |_, victim| {
        tidy();
        segment.sweep();
        match queue.try_lease() {
            Ok(lease) => {
                assert_eq!((*lease, victim), ([7; 24], Victim::Killed), "acknowledged, and it came again");
                lease.ack().unwrap();
                back += 1;
            }
            Err(GetError::Empty) => acked += 1,
            Err(e) => panic!("{e}"),
        }
        all_work(&queue);
        queue.put([7; 24]).unwrap();
    });
    assert!(acked > 0 && back > 0, "{acked} acknowledged, {back} came back");
    at_every_instruction("give back", &prepare, &|| drop(queue.lease().unwrap()), &mut |k, _| {
        tidy();
        let lease = queue.lease_timeout(SOON).unwrap_or_else(|e| panic!("step {k}: an item is gone: {e}"));
        lease.ack().unwrap();
        all_work(&queue);
        queue.put([7; 24]).unwrap();
    });

    // Not inline, and in a block: runs of the arena change hands.
    let large = Queue::builder().bytes(4096).leases(2).build::<Vec<u8>>().unwrap();
    segment.sweep();
    let used = segment.stats().used_bytes;
    for bytes in [400, 5000] {
        large.put(vec![9; bytes]).unwrap();
        at_every_instruction(
            "lease and ack of a run",
            &prepare,
            &|| large.lease().unwrap().ack().unwrap(),
            &mut |_, _| {
                tidy();
                segment.sweep();
                while let Ok(lease) = large.try_lease() {
                    assert!(*lease == vec![9; bytes]);
                    lease.ack().unwrap();
                }
                assert_eq!(segment.stats().used_bytes, used, "a run was lost");
                large.put(vec![9; bytes]).unwrap();
            },
        );
        large.get().unwrap();
    }
}

/// A task got and done, killed everywhere in it, and the joiner after it.
pub fn tasks() {
    let segment = Segment::family().unwrap();
    let warm = JoinableQueue::<u8>::new(0).unwrap();
    let prepare = || {
        warm.put(1).unwrap();
        warm.get().unwrap();
        warm.task_done().unwrap();
    };
    let tasks = JoinableQueue::<[u8; 24]>::new(0).unwrap();
    tasks.put([7; 24]).unwrap();
    let (mut done, mut back) = (0, 0);
    let operation = || {
        tasks.get().unwrap();
        tasks.task_done().unwrap();
    };
    at_every_instruction("get and task_done", &prepare, &operation, &mut |_, victim| {
        segment.sweep();
        match tasks.try_get() {
            Ok(task) => {
                assert_eq!((task, victim), ([7; 24], Victim::Killed), "done, and it came again");
                assert!(tasks.try_join().is_err());
                tasks.task_done().unwrap();
                back += 1;
            }
            Err(GetError::Empty) => done += 1,
            Err(e) => panic!("{e}"),
        }
        tasks.join_timeout(SOON).unwrap();
        tasks.put([7; 24]).unwrap();
        while warm.try_get().is_ok() {
            warm.task_done().unwrap();
        }
    });
    assert!(done > 0 && back > 0, "{done} done, {back} came back");
}

/// The recoverer of a process that died with a lease, killed everywhere in the recovery. The segment is small, so that most
/// of its work is about the queue.
pub fn recovery() {
    let small = Segment::builder().size(4 << 20).processes(4).lanes(12).anonymous().unwrap();
    let queue = Queue::builder().segment(&small).bytes(4096).leases(2).build::<u8>().unwrap();
    let other = Queue::builder().segment(&small).bytes(4096).build::<u8>().unwrap();
    let warm = Mutex::new([0u64; 2]).unwrap();
    queue.put(5).unwrap();
    let dies_with_it = || {
        // SAFETY: this program has one thread.
        match unsafe { fork() }.unwrap() {
            ForkResult::Child => {
                std::mem::forget(queue.lease().unwrap());
                kill(Pid::this(), Signal::SIGKILL).unwrap();
            }
            ForkResult::Parent { child } => drop(waitpid(child, None).unwrap()),
        }
    };
    dies_with_it();
    let prepare = || {
        drop(warm.lock().unwrap());
        other.put(1).unwrap();
    };
    let operation = || {
        assert_eq!(small.sweep(), 1);
    };
    at_every_instruction("recovery of a lease", &prepare, &operation, &mut |_, _| {
        small.sweep();
        let lease = queue.lease_timeout(SOON).unwrap();
        assert_eq!((*lease, lease.deliveries()), (5, 2));
        assert!(queue.is_empty() && queue.stats().unwrap().open_leases == 1);
        lease.ack().unwrap();
        while other.try_get().is_ok() {}
        queue.put(5).unwrap();
        dies_with_it();
    });
}
