//! Wrong bytes in lease tables: an error each time, and never a crash or an endless call.

mod support;

use std::fs::File;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use kinfolk::{JoinableQueue, Queue, Segment};
use proptest::prelude::*;
use support::random::Random;
use support::watchdog;

/// Bytes of an arena page.
const PAGE: u64 = 8192;

const SOON: Duration = Duration::from_millis(1);

/// Where an object's memory begins, by what `FORMAT.md` says.
fn memory_of(file: &File, index: u32) -> u64 {
    let word = |at: u64| {
        let mut bytes = [0; 8];
        file.read_exact_at(&mut bytes, at).unwrap();
        u64::from_ne_bytes(bytes)
    };
    let entry = word(88) + 512 * u64::from(index);
    word(96) + PAGE * (word(entry + 8) >> 32)
}

/// Everything that can be done with leases. Only that it ends is of interest.
fn use_everything(queue: &Queue<Vec<u8>>, tasks: &JoinableQueue<Vec<u8>>) {
    for bytes in [5, 300, 3000] {
        let _ = queue.put_timeout(vec![1; bytes], SOON);
        let _ = tasks.put_timeout(vec![1; bytes], SOON);
    }
    let held = (queue.try_lease(), queue.lease_timeout(SOON));
    let _ = (queue.get_timeout(SOON), queue.try_get());
    if let (Ok(first), second) = held {
        let _ = first.ack();
        drop(second);
    }
    let _ = (tasks.try_get(), tasks.get_timeout(SOON), tasks.try_lease().map(|lease| lease.into_inner()));
    let _ = (tasks.task_done(), tasks.try_join(), tasks.join_timeout(SOON), tasks.unfinished());
    let _ = (queue.dead_letters().take(20).count(), queue.drain().take(20).count());
    let _ = (queue.len(), queue.is_empty(), queue.is_full(), queue.stats(), tasks.stats(), format!("{tasks:?}"));
}

fn word() -> impl Strategy<Value = u64> {
    // States, heads of records, and anything.
    let state = (0u64..8, 0u64..8, 0u64..4).prop_map(|(state, lane, d)| d << 16 | lane << 6 | state);
    let head = (0u64..600, 0u64..4, 0u64..40).prop_map(|(len, kind, handles)| len | kind << 32 | handles << 40);
    prop_oneof![any::<u64>(), 0u64..300, state, head]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn tables_full_of_garbage_give_errors_and_no_crash(
        words in prop::collection::vec((0.0f64..1.0, word()), 1..100),
    ) {
        let _guard = watchdog(Duration::from_secs(60));
        let segment = Segment::anonymous(8 << 20).unwrap();
        let builder = || Queue::builder().segment(&segment).bytes(4096).leases(5).max_deliveries(3);
        let queue: Queue<Vec<u8>> = builder().build().unwrap();
        let tasks: JoinableQueue<Vec<u8>> = builder().build_joinable().unwrap();
        use_everything(&queue, &tasks);
        let open = (queue.put(vec![2; 500]), queue.lease());
        let file = File::from(segment.as_fd().try_clone_to_owned().unwrap());
        for (at, word) in words {
            for index in [queue.id().index, tasks.id().index] {
                // The whole mailbox has 6 KiB, the table less than 2.
                let at = memory_of(&file, index) + ((at * 9000.0) as u64 & !7);
                file.write_all_at(&word.to_ne_bytes(), at).unwrap();
            }
        }
        use_everything(&queue, &tasks);
        drop(open);
        use_everything(&queue, &tasks);
        let _ = (segment.sweep(), segment.inspect().to_string(), Queue::<Vec<u8>>::open(&segment, queue.id()).is_ok());
        drop((queue, tasks));
    }
}

#[test]
fn somebody_who_writes_into_a_table_in_use_crashes_nobody() {
    let _guard = watchdog(Duration::from_secs(120));
    for round in 0..10 {
        let segment = Segment::anonymous(8 << 20).unwrap();
        let builder = || Queue::builder().segment(&segment).bytes(4096).leases(5).max_deliveries(3);
        let queue: Queue<Vec<u8>> = builder().build().unwrap();
        let tasks: JoinableQueue<Vec<u8>> = builder().build_joinable().unwrap();
        let file = File::from(segment.as_fd().try_clone_to_owned().unwrap());
        let over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let mut random = Random::new(round + 1);
                let table = |index| memory_of(&file, index) + 640 + 64 * 88;
                let tables = [table(queue.id().index), table(tasks.id().index)];
                while !over.load(Ordering::Relaxed) {
                    let at = tables[random.below(2) as usize].next_multiple_of(256) + random.below(1900) / 8 * 8;
                    let word = if random.below(2) == 0 { random.below(600) } else { random.below(u64::MAX) };
                    file.write_all_at(&word.to_ne_bytes(), at).unwrap();
                    random.moment();
                }
            });
            for _ in 0..30 {
                use_everything(&queue, &tasks);
            }
            over.store(true, Ordering::Relaxed);
        });
    }
}
