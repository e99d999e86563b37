//! Wrong bytes under the lock family: every operation ends, with an answer or an error, and none panics that does not say so.

mod support;

use std::fs::File;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use kinfolk::{
    Barrier, BarrierError, BoundedSemaphore, Condvar, DeadHolder, ErrorKind, Event, LockError, Mutex, Once, Previous,
    RLock, RwLock, Segment, Semaphore,
};
use proptest::prelude::*;
use support::watchdog;

/// Bytes of an arena page.
const PAGE: u64 = 8192;

const SOON: Duration = Duration::from_millis(1);

/// What a thread is told that asks for what it seems to have already: documented, and a wrong byte can make it seem so.
const DOCUMENTED: [&str; 2] = ["a once runs itself again", "the calling thread has this lock"];

/// One of each, alone in a segment.
struct Family {
    segment: Segment,
    lock: Mutex<u32>,
    rlock: RLock,
    rwlock: RwLock<[u32; 4]>,
    semaphore: Semaphore,
    leaking: Semaphore,
    bounded: BoundedSemaphore,
    condvar: Condvar,
    event: Event,
    barrier: Barrier,
    pair: Barrier,
    once: Once,
}

/// Number of objects in a [`Family`]; they are the first in the directory.
const OBJECTS: u64 = 11;

impl Family {
    fn new() -> Self {
        let segment = Segment::anonymous(4 << 20).unwrap();
        Self {
            lock: Mutex::new_in(&segment, 5).unwrap(),
            rlock: RLock::new_in(&segment).unwrap(),
            rwlock: RwLock::new_in(&segment, [7; 4]).unwrap(),
            semaphore: Semaphore::new_in(&segment, 2).unwrap(),
            leaking: Semaphore::new_with(&segment, 2, DeadHolder::Leak).unwrap(),
            bounded: BoundedSemaphore::new_in(&segment, 2).unwrap(),
            condvar: Condvar::new_in(&segment).unwrap(),
            event: Event::new_in(&segment).unwrap(),
            barrier: Barrier::new_in(&segment, 1).unwrap(),
            pair: Barrier::new_in(&segment, 2).unwrap(),
            once: Once::new_in(&segment).unwrap(),
            segment,
        }
    }

    /// Every operation that ends by itself, one after the other, whatever becomes of the one before.
    fn use_everything(&self) {
        let Self { segment, lock, rlock, rwlock, semaphore, leaking, bounded, condvar, event, barrier, pair, once } =
            self;
        each([
            &|| ignore(rlock.try_lock().map(|_guard| ignore(rlock.lock_timeout(SOON)))),
            &|| ignore(rlock.lock_timeout(SOON).map_err(|e| e.into_guard().map(|mut guard| guard.mark_consistent()))),
            &|| ignore((rlock.depth(), rlock.holder(), format!("{rlock:?}"))),
            &|| ignore(rwlock.try_read().map(|_guard| ignore(rwlock.read_timeout(SOON)))),
            &|| ignore(rwlock.read_timeout(SOON)),
            &|| ignore(rwlock.try_write().map(|mut guard| guard[0] += 1)),
            &|| ignore(rwlock.write_timeout(SOON).map_err(|e| e.into_guard().map(|mut guard| guard.mark_consistent()))),
            &|| ignore((rwlock.readers(), rwlock.holder(), format!("{rwlock:?}"))),
        ]);
        for semaphore in [semaphore, leaking, &**bounded] {
            each([
                &|| ignore((semaphore.try_acquire(), semaphore.acquire_timeout(SOON))),
                &|| ignore(semaphore.acquire_timeout(SOON).map(kinfolk::Permit::forget)),
                &|| ignore((semaphore.release(), semaphore.release())),
                &|| ignore((semaphore.value(), semaphore.holder(), format!("{semaphore:?}"))),
            ]);
        }
        each([
            &|| ignore(lock.lock_timeout(SOON).map(|guard| condvar.wait_timeout(guard, SOON))),
            &|| ignore(rlock.lock_timeout(SOON).map(|guard| condvar.wait_for_timeout(guard, |()| false, SOON))),
            &|| ignore((condvar.notify_one(), condvar.notify(2), condvar.notify_all(), condvar.waiters())),
            &|| {
                ignore((event.is_set(), event.wait_timeout(SOON), event.set(), event.wait_timeout(SOON), event.clear()))
            },
        ]);
        for barrier in [barrier, pair] {
            each([
                &|| ignore((barrier.wait_timeout(SOON), barrier.wait_with_timeout(SOON, || ()))),
                &|| ignore((barrier.is_broken(), barrier.parties(), barrier.n_waiting(), barrier.abort())),
                &|| ignore((barrier.wait_timeout(SOON), barrier.reset(), barrier.wait_with_timeout(SOON, || ()))),
                &|| ignore(format!("{barrier:?} {condvar:?} {event:?} {bounded:?} {lock:?}")),
            ]);
        }
        each([
            &|| ignore(once.try_call_once(|_| ())),
            &|| ignore(once.call_once_timeout(SOON, |_| ())),
            &|| ignore((once.is_completed(), format!("{once:?}"))),
            &|| ignore((segment.sweep(), segment.stats(), segment.deaths(), segment.inspect().to_string())),
            &|| ignore((RLock::open(segment, rlock.id()), RwLock::<[u32; 4]>::open(segment, rwlock.id()))),
            &|| ignore((Semaphore::open(segment, semaphore.id()), BoundedSemaphore::open(segment, bounded.id()))),
            &|| ignore((Condvar::open(segment, condvar.id()), Event::open(segment, event.id()))),
            &|| ignore((Barrier::open(segment, barrier.id()), Once::open(segment, once.id()))),
        ]);
    }

    /// Everything that can be held, held while `meanwhile` goes on, then given back.
    fn hold_everything(&self, meanwhile: impl FnOnce()) {
        let rlocks = (self.rlock.try_lock(), self.rlock.try_lock());
        let read = self.rwlock.try_read();
        let permits = [&self.semaphore, &self.leaking, &*self.bounded].map(Semaphore::try_acquire);
        let lock = self.lock.try_lock();
        meanwhile();
        each([&|| ignore(format!("{:?} {:?} {:?}", self.rlock, self.rwlock, self.semaphore))]);
        // No guard may panic when it is dropped, documented or not.
        ignore((rlocks, read));
        let [one, other, third] = permits;
        ignore((one, other, third.map(kinfolk::Permit::forget)));
        ignore(lock.map(|guard| ignore(self.condvar.wait_timeout(guard, SOON))));
    }
}

fn ignore<T>(_: T) {}

fn documented(ended: std::thread::Result<()>) {
    let Err(payload) = ended else { return };
    let text = payload.downcast_ref::<String>().cloned();
    let text = text.or_else(|| payload.downcast_ref::<&str>().map(|text| (*text).to_owned())).unwrap_or_default();
    assert!(DOCUMENTED.iter().any(|known| text.contains(known)), "a wrong byte made it panic: {text}");
}

fn each<const N: usize>(operations: [&dyn Fn(); N]) {
    operations.into_iter().for_each(|operation| documented(catch_unwind(AssertUnwindSafe(operation))));
}

/// A word of the segment: of an object's memory, of its directory entry, or of anything.
#[derive(Clone, Copy, Debug)]
enum Place {
    Memory(u64, u64),
    Entry(u64, u64),
    Anywhere(u64),
}

impl Place {
    /// Writes `value` there, as any process that has the segment mapped could.
    fn scribble(self, file: &File, value: u32) {
        // What says where things are may have been written over.
        let word = |at: u64, bytes: usize| {
            let mut word = [0; 8];
            let _ = file.read_exact_at(&mut word[..bytes], at);
            u64::from_le_bytes(word)
        };
        let size = file.metadata().unwrap().len();
        let entry = |object: u64| word(88, 8).wrapping_add(512 * object) % size;
        let at = match self {
            Self::Memory(object, at) => word(96, 8) % size + PAGE * word(entry(object) + 12, 4) + at,
            Self::Entry(object, at) => entry(object) + at,
            Self::Anywhere(at) => at,
        };
        file.write_all_at(&value.to_ne_bytes(), at.min(size - 4) & !3).unwrap();
    }
}

fn places() -> impl Strategy<Value = Place> {
    let object = 0..OBJECTS;
    // The fixed words; then the arrays, at what concerns lane 1, which this test's thread has.
    let inside = prop_oneof![6 => 0u64..32, 3 => 64u64..80, 2 => 192u64..200, 1 => 320u64..328, 1 => 0u64..8400];
    prop_oneof![
        12 => (object.clone(), inside).prop_map(|(object, at)| Place::Memory(object, at)),
        2 => (object, 32u64..144).prop_map(|(object, at)| Place::Entry(object, at)),
        1 => (0u64..200_000).prop_map(Place::Anywhere),
    ]
}

fn values() -> impl Strategy<Value = u32> {
    // Lanes: this thread's, nobody's, impossible ones; at the places where words have them, with any bits around.
    let lane = prop_oneof![Just(1u32), 2u32..1024];
    prop_oneof![
        any::<u32>(),
        0u32..8,
        Just(u32::MAX),
        Just(i32::MAX as u32),
        lane.clone(),
        (lane.clone(), any::<u32>()).prop_map(|(lane, bits)| lane | bits << 10),
        (lane, any::<u32>(), 0u32..8).prop_map(|(lane, bits, state)| lane << 3 | bits << 13 | state),
    ]
}

fn scribbles() -> impl Strategy<Value = Vec<(Place, u32)>> {
    prop::collection::vec((places(), values()), 1..12)
}

#[test]
fn nobody_waits_for_ever_for_a_lane_that_there_is_not() {
    let _watchdog = watchdog(Duration::from_secs(60));
    let family = Family::new();
    let file = File::from(family.segment.as_fd().try_clone_to_owned().unwrap());
    let scribble = |object, at, value| Place::Memory(object, at).scribble(&file, value);
    const NO_LANE: u32 = 1023;
    scribble(0, 0, NO_LANE);
    assert!(matches!(family.lock.lock(), Err(LockError::OwnerDied(_))));
    scribble(1, 0, NO_LANE);
    assert!(matches!(family.rlock.lock(), Err(LockError::OwnerDied(_))));
    scribble(2, 0, NO_LANE);
    assert!(matches!(family.rwlock.read(), Err(LockError::OwnerDied(_))));
    family.rwlock.write().err().and_then(LockError::into_guard).expect("told").mark_consistent();
    // Readers 0 and 1023.
    scribble(2, 64, 1);
    scribble(2, 64 + 124, 1 << 31);
    ignore(family.rwlock.write().expect("no writer died"));
    assert_eq!(family.rwlock.readers(), 0);
    // It acts; it runs.
    scribble(9, 0, NO_LANE << 16 | 1 << 26);
    assert!(matches!(family.pair.wait(), Err(BarrierError::Broken { .. })));
    scribble(10, 0, NO_LANE << 3 | 4);
    family.once.call_once(|previous| assert_eq!(previous, Previous::Died)).unwrap();
}

#[test]
fn a_barrier_of_an_impossible_number_is_not_opened() {
    let family = Family::new();
    let file = File::from(family.segment.as_fd().try_clone_to_owned().unwrap());
    let id = family.pair.id();
    for parties in [0, 1 << 16, u32::MAX] {
        Place::Memory(9, 16).scribble(&file, parties);
        assert_eq!(Barrier::open(&family.segment, id).unwrap_err().kind(), ErrorKind::Corrupt);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn wrong_bytes_under_the_lock_family_give_answers_and_errors(
        before in scribbles(), during in scribbles(), after in scribbles(),
    ) {
        let _watchdog = watchdog(Duration::from_secs(60));
        let family = Family::new();
        let file = File::from(family.segment.as_fd().try_clone_to_owned().unwrap());
        let write = |scribbles: &[(Place, u32)]| scribbles.iter().for_each(|(place, value)| place.scribble(&file, *value));
        write(&before);
        family.use_everything();
        family.hold_everything(|| write(&during));
        family.use_everything();
        write(&after);
        family.use_everything();
    }
}
