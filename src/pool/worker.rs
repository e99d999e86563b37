//! The worker's side: take a task, run it, send what became of it.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Instant;

use serde::{Deserialize, Serialize};

use super::board::Board;
use super::function::{DESK, write_panic};
use super::message::{AnswerHead, HEAD, TaskHead, Word};
use crate::channel::{Parts, Queue, RawRefused};
use crate::error::Error;
use crate::process::last_panic;
use crate::segment::Passed;
use crate::shared::RawArray;
use crate::sys::clock::{Deadline, now_ns};
use crate::sys::image::{Image, Record};
use crate::sys::signals;

/// What a worker is given.
#[derive(Serialize, Deserialize)]
pub(super) struct Outfit {
    pub tasks: Queue<Vec<u8>>,
    pub results: Queue<Vec<u8>>,
    pub board: RawArray<u64>,
    /// How many workers the board has rows for.
    pub rows: usize,
    pub row: usize,
    pub serial: u64,
    /// The build of the program that functions' places are of.
    pub mark: u64,
    /// After so many tasks it ends; 0 for never.
    pub max_tasks: u64,
}

/// Runs a worker whose pool has no initializer.
pub(super) fn run(outfit: Outfit) {
    Worker::new(outfit).work();
}

/// Runs a worker that first calls `initialize`.
pub(super) fn run_after(outfit: Outfit, initialize: impl FnOnce()) {
    let worker = Worker::new(outfit);
    match catch_unwind(AssertUnwindSafe(initialize)) {
        Ok(()) => worker.work(),
        Err(payload) => {
            let panic = last_panic(&*payload);
            let reason = format!("the initializer panicked at {}: {}", panic.location, panic.message);
            worker.give_up(&reason);
        }
    }
}

struct Worker {
    outfit: Outfit,
    board: Board,
    /// The function of the last task.
    last: Option<(u64, &'static Record)>,
}

impl Worker {
    fn new(outfit: Outfit) -> Self {
        // Ctrl-C is the parent's to deal with: it ends the workers, if it ends.
        signals::ignore_interrupts();
        let board = Board::open(outfit.board.clone(), outfit.rows);
        DESK.with(|desk| desk.results.set(Some(outfit.results.clone())));
        Self { outfit, board, last: None }
    }

    fn say(&self, word: Word, rest: &[u8]) {
        let bytes = AnswerHead::of_worker(word, self.outfit.serial).with(rest);
        if let Err(RawRefused::Failed(error)) =
            self.outfit.results.put_encoded(&bytes, &mut Passed::default(), Deadline::NEVER, || false)
        {
            self.speechless(&error);
        }
    }

    /// Tells the pool that neither this worker nor another in its place can go on.
    fn give_up(&self, reason: &str) {
        self.say(Word::Hopeless, reason.as_bytes());
    }

    /// Nothing can be sent any more: the owner is told by the way in which this process ends.
    fn speechless(&self, error: &Error) -> ! {
        eprintln!("kinfolk: the worker cannot send results: {error}");
        std::process::exit(1)
    }

    fn work(mut self) {
        if Image::of_program().mark() != self.outfit.mark {
            return self.give_up("the worker runs another build of the program");
        }
        self.say(Word::Ready, &[]);
        let (mut buffer, mut large, mut done) = (Vec::new(), Vec::new(), 0);
        let tasks = self.outfit.tasks.clone();
        let board = self.board.clone();
        let rest = Rest::default();
        loop {
            // A pool that ends has no task left, or wants none to be done.
            let mut begun = None;
            // Begun before the queue forgets it: at every moment either the queue or the board has the task.
            let begin = |message: &[u8]| {
                rest.end(&board, self.outfit.row);
                begun = TaskHead::read(message).filter(|head| board.begin(head.ticket, self.outfit.serial));
            };
            let stop = || {
                rest.goes_on(&board, self.outfit.row);
                board.is_stopping()
            };
            let parts = Parts { head: &mut buffer, rest: &mut large, at: HEAD };
            let came = match tasks.claim_encoded(parts, Deadline::NEVER, stop, begin) {
                Ok(came) => came,
                Err(RawRefused::Timeout) => continue,
                Err(RawRefused::Stopped) => return,
                Err(RawRefused::Failed(error)) => return self.give_up(&format!("tasks cannot be read: {error}")),
            };
            let Some(head) = begun else { continue };
            DESK.with(|desk| {
                desk.came.set(Some(came));
                desk.large.set(std::mem::take(&mut large));
            });
            if !self.run_one(head, &mut buffer) {
                return;
            }
            large = DESK.with(|desk| desk.large.take());
            done += 1;
            if done == self.outfit.max_tasks {
                return;
            }
        }
    }

    /// Runs the task in the buffer and sends what became of it; whether there is anything more to do for this worker.
    fn run_one(&mut self, head: TaskHead, buffer: &mut Vec<u8>) -> bool {
        let timed = self.board.is_timed();
        if timed {
            self.board.note(self.outfit.row, head.ticket.slot, now_ns());
        }
        let begin = head.measured.then(Instant::now);
        let ran = self.find(head.function).and_then(|record| {
            // The function's own panics do not come here, but those of its argument's and result's types do.
            let ran = catch_unwind(AssertUnwindSafe(|| record.entry()(buffer, 0)));
            ran.unwrap_or_else(|payload| {
                write_panic(buffer, &*payload);
                Ok(())
            })
        });
        let nanos = begin.map_or(0, |begin| begin.elapsed().as_nanos() as u64);
        let (word, mut passed, large) = DESK.with(|desk| {
            drop(desk.came.take());
            (desk.word.take(), desk.passed.take(), desk.large_result.take())
        });
        let word = match ran {
            Ok(()) => {
                let word = word.unwrap_or(Word::Unsendable);
                // Those of a result that was encoded before its drop panicked.
                if word != Word::Returned {
                    passed = Passed::default();
                }
                word
            }
            Err(error) => {
                passed = Passed::default();
                write_text(buffer, &error);
                Word::Unsendable
            }
        };
        if timed {
            if !self.board.finish(head.ticket, self.outfit.serial) {
                // It took too long: this process is going to be killed.
                return false;
            }
            self.board.clear(self.outfit.row);
        }
        let mut answer = AnswerHead { word, ticket: head.ticket, nanos };
        answer.write(buffer);
        let results = &self.outfit.results;
        let sent = results.put_parts([buffer, &large], &mut passed, Deadline::NEVER, || false);
        if let Err(RawRefused::Failed(error)) = sent {
            // Too large, or no room for it: this much finds room.
            passed = Passed::default();
            write_text(buffer, &error);
            answer.word = Word::Unsendable;
            answer.write(buffer);
            if let Err(RawRefused::Failed(error)) = results.put_encoded(buffer, &mut passed, Deadline::NEVER, || false)
            {
                self.speechless(&error);
            }
        }
        true
    }

    fn find(&mut self, function: u64) -> Result<&'static Record, Error> {
        match self.last {
            Some((last, record)) if last == function => Ok(record),
            _ => {
                let record = Image::of_program().record_of_same(function)?;
                self.last = Some((function, record));
                Ok(record)
            }
        }
    }
}

/// How long a worker has had nothing to do. It is noted on the board when it is long, so that somebody who runs a task can be told
/// from somebody whose result was lost.
#[derive(Default)]
struct Rest {
    looks: Cell<u32>,
    since: Cell<u64>,
    /// How often that was noted.
    noted: Cell<u32>,
}

impl Rest {
    /// Between looks at the clock; behind the spin, there is a look every 64 ms at least, and so a note in every period of the
    /// owner's audit.
    const LOOKS: u32 = 4;
    const LONG_NS: u64 = 100_000_000;

    fn goes_on(&self, board: &Board, row: usize) {
        self.looks.set(self.looks.get().wrapping_add(1));
        if self.looks.get() % Self::LOOKS != 0 {
            return;
        }
        let now = now_ns();
        match self.since.get() {
            0 => self.since.set(now),
            since if now.saturating_sub(since) > Self::LONG_NS => {
                let times = self.noted.get().wrapping_add(1).max(1);
                board.rest(row, times);
                self.noted.set(times);
            }
            _ => {}
        }
    }

    #[inline]
    fn end(&self, board: &Board, row: usize) {
        self.since.set(0);
        if self.noted.take() != 0 {
            board.clear(row);
        }
    }
}

fn write_text(buffer: &mut Vec<u8>, error: &Error) {
    buffer.resize(HEAD, 0);
    buffer.truncate(HEAD);
    buffer.extend_from_slice(&postcard::to_stdvec(&error.to_string()).unwrap_or_default());
}
