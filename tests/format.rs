//! A live segment, read by nothing but `src/segment/FORMAT.md`: its file's bytes, and the offsets in the tables.

use std::fs::File;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;

use kinfolk::{Lock, Mutex, Process, Queue, Segment};

const FORMAT: &str = include_str!("../src/segment/FORMAT.md");

/// Bytes of an arena page.
const PAGE: u64 = 8192;

/// Offset and size of `field` in the table under the heading that contains `table`.
#[track_caller]
fn field(table: &str, field: &str) -> (u64, usize) {
    let under = FORMAT.lines().skip_while(|line| !(line.starts_with('#') && line.contains(table))).skip(1);
    let name = format!("`{field}`");
    let row = under
        .take_while(|line| !line.starts_with('#'))
        .find(|line| line.split('|').nth(3).is_some_and(|c| c.trim() == name));
    let mut cells = row.unwrap_or_else(|| panic!("no {name} in {table}")).split('|').skip(1);
    let offset = cells.next().unwrap().trim().parse().unwrap();
    // A size such as "8 x `granules`" is one of many words.
    (offset, cells.next().unwrap().trim().split(' ').next().unwrap().parse().unwrap())
}

struct Bytes(File);

impl Bytes {
    fn of(segment: &Segment) -> Self {
        Self(File::from(segment.as_fd().try_clone_to_owned().unwrap()))
    }

    fn read(&self, at: u64, bytes: usize) -> Vec<u8> {
        let mut read = vec![0; bytes];
        self.0.read_exact_at(&mut read, at).unwrap();
        read
    }

    fn word(&self, at: u64, bytes: usize) -> u64 {
        let mut word = [0; 8];
        word[..bytes].copy_from_slice(&self.read(at, bytes));
        u64::from_le_bytes(word)
    }

    /// The number in `field` of the block at `at`.
    #[track_caller]
    fn get(&self, at: u64, table: &str, name: &str) -> u64 {
        let (offset, size) = field(table, name);
        self.word(at + offset, size)
    }

    fn header(&self, name: &str) -> u64 {
        self.get(0, "`HeaderBlock`", name)
    }

    /// Where the directory entry of object `index` is, and where the object is.
    fn object(&self, index: u32) -> (u64, u64) {
        let entry = self.header("objects_at") + 512 * u64::from(index);
        (entry, self.header("pages_at") + PAGE * self.get(entry, "`ObjectBlock`", "page"))
    }
}

#[test]
fn the_header_and_the_geometry() {
    let segment = Segment::builder().size(8 << 20).processes(5).lanes(9).anonymous().unwrap();
    let bytes = Bytes::of(&segment);
    assert_eq!(bytes.read(field("`HeaderBlock`", "magic").0, 8), b"KINFOLK\n");
    assert_eq!([bytes.header("version"), bytes.header("size")], [5, 8 << 20]);
    assert_eq!([bytes.header("rows"), bytes.header("lanes"), bytes.header("objects")], [5, 9, 1024]);
    let up = |at: u64, to: u64| at.div_ceil(to) * to;
    let lanes_at = 4096 + 5 * 256;
    let pagemap_at = up(lanes_at + 9 * 128, 4096);
    let objects_at = up(pagemap_at + 1024 * 16, 4096);
    let pages_at = up(objects_at + 1024 * 512, PAGE);
    let offsets = ["rows_at", "lanes_at", "pagemap_at", "objects_at", "pages_at"].map(|name| bytes.header(name));
    assert_eq!(offsets, [4096, lanes_at, pagemap_at, objects_at, pages_at]);
    assert_eq!(bytes.header("pages"), ((8 << 20) - pages_at) / PAGE);
    assert_eq!(segment.stats().total_bytes as u64, bytes.header("pages") * PAGE);
}

#[test]
fn a_row_a_lane_and_a_lock() {
    let segment = Segment::anonymous(8 << 20).unwrap();
    let bytes = Bytes::of(&segment);
    let mutex = Mutex::new_in(&segment, 0x1122_3344_5566_7788u64).unwrap();
    let row = bytes.header("rows_at");
    let state = bytes.get(row, "`RowBlock`", "state");
    assert_eq!((state >> 32, state & 0xffff_ffff), (1, 1), "generation 1, ACTIVE");
    assert_eq!(bytes.get(row, "`RowBlock`", "pid"), u64::from(std::process::id()));
    let (name, size) = field("`RowBlock`", "name");
    assert_eq!(bytes.read(row + name, size), [b"MainProcess".as_slice(), &[0; 37]].concat());
    let lane = bytes.header("lanes_at");
    assert_eq!(bytes.get(lane, "`LaneBlock`", "owner"), 1 << 10, "generation 1 of row 0");

    let (entry, object) = bytes.object(mutex.id().index);
    let state = bytes.get(entry, "`ObjectBlock`", "state");
    assert_eq!(state, u64::from(mutex.id().generation) << 32 | 2, "LIVE");
    assert_eq!([bytes.get(entry, "`ObjectBlock`", "kind"), bytes.get(entry, "`ObjectBlock`", "bytes")], [3, 16]);
    assert_eq!(bytes.word(entry + field("`ObjectBlock`", "openers").0, 8), 1, "open in row 0");
    assert_eq!([bytes.word(object, 4), bytes.word(object + 8, 8)], [0, 0x1122_3344_5566_7788]);
    let guard = mutex.lock().unwrap();
    assert_eq!(bytes.word(object, 4), 1, "held by lane 1");
    drop(guard);

    let page = bytes.get(entry, "`ObjectBlock`", "page");
    let run = bytes.header("pagemap_at") + 16 * page;
    let head = bytes.get(run, "`PageBlock`", "head");
    assert_eq!((head >> 14 & 0x3ff_ffff, head & 0x3fff), (1, 2), "one page, LIVE");
    assert_eq!(
        bytes.get(run, "`PageBlock`", "owner"),
        u64::from(mutex.id().generation) << 32 | u64::from(mutex.id().index)
    );
}

#[test]
fn a_queue() {
    let segment = Segment::anonymous(8 << 20).unwrap();
    let bytes = Bytes::of(&segment);
    let queue: Queue<Vec<u8>> = Queue::<()>::builder().capacity(100).bytes(64 << 10).segment(&segment).build().unwrap();
    for text in ["first", "second", "third"] {
        queue.put(text.as_bytes().to_vec()).unwrap();
    }
    // Two granules.
    queue.put(vec![7; 100]).unwrap();
    assert_eq!(queue.get().unwrap(), b"first");

    let (entry, mailbox) = bytes.object(queue.id().index);
    assert_eq!(bytes.get(entry, "`ObjectBlock`", "kind"), 1);
    let numbers = ["granules", "granule_shift", "max_items"].map(|name| bytes.get(mailbox, "Mailbox", name));
    assert_eq!(numbers, [1024, 6, 100]);
    let ring = mailbox + field("Mailbox", "ring").0;
    let cursors = ["tail", "rcur", "head", "redo"].map(|name| bytes.get(ring, "`RingBlock`", name));
    let cursor = |items: u64, position: u64| items << 44 | position;
    // `head` counts what was given up, which is nothing.
    assert_eq!(cursors, [cursor(4, 5), cursor(1, 1), cursor(0, 1), 0]);

    let claim = mailbox + field("Mailbox", "claim").0;
    let [ready, take, data] = [1, 2, 3].map(|k| claim + k * 8 * 1024);
    let word = |lap: u64, state: u64, lane: u64, granules: u64| lap << 33 | state << 30 | lane << 20 | granules;
    assert_eq!(bytes.word(claim + 8, 8), word(1, 1, 1, 1), "WRITING by lane 1");
    assert_eq!(bytes.word(claim + 3 * 8, 8), word(1, 1, 1, 2), "two granules");
    assert_eq!(bytes.word(ready + 8, 8), word(1, 2, 1, 1), "READY by lane 1");
    assert_eq!(bytes.word(take, 8) & !(0x3ff << 20), word(1, 4, 0, 1), "DONE");
    assert_eq!(bytes.word(take + 8, 8), 0);
    let record = [&6u32.to_le_bytes()[..], &1u32.to_le_bytes(), b"second"].concat();
    assert_eq!(bytes.read(data + 64, record.len()), record);

    // Too large for the ring: a run of its own.
    queue.put(vec![9; 200_000]).unwrap();
    let at = data + 64 * 5;
    assert_eq!([bytes.word(at, 4), bytes.word(at + 4, 4), bytes.word(at + 16, 8)], [16, 2, 200_000]);
    let page = bytes.word(at + 8, 4);
    let head = bytes.get(bytes.header("pagemap_at") + 16 * page, "`PageBlock`", "head");
    assert_eq!((head >> 40, head >> 14 & 0x3ff_ffff, head & 0xf), (bytes.word(at + 12, 4), 25, 2), "25 pages, LIVE");
    assert_eq!(bytes.read(bytes.header("pages_at") + PAGE * page, 200_000), vec![9; 200_000]);
}

#[test]
fn a_lease_table() {
    let segment = Segment::anonymous(8 << 20).unwrap();
    let bytes = Bytes::of(&segment);
    let builder = Queue::<()>::builder().bytes(64 << 10).leases(5).max_deliveries(2).segment(&segment);
    let queue: Queue<Vec<u8>> = builder.build().unwrap();
    queue.put(b"given back".to_vec()).unwrap();
    queue.put(b"held".to_vec()).unwrap();
    // Too long for an entry.
    queue.put(vec![7; 300]).unwrap();
    queue.put(b"dead".to_vec()).unwrap();
    let [first, held, long] = [0; 3].map(|_| queue.lease().unwrap());
    let letter = queue.lease().unwrap();
    drop(letter);
    drop(queue.lease().unwrap());
    drop(first);

    let (_, mailbox) = bytes.object(queue.id().index);
    let numbers = ["leases", "max_deliveries", "carries_handles", "waits"].map(|n| bytes.get(mailbox, "Mailbox", n));
    assert_eq!(numbers, [5, 2, 0, 0]);
    let table = (mailbox + field("Mailbox", "claim").0 + (3 * 8 + 64) * 1024).next_multiple_of(256);
    let field = |name| table + field("Lease table", name).0;
    assert_eq!([bytes.word(field("returned"), 8), bytes.word(field("redelivered"), 8)], [2, 1]);
    let states = field("state");
    let records = (states + 5 * 16).next_multiple_of(256);
    // Lane 2 is what the threads of this process share; entries go round.
    let state = |k: u64| bytes.word(states + 8 * k, 8);
    let word = |deliveries: u64, lane: u64, state: u64| deliveries << 16 | lane << 6 | state;
    assert_eq!([state(0), state(1), state(2), state(3)], [word(1, 0, 3), word(1, 2, 2), word(1, 2, 2), word(2, 0, 4)]);
    assert_eq!(state(4), 0);
    let position = |k: u64| bytes.word(states + 8 * (5 + k), 8);
    assert_eq!([position(0), position(1), position(2), position(3)], [0, 1, 2, 7]);
    let record = [&4u32.to_le_bytes()[..], &1u32.to_le_bytes(), b"held"].concat();
    assert_eq!(bytes.read(records + 256, record.len()), record);
    let elsewhere = records + 512;
    assert_eq!([bytes.word(elsewhere, 4), bytes.word(elsewhere + 4, 4), bytes.word(elsewhere + 16, 8)], [16, 3, 308]);
    let run = bytes.header("pages_at") + PAGE * bytes.word(elsewhere + 8, 4);
    assert_eq!(bytes.read(run, 12), [&300u32.to_le_bytes()[..], &1u32.to_le_bytes(), &[7; 4]].concat());
    held.ack().unwrap();
    long.ack().unwrap();
    assert_eq!([state(1), state(2)], [1 << 32; 2], "free, for its second item");
}

#[test]
fn a_ring_of_slots() {
    let segment = Segment::anonymous(8 << 20).unwrap();
    let bytes = Bytes::of(&segment);
    let ring = kinfolk::channel::stamped::Mpsc::<[u32; 30]>::create_in(&segment, 70).unwrap();
    for number in 1..=3 {
        ring.push([number; 30]).unwrap();
    }
    ring.consumer().unwrap().pop().unwrap();
    let mut consumer = ring.consumer().unwrap();
    std::mem::forget(consumer.peek().unwrap());
    let (entry, at) = bytes.object(ring.id().index);
    assert_eq!(bytes.get(entry, "`ObjectBlock`", "kind"), 6);
    let numbers = ["slots", "slot_shift", "sides", "value_bytes"].map(|name| bytes.get(at, "Ring of slots", name));
    assert_eq!(numbers, [128, 7, 1, 120]);
    let control = at + field("Ring of slots", "ring").0;
    let words = ["tail", "rcur", "head", "producer", "consumer"].map(|name| bytes.get(control, "`RingBlock`", name));
    let cursor = |items: u64, position: u64| items << 44 | position;
    assert_eq!(words, [cursor(3, 3), cursor(2, 2), cursor(0, 1), 0, 1], "the consumer is lane 1");
    let claim = at + field("Ring of slots", "claim").0;
    let word = |state: u64| 1 << 33 | state << 30 | 1 << 20 | 1;
    assert_eq!(bytes.word(claim + 16, 8), word(1), "WRITING by lane 1");
    // No words of consumers; 640 and 128 * 8 are multiples of 128.
    let third = claim + 8 * 128 + 2 * 128;
    assert_eq!((bytes.word(third, 8), bytes.word(third + 8, 4), bytes.word(third + 124, 4)), (word(2), 3, 3));
}

#[test]
fn a_death() {
    fn hold_and_die(lock: Lock) {
        std::mem::forget(lock.lock().unwrap());
        // SIGKILL, without another word.
        std::process::Command::new("kill").args(["-9", &std::process::id().to_string()]).status().unwrap();
        std::thread::park();
    }

    let segment = Segment::family().unwrap();
    let bytes = Bytes::of(&segment);
    let lock = Lock::new(()).unwrap();
    let child = Process::builder().name("victim").spawn(hold_and_die, lock.clone()).unwrap();
    let pid = u64::from(child.pid());
    assert_eq!(child.join().unwrap_err().to_string(), "the process was killed by SIGKILL");
    let (_, object) = bytes.object(lock.id().index);
    let guard = lock.lock().unwrap_err().into_guard().unwrap();
    assert_eq!(bytes.word(object, 4) & 0x7ff, 1 << 10 | 1, "owner_died, held by lane 1");
    drop(guard);

    assert_eq!(bytes.header("deaths"), 1);
    let rows = (0..bytes.header("rows")).map(|row| bytes.header("rows_at") + 256 * row);
    let row =
        rows.into_iter().find(|row| bytes.get(*row, "`RowBlock`", "died_pid") == pid).expect("a row remembers it");
    assert_eq!(bytes.get(row, "`RowBlock`", "locks"), 1);
    let (name, _) = field("`RowBlock`", "died_name");
    assert_eq!(bytes.read(row + name, 7), b"victim\0");
}
