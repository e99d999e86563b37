//! No memory: a segment that is full, a system that has none left, and a limit of file sizes. Each is an error of the call
//! that wants memory, and everything works again when there is some.
#![allow(unsafe_code, reason = "limits of a child, and a filter of its system calls")]

mod support;

use std::time::Duration;

use kinfolk::segment::{Arena, Run};
use kinfolk::{ErrorKind, Event, Lock, Process, PutError, Queue, Segment};
use support::random::Random;
use support::watchdog;

const PAGE: usize = 8 << 10;
const MIB: usize = 1 << 20;

/// Takes runs until there is no room for even one page.
fn fill(arena: &Arena, lane: u16, random: &mut Random) -> Vec<Run> {
    let mut runs = Vec::new();
    let mut most = 100 * PAGE;
    while most > 0 {
        let bytes = 1 + random.below(most as u64) as usize;
        match arena.alloc(lane, bytes, 0) {
            Ok(run) => runs.push(run),
            Err(e) => {
                assert_eq!(e.kind(), ErrorKind::OutOfSpace, "{e}");
                most = if bytes <= PAGE { 0 } else { bytes.min(most - 1) };
            }
        }
    }
    runs
}

#[test]
fn a_full_segment_refuses_and_works_again_after_something_is_freed() {
    let segment = Segment::anonymous(8 << 20).unwrap();
    let arena = Arena::of(&segment);
    let lane = arena.lane().unwrap();
    let total = segment.stats().total_bytes;
    let mut random = Random::new(9);
    for round in 0..20 {
        let mut runs = fill(&arena, lane, &mut random);
        assert_eq!((segment.stats().used_bytes, segment.stats().free_bytes), (total, 0));
        for what in [Lock::new_in(&segment, ()).unwrap_err(), Event::new_in(&segment).unwrap_err()] {
            assert_eq!(what.kind(), ErrorKind::OutOfSpace, "{what}");
        }
        assert_eq!(segment.stats().objects, 0, "half an object was left");
        let last = runs.swap_remove(random.below(runs.len() as u64) as usize);
        arena.free(last);
        if round % 2 == 0 {
            assert_eq!(segment.trim().unwrap(), last.bytes());
        }
        drop(Lock::new_in(&segment, ()).unwrap());
        let again = arena.alloc(lane, last.bytes(), 0).unwrap();
        assert_eq!((again.page, again.generation), (last.page, last.generation + 2));
        arena.free(again);
        runs.into_iter().for_each(|run| arena.free(run));
        assert_eq!(segment.stats().used_bytes, 0);
    }
}

/// From here on this thread's `fallocate` fails with `errno`: that which commits memory, or that which gives it back.
fn refuse_fallocate(punch: bool, errno: i32) {
    use libc::{BPF_ABS, BPF_JEQ, BPF_JMP, BPF_JSET, BPF_K, BPF_LD, BPF_RET, BPF_W, sock_filter};
    let step = |code: u32, k: u32, jt: u8, jf: u8| sock_filter { code: code as u16, jt, jf, k };
    // The number of the call is the first word of what a filter sees; the low half of its second argument, the mode, is
    // the seventh.
    let refuse = libc::SECCOMP_RET_ERRNO | errno as u32;
    let is_punch = libc::FALLOC_FL_PUNCH_HOLE as u32;
    let (when_punch, when_commit) = if punch { (0, 1) } else { (1, 0) };
    let mut steps = [
        step(BPF_LD | BPF_W | BPF_ABS, 0, 0, 0),
        step(BPF_JMP | BPF_JEQ | BPF_K, libc::SYS_fallocate as u32, 0, 3),
        step(BPF_LD | BPF_W | BPF_ABS, 24, 0, 0),
        step(BPF_JMP | BPF_JSET | BPF_K, is_punch, when_punch, when_commit),
        step(BPF_RET | BPF_K, refuse, 0, 0),
        step(BPF_RET | BPF_K, libc::SECCOMP_RET_ALLOW, 0, 0),
    ];
    let program = libc::sock_fprog { len: steps.len() as u16, filter: steps.as_mut_ptr() };
    // SAFETY: the program outlives the calls, which copy it.
    unsafe {
        assert_eq!(libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), 0);
        assert_eq!(libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &program), 0);
    }
}

type Bytes = Queue<Vec<u8>>;

/// Who counts the pages of the family's segment does so alone.
static FAMILY: std::sync::Mutex<()> = std::sync::Mutex::new(());

/// The family's segment has a hollow piece of 4 MiB, and new pages behind.
fn without_memory((queue, there): (Bytes, Bytes)) {
    let segment = Segment::family().unwrap();
    // What it needs before is not what is refused.
    there.put(vec![1]).unwrap();
    there.get().unwrap();
    refuse_fallocate(false, libc::ENOSPC);
    let before = segment.stats();
    for bytes in [PAGE, 3 * MIB, 5 * MIB, 60 * MIB] {
        match queue.try_put(vec![7; bytes]) {
            Err(PutError::Failed(value, e)) => {
                assert_eq!((value.len(), e.kind()), (bytes, ErrorKind::OutOfSpace), "{e}");
            }
            other => panic!("{bytes} B were put without memory: {other:?}"),
        }
        let now = segment.stats();
        assert_eq!((now.used_bytes, now.committed_bytes), (before.used_bytes, before.committed_bytes));
        assert_eq!((now.given_back_bytes, now.fresh_bytes), (before.given_back_bytes, before.fresh_bytes));
    }
    // What has memory is used meanwhile: the ring itself.
    there.put(vec![2; 100]).unwrap();
}

#[test]
fn a_system_without_memory_is_an_error_and_nothing_is_lost() {
    let _guard = watchdog(Duration::from_secs(60));
    let _alone = FAMILY.lock();
    let segment = Segment::family().unwrap();
    let [queue, there] = [(); 2].map(|()| Queue::<()>::builder().bytes(4096).build::<Vec<u8>>().unwrap());
    queue.put(vec![7; 4 * MIB]).unwrap();
    queue.get().unwrap();
    segment.trim().unwrap();
    let before = segment.stats().used_bytes;
    Process::spawn(without_memory, (queue.clone(), there.clone())).unwrap().join().unwrap();
    assert_eq!(there.get().unwrap(), [2; 100]);
    assert_eq!(segment.stats().used_bytes, before);
    // Whoever has memory can use what the other could not.
    queue.put(vec![7; 5 * MIB]).unwrap();
    assert_eq!(queue.get().unwrap(), vec![7; 5 * MIB]);
}

/// The kernel takes nothing back: memory that is free stays, and is used again.
fn without_holes(queue: Bytes) {
    let segment = Segment::anonymous(64 << 20).unwrap();
    let own = Queue::<()>::builder().bytes(4096).segment(&segment).build::<Vec<u8>>().unwrap();
    refuse_fallocate(true, libc::EOPNOTSUPP);
    for _ in 0..3 {
        own.put(vec![7; 12 * MIB]).unwrap();
        assert_eq!(own.get().unwrap(), vec![7; 12 * MIB]);
        assert_eq!(segment.trim().unwrap_err().kind(), ErrorKind::Unsupported);
    }
    let stats = segment.stats();
    let all = stats.used_bytes + stats.free_bytes + stats.given_back_bytes + stats.fresh_bytes;
    assert_eq!((stats.used_bytes, all), (PAGE, stats.total_bytes));
    queue.put(vec![3]).unwrap();
}

#[test]
fn a_system_that_takes_no_memory_back_is_an_error_of_trim_only() {
    let _guard = watchdog(Duration::from_secs(60));
    let _alone = FAMILY.lock();
    let queue = Queue::<Vec<u8>>::new(0).unwrap();
    Process::spawn(without_holes, queue.clone()).unwrap().join().unwrap();
    assert_eq!(queue.get().unwrap(), [3]);
}

/// A limit of file sizes: a file beyond it would end the process with SIGXFSZ, one within it never grows.
fn within_a_limit(queue: Bytes) {
    let limit = libc::rlimit { rlim_cur: 4 << 20, rlim_max: 4 << 20 };
    // SAFETY: a valid pointer.
    assert_eq!(unsafe { libc::setrlimit(libc::RLIMIT_FSIZE, &limit) }, 0);
    let error = Segment::anonymous(64 << 20).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::OutOfSpace, "{error}");
    assert!(error.to_string().starts_with("create segment: File too large"), "{error}");
    let small = Segment::anonymous(4 << 20).unwrap();
    drop(Lock::new_in(&small, ()).unwrap());
    // The segment that it was given is larger than the limit, and has its size already.
    queue.put(vec![7; 8 * MIB]).unwrap();
}

#[test]
fn a_limit_of_file_sizes_is_an_error_and_kills_nobody() {
    let _guard = watchdog(Duration::from_secs(60));
    let _alone = FAMILY.lock();
    let queue = Queue::<()>::builder().bytes(4096).build::<Vec<u8>>().unwrap();
    Process::spawn(within_a_limit, queue.clone()).unwrap().join().unwrap();
    assert_eq!(queue.get().unwrap(), vec![7; 8 * MIB]);
}
