//! A dictionary that several processes change, with deaths in changes and recoveries in between, against a map that keeps
//! the order. Then with spoilt words: an error or an answer from every call, in bounded time.
#![no_main]

use std::os::fd::AsFd;
use std::time::Duration;

use arbitrary::Arbitrary;
use kinfolk::segment::Arena;
use kinfolk::{ByteDict, ErrorKind, Segment};
use libfuzzer_sys::fuzz_target;

const SIZE: u64 = 2 << 20;
const PAGE: u64 = 8 << 10;
const PROCESSES: usize = 3;
/// A free lane, if a word names it.
const NOBODYS: u32 = 1023;

/// Where the words of the only shard begin in the object, and those of its heap, and their number.
const SHARD_AT: u64 = 128;
const HEAP_AT: u64 = 256;
const HEAP_WORDS: u64 = 88;
/// Words that a repair finds out anew: of the shard (changes, entries, slots in use, places in the order), and all of the
/// heap's but its runs and the one that is being given back.
const COUNTS: [u64; 4] = [8, 16, 24, 32];
const RUNS: u64 = 0;
const LEAVING: u64 = 86;

#[derive(Arbitrary, Debug)]
struct Plan {
    steps: Vec<Step>,
    /// Words that are spoilt at the end, each before an operation.
    damage: Vec<(Damage, u64, Step)>,
}

#[derive(Arbitrary, Debug, Clone, Copy)]
enum Step {
    Set {
        who: u8,
        key: u8,
        len: Len,
    },
    /// Many keys, so that tables grow.
    SetMany {
        who: u8,
        from: u16,
        keys: u8,
    },
    TryInsert {
        who: u8,
        key: u8,
        len: Len,
    },
    /// By an old value that is right, or not.
    Exchange {
        who: u8,
        key: u8,
        right: bool,
        len: Option<Len>,
    },
    Remove {
        who: u8,
        key: u8,
    },
    Pop {
        who: u8,
        key: u8,
    },
    PopItem {
        who: u8,
    },
    Clear {
        who: u8,
    },
    Items {
        who: u8,
    },
    /// A value stays in place until it is let go.
    Hold {
        key: u8,
    },
    LetGo,
    Attach {
        who: u8,
    },
    Die {
        who: u8,
    },
    /// Dies with the lock, and with anything in the words that can be found out anew.
    DieInChange {
        who: u8,
        words: [(u8, u64); 4],
    },
    Recover {
        who: u8,
    },
}

#[derive(Arbitrary, Debug, Clone, Copy)]
enum Len {
    Few(u8),
    Some(u16),
    Many(u16),
}

#[derive(Arbitrary, Debug, Clone, Copy)]
enum Damage {
    Shard(u8),
    Heap(u8),
    /// The blocks beside the shard.
    First(u8),
    /// A word of another page, low ones more often.
    Page(u8, u16),
    /// One bit of it.
    Bit(u8, u16),
    /// Another word's value, which may be a place.
    Copy(u16, u16),
    Lock(bool),
}

struct Process {
    arena: Arena,
    dict: ByteDict,
}

type Entry = (Vec<u8>, Vec<u8>);

struct Test {
    segment: Segment,
    /// Never dies, so that there is always somebody to recover the others.
    keeper: ByteDict,
    processes: Vec<Option<Process>>,
    /// What should be there, oldest first.
    model: Vec<Entry>,
    round: u8,
}

fn key(k: u16) -> Vec<u8> {
    // Of several lengths.
    let mut key = k.to_le_bytes().to_vec();
    key.resize(2 + usize::from(k % 11), 7);
    key
}

fn write(segment: &Segment, at: u64, bytes: &[u8]) {
    rustix::io::pwrite(segment.as_fd(), bytes, at).expect("within the file");
}

fn read(segment: &Segment, at: u64) -> u64 {
    let mut word = [0; 8];
    rustix::io::pread(segment.as_fd(), &mut word, at).expect("within the file");
    u64::from_le_bytes(word)
}

/// Where the dictionary's object is: it is the only one.
fn place(segment: &Segment) -> u64 {
    let entry = read(segment, 88);
    read(segment, 96) + PAGE * (read(segment, entry + 12) & 0xffff_ffff)
}

impl Test {
    fn new() -> Self {
        let segment = Segment::builder().size(SIZE).processes(8).lanes(24).anonymous().expect("a segment");
        let keeper = ByteDict::with_shards(&segment, 1).expect("room").with_patience(Duration::from_millis(50));
        Self { segment, keeper, processes: (0..PROCESSES).map(|_| None).collect(), model: Vec::new(), round: 0 }
    }

    fn who(&self, who: u8) -> &ByteDict {
        let k = usize::from(who) % (PROCESSES + 1);
        self.processes.get(k).and_then(Option::as_ref).map_or(&self.keeper, |process| &process.dict)
    }

    fn value(&mut self, len: Len) -> Vec<u8> {
        self.round = self.round.wrapping_add(1);
        let len = match len {
            Len::Few(len) => usize::from(len),
            Len::Some(len) => usize::from(len) % 3000,
            Len::Many(len) => usize::from(len) % 40_000,
        };
        (0..len).map(|k| (k as u8).wrapping_mul(7).wrapping_add(self.round)).collect()
    }

    fn find(&self, key: &[u8]) -> Option<usize> {
        self.model.iter().position(|(k, _)| k == key)
    }

    fn set(&mut self, who: u8, key: Vec<u8>, value: Vec<u8>) {
        match self.who(who).set(&key, &value) {
            Ok(()) => match self.find(&key) {
                Some(at) => self.model[at].1 = value,
                None => self.model.push((key, value)),
            },
            // Then nothing has changed, as the next look tells.
            Err(e) => assert_eq!(e.kind(), ErrorKind::OutOfSpace, "{e}"),
        }
    }

    fn is_free(&self, who: u8) -> Option<usize> {
        let k = usize::from(who) % PROCESSES;
        self.processes[k].is_none().then_some(k)
    }

    fn die(&mut self, k: usize) {
        if let Some(Process { arena, dict }) = self.processes[k].take() {
            arena.die();
            // As in a forked child: it leaves everything alone.
            drop(dict);
        }
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Set { who, key: k, len } => {
                let value = self.value(len);
                self.set(who, key(k.into()), value);
            }
            Step::SetMany { who, from, keys } => {
                for k in 0..u16::from(keys) {
                    let value = self.value(Len::Few(from as u8 % 20));
                    self.set(who, key(from.wrapping_add(k) % 2048), value);
                }
            }
            Step::TryInsert { who, key: k, len } => {
                let (key, value) = (key(k.into()), self.value(len));
                match self.who(who).try_insert(&key, &value) {
                    Ok(done) => {
                        assert_eq!(done, self.find(&key).is_none());
                        if done {
                            self.model.push((key, value));
                        }
                    }
                    Err(e) => assert_eq!(e.kind(), ErrorKind::OutOfSpace, "{e}"),
                }
            }
            Step::Exchange { who, key: k, right, len } => {
                let (key, new) = (key(k.into()), len.map(|len| self.value(len)));
                let found = self.find(&key);
                let mut old = found.map(|at| self.model[at].1.clone());
                if !right {
                    old = Some([old.unwrap_or_default(), vec![1]].concat());
                }
                match self.who(who).compare_exchange(&key, old.as_deref(), new.as_deref()) {
                    Ok(done) => {
                        assert_eq!(done, right);
                        match (found, new) {
                            (Some(at), Some(new)) if done => self.model[at].1 = new,
                            (Some(at), None) if done => drop(self.model.remove(at)),
                            (None, Some(new)) if done => self.model.push((key, new)),
                            _ => {}
                        }
                    }
                    Err(e) => assert_eq!(e.kind(), ErrorKind::OutOfSpace, "{e}"),
                }
            }
            Step::Remove { who, key: k } => {
                let found = self.find(&key(k.into())).map(|at| self.model.remove(at));
                assert_eq!(self.who(who).remove(&key(k.into())).unwrap(), found.is_some());
            }
            Step::Pop { who, key: k } => {
                let found = self.find(&key(k.into())).map(|at| self.model.remove(at).1);
                assert!(self.who(who).pop(&key(k.into())).unwrap() == found);
            }
            Step::PopItem { who } => {
                let last = self.model.pop();
                assert!(self.who(who).popitem().unwrap() == last);
            }
            Step::Clear { who } => {
                self.who(who).clear().unwrap();
                self.model.clear();
            }
            Step::Items { who } => {
                assert!(self.who(who).items().unwrap() == self.model);
                assert!(self.who(who).snapshot().unwrap() == self.model);
            }
            Step::Hold { .. } | Step::LetGo => {}
            Step::Attach { who } => {
                if let Some(k) = self.is_free(who) {
                    let file = self.segment.as_fd().try_clone_to_owned().expect("descriptors enough");
                    let segment = Segment::from_fd(file).expect("rows enough, also if dead ones have to be recovered");
                    let dict = ByteDict::open(&segment, self.keeper.id()).expect("a whole one");
                    self.processes[k] = Some(Process { arena: Arena::of(&segment), dict });
                }
            }
            Step::Die { who } => self.die(usize::from(who) % PROCESSES),
            Step::DieInChange { who, words } => {
                let k = usize::from(who) % PROCESSES;
                let Some(process) = &self.processes[k] else { return };
                let lane = process.arena.lane().expect("lanes enough");
                let at = place(&self.segment);
                if read(&self.segment, at + SHARD_AT) & 0x3ff != 0 {
                    // Somebody else has died with the lock.
                    return self.die(k);
                }
                for (which, value) in words {
                    let which = u64::from(which) % (COUNTS.len() as u64 + HEAP_WORDS);
                    match COUNTS.get(which as usize) {
                        Some(count) => write(&self.segment, at + SHARD_AT + count, &value.to_le_bytes()),
                        None => {
                            let word = which - COUNTS.len() as u64;
                            if ![RUNS, LEAVING].contains(&word) {
                                write(&self.segment, at + HEAP_AT + 8 * word, &value.to_le_bytes());
                            }
                        }
                    }
                }
                // Who changes anything makes this number odd first: by that, those who do not lock know.
                let changes = at + SHARD_AT + COUNTS[0];
                write(&self.segment, changes, &(read(&self.segment, changes) | 1).to_le_bytes());
                write(&self.segment, at + SHARD_AT, &u32::from(lane).to_le_bytes());
                self.die(k);
            }
            Step::Recover { who } => drop(self.who(who).get(b"").map(|_| self.segment.sweep())),
        }
    }

    /// Everything is as it should be.
    fn look(&self, all: bool) {
        assert!(self.keeper.items().unwrap() == self.model, "other entries, or in another order");
        assert_eq!(self.keeper.len(), self.model.len());
        for (key, value) in self.model.iter().take(if all { usize::MAX } else { 20 }) {
            assert!(self.keeper.get(key).unwrap().as_ref() == Some(value));
        }
        if all {
            self.keeper.check().unwrap();
        }
    }

    /// Does steps until a value is let go of that is held meanwhile.
    fn run(&mut self, steps: &mut std::slice::Iter<'_, Step>, depth: usize) {
        while let Some(step) = steps.next() {
            match step {
                Step::Hold { key: k } => {
                    let dict = self.keeper.clone();
                    let found = self.find(&key((*k).into())).map(|at| self.model[at].1.clone());
                    match dict.get_ref(&key((*k).into())) {
                        Ok(None) => assert!(found.is_none()),
                        Ok(Some(held)) => {
                            assert!(Some(held.to_vec()) == found);
                            self.run(steps, depth + 1);
                            assert!(Some(held.to_vec()) == found, "changed in place");
                        }
                        Err(e) => assert!(depth >= 6 && e.kind() == ErrorKind::TooManyRefs, "{e}"),
                    }
                }
                Step::LetGo if depth > 0 => return,
                step => {
                    self.step(*step);
                    self.look(matches!(step, Step::DieInChange { .. } | Step::Clear { .. }));
                }
            }
        }
    }

    fn damage(&self, damage: Damage, value: u64) {
        let (segment, at) = (&self.segment, place(&self.segment));
        let pages = read(segment, 96);
        let page = |page: u8, word: u16| pages + PAGE * u64::from(page % 64) + 8 * (u64::from(word) % (PAGE / 8));
        // Never the lock: what a living lane has is waited for.
        let write = |at_word: u64, word: u64| {
            if at_word != at + SHARD_AT {
                write(segment, at_word, &word.to_le_bytes());
            }
        };
        match damage {
            Damage::Shard(word) => write(at + SHARD_AT + 8 * u64::from(word % 16), value),
            Damage::Heap(word) => write(at + HEAP_AT + 8 * (u64::from(word) % HEAP_WORDS), value),
            Damage::First(word) => write(at + HEAP_AT + 8 * (HEAP_WORDS + u64::from(word) % 144), value),
            Damage::Page(p, word) => write(page(p, word), value),
            Damage::Bit(p, word) => write(page(p, word), read(segment, page(p, word)) ^ 1 << (value % 64)),
            Damage::Copy(from, to) => {
                write(at + 128 + 8 * (u64::from(to) % 246), read(segment, at + 128 + 8 * (u64::from(from) % 246)))
            }
            // Free, or nobody's.
            Damage::Lock(died) => {
                rustix::io::pwrite(
                    segment.as_fd(),
                    &(if died { 1 << 10 } else { NOBODYS }).to_le_bytes(),
                    at + SHARD_AT,
                )
                .expect("within the file");
            }
        }
    }

    /// An operation on spoilt words: the answer may be wrong.
    fn spoilt(&mut self, step: Step) {
        let dict = self.keeper.clone();
        match step {
            Step::Set { key: k, len, .. } => _ = dict.set(&key(k.into()), &self.value(len)),
            Step::SetMany { from, keys, .. } => {
                (0..u16::from(keys % 32)).for_each(|k| _ = dict.set(&key(from.wrapping_add(k)), b"value"));
            }
            Step::TryInsert { key: k, len, .. } => _ = dict.try_insert(&key(k.into()), &self.value(len)),
            Step::Exchange { key: k, len, .. } => {
                let new = len.map(|len| self.value(len));
                _ = dict.compare_exchange(&key(k.into()), Some(b"x"), new.as_deref());
                _ = dict.update(&key(k.into()), |old| old.map(|old| old[..old.len().min(9)].to_vec()));
            }
            Step::Remove { key: k, .. } => _ = dict.remove(&key(k.into())),
            Step::Pop { key: k, .. } => _ = dict.pop(&key(k.into())),
            Step::PopItem { .. } => _ = dict.popitem(),
            Step::Clear { .. } => _ = dict.clear(),
            Step::Items { .. } => {
                _ = (dict.items().map(|all| all.len()), dict.snapshot().map(|all| all.len()), dict.keys())
            }
            Step::Hold { key: k } => _ = dict.get_ref(&key(k.into())).map(|held| held.map(|held| held.to_vec())),
            Step::LetGo => _ = dict.check(),
            Step::Attach { .. } => _ = ByteDict::open(&self.segment, dict.id()),
            Step::Die { who } | Step::DieInChange { who, .. } => self.die(usize::from(who) % PROCESSES),
            Step::Recover { .. } => _ = (self.segment.sweep(), self.segment.inspect().to_string()),
        }
        for k in [0, 1, 5] {
            _ = dict.get(&key(k));
        }
    }
}

fuzz_target!(|plan: Plan| {
    let mut test = Test::new();
    let mut steps = plan.steps.iter();
    test.run(&mut steps, 0);
    if plan.damage.is_empty() {
        (0..PROCESSES).for_each(|k| test.die(k));
        test.segment.sweep();
        test.look(true);
        test.keeper.clear().unwrap();
        assert_eq!(test.keeper.check().unwrap(), (0, 0), "bytes and runs of nothing");
        return;
    }
    for (damage, value, step) in &plan.damage {
        test.damage(*damage, *value);
        test.spoilt(*step);
    }
});
